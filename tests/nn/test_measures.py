"""Distances and intervals against closed forms, brute force and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from intaglio.nn import measures
from intaglio.nn.measures import auc, bits, bootstrap_interval, compare, frechet, kid, nearest, prdc


def draw(count: int, dims: int, *, seed: int, mean: float = 0.0, spread: float = 1.0) -> Tensor:
    return mean + spread * torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))


def test_frechet_is_that_of_the_sets_normal_distributions() -> None:
    x, y = draw(300, 6, seed=0) @ draw(6, 6, seed=2), draw(200, 6, seed=1, mean=0.5) @ draw(6, 6, seed=3)
    a, b = np.cov(x.double().numpy(), rowvar=False), np.cov(y.double().numpy(), rowvar=False)
    values = np.linalg.eigvals(a @ b)
    between = float((x.double().mean(0) - y.double().mean(0)).square().sum())
    expected = between + np.trace(a) + np.trace(b) - 2 * np.sqrt(values.real.clip(0)).sum()
    assert frechet(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet(y, x) == pytest.approx(expected, rel=1e-9)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_has_the_closed_form_of_normal_distributions() -> None:
    """Spherical normals: D (m1 - m2)^2 + D (s1 - s2)^2."""
    found = frechet(draw(40_000, 4, seed=0, mean=1, spread=2), draw(40_000, 4, seed=1, mean=-1, spread=0.5))
    assert found == pytest.approx(4 * 2**2 + 4 * 1.5**2, rel=0.02)


def test_frechet_with_few_vectors_takes_another_way_to_the_same_figure() -> None:
    x, y = draw(20, 30, seed=0), draw(25, 30, seed=1, spread=2)
    a, b = (each.double() - each.double().mean(0) for each in (x, y))
    a, b = a.mT @ a / 19, b.mT @ b / 24
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    shared = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    between = (x.double().mean(0) - y.double().mean(0)).square().sum()
    assert frechet(x, y) == pytest.approx(float(between + a.trace() + b.trace() - 2 * shared), rel=1e-6)


def brute_kid(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return float((torch.dot(a, b) / len(a) + 1) ** 3)

    x, y = x.double(), y.double()
    own = [sum(kernel(a, b) for a, b in itertools.permutations(s, 2)) / (len(s) * (len(s) - 1)) for s in (x, y)]
    return sum(own) - 2 * sum(kernel(a, b) for a, b in itertools.product(x, y)) / (len(x) * len(y))


def test_kid_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "CHUNK", 5)
    x, y = draw(13, 3, seed=0), draw(9, 3, seed=1, mean=0.3)
    found = kid(x, y)
    assert found.value == pytest.approx(brute_kid(x, y), rel=1e-5)
    without = [
        np.array([brute_kid(x[torch.arange(13) != i], y) for i in range(13)]),
        np.array([brute_kid(x, y[torch.arange(9) != i]) for i in range(9)]),
    ]
    error = math.sqrt(sum((len(w) - 1) * w.var() for w in without))
    assert found.high - found.value == pytest.approx(1.959964 * error, rel=1e-4)


def test_kid_of_one_distribution_is_nothing_on_average() -> None:
    found = [kid(draw(40, 8, seed=2 * n), draw(40, 8, seed=2 * n + 1)) for n in range(200)]
    values = np.array([each.value for each in found])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert (values < 0).mean() > 0.3  # unbiased, so it falls below zero as well
    assert np.mean([each.low <= 0 <= each.high for each in found]) > 0.93


def test_kids_interval_holds_the_truth() -> None:
    truth = np.mean([kid(draw(400, 4, seed=n), draw(400, 4, seed=n + 50, mean=0.7)).value for n in range(20)])
    found = [kid(draw(60, 4, seed=n + 100), draw(60, 4, seed=n + 500, mean=0.7)) for n in range(100)]
    assert np.mean([each.low <= truth <= each.high for each in found]) > 0.87


def brute_prdc(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None] - b[None], axis=2)

    radius = [np.sort(apart(each, each), axis=1)[:, k] for each in (real, fake)]
    within = apart(real, fake) <= radius[0][:, None]
    reached = apart(real, fake) <= radius[1][None]
    return within.any(0).mean(), reached.any(1).mean(), within.sum(0).mean() / k, within.any(1).mean()


@pytest.mark.parametrize("chunk", [7, 1024])
def test_prdc_against_the_definitions(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "CHUNK", chunk)
    real, fake = draw(50, 3, seed=0), draw(40, 3, seed=1, mean=0.8)
    found = prdc(real, fake, k=3)
    expected = brute_prdc(real.double().numpy(), fake.double().numpy(), 3)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)


def test_prdc_at_its_ends() -> None:
    real = draw(400, 4, seed=0)
    alike, far = prdc(real, draw(400, 4, seed=1)), prdc(real, draw(400, 4, seed=1, mean=50))
    assert alike.density == pytest.approx(1, abs=0.15) and alike.coverage == pytest.approx(1 - 2**-5, abs=0.03)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)
    one = prdc(real, real[:1].repeat(400, 1))  # a single picture over and over
    assert one.precision == 1 and one.recall < 0.02 and one.coverage < 0.05


def test_density_is_not_fooled_by_an_outlier() -> None:
    """Naeem et al., figure 2: one far real vector opens a large ball that precision counts and density hardly does."""
    real = torch.cat([draw(200, 2, seed=0), torch.tensor([[8.0, 8.0]])])
    fake = draw(200, 2, seed=1, mean=5.0, spread=0.3)
    found = prdc(real, fake)
    assert found.precision > 0.9 and found.density < 0.3


def test_nearest_is_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "CHUNK", 4)
    x, y = draw(9, 3, seed=0), draw(11, 3, seed=1)
    distance, place = nearest(x, y)
    expected = torch.cdist(x.double(), y.double()).min(1)
    torch.testing.assert_close(distance, expected.values)
    assert torch.equal(place, expected.indices)


@pytest.mark.parametrize("measure", [kid, frechet, prdc])
def test_what_cannot_be_compared_is_refused(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="same features"):
        measure(draw(20, 3, seed=0), draw(20, 4, seed=0))
    with pytest.raises(ValueError, match="at least"):
        measure(draw(20, 3, seed=0), draw(1, 3, seed=0))
    with pytest.raises(ValueError, match="NaN"):
        measure(draw(20, 3, seed=0), draw(20, 3, seed=0) / 0 * 0)


def test_bootstrap_holds_the_mean_and_any_statistic() -> None:
    values = [draw(50, 1, seed=n, mean=3.0)[:, 0] for n in range(200)]
    found = [bootstrap_interval(each, draws=400, seed=1) for each in values]
    assert 0.88 < np.mean([each.low <= 3 <= each.high for each in found]) < 0.99
    assert found[0] == bootstrap_interval(values[0], draws=400, seed=1) != bootstrap_interval(values[0], draws=400)
    middle = bootstrap_interval(values[0], statistic=lambda x: x.median(-1).values)
    assert middle.value == pytest.approx(float(values[0].double().median()))
    assert bootstrap_interval(torch.tensor([2.0])).plain() == [2, 2, 2]
    with pytest.raises(ValueError, match="row of values"):
        bootstrap_interval(torch.zeros(0))


def test_compare_pairs_the_items() -> None:
    best = draw(200, 1, seed=0, spread=5.0)[:, 0]
    small = draw(200, 1, seed=1, spread=0.1)[:, 0]
    assert compare(best - 0.1 + small, best) == "better"  # lost in the spread of the items, plain when paired
    assert compare(best + 0.1 + small, best) == "worse"
    assert compare(best + small - small.mean(), best) == "unknown" == compare(best, best)
    with pytest.raises(ValueError, match="same items"):
        compare(best, best[:-1])


def test_auc_counts_pairs() -> None:
    low, high = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([2.0, 3.0])
    pairs = [(a < b) + 0.5 * (a == b) for a, b in itertools.product(low.tolist(), high.tolist())]
    assert auc(low, high, draws=10).value == pytest.approx(np.mean(pairs))
    found = auc(draw(300, 1, seed=0)[:, 0], draw(300, 1, seed=1, mean=1.0)[:, 0])
    expected = 0.5 * (1 + math.erf(1 / 2))  # of two normals one apart
    assert found.low < expected < found.high and found.high - found.low < 0.1
    with pytest.raises(ValueError, match="both sides"):
        auc(low, torch.zeros(0))


def test_bits() -> None:
    assert bits(8 * math.log(2), 4) == pytest.approx(2)
    with pytest.raises(ValueError, match="units=0"):
        bits(1.0, 0)
