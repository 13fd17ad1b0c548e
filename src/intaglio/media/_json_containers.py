"""Lists and objects of compact JSON, read a character at a time (``media/_json.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from intaglio.media._json import NEVER, Node, Place, Spot, Texts, Value, compact


class Array(Node):
    """A list of ``least`` to ``most`` (-1: without bound) items. at: (items to come at least, at most, begun)."""

    def __init__(self, items: Value | None, least: int, most: int) -> None:
        self.items, self.least, self.most = items, least, most
        self.start = (least, most, "")

    def cost(self, at: tuple[int, int, str], levels: int) -> int:
        need, _, begun = at
        item = self.items.cost(levels - 1) if self.items is not None else NEVER
        total = 1 + need * (item + 1) if need else 1
        if not begun:
            total += 1
        if begun != "," and need:  # before the first there is no comma
            total -= 1
        return min(NEVER, total) if levels > 0 else NEVER

    def step(self, place: Place, char: str) -> Iterator[Place]:
        need, left, begun = place.at
        if not begun:
            if char == "[":
                yield place.moved((need, left, "["))
            return
        if char == "]":
            if not need and place.up is not None:
                yield place.up
            return
        if not left or self.items is None:
            return
        after = place.moved((max(0, need - 1), left if left < 0 else left - 1, ","))
        items = self.items.places(after, place.levels - 1)
        if begun == "[":
            for item in items:
                yield from item.step(char)
        elif char == ",":
            yield from items

    def near(self, at: tuple[int, int, str], reach: int) -> tuple[int, int, str]:
        return at[0], min(at[1], reach + 1), at[2]


class Property(NamedTuple):
    name: str
    value: Value
    required: bool


class Object(Node):
    """An object whose properties come in their order, those not required perhaps not at all; no others.

    at: (the number of the next property that may come, what is begun: "", "{" or ","), or a Spot in a name.
    """

    start = (0, "")

    def __init__(self, properties: Sequence[Property]) -> None:
        self.properties = list(properties)
        self.names = [f"{compact(each.name)}:" for each in properties]
        self._lengths = [Texts([name]).left[0][0] for name in self.names]
        self._spots: dict[int, Spot | None] = {}
        self._numbers: dict[Texts, list[int]] = {}
        self._tails: dict[tuple[int, int], int] = {}

    def cost(self, at: Any, levels: int) -> int:
        if levels <= 0:
            return NEVER
        if isinstance(at, Spot):
            numbers = self._numbers[at.texts]
            found = [
                at.texts.left[n][at.read] - len(at.partial) + self._value_and_rest(numbers[n], levels)
                for n in at.possible
            ]
            return min(NEVER, *found) if found else NEVER
        begun = at[1]
        tail = self._tail(at[0], levels)
        required = tail > 1
        return min(NEVER, tail + (1 if not begun else 0) - (1 if begun != "," and required else 0))

    def foreign(self, at: Any) -> set[str]:
        return at.foreign() if isinstance(at, Spot) else set()

    def _value_and_rest(self, number: int, levels: int) -> int:
        return self.properties[number].value.cost(levels - 1) + self._tail(number + 1, levels)

    def _tail(self, number: int, levels: int) -> int:
        """The cost after a value: a comma, name and value for each property still required, and the end."""
        key = (number, levels)
        if key not in self._tails:
            cost = 1
            for each, length in zip(self.properties[number:], self._lengths[number:], strict=True):
                if each.required:
                    if not 0 <= levels - 1 < len(each.value.least):
                        return NEVER
                    cost += 1 + length + each.value.cost(levels - 1)
            self._tails[key] = min(NEVER, cost)
        return self._tails[key]

    def _spot(self, number: int) -> Spot | None:
        """The names that may come: up to the first that is required."""
        if number not in self._spots:
            numbers: list[int] = []
            for n in range(number, len(self.properties)):
                numbers.append(n)
                if self.properties[n].required:
                    break
            texts = Texts([self.names[n] for n in numbers]) if numbers else None
            if texts is not None:
                self._numbers[texts] = numbers
            self._spots[number] = texts.start if texts is not None else None
        return self._spots[number]

    def step(self, place: Place, char: str) -> Iterator[Place]:
        if isinstance(place.at, Spot):
            yield from self._name(place, place.at.go(char))
            return
        number, begun = place.at
        if not begun:
            if char == "{":
                yield place.moved((0, "{"))
        elif char == "}":
            if place.up is not None and not any(each.required for each in self.properties[number:]):
                yield place.up
        elif begun == "{" or char == ",":
            spot = self._spot(number)
            if spot is not None:
                yield from self._name(place, spot.go(char) if begun == "{" else spot)

    def _name(self, place: Place, spot: Spot | None) -> Iterator[Place]:
        """In a name, or behind its colon: before the value."""
        if spot is None:
            return
        if not spot.done:
            if place.moved(spot).cost < NEVER:
                yield place.moved(spot)
            return
        number = self._numbers[spot.texts][spot.done[0]]
        after = place.moved((number + 1, ","))
        yield from self.properties[number].value.places(after, place.levels - 1)
