"""From a section to a checked step: config, roles, paths and code hash, cached so that a plan imports no torch."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from intaglio.core import config as config_
from intaglio.core import registry
from intaglio.core.config import Role, StepConfig
from intaglio.core.errors import UserError
from intaglio.core.folders import cache_folder
from intaglio.core.hashing import digest
from intaglio.core.i18n import t
from intaglio.project.code import CodeHashes
from intaglio.project.file import LAST, ProjectFile, StepSpec, secrets_missing

ENTRY = 2  # of the cache: raised when an entry holds something else
FINISHING = ("intaglio.trust.finish",)  # what the runner itself applies to every published file


@dataclass(frozen=True)
class Resolved:
    """A step checked against its component: ``config`` is whole, secrets still as ``${env.NAME}``."""

    spec: StepSpec
    config: dict[str, Any]
    roles: dict[str, Role]
    paths: dict[str, bool | None]
    code: str
    transform: bool
    optional_roles: tuple[str, ...]
    makes: str  # the medium, of a model

    @property
    def name(self) -> str:
        """The step's name."""
        return self.spec.name

    @property
    def stage(self) -> str:
        """The step's stage."""
        return self.spec.stage

    def named(self) -> list[tuple[str, str]]:
        """(role, step name) for each input, ``@last`` kept, in the order written."""
        return [(role, name) for role in self.roles for name in self.config.get(role) or ()]


class Resolver:
    """Checks all steps of a project file; the cache (``.intaglio/cache``) is keyed by code and values."""

    def __init__(self, cache: Path) -> None:
        self._codes = CodeHashes(cache_folder("code") / "files.json")
        self._path = cache / "resolved.json"
        self._changed = False
        self._fresh: dict[str, Any] = {}
        try:
            self._known: dict[str, Any] = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def project(self, file: ProjectFile) -> list[Resolved]:
        """Every step checked: keys, roles, names of steps above, paths, secrets. UserError on the first mistake."""
        done: list[Resolved] = []
        for spec in file.steps:
            resolved = self._step(spec)
            _check_inputs(resolved, done, file)
            _check_paths(resolved, file.folder)
            _check_rights(resolved)
            missing = secrets_missing(resolved.config)
            if missing:
                raise UserError(
                    t("the environment variable {name} is not set", name=missing[0]),
                    where=spec.where,
                    fix=f"export {missing[0]}=...",
                )
            done.append(resolved)
        self._save()
        return done

    def _step(self, spec: StepSpec) -> Resolved:
        also = tuple(FINISHING) if spec.stage == "publish" else ()
        if spec.stage == "data":
            chain = spec.values.get("transforms", config_.SourceConfig.model_fields["transforms"].default)
            if isinstance(chain, list | tuple):
                also = tuple(f"intaglio.data.{name}" for name in chain if name in registry.names("data"))
        code = self._codes.component(spec.stage, spec.use, also=also)
        key = digest([ENTRY, spec.stage, spec.use, code, _plain(spec.values)])
        entry = self._known.get(key)
        if entry is None:
            entry = _import_and_check(spec)
            self._changed = True
        self._fresh[key] = entry
        return Resolved(
            spec,
            entry["config"],
            {name: _role(**values) for name, values in entry["roles"].items()},
            entry["paths"],
            code,
            entry["transform"],
            tuple(entry["optional"]),
            entry["makes"],
        )

    def _save(self) -> None:
        self._codes.save()
        if self._changed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temp = self._path.with_suffix(f".{os.getpid()}")
            temp.write_text(json.dumps(self._fresh, ensure_ascii=False), "utf-8")
            temp.replace(self._path)
            self._changed = False


def _role(*, stages: list[str], media: list[str], many: bool, uses: list[str]) -> Role:
    return Role(tuple(stages), tuple(media), many, tuple(uses))


def _plain(values: Any) -> Any:
    return json.loads(json.dumps(values, default=str))


def _import_and_check(spec: StepSpec) -> dict[str, Any]:
    module = registry.load(spec.stage, spec.use, where=spec.where)
    model: type[StepConfig] = module.Config
    parsed = config_.parse(model, spec.values, where=spec.where)
    values = parsed.model_dump(mode="json")
    found = config_.roles(model)
    return {
        "config": values,
        "roles": {name: asdict(role) for name, role in found.items()},
        "paths": {name: marker.folder for name, marker in config_.input_paths(model).items()},
        "transform": hasattr(module.Component, "apply"),
        "makes": str(getattr(module.Component, "makes", "")) if spec.stage == "models" else "",
        "optional": [name for name in found if not model.model_fields[name].is_required()],
    }


def _check_inputs(resolved: Resolved, above: list[Resolved], file: ProjectFile) -> None:
    earlier = {step.name: step for step in above}
    for role, name in resolved.named():
        target = name.removesuffix(LAST)
        rule = resolved.roles[role]
        spec = file.step(target) if any(s.name == target for s in file.steps) else None
        if spec is None:
            file_step_error(file, resolved, role, target)
        assert spec is not None
        if not name.endswith(LAST) and target not in earlier:
            raise UserError(
                t(
                    "key '{role}': '{name}' is not above this step; a step reads only from steps above it",
                    role=role,
                    name=target,
                ),
                where=resolved.spec.where,
                fix=t(
                    "move [{stage}.{name}] up, or write '{name}@last' for what the last round made",
                    stage=spec.stage,
                    name=target,
                ),
            )
        if spec.stage not in rule.stages:
            raise UserError(
                t(
                    "key '{role}': '{name}' is a step of stage {stage}; this role takes {stages}",
                    role=role,
                    name=target,
                    stage=spec.stage,
                    stages=", ".join(rule.stages),
                ),
                where=resolved.spec.where,
            )
        _check_kind(resolved, role, spec, earlier[target].makes if target in earlier else "")
    for role, rule in resolved.roles.items():
        if not rule.many and len(resolved.config.get(role) or ()) > 1:
            raise UserError(t("key '{role}' takes one step", role=role), where=resolved.spec.where)
    if resolved.transform and not any(resolved.config.get(role) for role in resolved.roles):
        raise UserError(
            t("key 'items' is missing: the data step this one works on"), where=resolved.spec.where, fix='items = "..."'
        )


def _check_kind(resolved: Resolved, role: str, named: StepSpec, makes: str) -> None:
    """A step of the right stage may still be of the wrong kind; said now, not after it was trained."""
    rule, texts = resolved.roles[role], {"role": role, "name": named.name}
    if rule.uses and named.use not in rule.uses:
        uses = ", ".join(f'use = "{use}"' for use in rule.uses)
        what = t(
            "key '{role}': '{name}' has use = \"{use}\"; this role takes {uses}", use=named.use, uses=uses, **texts
        )
    elif rule.media and makes and makes not in rule.media:
        media = ", ".join(rule.media)
        what = t("key '{role}': '{name}' makes {made}; this role takes {media}", made=makes, media=media, **texts)
    else:
        return
    raise UserError(what, where=resolved.spec.where, fix=t("name another step"))


def file_step_error(file: ProjectFile, resolved: Resolved, role: str, name: str) -> None:
    """Raise the error for a role that names no step."""
    try:
        file.step(name)
    except UserError as error:
        raise UserError(
            t("key '{role}': {problem}", role=role, problem=error.what), where=resolved.spec.where, fix=error.fix
        ) from None


def _check_paths(resolved: Resolved, folder: Path) -> None:
    for key, must_be_folder in resolved.paths.items():
        value = resolved.config.get(key)
        if not value:
            continue
        path = folder / value
        if not path.exists():
            raise UserError(
                t("key '{key}': {path} does not exist", key=key, path=value),
                where=resolved.spec.where,
                fix=t("make it, or correct the path (paths are relative to {file})", file="intaglio.toml"),
            )
        if must_be_folder is True and not path.is_dir():
            raise UserError(t("key '{key}': {path} is not a folder", key=key, path=value), where=resolved.spec.where)
        if must_be_folder is False and not path.is_file():
            raise UserError(t("key '{key}': {path} is not a file", key=key, path=value), where=resolved.spec.where)


def _check_rights(resolved: Resolved) -> None:
    """A source without a license is refused before any work; ``unknown`` has to be said."""
    if resolved.stage == "data" and not resolved.transform and "license" in resolved.config:
        rights = registry.import_or_explain("intaglio.data._rights", "licenses")
        rights.check_license(resolved.config["license"], resolved.spec.where)
