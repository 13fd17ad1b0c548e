"""Poems in the JSON of the chinese-poetry collection, whole or cut into regular four-line units.

A regular poem has lines of one length, 5 or 7 characters, and a number of lines that four divides; anything with a
missing or odd character (``□``, notes in brackets) is left out, so that a model of forms learns from whole forms
only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from intaglio.core.config import SourceConfig
from intaglio.core.contracts import Item, Skip
from intaglio.core.i18n import t
from intaglio.data._items import text_item
from intaglio.data._rights import Said
from intaglio.media import Unreadable

LINES = 4
_BREAK = re.compile(r"[，。！？；、：,.!?;:]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003134f]+")


class Poems:
    """Turns one JSON file into items; ``convert`` is applied to every text (OpenCC, or ``str``)."""

    def __init__(self, config: SourceConfig, *, form: str, convert: Callable[[str], str]) -> None:
        self.config, self.form, self.convert = config, form, convert
        self.counts = {"poems": 0, "of_form": 0}

    def read(self, data: bytes, origin: str) -> Iterator[Item | Skip]:
        """Errors: Unreadable where the file is no JSON list of poems."""
        try:
            poems = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Unreadable(t("not valid JSON: {error}", error=str(error)[:120])) from None
        if not isinstance(poems, list):
            raise Unreadable(t("no list of poems"))
        for number, poem in enumerate(poems, 1):
            lines = poem.get("paragraphs") if isinstance(poem, dict) else None
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                yield Skip(f"{origin}#{number}", t("no poem with paragraphs"))
                continue
            yield from self._poem(poem, lines, f"{origin}#{number}")

    def _poem(self, poem: dict[str, Any], lines: list[str], origin: str) -> Iterator[Item | Skip]:
        self.counts["poems"] += 1
        text = self.convert("\n".join(line.strip() for line in lines if line.strip()))
        meta = {
            key: self.convert(poem[key]) for key in ("title", "author") if isinstance(poem.get(key), str) and poem[key]
        }
        rights = Said(self.config.license, self.config.consent, "zh", meta)
        if self.form != "quatrain":
            if text:
                yield text_item(text, origin, rights)
            return
        units = quatrains(text)
        self.counts["of_form"] += bool(units)
        # Parts of one poem go to one side of the split, else the held-out figures would be of half-known poems.
        group = hashlib.sha256(text.encode()).hexdigest()[:16] if len(units) > 1 else ""
        for number, unit in enumerate(units, 1):
            facts: dict[str, Any] = {"form": f"quatrain-{len(_BREAK.split(unit, maxsplit=1)[0])}"}
            if group:
                facts["group"] = group
            yield text_item(unit, origin if len(units) == 1 else f"{origin}.{number}", rights, **facts)


def quatrains(text: str) -> list[str]:
    """The four-line units of a regular poem, two verses a line (``A，B。\\nC，D。``); none for others."""
    verses = [verse.strip() for verse in _BREAK.split(text) if verse.strip()]
    if len(verses) < LINES or len(verses) % LINES:
        return []
    length = len(verses[0])
    if length not in (5, 7) or any(len(verse) != length or not _HAN.fullmatch(verse) for verse in verses):
        return []
    return ["{}，{}。\n{}，{}。".format(*verses[start : start + LINES]) for start in range(0, len(verses), LINES)]
