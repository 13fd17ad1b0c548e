"""The mask that holds an English form while a model writes: number of lines, syllables, and rhyme at line ends.

Rhyme cannot be added behind a line, so it is steered: where at most two syllables are left in a line that has to rhyme,
the last word is taken letter by letter from a lexicon of words that rhyme - the model's own words and common ones - and
it is the model that chooses among them. What syllables and rhyme are is told by ``media.verse``, by rules; the finished
poem is checked with the same.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.media import _english
from intaglio.media._english import rhyme_sound
from intaglio.media.verse import Form

syllables = functools.lru_cache(maxsize=65536)(_english.syllables)
CLOSING = 2  # syllables left at which the last word is begun
MARKS = frozenset(",.;:!?")
MOST_MASK_BYTES = 32 << 20
COMMON = """
    day way say play away stay gray lay night light bright sight white right might flight moon soon noon tune
    sea free tree be me see sky high fly by cry die eye lie rain pain again plain train grain lane wind mind
    find kind behind blind sound ground found round around town down brown crown snow go low know slow grow so
    ago blow flow star far are car bar sleep deep keep weep leap steep hill still will until fill ill dream
    stream seem gleam team beam heart part start apart art land hand stand sand band bell tell well fell spell
    shell stone alone bone own home foam roam song long strong along belong wrong gold old cold told hold bold
    fold fire desire higher wire door floor shore more before store roar air there where fair hair care bear
    stair wall fall all call small tall year near hear clear dear fear here spring sing ring thing bring wing
    king blue through you true new few grew view face place grace space trace rose those close nose flows time
    rhyme climb chime wave gave save brave grave street feet meet sweet heat green seen between queen been bed
    head red said dead bread tide side wide ride hide guide rest west best nest guest breast gone on dawn drawn
    lawn horn born morn corn thorn storm form warm room bloom gloom tomb broom earth birth worth book look took
    brook shook name came flame same game
""".split()


@dataclass(frozen=True, slots=True)
class State:
    """Where a poem stands: line number, syllables of its finished words, the word being written and the last one
    finished.

    closing: the word being written (or just finished) is the rhyming one. marked: a mark stands behind the last word.
    """

    line: int = 0
    done: int = 0
    word: str = ""
    last: str = ""
    closing: bool = False
    marked: bool = False
    spaced: bool = True
    ends: tuple[str, ...] = ()


Tree = dict[str, tuple["Tree", list[int]]]
"""A vocabulary by its characters: what follows each, and the tokens that end there."""


class Masks:
    """The tokens of one vocabulary as a tree, and the masks made for it."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary, self.size = vocabulary, len(vocabulary)
        self.none: Any = np.zeros(self.size, dtype=bool)
        self.known: OrderedDict[Any, Any] = OrderedDict()
        self.tree: Tree = {}
        for place, token in enumerate(vocabulary):
            level = self.tree
            for char in token[:-1]:
                level = level.setdefault(char, ({}, []))[0]
            if token:
                level.setdefault(token[-1], ({}, []))[1].append(place)

    def keep(self, key: Any, mask: NDArray[np.bool_]) -> Any:
        """Remember a mask; the oldest go when there are too many."""
        mask.flags.writeable = False
        self.known[key] = mask
        if len(self.known) * self.size > MOST_MASK_BYTES:
            self.known.popitem(last=False)
        return mask


class Lexicon:
    """Words by the sound they rhyme on; only sounds that two words or more share are kept."""

    def __init__(self, words: Iterable[str]) -> None:
        found: dict[str, set[str]] = {}
        for word in {*words, *COMMON}:
            if word.isascii() and word.isalpha() and (len(word) > 1 or word == "i"):
                found.setdefault(rhyme_sound(word), set()).add(word)
        found.pop("", None)
        self.sounds = {sound: tuple(sorted(group)) for sound, group in found.items() if len(group) > 1}
        self.paired = tuple(sorted(word for group in self.sounds.values() for word in group))
        self._masks: Masks | None = None
        self._prefixes: dict[tuple[str, int, tuple[str, ...]], tuple[frozenset[str], frozenset[str]]] = {}

    def masks_for(self, vocabulary: Sequence[str]) -> Masks:
        """The tables of this vocabulary object, shared by all poems of a step."""
        if self._masks is None or self._masks.vocabulary is not vocabulary:
            self._masks = Masks(vocabulary)
        return self._masks

    def closing(self, sound: str, left: int, used: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
        """Words that may end a line with ``left`` syllables to go and their beginnings; ``sound`` "" is any that has a
        partner."""
        key = (sound, left, used)
        if key not in self._prefixes:
            words = [word for word in (self.sounds.get(sound, ()) if sound else self.paired) if word not in used]
            fitting = [word for word in words if syllables(word) <= left] or words
            beginnings = frozenset(word[:end] for word in fitting for end in range(1, len(word) + 1))
            self._prefixes[key] = (frozenset(fitting), beginnings)
        return self._prefixes[key]


class LatinForm:
    """``core.contracts.Constraint`` for a Form measured in syllables. opening: text before what the model writes."""

    def __init__(self, form: Form, lexicon: Lexicon, opening: str = "") -> None:
        self.form, self.lexicon, self.opening = form, lexicon, opening

    def allow(self, text: str, vocabulary: Sequence[str]) -> Sequence[bool]:
        """See ``core.contracts.Constraint``; the answer is a bool array that is not to be written."""
        masks = self.lexicon.masks_for(vocabulary)
        state = self.read(State(), self.opening)
        if state is not None and state.word:
            state = self._after_word(state)  # the opening is whole words: "King" does not become "Kingly"
        state = self.read(state, text)
        if state is None or state.line >= len(self.form.lines):
            return masks.none
        sound, used = self._target(state)
        place = (self.form.lines[state.line], self._sign(state).isupper(), state.line == len(self.form.lines) - 1)
        key = (state.done, state.word, state.last, state.closing, state.marked, state.spaced, place, sound, used)
        mask = masks.known.get(key)
        if mask is None:
            mask = masks.keep(key, self._mask(state, masks))
        return mask

    def _mask(self, state: State, masks: Masks) -> NDArray[np.bool_]:
        mask = np.zeros(masks.size, dtype=bool)
        self._walk(state, masks.tree, mask)
        if not mask.any():  # no way on that keeps the form: let the line end, the check will say so
            mask[masks.tree.get("\n", ({}, []))[1]] = True
        return mask

    def _walk(self, state: State, tree: Tree, mask: NDArray[np.bool_]) -> None:
        """Open all tokens below a place in the tree that may follow."""
        for char, (below, tokens) in tree.items():
            after = self.step(state, char) if state.line < len(self.form.lines) else None
            if after is not None:
                mask[tokens] = True
                if below:
                    self._walk(after, below, mask)

    def read(self, state: State | None, text: str) -> State | None:
        """The state after ``text``; None where it may not follow."""
        for char in text:
            if state is None or state.line >= len(self.form.lines):
                return None
            state = self.step(state, char)
        return state

    def step(self, state: State, char: str) -> State | None:
        """The state after one more character, None where it may not follow."""
        if char == "\n":
            return self._newline(state)
        if char.isalpha() or (char in "'’" and state.word):
            return self._letter(state, "'" if char == "’" else char.lower())
        if char == " ":
            return None if state.spaced or not (state.word or state.last) else self._after_word(state, spaced=True)
        if char in MARKS and not state.marked:
            return self._after_word(state, marked=True) if (state.word or state.last) and not state.spaced else None
        return None

    def _sign(self, state: State) -> str:
        return self.form.rhyme[state.line]

    def _target(self, state: State) -> tuple[str, tuple[str, ...]]:
        """The sound the line has to end on ("" where it is the first of its rhyme) and the words that stood there."""
        sign = self._sign(state)
        used = tuple(word for word, each in zip(state.ends, self.form.rhyme, strict=False) if each == sign)
        return (rhyme_sound(used[0]) if used else ""), used

    def _letter(self, state: State, char: str) -> State | None:
        high = self.form.lines[state.line][1]
        if state.word:
            word, closing = state.word + char, state.closing
        else:
            finished = state.closing and state.last
            if finished or not state.spaced:
                return None
            word, closing = char, self._sign(state).isupper() and high - state.done <= CLOSING
        if closing:
            sound, used = self._target(state)
            if word not in self.lexicon.closing(sound, max(high - state.done, 1), used)[1]:
                return None
        else:
            room = high - state.done - (1 if self._sign(state).isupper() else 0)
            if max(syllables(word), 1) > max(room, 0) or len(word) > 16:
                return None
        return State(state.line, state.done, word, state.last, closing, False, False, state.ends)

    def _after_word(self, state: State, *, spaced: bool = False, marked: bool = False) -> State | None:
        done, last = state.done, state.last
        if state.word:
            if not self._complete(state):
                return None
            done, last = done + syllables(state.word), state.word
        if state.closing and spaced:
            return None  # the rhyming word is the last one
        return State(state.line, done, "", last, state.closing, marked or state.marked, spaced, state.ends)

    def _complete(self, state: State) -> bool:
        if not state.closing:
            return state.word not in ("'", "-")
        sound, used = self._target(state)
        return state.word in self.lexicon.closing(sound, max(self.form.lines[state.line][1] - state.done, 1), used)[0]

    def _newline(self, state: State) -> State | None:
        after = self._after_word(state) if state.word else state
        if after is None or not after.last:
            return None
        low = self.form.lines[state.line][0]
        if after.done < low:
            return None
        if self._sign(state).isupper() and not after.closing:
            sound, used = self._target(state)
            own = rhyme_sound(after.last)
            if own not in self.lexicon.sounds or (sound and own != sound) or after.last in used:
                return None
        return State(state.line + 1, ends=(*state.ends, after.last))
