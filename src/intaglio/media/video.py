"""Films (MP4, MOV, WebM, Matroska, AVI): read safely as frames at one rate and size, written so that bytes repeat.

Everything goes through FFmpeg, with the one demultiplexer that the content asks for, so that no playlist can make it
open other files. Legend: T frames, H height, W width, C 3 channels (red, green, blue); uint8 in [0, 255].
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from intaglio.core.i18n import t
from intaglio.media import Unreadable, image, sniff

Frames = np.ndarray[Any, np.dtype[np.uint8]]
Source = Path | bytes

MAX_FRAMES = 1_000_000
MAX_PIXELS = 1 << 25  # of one frame: 8K is 33 million
DEMUXERS = {
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/x-matroska": "matroska",
    "video/webm": "matroska",
    "video/x-msvideo": "avi",
    "video/ogg": "ogg",
}


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a film is. fps: frames a second (mean). frames: as decoded where it was decoded, else the header's or 0.

    rotation: degrees (0, 90, 180, 270) its frames must be turned clockwise by; width and height are as shown, after it.
    has_sound: True where there is a sound track, whatever it holds.
    """

    mime: str
    width_px: int
    height_px: int
    fps: float
    frames: int
    seconds: float
    codec: str = ""
    rotation: int = 0
    has_sound: bool = False


# -------------------------------------------------------------------------------------------------------------- reading
def probe(source: Source, *, decode: bool = True) -> VideoInfo:
    """Read the header and one frame, and with ``decode`` every frame, so that a truncated or damaged film is found.

    Errors: Unreadable with the reason: no film, no picture track, damaged, or too large.
    """
    container, mime = _open(source)
    with container:
        stream = container.streams.video[0]
        told, fps = stream.frames, float(stream.average_rate or stream.guessed_rate or 0)
        count, rotation, seconds = 0, 0, 0.0
        for frame in _decoded(container, stream):
            rotation = _clockwise(frame) if not count else rotation
            count += 1
            seconds = max(seconds, float(frame.time or 0.0))
            if not decode:
                break
        if not count:
            raise Unreadable(t("the film holds no picture"))
        if decode and told and count < told * 0.98:  # a frame or two at the end may be left undecodable by the cutter
            raise Unreadable(t("the film is truncated"))
        fps = fps if fps > 0 else count / max(seconds, 1e-3)
        count = count if decode else told
        shown = (stream.width, stream.height) if rotation % 180 == 0 else (stream.height, stream.width)
        seconds = count / fps if count else float((container.duration or 0) / av.time_base)
        codec, sound = str(stream.codec_context.name), bool(container.streams.audio)
        return VideoInfo(mime, *shown, round(fps, 4), count, round(seconds, 4), codec, rotation, sound)


def frames(source: Source, *, fps: float | None = None, side_px: int | None = None) -> Iterator[Frames]:
    """The frames one after another, upright, uint8 [C, H, W]; memory is that of one frame.

    Args:
        fps:     how many a second of the film's own time: repeated or left out where the film has fewer or more; None
                 is every frame there is. side_px: cut to the middle square of this side; None keeps the film's size.
    Errors: Unreadable, also in the middle of a damaged film.
    """
    container, _ = _open(source)
    with container:
        stream = container.streams.video[0]
        step = 1.0 / float(stream.average_rate or stream.guessed_rate or 25)
        start, at, given = 0.0, 0.0, 0
        held: Frames | None = None
        for number, frame in enumerate(_decoded(container, stream)):
            at = float(frame.time) if frame.time is not None else number * step
            start = at if held is None and not number else start
            if fps is None:
                yield _array(frame, side_px)
                continue
            while held is not None and given < round((at - start) * fps, 6):  # what stood there until this one came
                yield held
                given += 1
            held = _array(frame, side_px)
        if held is not None and fps is not None:
            for _ in range(given, max(1, math.ceil(round((at + step - start) * fps, 6)))):
                yield held


def load(source: Source, *, fps: float | None = None, side_px: int | None = None, most: int = 512) -> Frames:
    """At most ``most`` frames at once, uint8 [T, C, H, W]. Errors: Unreadable."""
    found = [frame for frame, _ in zip(frames(source, fps=fps, side_px=side_px), range(most), strict=False)]
    if not found:
        raise Unreadable(t("the film holds no picture"))
    return np.stack(found)


def _open(source: Source) -> tuple[Any, str]:
    if isinstance(source, bytes):
        head = source[: sniff.HEAD_BYTES]
    else:
        with source.open("rb") as file:
            head = file.read(sniff.HEAD_BYTES)
    mime = sniff.sniff(head).mime
    if mime not in DEMUXERS:
        raise Unreadable(t("no film that can be read"))
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        container = av.open(opened, format=DEMUXERS[mime], metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise Unreadable(t("the film is damaged ({error})", error=_said(error))) from None
    if not container.streams.video:
        container.close()
        raise Unreadable(t("the film holds no picture"))
    stream = container.streams.video[0]
    width, height = getattr(stream, "width", 0), getattr(stream, "height", 0)  # absent where no decoder was found
    if not 1 <= width * height <= MAX_PIXELS:
        size = f"{width} x {height}"
        container.close()
        raise Unreadable(t("its frames claim {size} pixels", size=size))
    return container, mime


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    count = 0
    try:
        for frame in container.decode(stream):
            count += 1
            if count > MAX_FRAMES:
                raise Unreadable(t("more than {count} frames; cut it into parts", count=f"{MAX_FRAMES:,}"))
            yield frame
    except (av.error.FFmpegError, ValueError) as error:
        raise Unreadable(t("the film is damaged ({error})", error=_said(error))) from None


def _said(error: BaseException) -> str:
    """FFmpeg's words without the name of what was opened."""
    return str(getattr(error, "strerror", "") or error or type(error).__name__)[:120]


def _clockwise(frame: Any) -> int:
    """How far a frame must be turned clockwise to stand upright; FFmpeg tells it counter-clockwise."""
    return round(-float(getattr(frame, "rotation", 0) or 0) / 90) * 90 % 360


def _array(frame: Any, side_px: int | None) -> Frames:
    pixels = frame.to_ndarray(format="rgb24")
    turned = np.rot90(pixels, -_clockwise(frame) // 90)
    if side_px is not None:
        height, width = turned.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(np.ascontiguousarray(turned[top : top + side, left : left + side]))
        turned = np.asarray(square.resize((side_px, side_px), Image.Resampling.BOX if side > side_px else _ENLARGE))
    return np.ascontiguousarray(turned.transpose(2, 0, 1))


_ENLARGE = Image.Resampling.BICUBIC


# -------------------------------------------------------------------------------------------------------------- writing
def dump_mp4(
    frames_TCHW: Iterable[Frames], fps: float, *, quality: int = 18, sound: Any = None, rate_hz: int = 44_100
) -> bytes:
    """H.264 (yuv420p, first the index, then the frames) in MP4: what every browser and phone plays.

    One thread and no date, so that equal frames give equal bytes in equal versions of FFmpeg. Odd sides lose nothing:
    the last row or column is repeated.

    Args:
        frames_TCHW: uint8, any iterable of [C, H, W]. quality: x264's constant rate factor; less is better and larger.
        sound:       float32 (T,) or (C, T) of one or two channels at ``rate_hz``, written as AAC.
    Errors: ValueError where there is no frame.
    """
    with tempfile.TemporaryDirectory() as folder:  # FFmpeg opens the file again to move the index to its front
        path = Path(folder) / "film.mp4"
        _write_mp4(path, frames_TCHW, fps, quality=quality, sound=sound, rate_hz=rate_hz)
        return path.read_bytes()


# Without mbtree: its vector code reads what lies beyond a row, and the bytes then differ from run to run (measured).
_X264 = {"preset": "medium", "flags": "+bitexact", "x264-params": "mbtree=0"}


def _write_mp4(
    path: Path, frames_TCHW: Iterable[Frames], fps: float, *, quality: int, sound: Any, rate_hz: int
) -> None:
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = _X264 | {"crf": str(quality)}
        track = _sound_track(container, sound, rate_hz) if sound is not None else None
        count = 0
        for count, frame_CHW in enumerate(frames_TCHW, 1):
            pixels = _even(frame_CHW)
            if count == 1:
                stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        if not count:
            raise ValueError("a film needs at least one frame")
        container.mux(stream.encode(None))
        if track is not None:
            _write_sound(container, track, sound, rate_hz)


def _sound_track(container: Any, sound: Any, rate_hz: int) -> Any:
    track = container.add_stream("aac", rate=rate_hz, layout="stereo" if np.ndim(sound) == 2 else "mono")
    track.codec_context.thread_count = 1
    track.codec_context.options = {"flags": "+bitexact"}
    return track


def _write_sound(container: Any, track: Any, sound: Any, rate_hz: int) -> None:
    channels = np.ascontiguousarray(np.atleast_2d(sound), dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout="stereo" if len(channels) == 2 else "mono")
    frame.sample_rate = rate_hz
    container.mux(track.encode(frame))
    container.mux(track.encode(None))


def _even(frame_CHW: Frames) -> Frames:
    pixels = np.asarray(frame_CHW, dtype=np.uint8).transpose(1, 2, 0)
    height, width = pixels.shape[:2]
    return np.ascontiguousarray(np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def dump_webp(frames_TCHW: Iterable[Frames], fps: float, *, quality: int = 80) -> bytes:
    """An animated WebP that repeats for ever; equal frames give equal bytes. Errors: ValueError: no frame."""
    return _animation(frames_TCHW, fps, "WEBP", quality=quality, method=4)


def dump_gif(frames_TCHW: Iterable[Frames], fps: float) -> bytes:
    """An animated GIF that repeats for ever, 256 colors a frame. Errors: ValueError: no frame."""
    return _animation(frames_TCHW, fps, "GIF", optimize=False)


def _animation(frames_TCHW: Iterable[Frames], fps: float, kind: str, **options: Any) -> bytes:
    pictures = [Image.fromarray(np.ascontiguousarray(np.asarray(each).transpose(1, 2, 0))) for each in frames_TCHW]
    if not pictures:
        raise ValueError("an animation needs at least one frame")
    out = io.BytesIO()
    duration = max(20, round(1000 / fps))
    pictures[0].save(out, kind, save_all=True, append_images=pictures[1:], duration=duration, loop=0, **options)
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------------- previews
def filmstrip(frames_TCHW: Sequence[Frames] | Frames, *, count: int = 8) -> bytes:
    """``count`` frames spread over the film, side by side, as PNG."""
    places = np.linspace(0, len(frames_TCHW) - 1, min(count, len(frames_TCHW))).round().astype(int)
    chosen = [np.asarray(frames_TCHW[place]).transpose(1, 2, 0) for place in places]
    return image.dump(Image.fromarray(np.concatenate(chosen, axis=1)))


def preview(source: Source, *, height_px: int = 96) -> bytes:
    """A strip of eight frames over the first minutes of a film, PNG. Errors: Unreadable."""
    info = probe(source, decode=False)
    stride = max(1, (info.frames or 200) // 8)
    chosen: list[Frames] = []
    for number, frame_CHW in enumerate(frames(source)):
        if number % stride == 0 and len(chosen) < 8:
            picture = Image.fromarray(np.ascontiguousarray(frame_CHW.transpose(1, 2, 0)))
            width = max(1, round(picture.width * height_px / picture.height))
            chosen.append(np.asarray(picture.resize((width, height_px))).transpose(2, 0, 1))
        if len(chosen) == 8:
            break
    return filmstrip(chosen)
