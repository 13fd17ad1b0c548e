"""Compact JSON read a character at a time: what may follow, and how many characters are needed to the end.

A place in a text is a stack: a node, where in it, and the place to go on at when the value is whole. Every place knows
its ``cost``: the fewest characters of printable ASCII that make the text whole from there. Each place has a next
character that lowers the cost by at least one, so a text whose cost fits into what is left can always be ended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LEVELS = 32  # of nesting, at most: readers of JSON give up somewhere beyond that
WHOLE_DIGITS, FRACTION_DIGITS = 9, 6  # of a number; together what a double tells apart
INTEGER_DIGITS = 15
NEVER = 1 << 40  # the cost of what cannot be ended
_ESCAPED = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")


class Place(NamedTuple):
    """Where a text stands. levels: of nesting still free inside ``node``. after: the cost of all that comes behind."""

    node: Node
    at: Any
    up: Place | None
    levels: int
    after: int

    @property
    def cost(self) -> int:
        return min(NEVER, self.node.cost(self.at, self.levels) + self.after)

    def whole(self) -> bool:
        """True where the text may end here."""
        return self.up is None or (self.node.ends(self.at) and self.up.whole())

    def step(self, char: str) -> Iterator[Place]:
        """The places after one more character; a number ends where something comes that is none of it."""
        yield from self.node.step(self, char)
        if self.up is not None and self.node.ends(self.at):
            yield from self.up.step(char)

    def moved(self, at: Any) -> Place:
        return self._replace(at=at)


class Node:
    """One kind of value. start: where in it a text stands before its first character."""

    start: Any = 0

    def cost(self, at: Any, levels: int) -> int:
        """Fewest characters from ``at`` to the end of the value."""
        raise NotImplementedError

    def ends(self, at: Any) -> bool:
        """True where the value is whole although more of it might follow."""
        return False

    def step(self, place: Place, char: str) -> Iterator[Place]:
        raise NotImplementedError

    def foreign(self, at: Any) -> set[str]:
        """Characters outside ASCII that may follow, where these are few."""
        return set()

    def near(self, at: Any, reach: int) -> Any:
        """The same for all ``at`` that differ only in what lies more than ``reach`` characters ahead."""
        return at


class End(Node):
    """Behind the whole text: nothing follows."""

    def cost(self, at: Any, levels: int) -> int:
        return 0

    def step(self, place: Place, char: str) -> Iterator[Place]:
        yield from ()


@dataclass(eq=False)
class Value:
    """What may stand at one spot: one of several nodes; filled after it is made, so that a schema may name itself."""

    choices: tuple[Node, ...] = ()
    least: list[int] = field(default_factory=list)  # cost by free levels

    def cost(self, levels: int) -> int:
        return self.least[levels] if 0 <= levels < len(self.least) else NEVER

    def places(self, up: Place, levels: int) -> Iterator[Place]:
        """The places before the first character of the value, those that can be ended."""
        after = up.cost
        for node in self.choices:
            place = Place(node, node.start, up, levels, after)
            if place.cost < NEVER:
                yield place


def settle(values: Sequence[Value]) -> None:
    """Work out the cost of every value for every number of free levels, the innermost first."""
    for value in values:
        value.least = []
    for levels in range(LEVELS + 1):
        found = [min((node.cost(node.start, levels) for node in value.choices), default=NEVER) for value in values]
        for value, cost in zip(values, found, strict=True):
            value.least.append(min(NEVER, cost))


# ------------------------------------------------------------------------------------------------------------- literals
class Spot:
    """So far into one of several literals: which are still possible, characters read, and what is read of an escape."""

    def __init__(self, texts: Texts, possible: tuple[int, ...], read: int, partial: str) -> None:
        self.texts, self.possible, self.read, self.partial = texts, possible, read, partial
        self.done = tuple(n for n in possible if len(texts.units[n]) == read and not partial)
        self.least = min(texts.left[n][read] for n in possible) - len(partial)
        self._next: dict[str, Spot | None] = {}

    def go(self, char: str) -> Spot | None:
        if char not in self._next:
            self._next[char] = self._go(char)
        return self._next[char]

    def foreign(self) -> set[str]:
        """Characters outside ASCII that may follow."""
        units = [self.texts.units[n] for n in self.possible if not self.partial]
        return {each[self.read][0] for each in units if self.read < len(each) and not each[self.read][0].isascii()}

    def _go(self, char: str) -> Spot | None:
        whole, part = [], []
        typed = self.partial + char
        for n in self.possible:
            units = self.texts.units[n]
            if self.read == len(units):
                continue
            raw, escaped = units[self.read]
            if escaped == typed or (raw == char and not self.partial):
                whole.append(n)
            elif escaped.startswith(typed):
                part.append(n)
        if whole:  # spellings of one character are never the beginning of another's
            return Spot(self.texts, tuple(whole), self.read + 1, "")
        return Spot(self.texts, tuple(part), self.read, typed) if part else None


class Texts:
    """Literals, each character of them either as it is or, outside ASCII, as its escape: any vocabulary can write that.

    units: (as it is, escaped) for each character; left: the cost from each character on.
    """

    def __init__(self, written: Sequence[str]) -> None:
        self.units = [[_spellings(unit) for unit in _UNIT.findall(text)] for text in written]
        self.left = []
        for units in self.units:
            costs = [0]
            for _, escaped in reversed(units):
                costs.append(costs[-1] + len(escaped))
            self.left.append(costs[::-1])
        self.start = Spot(self, tuple(range(len(written))), 0, "")


_UNIT = re.compile(r"\\u[0-9a-f]{4}|\\.|.", re.DOTALL)  # an escape is one, so that no spelling begins another


def _spellings(unit: str) -> tuple[str, str]:
    if unit.isascii():
        return ("" if len(unit) > 1 else unit), unit
    return ("" if unit == "\ufffd" else unit), json.dumps(unit)[1:-1]


def compact(value: Any) -> str:
    """Compact JSON. Errors: ValueError for what JSON cannot hold, and for halves of surrogate pairs."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text.encode()
    return text.replace("\x7f", "\\u007f")


class Literal(Node):
    """One of these values, written in one way but for escapes: of enum, const, booleans, null."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = list(values)
        self.start = Texts([compact(value) for value in values]).start

    def cost(self, at: Spot, levels: int) -> int:
        return at.least

    def ends(self, at: Spot) -> bool:
        return bool(at.done)

    def foreign(self, at: Spot) -> set[str]:
        return at.foreign()

    def step(self, place: Place, char: str) -> Iterator[Place]:
        found = place.at.go(char)
        if found is not None:
            yield place.moved(found)


# -------------------------------------------------------------------------------------------------------------- strings
class At(NamedTuple):
    """In a string. need: characters it must still get; left: it may still get, -1 without bound; escape: begun so."""

    need: int
    left: int
    escape: str
    opened: bool = True


class String(Node):
    """Any string of ``least`` to ``most`` characters (-1: without bound)."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most
        self.start = At(least, most, "", opened=False)

    def cost(self, at: At, levels: int) -> int:
        if not at.opened:
            return at.need + 2
        if not at.escape:
            return at.need + 1
        rest = 1 if at.escape == "\\" else 6 - len(at.escape)
        return rest + max(0, at.need - 1) + 1

    def step(self, place: Place, char: str) -> Iterator[Place]:
        at: At = place.at
        if not at.opened:
            if char == '"':
                yield place.moved(at._replace(opened=True))
        elif at.escape:
            after = self._escaped(at, char)
            if after is not None:
                yield place.moved(after)
        elif char == '"':
            if not at.need and place.up is not None:
                yield place.up
        elif at.left and char == "\\":
            yield place.moved(at._replace(escape=char))
        elif at.left and plain(char):
            yield place.moved(longer(at, 1))

    @staticmethod
    def _escaped(at: At, char: str) -> At | None:
        if at.escape == "\\":
            if char == "u":
                return at._replace(escape="\\u")
            return longer(at, 1) if char in _ESCAPED else None
        if char not in _HEX or (at.escape in ("\\ud", "\\uD") and char not in "01234567"):
            return None  # halves of a pair have no meaning alone
        typed = at.escape + char
        return longer(at, 1) if len(typed) == 6 else at._replace(escape=typed)

    def near(self, at: At, reach: int) -> At:
        return at._replace(left=min(at.left, reach + 1))


def longer(at: At, count: int) -> At:
    return At(max(0, at.need - count), at.left if at.left < 0 else at.left - count, "")


def plain(char: str) -> bool:
    """May stand in a string as it is. U+FFFD may not: as a token it is a piece of some character."""
    return char >= " " and char not in '"\\\ufffd' and not "\ud800" <= char <= "\udfff"


# -------------------------------------------------------------------------------------------------------------- numbers
class Number(Node):
    """A number of ``low`` to ``high``, in units of the last digit after the point; ``point`` digits after it at most.

    Written plainly: no exponent, no sign before zero.
    """

    start = ""

    def __init__(self, low: int, high: int, *, whole: int, point: int) -> None:
        self.low, self.high, self.whole_digits, self.point = low, high, whole, point
        self._costs: dict[str, int] = {}

    def cost(self, at: str, levels: int) -> int:
        if at not in self._costs:
            self._costs[at] = self._cost(at)
        return self._costs[at]

    def _cost(self, text: str) -> int:
        if text in ("", "-"):
            after = [text + digit for digit in "0123456789"] + (["-"] if not text else [])
            return min(NEVER, 1 + min(self.cost(each, 0) for each in after))
        digits, dot, fraction = text.removeprefix("-").partition(".")
        if len(digits) > self.whole_digits or len(fraction) > self.point or (len(digits) > 1 and digits[0] == "0"):
            return NEVER
        low, high = (max(1, -self.high), -self.low) if text[0] == "-" else (self.low, self.high)
        head = int(digits + fraction)
        more_whole = 0 if dot or digits == "0" else self.whole_digits - len(digits)
        best = NEVER
        for whole in range(more_whole + 1):
            for point in range(1 if dot and not fraction else 0, self.point - len(fraction) + 1):
                # values with so many more digits: first, first + unit, ... last
                unit = 10 ** (self.point - len(fraction) - point)
                first = head * 10 ** (whole + point) * unit
                last = first + (10 ** (whole + point) - 1) * unit
                lowest = max(first, -(-low // unit) * unit)
                if lowest <= min(last, high):
                    best = min(best, whole + point + (1 if point and not dot else 0))
        return best

    def ends(self, at: str) -> bool:
        return self.cost(at, 0) == 0

    def step(self, place: Place, char: str) -> Iterator[Place]:
        text = place.at + char
        fits = char in "0123456789" or (char == "-" and not place.at)
        fits = fits or (char == "." and self.point > 0 and "." not in place.at and place.at[-1:].isdigit())
        if fits and self.cost(text, 0) < NEVER:
            yield place.moved(text)


def same(one: Any, other: Any) -> bool:
    """Equal as JSON has it: 1 is 1.0, and true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and isinstance(one, Mapping) == isinstance(other, Mapping)
