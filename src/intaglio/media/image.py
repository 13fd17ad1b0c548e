"""Pictures (PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF): read safely, checked to the last row, previewed, made arrays.

Limits: a header that claims more than ``MAX_PIXELS`` is refused before a pixel is decoded; only the formats named
above are ever opened, so none of Pillow's rarer decoders runs on foreign bytes. Of an animation the first frame
counts. Legend: H height, W width, C channels; arrays are uint8 in [0, 255].
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from intaglio.core.i18n import t
from intaglio.media import Unreadable

if TYPE_CHECKING:
    import numpy as np

MAX_PIXELS = 100_000_000
MAX_SIDE_PX = 60_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MIMES = {name: f"image/{name.lower()}" for name in FORMATS}
_ORIENTATION, _GPS = 0x0112, 0x8825
_TURNS = {  # EXIF orientation to what makes it upright; Pillow's own function reads all of a foreign EXIF again
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What a picture's header says.

    width_px, height_px: as stored, before its orientation is applied. mode: Pillow's, such as ``RGB``.
    orientation: EXIF, 1 to 8, 1 is upright. has_location: True where EXIF holds GPS coordinates.
    """

    mime: str
    width_px: int
    height_px: int
    mode: str
    orientation: int = 1
    has_location: bool = False


Source = Path | bytes


def inspect(source: Source, *, decode: bool = True) -> ImageInfo:
    """Read the header, and with ``decode`` every row, so that a truncated file is found.

    Errors: Unreadable with the reason: no picture, truncated, zero or too many pixels.
    """
    with _open(source) as picture:
        info = _info(picture)
        if decode:
            if picture.format == "JPEG":
                picture.draft(
                    picture.mode, (max(1, info.width_px // 8), max(1, info.height_px // 8))
                )  # 1/8: all data, few pixels
            _load(picture)
        return info


def load(source: Source, *, mode: str = "RGB", background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The first frame, upright, in ``mode``: ``RGB``, ``L`` (transparent parts show ``background``) or ``RGBA``.

    Errors: Unreadable, as for ``inspect``.
    """
    with _open(source) as picture:
        turn = _TURNS.get(_info(picture).orientation)
        _load(picture)
        try:
            upright = picture.transpose(turn) if turn is not None else picture
            if mode == "RGBA":
                return upright.convert("RGBA")
            if upright.has_transparency_data:
                layer = upright.convert("RGBA")
                upright = Image.new("RGBA", layer.size, (*background, 255))
                upright.alpha_composite(layer)
            return _eight_bit(upright).convert(mode)
        except _DECODER_ERRORS as error:
            raise Unreadable(_reason(error)) from None


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Sixteen-bit grey is scaled down; Pillow's own conversion would clip it to white."""
    if picture.mode.startswith("I;16"):
        return picture.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return picture


_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    struct.error,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    Image.DecompressionBombError,
)


def _open(source: Source) -> ImageFile.ImageFile:
    try:
        with warnings.catch_warnings():
            # The size is judged below by MAX_PIXELS; other warnings speak of metadata that nobody here reads.
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except Image.DecompressionBombError:
        raise Unreadable(t("it claims more than {count} pixels", count=f"{MAX_PIXELS:,}")) from None
    except UnidentifiedImageError:
        raise Unreadable(t("damaged, or no picture that can be read")) from None
    except _DECODER_ERRORS as error:
        raise Unreadable(_reason(error)) from None
    if picture.width * picture.height > MAX_PIXELS or max(picture.size) > MAX_SIDE_PX:
        picture.close()
        size = f"{picture.width:,} x {picture.height:,}"
        raise Unreadable(t("it claims {size} pixels; at most {count} are read", size=size, count=f"{MAX_PIXELS:,}"))
    if min(picture.size) < 1:
        picture.close()
        raise Unreadable(t("it has no pixels"))
    return picture


def _info(picture: ImageFile.ImageFile) -> ImageInfo:
    orientation, has_location = 1, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif = picture.getexif()
        orientation = int(exif.get(_ORIENTATION, 1))
        has_location = _GPS in exif
    except _DECODER_ERRORS:
        orientation, has_location = 1, False  # damaged EXIF is no reason to lose the picture
    if orientation not in range(1, 9):
        orientation = 1
    return ImageInfo(
        MIMES[picture.format or ""], picture.width, picture.height, picture.mode, orientation, has_location
    )


def _load(picture: ImageFile.ImageFile) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture.load()
    except _DECODER_ERRORS as error:
        raise Unreadable(_reason(error)) from None


def _reason(error: BaseException) -> str:
    said = str(error)
    if "truncated" in said or "Truncated" in said or isinstance(error, EOFError):
        return t("the picture is truncated")
    return t("the picture is damaged ({error})", error=said[:120] or type(error).__name__)


# ------------------------------------------------------------------------------------------------------ writing, arrays
def dump(picture: Image.Image, kind: str = "PNG", *, quality: int = 88) -> bytes:
    """The picture as ``PNG``, ``JPEG`` or ``WEBP`` bytes without metadata; equal pixels give equal bytes."""
    out = io.BytesIO()
    if kind == "PNG":
        picture.save(out, "PNG", optimize=False, compress_level=6)
    elif kind == "JPEG":
        picture.convert("RGB").save(out, "JPEG", quality=quality, optimize=False)
    else:
        picture.save(out, "WEBP", quality=quality, method=4)
    return out.getvalue()


def thumbnail(source: Source, side_px: int = 320, *, kind: str = "JPEG") -> bytes:
    """A preview whose longer side has at most ``side_px`` pixels, upright, never enlarged.

    Errors: Unreadable, as for ``inspect``.
    """
    picture = load(source, mode="RGB" if kind == "JPEG" else "RGBA")
    picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return dump(picture, kind)


preview = thumbnail


def to_array(
    source: Source,
    side_px: int,
    *,
    mode: str = "RGB",
    fit: str = "cover",
    background: tuple[int, int, int] = (255, 255, 255),
) -> np.ndarray[Any, Any]:
    """The picture as uint8 array [side_px, side_px, C] (C 3 for ``RGB``, 4 for ``RGBA``, 1 for ``L``).

    fit: ``cover`` cuts the middle square, ``contain`` keeps all and fills with ``background``.
    Errors: Unreadable, as for ``inspect``.
    """
    import numpy as np  # an extra; the base install reads and previews without it

    picture = load(source, mode=mode, background=background)
    size = (side_px, side_px)
    if fit == "contain":
        fill = background if mode == "RGB" else background[0] if mode == "L" else (*background, 0)
        picture = ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color=fill)
    else:
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    array = np.asarray(picture, dtype=np.uint8)
    return array.reshape(side_px, side_px, -1).copy()


def from_array(pixels_HWC: np.ndarray[Any, Any]) -> Image.Image:
    """A picture from uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].

    Errors: ValueError for another type or shape.
    """
    import numpy as np

    if pixels_HWC.dtype != np.uint8 or pixels_HWC.ndim not in (2, 3):
        raise ValueError(f"pixels must be uint8 [H, W] or [H, W, C], got {pixels_HWC.dtype} {pixels_HWC.shape}")
    if pixels_HWC.ndim == 3 and pixels_HWC.shape[2] == 1:
        pixels_HWC = pixels_HWC[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels_HWC))


def grid(pictures: Sequence[Image.Image], *, columns: int, gap_px: int = 2) -> Image.Image:
    """Pictures of one size side by side on white, row by row.

    Errors: ValueError where there are none.
    """
    if not pictures:
        raise ValueError("a grid needs at least one picture")
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap_px) - gap_px, rows * (height + gap_px) - gap_px), (255, 255, 255))
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture.convert("RGB"), (column * (width + gap_px), row * (height + gap_px)))
    return sheet
