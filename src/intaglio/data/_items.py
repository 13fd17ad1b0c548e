"""Items from texts, pictures, recordings and films, alike in every source: content checked, rights as they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intaglio.core.config import SourceConfig
from intaglio.core.contracts import Context, Item, Skip
from intaglio.core.i18n import t
from intaglio.data._rights import Said, said
from intaglio.media import Unreadable


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


def recording_item(path: Path, ctx: Context, *, name: str, origin: str, words: Words) -> Item:
    """A recording put into the store as it is, decoded once to its end. Errors: Unreadable."""
    try:
        from intaglio.media import audio
    except ModuleNotFoundError as error:
        raise _needs("audio", error) from None
    info = audio.probe(path)
    facts = {"rate_hz": info.rate_hz, "channels": info.channels, "seconds": round(info.seconds, 6)}
    return _filed("audio", path, ctx, name=name, origin=origin, words=words, mime=info.mime, facts=facts)


def midi_item(path: Path, ctx: Context, *, name: str, origin: str, words: Words) -> Item:
    """A MIDI file put into the store as it is, its notes counted. Errors: Unreadable."""
    try:
        import mido  # noqa: F401  # said here in a word what would stop the whole folder

        from intaglio.media import music
    except ModuleNotFoundError as error:
        raise _needs("music", error) from None
    if path.stat().st_size > music.MAX_BYTES:
        raise Unreadable(t("larger than {limit} MB", limit=music.MAX_BYTES >> 20))
    piece = music.read_midi(path.read_bytes())
    facts: dict[str, Any] = {"notes": len(piece.notes), "seconds": round(piece.seconds, 3)}
    return _filed("audio", path, ctx, name=name, origin=origin, words=words, mime="audio/midi", facts=facts)


def tune_items(data: bytes, origin: str, config: SourceConfig) -> Iterator[Item | Skip]:
    """Each tune of a book in ABC as a text; one without a note is skipped. Errors: Unreadable."""
    from intaglio.media import music, text

    book = text.parse(data).text
    for number, tune in enumerate(music.tunes_in(book), 1):
        place = f"{origin}#{number}"
        try:
            title = music.parse(tune).title
        except Unreadable as reason:
            yield Skip(place, str(reason))
            continue
        yield text_item(tune, place, said({}, config), format="abc", **({"title": title} if title else {}))


def film_item(path: Path, ctx: Context, *, name: str, origin: str, words: Words) -> Item:
    """A film put into the store as it is, decoded once to its end. Errors: Unreadable."""
    try:
        from intaglio.media import video
    except ModuleNotFoundError as error:
        raise _needs("video", error) from None
    info = video.probe(path)
    facts = {key: getattr(info, key) for key in ("width_px", "height_px", "fps", "frames", "seconds", "has_sound")}
    return _filed("video", path, ctx, name=name, origin=origin, words=words, mime=info.mime, facts=facts)


@dataclass(frozen=True, slots=True)
class Words:
    """What is said of a file beside it: caption, rights, and the name of its class, or "" where it has none."""

    rights: Said
    caption: str = ""
    label: str = ""


def _filed(
    media: str, path: Path, ctx: Context, *, name: str, origin: str, words: Words, mime: str, facts: Mapping[str, Any]
) -> Item:
    rights = words.rights
    label = {"label": words.label} if words.label else {}
    return Item(
        media=media,
        text=storable(words.caption),
        files=(ctx.put(path, name=name, mime=mime),),
        origin=origin,
        license=rights.license,
        consent=rights.consent,
        language=rights.language,
        meta={**rights.meta, **label, **facts},
    )


def _needs(extra: str, error: ModuleNotFoundError) -> Unreadable:
    """A missing package leaves out what it would read, and says how to get it; the rest of the folder is read."""
    package = (error.name or "").split(".")[0]
    return Unreadable(
        t("{package} is needed to read it: pip install 'intaglio[{extra}]'", package=package, extra=extra)
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
