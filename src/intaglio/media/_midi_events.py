"""MIDI performances as lines of events: a bar a line, an event a word, in the vocabulary the field uses.

Papers:  Huang and Yang (2020), "Pop Music Transformer" (REMI), arXiv:2002.00212: bars, positions, pitches, durations,
         tempo; von Ruette et al. (2023), "FIGARO" (REMI+), arXiv:2201.10936: programs and meters; Oore et al. (2018),
         "This time with feeling" (MIDI-like), arXiv:1808.03715: a velocity holds until the next one.
Code:    ours; names as in MidiTok (Fradet et al. 2021). Differs in: a program holds until the next one too, both to the
         end of the bar; meter and tempo stand where they change, at the beginning of a bar.
Order:   ``Bar [TimeSig] [Tempo] (Position ([Program] [Velocity] Pitch Duration)+)*``; at one position programs rise,
         and pitches within one. Of one performance there is one line of events, and back.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from intaglio.core.i18n import t
from intaglio.media import Unreadable
from intaglio.media._midi import (
    DRUMS,
    DURATIONS,
    LONGEST_BAR,
    METERS,
    TEMPOS,
    VELOCITIES,
    Bar,
    Performance,
    Sounding,
    on_grid,
)

BAR = "\nBar"
KINDS = {  # in the order of the vocabulary
    "TimeSig": tuple(f"{above}/{below}" for above, below in METERS),
    "Tempo": TEMPOS,
    "Position": tuple(range(LONGEST_BAR)),
    "Program": tuple(range(DRUMS, 128)),
    "Velocity": VELOCITIES,
    "Pitch": tuple(range(128)),
    "PitchDrum": tuple(range(128)),
    "Duration": DURATIONS,
}
NAMES = (BAR, *(f" {kind}_{value}" for kind, values in KINDS.items() for value in values))
PATTERN = rf"\nBar| (?:{'|'.join(KINDS)})_-?[0-9]+(?:/[0-9]+)?|[\s\S]"
_EVENT = re.compile(rf"\n(Bar)| ({'|'.join(KINDS)})_(-?[0-9]+(?:/[0-9]+)?)|([\s\S])")


def dump(piece: Performance) -> str:
    """The performance as text; the title is left out."""
    return "".join(_events(piece))


def _events(piece: Performance) -> Iterator[str]:
    starts = piece.bar_starts()
    notes = iter(piece.notes)
    note = next(notes, None)
    for number, bar in enumerate(piece.bars):
        yield BAR
        before = piece.bars[number - 1] if number else None
        if before is None or before.meter != bar.meter:
            yield f" TimeSig_{bar.meter[0]}/{bar.meter[1]}"
        if before is None or before.tempo != bar.tempo:
            yield f" Tempo_{bar.tempo}"
        position = program = velocity = None
        while note is not None and note.onset < starts[number + 1]:
            if position != note.onset:
                position = note.onset
                yield f" Position_{position - starts[number]}"
            if program != note.program:
                program = note.program
                yield f" Program_{program}"
            if velocity != note.velocity:
                velocity = note.velocity
                yield f" Velocity_{velocity}"
            yield f" {'PitchDrum' if program == DRUMS else 'Pitch'}_{note.pitch}"
            yield f" Duration_{note.duration}"
            note = next(notes, None)


def events(text: str) -> Iterator[tuple[str, str]]:
    """(kind, value) of each event of a text, such as ("Pitch", "60"); ("", character) for what is none."""
    for found in _EVENT.finditer(text):
        yield (found[1], "") if found[1] else (found[2], found[3]) if found[2] else ("", found[4])


def parse(text: str, *, title: str = "") -> Performance:
    """The performance of a line of events; a last note that is not whole and bars behind the last note are left out.

    Errors: Unreadable, which names the event and its number, where one stands where none of its kind may.
    """
    return _Reader().read(text, title)


class _Reader:
    """Goes through the events from left to right."""

    def __init__(self) -> None:
        self.bars: list[Bar] = []
        self.notes: list[Sounding] = []
        self.start = 0
        self.position: int | None = None
        self.program: int | None = None
        self.velocity: int | None = None
        self.pitch: int | None = None
        self.after = ""

    def read(self, text: str, title: str) -> Performance:
        number = 0
        for number, (kind, value) in enumerate(events(text), 1):
            if not self._take(kind, value):
                shown = f"{kind}_{value}" if kind and value else kind or value
                raise Unreadable(t("event {number}, {event}, cannot stand there", number=number, event=repr(shown)))
            self.after = kind
        if not self.notes:
            raise Unreadable(t("there is no note in it"))
        notes = on_grid(self.notes)
        ends = itertools.accumulate(bar.steps for bar in self.bars)
        needed = next(place for place, end in enumerate(ends, 1) if end > notes[-1].onset)
        return Performance(notes, tuple(self.bars[:needed]), title)

    def _take(self, kind: str, value: str) -> bool:
        """Take in one event; False where it may not stand."""
        if kind == "Bar":
            return self._bar()
        if kind == "TimeSig":
            return self._meter(value)
        known = bool(self.bars) and value.lstrip("-").isdigit() and int(value) in KINDS.get(kind, ())
        return known and self._numbered(kind, int(value))

    def _bar(self) -> bool:
        self.start += self.bars[-1].steps if self.bars else 0
        self.bars.append(self.bars[-1] if self.bars else Bar())
        self.position = self.program = self.velocity = self.pitch = None
        return True

    def _meter(self, value: str) -> bool:
        if self.after != "Bar" or value not in KINDS["TimeSig"]:
            return False
        above, below = value.split("/")
        self.bars[-1] = Bar((int(above), int(below)), self.bars[-1].tempo)
        return True

    def _numbered(self, kind: str, value: int) -> bool:
        if kind == "Tempo":
            self.bars[-1] = Bar(self.bars[-1].meter, value)
            return self.after in ("Bar", "TimeSig")
        if kind == "Position":
            later = self.position is None or value > self.position
            self.position = value
            return later and value < self.bars[-1].steps
        if self.position is None:
            return False
        if kind == "Program":
            self.program = value
        elif kind == "Velocity":
            self.velocity = value
        elif kind == "Duration":
            return self._note(value)
        else:
            self.pitch = value
            return (kind == "PitchDrum") == (self.program == DRUMS) and None not in (self.program, self.velocity)
        return True

    def _note(self, duration: int) -> bool:
        if self.after not in ("Pitch", "PitchDrum"):
            return False
        assert self.position is not None and self.program is not None
        assert self.pitch is not None and self.velocity is not None
        self.notes.append(Sounding(self.start + self.position, self.program, self.pitch, duration, self.velocity))
        return True
