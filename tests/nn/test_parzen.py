"""The Parzen estimate against scipy and a known density."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from intaglio.nn.parzen import log_density, parzen


def test_density_is_that_of_a_mixture_by_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn, x = torch.rand(7, 3, generator=generator), torch.rand(300, 3, generator=generator)
    laws = [stats.multivariate_normal(each.numpy(), 0.3**2 * np.eye(3)) for each in drawn]
    expected = np.log(np.mean([law.pdf(x.numpy()) for law in laws], axis=0))
    np.testing.assert_allclose(log_density(x, drawn, 0.3).numpy(), expected, rtol=1e-5)


def test_width_is_chosen_by_validation_and_the_figure_nears_the_truth() -> None:
    generator = torch.Generator().manual_seed(1)
    x, validation, drawn = (0.2 * torch.randn(count, 2, generator=generator) for count in (500, 500, 8000))
    found = parzen(x, drawn, validation)
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.2))
    assert found.nats == pytest.approx(-entropy, abs=0.12) and 0.0 < found.error < 0.1
    assert 0.017 < found.sigma < 0.2
    assert found.nats > float(log_density(x, drawn, 0.2).mean())
