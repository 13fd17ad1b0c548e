"""The documentation keeps up with the code: generated pages are fresh, everything is named, links lead somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from intaglio.cli import _app
from intaglio.core import registry
from intaglio.project.file import ProjectSettings
from tools import reference

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
TOML = re.compile(r"```toml\n(.*?)```", re.DOTALL)


def test_reference_pages_are_fresh() -> None:
    stale = [name for name, text in reference.pages().items() if (DOCS / "reference" / name).read_text("utf-8") != text]
    assert not stale, "run `make docs` and commit the result"


@pytest.mark.parametrize("name", _app.command_names())
def test_every_command_is_in_the_reference(name: str) -> None:
    assert f"\n## {name}\n" in (DOCS / "reference" / "commands.md").read_text("utf-8"), (
        "name it in cli/_app.py SECTIONS"
    )


@pytest.mark.parametrize(("stage", "name"), [(each.stage, each.name) for each in registry.listing()])
def test_every_component_and_key_is_in_the_reference(stage: str, name: str) -> None:
    text = (DOCS / "reference" / "components.md").read_text("utf-8")
    common = (DOCS / "reference" / "project-file.md").read_text("utf-8")
    assert f"### {stage}/{name}\n" in text
    section = text.split(f"### {stage}/{name}\n")[1].split("\n### ")[0]
    for key in registry.load(stage, name).Config.model_fields:
        assert f"`{key}`" in section or f"| `{key}` |" in common, f"{key} of {stage}/{name} is not explained"


def test_every_project_key_is_in_the_reference() -> None:
    text = (DOCS / "reference" / "project-file.md").read_text("utf-8")
    assert all(f"| `{key}` |" in text for key in ProjectSettings.model_fields)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text("utf-8")):
        if "://" in target or target.startswith(("#", "mailto:")):
            continue
        assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_project_files_in_the_docs_are_real(page: Path) -> None:
    """Every TOML example parses, names components that exist, and uses keys that those have."""
    for text in TOML.findall(page.read_text("utf-8")):
        for stage, sections in tomllib.loads(text).items():
            if stage not in registry.STAGES:
                assert stage in ("project", "build-system"), f"unknown section [{stage}]"
                continue
            for name, values in sections.items():
                registry.check(stage, values["use"], where=f"{page.name} [{stage}.{name}]")
                known = registry.load(stage, values["use"]).Config.model_fields
                assert set(values) - {"use"} <= set(known), f"{page.name} [{stage}.{name}]"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_docs_exist(page: Path) -> None:
    """`intaglio <word>` in a code block or in backticks names a command."""
    text = page.read_text("utf-8")
    code = re.findall(r"```(?:sh|bash|console|)\n(.*?)```", text, re.DOTALL) + re.findall(r"`(intaglio [^`]*)`", text)
    for block in code:
        for words in re.findall(r"(?:^|\n|\$ )\s*intaglio ((?:-C \S+ |--project \S+ )?[a-z][a-z-]*)", block):
            assert words.split()[-1] in _app.command_names(), f"{page.name}: intaglio {words}"


def test_both_readmes_have_the_same_commands_and_project_file() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh.md"))
    pattern = re.compile(r"^(?:    |\$ )?((?:pip|intaglio|git|make|python3?) .*)$", re.MULTILINE)
    assert [line.split("#")[0].strip() for line in pattern.findall(english)] == [
        line.split("#")[0].strip() for line in pattern.findall(chinese)
    ]
    strip = re.compile(r"\s*#.*$", re.MULTILINE)
    assert [strip.sub("", each) for each in TOML.findall(english)] == [
        strip.sub("", each) for each in TOML.findall(chinese)
    ]


def test_decisions_follow_the_template() -> None:
    for page in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        text = page.read_text("utf-8")
        for heading in ("## Context", "## Choice", "## What we gave up", "## When to look again"):
            assert heading in text, f"{page.name} lacks {heading!r}"
