"""Maps of codes: a tokenizer for models over codes, standardized, sharper than a vector, saved and read back alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from intaglio.core.errors import UserError
from intaglio.models import _autoencoder as ae
from intaglio.models import _density, vae
from intaglio.models._prints import Prints, read_checkpoint
from tests.models.test_vae import discs, fitted
from tests.support import DEVICE, ItemList, RunContext

Run = tuple[RunContext, dict[str, Any], ItemList]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fitted(tmp_path_factory.mktemp("map"), {"net": "map", "images": 2_400})


def loaded(run: Run, **config: Any) -> Prints:
    return vae.Component(vae.Config(**{**vae.TINY, **config})).load(run[0].out, device=DEVICE, threads=1)


def pixels_of(run: Run) -> np.ndarray[Any, Any]:
    form = loaded(run).form
    pictures = [form.array(run[0].path(item.files[0])) for item in run[2]]
    return np.stack(pictures).transpose(0, 3, 1, 2)


def test_a_map_is_standardized_over_the_training_pictures(mapped: Run) -> None:
    model, pixels = loaded(mapped), pixels_of(mapped)
    maps = model.encode_maps(pixels[:48])
    assert maps.shape == (48, *model.map_shape) == (48, 4, 4, 4) and maps.dtype == torch.float32
    torch.testing.assert_close(maps.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.var((0, 2, 3), unbiased=False), torch.ones(4), atol=1e-3, rtol=0)
    same = model.encode_maps(torch.from_numpy(pixels[:5]))
    torch.testing.assert_close(same, maps[:5], atol=1e-5, rtol=1e-4)
    assert model.encode_maps(pixels[:0]).shape == (0, 4, 4, 4)


def test_a_map_comes_back_as_the_picture(mapped: Run) -> None:
    model, pixels = loaded(mapped), pixels_of(mapped)[48:]
    back = model.decode_maps(model.encode_maps(pixels))
    assert back.dtype == torch.uint8 and back.shape == pixels.shape
    error = float(((back.float() - torch.from_numpy(pixels).float()) / 255).square().mean())
    assert error == pytest.approx(mapped[1]["heldout_reconstruction_mse"], rel=0.02)
    assert error < 0.5 * mapped[1]["heldout_baseline_mse"]
    assert model.decode_maps(torch.empty(0, 4, 4, 4)).shape == (0, 3, 16, 16)


def test_a_vector_is_a_map_of_one_place(tmp_path: Path) -> None:
    run = fitted(tmp_path, {"images": 640, "latents": 6})
    model = loaded(run)
    maps = model.encode_maps(pixels_of(run)[:48])
    assert model.map_shape == (6, 1, 1) and maps.shape == (48, 6, 1, 1)
    torch.testing.assert_close(maps.mean(0), torch.zeros(6, 1, 1), atol=1e-4, rtol=0)
    assert model.decode_maps(maps).shape == (48, 3, 16, 16)


def test_a_saved_copy_is_the_same_checkpoint(mapped: Run, tmp_path: Path) -> None:
    loaded(mapped).save(tmp_path / "copy")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (mapped[0].out / name).read_bytes()
    model, prior, facts = read_checkpoint(tmp_path / "copy", DEVICE)
    (first,) = Prints(model, prior, facts, threads=1).sample([3], mapped[0])
    (again,) = loaded(mapped).sample([3], mapped[0])
    assert first.id == again.id


def test_side_eight_and_sides_that_do_not_fit(tmp_path: Path) -> None:
    ctx, metrics, _ = fitted(tmp_path, {"net": "map", "down": 8, "channels": 3, "images": 320})
    assert metrics["latents"] == 3 * 2 * 2
    with pytest.raises(UserError, match="multiple of 8"):
        odd = vae.Component(vae.Config(**{**vae.TINY, "net": "map", "down": 8, "size_px": 28}))
        odd.fit(discs(ctx, 4), ctx)


def test_walks_work_over_maps(mapped: Run) -> None:
    ctx, _, items = mapped
    some = list(items)[:4]
    assert len({item.id for item in loaded(mapped).interpolate(some[0], some[1], 3, ctx)}) == 3


def test_the_plane_has_the_mean_and_covariance_of_the_points() -> None:
    generator = torch.Generator().manual_seed(1)
    basis = torch.randn(3, 12, generator=generator)
    points = torch.randn(4000, 3, generator=generator) @ basis + 2.0
    plane = _density.fit_map(points)
    draws = torch.stack([plane.draw(generator) for _ in range(4000)])
    torch.testing.assert_close(draws.mean(0), points.mean(0), atol=0.15, rtol=0)
    torch.testing.assert_close(draws.T.cov(), points.T.cov(), atol=0.6, rtol=0.1)
    assert torch.equal(
        _density.of(plane.tensors()).draw(generator.manual_seed(2)), plane.draw(generator.manual_seed(2))
    )


def test_standardize_takes_a_constant_channel() -> None:
    shape = ae.Shape(net="map", size_px=8, channels=1, width=8, latents=8, blocks=1, likelihood="gaussian")
    model = ae.Autoencoder(shape)
    ae.standardize(model, np.zeros((3, 1, 8, 8), dtype=np.uint8))
    assert torch.isfinite(1 / model.code_spread).all()


def test_a_map_starts_as_the_principal_components_of_patches() -> None:
    """Before the first step it rebuilds as well as the best linear map of patches of 4 x 4 pixels can."""
    shape = ae.Shape(net="map", size_px=16, channels=1, width=8, latents=3 * 16, blocks=1, likelihood="gaussian")
    model = ae.Autoencoder(shape)
    x = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    x[:, :, :, 1::2] = x[:, :, :, ::2]
    model.start_from(x.mean(0), 0.3)
    model.start_linear(x)
    mean, logvar = model.encode(x)
    with torch.no_grad():
        found = float((model.decode(mean) - x).square().mean())
    flat = torch.nn.functional.pixel_unshuffle(x - x.mean(0), 4).permute(0, 2, 3, 1).reshape(-1, 16)
    flat = flat - flat.mean(0)
    best = torch.linalg.svdvals(flat)[3:].square().sum() / flat.numel()
    assert found == pytest.approx(float(best), rel=1e-3)
    torch.testing.assert_close(mean.var(unbiased=False), torch.tensor(1.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(logvar, torch.full_like(logvar, ae.FIRST_LOGVAR))


def test_a_training_that_would_not_fit_is_refused_before_work(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    huge = vae.Component(vae.Config(**{**vae.TINY, "batch": 65536, "size_px": 512, "width": 4096}))
    with pytest.raises(UserError, match="GB of memory"):
        huge.fit(discs(ctx, 2), ctx)
    assert not list(ctx.work.iterdir())


def test_a_checkpoint_of_another_shape_or_cut_short_is_refused(mapped: Run, tmp_path: Path) -> None:
    for name, change in (("config.json", (b'"width": 16', b'"width": 24')), ("model.safetensors", None)):
        loaded(mapped).save(tmp_path / name)
        path = tmp_path / name / name
        data = path.read_bytes()
        path.write_bytes(data.replace(*change) if change else data[: len(data) // 2])
        with pytest.raises(UserError, match="no vae checkpoint"):
            read_checkpoint(tmp_path / name, DEVICE)
