"""Films: what is read back, at other rates and sizes; bytes that repeat; what cannot be read."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from intaglio.media import Unreadable, audio, sniff, video


def waves(count: int = 24, height: int = 64, width: int = 80) -> video.Frames:
    y, x = np.mgrid[:height, :width]
    made = [
        np.stack([128 + 100 * np.sin((x + 2 * t) / 9), 128 + 90 * np.cos((y - t) / 7), np.full((height, width), 9 * t)])
        for t in range(count)
    ]
    return np.stack(made).astype(np.uint8)


def test_mp4_is_read_back_and_its_bytes_repeat() -> None:
    frames = waves()
    data = video.dump_mp4(frames, 12)
    assert data == video.dump_mp4(iter(frames), 12)
    assert data.find(b"moov") < data.find(b"mdat")  # plays before it is all there
    info = video.probe(data)
    assert (info.width_px, info.height_px, info.fps, info.frames, info.seconds) == (80, 64, 12.0, 24, 2.0)
    assert (info.mime, info.codec, info.has_sound) == ("video/mp4", "h264", False)
    assert np.abs(video.load(data).astype(int) - frames).mean() < 6  # color is kept at half size
    assert sniff.sniff(data[: sniff.HEAD_BYTES]).media == "video"


@pytest.mark.parametrize(("fps", "count"), [(6.0, 12), (12.0, 24), (24.0, 48), (25.0, 50), (0.1, 1)])
def test_frames_at_another_rate_keep_the_films_time(fps: float, count: int) -> None:
    frames = np.zeros((24, 3, 32, 32), dtype=np.uint8) + (np.arange(24, dtype=np.uint8) * 10)[:, None, None, None]
    found = video.load(video.dump_mp4(frames, 12), fps=fps, side_px=16)
    assert found.shape == (count, 3, 16, 16)
    expected = [10 * int(place / fps * 12 + 1e-9) for place in range(count)]
    assert np.abs(found.mean((1, 2, 3)) - expected).max() < 4


def test_the_middle_square_is_cut() -> None:
    frames = np.zeros((3, 3, 32, 64), dtype=np.uint8)
    frames[..., 16:48] = 200
    assert np.abs(video.load(video.dump_mp4(frames, 5), side_px=16)[..., 1:-1].astype(int) - 200).max() < 12


def test_odd_sides_lose_nothing() -> None:
    assert video.load(video.dump_mp4(waves(2, 31, 33), 5)).shape == (2, 3, 32, 34)


def test_sound_lies_beside_the_picture() -> None:
    sound = (0.3 * np.sin(2 * np.pi * 440 * np.arange(88_200) / 44_100)).astype(np.float32)
    data = video.dump_mp4(waves(), 12, sound=sound)
    assert video.probe(data).has_sound
    heard = audio.load(data)
    assert len(heard) / 44_100 == pytest.approx(2.0, abs=0.1)
    assert np.abs(np.fft.rfft(heard[8192 : 8192 + 44_100])).argmax() == pytest.approx(440, abs=1)
    assert data == video.dump_mp4(waves(), 12, sound=sound)
    with pytest.raises(Unreadable, match="no sound"):
        audio.probe(video.dump_mp4(waves(2), 12))


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_animations_are_pictures_that_move(kind: str) -> None:
    dump = video.dump_webp if kind == "webp" else video.dump_gif
    data = dump(waves(6), 10)
    assert data == dump(waves(6), 10)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.n_frames, picture.size) == (6, (80, 64))  # type: ignore[attr-defined]
    assert sniff.sniff(data[: sniff.HEAD_BYTES]).mime == f"image/{kind}"


def test_other_containers(tmp_path: Path) -> None:
    for name, codec in (
        ("film.webm", "libvpx-vp9"),
        ("film.avi", "mpeg4"),
        ("film.mkv", "libx264"),
        ("f.mov", "mpeg4"),
    ):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=12)
            stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
            for frame in waves(5):
                rows = np.ascontiguousarray(frame.transpose(1, 2, 0))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rows, format="rgb24")))
            container.mux(stream.encode(None))
        info = video.probe(tmp_path / name)
        assert (info.frames, info.width_px, round(info.fps)) == (5, 80, 12), name


def test_what_cannot_be_read_says_why() -> None:
    whole = video.dump_mp4(waves(48), 12)
    for bad in (whole[: len(whole) * 2 // 3], whole[:400], b"\x1aE\xdf\xa3" + b"x" * 900):
        with pytest.raises(Unreadable):
            video.probe(bad)
    with pytest.raises(Unreadable, match="no film"):
        video.probe(b"#EXTM3U\nfile:///etc/passwd\n")  # a playlist is a text, never followed
    with pytest.raises(ValueError):
        video.dump_mp4([], 12)


def test_preview_is_a_strip() -> None:
    picture = Image.open(io.BytesIO(video.preview(video.dump_mp4(waves(), 12), height_px=32)))
    assert picture.size == (8 * 40, 32)
