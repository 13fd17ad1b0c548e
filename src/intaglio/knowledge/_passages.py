"""Long texts cut into passages at paragraph and sentence ends, with their offsets; and a fixed sample of a long
archive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from intaglio.core.contracts import Item
from intaglio.media.words import sentences

BUDGET = 300.0  # about the tokens of a passage: an embedding model reads 512


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage of an item: ``text`` is ``item.text[start:end]``."""

    start: int
    end: int
    text: str


def weight(text: str) -> float:
    """About how many tokens a multilingual model makes of ``text``: a Chinese character 1, another character 0.3."""
    if text.isascii():
        return 0.3 * len(text)
    return sum(1.0 if ord(char) > 0x2E7F else 0.3 for char in text)


def passages(text: str, budget: float = BUDGET) -> Iterator[Passage]:
    """The passages of ``text``: whole sentences up to ``budget``, a longer sentence cut hard; nothing for blank
    text."""
    start = end = -1
    held = 0.0
    for first, last in sentences(text):
        for a, b in _hard(text, first, last, budget):
            size = weight(text[a:b])
            if start >= 0 and held + size > budget:
                yield Passage(start, end, text[start:end])
                start, held = -1, 0.0
            start = a if start < 0 else start
            end = b
            held += size
    if start >= 0:
        yield Passage(start, end, text[start:end])


def _hard(text: str, first: int, last: int, budget: float) -> Iterator[tuple[int, int]]:
    step = int(budget)
    while (
        last - first > budget / 0.3 or weight(text[first:last]) > budget
    ):  # the short test first: a line may be enormous
        cut = first + step
        while weight(text[first:cut]) < budget * 0.9 and cut < last:
            cut += step // 4
        cut = min(cut, last)
        space = text.rfind(" ", first + step // 2, cut)
        cut = space if space > 0 and cut < last else cut
        yield first, cut
        first = cut
        if first >= last:
            return
    yield first, last


def in_sample(id_: str, total: int, wanted: int) -> bool:
    """Whether an item belongs to the sample of about ``wanted`` of ``total`` items; told by its id alone, so always the
    same."""
    return total <= wanted or int(id_[:12], 16) < wanted / total * 16**12


def with_text(items: Iterable[Item]) -> Iterator[Item]:
    """Only the items that have words: texts, and pictures with a caption."""
    return (item for item in items if item.text.strip() and item.media != "fact")
