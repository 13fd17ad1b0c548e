"""Writes the pages of docs/reference from the code: `make docs`; `--check` says what is stale."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from intaglio.core import config as config_
from intaglio.core import registry
from intaglio.core.config import SourceConfig, StepConfig
from intaglio.core.errors import MissingExtra

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "reference"
NOTICE = "<!-- Written by tools/reference.py from the code: change the code, then `make docs`. -->\n"
KEYS = re.compile(r"(?<![\w`.])([a-z_]+(?:, [a-z_]+)*): ")
LIMITS = (
    (annotated_types.Ge, "ge", "at least"),
    (annotated_types.Gt, "gt", "more than"),
    (annotated_types.Le, "le", "at most"),
    (annotated_types.Lt, "lt", "less than"),
)
STAGE_TEXT = {
    "data": "Collect, clean, deduplicate, license, split. A source reads from outside; a transform works on items and "
    "stands in a source's `transforms`, or is a step of its own with `items = ...`.",
    "models": "Train generative models on the role `data`. `size` is the one dial.",
    "knowledge": "Extract what generation can use from the role `items`.",
    "generate": "Make candidates.",
    "optimize": "Judge candidates and choose.",
    "publish": "Make finished files; labels and signatures are put on every one of them afterwards.",
}


def commands() -> str:
    """The page of commands: what `--help` says."""
    from intaglio.cli import _app
    from intaglio.cli.main import intaglio as group

    parts = [
        "# Commands\n",
        NOTICE,
        "Every command takes the options under *Common options*, before or after its name. The result goes to standard "
        "output; progress, warnings and errors go to standard error. With `--json` the last line of standard output is "
        'one JSON object; an error is `{"error": {...}}` with `kind`, `what`, `where` and `fix`.\n',
        "| exit code | means |\n|---|---|\n| 0 | done |\n| 1 | a step failed, a check said no, or we have a bug |\n"
        "| 2 | the person's mistake; nothing was made |\n| 130 | interrupted; everything finished so far is kept |\n",
        "## Common options\n",
        _options(_app.common_options()),
    ]
    for _, names in _app.SECTIONS:
        for name in names:
            command = getattr(importlib.import_module(f"intaglio.cli.{name}"), f"{name}_command")
            parts += [f"## {name}\n", *_command(command)]
    assert group.name
    return "\n".join(parts)


def _command(command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"intaglio {command.name}", help_option_names=["-h", "--help"])
    yield f"```\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    for paragraph in (command.help or "").split("\n\n"):
        yield " ".join(paragraph.split()) + "\n"
    own = [param for param in command.params if isinstance(param, click.Option) and param.expose_value]
    if own:
        yield _options(own)


def _options(options: list[Any]) -> str:
    context = click.Context(click.Command("x"))
    rows = [option.get_help_record(context) for option in options]
    return "\n".join(f"- `{names}`: {text}" for names, text in filter(None, rows)) + "\n"


def components() -> str:
    """The page of components: what each is, and its keys."""
    parts = [
        "# Components\n",
        NOTICE,
        'What `use = "..."` may name, by stage. `intaglio list` shows the same, with plug-ins.\n',
    ]
    for stage in registry.STAGES:
        parts += [f"## {stage}\n", f"{STAGE_TEXT[stage]}\n"]
        for name in registry.names(stage):
            if registry.source_path(stage, name).is_relative_to(ROOT / "src"):
                parts += _component(stage, name)
    return "\n".join(parts)


def _component(stage: str, name: str) -> Iterator[str]:
    yield f"### {stage}/{name}\n"
    doc = ast.get_docstring(ast.parse(registry.source_path(stage, name).read_text("utf-8"))) or ""
    yield _prose(doc) + "\n"
    try:
        model: type[BaseModel] = registry.load(stage, name).Config
    except MissingExtra as error:
        raise SystemExit(f"error: {error}") from None
    common: type[BaseModel] = SourceConfig if issubclass(model, SourceConfig) else StepConfig
    own = {key: field for key, field in model.model_fields.items() if not _inherited(common, key, field)}
    intro, words = _explained(model)
    if intro:
        yield intro + "\n"
    if own:
        yield _keys(model, own, words)
    if common is SourceConfig:
        yield "Also the keys of every source: see [the project file](project-file.md#keys-of-every-source).\n"


def _inherited(common: type[BaseModel], key: str, field: FieldInfo) -> bool:
    return key in common.model_fields and common.model_fields[key].default == field.default


def _own_doc(each: type) -> str:
    if not each.__module__.startswith("intaglio.") or each is StepConfig:
        return ""
    return inspect.cleandoc(each.__dict__.get("__doc__") or "")


def _explained(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """The docstrings of a config class and its bases of ours, taken apart: its introduction, and words on each key."""
    intro, words = "", {}
    for each in reversed(model.__mro__):
        doc = " ".join(_own_doc(each).replace("``", "`").split())
        found = [match for match in KEYS.finditer(doc) if _names(match[1], model)]
        if each is model:
            intro = doc[: found[0].start()].strip() if found else doc
        ends = [match.start() for match in found[1:]] + [len(doc)]
        for match, after in zip(found, ends, strict=False):
            for name in _names(match[1], model):
                words[name] = doc[match.end() : after].strip().rstrip(";").strip()
    return intro, words


def _names(text: str, model: type[BaseModel]) -> list[str]:
    """The keys of ``a, b:``; empty where one of them is no key."""
    names = [name.strip() for name in text.split(",")]
    return names if all(name in model.model_fields for name in names) else []


def _prose(text: str) -> str:
    """A docstring as Markdown; lines of ``Word: text`` become a list, with their continuation."""
    lines = text.replace("``", "`").splitlines()
    out: list[str] = []
    for number, line in enumerate(lines):
        if number and re.match(r"[A-Za-z_][\w, ]{0,40}: +\S", line):
            out.append("- " + " ".join(line.split()))
        elif out and out[-1].startswith(("- ", "  ")) and line.startswith(" "):
            out.append("  " + line.strip())
        else:
            out.append(line.strip())
    return "\n".join(out)


def _keys(model: type[BaseModel], fields: dict[str, FieldInfo], words: dict[str, str]) -> str:
    roles, paths = config_.roles(model), config_.input_paths(model)
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for key, field in fields.items():
        if key in roles:
            of = ", ".join(f"`{use}`" for use in roles[key].uses) or ", ".join(roles[key].stages)
            kind = f"steps of {of}" + ("" if roles[key].many else " (one)")
        elif key in paths:
            kind = {True: "folder", False: "file", None: "file or folder"}[paths[key].folder] + " in the project"
        else:
            kind = _type(field.annotation) + _limits(field)
        default = "required" if field.is_required() else f"`{_default(field.get_default(call_default_factory=True))}`"
        meaning = (field.description or words.get(key, "")).replace("|", "\\|")
        rows.append(f"| `{key}` | {kind} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    """A default as it would stand in the project file."""
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its own defaults"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_default, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_type(each) for each in get_args(annotation) if each is not type(None))
    if origin in (tuple, list):
        inner = [each for each in get_args(annotation) if each is not Ellipsis]
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return "table"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(field: FieldInfo) -> str:
    """``, at least 0, at most 1``; limits of the machine (2**63) are left out."""
    found = []
    for each in field.metadata:
        for kind, name, words in LIMITS:
            value = getattr(each, name) if isinstance(each, kind) else None
            if isinstance(value, int | float) and abs(value) < 2**53:
                found.append(f"{words} {value:g}")
    return f", {', '.join(found)}" if found else ""


def project_file() -> str:
    """The page of the project file: sections, roles, keys that every step has."""
    from intaglio.project.file import ProjectSettings

    head = (Path(__file__).parent / "project_file.md").read_text("utf-8")
    sources = {k: v for k, v in SourceConfig.model_fields.items() if k not in StepConfig.model_fields}
    parts = [
        head.replace("<!-- notice -->\n", NOTICE),
        "## Keys of [project]\n",
        _keys(ProjectSettings, dict(ProjectSettings.model_fields), _explained(ProjectSettings)[1]),
        "## Keys of every step\n",
        "`use` names the component; the keys of each stand under [components](components.md).\n",
        _keys(
            StepConfig,
            dict(StepConfig.model_fields),
            {"seed": "left out: derived from the project's seed and the step's name"},
        ),
        "## Keys of every source\n",
        _keys(SourceConfig, sources, _explained(SourceConfig)[1]),
    ]
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """File name to text of every generated page."""
    made = {"commands.md": commands(), "components.md": components(), "project-file.md": project_file()}
    return {name: re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n" for name, text in made.items()}


def main() -> int:
    """Write the pages, or with ``--check`` only compare them; 1 if something is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    check = parser.parse_args().check
    stale = []
    for name, text in pages().items():
        path = FOLDER / name
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    if stale:
        print(f"{'stale' if check else 'written'}: {', '.join(stale)}" + ("; run `make docs`" if check else ""))
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
