"""What a variational autoencoder is scored by: likelihoods of pixels, KL terms and bounds, all in nats a picture.

Papers:  Kingma and Welling (2014), "Auto-Encoding Variational Bayes", arXiv:1312.6114, appendix B (Gaussian KL);
         Rybkin et al. (2021), "Simple and Effective VAE Training with Calibrated Decoders", arXiv:2006.13202 (one
         learned variance); Salimans et al. (2017), "PixelCNN++", arXiv:1701.05517 (discretized logistic);
         Kingma et al. (2016), arXiv:1606.04934, appendix C.8 (free bits); Burda et al. (2016), "Importance Weighted
         Autoencoders", arXiv:1509.00519 (bound of k samples, active units).
Licence: ours, written from the papers.
Shapes:  B batch, Z latent dimensions, D pixels times channels, K samples. Pictures are floats in [0, 1].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 256  # pictures are stored in bytes
ACTIVE = 0.01  # a latent is used where the variance of its posterior mean over the data is above this (Burda et al.)
_HALF = 0.5 / (LEVELS - 1)


def kl_nats(mean_BZ: Tensor, logvar_BZ: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of each latent, (B, Z), in nats; zero only for the prior itself."""
    return 0.5 * (mean_BZ.square() + logvar_BZ.exp() - 1.0 - logvar_BZ)


def with_free_bits(kl_BZ: Tensor, floor_nats: float) -> Tensor:
    """The KL of each picture, (B,), where a latent whose mean KL over the batch is below ``floor_nats`` costs the floor
    and is not pushed further towards the prior."""
    if floor_nats <= 0.0:
        return kl_BZ.sum(1)
    return kl_BZ.mean(0).clamp(min=floor_nats).sum().expand(len(kl_BZ))


def bernoulli_nats(logits_BD: Tensor, x_BD: Tensor) -> Tensor:
    """-log p(x) of each picture, (B,): a probability where x is 0 or 1, a cross entropy for grey in between."""
    return F.binary_cross_entropy_with_logits(logits_BD, x_BD, reduction="none").sum(1)


def gaussian_nats(mean_BD: Tensor, x_BD: Tensor, variance: Tensor) -> Tensor:
    """-log density of each picture, (B,), with one ``variance`` (a scalar) for all pixels; x in [0, 1]."""
    return 0.5 * ((mean_BD - x_BD).square() / variance + variance.log() + math.log(2.0 * math.pi)).sum(1)


def gaussian_levels_nats(mean_BD: Tensor, x_BD: Tensor, variance: Tensor) -> Tensor:
    """-log p of the byte values of each picture, (B,): the Gaussian's mass on each level, its tails on 0 and 255.

    A density is no probability; this is, so it can be given in bits and compared with other likelihoods.
    """
    scale = variance.rsqrt()
    upper, lower = (x_BD - mean_BD + _HALF) * scale, (x_BD - mean_BD - _HALF) * scale
    # the far tail is taken on the negative side, where log_ndtr keeps its precision
    flip = lower > 0
    near, far = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_near, log_far = torch.special.log_ndtr(near), torch.special.log_ndtr(far)
    inside = log_near + torch.log1p(-(log_far - log_near).clamp(max=-1e-6).exp())
    first, last = x_BD < _HALF, x_BD > 1.0 - _HALF  # whose tail is on the near side, or all but the far one
    tail = torch.where(flip == last, log_near, torch.log1p(-log_far.clamp(max=-1e-6).exp()))
    return -torch.where(first | last, tail, inside).sum(1)


def logistic_levels_nats(mean_BD: Tensor, x_BD: Tensor, log_scale: Tensor) -> Tensor:
    """-log p of the byte values of each picture, (B,), under a logistic distribution (Salimans et al., eq. 2).

    log_scale: broadcast over pixels, in log of [0, 1] units.
    """
    inverse = torch.exp(-log_scale)
    upper, lower = (x_BD - mean_BD + _HALF) * inverse, (x_BD - mean_BD - _HALF) * inverse
    # sigmoid(u) - sigmoid(l) = exp(logsig(u) + logsig(-l)) * (1 - exp(l - u)), precise in both tails
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1((lower - upper).clamp(max=-1e-6)))
    edges = torch.where(x_BD > 1.0 - _HALF, F.logsigmoid(-lower), inside)
    return -torch.where(x_BD < _HALF, F.logsigmoid(upper), edges).sum(1)


def importance_bound_nats(log_weights_KB: Tensor) -> Tensor:
    """-log of the mean importance weight of each picture, (B,): an upper bound of its negative log-likelihood, tighter
    with every sample. log_weights: log p(x|z) + log p(z) - log q(z|x) for K samples of z."""
    return math.log(len(log_weights_KB)) - torch.logsumexp(log_weights_KB, 0)


def active_units(means_BZ: Tensor) -> int:
    """How many latents are used: those whose posterior mean varies over the data."""
    return int((means_BZ.var(0, unbiased=False) > ACTIVE).sum())


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """Bits a pixel and channel from nats a picture."""
    return nats / dimensions / math.log(2.0)
