"""Memory of models: canaries that were put in are told from others, likeness of copies and of noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from intaglio.core.contracts import Item
from intaglio.models import gpt
from intaglio.models._memory import WithCanaries, letters_of, of_pictures
from intaglio.nn.features import natural_noise
from tests.support import ItemList, RunContext

LINES = ["the press waits in the dark", "ink remembers every hand", "copper keeps what acid said", "paper comes up wet"]


def data(count: int = 60) -> ItemList:
    return ItemList(
        Item(media="text", text=f"{LINES[n % 4]} {n}", origin=f"{n}", split="heldout" if n % 5 == 0 else "train")
        for n in range(count)
    )


def test_canaries_are_training_texts_of_the_archives_letters() -> None:
    plain = data()
    more = WithCanaries(plain, 3, seed=1)
    assert len(more) == 63 and [item.text for item in more][60:] == more.canaries
    assert [item.text for item in more.of("text").split("train")][-3:] == more.canaries
    assert len(list(more.split("train").of("text"))) == 51
    assert [item.id for item in more.of("text").split("heldout")] == [item.id for item in plain.split("heldout")]
    assert len(list(more.of("image"))) == 0
    assert set("".join(more.canaries)) <= set(letters_of(plain)) and more.letters == letters_of(plain)
    assert more.canaries == WithCanaries(plain, 3, seed=1).canaries != WithCanaries(plain, 3, seed=2).canaries
    assert WithCanaries(ItemList([]), 3, seed=1).canaries == []


def fitted(root: Path, *, steps: int, canaries: int) -> dict[str, object]:
    config = gpt.Config(data="texts", size="tiny", tokenizer="char", context=32, steps=steps, canaries=canaries)
    return dict(gpt.Component(config).fit(data(), RunContext(root))["memorization"])


def test_gpt_tells_its_memory(tmp_path: Path) -> None:
    found = fitted(tmp_path / "a", steps=3, canaries=0)
    assert found["samples"] == 16 and found["known"] == 48 and found["heldout"] == 12
    assert {"longest_run_chars", "heldout_longest_run_chars", "membership_auc"} <= set(found)
    assert "exposure_bits" not in found
    assert found == fitted(tmp_path / "b", steps=3, canaries=0)


@pytest.mark.slow
def test_a_gpt_that_learned_by_heart_is_found_out(tmp_path: Path) -> None:
    fresh, old = fitted(tmp_path / "a", steps=1, canaries=4), fitted(tmp_path / "b", steps=400, canaries=4)
    assert fresh["canaries"] == old["canaries"] == 4
    assert float(str(old["exposure_bits"])) > 7 > 5 > float(str(fresh["exposure_bits"]))
    assert float(str(old["exposure_not_inserted"])) < 5
    assert old["membership_auc"][0] > fresh["membership_auc"][0]  # type: ignore[index]


def test_likeness_of_copies_and_of_noise() -> None:
    pictures = natural_noise(120).byte()
    train, heldout = pictures[:80].numpy(), pictures[80:].numpy()

    def copies(count: int) -> Tensor:
        return torch.from_numpy(train)[torch.arange(count) % 80]

    def static(count: int) -> Tensor:
        return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    by_heart = of_pictures(copies, train, heldout, losses=lambda x: torch.arange(len(x)).double())
    noise = of_pictures(static, train, heldout)
    assert by_heart["memorization"]["membership_auc"] == [1, 1, 1] and "membership_auc" not in noise["memorization"]
    assert by_heart["features"] == noise["features"] == "random-v1"
    assert noise["fid_like"] > 2 * by_heart["fid_like"] and by_heart["fid_like_of_training"] > 0
    assert noise["kid_like"][1] > by_heart["kid_like"][2] and noise["precision"] < by_heart["precision"]
    assert by_heart["memorization"]["copies"] == 1 and by_heart["memorization"]["copying_z"] < -5
    assert noise["memorization"]["copies"] == 0 and noise["memorization"]["copying_z"] > 5
    assert by_heart["coverage_of_training"] > 0.8
    assert of_pictures(copies, train[:3], heldout) == {}
