"""Networks and distances for waveforms: a filter bank, an autoencoder of its bands, a critic, spectral losses.

Papers:  Caillon and Esling (2021), "RAVE", arXiv:2111.05011 (bands, noise branch, two phases, frozen encoder);
         Nguyen (1994), "Near-perfect-reconstruction pseudo-QMF banks" (the bank; prototype: Kaiser window, its cutoff
         searched as in Lin and Vaidyanathan (1998)); Yamamoto et al. (2020), arXiv:1910.11480, eq. 4-6 (spectral
         convergence, log magnitude); Kumar et al. (2019), arXiv:1910.06711 (critics at several scales, hinge,
         features).
Licence: ours, written from the papers.
Shapes:  B batch, T samples, M bands, F frames of the bank (T / M), Z latents, L frames of latents.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BANDS = 16
STRIDES = (4, 4)  # of the encoder behind the bank: one latent frame is BANDS * 16 = 256 samples
HOP = BANDS * math.prod(STRIDES)
SCALES = (2048, 1024, 512, 256, 128)
FLOOR = 1e-4  # magnitude (re a full-scale sine's peak of 1) below which nothing is heard, and nothing is compared


# ------------------------------------------------------------------------------------------------------ the filter bank
def prototype(bands: int = BANDS, *, taps_per_band: int = 8, beta: float = 7.0) -> Tensor:
    """The low-pass (taps,), float64, whose cutoff makes the bank's overall response flattest (golden section)."""
    taps = bands * taps_per_band + 1
    place = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    window = torch.kaiser_window(taps, periodic=False, beta=beta, dtype=torch.float64)

    def filter_at(cutoff: float) -> Tensor:
        return window * cutoff * torch.sinc(cutoff * place)

    def unflatness(cutoff: float) -> float:
        h = filter_at(cutoff)
        own = F.conv1d(h[None, None], h[None, None], padding=taps - 1)[0, 0]
        own = own / own[taps - 1]
        return float(own[(taps - 1) % (2 * bands) :: 2 * bands].abs().sort(descending=True).values[1])

    low, high, ratio = 0.5 / bands, 1.0 / bands, (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if unflatness(left) < unflatness(right):
            high = right
        else:
            low = left
    return filter_at((low + high) / 2)


@functools.cache
def _filters() -> Tensor:
    """Filters (M, 1, taps), float32, of unit gain from splitting to joining."""
    h = prototype()
    k = torch.arange(BANDS, dtype=torch.float64)[:, None]
    place = torch.arange(len(h), dtype=torch.float64) - (len(h) - 1) / 2
    phase = (2 * k + 1) * math.pi / (2 * BANDS) * place + (1 - 2 * (k % 2)) * math.pi / 4
    filters = h * torch.cos(phase)
    return (filters * math.sqrt(BANDS / float(filters.square().sum()))).float()[:, None]


def split(x_BT: Tensor) -> Tensor:
    """Sound into bands, (B, M, T / M). T must be a multiple of M. Band k holds k to k + 1 times rate / (2 M) Hz."""
    filters = _filters().to(x_BT)
    pad = filters.shape[-1] // 2
    return F.conv1d(F.pad(x_BT[:, None], (pad, pad)), filters, stride=BANDS)[..., : x_BT.shape[1] // BANDS]


def join(bands_BMF: Tensor) -> Tensor:
    """Bands back into sound, (B, T): what ``split`` took apart comes back but for about -60 dB."""
    filters = _filters().to(bands_BMF)  # the adjoint: each filter turned round in time, as the theory wants it
    pad = filters.shape[-1] // 2
    whole = F.conv_transpose1d(bands_BMF, filters, stride=BANDS)[:, 0]
    return whole[:, pad : pad + bands_BMF.shape[2] * BANDS]


# ---------------------------------------------------------------------------------------------------------- distances
def magnitudes(x_BT: Tensor, size: int) -> Tensor:
    """(B, size / 2 + 1, frames): Hann windows a quarter apart, a full-scale sine peaks at 1."""
    window = torch.hann_window(size, device=x_BT.device, dtype=x_BT.dtype)
    spectrum = torch.stft(x_BT, size, size // 4, window=window, center=True, pad_mode="constant", return_complex=True)
    return (torch.view_as_real(spectrum).square().sum(-1) + 1e-14).sqrt() * (2.0 / window.sum())


def spectral_distance(x_BT: Tensor, y_BT: Tensor, scales: tuple[int, ...] = SCALES) -> Tensor:
    """Distance of each y to its x, (B,): spectral convergence and mean |log magnitude| difference, mean over scales."""
    total = torch.zeros(len(x_BT), device=x_BT.device, dtype=x_BT.dtype)
    for size in scales:
        x, y = magnitudes(x_BT, size), magnitudes(y_BT, size)
        convergence = (x - y).square().sum((1, 2)).add(1e-12).sqrt() / (x.square().sum((1, 2)).sqrt() + 0.1)
        total = total + convergence + ((x + FLOOR).log() - (y + FLOOR).log()).abs().mean((1, 2))
    return total / len(scales)


def mel_db(x_BT: Tensor, filters_NK: Tensor, *, floor_db: float = -80.0) -> Tensor:
    """Mel spectrogram in dB, (B, N, frames); ``filters_NK`` tells the window: 2 (K - 1) samples."""
    power = magnitudes(x_BT, 2 * (filters_NK.shape[1] - 1)).square()
    return 10.0 * torch.log10((filters_NK @ power).clamp(min=10.0 ** (floor_db / 10)))


# ------------------------------------------------------------------------------------------------------------ networks
@dataclass(frozen=True, kw_only=True)
class SoundShape:
    """width: channels behind the bank. latents: numbers a latent frame has. blocks: residual blocks a level."""

    width: int
    latents: int
    blocks: int = 2


class _Block(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.wide = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.out = nn.Conv1d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.silu(self.wide(F.silu(x))))


def _blocks(width: int, count: int) -> list[nn.Module]:
    return [_Block(width, 3**place) for place in range(count)]


class SoundNet(nn.Module):
    """Encoder and decoder between bands and latents; ``spread_M`` is the bands' standard deviation in the data."""

    spread_M: Tensor

    def __init__(self, shape: SoundShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        down: list[nn.Module] = [nn.Conv1d(BANDS, width, 7, padding=3)]
        up: list[nn.Module] = [nn.Conv1d(shape.latents, 2 * width, 3, padding=1)]
        wide = width
        for stride in STRIDES:
            down += [
                *_blocks(wide, shape.blocks),
                nn.SiLU(),
                nn.Conv1d(wide, 2 * width, 2 * stride, stride, stride // 2),
            ]
            wide = 2 * width
        for place, stride in enumerate(STRIDES):
            narrow = 2 * width if place + 1 < len(STRIDES) else width
            up += [nn.SiLU(), nn.ConvTranspose1d(2 * width, narrow, 2 * stride, stride, stride // 2)]
            up += _blocks(narrow, shape.blocks)
        self.down = nn.Sequential(*down, *_blocks(wide, 1), nn.SiLU(), nn.Conv1d(wide, 2 * shape.latents, 1))
        self.up = nn.Sequential(*up, nn.SiLU(), nn.Conv1d(width, 3 * BANDS, 7, padding=3))
        self.register_buffer("spread_M", torch.ones(BANDS))

    def encode(self, x_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance, (B, Z, L) each, of sound whose length is a multiple of HOP."""
        mean, logvar = self.down(split(x_BT) / self.spread_M[:, None]).chunk(2, 1)
        return mean, logvar.clamp(-12.0, 4.0)

    def decode(self, z_BZL: Tensor, generator: torch.Generator | None) -> Tensor:
        """Sound (B, T): bands with their loudness, and noise shaped by band and time (RAVE, section 3.2).

        generator: draws the noise; None leaves the noise branch out.
        """
        wave, loud, hiss = self.up(z_BZL).chunk(3, 1)
        bands = wave * loud.clamp(-8.0, 4.0).exp()
        if generator is not None:
            noise = torch.rand(hiss.shape, generator=generator, device=hiss.device, dtype=hiss.dtype) * 2 - 1
            bands = bands + noise * (hiss - 2.0).clamp(-8.0, 4.0).exp()
        return join(bands * self.spread_M[:, None])


class Critic(nn.Module):
    """Judges sound at three scales; answers and inner features of each (Kumar et al.)."""

    def __init__(self, width: int = 16, scales: int = 3) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.ModuleList(_critic_layers(width)) for _ in range(scales))

    def forward(self, x_BT: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        answers, features = [], []
        x = x_BT[:, None]
        for place, net in enumerate(self.nets):
            h = F.avg_pool1d(x, 4**place) if place else x
            for layer in net[:-1]:  # type: ignore[index]
                h = F.leaky_relu(layer(h), 0.2)
                features.append(h)
            answers.append(net[-1](h))  # type: ignore[index]
        return answers, features


def _critic_layers(width: int) -> list[nn.Module]:
    made: list[nn.Module] = [nn.Conv1d(1, width, 15, 2, 7)]
    for _ in range(3):
        made.append(nn.Conv1d(width, 2 * width, 17, 4, 8, groups=4))
        width *= 2
    return [nn.utils.parametrizations.weight_norm(each) for each in (*made, nn.Conv1d(width, 1, 3, 1, 1))]


def critic_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Hinge, mean over scales: 2 untrained, 0 where every answer is right by a margin."""
    pairs = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(pairs).mean()


def likeness_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Mean distance of the critic's features, each in units of the real one's mean size (feature matching)."""
    return torch.stack(
        [(r.detach() - f).abs().mean() / (r.detach().abs().mean() + 1e-3) for r, f in zip(real, fake, strict=True)]
    ).mean()
