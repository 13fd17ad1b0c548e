"""The model of codes: its maths against frequencies and a plain loop, training, resume, prints by label, bad input."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from intaglio.core.contracts import Machine, Sampling, Size
from intaglio.core.errors import UserError
from intaglio.models import _coded, codes, vq
from intaglio.models._coded import CodeModel, Shape
from intaglio.models._pictures import gather
from intaglio.nn.checkpoint import load_tensors
from tests.models.test_gan import discs
from tests.support import DEVICE, ItemList, RunContext, kept

SMALL = Shape(codebook=6, rows=2, columns=2, classes=3, layers=2, width=16, heads=2, hidden=24)


def network(shape: Shape = SMALL) -> CodeModel:
    """One with weights that do something, and frequencies that are not even."""
    model = CodeModel(shape, seed=1)
    chance = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=chance) * 0.3 + (parameter.ndim == 1))
        model.log_frequency_LK.copy_(torch.randn(model.log_frequency_LK.shape, generator=chance).log_softmax(-1))
    return model.eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------------------- maths
def test_heads_begin_by_looking_at_the_places_beside() -> None:
    """Beside a place the code before it is read, ``back`` positions earlier that of ``back + 1`` places ago."""
    shape = Shape(codebook=6, rows=5, columns=7, classes=1, layers=1, width=64, heads=4, hidden=24)
    places = torch.arange(shape.places).view(shape.rows, shape.columns)
    row, column = 3, 4
    seen = [int(places[row, column]) - 1 - back for back in shape.back()]
    beside = (row, column - 1), (row - 1, column), (row - 1, column + 1), (row, column - 2)
    assert seen == [int(places[place]) for place in beside]
    one = Shape(codebook=6, rows=4, columns=1, classes=1, layers=1, width=64, heads=8, hidden=24)
    assert one.back() == (0, 0, 0, 0, 0, 0, 1, 1)


def test_probabilities_of_all_maps_sum_to_one_and_look_only_back() -> None:
    model = network()
    every = torch.tensor(list(itertools.product(range(6), repeat=4)))
    for label in (0, 2):
        nats = model.nats(torch.full((len(every),), label), every).sum(1)
        assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-4)
    one, other = model.nats(torch.tensor([1, 1]), torch.tensor([[3, 1, 4, 0], [3, 1, 5, 2]]))
    assert torch.allclose(one[:2], other[:2], atol=1e-5) and not torch.allclose(one[3], other[3], atol=1e-3)
    first, second = model.nats(torch.tensor([0, 1]), torch.tensor([[3, 1, 4, 0]] * 2))
    assert (first - second).abs().max() > 0.01, "the label is read"


def test_an_untrained_network_is_about_the_frequencies() -> None:
    model = CodeModel(Shape(codebook=32, rows=2, columns=2, classes=1, layers=2, width=64, heads=4, hidden=64), seed=3)
    chance = torch.Generator().manual_seed(1)
    model.log_frequency_LK.copy_(torch.randn(4, 32, generator=chance).mul(2).log_softmax(-1))
    maps = torch.randint(32, (64, 4), generator=chance)
    alone = -model.log_frequency_LK[torch.arange(4), maps]
    with torch.no_grad():
        own = model.nats(torch.zeros(64, dtype=torch.int64), maps)
    assert float((own.mean() - alone.mean()).abs()) < 0.4


def test_frequencies_are_counts_drawn_towards_all_places() -> None:
    stored = np.array([[[0, 1], [0, 2], [0, 1]]], dtype=np.uint16)
    found = _coded.log_frequency(stored, 4).exp()
    whole = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64) / 10
    expected = (torch.tensor([[3.0, 0, 0, 0], [0, 2.0, 1.0, 0]]) + 20 * whole) / 23
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_what_is_written_comes_as_often_as_its_likelihood_says() -> None:
    """Drawn with a cache, batched; told without either."""
    model = network(Shape(codebook=3, rows=1, columns=2, classes=2, layers=1, width=16, heads=2, hidden=16))
    drawn = model.write([1] * 2000, list(range(2000)), Sampling()).flatten(1)
    every = torch.tensor(list(itertools.product(range(3), repeat=2)))
    with torch.no_grad():
        share = (-model.nats(torch.ones(9, dtype=torch.int64), every).sum(1)).exp()
    seen = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9) / 2000
    assert (seen - share).abs().max() < 0.035, "four deviations of 2,000 draws"


def test_a_seed_is_its_own_picture_and_the_filters_filter() -> None:
    model, seeds = network(), list(range(37))
    together = model.write([0] * 37, seeds, Sampling())
    assert together.shape == (37, 2, 2) and len(together.flatten(1).unique(dim=0)) > 20
    assert torch.equal(model.write([0], [20], Sampling())[0], together[20])
    assert torch.equal(model.write([0] * 3, [5, 36, 20], Sampling()), together[[5, 36, 20]])
    greedy = model.write([0] * 5, seeds[:5], Sampling(top_k=1))
    assert len(greedy.flatten(1).unique(dim=0)) == 1
    assert torch.equal(greedy, model.write([0] * 5, seeds[:5], Sampling(top_p=1e-6)))
    cold = model.write([0] * 37, seeds, Sampling(temperature=0.05))
    assert len(cold.flatten(1).unique(dim=0)) < 5
    assert model.write([], [], Sampling()).shape == (0, 2, 2)


# ---------------------------------------------------------------------------------------------------------- training
@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    ctx = RunContext(tmp_path_factory.mktemp("vq"))
    component = vq.Component(vq.Config(**{**vq.TINY, "images": 1_200}))
    component.fit(discs(ctx, 60, heldout=36), ctx)
    return component.load(ctx.out, device=DEVICE, threads=1)


def component(**config: Any) -> codes.Component:
    return codes.Component(codes.Config(**{**codes.TINY, **config}))


def fitted(root: Path, tokenizer: Any, *, count: int = 60, heldout: int = 36, **config: Any) -> Any:
    ctx = RunContext(root, inputs={"model": [tokenizer]})
    return ctx, dict(component(**config).fit(discs(ctx, count, heldout=heldout), ctx))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Any:
    return fitted(tmp_path_factory.mktemp("codes"), tokenizer, condition="label", flip=True, images=1_600)


def load(ctx: RunContext) -> _coded.Coded:
    return component().load(ctx.out, device=DEVICE, threads=1)


def test_training_beats_the_frequencies_of_places(trained: Any) -> None:
    ctx, metrics = trained
    assert metrics["heldout_bits_per_code"] < metrics["baseline_frequency_bits_per_code"] - 0.3
    assert metrics["baseline_frequency_bits_per_code"] < metrics["baseline_uniform_bits_per_code"] == 5.0
    bits = metrics["heldout_nats_per_picture"] / math.log(2) / metrics["codes_of_a_picture"]
    assert metrics["heldout_bits_per_code"] == pytest.approx(bits, abs=1e-4)
    assert {"membership_auc", "copying_z"} <= set(metrics["memorization"])
    assert len(metrics["kid_like"]) == len(metrics["kid_like_of_frequencies"]) == 3
    stopped = any("stopped early" in text for text in ctx.warnings)  # on a GPU it is, by other random numbers
    assert metrics["codes_of_a_picture"] == 16 and (metrics["steps"] == 100) is not stopped
    assert DEVICE != "cpu" or not stopped
    names = {str(path.relative_to(ctx.out)) for path in ctx.out.rglob("*") if path.is_file()}
    own = {"model.safetensors", "config.json", "curve.csv", "samples.png"}
    assert names == own | {"vq/model.safetensors", "vq/config.json"}
    assert ctx.previews
    json.dumps(metrics, allow_nan=False)


def test_likelihood_is_that_of_the_codes_of_heldout_pictures(trained: Any, tmp_path: Path) -> None:
    """From the checkpoint, picture by picture, by no path of the training's own."""
    metrics, model, ctx = trained[1], load(trained[0]), RunContext(tmp_path)
    items = discs(ctx, 60, heldout=36)
    pixels = np.array(gather(items, model.form, ctx).pixels)
    maps = model.codes(pixels[60:]).flatten(1)
    told = model.conditions.rows([str(item.meta["label"]) for item in items.split("heldout")]).argmax(1)
    with torch.no_grad():
        nats = torch.cat(
            [model.model.nats(told[n : n + 1].to(DEVICE), maps[n : n + 1].to(DEVICE)).sum(1) for n in range(36)]
        )
    assert float(nats.mean()) == pytest.approx(metrics["heldout_nats_per_picture"], rel=1e-4)


def test_labels_are_drawn_as_asked_for(trained: Any) -> None:
    model = load(trained[0])
    assert model.labels == ("blue", "green", "red") and model.conditions.kind == "label"
    seeds = list(range(24))
    means = torch.stack([model.pixels(seeds, [name] * 24).float().mean((0, 2, 3)) for name in model.labels])
    assert means.argmax(1).tolist() != [0, 0, 0]
    kinder = means - means.mean(0)
    assert kinder[0].argmax() == 2 and kinder[1].argmax() == 1 and kinder[2].argmax() == 0
    (item,) = model.sample([3], trained[0], labels=["green"])
    assert item.meta["label"] == "green" and item.meta["width_px"] == 256
    with pytest.raises(UserError, match="never learned the label 'pink'"):
        list(model.sample([3], trained[0], labels=["pink"]))
    with pytest.raises(ValueError, match="one label a seed"):
        model.maps([1, 2], ["red"])


def test_prints_are_their_seeds_and_the_vq_lends_the_rest(trained: Any, tokenizer: Any) -> None:
    ctx, model = trained[0], load(trained[0])
    first, second = kept(model.sample([5, 6], ctx))
    (again,) = kept(model.sample([6], ctx))
    assert again.id == second.id != first.id
    item = next(iter(discs(ctx, 1)))
    assert list(model.reconstruct([item], ctx)) == list(tokenizer.reconstruct([item], ctx))
    assert list(model.encode([item], ctx)) == list(tokenizer.encode([item], ctx))
    assert torch.equal(model.draw(model.maps([1])), model.pixels([1]))


@pytest.mark.slow
def test_same_seed_same_bytes_also_when_it_was_stopped_half_way(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = fitted(tmp_path / "whole", tokenizer, flip=True)
    own = codes.Session.loss

    def stopping(self: codes.Session, step: int, generator: torch.Generator) -> torch.Tensor:
        if step == 11:
            raise KeyboardInterrupt
        return own(self, step, generator)

    monkeypatch.setattr(codes.Session, "loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "part", tokenizer, flip=True)
    monkeypatch.setattr(codes.Session, "loss", own)
    part, _ = fitted(tmp_path / "part", tokenizer, flip=True)
    for path in whole.out.rglob("*.*"):
        assert path.read_bytes() == (part.out / path.relative_to(whole.out)).read_bytes(), path.name


def test_codes_of_mirrored_pictures_are_kept_and_taken_up(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = RunContext(tmp_path)
    shard = gather(discs(ctx, 5), tokenizer.form, ctx)
    stored = _coded.encoded(shard, tokenizer, ctx, flip=True)
    assert stored.shape == (2, 5, 16) and stored.dtype == np.uint16
    assert np.array_equal(stored[1].reshape(5, 4, 4), tokenizer.codes(shard.pixels[..., ::-1].copy()).numpy())
    assert not np.array_equal(stored[0], stored[1])
    monkeypatch.setattr(tokenizer, "codes", None)
    again = _coded.encoded(shard, tokenizer, ctx, flip=True)
    assert np.array_equal(again, stored)


def test_an_export_is_the_same_checkpoint(trained: Any, tmp_path: Path) -> None:
    files = component().export(trained[0].out, tmp_path / "to")
    assert {str(path.relative_to(tmp_path / "to")) for path in files} == {
        "model.safetensors", "config.json", "vq/model.safetensors", "vq/config.json", "README.md"
    }  # fmt: skip
    assert all(path.is_file() for path in files)
    moved = component().load(tmp_path / "to", device=DEVICE, threads=1)
    assert torch.equal(moved.maps([1, 2]), load(trained[0]).maps([1, 2]))
    assert "heldout_bits_per_code" in (tmp_path / "to" / "README.md").read_text("utf-8")
    tensors, _ = load_tensors(trained[0].out / "model.safetensors")
    assert tensors["log_frequency_LK"].shape == (16, 32)


# ------------------------------------------------------------------------------------------------- limits and bad input
def test_a_model_that_is_no_vq_is_refused_before_any_work(trained: Any, tmp_path: Path) -> None:
    for named in ([], [load(trained[0])]):
        ctx = RunContext(tmp_path, inputs={"model": named})
        with pytest.raises(UserError, match="no codes") as caught:
            component().fit(discs(ctx, 4), ctx)
        assert caught.value.fix == "name a vq step as model" and not list(ctx.work.iterdir())


def test_no_pictures_no_labels_no_checkpoint(tmp_path: Path, tokenizer: Any) -> None:
    ctx = RunContext(tmp_path, inputs={"model": [tokenizer]})
    with pytest.raises(UserError, match="learns from pictures"):
        component().fit(ItemList([]), ctx)
    bare = ItemList(type(item)(**{**_fields(item), "meta": {}}) for item in discs(ctx, 4))
    with pytest.raises(UserError, match="have no label"):
        component(condition="label").fit(bare, ctx)
    with pytest.raises(UserError, match="holds no codes checkpoint"):
        load(ctx)
    tokenizer.save(ctx.out)
    with pytest.raises(UserError, match="holds no codes checkpoint"):
        load(ctx)


def _fields(item: Any) -> dict[str, Any]:
    return {"media": item.media, "files": item.files, "split": item.split, "origin": item.origin}


def test_few_pictures_and_none_held_out_are_said_and_survived(tmp_path: Path, tokenizer: Any) -> None:
    ctx, metrics = fitted(tmp_path, tokenizer, count=3, heldout=0, images=32)
    assert any("only 3 pictures" in text for text in ctx.warnings)
    assert any("no picture is held out" in text for text in ctx.warnings)
    assert "train_bits_per_code" in metrics and "kid_like" not in metrics
    with pytest.raises(UserError, match="cannot be asked"):
        list(load(ctx).sample([1], ctx, labels=["red"]))


def test_estimates_grow_with_the_dial() -> None:
    machine = Machine("cpu", 2, 100.0, 100.0, 0)
    told = [component(size=size, images=None).estimate(Size(items=5000), machine) for size in ("tiny", "small", "base")]
    assert [each.seconds for each in told] == sorted(each.seconds for each in told)
    assert [each.bytes for each in told] == sorted(each.bytes for each in told)
    assert 60 < told[0].seconds < 1200
