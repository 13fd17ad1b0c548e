"""The sound of a MIDI performance: strings plucked or held, pipes, reeds, brass and drums, each in a few lines of sums.

Method: plucked and struck instruments are the strings of ``media/_pluck.py``; the others are held partials whose
        strengths tell the families apart; drums are falling tones and noise. The same bytes every time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from intaglio.media._midi import DRUMS, Performance
from intaglio.media._pluck import LONGEST_SECONDS, RING_SECONDS, frequency_hz, string, wav_of

Sound = np.ndarray[Any, Any]

PLUCKED = (*range(16), *range(24, 40), 45, 46, *range(104, 120))  # General MIDI: keys, bells, guitars, basses, harps
HELD: dict[str, tuple[Callable[[int], float], float]] = {
    # strength of partial k, and seconds of attack
    "pipe": (lambda k: 0.12 ** (k - 1), 0.03),
    "reed": (lambda k: (1.0 if k % 2 else 0.2) / k**1.2, 0.025),
    "brass": (lambda k: 1.0 / k**0.9 if k < 7 else 0.1, 0.04),
    "organ": (lambda k: 1.0 if k in (1, 2, 4) else 0.3 / k, 0.01),
    "bowed": (lambda k: 1.0 / k**1.3, 0.07),
}
_FAMILY = {2: "organ", 7: "brass", 8: "reed", 9: "pipe", 10: "reed"}
LOUD = {"pipe": 0.5, "reed": 0.4, "brass": 0.4, "organ": 0.35, "bowed": 0.4, "drums": 0.8}
PARTIALS, RELEASE_SECONDS = 12, 0.09
_KICKS, _SNARES, _HATS, _OPEN = (35, 36), (37, 38, 39, 40), (42, 44), (46,)
_CYMBALS, _TOMS = (49, 51, 52, 53, 55, 57, 59), {41: 80, 43: 95, 45: 115, 47: 135, 48: 160, 50: 190}


@functools.lru_cache(maxsize=512)
def held(pitch: int, samples: int, family: str, rate_hz: int) -> Sound:
    """A tone of one of ``HELD``, float32 of peak about 1: as loud to its end, then let go."""
    strength, attack = HELD[family]
    seconds = np.arange(samples + int(RELEASE_SECONDS * rate_hz)) / rate_hz
    first = frequency_hz(pitch)
    sound = np.zeros(len(seconds))
    for k in range(1, PARTIALS + 1):
        if first * k > 0.45 * rate_hz:
            break
        sound += strength(k) * np.sin(2 * np.pi * first * k * seconds + 0.7 * k * k)
    rise = np.clip(seconds / min(attack, max(0.005, samples / rate_hz / 2)), 0.0, 1.0)
    fall = np.clip((seconds[-1] - seconds) / RELEASE_SECONDS, 0.0, 1.0)
    sound *= rise * fall * (0.75 + 0.25 * np.exp(-3 * seconds))
    return (sound / max(1e-9, float(np.abs(sound).max()))).astype(np.float32)


@functools.lru_cache(maxsize=128)
def drum(pitch: int, rate_hz: int) -> Sound:
    """One stroke on a drum of the General MIDI kit, float32 of peak 1, however long it is held."""
    length, tone_hz, sweep, noise, high = _kind_of(pitch)
    seconds = np.arange(int(length * 5 * rate_hz)) / rate_hz
    hiss = np.random.default_rng(pitch).standard_normal(len(seconds))
    for _ in range(high):
        hiss = np.diff(hiss, prepend=0.0)  # takes away the low part
    phase = 2 * np.pi * np.cumsum(tone_hz * (1 + sweep * np.exp(-seconds / 0.03))) / rate_hz
    sound = (1 - noise) * np.sin(phase) + noise * hiss / max(1e-9, float(np.abs(hiss).max()))
    sound *= np.exp(-seconds / length) * np.minimum(1.0, seconds / 0.001)
    return (sound / max(1e-9, float(np.abs(sound).max()))).astype(np.float32)


def _kind_of(pitch: int) -> tuple[float, float, float, float, int]:
    """Seconds of decay, tone, how far it falls, share of noise, how much of the low part the noise lacks."""
    if pitch in _KICKS:
        return 0.12, 50.0, 2.5, 0.04, 0
    if pitch in _SNARES:
        return 0.07, 185.0, 0.4, 0.7, 1
    if pitch in _HATS:
        return 0.025, 400.0, 0.0, 1.0, 2
    if pitch in _OPEN:
        return 0.15, 400.0, 0.0, 1.0, 2
    if pitch in _CYMBALS:
        return 0.4, 420.0, 0.0, 0.97, 2
    return (0.14, _TOMS[pitch], 0.8, 0.08, 0) if pitch in _TOMS else (0.05, frequency_hz(pitch), 0.0, 0.4, 1)


def render(piece: Performance, *, rate_hz: int = 44_100) -> Sound:
    """The sound of all notes, float32 in [-1, 1], mono; cut after twenty minutes."""
    starts = piece.seconds_at([note.onset for note in piece.notes])
    ends = piece.seconds_at([note.onset + note.duration for note in piece.notes])
    last = min(max(ends, default=0.0), LONGEST_SECONDS)
    out = np.zeros(int((last + RING_SECONDS + 0.1) * rate_hz) + 1, dtype=np.float32)
    for note, start, end in zip(piece.notes, starts, ends, strict=True):
        first = round(start * rate_hz)
        sound, loud = _voice(note.program, note.pitch, max(1, round(end * rate_hz) - first), rate_hz)
        until = min(len(out), first + len(sound))
        if until > first:
            out[first:until] += sound[: until - first] * np.float32(loud * (note.velocity / 127) ** 1.5)
    peak = float(np.abs(out).max()) if len(out) else 0.0
    return out * np.float32(0.89 / peak) if peak > 0 else out


def _voice(program: int, pitch: int, samples: int, rate_hz: int) -> tuple[Sound, float]:
    if program == DRUMS:
        return drum(pitch, rate_hz), LOUD["drums"]
    if program in PLUCKED:
        return string(pitch, samples, rate_hz), 1.0
    family = _FAMILY.get(program // 8, "bowed")
    return held(pitch, min(samples, int(LONGEST_SECONDS * rate_hz)), family, rate_hz), LOUD[family]


def wav(piece: Performance, *, rate_hz: int = 44_100) -> bytes:
    """The performance as a WAV file, mono, 16 bits."""
    return wav_of(render(piece, rate_hz=rate_hz), rate_hz=rate_hz)
