"""The project file ``intaglio.toml``: read strictly, with errors that name place, cause and cure."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from intaglio.core import config as config_
from intaglio.core import registry
from intaglio.core.config import Names
from intaglio.core.errors import UserError
from intaglio.core.i18n import t

FILE_NAME = "intaglio.toml"
STORE_FOLDER = ".intaglio"
PUBLIC_FOLDER = "public"
LAST = "@last"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
ENV = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")


class ProjectSettings(BaseModel):
    """The section ``[project]``.

    name:      of the project; the folder's name where left out.
    seed:      every step's seed follows from it.
    languages: of the pages made for readers, first one first.
    offline:   nothing leaves or enters the machine but for what a step names.
    author:    who publishes; shown on the site and in the signed manifest.
    ledger:    database URL; left out means SQLite inside the project folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    seed: int = Field(default=0, ge=0, lt=2**63)
    languages: Names = ("en", "zh")
    offline: bool = True
    author: str = ""
    title: str = ""
    ledger: str = ""


@dataclass(frozen=True)
class StepSpec:
    """One section ``[stage.name]`` as written: ``values`` without ``use``."""

    name: str
    stage: str
    use: str
    values: dict[str, Any]

    @property
    def where(self) -> str:
        """The place an error names."""
        return f"{FILE_NAME} [{self.stage}.{self.name}]"


@dataclass(frozen=True)
class ProjectFile:
    """The whole file: settings and steps in the order they are written."""

    folder: Path
    settings: ProjectSettings
    steps: tuple[StepSpec, ...] = field(default_factory=tuple)

    def step(self, name: str) -> StepSpec:
        """The step of this name; UserError with the nearest known name."""
        for spec in self.steps:
            if spec.name == name:
                return spec
        known = [spec.name for spec in self.steps]
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            t("no step '{name}'. Steps here: {steps}", name=name, steps=", ".join(known) or "-"),
            where=FILE_NAME,
            fix=t("did you mean '{name}'?", name=near[0]) if near else "",
        )


def find_project(start: Path) -> Path | None:
    """The nearest folder at or above ``start`` that holds a project file, or None."""
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return folder
    return None


def read_project(folder: Path) -> ProjectFile:
    """Read and check ``folder/intaglio.toml`` (shape, names, components; not yet each step's own keys).

    Errors: UserError naming the line or the section.
    """
    path = folder / FILE_NAME
    tables = _parse(path)
    settings = config_.parse(
        ProjectSettings, _table(tables.pop("project", {}), "project"), where=f"{FILE_NAME} [project]"
    )
    if not settings.name:
        settings = settings.model_copy(update={"name": folder.resolve().name})
    _check_languages(settings)
    steps: list[StepSpec] = []
    for stage, sections in tables.items():
        if stage not in registry.STAGES:
            near = difflib.get_close_matches(stage, registry.STAGES, n=1)
            raise UserError(
                t(
                    "unknown section [{stage}]. Sections: project, {stages}",
                    stage=stage,
                    stages=", ".join(registry.STAGES),
                ),
                where=FILE_NAME,
                fix=t("did you mean '{name}'?", name=near[0]) if near else "",
            )
        for name, values in _table(sections, stage).items():
            steps.append(_step(stage, name, values))
    ordered = _in_order(steps, path)
    _check_unique(ordered)
    return ProjectFile(folder, settings, tuple(ordered))


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(
            t("no project here: {path} does not exist", path=path.name),
            where=str(path.parent),
            fix=t("intaglio new FOLDER makes one; -C FOLDER names another"),
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(t("the file is not UTF-8 text ({error})", error=error), where=FILE_NAME) from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(t("not valid TOML: {error}", error=error), where=FILE_NAME) from None
    except OSError as error:
        raise UserError(t("cannot be read: {error}", error=error.strerror or error), where=FILE_NAME) from None


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(
            t("[{name}] must be a section, got {value}", name=name, value=repr(value)[:60]), where=FILE_NAME
        )
    return value


def _check_languages(settings: ProjectSettings) -> None:
    unknown = [lang for lang in settings.languages if lang not in ("en", "zh")]
    if unknown or not settings.languages:
        raise UserError(
            t("languages must be from en, zh; got {value}", value=list(settings.languages)),
            where=f"{FILE_NAME} [project]",
        )


def _step(stage: str, name: str, values: Any) -> StepSpec:
    where = f"{FILE_NAME} [{stage}.{name}]"
    if not NAME.fullmatch(name):
        raise UserError(t("a step's name is letters, digits, '-' and '_'; got '{name}'", name=name), where=where)
    if not isinstance(values, dict):
        raise UserError(t("must be a section, got {value}", value=repr(values)[:60]), where=where)
    values = dict(values)
    use = values.pop("use", None)
    if not isinstance(use, str):
        raise UserError(
            t("key 'use' is missing: the component. Components here: {names}", names=", ".join(registry.names(stage))),
            where=where,
            fix=f'use = "{registry.names(stage)[0]}"',
        )
    registry.check(stage, use, where=where)
    return StepSpec(name, stage, use, values)


def _in_order(steps: list[StepSpec], path: Path) -> list[StepSpec]:
    """The order of the sections in the file (tomllib groups them by stage, so it is read from the text)."""
    text = path.read_text("utf-8")
    at: dict[tuple[str, str], int] = {}
    for match in re.finditer(
        r"^\s*\[\s*\"?([^\]\".\s]+)\"?\s*\.\s*\"?([^\]\".\s]+)\"?\s*(?:\.[^\]]*)?\]", text, re.MULTILINE
    ):
        at.setdefault((match[1], match[2]), match.start())
    return sorted(steps, key=lambda s: at.get((s.stage, s.name), len(text)))


def _check_unique(steps: list[StepSpec]) -> None:
    seen: dict[str, StepSpec] = {}
    for spec in steps:
        if spec.name.lower() in seen:
            first = seen[spec.name.lower()]
            raise UserError(
                t(
                    "the name '{name}' is already used by [{stage}.{first}]",
                    name=spec.name,
                    stage=first.stage,
                    first=first.name,
                ),
                where=spec.where,
                fix=t("give each step its own name"),
            )
        seen[spec.name.lower()] = spec


def secrets_missing(values: Any) -> list[str]:
    """Names of ``${env.NAME}`` in ``values`` that are not set in the environment."""
    if isinstance(values, str):
        return [name for name in ENV.findall(values) if name not in os.environ]
    if isinstance(values, dict):
        return [name for value in values.values() for name in secrets_missing(value)]
    if isinstance(values, list | tuple):
        return [name for value in values for name in secrets_missing(value)]
    return []


def with_secrets(values: Any) -> Any:
    """``values`` with ``${env.NAME}`` replaced; only ever called where a component is built, never stored."""
    if isinstance(values, str):
        return ENV.sub(lambda match: os.environ.get(match[1], ""), values)
    if isinstance(values, dict):
        return {key: with_secrets(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [with_secrets(value) for value in values]
    return values
