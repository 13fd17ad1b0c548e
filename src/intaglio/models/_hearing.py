"""How like one set of sounds is to another: spectra, tones, and the spread of short pieces; each beside trivial sounds.

Source:  ours; the distance is that of ``nn/sound.py``, the pitch that of ``nn/pitch.py``. The log-mel Fréchet distance
         follows the form of Heusel et al. (2017), arXiv:1706.08500, eq. 6, with plain log-mel levels as features.
Licence: ours.
Shapes:  B sounds, T samples, L frames, N mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intaglio.media import audio, image
from intaglio.nn import measures, pitch
from intaglio.nn import sound as nets
from intaglio.nn.order import derive

NEAR_CENTS = 50.0
LOUD = 0.01  # magnitude of the strongest peak (re full scale) from which on a frame is asked for its peak
LATER = 8  # frames of 256 samples between the two mel levels that make one feature
FRECHET_BANDS = 32


def figures(x_BT: Tensor, made_BT: Tensor, rate_hz: int, *, seed: int) -> dict[str, float]:
    """Figures of reconstructions ``made_BT`` of ``x_BT``, beside silence and noise with their spectrum and loudness.

    distance: spectral. mel_db: mean difference of 64 mel levels, dB. pitch_share: of the frames in which the original
    has a pitch, those where the other has one within 50 cents. peak_share: of the frames loud enough, those whose
    strongest peak (4,096 samples) is within 50 cents, or the next bin. mel_frechet: see ``mel_frechet``.
    """
    filters = torch.from_numpy(audio.mel_bands(rate_hz, 1024, 64)).float().to(x_BT)
    noise = _alike_noise(x_BT, seed)
    found: dict[str, float] = {}
    for name, other in (("", made_BT), ("silence_baseline_", torch.zeros_like(x_BT)), ("noise_baseline_", noise)):
        mel = (nets.mel_db(x_BT, filters) - nets.mel_db(other, filters)).abs().mean()
        found[f"{name}distance"] = round(float(nets.spectral_distance(x_BT, other).mean()), 4)
        found[f"{name}mel_db"] = round(float(mel), 3)
        found[f"{name}mel_frechet"] = round(mel_frechet(x_BT, other, rate_hz), 3)
        if name != "silence_baseline_":
            found[f"{name}pitch_share"] = round(pitch_share(x_BT, other, rate_hz), 4)
            found[f"{name}peak_share"] = round(peak_share(x_BT, other, rate_hz), 4)
    found["clipped_share"] = round(audio.clipped_share(made_BT.cpu().numpy()), 6)
    return found


def pitch_share(x_BT: Tensor, y_BT: Tensor, rate_hz: int) -> float:
    """Of the frames in which x has a pitch, the share in which y has one within 50 cents; 0 where x has none."""
    near = asked = 0
    for x_T, y_T in zip(x_BT.cpu(), y_BT.cpu(), strict=True):
        (here, firm), (there, other) = (pitch.pitch(each, rate_hz, hop=nets.HOP) for each in (x_T, y_T))
        near += int(((firm > 0) & (other > 0) & ((here - there).abs() < NEAR_CENTS / 1200)).sum())
        asked += int((firm > 0).sum())
    return near / max(1, asked)


def peak_share(x_BT: Tensor, y_BT: Tensor, rate_hz: int) -> float:
    """Of the frames of x with a peak above -40 dB, the share in which y has its strongest peak at the same place."""
    low = round(40.0 * 4096 / rate_hz)
    x, y = nets.magnitudes(x_BT, 4096)[:, low:], nets.magnitudes(y_BT, 4096)[:, low:]
    level, here = x.max(1)
    there = y.argmax(1)
    cents = 1200 * ((here + low) / (there + low)).log2().abs()
    near = ((here - there).abs() <= 1) | (cents < NEAR_CENTS)
    heard = y.amax(1) > 0
    return float((near & heard & (level > LOUD)).sum() / (level > LOUD).sum().clamp(min=1))


def mel_frechet(x_BT: Tensor, y_BT: Tensor, rate_hz: int) -> float:
    """Fréchet distance between the short pieces of two sets of sounds, in dB squared over 100.

    A piece is 32 log-mel levels (window 1,024, -80 dB at least) and the same 8 frames of 256 samples later: 64 numbers.
    No trained network takes part. Biased upwards with few pieces: compare only figures of equally many.
    """
    filters = torch.from_numpy(audio.mel_bands(rate_hz, 1024, FRECHET_BANDS)).float().to(x_BT)

    def pieces(sounds_BT: Tensor) -> Tensor:
        mel = nets.mel_db(sounds_BT, filters) / 10.0
        later = min(LATER, max(0, mel.shape[2] - 2))  # two pieces at least, of one short sound too
        pairs = torch.cat([mel[:, :, : mel.shape[2] - later], mel[:, :, later:]], 1)
        return pairs.mT.flatten(0, 1).cpu()

    return measures.frechet(pieces(x_BT), pieces(y_BT))


def _alike_noise(x_BT: Tensor, seed: int) -> Tensor:
    """Noise with the mean spectrum of the sounds and the loudness of each."""
    generator = torch.Generator().manual_seed(derive(seed, "alike"))
    noise = torch.fft.rfft(torch.randn(x_BT.shape, generator=generator).to(x_BT))
    shaped = torch.fft.irfft(noise * torch.fft.rfft(x_BT).abs().square().mean(0).sqrt(), x_BT.shape[1])
    level = x_BT.square().mean(1, keepdim=True).sqrt() / shaped.square().mean(1, keepdim=True).sqrt()
    return shaped * level


def sheet(rows_BT: Sequence[Tensor], rate_hz: int, *, width_px: int = 160, height_px: int = 96) -> bytes:
    """Spectrograms as PNG: one row a batch, the sounds side by side."""
    lines = []
    for batch in rows_BT:
        pictures = [
            image.load(audio.spectrogram(x.cpu().numpy(), rate_hz, width_px=width_px, height_px=height_px))
            for x in batch
        ]
        gap = np.full((height_px, 4, 3), 255, dtype=np.uint8)
        lines.append(np.concatenate([part for each in pictures for part in (np.asarray(each), gap)], 1)[:, :-4])
        lines.append(np.full((4, lines[0].shape[1], 3), 255, dtype=np.uint8))
    return image.dump(Image.fromarray(np.concatenate(lines[:-1])))
