"""A mixture of Gaussians fitted to the latents of trained pictures, to draw new latents where the decoder has learned.

Paper:   Ghosh et al. (2020), "From Variational to Deterministic Autoencoders", arXiv:1903.12436, section 4 (ex-post
         density estimation); EM as in Dempster, Laird and Rubin (1977).
Licence: ours.
Shapes:  N points, Z dimensions, K components. Computed in float64, stored in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = 96  # of a map's codes; a full covariance of thousands of numbers would need more pictures than there are
COMPONENTS = (1, 2, 4, 8, 16)
_SHRINK = 0.1  # share of each covariance replaced by its diagonal: full covariances from few points overfit
_ROUNDS = 40


@dataclass(frozen=True)
class Mixture:
    """weights (K,), means (K, Z), and lower Cholesky factors of the covariances (K, Z, Z)."""

    weights_K: Tensor
    means_KZ: Tensor
    factors_KZZ: Tensor

    def nats(self, points_NZ: Tensor) -> Tensor:
        """-log density of each point, (N,)."""
        return -torch.logsumexp(self._joint(points_NZ.to(self.means_KZ)), 1)

    def draw(self, generator: torch.Generator, *, temperature: float = 1.0) -> Tensor:
        """One point, (Z,), float32; ``temperature`` scales the distance from the component's mean."""
        place = torch.rand((), generator=generator, dtype=torch.float64)
        k = int((self.weights_K.double().cumsum(0) < place).sum().clamp(max=len(self.weights_K) - 1))
        noise = torch.randn(self.means_KZ.shape[1], generator=generator)
        return self.means_KZ[k].float() + temperature * (self.factors_KZZ[k].float() @ noise)

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        parts = {"weights": self.weights_K, "means": self.means_KZ, "factors": self.factors_KZZ}
        return {f"prior.{name}": value.float() for name, value in parts.items()}

    @staticmethod
    def of(tensors: dict[str, Tensor]) -> Mixture:
        """What ``tensors`` gave."""
        return Mixture(tensors["prior.weights"], tensors["prior.means"], tensors["prior.factors"])

    def _joint(self, points_NZ: Tensor) -> Tensor:
        away_KZN = (points_NZ[None] - self.means_KZ[:, None]).mT
        scaled_KZN = torch.linalg.solve_triangular(self.factors_KZZ, away_KZN, upper=False)
        logdet_K = self.factors_KZZ.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = 0.5 * points_NZ.shape[1] * math.log(2 * math.pi)
        return (self.weights_K.log() - logdet_K - constant - 0.5 * scaled_KZN.square().sum(1).T).to(points_NZ.dtype)


@dataclass(frozen=True)
class Plane:
    """One Gaussian for codes of thousands of numbers: mean (Z,), directions (R, Z) scaled to their spread, rest (Z,).

    z = mean + noise_R @ directions + noise_Z * rest: probabilistic principal components (Tipping and Bishop, 1999).
    """

    mean_Z: Tensor
    directions_RZ: Tensor
    rest_Z: Tensor

    def draw(self, generator: torch.Generator, *, temperature: float = 1.0) -> Tensor:
        """One point, (Z,), float32; ``temperature`` scales the distance from the mean."""
        along = torch.randn(len(self.directions_RZ), generator=generator) @ self.directions_RZ.float()
        return self.mean_Z.float() + temperature * (
            along + torch.randn(len(self.rest_Z), generator=generator) * self.rest_Z.float()
        )

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        parts = {"mean": self.mean_Z, "directions": self.directions_RZ, "rest": self.rest_Z}
        return {f"prior.{name}": value.float() for name, value in parts.items()}


Density = Mixture | Plane


def of(tensors: dict[str, Tensor]) -> Density:
    """What ``tensors`` of a density gave."""
    if "prior.rest" in tensors:
        return Plane(tensors["prior.mean"], tensors["prior.directions"], tensors["prior.rest"])
    return Mixture.of(tensors)


def fit_map(points_NZ: Tensor) -> Plane:
    """One Gaussian along the directions in which the points vary most, and the rest in each dimension by itself."""
    mean = points_NZ.mean(0)
    away = points_NZ - mean
    count = min(DIRECTIONS, (len(away) - 1) // 2)
    if count < 1:
        return Plane(mean, torch.zeros(0, len(mean)), points_NZ.var(0, unbiased=False).sqrt())
    _, values, vectors = torch.linalg.svd(away, full_matrices=False)
    directions = vectors[:count] * (values[:count, None] / len(away) ** 0.5)
    rest = (away.var(0, unbiased=False) - directions.square().sum(0)).clamp(min=0.0).sqrt()
    return Plane(mean, directions, rest)


def normal(latents: int) -> Mixture:
    """The prior itself: one standard Gaussian."""
    return Mixture(torch.ones(1), torch.zeros(1, latents), torch.eye(latents)[None])


def fit(points_NZ: Tensor, *, heldout_MZ: Tensor | None, seed: int) -> Mixture:
    """The mixture that gives held-out points the highest density, of 1 to 16 components, each with full covariance.

    Every component must have at least 2 Z points on average; without held-out points there is one component.
    """
    points = points_NZ.double()
    judged = heldout_MZ.double() if heldout_MZ is not None and len(heldout_MZ) >= 8 else None
    best, best_nats = _em(points, 1, seed), math.inf
    if judged is None:
        return best
    for count in COMPONENTS:
        if count > 1 and len(points) < 2 * points.shape[1] * count:
            break
        mixture = best if count == 1 else _em(points, count, seed)
        nats = float(mixture.nats(judged).mean())
        if nats < best_nats:
            best, best_nats = mixture, nats
    return best


def _em(points_NZ: Tensor, count: int, seed: int) -> Mixture:
    spread = points_NZ.var(0, unbiased=False).clamp(min=1e-6)
    share_NK = torch.nn.functional.one_hot(_nearest(points_NZ, _seeds(points_NZ, count, seed)), count).double()
    before = math.inf
    for _ in range(_ROUNDS):
        mixture = _maximize(points_NZ, share_NK, spread)
        joint = mixture._joint(points_NZ)
        total = torch.logsumexp(joint, 1, keepdim=True)
        share_NK = (joint - total).exp()
        now = -float(total.mean())
        if before - now < 1e-4 * max(1.0, abs(now)):
            break
        before = now
    return mixture


def _maximize(points_NZ: Tensor, share_NK: Tensor, spread_Z: Tensor) -> Mixture:
    mass_K = share_NK.sum(0).clamp(min=1e-9)
    means = (share_NK.T @ points_NZ) / mass_K[:, None]
    away = points_NZ[None] - means[:, None]
    full = (away * share_NK.T[:, :, None]).mT @ away / mass_K[:, None, None]
    own = torch.diag_embed(full.diagonal(dim1=1, dim2=2))
    # a component of few points leans on the spread of all, so that it never collapses onto one picture
    lean = (points_NZ.shape[1] / (points_NZ.shape[1] + mass_K))[:, None, None] * 0.5
    mixed = (1 - _SHRINK) * full + _SHRINK * own
    mixed = (1 - lean) * mixed + lean * own + 1e-3 * torch.diag_embed(spread_Z)[None] + 1e-9 * torch.eye(len(spread_Z))
    return Mixture(mass_K / mass_K.sum(), means, torch.linalg.cholesky(mixed))


def _seeds(points_NZ: Tensor, count: int, seed: int) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii, 2007): far-apart points as first centres."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(points_NZ), (), generator=generator))]
    for _ in range(count - 1):
        squares = torch.cdist(points_NZ, points_NZ[chosen]).square().min(1).values
        if float(squares.sum()) == 0.0:
            chosen.append(chosen[0])
            continue
        chosen.append(int(torch.multinomial(squares, 1, generator=generator)))
    return points_NZ[chosen]


def _nearest(points_NZ: Tensor, centres_KZ: Tensor) -> Tensor:
    return torch.cdist(points_NZ, centres_KZ).argmin(1)
