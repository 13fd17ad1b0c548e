"""Keywords: the telling words of each item and of the whole archive, by TF-IDF.

Weight:  (1 + ln tf) * ln((1 + N) / (1 + df)) (Salton & Buckley 1988), words without stop words; Chinese by jieba where
         it is installed, else pairs of characters. Two English words that mostly stand together, in three texts or
         more, become one phrase, as in RAKE (Rose et al. 2010).
Facts:   ``kind`` = ``keyword`` for the archive's (parents: up to five items where the word weighs most), ``keywords``
         for an item's.
Memory:  one count a word; past 1,000,000 different words those seen once so far are let go, which is said.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Item
from intaglio.core.i18n import t
from intaglio.knowledge._facts import FactKnowledge, fact, fact_language, nothing_to_read
from intaglio.knowledge._passages import with_text
from intaglio.media.words import content_words, cuts_words

MOST_WORDS = 1_000_000
TINY: dict[str, Any] = {}


class Config(StepConfig):
    """``per_item``: keywords of each item; 0 leaves them out. ``archive``: keywords of the whole."""

    items: Annotated[Names, Role(stages=("data", "optimize"))]
    per_item: int = Field(default=6, ge=0, le=50)
    archive: int = Field(default=40, ge=1, le=1000)


class Component:
    """``core.contracts.Extractor``."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def extract(self, items: Dataset, ctx: Context) -> Iterator[Item]:
        """Yield the keywords of each item, then of the archive. Reads the archive twice; writes no files."""
        counts = self._count(items, ctx)
        if not counts.documents:
            raise nothing_to_read(ctx, t("a list of keywords"))
        leading = counts.leading(self.config.archive)
        where: dict[str, list[tuple[float, str]]] = {word: [] for word in leading}
        language = fact_language(ctx)
        seen: set[int] = set()
        for number, item in enumerate(with_text(items), 1):
            if number % 200 == 0:
                ctx.progress(counts.documents + number, 2 * counts.documents, items=number)
            weights = counts.weights(Counter(joined(content_words(item.text), counts)))
            for word, weight in weights.items():
                if word in where:
                    push = heapq.heappushpop if len(where[word]) >= 5 else _push
                    push(where[word], (weight, item.id))
            top = sorted(weights, key=lambda word: (-weights[word], word))[: self.config.per_item]
            if top:
                yield self._of_item(item, top, weights, seen)
        for word, total in leading.items():
            best = sorted(where[word], key=lambda pair: (-pair[0], pair[1]))
            meta = {"kind": "keyword", "weight": round(total, 3), "texts": counts.in_texts[word]}
            yield fact(word, parents=tuple(dict.fromkeys(id_ for _, id_ in best)), language=language, meta=meta)

    def load(self, folder: Path, facts: Dataset, *, threads: int) -> FactKnowledge:
        """The facts, to be asked by their words."""
        return FactKnowledge(facts)

    def _count(self, items: Dataset, ctx: Context) -> Counts:
        counts = Counts()
        total = len(items)
        for number, item in enumerate(with_text(items), 1):
            if number % 200 == 0:
                ctx.progress(number, 2 * total, items=number)
            counts.add(content_words(item.text))
        if not cuts_words() and any(ord(char) > 0x2E7F for word in list(counts.in_texts)[:200] for char in word):
            ctx.warn(
                t("jieba is not installed: Chinese keywords are pairs of characters (pip install 'intaglio[text]')")
            )
        if counts.let_go:
            ctx.warn(
                t("more than {most} different words: those that came once were let go on the way", most=MOST_WORDS)
            )
        without = total - counts.documents
        ctx.metric(items=counts.documents, without_text=without, words=len(counts.in_texts), cuts_chinese=cuts_words())
        return counts

    def _of_item(self, item: Item, top: list[str], weights: dict[str, float], seen: set[int]) -> Item:
        words = ", ".join(top)
        text = f"{item.origin}: {words}" if item.origin else words
        if hash(text) in seen:  # two items of one origin with the same words: the id tells them apart
            text = f"{item.origin or item.id[:12]} ({item.id[:12]}): {words}"
        seen.add(hash(text))
        meta = {"kind": "keywords", "terms": top, "weights": [round(weights[word], 3) for word in top]}
        return fact(text, parents=(item.id,), language=item.language, meta=meta)


class Counts:
    """How often each word stands in the archive, and in how many of its texts."""

    def __init__(self) -> None:
        self.in_texts: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.documents = 0
        self.let_go = False

    def add(self, words: list[str]) -> None:
        """Count one text."""
        self.documents += 1
        self.total.update(words)
        self.in_texts.update(set(words))
        self.pairs.update(
            {pair for pair in zip(words, words[1:], strict=False) if pair[0].isascii() and pair[1].isascii()}
        )
        if len(self.in_texts) > MOST_WORDS:
            self.let_go = True
            self.in_texts = Counter({word: n for word, n in self.in_texts.items() if n > 1})
            self.total = Counter({word: n for word, n in self.total.items() if word in self.in_texts})
        if len(self.pairs) > MOST_WORDS:
            self.pairs = Counter({pair: n for pair, n in self.pairs.items() if n > 1})

    def weights(self, words: Counter[str]) -> dict[str, float]:
        """TF-IDF of the words of one text; never negative."""
        # in a larger archive a word of one text only is more often a name or a slip of the word cutter than a subject
        lone = 0.6 if self.documents >= 100 else 1.0
        return {
            word: (1 + math.log(n)) * self.idf(word) * (lone if self.in_texts.get(word) == 1 else 1.0)
            for word, n in words.items()
        }

    def idf(self, word: str) -> float:
        """ln((1 + N) / (1 + df)) + 0.1, so that a single text has keywords too; a joined phrase is as rare as its rarer
        word."""
        texts = min((self.in_texts.get(part, 1) for part in word.split(" ")), default=1)
        return math.log((1 + self.documents) / (1 + texts)) + 0.1

    def leading(self, wanted: int) -> dict[str, float]:
        """The words with most weight over the whole archive: count times idf, only words of two texts or more where
        there are enough."""
        shared = [word for word, n in self.in_texts.items() if n > 1]
        words = shared if len(shared) >= wanted else list(self.in_texts)
        scored = {word: self.total[word] * self.idf(word) for word in words}
        return {word: scored[word] for word in sorted(scored, key=lambda word: (-scored[word], word))[:wanted]}


def joined(words: list[str], counts: Counts) -> list[str]:
    """The words of a text, with pairs that the archive holds in three texts or more, and mostly together, as one
    phrase."""
    found: list[str] = []
    place = 0
    while place < len(words):
        pair = tuple(words[place : place + 2])
        together = counts.pairs.get((pair[0], pair[1]), 0) if len(pair) == 2 else 0
        if together >= 3 and 2 * together >= min(counts.in_texts[pair[0]], counts.in_texts[pair[1]]):
            found.append(f"{pair[0]} {pair[1]}")
            place += 2
        else:
            found.append(words[place])
            place += 1
    return found


def _push(heap: list[tuple[float, str]], entry: tuple[float, str]) -> None:
    heapq.heappush(heap, entry)
