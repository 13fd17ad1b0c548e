"""The mask that holds a Chinese form while a model writes: line lengths, places of punctuation, rhyme.

A poem is read by a small automaton, character by character; a token may follow where all of its characters may. The
model chooses its own punctuation between lines; only where a mark stands is fixed. At a rhyming place only characters
of the right class that do not rhyme with themselves are open; the first rhyme may only open a class wide enough to go
on with, and a line that must not rhyme keeps away from it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intaglio.media.verse import Form, is_han, rhyme_class

INNER = frozenset("，、；,;\n ")
FINAL = frozenset("。！？；.!?\n")
WIDE = 8  # a class with fewer characters in the vocabulary forces odd words
MOST_MASKS = 2048


@dataclass(frozen=True, slots=True)
class State:
    """Where a poem stands. line, column: the next character's place. gap: marks read since the line ended; "" inside a
    line.

    first: the rhyme class of the first line where that may rhyme, rhyme: the class that is settled. used: characters
           that rhymed.
    """

    line: int = 0
    column: int = 0
    gap: str = ""
    first: str = ""
    rhyme: str = ""
    used: str = ""
    done: bool = False


class Vocabulary:
    """What is worth knowing of a model's tokens, computed once for each vocabulary."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self.han = np.array([len(token) == 1 and is_han(token) for token in tokens])
        self.single = [i for i, token in enumerate(tokens) if len(token) == 1]
        self.long = [i for i, token in enumerate(tokens) if len(token) > 1 and "\ufffd" not in token]
        sizes = Counter(rhyme_class(tokens[i]) for i in np.flatnonzero(self.han).tolist())
        sizes.pop("", None)
        wide = {name for name, size in sizes.items() if size >= WIDE}
        self.wide = frozenset(wide or {name for name, size in sizes.items() if size >= 3} or sizes)
        self.masks: OrderedDict[tuple[Form, State], NDArray[np.bool_]] = OrderedDict()


_known: list[Vocabulary] = []


def vocabulary_of(tokens: Sequence[str]) -> Vocabulary:
    """The table of this vocabulary object; the last few are kept."""
    for each in _known:
        if each.tokens is tokens:
            return each
    _known.append(Vocabulary(tokens))
    del _known[:-4]
    return _known[-1]


class HanForm:
    """``core.contracts.Constraint`` for a Form measured in characters. opening: text before what the model writes."""

    def __init__(self, form: Form, opening: str = "") -> None:
        self.form, self.opening = form, opening

    def allow(self, text: str, vocabulary: Sequence[str]) -> Sequence[bool]:
        """See ``core.contracts.Constraint``; the answer is a bool array that is not to be written."""
        table = vocabulary_of(vocabulary)
        state = self.read(self.opening + text, table.wide)
        if state is None or state.done:
            return np.zeros(len(vocabulary), dtype=bool)  # type: ignore[return-value]
        key = (self.form, state)
        mask = table.masks.get(key)
        if mask is None:
            mask = self._mask(state, table)
            mask.flags.writeable = False
            table.masks[key] = mask
            if len(table.masks) > MOST_MASKS:
                table.masks.popitem(last=False)
        return mask  # type: ignore[return-value]

    def read(self, text: str, wide: frozenset[str]) -> State | None:
        """The state after ``text``; None where it has left the form."""
        state: State | None = State()
        for char in text:
            state = self.step(state, char, wide) if state is not None else None
        return state

    def _mask(self, state: State, table: Vocabulary) -> NDArray[np.bool_]:
        inside = state.column < self.form.lines[state.line][0] - 1 if state.line < len(self.form.lines) else False
        fresh = state.column > 0 or state.gap or (state.line == 0 and state.column == 0)
        mask = table.han.copy() if inside and fresh else np.zeros(len(table.tokens), dtype=bool)
        if not (inside and fresh) or state.gap:
            for i in table.single:
                mask[i] = self.step(state, table.tokens[i], table.wide) is not None
        for i in table.long:
            after: State | None = state
            for char in table.tokens[i]:
                after = self.step(after, char, table.wide) if after is not None else None
            mask[i] = after is not None
        return mask

    def step(self, state: State, char: str, wide: frozenset[str]) -> State | None:
        """The state after one more character, None where it may not follow."""
        if state.done:
            return None
        length = self.form.lines[state.line][0]
        if state.column == length:
            return self._after_line(state, char, wide)
        if state.gap and char in "\n " and char not in state.gap and state.column == 0:
            return State(state.line, 0, state.gap + char, state.first, state.rhyme, state.used)
        if not is_han(char):
            return None
        if state.column < length - 1:
            return State(state.line, state.column + 1, "", state.first, state.rhyme, state.used)
        return self._end_line(state, char, wide)

    def _end_line(self, state: State, char: str, wide: frozenset[str]) -> State | None:
        sign = self.form.rhyme[state.line]
        first, rhyme, used = state.first, state.rhyme, state.used
        sound = rhyme_class(char)
        if sign == "?":
            first, used = (sound, char) if sound in wide else ("", "")
        elif sign == "x":
            if rhyme and sound == rhyme:
                return None
        elif not rhyme:
            if sound not in wide or char in used:
                return None
            rhyme, used = sound, (used if sound == first else "") + char
        elif sound != rhyme or char in used:
            return None
        else:
            used += char
        return State(state.line, state.column + 1, "", first, rhyme, used)

    def _after_line(self, state: State, char: str, wide: frozenset[str]) -> State | None:
        last = state.line == len(self.form.lines) - 1
        if last:
            return State(state.line, state.column, char, done=True) if char in FINAL else None
        marks = INNER if state.line % 2 == 0 else FINAL
        if char not in marks:
            return None
        return State(state.line + 1, 0, char, state.first, state.rhyme, state.used)
