"""Lists the texts for people in the code: `python -m tools.texts` prints those without a Chinese translation."""

from __future__ import annotations

import ast
import json
import string
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "intaglio"
# Words that reach t() through a variable: states of steps and marks, counts. The rest is read from the code.
WORDS = {
    "made", "changed", "new", "blocked", "kept", "failed", "valid", "missing", "invalid", "unknown", "items", "skipped",
    "duplicates", "refused", "findings", "pieces", "files", "facts", "yes", "no",
}  # fmt: skip


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every ``t("...")`` in a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "t" and node.args:
            for text in _strings(node.args[0]):
                yield node.lineno, text


def _strings(node: ast.expr) -> Iterator[str]:
    """The string itself, or both branches of ``a if c else b``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _strings(node.body)
        yield from _strings(node.orelse)


def command_texts() -> Iterator[str]:
    """What `--help` shows: summaries, paragraphs, options, titles."""
    import importlib

    import click

    from intaglio.cli import _app
    from intaglio.cli.main import intaglio as group

    commands: list[click.Command] = [group]
    for name in _app.command_names():
        yield _app.summary(name)
        commands.append(getattr(importlib.import_module(f"intaglio.cli.{name}"), f"{name}_command"))
    yield from (title for title, _ in _app.SECTIONS)
    yield "Show this text."
    for command in commands:
        for paragraph in (command.help or "").split("\n\n"):
            yield " ".join(paragraph.split())
        for param in command.params:
            if isinstance(param, click.Option) and param.help:
                yield param.help


def component_texts() -> Iterator[str]:
    """First docstring lines, as `intaglio list` shows them."""
    from intaglio.core import registry

    yield from (each.summary for each in registry.listing())


def texts() -> dict[str, str]:
    """Every text for people to the place it was found first."""
    found: dict[str, str] = {}
    for path in sorted(SRC.rglob("*.py")):
        for line, text in literals(path):
            found.setdefault(text, f"{path.relative_to(ROOT)}:{line}")
    for name, source in (
        ("cli help", command_texts()),
        ("components", component_texts()),
        ("words", iter(sorted(WORDS))),
    ):
        for text in source:
            found.setdefault(text, name)
    return {text: place for text, place in found.items() if text}


def placeholders(text: str) -> set[str]:
    """Names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def catalog(lang: str = "zh") -> dict[str, dict[str, str]]:
    """File name to translations."""
    folder = SRC / "locale" / lang
    return {path.name: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def missing() -> dict[str, str]:
    """Texts without a translation, to the place each stands."""
    known = {text for translations in catalog().values() for text in translations}
    return {text: place for text, place in texts().items() if text not in known}


if __name__ == "__main__":
    for text, place in missing().items():
        print(f"{place}\t{json.dumps(text, ensure_ascii=False)}")
    sys.exit(1 if missing() else 0)
