"""Components of another installed package, one of every stage: installed for real, listed and run like ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin"
BROUGHT = {
    "data": "seasons",
    "models": "chain",
    "knowledge": "lengths",
    "generate": "couplet",
    "optimize": "shortest",
    "publish": "leaflet",
}
PROJECT = """
[project]
name = "leaflet"
[data.lines]
use = "seasons"
[models.chain]
use = "chain"
data = "lines"
[knowledge.lengths]
use = "lengths"
items = "lines"
[generate.couplets]
use = "couplet"
model = "chain"
knowledge = "lengths"
[optimize.best]
use = "shortest"
items = "couplets"
[publish.leaflet]
use = "leaflet"
items = "best"
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example plug-in installed by pip, offline."""
    source = tmp_path_factory.mktemp("plugin") / "source"
    shutil.copytree(EXAMPLE, source)  # a build may leave files behind
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", str(target), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(site: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON answer and stderr of a command that sees the plug-in."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "intaglio", *arguments, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_plug_ins_are_listed_with_their_package(site: Path) -> None:
    code, answer, _ = run(site, "list")
    found = {(each["stage"], each["name"]): each for each in answer["components"]}
    assert code == 0
    for stage, name in BROUGHT.items():
        assert found[stage, name]["package"] == "intaglio-example-plugin"
        assert found[stage, name]["summary"]
    assert found["data", "folder"]["package"] == "intaglio"


def test_a_project_of_plug_ins_runs_verifies_and_traces(site: Path, tmp_path: Path) -> None:
    (tmp_path / "intaglio.toml").write_text(PROJECT, "utf-8")
    code, answer, err = run(site, "-C", str(tmp_path), "run")
    assert (code, answer.get("ran"), answer.get("failed")) == (0, 6, 0), err
    page = tmp_path / "public" / "leaflet" / "index.html"
    assert page.read_text("utf-8").count("<pre>") == 3
    code, answer, err = run(site, "verify", str(page))
    assert (code, answer["valid"]) == (0, True), err
    code, answer, err = run(site, "trace", str(page))
    assert code == 0 and {source["license"] for source in answer["sources"]} == {"CC0-1.0"}, err
    code, answer, err = run(site, "-C", str(tmp_path), "run")
    assert (code, answer["ran"], answer["kept"]) == (0, 0, 6), err
    code, answer, err = run(site, "-C", str(tmp_path), "export", "chain", str(tmp_path / "exported"))
    assert code == 0 and (tmp_path / "exported" / "chain.json").is_file(), err


def test_a_plug_in_may_not_take_a_built_ins_name(site: Path, tmp_path: Path) -> None:
    info = tmp_path / "thief-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thief\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[intaglio.data]\nfolder = thief.folder\n")
    code, answer, _ = run(tmp_path, "list")
    assert code == 2 and "takes the name of a built-in component, 'folder'" in answer["error"]["what"]


def test_a_plug_in_whose_module_is_gone(tmp_path: Path) -> None:
    info = tmp_path / "ghost-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ghost\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[intaglio.data]\nghost = ghost.gone\n")
    code, answer, _ = run(tmp_path, "list")
    assert code == 2 and "not installed" in answer["error"]["what"]
