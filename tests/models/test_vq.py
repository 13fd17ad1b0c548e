"""The quantized autoencoder: training, use of the codebook, codes and back, resume to the same bits, bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from intaglio.core.contracts import Item, Machine, Size
from intaglio.core.errors import UserError
from intaglio.models import _quantized, vq
from intaglio.models._pictures import gather
from intaglio.models._room import check_room, free_bytes, own_bytes
from tests.models.test_vae import discs, item_of, png
from tests.support import DEVICE, ItemList, RunContext

Run = tuple[RunContext, dict[str, Any], ItemList]


def fitted(root: Path, config: dict[str, Any] | None = None, *, count: int = 48, heldout: int = 12) -> Run:
    ctx = RunContext(root)
    items = discs(ctx, count, heldout=heldout)
    metrics = vq.Component(vq.Config(**{**vq.TINY, **(config or {})})).fit(items, ctx)
    return ctx, dict(metrics), items


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fitted(tmp_path_factory.mktemp("vq"), {"images": 2_400})


def loaded(run: Run) -> _quantized.Codes:
    return vq.Component(vq.Config(**vq.TINY)).load(run[0].out, device=DEVICE, threads=1)


def pixels_of(run: Run, model: _quantized.Codes) -> np.ndarray[Any, Any]:
    return np.array(gather(run[2], model.form, run[0]).pixels)


def test_training_beats_the_mean_picture_and_says_how_the_book_is_used(trained: Run) -> None:
    ctx, metrics, _ = trained
    assert metrics["heldout_reconstruction_mse"] < 0.4 * metrics["heldout_baseline_mse"]
    assert 1 < metrics["perplexity"] <= metrics["codes_used"] <= metrics["codebook"] == 32
    assert metrics["bits_per_picture"] == 4 * 4 * 5
    lines = (ctx.out / "usage.csv").read_text("utf-8").splitlines()
    assert lines[0] == "pictures,epoch,codes_used,perplexity,revived" and len(lines) == 21
    assert [float(value) for value in lines[-1].split(",")[:2]] == [2400, 50]
    assert ctx.metrics["perplexity"] > 1 and ctx.previews
    names = {path.name for path in ctx.out.iterdir()}
    assert names == {
        "model.safetensors", "config.json", "curve.csv", "usage.csv", "reconstructions.png", "samples.png"
    }  # fmt: skip
    json.dumps(metrics, allow_nan=False)


def test_codes_and_back(trained: Run) -> None:
    model = loaded(trained)
    pixels = pixels_of(trained, model)
    codes = model.codes(pixels)
    assert codes.shape == (60, *model.code_shape) == (60, 4, 4) and codes.dtype == torch.int64
    assert 0 <= int(codes.min()) and int(codes.max()) < model.codebook_size == 32
    drawn = model.draw(codes[48:])
    assert drawn.dtype == torch.uint8 and drawn.shape == (12, 3, 16, 16)
    error = float(((drawn.double() - torch.from_numpy(pixels[48:]).double()) / 255).square().mean())
    assert error == pytest.approx(trained[1]["heldout_reconstruction_mse"], rel=0.02)
    assert model.codes(pixels[:0]).shape == (0, 4, 4) and model.draw(codes[:0]).shape == (0, 3, 16, 16)
    rebuilt = list(model.reconstruct(trained[2].split("heldout"), trained[0]))
    assert np.mean([each[2] for each in rebuilt]) == pytest.approx(error, rel=1e-6)
    with Image.open(io.BytesIO(rebuilt[0][1])) as image:
        assert image.size == (16, 16)
    (vector,) = model.encode(list(trained[2])[:1], trained[0])
    assert len(vector) == 8 * 4 * 4


def test_prints_follow_their_seeds_and_the_frequencies(trained: Run) -> None:
    ctx, model = trained[0], loaded(trained)
    first, second = model.sample([5, 6], ctx)
    (again,) = model.sample([6], ctx)
    assert again.id == second.id != first.id and first.meta["prior"] == "frequency"
    codes = model.codes(pixels_of(trained, model)[:48])
    chance = torch.stack([model.chance(n) for n in range(300)])
    most = codes[:, 0, 0].bincount().argmax()
    share = float((codes[:, 0, 0] == most).float().mean())
    assert float((chance[:, 0, 0] == most).float().mean()) == pytest.approx(share, abs=0.12)


def test_same_seed_same_bytes_also_when_it_was_stopped_half_way(tmp_path: Path, monkeypatch: Any) -> None:
    """The codebook moves in the forward pass: its buffers must be in the state, and in every file that is kept."""
    whole, _, _ = fitted(tmp_path / "whole", {"images": 960})
    part = RunContext(tmp_path / "part")
    component = vq.Component(vq.Config(**{**vq.TINY, "images": 960}))
    own = vq.Session.loss

    def stopping(self: vq.Session, step: int, generator: torch.Generator) -> torch.Tensor:
        if step == 31:
            raise KeyboardInterrupt
        return own(self, step, generator)

    monkeypatch.setattr(vq.Session, "loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        component.fit(discs(part, 48, heldout=12), part)
    monkeypatch.setattr(vq.Session, "loss", own)
    component.fit(discs(part, 48, heldout=12), part)
    for path in whole.out.iterdir():
        assert path.read_bytes() == (part.out / path.name).read_bytes(), path.name


def test_a_saved_copy_and_an_export_are_the_same_checkpoint(trained: Run, tmp_path: Path) -> None:
    loaded(trained).save(tmp_path / "copy")
    files = vq.Component(vq.Config(**vq.TINY)).export(trained[0].out, tmp_path / "to")
    assert {path.name for path in files} == {"model.safetensors", "config.json", "README.md"}
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (trained[0].out / name).read_bytes()
    codes, _ = _quantized.read_checkpoint(tmp_path / "to", DEVICE)
    assert torch.equal(codes.codebook.vectors_KC, loaded(trained).model.codebook.vectors_KC)


# ------------------------------------------------------------------------------------------ bad input
def test_what_is_refused(tmp_path: Path, trained: Run) -> None:
    ctx, component = RunContext(tmp_path), vq.Component(vq.Config(**vq.TINY))
    with pytest.raises(UserError, match="learns from pictures"):
        component.fit(ItemList([Item(media="text", text="a")]), ctx)
    with pytest.raises(UserError, match="multiple of 8"):
        vq.Component(vq.Config(**{**vq.TINY, "down": 8, "size_px": 20})).fit(discs(ctx, 2), ctx)
    with pytest.raises(UserError, match="no vq checkpoint"):
        component.load(tmp_path, device=DEVICE, threads=1)
    other = {name: (trained[0].out / name).read_bytes() for name in ("config.json", "model.safetensors")}
    (tmp_path / "config.json").write_bytes(other["config.json"].replace(b'"width": 16', b'"width": 24'))
    (tmp_path / "model.safetensors").write_bytes(other["model.safetensors"])
    with pytest.raises(UserError, match="no vq checkpoint"):
        component.load(tmp_path, device=DEVICE, threads=1)
    (tmp_path / "model.safetensors").write_bytes(other["model.safetensors"][:-100])
    with pytest.raises(UserError, match="no vq checkpoint"):
        component.load(tmp_path, device=DEVICE, threads=1)


def test_few_and_equal_pictures_are_said(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    same = png(Image.new("RGB", (20, 20), (200, 10, 10)))
    items = [item_of(ctx, same, f"{n}.png") for n in range(3)]
    metrics = vq.Component(vq.Config(**{**vq.TINY, "images": 64})).fit(ItemList(items), ctx)
    assert {"same", "held", "only 3"} == {
        key for key in ("same", "held", "only 3") if any(key in text for text in ctx.warnings)
    }
    assert metrics["train_reconstruction_mse"] < 1e-3
    json.dumps(dict(metrics), allow_nan=False)


def test_a_training_that_would_not_fit_is_refused_before_work(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    with pytest.raises(UserError, match="GB of memory") as caught:
        vq.Component(vq.Config(**{**vq.TINY, "batch": 65536, "codebook": 65536})).fit(discs(ctx, 2), ctx)
    assert "batch" in caught.value.fix
    assert not list(ctx.work.glob("*.safetensors"))
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:     2048 kB\n")
    assert free_bytes("cpu", meminfo=meminfo) == 2048 * 1024
    assert free_bytes("cpu", meminfo=tmp_path / "none") is None
    assert 1e7 < own_bytes() < 1e11 and own_bytes(statm=tmp_path / "none") == 0
    check_room(1, ctx, fix="")


def test_estimate_grows_with_the_dial() -> None:
    machine = Machine(device="cpu", threads=2, gflops=150, bf16_gflops=400, memory_bytes=8 << 30)
    found = [
        vq.Component(vq.Config(data="x", size=size)).estimate(Size(items=2000), machine)
        for size in ("tiny", "small", "base")
    ]
    assert found[0].seconds < found[1].seconds < found[2].seconds
    assert all(each.bytes > 100_000_000 for each in found)
