"""A folder of texts, tunes, pictures, recordings and films, told by content; captions lie in .txt files beside them.

The caption of a picture, recording or film is the text file of the same stem (``fox.jpg`` and ``fox.txt``, or
``fox.jpg.txt``). Where the folder has several sub-folders, the first sub-folder on a recording's or a film's path is
its ``label``. Of a tune book in ABC each tune is a text; a MIDI file is a recording that holds notes. Front matter of a
text gives its own license, author, title, source, consent and language. A text over 64 MiB is read by paragraphs or
lines only (``unit``). Links are never followed, hidden files are left out, and whatever cannot be read is skipped with
its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from intaglio.core.config import ProjectFolder
from intaglio.core.contracts import Context, Item, Skip
from intaglio.core.i18n import t
from intaglio.data import _files
from intaglio.data._files import Entry
from intaglio.data._items import (
    Words,
    document_meta,
    film_item,
    midi_item,
    picture_item,
    recording_item,
    text_item,
    tune_items,
)
from intaglio.data._rights import LicensedConfig, said
from intaglio.media import Unreadable, sniff

if TYPE_CHECKING:
    from intaglio.media.text import Document


class Config(LicensedConfig):
    """path: the folder, inside the project. unit: a text file is one item, or each of its paragraphs or lines is."""

    path: ProjectFolder
    unit: Literal["file", "paragraph", "line"] = "file"


class Component:
    """Reads a folder of texts, pictures, recordings and films."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, ctx: Context) -> Iterator[Item | Skip]:
        """Items in the order of sorted paths. Errors: UserError where the folder is missing or outside the project."""
        root = _files.place(self.config.path, ctx, folder=True)
        base = _base_of_labels(root, ctx)
        for entries in _files.walk(root, ctx):
            yield from self._folder(entries, base, ctx)

    def _folder(self, entries: list[Entry], base: str | None, ctx: Context) -> Iterator[Item | Skip]:
        captions = _captions(entries)
        taken = set(captions.values())
        by_origin = {entry.origin: entry for entry in entries if entry.origin in taken}
        for entry in entries:
            if entry.origin in taken:
                continue
            if entry.refused:
                yield Skip(entry.origin, entry.refused)
                continue
            try:
                yield from self._file(entry, by_origin.get(captions.get(entry.origin, "")), base, ctx)
            except Unreadable as reason:
                yield Skip(entry.origin, str(reason))

    def _file(self, entry: Entry, caption: Entry | None, base: str | None, ctx: Context) -> Iterator[Item | Skip]:
        head = _files.read_head(entry.path, sniff.HEAD_BYTES)
        kind = sniff.sniff(head)
        if kind is sniff.ABC and (entry.name.lower().endswith(".abc") or head.lstrip()[:2] in (b"X:", b"%a")):
            yield from tune_items(_files.read_bytes(entry.path, MAX_BOOK_BYTES), entry.origin, self.config)
        elif kind.media == "text":
            yield from texts(entry, self.config)
        elif kind.media in CAPTIONED:
            words, rights = "", said({}, self.config)
            if caption is not None:
                try:
                    document = _parse(caption)
                    words, rights = document.text.strip(), said(document.front, self.config)
                except Unreadable as reason:
                    yield Skip(caption.origin, t("caption: {reason}", reason=reason))
            yield _captioned(
                "notes" if kind.mime in sniff.NOTES else kind.media,
                entry,
                Words(rights, words, _label(entry, base)),
                ctx,
            )
        elif kind in (sniff.EMPTY, sniff.BINARY):
            raise Unreadable(t(kind.name))
        else:
            raise Unreadable(t("it is {kind}, which is not read here", kind=t(kind.name)))


MAX_BOOK_BYTES = 64 << 20
CAPTIONED = ("image", "audio", "video")


def _captioned(media: str, entry: Entry, words: Words, ctx: Context) -> Item:
    if media == "image":
        data = _files.read_bytes(entry.path, _files.MAX_PICTURE_BYTES)
        rights, caption = words.rights, words.caption
        return picture_item(data, ctx, name=entry.name, origin=entry.origin, rights=rights, caption=caption)
    make = {"audio": recording_item, "video": film_item, "notes": midi_item}[media]
    return make(Path(entry.path), ctx, name=entry.name, origin=entry.origin, words=words)


def _base_of_labels(root: Path, ctx: Context) -> str | None:
    """The origin of the folder whose sub-folders are labels; None where it has less than two."""
    try:
        folders = [each for each in root.iterdir() if each.is_dir() and not each.name.startswith(".")]
    except OSError:
        return None  # the walk says why
    if len(folders) < 2:
        return None
    origin = _files.origin_of(root, ctx)
    return "" if origin == "." else f"{origin}/"


def _label(entry: Entry, base: str | None) -> str:
    if base is None:
        return ""
    first, slash, _ = entry.origin.removeprefix(base).partition("/")
    return first if slash else ""


def _parse(entry: Entry) -> Document:
    from intaglio.media import text

    if entry.size_bytes > text.MAX_BYTES:
        raise Unreadable(
            t('a text of more than {limit} MB; read it with unit = "paragraph" or "line"', limit=text.MAX_BYTES >> 20)
        )
    return text.parse(_files.read_bytes(entry.path, text.MAX_BYTES))


def texts(entry: Entry, config: Config) -> Iterator[Item | Skip]:
    """One text file as one item, or as its paragraphs or lines. Errors: Unreadable."""
    from intaglio.media import text

    if config.unit == "file":
        document = _parse(entry)
        yield text_item(document.text, entry.origin, said(document.front, config), **document_meta(document))
        return
    if entry.size_bytes <= text.MAX_BYTES:
        document = _parse(entry)
        rights = said(document.front, config)
        for number, unit in enumerate(text.cut([document.text], config.unit), 1):
            yield text_item(unit, f"{entry.origin}#{number}", rights, **document_meta(document))
        return
    encoding = text.detect(_files.read_head(entry.path, _files.CHUNK_BYTES), whole=False)
    with _files.open_regular(
        entry.path
    ) as file:  # too long to hold; front matter is for documents and is not looked for
        for number, unit in enumerate(text.cut(_files.text_chunks(file, encoding), config.unit), 1):
            yield text_item(unit, f"{entry.origin}#{number}", said({}, config))


def _captions(entries: list[Entry]) -> dict[str, str]:
    """Origin of each picture, recording or film that has a text of its stem beside it, to that text's origin."""
    names = {entry.origin: entry for entry in entries if not entry.refused}
    found: dict[str, str] = {}
    captioned: dict[str, bool] = {}
    for entry in names.values():
        if "." not in entry.name:
            continue
        for caption in (f"{entry.origin.rpartition('.')[0]}.txt", f"{entry.origin}.txt"):
            if caption == entry.origin or caption not in names:
                continue
            for each in (entry.origin, caption):
                if each not in captioned:
                    captioned[each] = _media(names[each]) in CAPTIONED
            if captioned[entry.origin] and not captioned[caption]:
                found[entry.origin] = caption
                break
    return found


def _media(entry: Entry) -> str:
    try:
        return sniff.sniff(_files.read_head(entry.path, sniff.HEAD_BYTES)).media
    except Unreadable:
        return ""


TINY = {"path": ".", "license": "CC0-1.0"}
