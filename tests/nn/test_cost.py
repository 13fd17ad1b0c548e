"""Costs of a step against closed forms, and when compiling pays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from intaglio.nn.cost import flops_of, seconds_of
from intaglio.nn.device import worth_compiling


def test_multiplications_of_a_linear_and_a_convolution() -> None:
    """2 m n k forward, twice that backward; a huge one costs nothing to count."""
    assert flops_of(lambda: nn.Linear(64, 32), (16, 64)) == 3 * 2 * 16 * 64 * 32
    assert flops_of(lambda: nn.Conv2d(3, 8, 3, padding=1), (2, 3, 10, 10)) == 3 * 2 * (2 * 100 * 8) * 27
    assert flops_of(lambda: nn.Linear(200_000, 200_000), (1_000_000, 200_000)) == 6e6 * 200_000**2


def test_a_step_is_timed_and_leaves_gradients() -> None:
    model = nn.Linear(8, 8)
    seconds = seconds_of(lambda: model(torch.ones(4, 8)).sum(), budget_s=0.01)
    assert 0 < seconds < 60 and model.weight.grad is not None


@pytest.mark.parametrize(("seconds", "device", "pays"), [(60, "cpu", False), (60, "cuda", False), (3600, "cuda", True)])
def test_compiling_pays_only_for_long_trainings(seconds: float, device: str, pays: bool) -> None:
    assert worth_compiling(seconds, device) is pays
