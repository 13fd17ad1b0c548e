"""How long the lines of the archive are, in words: the shortest and the longest, with the line they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Hit, Item


class Config(StepConfig):
    """What it measures. items: text steps."""

    items: Annotated[Names, Role(stages=("data",), media=("text",))]


class Lengths:
    """The facts, searched by shared words."""

    def __init__(self, found: Iterable[Item]) -> None:
        self._facts = list(found)

    def facts(self) -> Iterable[Item]:
        """All facts."""
        return self._facts

    def search(self, query: str, k: int = 5) -> list[Hit]:
        """The facts that share most words with the query."""
        wanted = set(query.split())
        ranked = sorted(self._facts, key=lambda fact: -len(wanted & set(fact.text.split())))
        return [Hit(item=f.parents[0], text=f.text, score=float(len(wanted & set(f.text.split())))) for f in ranked[:k]]


class Component:
    """Two facts, each pointing to its source."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def extract(self, items: Dataset, ctx: Context) -> Iterator[Item]:
        """The shortest and the longest line."""
        ordered = sorted((len(item.text.split()), item.id, item.text) for item in items)
        for name, (words, source, text) in (("shortest", ordered[0]), ("longest", ordered[-1])):
            yield Item(media="fact", text=f"the {name} line has {words} words: {text}", parents=(source,))

    def load(self, folder: Path, facts: Dataset, *, threads: int) -> Lengths:
        """From the facts alone; there are no files."""
        return Lengths(facts)


TINY: dict[str, Any] = {}
