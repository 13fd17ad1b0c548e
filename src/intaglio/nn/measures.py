"""How far apart two sets of vectors are, what a sample covers, and how sure a figure is.

Papers:  Bińkowski et al. (2018), "Demystifying MMD GANs", arXiv:1801.01401, sec. 4 (kernel distance);
         Heusel et al. (2017), arXiv:1706.08500, eq. 6 (Fréchet distance); Kynkäänniemi et al. (2019), arXiv:1904.06991,
         eq. 1 and 2 (precision, recall); Naeem et al. (2020), arXiv:2002.09797, eq. 5 and 6 (density, coverage);
         Efron and Stein (1981), "The jackknife estimate of variance"; Mann and Whitney (1947).
Licence: ours; written from the papers.
Shapes:  N, M vectors, D features, K neighbours, R bootstrap draws. Vectors are float tensors; sums are in float64.

Figures are meant for features of ``nn/features.py`` and carry its name; nothing here is an "FID".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

CHUNK = 1024
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    def plain(self, digits: int = 6) -> list[float]:
        """``[value, low, high]``, rounded, as figures are kept."""
        return [round(each, digits) for each in (self.value, self.low, self.high)]


@dataclass(frozen=True)
class Coverage:
    """Four figures of a made set beside a real one; see ``prdc``."""

    precision: float
    recall: float
    density: float
    coverage: float


# ---------------------------------------------------------------------------------------------------- distances of sets
def kid(x_ND: Tensor, y_MD: Tensor) -> Interval:
    """Unbiased squared maximum mean discrepancy under the kernel (x.y / D + 1)^3; about 0 for equal distributions.

    It may fall below 0. The interval is the jackknife's over both sets: honest where they differ, too wide (never too
    narrow) where they are alike. Memory is linear in the number of vectors.
    Errors: ValueError: fewer than 3 vectors on a side, or another number of features.
    """
    _check(x_ND, y_MD, least=3)
    n, m = len(x_ND), len(y_MD)
    own_x, own_y = _kernel_sums(x_ND, x_ND), _kernel_sums(y_MD, y_MD)
    own_x -= _kernel_of_itself(x_ND)
    own_y -= _kernel_of_itself(y_MD)
    cross_x, cross_y = _kernel_sums(x_ND, y_MD), _kernel_sums(y_MD, x_ND)
    xx, yy, xy = own_x.sum(), own_y.sum(), cross_x.sum()
    value = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    without_x = (xx - 2 * own_x) / ((n - 1) * (n - 2)) + yy / (m * (m - 1)) - 2 * (xy - cross_x) / ((n - 1) * m)
    without_y = xx / (n * (n - 1)) + (yy - 2 * own_y) / ((m - 1) * (m - 2)) - 2 * (xy - cross_y) / (n * (m - 1))
    variance = sum((len(w) - 1) * w.var(correction=0) for w in (without_x, without_y))
    half = _NORMAL_95 * math.sqrt(float(variance))
    return Interval(float(value), float(value) - half, float(value) + half)


def _kernel_sums(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """Of each x the sum of the kernel with all y: (N), float64."""
    total = torch.zeros(len(x_ND), dtype=torch.float64, device=x_ND.device)
    for rows, x in _chunks(x_ND):
        for _, y in _chunks(y_MD):
            total[rows] += ((x @ y.mT).double() / x.shape[1] + 1).pow(3).sum(1)
    return total


def _kernel_of_itself(x_ND: Tensor) -> Tensor:
    return (x_ND.double().square().sum(1) / x_ND.shape[1] + 1).pow(3)


def frechet(x_ND: Tensor, y_MD: Tensor) -> float:
    """Squared Fréchet distance of the two normal distributions with the sets' means and covariances.

    Biased upwards, the more the fewer vectors: compare only figures of equal N, M and features. The trace of the
    product's root is the nuclear norm of the centred sets' product, or with many vectors taken from covariances.
    Errors: ValueError: fewer than 2 vectors on a side, or another number of features.
    """
    _check(x_ND, y_MD, least=2)
    x, y = x_ND.double(), y_MD.double()
    between = (x.mean(0) - y.mean(0)).square().sum()
    x, y = (each - each.mean(0) for each in (x, y))
    x, y = (each / math.sqrt(len(each) - 1) for each in (x, y))
    if min(len(x), len(y)) <= x.shape[1] and max(len(x), len(y)) <= 4 * x.shape[1]:
        shared = torch.linalg.svdvals(x @ y.mT).sum()
    else:
        values, vectors = torch.linalg.eigh(x.mT @ x)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
        shared = torch.linalg.eigvalsh(root @ (y.mT @ y) @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float(between + x.square().sum() + y.square().sum() - 2 * shared))


def prdc(real_ND: Tensor, fake_MD: Tensor, k: int = 5) -> Coverage:
    """How like the real set the fake one is (precision, density) and how much of it it reaches (recall, coverage).

    A ball around each vector reaches to its k-th nearest of the same set. precision: share of fakes in any real ball.
    recall: share of reals in any fake ball. density: real balls a fake lies in, over k; may pass 1, and single
    outliers among the reals hardly move it. coverage: share of real balls that hold a fake. Two samples of one
    distribution give about 1 for density and 1 - 2^-k for coverage where N equals M. Memory is linear.
    Errors: ValueError: not more than k vectors on a side, or another number of features.
    """
    _check(real_ND, fake_MD, least=k + 1)
    middle = real_ND.double().mean(0)
    real, fake = real_ND.double() - middle, fake_MD.double() - middle
    real_radius, fake_radius = (_radii(each, k) for each in (real, fake))
    inside = torch.zeros(len(fake), dtype=torch.float64, device=real.device)
    reached = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    holds = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, part in _chunks(real):
        apart = _distances(part, fake)
        within = apart <= real_radius[rows, None]
        inside += within.sum(0)
        holds[rows] = within.any(1)
        reached[rows] = (apart <= fake_radius).any(1)
    return Coverage(
        precision=float((inside > 0).double().mean()),
        recall=float(reached.double().mean()),
        density=float(inside.mean()) / k,
        coverage=float(holds.double().mean()),
    )


def nearest(x_ND: Tensor, y_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Of each x the distance to the nearest y and that y's number: two tensors (N), float64 and int64."""
    middle = y_MD.double().mean(0)
    x_ND, y_MD = x_ND.double() - middle, y_MD.double() - middle
    distance = torch.full((len(x_ND),), math.inf, dtype=torch.float64, device=x_ND.device)
    place = torch.zeros(len(x_ND), dtype=torch.int64, device=x_ND.device)
    for columns, part in _chunks(y_MD):
        found, index = _distances(x_ND, part).min(1)
        nearer = found < distance
        distance[nearer], place[nearer] = found[nearer], index[nearer] + columns.start
    return distance, place


def _radii(x_ND: Tensor, k: int) -> Tensor:
    """Of each vector the distance to its k-th nearest other one."""
    found = torch.empty(len(x_ND), dtype=x_ND.dtype, device=x_ND.device)
    for rows, part in _chunks(x_ND):
        apart = _distances(part, x_ND)
        own = torch.arange(len(part), device=x_ND.device)
        apart[own, own + rows.start] = -1  # itself is the first
        found[rows] = apart.kthvalue(k + 1, dim=1).values
    return found


def _distances(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    squares = x_ND.square().sum(1)[:, None] + y_MD.square().sum(1) - 2 * x_ND @ y_MD.mT
    return squares.clamp_(min=0).sqrt_()


def _chunks(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(x), CHUNK):
        yield slice(start, start + CHUNK), x[start : start + CHUNK]


def _check(x_ND: Tensor, y_MD: Tensor, *, least: int) -> None:
    shapes = tuple(x_ND.shape), tuple(y_MD.shape)
    if x_ND.ndim != 2 or y_MD.ndim != 2 or x_ND.shape[1] != y_MD.shape[1]:
        raise ValueError(f"two sets of vectors with the same features are needed. Received: shapes {shapes}")
    if min(len(x_ND), len(y_MD)) < least:
        raise ValueError(f"at least {least} vectors a side are needed. Received: shapes {shapes}")
    if not (torch.isfinite(x_ND).all() and torch.isfinite(y_MD).all()):
        raise ValueError("the vectors hold NaN or infinite values")


# --------------------------------------------------------------------------------------------------- how sure it all is
def mean_of(values_RN: Tensor) -> Tensor:
    """The mean over the last dimension."""
    return values_RN.mean(-1)


def bootstrap_interval(
    values_N: Tensor, *, statistic: Callable[[Tensor], Tensor] = mean_of, draws: int = 2000, seed: int = 0
) -> Interval:
    """A statistic of ``values`` with its 95 % percentile interval over ``draws`` resamplings.

    statistic: of (R, N) values along the last dimension: (R).  Errors: ValueError: there is no value.
    """
    values = values_N.detach().double().cpu()
    if values.ndim != 1 or not len(values):
        raise ValueError(f"a row of values is needed. Received: shape {tuple(values.shape)}")
    generator = torch.Generator().manual_seed(seed)
    found = []
    part = max(1, 2**22 // len(values))
    for start in range(0, draws, part):
        rows = min(part, draws - start)
        found.append(statistic(values[torch.randint(len(values), (rows, len(values)), generator=generator)]))
    return _percentiles(float(statistic(values[None])[0]), torch.cat(found))


def compare(now_N: Tensor, best_N: Tensor, *, seed: int = 0) -> Literal["better", "worse", "unknown"]:
    """Whether the losses ``now`` are lower than ``best``, of the same items in the same order (paired bootstrap)."""
    if now_N.shape != best_N.shape:
        raise ValueError(f"losses of the same items are needed. Received: {tuple(now_N.shape)}, {tuple(best_N.shape)}")
    change = bootstrap_interval(now_N.double() - best_N.double(), seed=seed)
    if change.high < 0:
        return "better"
    return "worse" if change.low > 0 else "unknown"


def auc(low_N: Tensor, high_M: Tensor, *, draws: int = 1000, seed: int = 0) -> Interval:
    """The chance that a value of ``low`` lies below one of ``high`` (a tie counts half); 0.5 where they are alike.

    Errors: ValueError: a side is empty.
    """
    low, high = low_N.detach().double().cpu(), high_M.detach().double().cpu()
    if not (len(low) and len(high)):
        raise ValueError("both sides need values")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        resampled = [x[torch.randint(len(x), (len(x),), generator=generator)] for x in (low, high)]
        found.append(_below(resampled[0], resampled[1]))
    return _percentiles(_below(low, high), torch.tensor(found, dtype=torch.float64))


def _below(low: Tensor, high: Tensor) -> float:
    ordered = high.sort().values
    under = len(high) - torch.searchsorted(ordered, low, right=True)
    ties = torch.searchsorted(ordered, low, right=True) - torch.searchsorted(ordered, low)
    return float((under + 0.5 * ties).double().mean()) / len(high)


def _percentiles(value: float, found: Tensor) -> Interval:
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
    return Interval(value, low, high)


def bits(nats: float, units: int) -> float:
    """Nats of a whole as bits a unit: a byte, a character, a dimension. Errors: ValueError: there is no unit."""
    if units < 1:
        raise ValueError(f"units must be positive. Received: units={units}")
    return nats / (units * math.log(2))
