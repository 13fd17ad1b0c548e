"""Networks and distances for waveforms: oscillators and shaped noise, an autoencoder of their levels, a critic, losses.

Papers:  Engel et al. (2020), "DDSP", arXiv:2001.04643 (harmonic oscillators at a given pitch, plus filtered noise);
         Caillon and Esling (2021), "RAVE", arXiv:2111.05011 (a variational code in time; two phases, frozen encoder);
         Yamamoto et al. (2020), arXiv:1910.11480, eq. 4-6 (spectral convergence, log magnitude); Kumar et al. (2019),
         arXiv:1910.06711 (critics at several scales, hinge, features).
Licence: ours, written from the papers.
Shapes:  B batch, T samples, L frames of HOP samples, M frames of FINE samples, Z latents, K harmonics, N bands of the
         noise; ``tone_B2L``: octaves above 220 Hz and strength of the pitch (``nn/pitch.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intaglio.nn.pitch import hertz

HOP = 256  # samples of a latent frame
FINE = 64  # samples between two levels of oscillators and noise
HEARD, HEARD_BANDS = 512, 40  # window and mel bands of what the encoder hears
NOISE = 256  # window of the noise: N = 129 bands
SCALES = (2048, 1024, 512, 256, 128)
LESSONS = (4096, *SCALES)  # what the network is taught by: with the longest window neighbouring tones count apart
FLOOR = 1e-4  # magnitude (re a full-scale sine's peak of 1) below which nothing is heard, and nothing is compared
TAILS = 0.7  # how far the levels to begin with follow quiet tails, see ``usual``; docs/LOG.md has what others do
FADE = (0.42, 0.48)  # of the rate: between these an oscillator fades out; none comes near half the rate


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


# --------------------------------------------------------------------------------------------------------- oscillators
def cycles(tone_B2L: Tensor, rate_hz: int) -> Tensor:
    """Turns up to the middle of each frame, (B, L), float64 in [0, 1): hertz are straight lines between frames."""
    hz = hertz(tone_B2L[:, 0].double())
    return F.pad(((hz[:, 1:] + hz[:, :-1]) * (HOP / 2 / rate_hz)).cumsum(1), (1, 0)) % 1.0


def turns(tone_B2L: Tensor, cycles_BL: Tensor, rate_hz: int) -> Tensor:
    """Turns at each sample, in [0, 1), float32 (B, T)."""
    hz = F.pad(hertz(tone_B2L[:, :1].double()), (1, 1), mode="replicate")[:, 0]
    n = torch.arange(HOP, device=hz.device, dtype=torch.float64) + 0.5 - HOP / 2
    here = hz[:, 1:-1, None]
    slope = torch.where(n < 0, here - hz[:, :-2, None], hz[:, 2:, None] - here)
    found = cycles_BL[..., None] + here * n / rate_hz + slope * n.square() / (2 * HOP * rate_hz)
    return (found % 1.0).flatten(1).float()


def oscillate(levels_BKM: Tensor, turns_BT: Tensor, tone_B2L: Tensor, rate_hz: int) -> Tensor:
    """The sum of the harmonics (B, T): their levels are straight lines between the middles of the fine frames.

    What would come near half the rate is silent. Only the levels get gradients: pitches are given.
    """
    batch, count, frames = levels_BKM.shape
    with torch.no_grad():
        order = torch.arange(1, count + 1, device=levels_BKM.device, dtype=torch.float32)[:, None]
        wave = (turns_BT.view(batch * frames, 1, FINE) * (2 * math.pi * order)).sin_()
        hz = F.max_pool1d(hertz(tone_B2L[:, :1].float()), 3, 1, 1).repeat_interleave(HOP // FINE, 2)
        heard = ((FADE[1] - hz * order / rate_hz) / (FADE[1] - FADE[0])).clamp(0.0, 1.0)
        n = (torch.arange(FINE, device=wave.device) + 0.5) / FINE - 0.5
        near_3F = torch.stack([(-n).clamp(min=0), 1 - n.abs(), n.clamp(min=0)])
    around = F.pad(levels_BKM * heard, (1, 1), mode="replicate").unfold(2, 3, 1)  # (B, K, M, 3)
    parts = around.permute(0, 2, 3, 1).flatten(0, 1) @ wave  # (B M, 3, FINE)
    return (parts * near_3F).sum(1).view(batch, -1)


def harmonic_levels(x_BT: Tensor, tone_B2L: Tensor, shape: SoundShape) -> Tensor:
    """Natural logarithm of the usual magnitude at each multiple of the pitch, where there is one: (K,).

    Where no multiple lies below half the rate, or nothing has a pitch, that of ``FLOOR``.
    """
    size = 4 * HOP
    heard_BSL = magnitudes(x_BT, size)[..., : tone_B2L.shape[2]]
    order_K1 = torch.arange(1, shape.harmonics + 1, device=x_BT.device)[:, None]
    place_BKL = (hertz(tone_B2L[:, :1]) * order_K1 * size / shape.rate_hz).round().long()
    known_BKL = (tone_B2L[:, 1:] > 0) & (place_BKL < size // 2)
    found_BKL = heard_BSL.gather(1, place_BKL.clamp(max=size // 2))
    levels = [usual(found_BKL[:, k][known_BKL[:, k]].square()) for k in range(shape.harmonics)]
    return torch.stack(levels).clamp(min=math.log(FLOOR))


def usual(power: Tensor) -> Tensor:
    """Natural logarithm of a level (a magnitude) between the mean logarithm and the root mean square of all: ().

    The first is what tails of sounds have, the second what their onsets have; minus infinity of nothing.
    """
    mean = power.mean() if len(power) else power.new_zeros(())
    low = power.clamp(min=1e-14).log().mean() if len(power) else mean.log()
    return (TAILS * low + (1 - TAILS) * mean.log()) / 2


def white_noise(batch: int, latent_frames: int, generator: torch.Generator) -> Tensor:
    """Uniform in [-1, 1], of spread 0.58: (B, T) for so many latent frames, on the generator's device."""
    return torch.rand(batch, latent_frames * HOP, generator=generator, device=generator.device) * 2 - 1


def shaped_noise(levels_BNM: Tensor, noise_BT: Tensor) -> Tensor:
    """The noise with its magnitude spectrum following the levels: level 1 in all bands leaves it as it is."""
    frames = levels_BNM.shape[2]
    window = torch.hann_window(NOISE, device=noise_BT.device)
    spectrum = torch.stft(noise_BT, NOISE, FINE, window=window, pad_mode="constant", return_complex=True)
    levels = torch.cat([levels_BNM, levels_BNM[..., -1:]], 2)
    return torch.istft(spectrum * levels, NOISE, FINE, window=window, length=frames * FINE)


# ------------------------------------------------------------------------------------------------------------ networks
@dataclass(frozen=True, kw_only=True)
class SoundShape:
    """width: half the channels. latents: numbers a latent frame has. blocks: residual blocks a level."""

    rate_hz: int
    width: int
    latents: int
    harmonics: int = 64
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
    """Encoder and decoder between sound and latents, told the pitch; ``spread_N`` is the data's mean noise spectrum.

    filters_NK: the mel filters of what the encoder hears, float32 (HEARD_BANDS, HEARD / 2 + 1).
    """

    spread_N: Tensor
    filters: Tensor

    def __init__(self, shape: SoundShape, filters_NK: Tensor) -> None:
        super().__init__()
        self.shape = shape
        wide, fold = 2 * shape.width, HOP // FINE
        self.down = nn.Sequential(
            nn.Conv1d(HEARD_BANDS * fold + 2, wide, 1),
            *_blocks(wide, shape.blocks),
            nn.SiLU(),
            nn.Conv1d(wide, 2 * shape.latents, 1),
        )
        bands = NOISE // 2 + 1
        last = nn.Conv1d(wide, shape.harmonics + bands, 3, padding=1)
        self.up = nn.Sequential(
            nn.Conv1d(shape.latents + 2, wide, 3, padding=1),
            *_blocks(wide, shape.blocks + 1),
            nn.SiLU(),
            nn.ConvTranspose1d(wide, wide, 2 * fold, fold, fold // 2),
            *_blocks(wide, shape.blocks),
            nn.SiLU(),
            last,
        )
        nn.init.normal_(last.weight, std=0.01)
        assert last.bias is not None
        with torch.no_grad():  # natural logarithms of levels to begin with: partials fall with their number
            order = torch.arange(1, shape.harmonics + 1).log()
            last.bias.copy_(torch.cat([-3.0 - order, torch.full((bands,), -2.0)]))
        self.register_buffer("spread_N", torch.ones(bands))
        self.register_buffer("filters", filters_NK, persistent=False)

    @torch.no_grad()
    def begin_at(self, harmonics_K: Tensor, noise_N: Tensor) -> None:
        """Before the training: natural logarithms of the levels that both have most of the time."""
        bias = self.up[-1].bias
        assert isinstance(bias, Tensor)
        bias.copy_(torch.cat([harmonics_K.clamp(-8.0, -2.0), noise_N.clamp(-8.0, -1.0)]))

    def heard(self, x_BT: Tensor) -> Tensor:
        """Log-mel levels around -1 to 2, those of the fine frames of a latent frame side by side, (B, 160, L)."""
        side = (HEARD - FINE) // 2
        frames = F.pad(x_BT, (side, side)).unfold(1, HEARD, FINE)
        window = torch.hann_window(HEARD, device=x_BT.device)
        power = torch.view_as_real(torch.fft.rfft(frames * window)).square().sum(-1) * (2.0 / window.sum()).square()
        level = torch.log10(power @ self.filters.T + 1e-8) / 2 + 2
        return level.unflatten(1, (-1, HOP // FINE)).flatten(2).mT

    def encode(self, x_BT: Tensor, tone_B2L: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance, (B, Z, L) each, of sound whose length is a multiple of HOP."""
        mean, logvar = self.down(torch.cat([self.heard(x_BT), tone_B2L], 1)).chunk(2, 1)
        return mean, logvar.clamp(-12.0, 4.0)

    def decode(
        self,
        z_BZL: Tensor,
        tone_B2L: Tensor,
        noise_BT: Tensor | None,
        cycles_BL: Tensor | None = None,
    ) -> Tensor:
        """Sound (B, T): harmonics of the pitch, and noise shaped by band and time (DDSP, section 3).

        noise_BT: of ``white_noise``; None leaves the noise out. cycles_BL: turns of the pitch up to the middle of each
        frame, so that parts of a long sound fit together; left out: they start here.
        """
        levels = self.up(torch.cat([z_BZL, tone_B2L], 1)).clamp(-12.0, 2.0).exp()
        tonal, hiss = levels.split([levels.shape[1] - len(self.spread_N), len(self.spread_N)], 1)
        with torch.no_grad():
            start = cycles(tone_B2L, self.shape.rate_hz) if cycles_BL is None else cycles_BL
            at_BT = turns(tone_B2L, start, self.shape.rate_hz)
        made = oscillate(tonal, at_BT, tone_B2L, self.shape.rate_hz)
        return made if noise_BT is None else made + shaped_noise(hiss * self.spread_N[:, None], noise_BT)


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
