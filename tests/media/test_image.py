"""Pictures: what is told by content, bombs and truncation, orientation, arrays."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from intaglio.media import Unreadable, image, sniff
from tests.data.reading import picture


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG whose header claims any size; written by hand, as a hostile sender would."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_kinds_are_told_by_content(kind: str) -> None:
    data = picture(kind)
    assert sniff.sniff(data[: sniff.HEAD_BYTES]).mime == f"image/{kind.lower()}"
    info = image.inspect(data)
    assert (info.mime, info.width_px, info.height_px) == (f"image/{kind.lower()}", 16, 12)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(20_000, 20_000, b"\0" * 100), "it claims more than 100,000,000 pixels"),
        (png(2**31 - 1, 2**31 - 1), "it claims"),
        (png(10_500, 10_500), "it claims 10,500 x 10,500 pixels"),
        (png(100_000, 2), "it claims 100,000 x 2 pixels"),
        (png(0, 0), "damaged|no pixels"),
        (picture("PNG", (64, 64))[:-60], "truncated"),
        (picture("JPEG", (256, 256))[:-200], "truncated"),
        (picture("WEBP", (64, 64))[:60], "truncated|damaged"),
        (picture("GIF", (64, 64))[:80], "truncated|damaged"),
        (b"\x89PNG\r\n\x1a\n" + b"garbage" * 9, "damaged|truncated"),
        (b"not a picture", "damaged"),
        (b"", "damaged"),
    ],
)
def test_unreadable_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        image.inspect(data)


def test_a_bomb_is_refused_by_its_header() -> None:
    """400 million pixels in 60 kB: nothing of it is decoded."""
    bomb = png(20_000, 20_000, bytes(2501 * 20_000))
    assert len(bomb) < 100_000
    with pytest.raises(Unreadable, match="more than 100,000,000 pixels"):
        image.load(bomb)


def test_orientation_is_told_and_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    exif.get_ifd(0x8825)[1] = "N"
    data = picture("JPEG", (30, 10), exif=exif)
    info = image.inspect(data)
    assert (info.width_px, info.height_px, info.orientation, info.has_location) == (30, 10, 6, True)
    assert image.load(data).size == (10, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_against_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = picture("PNG", (7, 5), exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert image.load(data).tobytes() == wanted.tobytes() and image.load(data).size == wanted.size


def test_damaged_exif_loses_no_picture() -> None:
    info = image.inspect(picture("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert info.orientation == 1


def test_transparency_shows_the_background() -> None:
    data = picture("PNG", color=(0, 0, 0, 0))
    assert image.load(data, background=(9, 8, 7)).getpixel((0, 5)) == (9, 8, 7)
    assert image.load(data, mode="RGBA").getpixel((0, 5))[3] == 0  # type: ignore[index]


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(out, "PNG")
    assert image.load(out.getvalue(), mode="L").getpixel((0, 0)) in (127, 128)


def test_arrays_and_back(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(picture("PNG", (20, 10)))
    array = image.to_array(path, 8)
    assert array.shape == (8, 8, 3) and array.dtype == np.uint8
    assert image.to_array(path, 8, mode="L", fit="contain").shape == (8, 8, 1)
    again = image.to_array(image.dump(image.from_array(array)), 8)
    assert np.array_equal(array, again)
    assert image.dump(image.from_array(array)) == image.dump(image.from_array(array))
    with pytest.raises(ValueError, match="uint8"):
        image.from_array(array.astype(np.float32))


def test_thumbnail_and_grid() -> None:
    small = image.thumbnail(picture("PNG", (400, 100)), 64)
    assert image.inspect(small).width_px == 64 and image.inspect(small).mime == "image/jpeg"
    assert image.inspect(image.thumbnail(picture(size=(9, 5)), 64, kind="PNG")).width_px == 9
    one = image.load(picture(size=(10, 10)))
    assert image.grid([one] * 5, columns=3, gap_px=2).size == (34, 22)
