"""Every model that trains, found by listing: equal bits, resume after SIGKILL, refusal of damaged and pickled files."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from intaglio.core.errors import UserError
from tests import forked
from tests.contracts import _material as material
from tests.contracts._material import drawn, fit, load
from tests.support import RunContext

pytestmark = pytest.mark.slow


def same(left: RunContext, right: RunContext) -> None:
    one, two = dict(material.files(left.out)), dict(material.files(right.out))
    assert sorted(one) == sorted(two)
    assert [name for name in one if one[name] != two[name]] == [], "equal seeds, equal bytes"


def checkpoint_of(ctx: RunContext) -> Path:
    """The largest file of weights; of an adapter its own, not those of the model it was given."""
    found = sorted(ctx.out.rglob("*.safetensors"), key=lambda path: ("adapter" in path.name, path.stat().st_size))
    assert found, "a checkpoint is safetensors"
    return found[-1]


@pytest.mark.parametrize("name", material.names())
def test_twice_with_one_seed_is_equal(tmp_path: Path, name: str, fitted: Any) -> None:
    """The files of the checkpoint, and what is drawn from it after loading it twice; another seed draws another."""
    first, metrics = fitted(name)
    second, _ = fit(name, tmp_path)
    same(first, second)
    assert metrics and any(key for key in metrics if "heldout" in key or "baseline" in key), (
        "figures say how good it is"
    )
    made = drawn(name, first.out, first)
    assert made == drawn(name, second.out, second) and made[0] != made[1]
    item = next(iter(load(name, first.out).sample([11], first)))
    assert item.media == material.component(name).makes


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("name", material.names())
def test_killed_half_way_and_gone_on_to_the_same_bits(tmp_path: Path, name: str, fitted: Any) -> None:
    whole, _ = fitted(name)
    done = forked.run("tests.contracts._material", [name, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list((tmp_path / "work").rglob("*.safetensors")), "there is a state to go on from"
    again, _ = fit(name, tmp_path)
    same(whole, again)
    assert not [text for text in again.warnings if "set-up" in text]


@pytest.mark.parametrize("damage", ["truncated", "pickled", "missing"])
@pytest.mark.parametrize("name", material.names())
def test_a_checkpoint_that_is_none_is_refused_by_name(tmp_path: Path, name: str, damage: str, fitted: Any) -> None:
    ctx, _ = fitted(name)
    path = checkpoint_of(ctx)
    broken = tmp_path / path.relative_to(ctx.out)
    shutil.copytree(ctx.out, tmp_path, dirs_exist_ok=True)
    if damage == "truncated":
        broken.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "pickled":
        torch.save({"weight": torch.zeros(3)}, broken)
    else:
        broken.unlink()
    with pytest.raises(UserError) as caught:
        load(name, tmp_path)
    assert broken.name in str(caught.value)
    assert damage != "pickled" or "pickle" in str(caught.value)


@pytest.mark.parametrize("name", material.names())
def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path, name: str, fitted: Any) -> None:
    """What a file of facts lacks, or holds of another kind, is said; nothing else than a UserError comes of it."""
    ctx, _ = fitted(name)
    shutil.copytree(ctx.out, tmp_path, dirs_exist_ok=True)
    facts = tmp_path / ("intaglio.json" if (ctx.out / "intaglio.json").exists() else "config.json")
    known, refused = json.loads(facts.read_text("utf-8")), 0
    for key in known:
        without = {each: value for each, value in known.items() if each != key}
        for changed in (without, without | {key: ["odd"]}):
            facts.write_text(json.dumps(changed), "utf-8")
            try:
                load(name, tmp_path)
            except UserError as error:
                refused += 1
                assert str(error).count("\n") < 3
    assert refused
