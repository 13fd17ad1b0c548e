"""Tunes in ABC: read as people write them; bars, repeats, ties and tuplets understood.

Standard: the ABC music standard 2.1 (abcnotation.com), the part that tune books of one voice use. Grace notes, slurs,
          chord names, words and ornaments are read over. Durations are Fractions of a quarter note (beats).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from intaglio.core.i18n import t
from intaglio.media import Unreadable

LETTERS = "CDEFGAB"
SEMITONES = (0, 2, 4, 5, 7, 9, 11)
SECTION_ENDS = ("||", "|]", ":|")
MAX_MEASURES = 10_000
LETTER_FIFTHS = {"C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5, "F": -1}
_MODES = {
    "": 0,
    "maj": 0,
    "ion": 0,
    "mix": -1,
    "dor": -2,
    "m": -3,
    "min": -3,
    "aeo": -3,
    "phr": -4,
    "loc": -5,
    "lyd": 1,
}
_SHOWN = {0: "", -1: "mix", -2: "dor", -3: "m", -4: "phr", -5: "loc", 1: "lyd"}


@dataclass(frozen=True, slots=True)
class Sign:
    """One note, chord or rest as it is written.

    steps: for each note its place on the staff (7 * octave + letter, middle C is 28) and its own accidental in
    semitones, None where key and bar decide; empty for a rest. written: beats of the sign; beats: of the sound (less in
    a triplet). tuplet: p where a group of p begins here, -1 further inside one, else 0.
    """

    steps: tuple[tuple[int, int | None], ...]
    written: Fraction
    beats: Fraction
    tie: bool = False
    tuplet: int = 0


@dataclass(slots=True)
class Measure:
    """One bar. left: a repeat begins; right: the bar line after it; ending: ``1``, ``2``, such where one begins; key:
    where it changes with this bar."""

    signs: list[Sign] = field(default_factory=list)
    left: bool = False
    right: str = "|"
    ending: str = ""
    key: str = ""

    @property
    def beats(self) -> Fraction:
        return sum((sign.beats for sign in self.signs), Fraction(0))


@dataclass(slots=True)
class Tune:
    """A tune of one voice. meter: such as (6, 8), None where it is free. key: such as ``Em`` or ``Dmix``."""

    number: str = "1"
    title: str = ""
    rhythm: str = ""
    meter: tuple[int, int] | None = (4, 4)
    key: str = "C"
    beats_per_minute: float = 0.0
    measures: list[Measure] = field(default_factory=list)

    @property
    def full(self) -> Fraction:
        """Beats of a whole bar; 0 where the meter is free."""
        return Fraction(4 * self.meter[0], self.meter[1]) if self.meter else Fraction(0)


# ------------------------------------------------------------------------------------------------------------- reading
def looks_like_abc(text: str) -> bool:
    """True where a text is a tune book: a line ``X:`` with ``K:`` after it, before anything else."""
    head = text.lstrip("\ufeff\r\n \t")[:4_000]
    lines = [line for line in head.splitlines() if line.strip() and not line.startswith("%")]
    return bool(lines) and bool(re.match(r"[XFMTL]:", lines[0])) and bool(re.search(r"^X:.*(?:\n.*)*?^K:", head, re.M))


def tunes_in(text: str) -> Iterator[str]:
    """The text of each tune of a book, from its ``X:`` on."""
    parts = re.split(r"(?m)^(?=X:)", text.replace("\r\n", "\n").replace("\r", "\n"))
    for part in parts[1:]:
        end = re.search(r"(?m)\n[ \t]*\n", part)  # an empty line ends a tune
        body = part[: end.start()] if end and re.search(r"(?m)^K:", part[: end.start()]) else part
        if re.search(r"(?m)^K:", body):
            yield body.strip() + "\n"


_FIELD = re.compile(r"([A-Za-z]):(?![|:])[ \t]*(.*)")
_LENGTH = r"\d*/*\d*"
_NOTE = rf"(?:\^\^|__|[\^_=])?[A-Ga-g][,']*{_LENGTH}"
_TOKEN = re.compile(
    rf"""
    (?P<skip>%[^\n]*|"[^"\n]*"|![^!\n]*!|\{{[^}}\n]*\}}|\\\n?|[ \t\n`yuv~.HLMOPSTRJ*])
    |(?P<inline>\[[A-Za-z]:[^\]\n]*\])
    |(?P<tuplet>\(\d(?::\d?)?(?::\d?)?)
    |(?P<bar>:\|\|:|\|\]\|:|\|\|\|:|:*\|[|\]:]*|::+|\[\|\]?)(?:[ ]*\[?(?P<ending>\d(?:[,-]\d)*))?
    |\[(?P<alone>\d(?:[,-]\d)*)
    |(?P<chord>\[(?:{_NOTE}-?[ ]*)+\]){_LENGTH}-?
    |(?P<note>{_NOTE})
    |(?P<rest>[zxZ]{_LENGTH})
    |(?P<broken>>+|<+)
    |(?P<tie>-)
    """,
    re.X,
)
_PITCH = re.compile(rf"(\^\^|__|[\^_=])?([A-Ga-g])([,']*)({_LENGTH})")
_ACCIDENTALS = {"": None, "^^": 2, "^": 1, "=": 0, "_": -1, "__": -2}
_TIME = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}  # notes of a p-tuplet take the time of these many; 5, 7, 9: of 2 (3 in x/8)


def parse(text: str) -> Tune:
    """One tune. Errors: Unreadable where there is no note in it, or a field that decides lengths says nothing."""
    return _Reader().read(text)


class _Reader:
    """Reads a tune from left to right; what changes on the way is kept here."""

    def __init__(self) -> None:
        self.tune = Tune()
        self.unit = Fraction(0)  # beats of a note without a number
        self.measure = Measure()
        self.group, self.left_in_group, self.factor = 0, 0, Fraction(1)
        self.broken = Fraction(1)

    def read(self, text: str) -> Tune:
        in_body, body = False, []
        for line in text.replace("\r\n", "\n").split("\n"):
            found = _FIELD.match(line)
            if not found:
                if in_body:
                    body.append(line)
                continue
            self._lines(body)
            body = []
            self._field(found[1], found[2].partition("%")[0].strip(), in_body)
            in_body = in_body or found[1] == "K"
        self._lines(body)
        self._close("|]" if not self.tune.measures or self.tune.measures[-1].right == "|" else "|")
        if not any(sign.steps for measure in self.tune.measures for sign in measure.signs):
            raise Unreadable(t("a tune without a note"))
        return self.tune

    def _field(self, name: str, value: str, in_body: bool) -> None:
        tune = self.tune
        if name == "X":
            tune.number = value
        elif name == "T" and not tune.title:
            tune.title = value
        elif name == "R":
            tune.rhythm = value.lower()
        elif name == "M" and (not in_body or not tune.measures):
            tune.meter = _meter(value)
        elif name == "L":
            self.unit = 4 * _fraction(value)
        elif name == "Q":
            tune.beats_per_minute = _tempo(value)
        elif name == "K" and (in_body or tune.measures):
            if re.match("[A-G]", value):
                self.measure.key = key_name(value)
        elif name == "K":
            tune.key = key_name(value)
            if not self.unit:  # the standard's default: sixteenths in meters below 3/4
                self.unit = Fraction(1, 4) if tune.meter and Fraction(*tune.meter) < Fraction(3, 4) else Fraction(1, 2)

    def _lines(self, lines: Sequence[str]) -> None:
        text, place = "\n".join(lines), 0
        while place < len(text):
            found = _TOKEN.match(text, place)
            if found is None:  # a sign we do not know says nothing about notes
                place += 1
                continue
            place = found.end()
            self._token(found)

    def _token(self, found: re.Match[str]) -> None:
        if found["bar"]:
            self._bar(found["bar"], found["ending"] or "")
        elif found["inline"]:
            self._field(found["inline"][1], found["inline"][3:-1].strip(), True)
        elif found["alone"]:
            self.measure.ending = found["alone"]
        elif found["tuplet"]:
            self._tuplet(found["tuplet"])
        elif found["note"] or found["chord"] or found["rest"]:
            self._sign(found[0])
        elif found["broken"]:
            self._break(found["broken"])
        elif found["tie"] and self.measure.signs and self.measure.signs[-1].steps:
            self.measure.signs[-1] = dataclasses.replace(self.measure.signs[-1], tie=True)

    def _tuplet(self, text: str) -> None:
        p, q, r = [*(int(part or 0) for part in text[1:].split(":")), 0, 0][:3]
        compound = self.tune.meter is not None and self.tune.meter[1] == 8 and self.tune.meter[0] % 3 == 0
        if p < 2:
            return
        q = q or _TIME.get(p, 3 if compound else 2)
        self.group, self.left_in_group, self.factor = p, r or p, Fraction(q, p)

    def _sign(self, text: str) -> None:
        notes = [] if text[0] in "zxZ" else [_pitch(each) for each in _PITCH.finditer(text.partition("]")[0])]
        if text[0] == "[":
            length = _length(text.partition("]")[2].rstrip("-")) * notes[0][1]
        else:
            length = _length(text[1:]) if text[0] in "zx" else notes[0][1] if notes else Fraction(0)
        written = length * self.unit * self.broken
        self.broken = Fraction(1)
        if text[0] == "Z":
            written = _length(text[1:]) * self.tune.full
        tuplet, beats = 0, written
        if self.left_in_group:
            tuplet, beats = (self.group or -1) if self.factor != 1 else 0, written * self.factor
            self.group, self.left_in_group = 0, self.left_in_group - 1
        steps = tuple(step for step, _ in notes)
        self.measure.signs.append(Sign(steps, written, beats, text.endswith("-"), tuplet))

    def _break(self, text: str) -> None:
        if not self.measure.signs:
            return
        short = Fraction(1, 2 ** len(text))
        before, after = (2 - short, short) if text[0] == ">" else (short, 2 - short)
        last = self.measure.signs[-1]
        self.measure.signs[-1] = dataclasses.replace(last, written=last.written * before, beats=last.beats * before)
        self.broken = after

    def _bar(self, text: str, ending: str) -> None:
        ends, begins = text.startswith(":"), text.endswith(":")
        right = ":|" if ends else "|]" if "]" in text else "||" if "||" in text or text == "[|" else "|"
        self._close(right)
        self.measure.left = self.measure.left or begins
        self.measure.ending = ending or self.measure.ending

    def _close(self, right: str) -> None:
        if self.measure.signs:
            self.measure.right = right
            self.tune.measures.append(self.measure)
            if len(self.tune.measures) > MAX_MEASURES:
                raise Unreadable(t("more than {limit} bars", limit=f"{MAX_MEASURES:,}"))
        elif self.tune.measures and right != "|":  # a bar line right after another one
            self.tune.measures[-1].right = right
        empty = not self.measure.signs
        self.measure = Measure(
            left=self.measure.left and empty,
            ending=self.measure.ending if empty else "",
            key=self.measure.key if empty else "",
        )
        self.group, self.left_in_group, self.broken = 0, 0, Fraction(1)


def _pitch(found: re.Match[str]) -> tuple[tuple[int, int | None], Fraction]:
    letter = found[2]
    octave = (5 if letter.islower() else 4) + found[3].count("'") - found[3].count(",")
    step = 7 * max(0, min(9, octave)) + LETTERS.index(letter.upper())
    return (step, _ACCIDENTALS[found[1] or ""]), _length(found[4])


def _length(text: str) -> Fraction:
    above, slash, below = text.partition("/")
    if not slash:
        return Fraction(min(int(above or 1), 256))
    under = int(below.strip("/")) if below.strip("/") else 2 ** (1 + below.count("/"))
    return Fraction(min(int(above or 1), 256), max(1, min(under, 256)))


def _fraction(text: str) -> Fraction:
    found = re.match(r"(\d{1,4})\s*/\s*(\d{1,4})", text)
    if not found or int(found[2]) == 0 or int(found[1]) == 0:
        raise Unreadable(t("'{text}' is no length of a note", text=text[:40]))
    return Fraction(int(found[1]), int(found[2]))


def _meter(text: str) -> tuple[int, int] | None:
    if text in ("C", "c"):
        return (4, 4)
    if text in ("C|", "c|"):
        return (2, 2)
    found = re.match(r"(\d{1,2})\s*/\s*(\d{1,2})$", text)
    return (int(found[1]), int(found[2])) if found and int(found[1]) and int(found[2]) in (1, 2, 4, 8, 16) else None


def _tempo(text: str) -> float:
    found = re.search(r"(?:(\d{1,2})/(\d{1,2})\s*=\s*)?(\d{1,4}(?:\.\d{1,3})?)\s*$", text.partition('"')[0] or text)
    if not found:
        return 0.0
    unit = 4 * Fraction(int(found[1]), int(found[2])) if found[1] and int(found[2]) else Fraction(1)
    return min(400.0, float(found[3]) * float(unit))


# ---------------------------------------------------------------------------------------------------------------- keys
def key_name(text: str) -> str:
    """A key in one spelling: ``G``, ``F#m``, ``Dmix``; ``C`` for what names none."""
    if text.startswith(("HP", "Hp")):
        return "D"
    found = re.match(r"([A-G])([#b]?)\s*([A-Za-z]*)", text)
    if not found:
        return "C"
    mode = found[3].lower()[:3]
    mode = "m" if found[3] == "m" or mode == "min" else mode
    return found[1] + found[2] + _SHOWN[_MODES.get(mode, 0)]


def fifths(key: str) -> int:
    """Sharps (positive) or flats of a key's signature: -7 to 7."""
    found = re.match(r"([A-G])([#b]?)(\w*)", key)
    if not found:
        return 0
    return max(-7, min(7, LETTER_FIFTHS[found[1]] + {"": 0, "#": 7, "b": -7}[found[2]] + _MODES.get(found[3], 0)))


def signature(key: str) -> dict[int, int]:
    """The accidentals of a key: letter (0 is C) to +1 or -1."""
    count = fifths(key)
    order = "FCGDAEB"[:count] if count > 0 else "BEADGCF"[:-count]
    return {LETTERS.index(letter): 1 if count > 0 else -1 for letter in order}


# ------------------------------------------------------------------------------------------------------------- playing
def played(tune: Tune) -> list[int]:
    """The numbers of the bars in the order they are played, repeats and endings followed."""
    order: list[int] = []
    start, turn, i, measures = 0, 1, 0, tune.measures
    inside = _endings(measures)
    while i < len(measures) and len(order) < 4 * len(measures):
        measure = measures[i]
        if measure.left and i != start:
            start, turn = i, 1
        if inside[i] and str(turn) not in inside[i]:
            i += 1
            continue
        order.append(i)
        if measure.right == ":|" and turn == 1:
            i, turn = start, 2
            continue
        if measure.right in SECTION_ENDS:
            start, turn = i + 1, 1
            if measure.right == ":|" and i + 1 < len(measures) and "2" in inside[i + 1]:
                turn = 2
        i += 1
    return order


def _endings(measures: Sequence[Measure]) -> list[str]:
    """For each bar the ending it belongs to, or an empty string."""
    found, now = [], ""
    for measure in measures:
        now = measure.ending or now
        found.append(now)
        if measure.right in SECTION_ENDS:
            now = ""
    return found


def pitches(tune: Tune) -> list[list[tuple[int, ...]]]:
    """MIDI numbers of every sign of every bar: accidentals hold to the end of the bar, and through a tie."""
    key = signature(tune.key)
    found: list[list[tuple[int, ...]]] = []
    tied: dict[int, int] = {}
    for measure in tune.measures:
        here: dict[int, int] = {}
        key = signature(measure.key) if measure.key else key
        row = []
        for sign in measure.signs:
            chord = []
            for step, own in sign.steps:
                if own is not None:
                    here[step] = own
                alter = here.get(step, tied.get(step, key.get(step % 7, 0)))
                chord.append(12 * (step // 7 + 1) + SEMITONES[step % 7] + alter)
            tied = {
                step: pitch - 12 * (step // 7 + 1) - SEMITONES[step % 7]
                for (step, _), pitch in zip(sign.steps, chord, strict=True)
                if sign.tie
            }
            row.append(tuple(chord))
        found.append(row)
    return found
