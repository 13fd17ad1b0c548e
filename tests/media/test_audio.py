"""Recordings: what is read back, through a second reader too; loudness against the standard; what cannot be read."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from intaglio.media import Unreadable, audio, sniff

RATE_HZ = 22_050


def tone(seconds: float = 1.0, hz: float = 440.0, rate_hz: int = RATE_HZ, level: float = 0.5) -> audio.Samples:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def written(kind: str, samples: audio.Samples, rate_hz: int = RATE_HZ, **options: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples.T, rate_hz, format=kind, **options)
    return out.getvalue()


def m4a(samples: audio.Samples, rate_hz: int = 44_100) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return out.getvalue()


def through_ffmpeg(data: bytes) -> audio.Samples:
    with av.open(io.BytesIO(data)) as container:
        rows = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate([row.reshape(-1) for row in rows]).astype(np.float64)


@pytest.mark.parametrize("dump", [audio.dump_wav, audio.dump_flac])
def test_what_is_written_is_read_back_by_another_reader(dump: object) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32)
    data = dump(samples, RATE_HZ)  # type: ignore[operator]
    assert np.abs(audio.load(data) - samples).max() <= 1 / 32768
    assert np.abs(through_ffmpeg(data) / 32768 - samples).max() <= 1 / 32768
    assert data == dump(samples, RATE_HZ)  # type: ignore[operator]
    assert audio.dump_wav(audio.load(data), RATE_HZ) == audio.dump_wav(samples, RATE_HZ)


def test_full_scale_is_cut_and_no_number_is_refused() -> None:
    assert audio.load(audio.dump_wav(np.array([2.0, -2.0], dtype=np.float32), RATE_HZ)).tolist() == [32767 / 32768, -1]
    with pytest.raises(ValueError):
        audio.dump_wav(np.array([np.nan], dtype=np.float32), RATE_HZ)


@pytest.mark.parametrize(
    ("kind", "mime"),
    [("WAV", "audio/wav"), ("FLAC", "audio/flac"), ("OGG", "audio/ogg"), ("MP3", "audio/mpeg"), ("AIFF", "audio/aiff")],
)
def test_formats_are_told_and_read(kind: str, mime: str, tmp_path: Path) -> None:
    samples = tone()
    path = tmp_path / "named.wrong"
    path.write_bytes(written(kind, samples))
    assert sniff.sniff(path.read_bytes()[: sniff.HEAD_BYTES]).media == "audio"
    info = audio.probe(path)
    assert (info.mime, info.rate_hz, info.channels) == (mime, RATE_HZ, 1)
    assert info.seconds == pytest.approx(1.0, abs=0.06)
    assert np.abs(audio.load(path)[2000:20000] - samples[2000:20000]).max() < 0.05


def test_m4a_is_read_through_ffmpeg() -> None:
    data = m4a(tone(rate_hz=44_100))
    info = audio.probe(data)
    assert (info.mime, info.rate_hz, info.codec) == ("audio/mp4", 44_100, "aac")
    spectrum = np.abs(np.fft.rfft(audio.load(data)[4096 : 4096 + 32768]))
    assert spectrum.argmax() * 44_100 / 32768 == pytest.approx(440, abs=2)


def test_channels_and_rates() -> None:
    stereo = np.stack([tone(), -tone()])
    data = audio.dump_wav(stereo, RATE_HZ)
    assert audio.load(data, mono=False).shape == (2, RATE_HZ)
    assert np.abs(audio.load(data)).max() <= 1 / 32768
    half = audio.load(audio.dump_wav(tone(), RATE_HZ), RATE_HZ // 2)
    assert len(half) == RATE_HZ // 2
    inner = slice(500, -500)
    assert np.abs(half[inner] - tone(rate_hz=RATE_HZ // 2)[inner]).max() < 1e-3
    above = audio.resample(tone(hz=8000), RATE_HZ, RATE_HZ // 2)  # what the new rate cannot hold is gone, not folded
    assert np.abs(above[inner]).max() < 1e-3


def test_loudness_is_that_of_the_standard() -> None:
    """BS.1770-4: a 997 Hz sine at full scale in one channel is -3.01 LUFS; its own table of filters at 48 kHz."""
    assert audio.loudness_lufs(tone(20, 997, 48_000, 1.0), 48_000) == pytest.approx(-3.01, abs=0.02)
    assert audio.loudness_lufs(tone(20, 997, 22_050, 0.1), 22_050) == pytest.approx(-23.01, abs=0.05)
    (b1, a1), (b2, a2) = audio.k_filters(48_000)
    assert b1 == pytest.approx([1.53512485958697, -2.69169618940638, 1.19839281085285], abs=1e-8)
    assert a1 == pytest.approx([1.0, -1.69065929318241, 0.73248077421585], abs=1e-8)
    assert (b2, a2[1:]) == ([1.0, -2.0, 1.0], pytest.approx([-1.99004745483398, 0.99007225036621], abs=1e-8))
    both = np.stack([tone(5, 997, 48_000)] * 2)
    assert audio.loudness_lufs(both, 48_000) - audio.loudness_lufs(both[0], 48_000) == pytest.approx(3.01, abs=0.01)
    gated = np.concatenate([tone(5, 997, 48_000), np.zeros(48_000 * 20, dtype=np.float32)])  # silence does not count
    assert audio.loudness_lufs(gated, 48_000) == pytest.approx(audio.loudness_lufs(both[0], 48_000), abs=0.2)
    assert audio.loudness_lufs(np.zeros(48_000, dtype=np.float32), 48_000) == audio.SILENCE_LUFS


def test_k_weighting_is_the_recursive_filter() -> None:
    signal = pytest.importorskip("scipy.signal")
    noise = np.random.default_rng(1).normal(size=70_000).astype(np.float32)
    expected = noise.astype(np.float64)
    for b, a in audio.k_filters(RATE_HZ):
        expected = signal.lfilter(b, a, expected)
    assert np.abs(audio.k_weighted(noise, RATE_HZ) - expected).max() < 1e-6


def test_clipping_is_seen() -> None:
    loud = tone(level=2.0)
    assert audio.clipped_share(np.clip(loud, -1, 1)) > 0.5
    assert audio.clipped_share(tone(level=0.999)) < 0.02
    assert audio.clipped_share(np.clip(loud, -0.3, 0.3)) == 0.0  # a square wave may be meant; it is far from full scale


def test_spectrogram_shows_the_pitch() -> None:
    columns = audio.spectrogram_db(tone(hz=1000, level=1.0), RATE_HZ, columns=20, bands=64)
    filters = audio.mel_bands(RATE_HZ, 1024, 64)
    where = np.arange(513) * RATE_HZ / 1024
    heard = (filters @ where)[columns[:, 10].argmax()]
    assert heard == pytest.approx(1000, rel=0.06)
    assert filters.sum(1) == pytest.approx(np.ones(64))
    picture = Image.open(io.BytesIO(audio.preview(audio.dump_wav(tone(), RATE_HZ), width_px=100)))
    assert picture.size == (100, 192)


def test_what_cannot_be_read_says_why() -> None:
    whole = audio.dump_wav(tone(), RATE_HZ)
    flac = audio.dump_flac(tone(), RATE_HZ)
    with pytest.raises(Unreadable, match="truncated"):
        audio.probe(whole[:20_000])
    with pytest.raises(Unreadable, match=r"truncated|damaged"):
        audio.probe(flac[: len(flac) // 2])
    with pytest.raises(Unreadable, match="no recording"):
        audio.probe(b"just words")
    with pytest.raises(Unreadable, match="damaged") as error:
        audio.probe(b"RIFF\0\0\0\0WAVEfmt ")
    assert "0x" not in str(error.value)  # no address in memory
    with pytest.raises(Unreadable, match="no sound"):
        audio.probe(audio.dump_wav(np.zeros(0, dtype=np.float32), RATE_HZ))
    broken = tone()
    broken[100] = np.nan
    with pytest.raises(Unreadable, match="no numbers"):
        audio.load(written("WAV", broken, subtype="FLOAT"))
    with pytest.raises(Unreadable, match="claims"):
        audio.probe(whole[:24] + struct.pack("<I", 1) + whole[28:])


def test_longer_than_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_SAMPLES", 10_000)
    with pytest.raises(Unreadable, match="minutes"):
        audio.load(audio.dump_wav(tone(), RATE_HZ))


@pytest.mark.parametrize(
    ("head", "mime", "media"),
    [
        (b"\0\0\0\x18ftypM4A \0\0\0\0", "audio/mp4", "audio"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0", "video/quicktime", "video"),
        (b"\0\0\0\x18ftypisom\0\0\0\0M4A ", "video/mp4", "video"),
        (b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x86\x81\x01B\x82\x84webm", "video/webm", "video"),
        (b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x86\x81\x01B\x82\x88matroska", "video/x-matroska", "video"),
        (b"RIFF\0\0\0\0AVI LIST", "video/x-msvideo", "video"),
        (b"MThd\0\0\0\x06", "audio/midi", "audio"),
        (b"%abc-2.1\nX:1\nT:A tune\nM:4/4\nK:D\nDEFG|\n", "text/vnd.abc", "text"),
        (b"X: marks the spot\nK: is a letter\n", "text/plain", "text"),
    ],
)
def test_kinds(head: bytes, mime: str, media: str) -> None:
    kind = sniff.sniff(head)
    assert (kind.mime, kind.media) == (mime, media)
