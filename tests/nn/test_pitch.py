"""The pitch tracker against tones whose pitch is known: steady, gliding, without a fundamental, in noise, with gaps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from intaglio.nn import pitch

HOP = 256


def tone(
    hz: float | torch.Tensor, rate_hz: int, seconds: float = 1.0, orders: tuple[int, ...] = (1, 2, 3)
) -> torch.Tensor:
    count = int(seconds * rate_hz) // HOP * HOP
    line = torch.as_tensor(hz, dtype=torch.float64).expand(count)
    turns = line.cumsum(0) / rate_hz
    heard = [order for order in orders if float(line.max()) * order < 0.45 * rate_hz]
    return sum((torch.sin(2 * math.pi * n * turns) / n for n in heard), torch.zeros(())).float() * 0.3


def cents(found_L: torch.Tensor, hz: float | torch.Tensor) -> torch.Tensor:
    return 1200 * (found_L.double() - (torch.as_tensor(hz, dtype=torch.float64) / 220).log2())


@pytest.mark.parametrize("rate_hz", [8000, 22_050, 32_000])
@pytest.mark.parametrize("hz", [55.0, 110.0, 261.63, 783.99, 1567.98])
def test_steady_tones(hz: float, rate_hz: int) -> None:
    found = pitch.pitch(tone(hz, rate_hz), rate_hz, hop=HOP)
    inner = slice(6, -6)
    assert found.shape == (2, rate_hz // HOP) and found.dtype == torch.float32
    assert float(cents(found[0], hz)[inner].abs().max()) < 3.0
    assert float(found[1, inner].min()) > 0.9 and float(found[1].max()) <= 1.0


def test_a_missing_fundamental_is_found() -> None:
    found = pitch.pitch(tone(150.0, 22_050, orders=(2, 3, 4, 5)), 22_050, hop=HOP)
    assert float(cents(found[0], 150.0)[6:-6].abs().max()) < 3.0


def test_a_glide_and_a_leap_are_followed() -> None:
    rate_hz = 22_050
    line = 220 * 2 ** torch.linspace(-0.5, 0.5, 2 * rate_hz // HOP * HOP, dtype=torch.float64)
    found = pitch.pitch(tone(line, rate_hz, 2.0), rate_hz, hop=HOP)
    middle = line[HOP // 2 :: HOP][: found.shape[1]]
    assert float(cents(found[0], middle)[6:-6].abs().max()) < 10.0
    leap = torch.cat([tone(196.0, rate_hz), tone(293.66, rate_hz)])
    octaves = pitch.pitch(leap, rate_hz, hop=HOP)[0]
    half = len(octaves) // 2
    assert float(cents(octaves[6 : half - 6], 196.0).abs().max()) < 3.0
    assert float(cents(octaves[half + 6 : -6], 293.66).abs().max()) < 3.0


def test_noise_and_silence_have_no_pitch_and_some_noise_hides_none() -> None:
    chance = torch.Generator().manual_seed(0)
    hiss = torch.randn(40 * HOP, generator=chance)
    assert not pitch.pitch(hiss, 22_050, hop=HOP)[1].any()
    assert not pitch.pitch(torch.zeros(40 * HOP), 22_050, hop=HOP).any()
    x = tone(330.0, 22_050)
    found = pitch.pitch(x + 0.05 * torch.randn(len(x), generator=chance), 22_050, hop=HOP)
    assert float(cents(found[0], 330.0)[6:-6].abs().max()) < 10.0


def test_the_pitch_is_kept_where_nothing_is_heard() -> None:
    quiet = torch.zeros(20 * HOP)
    x = torch.cat([quiet, tone(200.0, 22_050, 0.5), quiet, tone(300.0, 22_050, 0.5), quiet])
    octaves, strength = pitch.pitch(x, 22_050, hop=HOP)
    assert not strength[:14].any() and not strength[-14:].any()
    assert float(cents(octaves[:10], 200.0).abs().max()) < 40 and float(cents(octaves[-10:], 300.0).abs().max()) < 40


def test_long_sounds_are_taken_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.cat([tone(180.0, 8000), tone(240.0, 8000)])
    whole = pitch.pitch(x, 8000, hop=HOP)
    monkeypatch.setattr(pitch, "FRAMES_AT_ONCE", 7)
    torch.testing.assert_close(pitch.pitch(x, 8000, hop=HOP), whole, atol=1e-5, rtol=0)


def test_the_best_path_is_that_of_trying_all() -> None:
    chance = np.random.default_rng(0)
    where, score = chance.uniform(-1, 1, (5, 3)), chance.uniform(0, 1, (5, 3))

    def value(path: tuple[int, ...]) -> float:
        total = sum(0.5 if n < 0 else score[at, n] for at, n in enumerate(path))
        for at, (a, b) in enumerate(zip(path[:-1], path[1:], strict=True)):
            both = a >= 0 and b >= 0
            total -= min(abs(where[at, a] - where[at + 1, b]), 0.6) if both else 0.15 * ((a < 0) != (b < 0))
        return total

    best = max(np.ndindex(*[4] * 5), key=lambda each: value(tuple(n - 1 for n in each)))
    assert pitch.follow(where, score, still=0.5).tolist() == [n - 1 for n in best]
