"""Facts that can be asked by words: what keywords and style hand to generation."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

from intaglio.core.contracts import Context, Dataset, Hit, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import LANGUAGES, t
from intaglio.media.words import content_words


def fact(text: str, *, parents: tuple[str, ...], language: str, meta: Mapping[str, Any]) -> Item:
    """One fact; its parents are the items it was read from (at most a few examples where it was read from all)."""
    return Item(media="fact", text=text, parents=parents, language=language, meta=dict(meta))


def fact_language(ctx: Context) -> str:
    """The language facts are written in: the project's first, not the reader's, so that the same project makes the same
    facts."""
    return next((each for each in ctx.languages if each in LANGUAGES), "en")


def nothing_to_read(ctx: Context, what: str) -> UserError:
    """The error for an archive without a single word."""
    return UserError(
        t("no item here has any text, so {what} cannot be made", what=what),
        where=f"intaglio.toml [knowledge.{ctx.step}] items",
        fix=t("name a step that brings texts, or pictures with captions"),
    )


class FactKnowledge:
    """``core.contracts.LoadedKnowledge`` over stored facts, asked by the words they share with the question.

    of_facts: its hits hold the fact, not a passage of the item, so generation takes themes and style from it, no
              material.
    """

    of_facts = True

    def __init__(self, facts: Dataset) -> None:
        self._facts = facts

    def facts(self) -> Dataset:
        """All facts, as a stream."""
        return self._facts

    def search(self, query: str, k: int = 5) -> list[Hit]:
        """The ``k`` facts that share most words with ``query``; the score is the share of the question's words, in (0,
        1]."""
        asked = set(content_words(query)) or {query.strip().casefold()} - {""}
        if not asked or k < 1:
            return []
        found: list[tuple[float, int, Hit]] = []
        for place, each in enumerate(self._facts):
            text = each.text.casefold()
            shared = sum(word in text for word in asked)
            if shared:
                hit = Hit(
                    item=(each.parents or ("",))[0], text=each.text, score=shared / len(asked), origin=each.origin
                )
                found.append((-hit.score, place, hit))
        return [hit for _, _, hit in heapq.nsmallest(k, found, key=lambda one: one[:2])]
