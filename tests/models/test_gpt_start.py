"""A gpt that goes on from another: it begins where that one ended, helps, says and refuses; killed, it resumes."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from intaglio.core.contracts import Item
from intaglio.core.errors import UserError
from intaglio.models import gpt
from intaglio.models._corpus import prepare
from intaglio.models._pretrain import begin, packed_nats, window_nats
from intaglio.models._start import SHARE, digest
from intaglio.models._writer import Writer
from intaglio.nn.optim import muon_and_adamw
from tests import forked
from tests.models.test_gpt import poems
from tests.support import DEVICE, ItemList, RunContext

OTHER = "a lantern on the river burns all night and the boats turn home slowly".split()


def songs(count: int, words: Sequence[str] = OTHER) -> list[Item]:
    draw = random.Random(5)
    return [
        Item(media="text", text=" ".join(draw.choices(words, k=16)), split="heldout" if n % 5 == 4 else "train")
        for n in range(count)
    ]


def fit(
    root: Path, items: Sequence[Item], start: object = None, **config: Any
) -> tuple[Writer, dict[str, Any], RunContext]:
    ctx = RunContext(root, inputs={"start": [start]} if start is not None else {})
    names = {"start": ("first",)} if start is not None else {}
    component = gpt.Component(gpt.Config(data=("texts",), **{**gpt.TINY, **names, **config}))
    metrics = dict(component.fit(ItemList(items), ctx))
    return component.load(ctx.out, device=DEVICE, threads=1), metrics, ctx


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    return fit(tmp_path_factory.mktemp("first"), poems(60), steps=60, context=32, tokenizer="char")[0]


def test_it_begins_where_the_other_ended_and_gets_better(first: Writer, tmp_path: Path) -> None:
    before, items = digest(first), songs(60)
    writer, metrics, ctx = fit(tmp_path, items, first, steps=40, context=48)
    assert metrics["verdict"] == "better" and metrics["change_bits_per_char"][2] < 0
    texts = [item.text for item in items if item.split == "heldout"]
    bits = sum(first.nats(texts)) / sum(map(len, texts)) / torch.tensor(2.0).log().item()
    assert metrics["baseline_start_bits_per_char"] == pytest.approx(bits, abs=1e-4)
    change = metrics["heldout_bits_per_char"] - metrics["baseline_start_bits_per_char"]
    assert metrics["change_bits_per_char"][0] == pytest.approx(change, abs=2e-4)
    assert metrics["start"] == before == digest(first) and writer.context_tokens == 48 == metrics["context"]
    assert writer.tokenizer.strings == first.tokenizer.strings
    assert [one["verdict"] for one in ctx.metrics["verdicts"]][1:].count("better") > 0
    if DEVICE != "cpu":  # on a GPU a point of the curve is the mean of many steps
        return
    fresh = fit(tmp_path / "fresh", items, steps=40, context=48, tokenizer="char")[2]
    assert ctx.metrics["curve"][0][1] < fresh.metrics["curve"][0][1]


def test_before_its_first_update_it_is_the_other(first: Writer, tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    config = gpt.Config(data=("texts",), **gpt.TINY | {"context": None})
    corpus = prepare(ItemList(songs(20)), ctx, kind=lambda _: first.tokenizer)
    run, writer = begin(config, corpus, ctx, start=first)
    assert run.shape == first.model.shape and digest(writer) == digest(first)
    assert writer.nats(["a lantern"]) == first.nats(["a lantern"])
    told = window_nats(writer.model, corpus.heldout, windows=3, dtype=torch.float32)
    assert told.shape == (3,)
    assert float(told.mean()) == packed_nats(writer.model, corpus.heldout, windows=3, dtype=torch.float32)


def test_its_peak_rate_is_lower(first: Writer, tmp_path: Path) -> None:
    """A first step of AdamW moves every weight by its rate."""
    writer, _, _ = fit(tmp_path, [item for item in songs(20) if item.split == "train"], first, steps=1)
    moved = (writer.model.gain - first.model.gain).abs()
    usual = muon_and_adamw(first.model)[-1].param_groups[0]["lr"]
    assert moved.max().item() == pytest.approx(SHARE * usual, rel=0.01)


def test_what_cannot_be_started_from_is_said(first: Writer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot go on from"):
        fit(tmp_path / "other", songs(20), object())
    with pytest.raises(UserError, match="tokenizer is bpe, but the model to start from has char"):
        fit(tmp_path / "kind", songs(20), first, tokenizer="bpe")
    with pytest.raises(UserError, match="no token for 8"):
        fit(tmp_path / "script", songs(20, ["ночь", "река", "огонь"]), first)


def test_characters_it_does_not_know_are_counted(first: Writer, tmp_path: Path) -> None:
    items = songs(20, [*OTHER, "ночь"])
    _, metrics, ctx = fit(tmp_path, items, first)
    text = "".join(item.text for item in items if item.split == "train")
    known = {token for token in first.tokenizer.strings if len(token) == 1}
    share = sum(char not in known for char in text) / len(text)
    assert metrics["unknown_to_start"] == pytest.approx(share, abs=1e-4) and 0 < share < 0.3
    assert any("no token for" in warning and "н" in warning for warning in ctx.warnings)


def test_nothing_held_out_is_unknown(first: Writer, tmp_path: Path) -> None:
    items = [item for item in songs(20) if item.split == "train"]
    _, metrics, _ = fit(tmp_path, items, first)
    assert metrics["verdict"] == "unknown" and metrics["baseline_start_bits_per_char"] is None


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = ["src", "."]
from intaglio.models import gpt
from tests.models.test_gpt_start import DEVICE, fit, songs
first = gpt.Component(gpt.Config(data=("x",))).load(Path(sys.argv[2]), device=DEVICE, threads=1)
fit(Path(sys.argv[1]), songs(60), first, steps=48, context=32)
"""


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    start, _, made = fit(tmp_path / "start", poems(60), steps=30, context=32, tokenizer="char")
    fit(tmp_path / "whole", songs(60), start, steps=48, context=32)
    process = forked.start(KILLED, str(tmp_path / "cut"), str(made.out))
    good, first = tmp_path / "cut" / "work" / "good.safetensors", None
    while process.poll() is None:  # until the second evaluation was kept: in the middle of training
        now = good.stat().st_mtime_ns if good.exists() else None
        if first is None:
            first = now
        elif now is not None and now != first:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed before it ended"
    _, _, ctx = fit(tmp_path / "cut", songs(60), start, steps=48, context=32)
    for path in (tmp_path / "whole" / "out").iterdir():
        assert path.read_bytes() == (ctx.out / path.name).read_bytes(), path.name
