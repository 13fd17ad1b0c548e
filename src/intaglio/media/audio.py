"""Recordings (WAV, FLAC, OGG, MP3, AIFF, AAC, sound of films): read safely, resampled, measured, written, previewed.

libsndfile reads what it knows; FFmpeg reads the rest, and only with the one demultiplexer that the content asks for, so
that no playlist can make it open other files. Resampling: soxr. Loudness: ITU-R BS.1770-4.
Legend: T samples, C channels; arrays are float32, full scale is [-1, 1].
"""

from __future__ import annotations

import io
import math
import re
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from PIL import Image

from intaglio.core.i18n import t
from intaglio.media import Unreadable, image, sniff

Samples = np.ndarray[Any, np.dtype[np.float32]]
Source = Path | bytes

MAX_SAMPLES = 1 << 28  # of all channels together: 1 GiB of float32, 51 minutes of stereo at 44.1 kHz
RATES_HZ = (1_000, 768_000)
BLOCK = 1 << 16
DEMUXERS = {  # what FFmpeg may use on a file that sniffs as this
    "audio/mp4": "mp4",
    "audio/aac": "aac",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/x-matroska": "matroska",
    "video/webm": "matroska",
    "video/x-msvideo": "avi",
    "video/ogg": "ogg",
}
_SNDFILE = frozenset({"audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "audio/aiff"})
SILENCE_LUFS = -70.0


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a recording is. seconds: as decoded where it was decoded, else as its header says (0.0: it does not)."""

    mime: str
    rate_hz: int
    channels: int
    seconds: float
    codec: str = ""


# -------------------------------------------------------------------------------------------------------------- reading
def probe(source: Source, *, decode: bool = True) -> AudioInfo:
    """Read the header, and with ``decode`` every sample, so that a truncated or damaged recording is found.

    Errors: Unreadable with the reason: no recording, damaged, truncated, too long, or samples that are no numbers.
    """
    info, blocks = _open(source)
    try:
        if not decode:
            return info
        frames = sum(len(block_TC) for block_TC in _checked(blocks, info))
    finally:
        blocks.close()
    if not frames:
        raise Unreadable(t("the recording holds no sound"))
    return AudioInfo(info.mime, info.rate_hz, info.channels, frames / info.rate_hz, info.codec)


def load(source: Source, rate_hz: int | None = None, *, mono: bool = True) -> Samples:
    """The samples, float32: (T,) as the mean of the channels, or (C, T); resampled where ``rate_hz`` asks for it.

    Errors: Unreadable, as for ``probe``.
    """
    info, blocks = _open(source)
    try:
        parts = [block.mean(1) if mono else block.T for block in _checked(blocks, info)]
    finally:
        blocks.close()
    if not parts:
        raise Unreadable(t("the recording holds no sound"))
    samples = np.ascontiguousarray(np.concatenate(parts, axis=-1), dtype=np.float32)
    return samples if rate_hz is None else resample(samples, info.rate_hz, rate_hz)


def resample(samples: Samples, rate_hz: int, to_hz: int) -> Samples:
    """The same sound at another rate: band-limited (soxr, "HQ"), ceil-free length ``round(T * to_hz / rate_hz)``."""
    if rate_hz == to_hz:
        return samples
    made = soxr.resample(samples.T, rate_hz, to_hz, quality="HQ").T  # along the first axis, as it wants it
    return np.ascontiguousarray(made, dtype=np.float32)


def _open(source: Source) -> tuple[AudioInfo, Any]:
    """What it is, and a generator of blocks [T, C]. Errors: Unreadable."""
    mime = sniff.sniff(_head(source)).mime
    if mime == "audio/mpeg" and _behind_id3(source) == b"fLaC":  # as signing programs write a FLAC's manifest
        mime = "audio/flac"
    if mime in _SNDFILE:
        _refuse_truncated(source, mime)
        return _open_sndfile(source, mime)
    if mime in DEMUXERS:
        return _open_ffmpeg(source, mime)
    raise Unreadable(t("no recording that can be read"))


def _head(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source[: sniff.HEAD_BYTES]
    with source.open("rb") as file:
        return file.read(sniff.HEAD_BYTES)


def _behind_id3(source: Source) -> bytes:
    """The four bytes behind an ID3 tag, whose length is told in its header by four times seven bits."""
    head = _head(source)[:10]
    if head[:3] != b"ID3" or len(head) < 10:
        return b""
    place = 10 + sum(part << shift for part, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    if isinstance(source, bytes):
        return source[place : place + 4]
    with source.open("rb") as file:
        file.seek(place)
        return file.read(4)


def _refuse_truncated(source: Source, mime: str) -> None:
    """A RIFF header tells its own length; libsndfile reads what is left of a cut file without a word."""
    if mime != "audio/wav":
        return
    told = int.from_bytes(_head(source)[4:8], "little")
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if told not in (0, 0xFFFFFFFF) and told + 8 > size + 1:  # those two are written by programs that stream
        raise Unreadable(t("the recording is truncated"))


def _open_sndfile(source: Source, mime: str) -> tuple[AudioInfo, Iterator[Samples]]:
    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (soundfile.LibsndfileError, RuntimeError, OSError, ValueError) as error:
        raise Unreadable(t("the recording is damaged ({error})", error=_said(error))) from None
    frames = file.frames if 0 <= file.frames < 1 << 40 else 0
    info = AudioInfo(mime, file.samplerate, file.channels, frames / max(1, file.samplerate), file.subtype.lower())
    _refuse_odd(info)
    exact = frames if mime == "audio/flac" else 0  # only there the header's count is a promise

    def blocks() -> Iterator[Samples]:
        count = 0
        with file:
            try:
                while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                    count += len(block)
                    yield block
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise Unreadable(t("the recording is damaged ({error})", error=_said(error))) from None
        if count < exact:
            raise Unreadable(t("the recording is truncated"))

    return info, blocks()


def _open_ffmpeg(source: Source, mime: str) -> tuple[AudioInfo, Iterator[Samples]]:
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        container: Any = av.open(opened, format=DEMUXERS[mime], metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise Unreadable(t("the recording is damaged ({error})", error=_said(error))) from None
    if not container.streams.audio:
        container.close()
        raise Unreadable(t("it has no sound"))
    stream = container.streams.audio[0]
    seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    info = AudioInfo(mime, int(stream.rate or 0), int(stream.channels or 0), seconds, str(stream.codec_context.name))
    try:
        _refuse_odd(info)
    except Unreadable:
        container.close()
        raise

    def blocks() -> Iterator[Samples]:
        floats = av.AudioResampler(format="fltp", layout=stream.layout, rate=info.rate_hz)
        with container:
            try:
                for frame in container.decode(stream):
                    for part in floats.resample(frame):
                        yield np.asarray(part.to_ndarray().T, dtype=np.float32)
                for part in floats.resample(None):
                    yield np.asarray(part.to_ndarray().T, dtype=np.float32)
            except (av.error.FFmpegError, ValueError) as error:
                raise Unreadable(t("the recording is damaged ({error})", error=_said(error))) from None

    return info, blocks()


def _refuse_odd(info: AudioInfo) -> None:
    if not RATES_HZ[0] <= info.rate_hz <= RATES_HZ[1] or not 1 <= info.channels <= 64:
        what = t("it claims {rate} samples a second in {count} channels", rate=info.rate_hz, count=info.channels)
        raise Unreadable(what)


def _checked(blocks: Iterator[Samples], info: AudioInfo) -> Iterator[Samples]:
    total = 0
    for block in blocks:
        total += block.size
        if total > MAX_SAMPLES:
            minutes = MAX_SAMPLES // info.channels // info.rate_hz // 60
            raise Unreadable(t("longer than {minutes} minutes; cut it into parts", minutes=minutes))
        if not np.isfinite(block).all():
            raise Unreadable(t("it holds samples that are no numbers"))
        yield block


def _said(error: BaseException) -> str:
    """The library's words without the name of what was opened, which is a path or an address in memory."""
    if "not a regular file" in str(error):  # what libsndfile says of an MP3 without one whole frame
        return t("no sound in it")
    return re.sub(r"Error opening (<.*?>|'.*?'): ", "", str(error).strip() or type(error).__name__)[:120]


# -------------------------------------------------------------------------------------------------------------- writing
def dump_wav(samples: Samples, rate_hz: int) -> bytes:
    """16-bit WAV of (T,) or (C, T); what lies beyond full scale is cut to it. Equal samples give equal bytes."""
    out = io.BytesIO()
    data = _sixteen_bit(samples)
    with wave.open(out, "wb") as file:
        file.setnchannels(data.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(data.astype("<i2").tobytes())
    return out.getvalue()


def dump_flac(samples: Samples, rate_hz: int) -> bytes:
    """16-bit FLAC of (T,) or (C, T): the samples of ``dump_wav`` in about half the bytes."""
    out = io.BytesIO()
    soundfile.write(out, _sixteen_bit(samples), rate_hz, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def _sixteen_bit(samples: Samples) -> np.ndarray[Any, np.dtype[np.int16]]:
    """int16 [T, C]; 1/32768 is one step, so that what was read from 16 bits is written as it was."""
    channels = np.atleast_2d(np.asarray(samples, dtype=np.float64))
    if not np.isfinite(channels).all():
        raise ValueError("samples must be finite numbers")
    return np.clip(np.rint(channels.T * 32768), -32768, 32767).astype(np.int16)


# ------------------------------------------------------------------------------------------------------------ measuring
def loudness_lufs(samples: Samples, rate_hz: int) -> float:
    """Integrated loudness of (T,) or (C, T) in LUFS, BS.1770-4: K-weighted, 400 ms blocks every 100 ms, two gates.

    A sound under 400 ms is one block. -70.0 where nothing is louder than that (silence).
    """
    channels = np.atleast_2d(samples)
    powers = np.sum([_block_powers(channel, rate_hz) for channel in channels], axis=0)  # all weights 1: L, R, C
    loud = _lufs(powers) > SILENCE_LUFS
    if not loud.any():
        return SILENCE_LUFS
    gate = _lufs(powers[loud].mean()) - 10.0
    return float(_lufs(powers[loud & (_lufs(powers) > gate)].mean()))


def _lufs(power: Any) -> Any:
    return -0.691 + 10.0 * np.log10(np.maximum(power, 1e-20))


def _block_powers(samples_T: Samples, rate_hz: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean square of each 400 ms block, K-weighted, a new block every 100 ms."""
    hop = max(1, round(rate_hz * 0.1))
    if len(samples_T) < 4 * hop:
        return np.array([np.square(k_weighted(samples_T, rate_hz)).sum() / max(1, len(samples_T))])
    count = len(samples_T) // hop
    step, lead = 300, 3 * hop  # half a minute at a time; the filters have forgotten what was 0.3 s ago
    parts = []
    for first in range(0, count, step):
        start = max(0, first * hop - lead)
        end = min(count, first + step) * hop
        weighted = k_weighted(samples_T[start:end], rate_hz)[first * hop - start :]
        parts.append(np.square(weighted).reshape(-1, hop).mean(1))
    quarters = np.concatenate(parts)
    return np.convolve(quarters, np.full(4, 0.25), "valid")


def k_weighted(samples_T: Samples, rate_hz: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The two filters of BS.1770-4, annex 1, applied as one product of spectra (exact but for 1e-6 of wrap-around)."""
    size = 1 << (len(samples_T) + max(256, rate_hz // 8) - 1).bit_length()
    z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    response = np.ones(len(z), dtype=complex)
    for b, a in k_filters(rate_hz):
        response *= np.polyval(b[::-1], z) / np.polyval(a[::-1], z)
    spectrum = np.fft.rfft(np.asarray(samples_T, dtype=np.float64), size)
    return np.fft.irfft(spectrum * response, size)[: len(samples_T)]


def k_filters(rate_hz: int) -> tuple[tuple[list[float], list[float]], ...]:
    """(b, a) of the shelf and the high-pass at any rate, by the bilinear transform; at 48 kHz those of the standard."""
    gain_db, f0, q = 3.999843853973347, 1681.974450955533, 0.7071752369554196
    k = math.tan(math.pi * f0 / rate_hz)
    high = 10.0 ** (gain_db / 20.0)
    band = high**0.4996667741545416
    a0 = 1.0 + k / q + k * k
    shelf = [(high + band * k / q + k * k) / a0, 2.0 * (k * k - high) / a0, (high - band * k / q + k * k) / a0]
    poles = [1.0, 2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0]
    f0, q = 38.13547087602444, 0.5003270373238773
    k = math.tan(math.pi * f0 / rate_hz)
    a0 = 1.0 + k / q + k * k
    return (shelf, poles), ([1.0, -2.0, 1.0], [1.0, 2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0])


def clipped_share(samples: Samples, *, run: int = 3) -> float:
    """Share of samples in flat runs at the sound's own peak, where that peak is near full scale: cut-off waves."""
    flat = np.abs(np.atleast_2d(samples))
    peak = float(flat.max(initial=0.0))
    if peak < 0.89 or flat.shape[1] < run:  # -1 dBFS
        return 0.0
    at_peak = flat >= peak * 0.9995
    whole = np.ones((len(flat), flat.shape[1] - run + 1), dtype=bool)
    for shift in range(run):
        whole &= at_peak[:, shift : shift + whole.shape[1]]
    covered = np.zeros_like(at_peak)
    for shift in range(run):
        covered[:, shift : shift + whole.shape[1]] |= whole
    return float(covered.mean())


# ------------------------------------------------------------------------------------------------------------- previews
def mel_bands(rate_hz: int, size: int, bands: int, *, low_hz: float = 30.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Triangular filters [bands, size // 2 + 1] of area-equal height, even on the mel scale (2595 log10(1 + f/700))."""
    mels = np.linspace(2595 * math.log10(1 + low_hz / 700), 2595 * math.log10(1 + rate_hz / 2 / 700), bands + 2)
    edges_hz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    bins_hz = np.arange(size // 2 + 1) * rate_hz / size
    rising = (bins_hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    falling = (edges_hz[2:, None] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    empty = filters.sum(1) == 0  # narrower than the distance of two bins: the nearest bin stands for it
    filters[empty, np.rint(edges_hz[1:-1][empty] * size / rate_hz).astype(int)] = 1.0
    return np.asarray(filters / filters.sum(1, keepdims=True))


def spectrogram_db(samples_T: Samples, rate_hz: int, *, columns: int, bands: int) -> np.ndarray[Any, Any]:
    """Power in dB re full scale [bands, columns], mel scale, low bands first; windows of about 46 ms."""
    size = 1 << max(7, round(math.log2(rate_hz * 0.046)))
    centres = (np.arange(columns) + 0.5) * len(samples_T) / columns
    padded = np.pad(np.asarray(samples_T, dtype=np.float64), (size // 2, size))
    window = np.hanning(size)
    frames = np.stack([padded[int(centre) : int(centre) + size] * window for centre in centres])
    power = np.square(np.abs(np.fft.rfft(frames)) * 2.0 / window.sum())
    return np.asarray(10.0 * np.log10(mel_bands(rate_hz, size, bands) @ power.T + 1e-10))


def spectrogram(samples: Samples, rate_hz: int, *, width_px: int = 640, height_px: int = 192) -> bytes:
    """A preview as PNG: time to the right, pitch upwards (mel), from -90 dB (dark) to 0 dB (bright)."""
    mono = np.atleast_2d(samples).mean(0)
    db = spectrogram_db(mono, rate_hz, columns=width_px, bands=height_px)
    level = np.clip(np.rint((db[::-1] + 90.0) * (255 / 90)), 0, 255).astype(np.uint8)
    picture = Image.fromarray(level)
    picture.putpalette(_PALETTE)
    return image.dump(picture)


def _palette() -> bytes:
    """Dark blue over red to pale yellow, brightness rising evenly."""
    anchors = np.array([[4, 4, 20], [58, 16, 96], [150, 35, 105], [226, 80, 60], [250, 165, 50], [255, 250, 200]])
    places = np.linspace(0, len(anchors) - 1, 256)
    return np.stack([np.interp(places, range(len(anchors)), anchors[:, c]) for c in range(3)], 1).astype("u1").tobytes()


_PALETTE = _palette()


def preview(source: Source, *, width_px: int = 640) -> bytes:
    """The spectrogram of a recording, PNG. Errors: Unreadable."""
    info = probe(source, decode=False)
    return spectrogram(load(source), info.rate_hz, width_px=width_px)
