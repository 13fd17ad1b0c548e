"""Golden files: what people and scripts see and would miss; `make golden` rewrites them, the diff is reviewed."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from intaglio.cli import _app
from intaglio.cli.main import main
from intaglio.core.errors import MissingExtra
from intaglio.nn import loop
from intaglio.project.file import read_project
from intaglio.project.resolve import Resolver
from tests.contracts import _material as material

ROOT = Path(__file__).parent.parent
Golden = Callable[[str, str], None]

DATA = '[data.texts]\nuse = "folder"\npath = "archive"\nlicense = "CC0-1.0"\n'
BROKEN = {
    "unknown key": '[data.texts]\nuse = "folder"\npath = "archive"\nlicens = "CC0-1.0"\n',
    "unknown component": '[data.texts]\nuse = "foldr"\n',
    "unknown section": "[datta.texts]\nuse = 'folder'\n",
    "not TOML": "[data.texts\n",
    "no license": '[data.texts]\nuse = "folder"\npath = "archive"\n',
    "missing path": '[data.texts]\nuse = "folder"\npath = "nowhere"\nlicense = "CC0-1.0"\n',
    "reads from below": '[models.w]\nuse = "gpt"\ndata = "texts"\n' + DATA,
    "unknown step": DATA + '[models.w]\nuse = "gpt"\ndata = "textz"\n',
    "wrong stage": DATA + '[generate.d]\nuse = "article"\nmodel = "texts"\n',
    "wrong value": DATA + '[models.w]\nuse = "gpt"\ndata = "texts"\nsize = "huge"\n',
    "twice the same name": DATA + '[models.texts]\nuse = "gpt"\ndata = "texts"\n',
    "no use": "[data.texts]\npath = 'archive'\n",
    "bad language": "[project]\nlanguages = ['fr']\n",
}


def test_error_texts(tmp_path: Path, golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    """What a person reads who made a mistake in the project file."""
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "a.txt").write_text("a text\n")
    found = []
    for name, text in BROKEN.items():
        (tmp_path / "intaglio.toml").write_text(text)
        code = main(["-C", str(tmp_path), "plan"])
        found.append(f"# {name} (exit code {code})\n{capsys.readouterr().err}")
    golden("errors.txt", "\n".join(found).replace(str(tmp_path), "PROJECT"))


def test_resolved_config_of_the_contract(tmp_path: Path, golden: Golden) -> None:
    """Every default of the project file of the contract, as it enters the ledger."""
    page = (ROOT / "docs" / "reference" / "project-file.md").read_text("utf-8")
    found = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert found
    (tmp_path / "intaglio.toml").write_text(found[1])
    for name in ("texts", "pictures"):
        (tmp_path / "archive" / name).mkdir(parents=True)
    steps = Resolver(tmp_path / ".cache").project(read_project(tmp_path))
    golden("contract.json", json.dumps({step.name: step.config for step in steps}, indent=2, ensure_ascii=False) + "\n")


def test_help(golden: Golden, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The help of every command."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("", *_app.command_names()):
        main([*filter(None, [name]), "--help"])
    golden("help.txt", capsys.readouterr().out)


def test_dependencies(golden: Golden) -> None:
    """The names of all dependencies: a new one needs a decision, and shows up in this diff."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = {"base": project["dependencies"], **project["optional-dependencies"]}
    names = {group: sorted(re.split(r"[<>=!~ ]", each)[0] for each in found) for group, found in groups.items()}
    golden("dependencies.json", json.dumps(names, indent=2) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", material.names())
def test_first_20_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The same maths gives the same losses: of each model its first 20 updates, on one thread, in float32.

    Other processors add up in another order, and at the usual rates that grows up to sevenfold an update: at a tenth of
    them it stays below 4e-4 for gpt and 2e-5 for all others, and what is let through is the less for it.
    """
    monkeypatch.setattr("intaglio.nn.device.cpu_multiplies_bf16", lambda: False)
    usual = loop.Plan.rate
    monkeypatch.setattr(loop.Plan, "rate", lambda plan, step: 0.1 * usual(plan, step))
    try:
        component = material.component(name, **({"steps": 20} if name in ("gpt", "finetune") else {}))
        ctx = material.context(name, tmp_path)
        component.fit(material.tiny_data(ctx, component.takes), ctx)
    except MissingExtra as error:
        pytest.skip(str(error))
    losses = [float(f"{values['loss']:.6g}") for _, values in ctx.curves[:20]]
    assert len(losses) == 20, "a TINY of 20 updates at least, so that its curve says something"
    path = ROOT / "tests" / "golden" / "curves" / f"{name}.json"
    if os.environ.get("INTAGLIO_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(losses) + "\n")
    assert path.is_file(), f"{path.name} is missing: run `make golden` and read the diff"
    assert losses == pytest.approx(json.loads(path.read_text()), rel=1e-3 if name == "gpt" else 1e-4, abs=1e-5), (
        "other maths: say so, `make golden`"
    )
