"""The mask that holds a Chinese form while a model writes: line lengths, places of punctuation, rhyme.

A poem is read by a small automaton, character by character; a token may follow where all of its characters may. The
model chooses its own punctuation between lines; only where a mark stands is fixed. At a rhyming place only characters
of the right class that do not rhyme with themselves are open; the first rhyme may only open a class wide enough to go
on with, and a line that must not rhyme keeps away from it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    """What is worth knowing of a model's tokens, computed once for each vocabulary.

    han: tokens that are one Chinese character; sound: their rhyme class as a number, -1 for other tokens, [tokens].
    of_sound: tokens of each class. marks: other tokens of one character; long: tokens of several.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        self.none: Any = np.zeros(len(tokens), dtype=bool)
        self.place = {token: i for i, token in enumerate(tokens) if len(token) == 1}
        self.han = np.array([len(token) == 1 and is_han(token) for token in tokens])
        self.marks = [i for token, i in self.place.items() if not self.han[i]]
        self.long = [i for i, token in enumerate(tokens) if len(token) > 1 and "\ufffd" not in token]
        self.of_sound: dict[str, list[int]] = {}
        for i in np.flatnonzero(self.han).tolist():
            self.of_sound.setdefault(rhyme_class(tokens[i]), []).append(i)
        self.sound = np.full(len(tokens), -1, dtype=np.int16)
        for number, members in enumerate(self.of_sound.values()):
            self.sound[members] = number
        sizes = {name: len(members) for name, members in self.of_sound.items() if name}
        wide = {name for name, size in sizes.items() if size >= WIDE}
        self.wide = frozenset(wide or {name for name, size in sizes.items() if size >= 3} or sizes)
        self.masks: OrderedDict[tuple[Form, State], Any] = OrderedDict()


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
            return table.none
        key = (self.form, state)
        mask: Any = table.masks.get(key)
        if mask is None:
            mask = self._mask(state, table)
            mask.flags.writeable = False
            table.masks[key] = mask
            if len(table.masks) > MOST_MASKS:
                table.masks.popitem(last=False)
        return mask

    def read(self, text: str, wide: frozenset[str]) -> State | None:
        """The state after ``text``; None where it has left the form."""
        state: State | None = State()
        for char in text:
            state = self.step(state, char, wide) if state is not None else None
        return state

    def _mask(self, state: State, table: Vocabulary) -> NDArray[np.bool_]:
        mask = self._han_mask(state, table)
        for i in table.marks:
            mask[i] = self.step(state, table.tokens[i], table.wide) is not None
        for i in table.long:
            after: State | None = state
            for char in table.tokens[i]:
                after = self.step(after, char, table.wide) if after is not None else None
            mask[i] = after is not None
        return mask

    def _han_mask(self, state: State, table: Vocabulary) -> NDArray[np.bool_]:
        """Which characters may follow; that depends on their rhyme class alone, but for those that rhymed before."""
        length = self.form.lines[state.line][0]
        if state.column == length:
            return table.none.copy()
        if state.column < length - 1:
            return table.han.copy()
        open_ = np.zeros(len(table.of_sound) + 1, dtype=bool)  # the last stands for -1
        for number, members in enumerate(table.of_sound.values()):
            fresh = next((table.tokens[i] for i in members if table.tokens[i] not in state.used), "")
            open_[number] = bool(fresh) and self.step(state, fresh, table.wide) is not None
        mask: NDArray[np.bool_] = open_[table.sound]
        for char in state.used:
            if char in table.place:
                mask[table.place[char]] = self.step(state, char, table.wide) is not None
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
