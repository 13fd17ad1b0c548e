"""The network of the variational autoencoder and what it is judged by; trained by ``models/vae.py``.

Shapes:  B batch, C channels, H height, W width, Z latent dimensions, D = C*H*W. Pictures are floats in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from intaglio.models._facts import Depth, Side, Width, one_of
from intaglio.models._feed import floats
from intaglio.nn import likelihoods, vision

SMALLEST_SIGMA = 1.0 / 128  # a perfect reconstruction would else ask for an infinite density
FIRST_LOGVAR = -3.0  # of a map's codes, which have unit variance at the start
_LOGVAR = (-14.0, 6.0)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the network looks like; kept in ``config.json`` of a checkpoint.

    net: ``conv``, ``mlp`` or ``map``. width: channels of the finest convolutional level, or units of the ``mlp``.
    latents: numbers of a code, all places of a map counted. blocks: residual blocks a level (not ``mlp``).
    likelihood: ``gaussian``, ``bernoulli`` or ``logistic``. down: a map's side is ``size_px / down``.
    """

    net: Annotated[str, one_of("conv", "mlp", "map")]
    size_px: Side
    channels: Annotated[int, one_of(1, 3)]
    width: Width
    latents: Annotated[int, Field(ge=1, le=2**20)]
    blocks: Depth
    likelihood: Annotated[str, one_of("gaussian", "bernoulli", "logistic")]
    down: Annotated[int, one_of(4, 8)] = 4

    @property
    def code(self) -> tuple[int, int, int]:
        """Channels, height and width of a code as a map; a vector is a map of one place."""
        side = self.size_px // self.down if self.net == "map" else 1
        return self.latents // side**2, side, side

    @property
    def pixels(self) -> tuple[int, int, int]:
        return self.channels, self.size_px, self.size_px

    @property
    def dimensions(self) -> int:
        return self.channels * self.size_px**2


class Autoencoder(nn.Module):
    """q(z|x), a Gaussian with its own mean and log-variance for each picture, and p(x|z).

    The decoder learns what differs from the mean picture of the training set. Codes are flat vectors here, also where
    the network keeps a map of them; ``code_mean`` and ``code_spread`` standardize each channel of a map.
    """

    mean_CHW: Tensor
    code_mean: Tensor
    code_spread: Tensor
    spread: Tensor
    variance: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        own = {"size_px": shape.size_px, "width": shape.width, "latents": shape.latents, "blocks": shape.blocks}
        if shape.net == "conv":
            self.encoder: nn.Module = vision.ConvEncoder(channels=shape.channels, **own)
            self.decoder: nn.Module = vision.ConvDecoder(outputs=shape.channels, **own)
        elif shape.net == "map":
            self.encoder, self.decoder = _map_pair(shape)
        else:
            self.encoder = vision.MlpEncoder(pixels=shape.dimensions, hidden=shape.width, latents=shape.latents)
            self.decoder = vision.MlpDecoder(shape=shape.pixels, hidden=shape.width, latents=shape.latents)
        self.register_buffer("mean_CHW", torch.full(shape.pixels, 0.5))
        self.register_buffer("spread", torch.tensor(0.25))
        self.register_buffer("variance", torch.tensor(0.05))
        self.register_buffer("code_mean", torch.zeros(shape.code[0]))
        self.register_buffer("code_spread", torch.ones(shape.code[0]))
        if shape.likelihood == "logistic":
            self.log_scale = nn.Parameter(torch.full((shape.channels, 1, 1), -2.5))

    def start_from(self, mean_CHW: Tensor, spread: float) -> None:
        """Take in the mean picture and the standard deviation around it, both of the training pictures."""
        self.mean_CHW.copy_(mean_CHW)
        self.spread.fill_(max(spread, 1e-3))
        self.variance.fill_(max(spread, SMALLEST_SIGMA) ** 2)

    @torch.no_grad()
    def start_linear(self, x_BCHW: Tensor) -> None:
        """A map starts from the principal components of the patches of these pictures; others are left as they are."""
        if isinstance(self.encoder, vision.MapEncoder) and isinstance(self.decoder, vision.MapDecoder):
            vision.principal_start(self.encoder, self.decoder, (x_BCHW - self.mean_CHW) / self.spread, whiten=True)
            linear = self.encoder.plain[1]
            assert isinstance(linear, nn.Conv2d) and linear.bias is not None
            linear.weight[self.shape.code[0] :] = 0.0
            linear.bias[self.shape.code[0] :] = FIRST_LOGVAR

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, each (B, Z), float32."""
        centred = ((x_BCHW - self.mean_CHW) / self.spread).contiguous(memory_format=torch.channels_last)
        mean, logvar = self.encoder(centred).float().chunk(2, 1)
        return mean.flatten(1), logvar.flatten(1).clamp(*_LOGVAR)

    def decode(self, z_BZ: Tensor) -> Tensor:
        """What the likelihood takes as its mean, (B, C, H, W), float32: logits for ``bernoulli``, else pixels."""
        outcome = self.decoder(z_BZ.view(-1, *self.shape.code) if self.shape.net == "map" else z_BZ).float()
        if self.shape.likelihood == "bernoulli":
            return outcome + torch.logit(self.mean_CHW, eps=1e-3)
        return outcome * self.spread + self.mean_CHW

    def picture(self, z_BZ: Tensor) -> Tensor:
        """The expected picture, (B, C, H, W), in [0, 1]."""
        outcome = self.decode(z_BZ)
        return torch.sigmoid(outcome) if self.shape.likelihood == "bernoulli" else outcome.clamp(0.0, 1.0)

    def nats(
        self, outcome_BCHW: Tensor, x_BCHW: Tensor, *, levels: bool = False, variance: Tensor | None = None
    ) -> Tensor:
        """-log p(x|z) of each picture, (B,). levels: of the bytes themselves, a probability, where there is one."""
        outcome, x = outcome_BCHW.flatten(1), x_BCHW.flatten(1)
        if self.shape.likelihood == "bernoulli":
            return likelihoods.bernoulli_nats(outcome, x)
        if self.shape.likelihood == "logistic":
            scale = self.log_scale.clamp(-7.0, 2.0).expand(self.shape.pixels).flatten()
            return likelihoods.logistic_levels_nats(outcome, x, scale)
        score = likelihoods.gaussian_levels_nats if levels else likelihoods.gaussian_nats
        return score(outcome, x, self.variance if variance is None else variance)


def _map_pair(shape: Shape) -> tuple[nn.Module, nn.Module]:
    own = {"width": shape.width, "blocks": shape.blocks, "down": shape.down}
    encoder = vision.MapEncoder(channels=shape.channels, outputs=2 * shape.code[0], **own)
    return encoder, vision.MapDecoder(inputs=shape.code[0], outputs=shape.channels, **own)


def sampled(mean_BZ: Tensor, logvar_BZ: Tensor, generator: torch.Generator) -> Tensor:
    """z = mean + exp(logvar / 2) * noise: a draw that gradients pass through (Kingma and Welling, 2.4)."""
    noise = torch.randn(mean_BZ.shape, generator=generator, device=mean_BZ.device)
    return mean_BZ + torch.exp(0.5 * logvar_BZ) * noise


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What the objective weighs: beta of the KL term, free_bits in nats a latent."""

    beta: float = 1.0
    free_bits: float = 0.0


def objective(model: Autoencoder, x_BCHW: Tensor, generator: torch.Generator, weights: Weights) -> Tensor:
    """Negative ELBO in nats a dimension, mean over the batch, to be gone down.

    With the Gaussian likelihood the variance is the one that fits the batch best, in closed form (Rybkin et al.,
    eq. 4); the model keeps its running mean.
    """
    mean, logvar = model.encode(x_BCHW)
    outcome = model.decode(sampled(mean, logvar, generator))
    variance = None
    if model.shape.likelihood == "gaussian":
        with torch.no_grad():
            variance = (outcome - x_BCHW).square().mean().clamp(min=SMALLEST_SIGMA**2)
            model.variance.lerp_(variance, 0.05)
    rebuilt = model.nats(outcome, x_BCHW, variance=variance)
    kl = likelihoods.with_free_bits(likelihoods.kl_nats(mean, logvar), weights.free_bits)
    return (rebuilt + weights.beta * kl).mean() / model.shape.dimensions


def batches(pixels: np.ndarray[Any, Any], *, size: int, device: torch.device) -> Iterator[Tensor]:
    """All pictures in order, as floats in [0, 1], (B, C, H, W)."""
    for start in range(0, len(pixels), size):
        yield floats(pixels[start : start + size], device)


@torch.no_grad()
def calibrate(model: Autoencoder, pixels: np.ndarray[Any, Any], generator: torch.Generator) -> None:
    """Set the Gaussian's one variance to what fits these pictures best; held-out ones, so that it is not too sure."""
    if model.shape.likelihood != "gaussian":
        return
    device, total = model.variance.device, 0.0
    for x in batches(pixels, size=64, device=device):
        total += float((model.decode(sampled(*model.encode(x), generator)) - x).square().mean((1, 2, 3)).sum())
    model.variance.fill_(max(total / len(pixels), SMALLEST_SIGMA**2))


@torch.no_grad()
def judge(model: Autoencoder, pixels: np.ndarray[Any, Any], generator: torch.Generator, *, beta: float = 1.0) -> Tensor:
    """Negative ELBO of each picture in nats a dimension, (N,), one sample each; the Gaussian's variance fits all."""
    device, dimensions = model.variance.device, model.shape.dimensions
    gaussian = model.shape.likelihood == "gaussian"
    rebuilt, kl = [], []
    for x in batches(pixels, size=128, device=device):
        mean, logvar = model.encode(x)
        outcome = model.decode(sampled(mean, logvar, generator))
        kl.append(likelihoods.kl_nats(mean, logvar).sum(1))
        rebuilt.append((outcome - x).square().flatten(1).sum(1) if gaussian else model.nats(outcome, x))
    found, kl_N = torch.cat(rebuilt).double(), torch.cat(kl).double()
    if gaussian:
        variance = max(float(found.mean()) / dimensions, SMALLEST_SIGMA**2)
        found = 0.5 * (found / variance + dimensions * float(np.log(2 * np.pi * variance)))
    return ((found + beta * kl_N) / dimensions).cpu()


@torch.no_grad()
def figures(
    model: Autoencoder, pixels: np.ndarray[Any, Any], generator: torch.Generator, *, samples: int, bounded: int
) -> dict[str, float]:
    """What a set of pictures says of the model, in float32: ELBO, its parts, the tighter bound, reconstruction error.

    Args:
        samples: draws of z a picture for the importance-weighted bound. bounded: how many pictures it is taken on.
    Returns:
        elbo_nats (a picture, more is better), bits_per_dim (less is better), kl_nats, bound_nats and bound_bits_per_dim
        (importance weighted), reconstruction_mse (from the posterior mean, [0, 1] units).
    """
    device, dimensions = model.variance.device, model.shape.dimensions
    sums = dict.fromkeys(("rebuilt", "kl", "squares", "bound"), 0.0)
    seen = 0
    for x in batches(pixels, size=64, device=device):
        mean, logvar = model.encode(x)
        sums["rebuilt"] += float(model.nats(model.decode(sampled(mean, logvar, generator)), x, levels=True).sum())
        sums["kl"] += float(likelihoods.kl_nats(mean, logvar).sum())
        sums["squares"] += float((model.picture(mean) - x).square().mean((1, 2, 3)).sum())
        if seen < bounded:
            few = min(len(x), bounded - seen)
            sums["bound"] += float(bound_nats(model, x[:few], generator, samples=samples).sum())
            seen += few
    count = len(pixels)
    negative = (sums["rebuilt"] + sums["kl"]) / count
    bound = sums["bound"] / max(1, seen)
    return {
        "elbo_nats": -negative,
        "bits_per_dim": likelihoods.bits_per_dimension(negative, dimensions),
        "kl_nats": sums["kl"] / count,
        "bound_nats": -bound,
        "bound_bits_per_dim": likelihoods.bits_per_dimension(bound, dimensions),
        "reconstruction_mse": sums["squares"] / count,
    }


@torch.no_grad()
def bound_nats(model: Autoencoder, x_BCHW: Tensor, generator: torch.Generator, *, samples: int) -> Tensor:
    """Upper bound of -log p(x) of each picture, (B,), by ``samples`` draws of z (Burda et al., eq. 8); of bytes."""
    mean, logvar = model.encode(x_BCHW)
    weights = [_log_weight(model, x_BCHW, mean, logvar, generator) for _ in range(samples)]
    return likelihoods.importance_bound_nats(torch.stack(weights))


def _log_weight(model: Autoencoder, x: Tensor, mean: Tensor, logvar: Tensor, generator: torch.Generator) -> Tensor:
    z = sampled(mean, logvar, generator)
    away = (z - mean).square() * torch.exp(-logvar)
    ratio = 0.5 * (away + logvar - z.square()).sum(1)  # log p(z) - log q(z|x); the constants cancel
    return ratio - model.nats(model.decode(z), x, levels=True)


@torch.no_grad()
def baseline(model: Autoencoder, train_mean_CHW: Tensor, pixels: np.ndarray[Any, Any]) -> dict[str, float]:
    """The same figures for the mean picture of the training set, whatever the picture: what a model must beat."""
    device = model.variance.device
    mean = train_mean_CHW.to(device)
    squares = sum(float((x - mean).square().mean((1, 2, 3)).sum()) for x in batches(pixels, size=256, device=device))
    mse = squares / len(pixels)
    nats = 0.0
    variance = torch.tensor(max(mse, SMALLEST_SIGMA**2), device=device)
    for x in batches(pixels, size=256, device=device):
        same = mean.expand_as(x).flatten(1)
        if model.shape.likelihood == "bernoulli":
            nats += float(likelihoods.bernoulli_nats(torch.logit(same, eps=1e-3), x.flatten(1)).sum())
        else:
            nats += float(likelihoods.gaussian_levels_nats(same, x.flatten(1), variance).sum())
    bits = likelihoods.bits_per_dimension(nats / len(pixels), model.shape.dimensions)
    return {"baseline_mse": mse, "baseline_bits_per_dim": bits}


@torch.no_grad()
def standardize(model: Autoencoder, pixels: np.ndarray[Any, Any]) -> None:
    """Keep mean and spread of each channel of the codes of these pictures in the model."""
    device, (channels, _, _) = model.variance.device, model.shape.code
    total, squares, count = (torch.zeros(channels, dtype=torch.float64) for _ in range(3))
    for x in batches(pixels, size=128, device=device):
        codes = model.encode(x)[0].view(len(x), channels, -1).double().cpu()
        total, squares, count = total + codes.sum((0, 2)), squares + codes.square().sum((0, 2)), count + len(x)
    count = count * (model.shape.latents // channels)
    mean = total / count
    model.code_mean.copy_(mean)
    model.code_spread.copy_((squares / count - mean.square()).clamp(min=1e-8).sqrt())


@torch.no_grad()
def posterior_means(model: Autoencoder, pixels: np.ndarray[Any, Any]) -> Tensor:
    """The posterior mean of each picture, (N, Z), float32 on the CPU."""
    device = model.variance.device
    return torch.cat([model.encode(x)[0].cpu() for x in batches(pixels, size=128, device=device)])
