"""Parzen window estimate: how likely held-out vectors are under a Gaussian set on each drawn one.

Papers:  Breuleux et al. (2011), "Quickly Generating Representative Samples from an RBM-Derived Process" (the method);
         Goodfellow et al. (2014), "Generative Adversarial Nets", arXiv:1406.2661, table 1 (width chosen by a
         validation set); Theis et al. (2016), arXiv:1511.01844, 3.2 (why it is a poor measure in many dimensions: it
         favours blurred means; told beside others only because old papers have it).
Licence: ours, written from the papers.
Shapes:  N held-out vectors, M drawn ones, D dimensions, in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WIDTHS = tuple(float(10.0 ** (-1.0 + step / 12)) for step in range(-9, 10))
_AT_ONCE = 256


@dataclass(frozen=True)
class Parzen:
    """nats: mean log-density of the held-out vectors, more is better; error: its standard error; sigma: the width."""

    nats: float
    error: float
    sigma: float


def log_density(x_ND: Tensor, drawn_MD: Tensor, sigma: float) -> Tensor:
    """log of the mean over M of N(x; drawn, sigma^2), (N,), float64."""
    drawn, constant = (
        drawn_MD.double(),
        math.log(len(drawn_MD)) + x_ND.shape[1] * math.log(sigma * math.sqrt(2 * math.pi)),
    )
    parts = []
    for x in x_ND.double().split(_AT_ONCE):
        squares = torch.cdist(x, drawn, compute_mode="use_mm_for_euclid_dist").square()
        parts.append(torch.logsumexp(-squares / (2.0 * sigma**2), 1) - constant)
    return torch.cat(parts)


def parzen(x_ND: Tensor, drawn_MD: Tensor, validation_VD: Tensor) -> Parzen:
    """The estimate for ``x`` with the width of ``WIDTHS`` under which the validation vectors are likeliest."""
    sigma = max(WIDTHS, key=lambda width: float(log_density(validation_VD, drawn_MD, width).mean()))
    found = log_density(x_ND, drawn_MD, sigma)
    return Parzen(float(found.mean()), float(found.std() / math.sqrt(len(found))), sigma)
