"""Answers that fit a JSON Schema: says, token by token, what a model may write so that the text parses and validates.

Layout: compact JSON, no white space outside strings, properties in the order the schema has them. What is read of the
        schema is in ``KEYWORDS``; anything else is refused by name, because a rule left out would be a rule broken.
Paper:  after Willard and Louf (2023), "Efficient guided generation for large language models", arXiv:2307.09702:
        masks are kept by the state of a recognizer. Here it has a stack, so that schemas may name themselves, and
        every state knows its distance to the end, so that ``budget_chars`` is kept.
"""

from __future__ import annotations

import re
import string
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media._json import LEVELS, NEVER, End, Place, String
from intaglio.media._schema import KEYWORDS, Compiler

_PLAIN = re.compile('[^\x00-\x1f"\\\\\ud800-\udfff\ufffd]+')
_ASCII = string.ascii_letters + string.digits + string.punctuation + " "
__all__ = ["KEYWORDS", "Schema"]
MOST_MASKS, MOST_STATES = 4_096, 2_048


class Schema:
    """``core.contracts.Constraint``: the text is one JSON value that validates against ``schema``.

    Keep it for many texts: what it works out for one is used for the next, also side by side.

    Args:
        schema:       a JSON Schema as plain data.
        budget_chars: the whole text has at most so many characters: what would leave no room to close what is open is
                      not allowed. A model that may write as many tokens (every token allowed here has a character at
                      least) therefore always comes to the end of its JSON; given fewer, it may be cut off.
    Errors:
        UserError: a keyword that is not kept, a schema nothing fits, or a budget too small for any text.
    """

    def __init__(self, schema: Mapping[str, Any], *, budget_chars: int = 2_000) -> None:
        value = Compiler(schema).compiled()
        self.least_chars, self.budget_chars = value.cost(LEVELS), budget_chars
        if self.least_chars >= NEVER:
            raise UserError(
                t("no JSON text fits this schema, or none that is nested at most {levels} deep", levels=LEVELS),
                where="schema #",
                fix=t("look for bounds that cross, and for objects that require themselves"),
            )
        if self.least_chars > budget_chars:
            raise UserError(
                t("the shortest text has {least} characters, the budget is {budget}", least=self.least_chars,
                  budget=budget_chars),
                where="schema #",
                fix=t("raise budget_chars, and max_tokens with it"),
            )  # fmt: skip
        end = Place(End(), 0, None, LEVELS, 0)
        self._states: OrderedDict[str, tuple[Place, ...]] = OrderedDict({"": tuple(value.places(end, LEVELS))})
        self._start = self._states[""]
        self._masks: OrderedDict[Any, tuple[NDArray[np.bool_], int]] = OrderedDict()
        self._table: _Table | None = None

    def allow(self, text: str, vocabulary: Sequence[str]) -> Sequence[bool]:
        """See ``core.contracts.Constraint``; the answer is a bool array that is not to be written.

        Where the text is whole and nothing can follow, all are False; where it is whole and might go on (a bare
        number), the end of the text "" is allowed too. Errors: UserError for a vocabulary that cannot write JSON.
        """
        if self._table is None or self._table.tokens is not vocabulary:
            self._table = _Table(vocabulary)
            self._masks.clear()
        table, room = self._table, self.budget_chars - len(text)
        state = self._read(text, table.reach)
        places = tuple(dict.fromkeys(p._replace(at=p.node.near(p.at, table.reach)) for p in state))
        key = (places, any(place.whole() for place in state))
        mask, need = self._known(key, NEVER, table)
        return mask if need <= room else self._known(key, room, table)[0]  # type: ignore[return-value]

    def accepts(self, text: str) -> bool:
        """True where ``text`` is whole: it could have been written here, and it may end."""
        return any(place.whole() for place in self._read(text, 0))

    def _read(self, text: str, reach: int) -> tuple[Place, ...]:
        """The places after ``text``, none where it is not what could be written; goes on from the longest known."""
        state, start = self._start, 0
        for known in range(len(text), max(0, len(text) - reach) - 1, -1):
            if (found := self._states.get(text[:known])) is not None:
                state, start = found, known
                break
        for char in text[start:]:
            state = tuple(dict.fromkeys(after for place in state for after in place.step(char)))
        if start < len(text):
            self._states[text] = state
            if len(self._states) > MOST_STATES:
                self._states.popitem(last=False)
        return state

    def _known(self, key: Any, room: int, table: _Table) -> tuple[NDArray[np.bool_], int]:
        """The mask of (places, whole) with so much room, and the room with which it stays the same mask."""
        found = self._masks.get((key, room))
        if found is None:
            mask, need = np.zeros(len(table.tokens), dtype=bool), 0
            for place in key[0]:
                need = max(need, table.open(mask, place, room))
            if key[1] and mask.any():
                mask |= table.empty
            mask.flags.writeable = False
            found = self._masks[key, room] = (mask, need)
            if len(self._masks) > MOST_MASKS:
                self._masks.popitem(last=False)
        return found


# ------------------------------------------------------------------------------------------------------- the vocabulary
Tree = dict[str, tuple[dict[str, Any], list[int]]]


class _Table:
    """What is worth knowing of a vocabulary: tokens as a tree of characters, and those that are plain string content.

    Tokens that hold a piece of a character (U+FFFD) are left out: such a character is written as its escape.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        missing = set(_ASCII) - {token for token in tokens if len(token) == 1}
        if missing:
            raise UserError(
                t("this model has no token of its own for {characters}", characters=" ".join(sorted(missing))),
                fix=t("train one with tokenizer char, byte or bpe: each of them has all of ASCII"),
            )
        self.lengths = np.array([len(token) for token in tokens])
        self.empty = self.lengths == 0
        self.plain = np.array([_PLAIN.fullmatch(token) is not None for token in tokens])
        self.reach = int(self.lengths.max())
        whole = [n for n, token in enumerate(tokens) if token and "\ufffd" not in token]
        self.tree = _tree(tokens, whole)
        self.ascii = [char for char in self.tree if char.isascii()]
        self.marked = _tree(tokens, [n for n in whole if '"' in tokens[n] or "\\" in tokens[n]])

    def open(self, mask: NDArray[np.bool_], place: Place, room: int) -> int:
        """Set the flags of what may follow at ``place``; returns the most room that any of these tokens needs."""
        at, need = place.at, 0
        near = (*self.ascii, *place.node.foreign(at))
        tree = {char: self.tree[char] for char in near if char in self.tree}
        if isinstance(place.node, String) and at.opened and not at.escape:
            costs = np.maximum(self.lengths, at.need) + 1 + place.after
            fits = self.plain & (costs <= room)
            if at.left >= 0:
                fits &= self.lengths <= at.left
            mask |= fits
            tree, need = self.marked, int(costs[fits].max(initial=0))
        going: list[tuple[list[Place], Tree, int]] = [([place], tree, 1)]
        while going:
            places, tree, depth = going.pop()
            for char, (below, tokens) in tree.items():
                after = [each for one in places for each in one.step(char)]
                if not after:
                    continue
                if tokens and (cost := depth + min(each.cost for each in after)) <= room:
                    mask[tokens] = True
                    need = max(need, cost)
                if below:
                    going.append((after, below, depth + 1))
        return need


def _tree(tokens: Sequence[str], chosen: Sequence[int]) -> Tree:
    root: Tree = {}
    for number in chosen:
        tree, found = root, list[int]()
        for char in tokens[number]:
            tree, found = tree.setdefault(char, ({}, []))
        found.append(number)
    return root
