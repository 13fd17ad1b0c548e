"""Bounds and weights of the autoencoder as the papers have them: importance samples, beta, free bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from intaglio.models import _autoencoder as ae
from intaglio.nn import likelihoods
from tests.models.test_vae import fitted

LATENTS, SIDE = 3, 4


class _Linear(nn.Module):
    """x = W z, or the exact Gaussian posterior of it, its mean off by ``error`` and its spread wrong by ``factor``."""

    def __init__(self, weight: Tensor, bias: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight, self.bias, self.shape = weight, bias, shape

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.weight.T + self.bias).view(-1, *self.shape)


def principal(sigma: float, *, off: float, factor: float) -> tuple[ae.Autoencoder, Tensor]:
    """Probabilistic principal components: x = m + W z + noise; the encoder is its posterior, made worse."""
    generator = torch.Generator().manual_seed(4)
    weight = 0.15 * torch.randn(SIDE**2, LATENTS, generator=generator)
    shape = ae.Shape(net="mlp", size_px=SIDE, channels=1, width=8, latents=LATENTS, blocks=1, likelihood="gaussian")
    model = ae.Autoencoder(shape)
    model.start_from(torch.full((1, SIDE, SIDE), 0.5), 1.0)
    model.variance.fill_(sigma**2)
    inverse = torch.linalg.inv(weight.T @ weight + sigma**2 * torch.eye(LATENTS))
    spread = (sigma**2 * inverse.diagonal()).log() + 2 * math.log(factor)
    model.decoder = _Linear(weight, torch.zeros(SIDE**2), (1, SIDE, SIDE))
    lines = torch.cat([inverse @ weight.T, torch.zeros(LATENTS, SIDE**2)])
    model.encoder = _Linear(lines, torch.cat([torch.full((LATENTS,), off), spread]), (2 * LATENTS,))
    return model, weight @ weight.T + sigma**2 * torch.eye(SIDE**2)


def drawn(covariance: Tensor, count: int) -> Tensor:
    noise = torch.randn(count, SIDE**2, generator=torch.Generator().manual_seed(9))
    return (0.5 + noise @ torch.linalg.cholesky(covariance).T).view(count, 1, SIDE, SIDE)


def exact_nats(x: Tensor, covariance: Tensor) -> float:
    """-log p(x) by scipy; a density times the width of a level."""
    law = stats.multivariate_normal(np.full(SIDE**2, 0.5), covariance.double().numpy())
    return float(-np.mean(law.logpdf(x.flatten(1).double().numpy()))) + SIDE**2 * math.log(255)


def test_more_importance_samples_come_nearer_to_the_exact_likelihood() -> None:
    """Burda et al. (2016), theorem 1: the bound falls with k and never passes log p(x), which is known here."""
    model, covariance = principal(0.2, off=0.25, factor=1.3)
    x = drawn(covariance, 400).clamp(0.01, 0.99)
    exact = exact_nats(x, covariance)
    generator = torch.Generator().manual_seed(0)
    found = [float(ae.bound_nats(model, x, generator, samples=k).mean()) for k in (1, 4, 16, 64, 512)]
    assert found == sorted(found, reverse=True)
    assert found[0] > exact + 0.4 and found[-1] == pytest.approx(exact, abs=0.03)
    assert all(each > exact - 0.03 for each in found)


def test_the_bound_of_one_sample_is_the_elbo_and_its_gap_the_kl_to_the_posterior() -> None:
    model, covariance = principal(0.2, off=0.25, factor=1.3)
    x = drawn(covariance, 2000).clamp(0.01, 0.99)
    mean, logvar = model.encode(x)
    right, _ = principal(0.2, off=0.0, factor=1.0)
    weight = right.decoder.weight
    precision = weight.T @ weight / 0.2**2 + torch.eye(LATENTS)
    law = torch.distributions.MultivariateNormal(right.encode(x)[0], precision_matrix=precision)
    own = torch.distributions.MultivariateNormal(mean, torch.diag_embed(logvar.exp()))
    gap = float(torch.distributions.kl_divergence(own, law).mean())
    found = float(ae.bound_nats(model, x, torch.Generator().manual_seed(3), samples=1).mean())
    assert found - exact_nats(x, covariance) == pytest.approx(gap, abs=0.08)
    pixels = (x * 255).round().byte().numpy()
    figures = ae.figures(model, pixels, torch.Generator().manual_seed(5), samples=32, bounded=2000)
    assert -figures["elbo_nats"] == pytest.approx(found, abs=0.12)
    assert figures["bound_nats"] > figures["elbo_nats"] + 0.3


def test_bits_a_dimension_count_the_coins() -> None:
    """One level of 256, all as likely: 8 bits; a fair coin a pixel: 1 bit."""
    assert likelihoods.bits_per_dimension(math.log(256) * 12, 12) == pytest.approx(8.0)
    x = torch.randint(0, 2, (3, 12), generator=torch.Generator().manual_seed(0)).float()
    nats = likelihoods.bernoulli_nats(torch.zeros(3, 12), x)
    assert likelihoods.bits_per_dimension(float(nats.mean()), 12) == pytest.approx(1.0)
    both = torch.tensor([[0.0], [1.0]])
    law = likelihoods.bernoulli_nats(torch.full((2, 1), 0.7), both)
    assert float((-law).exp().sum()) == pytest.approx(1.0)


def test_what_is_judged_is_each_picture_by_itself() -> None:
    model, covariance = principal(0.2, off=0.0, factor=1.0)
    pixels = (drawn(covariance, 60).clamp(0, 1) * 255).round().byte().numpy()
    found = ae.judge(model, pixels, torch.Generator().manual_seed(0))
    assert found.shape == (60,) and float(found.std()) > 0
    free = ae.judge(model, pixels, torch.Generator().manual_seed(0), beta=0.0)
    mean, logvar = model.encode(torch.from_numpy(pixels).float() / 255)
    kl = likelihoods.kl_nats(mean, logvar).sum(1) / SIDE**2
    torch.testing.assert_close((found - free).float(), kl, rtol=1e-4, atol=1e-5)


def _figures(root: Path, **config: Any) -> dict[str, Any]:
    return fitted(root, {"images": 1_600, "latents": 8, **config})[1]


def test_beta_trades_reconstruction_for_fewer_nats_of_code(tmp_path: Path) -> None:
    """Higgins et al. (2017): more weight on the KL, less of it, and a worse reconstruction."""
    found = [_figures(tmp_path / str(beta), beta=beta) for beta in (0.1, 1.0, 10.0)]
    kl = [each["heldout_kl_nats"] for each in found]
    assert kl[0] > kl[1] > kl[2]
    error = [each["heldout_reconstruction_mse"] for each in found]
    assert error[2] > error[0]


def test_free_bits_keep_latents_in_use(tmp_path: Path) -> None:
    """Kingma et al. (2016), C.8: under a heavy KL latents fall silent; below the floor they are not pushed."""
    silent, kept = (_figures(tmp_path / str(floor), beta=30.0, free_bits=floor) for floor in (0.0, 1.0))
    assert kept["heldout_kl_nats"] > 2 * silent["heldout_kl_nats"]
    assert kept["heldout_kl_nats"] > 8 * 0.6
    assert kept["active_latents"] == 8 >= silent["active_latents"]
