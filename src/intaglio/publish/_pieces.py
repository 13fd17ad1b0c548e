"""What a page shows of one piece: its text or picture, and what it was made from, ready for a template."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from intaglio.core.contracts import Context, FileRef, Item, SourceInfo, Trace
from intaglio.media import Unreadable, image

SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/svg+xml": ".svg",
    "image/avif": ".avif",
    "audio/wav": ".wav",
    "audio/mpeg": ".mp3",
    "audio/flac": ".flac",
    "audio/ogg": ".ogg",
    "audio/mp4": ".m4a",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "application/pdf": ".pdf",
    "text/plain": ".txt",
}
_NOT_TEXT = re.compile(
    "[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0001fffd\U00020000-\U0002fffd"
    "\U00030000-\U0003fffd\U000e0020-\U000e01ef]"
)
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)\Z")
_FIGURES = ("heldout", "held_out", "baseline", "bits_per", "nats", "loss", "elbo", "mse", "perplexity")
_COUNTS = ("_chars", "_pictures", "_documents", "_tokens", "_items")  # how much was measured, not how good it is
MOST_FIGURES = 6
SMALL_PX = 128  # pictures up to this are shown at a whole multiple of their size, pixels kept sharp
SHOWN_PX, SHOWN_LARGE_PX = 384, 720


def clean(text: object) -> str:
    """Text without the control characters that neither HTML nor XML can hold, line ends as ``\\n``."""
    return _NOT_TEXT.sub("", str(text).replace("\r\n", "\n").replace("\r", "\n"))


@dataclass(frozen=True)
class File:
    """A file of the piece and where it lies in the site."""

    path: str
    ref: FileRef

    @property
    def kind(self) -> str:
        """``image``, ``audio``, ``video`` or another first half of a media type."""
        return self.ref.mime.partition("/")[0]


@dataclass(frozen=True)
class Picture:
    """A picture's own size and the size it is shown at, in CSS pixels."""

    path: str
    mime: str
    width_px: int
    height_px: int
    shown_width_px: int
    shown_height_px: int
    sharp: bool


@dataclass(frozen=True)
class Card:
    """What the gallery and the feed know of a piece. number of total: its place among pictures, or among the rest."""

    id: str
    number: int
    total: int
    path: str
    title: str
    language: str
    created: str
    license: str
    lines: tuple[str, ...]
    verse: bool
    picture: Picture | None
    caption: str
    text_path: str
    more: bool


@dataclass(frozen=True)
class Block:
    """A paragraph (or a stanza, line by line) or a heading."""

    heading: bool
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """All that a piece's page shows."""

    id: str
    media: str
    title: str
    titled: bool
    text: str
    language: str
    verse: bool
    blocks: tuple[Block, ...]
    files: tuple[File, ...]
    picture: Picture | None
    text_path: str
    license: str
    created: str
    seed: int | None
    scores: tuple[tuple[str, float | None], ...]
    direct: tuple[SourceInfo, ...]
    more_direct: int
    learned: tuple[SourceInfo, ...]
    models: tuple[Mapping[str, Any], ...]
    steps: tuple[Mapping[str, Any], ...]
    collections: tuple[Mapping[str, Any], ...]
    card: Card = field(repr=False)


def describe(item: Item, trace: Trace, ctx: Context, *, place: tuple[int, int], most_sources: int) -> Piece:
    """Everything a template needs; reads the picture's size, bounds the number of sources shown.

    place: the piece's number among those of its kind, and how many there are.
    """
    number, total = place
    name = item.id[:16]
    text = clean(item.text).strip()
    files = tuple(_named(item.files, name))
    picture = next((made for made in (_picture(file, ctx) for file in files) if made is not None), None)
    verse = item.media == "text" and is_verse(text, item.meta)
    blocks = tuple(_blocks(text, verse=verse)) if item.media == "text" else ()
    title, titled = _title(item, text, blocks, number=number, verse=verse)
    if titled and blocks and blocks[0].heading and blocks[0].lines == (title,):
        blocks = blocks[1:]
    created = str(item.meta.get("created") or "")
    created = created if _STAMP.match(created) else ""
    text_path = f"texts/{name}.txt" if item.media == "text" and text else ""
    language = _language(item.language)
    lines = tuple(line for block in blocks if not block.heading for line in block.lines)
    if verse and not titled and lines and _bare(lines[0]) == title:
        lines = lines[1:]  # the first line stands as the title
    caption = text if item.media != "text" else ""
    card = Card(
        id=item.id,
        number=number,
        total=total,
        path=f"pieces/{name}.html",
        title=title,
        language=language,
        created=created,
        license=clean(item.license),
        lines=lines[:4] if verse else (_shorten(" ".join(lines), 220),),
        verse=verse,
        picture=picture,
        caption=caption,
        text_path=text_path,
        more=verse and len(lines) > 4,
    )
    direct, more_direct, learned = _sources(trace.sources, most_sources)
    return Piece(
        id=item.id,
        media=item.media,
        title=title,
        titled=titled,
        text=text,
        language=language,
        verse=verse,
        blocks=blocks,
        files=files,
        picture=picture,
        text_path=text_path,
        license=clean(item.license),
        created=created,
        seed=seed if isinstance(seed := item.meta.get("seed"), int) else None,
        scores=tuple(_scores(item.meta.get("scores"))),
        direct=direct,
        more_direct=more_direct,
        learned=learned,
        models=tuple({**model, "figures": tuple(figures(model.get("metrics") or {}))} for model in trace.models),
        steps=trace.steps,
        collections=trace.collections,
        card=card,
    )


def _named(files: Sequence[FileRef], name: str) -> Iterable[File]:
    """Safe names: from the piece's id, never from the file's own name."""
    for place, ref in enumerate(files):
        folder = {"image": "pictures", "audio": "recordings", "video": "films"}.get(ref.mime.partition("/")[0], "files")
        yield File(f"{folder}/{name}{f'-{place + 1}' if place else ''}{SUFFIXES.get(ref.mime, '.bin')}", ref)


def _picture(file: File, ctx: Context) -> Picture | None:
    if file.kind != "image" or file.ref.mime not in SUFFIXES:
        return None
    try:
        info = image.inspect(ctx.path(file.ref), decode=False)
    except Unreadable:
        return None
    width, height = info.width_px, info.height_px
    if info.orientation >= 5:
        width, height = height, width
    longest = max(width, height)
    if longest <= SMALL_PX:
        times = max(1, SHOWN_PX // longest)
        shown, sharp = (width * times, height * times), True
    else:
        share = min(1.0, SHOWN_LARGE_PX / longest)
        shown, sharp = (max(1, round(width * share)), max(1, round(height * share))), False
    return Picture(file.path, file.ref.mime, width, height, *shown, sharp)


def is_verse(text: str, meta: Mapping[str, Any]) -> bool:
    """Verse by what the generator says (``meta["form"]`` or ``meta["kind"]``), else by its short lines."""
    if "form" in meta or meta.get("kind") == "verse":
        return True
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or lines[0].startswith("#"):
        return False
    return max(sum(1 + (ord(char) > 0x2E7F) for char in line) for line in lines) <= 64


def _blocks(text: str, *, verse: bool) -> Iterable[Block]:
    for part in re.split(r"\n[ \t]*\n+", text):
        lines = tuple(line.strip() for line in part.splitlines() if line.strip())
        if not lines:
            continue
        heading = re.match(r"#{1,6}\s+(.+)", lines[0])
        if heading:
            yield Block(True, (heading[1].rstrip("# ").strip() or "#",))
            lines = lines[1:]
        if lines:
            yield Block(False, lines if verse else (" ".join(lines),))


def _title(item: Item, text: str, blocks: Sequence[Block], *, number: int, verse: bool) -> tuple[str, bool]:
    """A title, and whether the piece has it of its own (and not only from its first words)."""
    given = clean(item.meta.get("title") or "").strip()
    if given:
        borrowed = verse and bool(blocks) and _bare(blocks[0].lines[0]).startswith(_bare(given))
        return _shorten(given, 120), not borrowed
    if item.media != "text":
        return (_shorten(text.splitlines()[0], 80), True) if text else (f"№ {number}", False)
    if not blocks:
        return f"№ {number}", False
    first = blocks[0].lines[0]
    if blocks[0].heading:
        return _shorten(first, 120), True
    if verse:
        return _shorten(_bare(first), 80), False
    phrase = re.match(r"(.{4,60}?)[,，.。;；:：!！?？、]", first)
    return _shorten(phrase[1] if phrase else first, 48).rstrip(" ,，.。;；:："), False


def _bare(line: str) -> str:
    return line.strip().rstrip(" ,，.。;；:：!！?？…")


def _shorten(text: str, most: int) -> str:
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    cut = text[: most - 1]
    space = cut.rfind(" ")
    return (cut[:space] if space > most // 2 else cut).rstrip(" ,，.。;；:：") + "…"


def _language(code: str) -> str:
    """A language tag that is safe in an attribute; empty where it is none."""
    return code if re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", code) else ""


def _scores(scores: Any) -> Iterable[tuple[str, float | None]]:
    if isinstance(scores, Mapping):
        for name, value in sorted(scores.items()):
            if value is None or isinstance(value, int | float):
                number = None if value is None or not math.isfinite(value) else float(value)
                yield clean(name).replace("_", " "), number


def figures(metrics: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The measured figures of a model worth showing: held-out ones first, plain numbers only."""
    numbers = [
        (str(name), float(value))
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]
    telling = [
        pair for pair in numbers if any(word in pair[0].lower() for word in _FIGURES) and not pair[0].endswith(_COUNTS)
    ]
    telling.sort(key=lambda pair: _telling(pair[0].lower()))
    for name, value in (telling or numbers)[:MOST_FIGURES]:
        yield clean(name).replace("_", " "), number_text(value)


def _telling(name: str) -> tuple[int, str]:
    """Sorts figures: those of unseen material first, bits before errors, each beside its baseline."""
    kind = next((place for place, word in enumerate(("bits_per", "mse", "elbo")) if word in name), 3)
    far = 0 if "held" in name or "baseline" in name else 20
    return far + 4 * kind + ("bound" in name) * 2 + ("baseline" in name), name


def number_text(value: float) -> str:
    """Four significant digits, no exponent for ordinary sizes, thousands separated."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e5 else f"{value:.3e}"


def _sources(sources: Sequence[SourceInfo], most: int) -> tuple[tuple[SourceInfo, ...], int, tuple[SourceInfo, ...]]:
    """Direct sources (bounded, with how many more there are) and the first of what models learned from."""
    direct: list[SourceInfo] = []
    learned: list[SourceInfo] = []
    more = 0
    for source in sources:
        if source.direct and len(direct) < most * 4:
            direct.append(_clean_source(source))
        elif source.direct:
            more += 1
        elif len(learned) < most:
            learned.append(_clean_source(source))
    return tuple(direct), more, tuple(learned)


def _clean_source(source: SourceInfo) -> SourceInfo:
    return SourceInfo(
        source.id,
        _shorten(clean(source.origin), 200),
        _shorten(clean(source.license), 100),
        _shorten(clean(source.consent), 200),
        source.direct,
    )
