"""Items from texts and pictures, alike in every source: content checked, rights as the file or the source says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from intaglio.core.config import SourceConfig
from intaglio.core.contracts import Context, Item
from intaglio.data._rights import Said, said


def text_item(text: str, origin: str, rights: Said, **meta: Any) -> Item:
    """A text with its rights; lone surrogates (which no file can hold) become U+FFFD."""
    return Item(
        media="text",
        text=storable(text),
        origin=origin,
        license=rights.license,
        consent=rights.consent,
        language=rights.language,
        meta={**rights.meta, **meta} if rights.meta or meta else {},
    )


def document_item(data: bytes, origin: str, config: SourceConfig, *, convert: Callable[[str], str] = str) -> Item:
    """A whole text file, its text passed through ``convert``. Errors: Unreadable."""
    from intaglio.media import text

    document = text.parse(data)
    return text_item(convert(document.text), origin, said(document.front, config), **document_meta(document))


def document_meta(document: Any) -> dict[str, Any]:
    """Title and, where it is not UTF-8, encoding of a parsed document."""
    meta = {"title": document.title} if document.title else {}
    return meta if document.encoding.startswith("utf-8") else {**meta, "encoding": document.encoding}


def picture_item(
    data: bytes,
    ctx: Context,
    *,
    name: str,
    origin: str,
    rights: Said,
    caption: str = "",
    meta: Mapping[str, Any] | None = None,
) -> Item:
    """A picture with its original bytes put into the store, checked to the last row. Errors: Unreadable."""
    from intaglio.media import image  # Pillow is loaded where pictures are read, not where they are planned

    info = image.inspect(data)
    facts: dict[str, Any] = {"width_px": info.width_px, "height_px": info.height_px, "mode": info.mode}
    if info.orientation != 1:
        facts["orientation"] = info.orientation
    if info.has_location:
        facts["has_location"] = True
    return Item(
        media="image",
        text=storable(caption),
        files=(ctx.put(data, name=name, mime=info.mime),),
        origin=origin,
        license=rights.license,
        consent=rights.consent,
        language=rights.language,
        meta={**rights.meta, **(meta or {}), **facts},
    )


def png_item(
    pixels: bytes,
    size: tuple[int, int],
    mode: str,
    ctx: Context,
    *,
    origin: str,
    config: SourceConfig,
    text: str,
    **meta: Any,
) -> Item:
    """A picture from raw pixels (``L``: one byte each, ``RGB``: three), rows first, stored as PNG."""
    from PIL import Image

    from intaglio.media import image

    data = image.dump(Image.frombytes(mode, size, pixels))
    name = origin.rsplit("/", 1)[-1].replace("#", "-") + ".png"
    return Item(
        media="image",
        text=text,
        files=(ctx.put(data, name=name, mime="image/png"),),
        origin=origin,
        license=config.license,
        consent=config.consent,
        split="heldout" if meta.get("part") == "test" else "train",
        meta={"width_px": size[0], "height_px": size[1], "mode": mode, **meta},
    )


def storable(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # Pairs written as two escapes are joined; what stays alone is no character.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
