"""Titles: a piece without one is known by its opening, as untitled poems are in both languages."""

from __future__ import annotations

import re

from intaglio.media.verse import is_han, lines_of
from intaglio.media.words import STOP_WORDS, sentences

MOST_WORDS = 7
MOST_HAN = 14
_EDGE = " \t\n,;:.!?，。；：！？、—–-\"'“”‘’「」『』*_#"


def opening_title(text: str, *, taken: set[str]) -> str:
    """A title from the opening of ``text`` that is not in ``taken``; empty for a text without letters.

    Chinese verse: the first two characters of the first line, as in the Book of Songs, or more of it where that is
                   taken.
    Other texts: the first line or sentence, cut at a comma or before a word that cannot stand at the end.
    """
    choices = list(_han_choices(text) if text and _mostly_han(text) else _word_choices(text))
    for choice in choices:
        if choice and choice not in taken:
            return choice
    return choices[-1] if choices else ""


def _mostly_han(text: str) -> bool:
    letters = [char for char in text[:200] if char.isalpha()]
    return bool(letters) and 2 * sum(map(is_han, letters)) >= len(letters)


def _han_choices(text: str) -> list[str]:
    lines = lines_of(text[:400], "zh")
    if not lines:
        return []
    first = lines[0]
    if len(lines) > 1 and len(first) in (5, 7) and len(lines[1]) == len(first):
        # 2 + 3 and 2 + 2 + 3 are where such lines breathe
        return [first[:2], *([first[:4]] if len(first) == 7 else []), first, lines[1]]
    return [first[:MOST_HAN], *(line[:MOST_HAN] for line in lines[1:4])]


def _word_choices(text: str) -> list[str]:
    found = []
    for start, end in list(sentences(text[:600]))[:4]:
        sentence = text[start:end].strip(_EDGE)
        clause = re.split(r"[,;:—!?]| - ", sentence)[0]
        words = (clause if len(clause.split()) >= 2 else sentence).split()
        cut = words[:MOST_WORDS]
        while len(words) > MOST_WORDS and len(cut) > 2 and cut[-1].strip(_EDGE).lower() in STOP_WORDS:
            cut.pop()
        title = " ".join(cut).strip(_EDGE)[:80].strip(_EDGE)
        if any(map(str.isalnum, title)):
            found.append(title[0].upper() + title[1:])
    return found


def split_title(text: str) -> tuple[str, str]:
    """A title that stands in the text itself - a Markdown heading, or a short first line before a blank one - and the
    rest.

    An empty title where there is none.
    """
    bare = text.strip()
    head, _, rest = bare.partition("\n")
    title = head.strip().strip("#*_ ").strip()
    if not rest.strip() or not title or len(title) > 80:
        return "", bare
    heading = head.lstrip().startswith("#") or re.fullmatch(r"\s*\*\*.+\*\*\s*", head)
    alone = rest.startswith("\n") and not re.search(r"[。.!?！？,，;；:：]$", title)
    return (title, rest.strip()) if heading or alone else ("", bare)
