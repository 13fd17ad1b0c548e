"""Every model that trains, exported by the command line out of a real project, and read by programs that are not ours.

The project is run as a person would run it, but for the trainings: those that all contracts share are handed over.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.cli.main import main
from intaglio.core import registry
from intaglio.core.contracts import Sampling
from intaglio.project import machine, open_project
from intaglio.project.executors import in_process
from tests.contracts import _material as material
from tests.contracts.conftest import Fitted
from tests.support import RunContext

pytestmark = pytest.mark.slow

KINDS = {"text": "texts", "image": "pictures", "audio": "sounds", "video": "films"}
SUFFIXES = {"texts": "txt", "tunes": "abc", "pictures": "png", "sounds": "wav", "films": "mp4"}
TEXTS = {"gpt": "the old", "finetune": "the old", "music": "M:6/8\nL:1/8\nK:G\nGAB"}  # each begins one as learned


def archive(folder: Path) -> None:
    """The material of the contracts as the files a person has."""
    ctx = RunContext(folder / "made")
    for name, suffix in SUFFIXES.items():
        (folder / "archive" / name).mkdir(parents=True)
        for number, item in enumerate(getattr(material, name)(ctx)):
            data = ctx.path(item.files[0]).read_bytes() if item.files else item.text.encode()
            (folder / "archive" / name / f"{number:02}.{suffix}").write_bytes(data)


def project_file(names: list[str]) -> str:
    """A data step for each kind of material, and a model step for each family, named after it."""
    parts = ['[project]\nname = "every"\nseed = 7\n']
    for name in SUFFIXES:
        parts.append(f'[data.{name}]\nuse = "folder"\npath = "archive/{name}"\nlicense = "CC0-1.0"\n')
    for name in sorted(names, key=lambda each: each == "codes"):  # behind the vq it names
        module = registry.load("models", name)
        takes = module.Component.takes
        own = {**module.TINY, "data": "tunes" if takes == ("text", "audio") else KINDS[takes[0]]}
        own |= {"model": "vq"} if name == "codes" else {}
        parts.append(f'[models.{name}]\nuse = "{name}"\n' + _keys(own))
    parts.append('[models.asked]\nuse = "openai"\n' + _keys(registry.load("models", "openai").TINY))
    return "\n".join(parts)


def _keys(values: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def handed_over(out: Path, metrics: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """A ``fit`` that brings what an earlier one made."""

    def fit(self: object, data: object, ctx: Any) -> dict[str, Any]:
        shutil.copytree(out, ctx.out, dirs_exist_ok=True)
        return metrics

    return fit


@pytest.fixture(scope="module")
def project(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder, names = tmp_path_factory.mktemp("project"), material.names()
    archive(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTAGLIO_HOME", str(folder / "home"))  # no training took as long as these seem to take
        patch.setattr(machine, "_measure", lambda device, threads: [20.0, 20.0])
        for name in names:
            ctx, metrics = fitted(name)
            patch.setattr(registry.load("models", name).Component, "fit", handed_over(ctx.out, metrics))
            if (ctx.project / "given").is_dir():
                shutil.copytree(ctx.project / "given", folder / "given")
        (folder / "nothing").mkdir()
        patch.setattr(registry.load("models", "openai").Component, "fit", handed_over(folder / "nothing", {}))
        (folder / "intaglio.toml").write_text(project_file(names), "utf-8")
        with open_project(folder, executor=in_process) as opened:
            answer = opened.run()
    assert not answer["failed"], [step.get("error") for step in answer["steps"]]
    yield folder


def export(project: Path, name: str, to: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = main(["-C", str(project), "--json", "export", name, str(to)])
    return code, json.loads(capsys.readouterr().out.rstrip("\n").splitlines()[-1])


@pytest.mark.parametrize("name", material.names())
def test_every_family_is_exported_whole(
    project: Path, fitted: Fitted, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to, (ctx, _) = tmp_path / "to", fitted(name)
    code, answer = export(project, name, to, capsys)
    files = {str(path.relative_to(to)) for path in to.rglob("*") if path.is_file()}
    assert code == 0, answer
    assert set(answer["files"]) == files and answer["step"] == name
    assert {"MODEL_CARD.md", "DATA_CARD.md"} <= files
    card = (to / "MODEL_CARD.md").read_text("utf-8")
    assert f"# {name}\n" in card and f"intaglio export {name} FOLDER" in card and "## This run" in card
    same_weights(ctx.out, to)
    if name in TEXTS:
        assert transformers_writes_the_same(name, ctx, to, card)
        return
    assert material.drawn(name, to, ctx) == material.drawn(name, ctx.out, ctx)
    page = (to / "README.md").read_text("utf-8")
    for tensor in names_in(to / "model.safetensors"):
        assert f"`{tensor.split('.')[0]}" in page, f"README.md says nothing of {tensor}"


def names_in(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Tensors by the library of the format itself."""
    from safetensors.numpy import load_file

    return load_file(path)


def same_weights(checkpoint: Path, to: Path) -> None:
    found = [path for path in checkpoint.rglob("*.safetensors") if path.parent.name != "base"]
    assert found
    for path in found:
        theirs, ours = names_in(to / path.relative_to(checkpoint)), names_in(path)
        assert theirs.keys() == ours.keys() and all(np.array_equal(theirs[key], ours[key]) for key in ours)


def transformers_writes_the_same(name: str, ctx: RunContext, to: Path, card: str) -> bool:
    """Its greedy continuation is ours; the card names the folder it reads."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = to / "merged" if name == "finetune" else to
    assert f'AutoModelForCausalLM.from_pretrained("FOLDER{"/merged" if name == "finetune" else ""}")' in card
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXTS[name], return_tensors="pt")["input_ids"]
    written = model.generate(ids, do_sample=False, max_new_tokens=6)[0, ids.shape[1] :]
    loaded = material.load(name, ctx.out)
    sampling = Sampling(max_tokens=6, temperature=0)
    mine = getattr(loaded, "writer", loaded).complete([TEXTS[name]], seeds=[0], sampling=sampling)[0].text
    return bool(mine) and tokenizer.decode(written, skip_special_tokens=True) == mine


def test_a_gguf_file_bears_the_name_of_its_step(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gguf import GGUFReader

    export(project, "gpt", tmp_path / "to", capsys)
    reader = GGUFReader(tmp_path / "to" / "model.gguf")
    assert reader.fields["general.name"].contents() == "gpt"
    assert len(reader.tensors) == len(names_in(tmp_path / "to" / "model.safetensors"))


def test_what_cannot_be_exported_is_said_with_what_to_do(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x", "utf-8")
    for name, to, parts in (
        ("asked", tmp_path / "a", ("[models.asked]", "runs on a server", "copy the model")),
        ("texts", tmp_path / "b", ("'texts' is a step of stage data", "name a step of models:")),
        ("gan", tmp_path / "full", ("full", "not empty", "new folder")),
        ("gan", tmp_path / "full" / "file" / "to", ("file/to", "cannot be written", "may write to")),
    ):
        code, answer = export(project, name, to, capsys)
        said = " ".join(answer["error"][key] for key in ("where", "what", "fix"))
        assert code == 2 and all(part in said for part in parts), said
        assert not to.exists() or to.name == "full"
