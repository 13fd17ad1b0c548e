"""A static site of the pieces: a gallery, a page per piece that shows what it was made from, and an Atom feed.

No script, no cookie, no outside request; works from a web server and from a folder on disk. English and Chinese pages
stand side by side (``index.html``, ``index.zh.html``). Every page and piece says in words that it was generated.
Atom: RFC 4287; labels in words: GB 45438-2025 section 4 (an AI element and a generation element).
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jinja2
from pydantic import Field, field_validator

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, PublishedFile
from intaglio.core.errors import UserError
from intaglio.core.hashing import digest
from intaglio.core.i18n import LANGUAGES, t
from intaglio.publish._colophon import Colophon
from intaglio.publish._pieces import Card, Piece, clean, describe, number_text
from intaglio.trust.labels import explicit

SPDX = r"[A-Za-z0-9][A-Za-z0-9.+-]*"
EPOCH = "1970-01-01T00:00:00Z"
TEMPLATES = Path(__file__).parent / "_site"
LANGUAGE_NAMES = {"en": "English", "zh": "中文"}
HTML_LANG = {"en": "en", "zh": "zh-Hans"}


class Config(StepConfig):
    """What is published and how it is signed for.

    items:    pieces to publish, best first.
    title:    name of the site; the project's title or name where empty.
    subtitle: one line below it. author: who publishes; the project's author where empty.
    base_url: where the site will lie (``https://press.example/``): the feed then has absolute links.
    updated:  ISO date for pieces that do not know when they were made.
    per_page: pieces on one page of the gallery. feed: newest entries in the feed. sources: source items shown a piece.
    """

    items: Annotated[Names, Role(stages=("generate", "optimize", "data"))]
    title: str = ""
    subtitle: str = ""
    author: str = ""
    base_url: str = Field(default="", pattern=r"^(https?://[^\s\"'<>\\]+)?$")
    updated: str = Field(default="", pattern=r"^(\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d))?)?$")
    per_page: int = Field(default=48, ge=1, le=1000)
    feed: int = Field(default=50, ge=1, le=1000)
    sources: int = Field(default=12, ge=0, le=1000)

    @field_validator("updated")
    @classmethod
    def _is_a_date(cls, value: str) -> str:
        if value:
            datetime.datetime.fromisoformat(value)
        return value


TINY: dict[str, Any] = {"items": "best"}


@dataclass(frozen=True)
class _Page:
    """One page in all languages. path: of the first language, such as ``pieces/1a2b.html``."""

    path: str
    template: str
    title: str
    pieces: tuple[str, ...]
    ai: bool
    values: dict[str, Any]


class Component:
    """Exporter: see the module's first lines."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def export(self, pieces: Dataset, ctx: Context) -> Iterator[PublishedFile]:
        """Write the site below ``ctx.out``. Errors: UserError where there is no piece or no language to write in."""
        languages = [each for each in ctx.languages if each in LANGUAGES]
        if not languages:
            raise UserError(
                t("the site can be written in {known}, not in {asked}", known="en, zh", asked=", ".join(ctx.languages)),
                where=f"intaglio.toml [publish.{ctx.step}]",
                fix='languages = ["en", "zh"]',
            )
        site = _Site(self.config, ctx, languages)
        yield from site.everything(pieces)


class _Site:
    def __init__(self, config: Config, ctx: Context, languages: Sequence[str]) -> None:
        settings = ctx.settings
        self.config, self.ctx, self.languages = config, ctx, tuple(languages)
        self.title = clean(config.title or settings.get("title") or settings.get("name") or ctx.project.name)
        self.author = clean(config.author or settings.get("author") or self.title)
        self.base_url = config.base_url.rstrip("/") + "/" if config.base_url else ""
        self.style = (TEMPLATES / "style.css").read_text("utf-8").replace("\r\n", "\n")
        self.style_hash = base64.b64encode(hashlib.sha256(self.style.encode("utf-8")).digest()).decode("ascii")
        self.total = 0
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
        )
        self.templates.tests["spdx"] = lambda code: re.fullmatch(SPDX, str(code)) is not None and code != "unknown"

    def everything(self, pieces: Dataset) -> Iterator[PublishedFile]:
        """Pieces flow past once; a piece's page is written when the next one is known. Only cards are kept."""
        cards: list[Card] = []
        colophon, before, last = Colophon(), None, None
        self.total = len(pieces)
        pictures = len(pieces.of("image"))
        totals = {True: pictures, False: self.total - pictures}
        counts = {True: 0, False: 0}
        seen: set[str] = set()
        for item in pieces:
            if item.id in seen:
                continue
            seen.add(item.id)
            kind = item.media == "image"
            counts[kind] += 1
            place = (counts[kind], totals[kind])
            piece = describe(item, self.ctx.trace(item), self.ctx, place=place, most_sources=self.config.sources)
            colophon.add(piece)
            yield from self.files_of(piece)
            if last is not None:
                yield from self.piece_page(last, before, piece.card)
                before = last.card
            last = piece
            cards.append(piece.card)
            self.ctx.progress(len(cards), self.total, pages=len(cards))
        if last is None:
            raise UserError(t("there is no piece to publish"), where=f"intaglio.toml [publish.{self.ctx.step}]")
        yield from self.piece_page(last, before, None)
        yield from self.gallery(cards)
        yield from self.page(self.colophon(colophon, cards))
        yield from self.feeds(cards)
        yield self.icon()

    # ------------------------------------------------------------------------------------------------------- files
    def write(self, path: str, text: str) -> None:
        target = self.ctx.out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8", newline="\n")

    def files_of(self, piece: Piece) -> Iterator[PublishedFile]:
        """The piece's own files: pictures and recordings as they are, a text as plain text."""
        for file in piece.files:
            target = self.ctx.out / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.ctx.path(file.ref), target)
            target.chmod(0o644)  # blobs are read-only, and this file still gets its label
            yield PublishedFile(file.path, file.ref.mime, (piece.id,), True, piece.title)
        if piece.text_path:
            self.write(piece.text_path, f"{piece.title}\n\n{piece.text}\n" if piece.titled else f"{piece.text}\n")
            yield PublishedFile(piece.text_path, "text/plain", (piece.id,), True, piece.title)

    # ------------------------------------------------------------------------------------------------------- pages
    def page(self, page: _Page) -> Iterator[PublishedFile]:
        """One file a language."""
        for language in self.languages:
            path = self.localized(page.path, language)
            self.write(path, self.render(page, language))
            yield PublishedFile(path, "text/html", page.pieces, page.ai, page.title or self.title)

    def localized(self, path: str, language: str) -> str:
        """``index.html`` -> ``index.zh.html`` for every language but the first."""
        stem, dot, suffix = path.rpartition(".")
        return path if language == self.languages[0] else f"{stem}.{language}{dot}{suffix}"

    def render(self, page: _Page, language: str) -> str:
        up = "../" * page.path.count("/")

        def link(path: str) -> str:
            return up + path

        def page_link(path: str) -> str:
            return up + self.localized(path, language)

        def say(text: str, **values: object) -> str:
            return t(text, language, **values)

        values = {
            "site": self,
            "page": page,
            "language": language,
            "html_lang": HTML_LANG[language],
            "say": say,
            "link": link,
            "page_link": page_link,
            "number": number_text,
            "explicit": explicit(),
            "others": [
                (HTML_LANG[each], LANGUAGE_NAMES[each], up + self.localized(page.path, each))
                for each in self.languages
                if each != language
            ],
            "feed_link": up + self.localized("feed.xml", language),
            **page.values,
        }
        return self.templates.get_template(page.template).render(values)

    def piece_page(self, piece: Piece, before: Card | None, after: Card | None) -> Iterator[PublishedFile]:
        values = {"piece": piece, "before": before, "after": after}
        yield from self.page(_Page(piece.card.path, "piece.html.j2", piece.title, (piece.id,), True, values))

    def gallery(self, cards: Sequence[Card]) -> Iterator[PublishedFile]:
        """``index.html``, then ``page-2.html`` and so on."""
        size = self.config.per_page
        count = (len(cards) + size - 1) // size
        for number in range(count):
            shown = cards[number * size : (number + 1) * size]
            values = {
                "plates": [card for card in shown if card.picture is not None],
                "texts": [card for card in shown if card.picture is None],
                "total": len(cards),
                "number": number + 1,
                "count": count,
                "before": _gallery_path(number - 1) if number else "",
                "after": _gallery_path(number + 1) if number + 1 < count else "",
            }
            ids = tuple(card.id for card in shown)
            yield from self.page(_Page(_gallery_path(number), "index.html.j2", "", ids, True, values))

    def colophon(self, colophon: Colophon, cards: Sequence[Card]) -> _Page:
        """How it was made: models, collections, licenses. It quotes no piece, so it carries no label."""
        return _Page("colophon.html", "colophon.html.j2", "", (), False, {"colophon": colophon, "total": len(cards)})

    # -------------------------------------------------------------------------------------------------- feed and icon
    def feeds(self, cards: Sequence[Card]) -> Iterator[PublishedFile]:
        fallback = _stamp(self.config.updated)
        stamped = [(card.created or fallback, card, _uuid(card.id)) for card in cards]
        # newest day first, then as chosen: which of two steps of one run ended first must not change the feed
        entries = sorted(stamped, key=lambda entry: entry[0][:10], reverse=True)[: self.config.feed]
        for language in self.languages:
            path = self.localized("feed.xml", language)
            identity = _uuid(digest(["feed", self.base_url or [self.title, self.author, self.ctx.step], language]))
            values = {
                "site": self,
                "language": language,
                "html_lang": HTML_LANG[language],
                "say": lambda text, language=language, **values: t(text, language, **values),
                "explicit": explicit(),
                "id": identity,
                "path": path,
                "entries": entries,
                "updated": max(stamp for stamp, _, _ in entries),
            }
            self.write(path, self.templates.get_template("feed.xml.j2").render(values))
            ids = tuple(card.id for _, card, _ in entries)
            yield PublishedFile(path, "application/atom+xml", ids, True, self.title)

    def icon(self) -> PublishedFile:
        shutil.copyfile(TEMPLATES / "icon.svg", self.ctx.out / "icon.svg")
        return PublishedFile("icon.svg", "image/svg+xml", (), False, self.title)


def _gallery_path(number: int) -> str:
    return "index.html" if number == 0 else f"page-{number + 1}.html"


def _stamp(date: str) -> str:
    if not date:
        return EPOCH
    return date if "T" in date else f"{date}T00:00:00Z"


def _uuid(sha256: str) -> str:
    """A permanent address for content of a registered kind: the first 128 bits of its hash as a UUID, version 8."""
    data = bytearray(bytes.fromhex(sha256)[:16])
    data[6] = data[6] & 0x0F | 0x80
    data[8] = data[8] & 0x3F | 0x80
    return uuid.UUID(bytes=bytes(data)).urn
