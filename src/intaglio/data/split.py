"""Training and held-out items, told apart by the hash of each item's content, so that new items move no old one.

Items of one ``meta["group"]`` (units of one poem) go to one side. A split that the data set brings (``meta["part"]``)
is kept. With two items or more neither side stays empty: the beginning of the stream is held until both sides are
seen, and where chance gave one side nothing, the item nearest to the border goes there.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from pydantic import Field

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Item, Skip

HELD_ITEMS = 4096
HELD_CHARS = 32_000_000


class Config(StepConfig):
    """heldout: share of items kept out of training, in [0, 0.5]. items: only where it is a step of its own."""

    items: Annotated[Names, Role(stages=("data", "optimize"))] = ()
    heldout: float = Field(default=0.1, ge=0.0, le=0.5)


class Component:
    """Splits items."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def apply(self, items: Iterable[Item | Skip], ctx: Context) -> Iterator[Item | Skip]:
        """The items in their order with ``split`` set to ``train`` or ``heldout``."""
        stream = iter(items)
        held: list[Item | Skip] = []
        yield from self._start(stream, held)
        for item in stream:
            yield self._placed(item)[0] if isinstance(item, Item) else item

    def _start(self, stream: Iterator[Item | Skip], held: list[Item | Skip]) -> Iterator[Item | Skip]:
        """Hold items until both sides have one, or too many are held; then let all go."""
        sides: set[str] = set()
        near: dict[str, tuple[float, int]] = {}  # for each side: the item held that is nearest to it, and its place
        count = chars = 0
        wanted = {"train", "heldout"} if self.config.heldout else {"train"}
        for item in stream:
            if isinstance(item, Skip):
                held.append(item)
                continue
            placed, share = self._placed(item)
            for side, distance in (("heldout", share), ("train", -share)):
                if side not in near or distance < near[side][0]:
                    near[side] = (distance, len(held))
            held.append(placed)
            sides.add(placed.split)
            count += 1
            chars += len(item.text)
            if sides >= wanted or count >= HELD_ITEMS or chars >= HELD_CHARS:
                break
        missing = wanted - sides
        if missing and count >= 2:
            side = missing.pop()
            place = near[side][1]
            moved = held[place]
            if isinstance(moved, Item):
                held[place] = dataclasses.replace(moved, split=side)
        elif count == 1 and self.config.heldout:
            held[:] = [dataclasses.replace(each, split="train") if isinstance(each, Item) else each for each in held]
        yield from held

    def _placed(self, item: Item) -> tuple[Item, float]:
        """The item on its side, and the number in [0, 1) that put it there (below the share: held out)."""
        group = item.meta.get("group")
        key = hashlib.sha256(str(group).encode()).hexdigest() if group else item.id
        share = int(key[:13], 16) / 16**13
        if "part" in item.meta:
            return item, 0.0 if item.split == "heldout" else 1.0 - 1e-9
        side = "heldout" if share < self.config.heldout else "train"
        return (item if item.split == side else dataclasses.replace(item, split=side)), share


TINY: dict[str, Any] = {}
