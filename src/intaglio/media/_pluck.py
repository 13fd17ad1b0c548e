"""The sound of notes on plucked strings: a few decaying partials each, exactly in tune, the same bytes every time.

Method: the ideal string plucked at a point p of its length has partials of amplitude sin(pi k p) / k^2 (Fletcher and
        Rossing, "The physics of musical instruments", section 2.8); here / k^1.6, and higher ones die away faster.
"""

from __future__ import annotations

import functools
import io
import wave
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

PLUCKED_AT = 0.13  # of the string's length
PARTIALS = 14
RING_SECONDS = 0.35  # a string sounds on a little after its note
LONGEST_SECONDS = 1_200.0


class Heard(Protocol):
    """What is played; ``media.music.Note`` is one."""

    @property
    def onset(self) -> Any: ...
    @property
    def duration(self) -> Any: ...
    @property
    def pitch(self) -> int: ...
    @property
    def velocity(self) -> int: ...


def frequency_hz(pitch: int) -> float:
    """Equal temperament, A4 (69) at 440 Hz."""
    return 440.0 * float(2.0 ** ((pitch - 69) / 12))


@functools.lru_cache(maxsize=512)
def string(pitch: int, held: int, rate_hz: int) -> np.ndarray[Any, Any]:
    """One plucked string, float32 of peak about 1: sounding for ``held`` samples, then damped."""
    samples = held + int(RING_SECONDS * rate_hz)
    seconds = np.arange(samples) / rate_hz
    first = frequency_hz(pitch)
    sound = np.zeros(samples)
    for k in range(1, PARTIALS + 1):
        if first * k > 0.45 * rate_hz:
            break
        fade = 1.1 + 0.0022 * first * (1 + 0.35 * k)
        amplitude = np.sin(np.pi * k * PLUCKED_AT) / k**1.6
        sound += amplitude * np.exp(-fade * seconds) * np.sin(2 * np.pi * first * k * seconds)
    sound *= np.minimum(1.0, seconds / 0.002)  # no click at the start
    after = np.maximum(0.0, seconds - held / rate_hz)
    sound *= np.exp(-after / 0.06) * np.clip((samples / rate_hz - seconds) / 0.02, 0.0, 1.0)
    return (sound / max(1e-9, float(np.abs(sound).max()))).astype(np.float32)


def render(notes: Sequence[Heard], beats_per_minute: float, *, rate_hz: int = 44_100) -> np.ndarray[Any, Any]:
    """The sound of all notes, float32 in [-1, 1], mono."""
    beat = 60.0 / beats_per_minute
    last = max((float(note.onset + note.duration) * beat for note in notes), default=0.0)
    out = np.zeros(int((min(last, LONGEST_SECONDS) + RING_SECONDS + 0.1) * rate_hz) + 1, dtype=np.float32)
    for note in notes:
        start = round(float(note.onset) * beat * rate_hz)
        sound = string(note.pitch, max(1, round(float(note.duration) * beat * rate_hz)), rate_hz)
        end = min(len(out), start + len(sound))
        if end > start:
            out[start:end] += sound[: end - start] * (note.velocity / 127) ** 1.5
    peak = float(np.abs(out).max()) if len(out) else 0.0
    return out * np.float32(0.89 / peak) if peak > 0 else out


def wav(notes: Sequence[Heard], beats_per_minute: float, *, rate_hz: int) -> bytes:
    """The sound as a WAV file of 16 bits."""
    return wav_of(render(notes, beats_per_minute, rate_hz=rate_hz), rate_hz=rate_hz)


def wav_of(sound: np.ndarray[Any, Any], *, rate_hz: int) -> bytes:
    """Mono sound in [-1, 1] as a WAV file of 16 bits."""
    samples = np.round(sound * 32_767).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())
    return out.getvalue()
