"""MIDI events as tokens, one an event, and the rules under which every line of events is a performance.

The text is that of ``media/_midi_events.py``. ``Events`` is a ``core.contracts.Constraint``: it allows what may stand
next, so that a note has all its parts, positions and pitches rise, and the piece ends with a whole note.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from intaglio.media import _midi_events
from intaglio.media._midi import DRUMS, METERS, MOST_PROGRAMS, Bar
from intaglio.media._midi_events import BAR, KINDS, NAMES, PATTERN
from intaglio.models._tokenizers import END, TextTokenizer, _with_end

FIRST = 257  # the end and 256 bytes stand before the events
KEPT = 2_048  # answers
_PITCHED = re.compile(r" (Program|Pitch)_(-?\d+)")

Ranges = Mapping[int, tuple[int, int]]  # program to its lowest and highest pitch


def tokenizer_of(texts: Iterable[str]) -> TextTokenizer:
    """A token an event, the same for all data, whatever ``texts`` hold; bytes below for what is none."""
    names = [END, *(f"<0x{byte:02X}>" for byte in range(256)), *NAMES]
    vocab = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return TextTokenizer(_with_end(tokenizer), "notes")


# ----------------------------------------------------------------------------------------------------- transposition
def ranges_of(texts: Iterable[str]) -> Ranges:
    """The lowest and highest pitch of each program, drums left out."""
    found: dict[int, tuple[int, int]] = {}
    for text in texts:
        for program, pitch in _pitches(text):
            low, high = found.get(program, (pitch, pitch))
            found[program] = (min(low, pitch), max(high, pitch))
    return found


def _pitches(text: str) -> Iterator[tuple[int, int]]:
    program = 0
    for kind, value in _PITCHED.findall(text):
        if kind == "Program":
            program = int(value)
        else:
            yield program, int(value)


def moved(text: str, semitones: int, ranges: Ranges) -> str | None:
    """The events so many semitones higher, drums as they were; None where an instrument would leave its range."""
    for program, pitch in set(_pitches(text)):
        low, high = ranges.get(program, (0, 127))
        if not max(0, low) <= pitch + semitones <= min(127, high):
            return None
    return re.sub(r" Pitch_(\d+)", lambda found: f" Pitch_{int(found[1]) + semitones}", text)


# ----------------------------------------------------------------------------------------------------------- the rules
class Grammar:
    """The tokens of the vocabulary by kind, and the answers already given; shared by many ``Events``.

    bars: a piece has at most so many. Errors: ValueError where the tokenizer is not one of ``tokenizer_of``.
    """

    def __init__(self, tokenizer: TextTokenizer, *, bars: int) -> None:
        if tuple(tokenizer.strings[FIRST:]) != NAMES:
            raise ValueError("the tokenizer's vocabulary is not that of MIDI events")
        self.bars, self.size = bars, tokenizer.size
        self.begins: dict[str, int] = {}
        at = FIRST + 1  # behind Bar
        for kind, values in KINDS.items():
            self.begins[kind] = at
            at += len(values)
        self.index = {kind: {value: n for n, value in enumerate(values)} for kind, values in KINDS.items()}
        self._answers: dict[tuple[range | int, ...], tuple[bool, ...]] = {}

    def span(self, kind: str, first: int = 0, stop: int | None = None) -> range:
        """The tokens of a kind, from the ``first`` of its values on, up to ``stop``."""
        begin = self.begins[kind]
        return range(begin + first, begin + (len(KINDS[kind]) if stop is None else stop))

    def token(self, kind: str, value: object) -> int:
        return self.begins[kind] + self.index[kind][value]

    def flags(self, allowed: tuple[range | int, ...]) -> tuple[bool, ...]:
        """True at the tokens of these spans; a number -n takes token n out again."""
        if allowed not in self._answers:
            if len(self._answers) >= KEPT:
                self._answers.clear()
            flags = [False] * self.size
            for each in allowed:
                if isinstance(each, range):
                    flags[each.start : each.stop] = [True] * len(each)
            for each in allowed:
                if isinstance(each, int):
                    flags[-each] = False
            self._answers[allowed] = tuple(flags)
        return self._answers[allowed]


class Events:
    """What may follow in one performance (``core.contracts.Constraint``); ``prompt`` is what its text goes on from.

    The first bar says meter and tempo; a position lies in its bar and behind the one before; at one position programs
    rise, and pitches within one; drums have their own pitches; what would say nothing new is not said; there are at
    most fifteen instruments. The piece ends behind a note, and after ``bars`` bars it must.
    """

    def __init__(self, grammar: Grammar, prompt: str = "") -> None:
        self.grammar, self.read = grammar, 0
        self.state = _State()
        for kind, value in _midi_events.events(prompt):
            self.state.take(kind, value)

    def allow(self, text: str, vocabulary: Sequence[str]) -> Sequence[bool]:
        """One flag a token, ``text`` being all that was written so far. It grows from call to call."""
        for kind, value in _midi_events.events(text[self.read :]):
            self.state.take(kind, value)
        self.read = len(text)
        return self.grammar.flags(tuple(self.state.allowed(self.grammar)))


@dataclasses.dataclass
class _State:
    """A place in a performance. position, program, velocity: as they hold, None where nothing was said; pitch: the last
    one of this program at this position, -1 where there is none; heard: the programs so far."""

    after: str = ""
    bars: int = 0
    steps: int = 0
    tempo: int | None = None
    meter: str = ""
    position: int = -1
    program: int | None = None
    velocity: int | None = None
    pitch: int = -1
    begun: bool = False  # a note stands at this position
    heard: set[int] = dataclasses.field(default_factory=set)

    def take(self, kind: str, value: str) -> None:
        """Go past one event."""
        self.after = kind
        if kind == "Bar":
            self.bars += 1
            self.position, self.program, self.velocity = -1, None, None
        elif kind == "TimeSig":
            above, below = value.split("/")
            self.meter, self.steps = value, Bar((int(above), int(below))).steps
        elif kind == "Tempo":
            self.tempo = int(value)
        elif kind == "Position":
            self.position, self.pitch, self.begun = int(value), -1, False
        elif kind == "Program":
            self.program, self.pitch = int(value), -1
            self.heard.add(self.program)
        elif kind == "Velocity":
            self.velocity = int(value)
        elif kind in ("Pitch", "PitchDrum"):
            self.pitch = int(value)
        elif kind == "Duration":
            self.begun = True

    def allowed(self, grammar: Grammar) -> Iterator[range | int]:
        """The spans of tokens that may follow."""
        if not self.bars:
            yield range(FIRST, FIRST + 1)
        elif self.after in ("Bar", "TimeSig", "Tempo"):
            yield from self._at_bar(grammar)
        elif self.after in ("Pitch", "PitchDrum"):
            yield grammar.span("Duration")
        else:
            yield from self._at_position(grammar)

    def _at_bar(self, grammar: Grammar) -> Iterator[range | int]:
        if not self.meter:
            yield grammar.span("TimeSig")
            return
        if self.after != "Tempo":
            yield grammar.span("Tempo")
        if self.tempo is None:
            return
        if self.after == "Bar":
            yield grammar.span("TimeSig")
            yield -grammar.token("TimeSig", self.meter)
        if self.after != "Tempo":
            yield -grammar.token("Tempo", self.tempo)
        yield grammar.span("Position", 0, self.steps)
        if self.bars < grammar.bars:
            yield range(FIRST, FIRST + 1)

    def _at_position(self, grammar: Grammar) -> Iterator[range | int]:
        pitches = "PitchDrum" if self.program == DRUMS else "Pitch"
        if self.program is not None and self.velocity is not None and self.pitch < 127:
            yield grammar.span(pitches, self.pitch + 1)
        if self.program is not None and self.pitch < 127 and self.after != "Velocity":
            yield grammar.span("Velocity")
            if self.velocity is not None:
                yield -grammar.token("Velocity", self.velocity)
        if self.after in ("Position", "Duration"):
            yield from self._programs(grammar)
        if self.after == "Duration":
            yield grammar.span("Position", self.position + 1, self.steps)
            yield range(1)
            if self.bars < grammar.bars:
                yield range(FIRST, FIRST + 1)

    def _programs(self, grammar: Grammar) -> Iterator[range | int]:
        first = self.program + 1 if self.begun and self.program is not None else DRUMS
        if len(self.heard - {DRUMS}) < MOST_PROGRAMS:
            yield grammar.span("Program", first - DRUMS)
            if self.program is not None and first <= self.program:
                yield -grammar.token("Program", self.program)
        else:
            for program in sorted(self.heard | {DRUMS}):
                if program >= first and program != self.program:
                    yield grammar.span("Program", program - DRUMS, program - DRUMS + 1)


def whole(text: str) -> str:
    """A text cut behind its last whole note, where there was no room to end it."""
    place = max(text.rfind(" Duration_"), 0)
    end = text.find(" ", place + 1)
    bar = text.find("\n", place)
    ends = [each for each in (end, bar) if each >= 0]
    return text[: min(ends)] if ends else text


__all__ = ["BAR", "METERS", "Events", "Grammar", "Ranges", "moved", "ranges_of", "tokenizer_of", "whole"]
