"""The pitch of a sound, followed over time.

Papers:  McLeod and Wyvill (2005), "A smarter way to find pitch" (normalised square difference, parabolic peaks);
         Mauch and Dixon (2014), "pYIN" (candidates of each frame joined by Viterbi).
Licence: ours, written from the papers.
Shapes:  T samples, L frames (T / hop, centred on hop / 2, 3 hop / 2, ...), S candidates of a frame, W samples of a
         window. Pitches are octaves above 220 Hz; strengths lie in [0, 1]. Computed on the CPU.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ORIGIN_HZ = 220.0
LOWEST_HZ, HIGHEST_HZ = 50.0, 2000.0
LEAST_SHARE = 0.005  # of the sound's loudest frame (RMS): below it nothing is followed
CANDIDATES = 8
FRAMES_AT_ONCE = 2048  # so that an hour of sound needs no more memory than half a minute
HIGHER = 0.03  # an octave too low is as periodic as the pitch itself: of equals the higher is the pitch
_FIRM = 0.6  # normalised autocorrelation from which on a frame counts as pitched


def window_size(rate_hz: int) -> int:
    """Samples of a frame: the power of two nearest to 93 ms, which holds four periods of the lowest pitch."""
    return int(2 ** round(math.log2(0.093 * rate_hz)))


def octaves(hz: Tensor) -> Tensor:
    """Octaves above 220 Hz."""
    return (hz / ORIGIN_HZ).log2()


def hertz(octaves_X: Tensor) -> Tensor:
    """The inverse of ``octaves``."""
    return ORIGIN_HZ * octaves_X.exp2()


def _frames(x_T: Tensor, size: int, hop: int) -> Tensor:
    count = len(x_T) // hop
    side = size // 2 - hop // 2
    return F.pad(x_T, (side, size))[: (count - 1) * hop + size].unfold(0, size, hop)


def pitch(x_T: Tensor, rate_hz: int, *, hop: int) -> Tensor:
    """The pitch of each frame, float32 (2, L): octaves, and how periodic the frame is; strength 0 where there is none.

    x_T: float32 on the CPU, T a multiple of ``hop``. Where there is none the pitch stays what it was last (before the
    first: what it gets first; never any: 0), and so it does below 1/200 of the loudest frame's RMS.
    """
    frames = _frames(x_T, window_size(rate_hz), hop)
    rms = torch.cat([part.square().mean(1) for part in frames.split(FRAMES_AT_ONCE)]).sqrt()
    least = max(1e-4, LEAST_SHARE * float(rms.max()))
    found = [_candidates(part, rate_hz) for part in frames.split(FRAMES_AT_ONCE)]
    where_LS, clear_LS = torch.cat([a for a, _ in found]), torch.cat([b for _, b in found])
    clear_LS = torch.where((rms >= least)[:, None], clear_LS, torch.zeros_like(clear_LS))
    score = clear_LS + HIGHER * where_LS
    place_L = follow(where_LS.numpy(), np.where(clear_LS.numpy() > 0, score.numpy(), -9.0), still=_FIRM)
    return _taken(where_LS, clear_LS, place_L)


def _candidates(frames_LW: Tensor, rate_hz: int) -> tuple[Tensor, Tensor]:
    """Octaves and clarity, (L, S) each, of the highest peaks of the normalised square difference (McLeod, eq. 9)."""
    size = frames_LW.shape[1]
    low, high = max(3, int(rate_hz / HIGHEST_HZ)), min(size // 2, int(rate_hz / LOWEST_HZ) + 1)
    spectrum = torch.fft.rfft(frames_LW.double(), 2 * size)
    own = torch.fft.irfft(spectrum.abs().square(), 2 * size)[:, : high + 2]
    power = frames_LW.double().square().cumsum(1)
    lags = torch.arange(high + 2)
    whole = power[:, -1:]
    head = torch.cat([torch.zeros(len(power), 1, dtype=power.dtype), power], 1)
    norm = (whole - head[:, lags]) + head[:, size - lags]  # energy of what is left on both sides of a lag
    clear = (2 * own / (norm + 1e-9)).float()
    peak = (clear[:, 1:-1] >= clear[:, :-2]) & (clear[:, 1:-1] > clear[:, 2:]) & (clear[:, 1:-1] > 0.3)
    peak[:, : low - 1] = False
    lags_hz = rate_hz / lags[1:-1].clamp(min=1).float()
    left, middle, right = clear[:, :-2], clear[:, 1:-1], clear[:, 2:]
    bend = left - 2 * middle + right
    bend = torch.where(bend < -1e-9, bend, -torch.ones(()))
    height = middle - (left - right).square() / (8 * bend)  # between samples
    score = torch.where(peak, height + HIGHER * octaves(lags_hz), torch.full((), -9.0))
    best, place = score.topk(min(CANDIDATES, peak.shape[1]), dim=1)
    exact = _refined(clear, place + 1, high)
    return octaves(rate_hz / exact), torch.where(best > -9.0, height.gather(1, place), torch.zeros(())).clamp(0.0, 1.0)


def _refined(clear: Tensor, place_LS: Tensor, high: int) -> Tensor:
    """Lags between samples: a parabola through a peak, and again through the last multiple of it that is a peak."""

    def top(place: Tensor) -> Tensor:
        left, middle, right = (clear.gather(1, place + side) for side in (-1, 0, 1))
        bend = left - 2 * middle + right
        return place + ((left - right) / (2 * torch.where(bend < -1e-9, bend, -torch.ones(())))).clamp(-0.5, 0.5)

    lag = top(place_LS)
    for most in (2, 4, 8):
        times = (high / lag).floor().clamp(1, most)
        guess = (lag * times).round().long().clamp(1, high)
        near = torch.stack([clear.gather(1, (guess + side).clamp(1, high)) for side in (-1, 0, 1)])
        moved = (guess + near.argmax(0) - 1).clamp(1, high)
        finer = top(moved) / times
        lag = torch.where((finer / lag - 1).abs() < 0.03, finer, lag)
    return lag


def follow(where_LS: np.ndarray, score_LS: np.ndarray, *, still: float) -> np.ndarray:
    """The best path through candidates (Viterbi), int64 (L,); -1 where none is taken, which scores ``still``.

    Between neighbouring frames an octave costs 1, no step more than 0.6; starting and stopping cost 0.15.
    """
    frames, count = score_LS.shape
    best = np.concatenate([score_LS[0], [still]])
    back = np.zeros((frames, count + 1), dtype=np.int64)
    for frame in range(1, frames):
        cost = np.full((count + 1, count + 1), 0.15)
        cost[:count, :count] = np.minimum(np.abs(where_LS[frame - 1][:, None] - where_LS[frame][None]), 0.6)
        cost[count, count] = 0.0
        value = best[:, None] - cost
        back[frame] = value.argmax(0)
        best = value.max(0) + np.concatenate([score_LS[frame], [still]])
    path = np.empty(frames, dtype=np.int64)
    path[-1] = int(best.argmax())
    for frame in range(frames - 1, 0, -1):
        path[frame - 1] = back[frame][path[frame]]
    return np.where(path == count, -1, path)


def _taken(where_LS: Tensor, strength_LS: Tensor, place_L: np.ndarray) -> Tensor:
    """Pitch and strength along a path, (2, L); the pitch stays where nothing is taken."""
    on = place_L >= 0
    at = torch.from_numpy(np.maximum(place_L, 0))[:, None]
    if not on.any():
        return torch.zeros(2, len(place_L))
    last = np.maximum.accumulate(np.where(on, np.arange(len(on)), -1))
    held = torch.from_numpy(np.where(last < 0, int(on.argmax()), last))
    pitch_L = where_LS.gather(1, at)[:, 0][held]
    return torch.stack([pitch_L, strength_LS.gather(1, at)[:, 0] * torch.from_numpy(on)])
