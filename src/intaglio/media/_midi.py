"""MIDI performances on a grid: notes of many instruments and of drums, in bars with meter and tempo; read and written.

Format: Standard MIDI Files 1.0 and General MIDI (MIDI Association); bytes are read and written through mido (MIT).
Grid:   twelve steps a beat (a quarter note), which sixteenths and triplets fall on. What lies on the grid comes back as
        it was: ``read(write(it)) == it``. Pedals, bends and other controllers are read over.
"""

from __future__ import annotations

import io
import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from intaglio.core.i18n import t
from intaglio.media import Unreadable

STEPS = 12  # of a beat
TICKS = 40  # of a step, in the files written here
DRUMS = -1  # in the place of a program
DRUM_CHANNEL = 9
MOST_PROGRAMS = 15  # a file has so many channels besides the drums
MAX_BYTES, MAX_NOTES, MAX_BARS = 16 << 20, 500_000, 10_000
LONGEST_BAR = 8 * STEPS
METERS = tuple((above, below) for below in (2, 4, 8, 16) for above in range(1, min(16, 2 * below) + 1))
TEMPOS = tuple(round(30 * 2 ** (k / 8)) for k in range(26))  # 30 to 262 beats a minute, nine per cent apart
VELOCITIES = tuple(range(3, 128, 4))
DURATIONS = (*range(1, 97), *range(108, 385, 12))  # steps: eight beats to the step, 32 beats to the beat
FAMILIES = (
    "Piano", "Chromatic Percussion", "Organ", "Guitar", "Bass", "Strings", "Ensemble", "Brass", "Reed", "Pipe",
    "Synth Lead", "Synth Pad", "Synth Effects", "Ethnic", "Percussive", "Sound Effects",
)  # fmt: skip


class Sounding(NamedTuple):
    """One note. onset, duration: steps. program: 0 to 127 as General MIDI counts, or ``DRUMS``. pitch: 60 is middle C,
    of drums the kind of drum. velocity: one of ``VELOCITIES``."""

    onset: int
    program: int
    pitch: int
    duration: int
    velocity: int


@dataclass(frozen=True, slots=True)
class Bar:
    """meter: one of ``METERS``. tempo: beats a minute, one of ``TEMPOS``."""

    meter: tuple[int, int] = (4, 4)
    tempo: int = 120

    @property
    def steps(self) -> int:
        return 4 * STEPS * self.meter[0] // self.meter[1]

    @property
    def seconds(self) -> float:
        return self.steps / STEPS * 60 / self.tempo


@dataclass(frozen=True, slots=True)
class Performance:
    """Notes in the order of ``Sounding``'s fields, none twice at once; the last bar holds the last onset."""

    notes: tuple[Sounding, ...]
    bars: tuple[Bar, ...]
    title: str = ""

    @property
    def programs(self) -> tuple[int, ...]:
        return tuple(sorted({note.program for note in self.notes}))

    def bar_starts(self) -> list[int]:
        """The step at which each bar begins, and where the last one ends."""
        return list(itertools.accumulate((bar.steps for bar in self.bars), initial=0))

    def seconds_at(self, steps: Sequence[int]) -> list[float]:
        """When these steps are reached; after the last bar its tempo goes on."""
        starts = self.bar_starts()
        times = list(itertools.accumulate((bar.seconds for bar in self.bars), initial=0.0))
        found = []
        for step in steps:
            bar = min(bisect_right(starts, step) - 1, len(self.bars) - 1)
            found.append(times[bar] + (step - starts[bar]) / STEPS * 60 / self.bars[bar].tempo)
        return found

    @property
    def seconds(self) -> float:
        return max(self.seconds_at([note.onset + note.duration for note in self.notes]), default=0.0)


def on_grid(notes: Iterable[Sounding]) -> tuple[Sounding, ...]:
    """Notes in order, as one player an instrument has them: none twice at once, one cut where its pitch begins again,
    velocities and durations among those that are written."""
    longest: dict[tuple[int, int, int], Sounding] = {}
    for note in notes:
        place = note[:3]
        if place not in longest or note[3:] > longest[place][3:]:
            longest[place] = note
    after: dict[tuple[int, int], int] = {}
    found = []
    for note in sorted(longest.values(), reverse=True):
        line = (note.program, note.pitch)
        room = after.get(line, note.onset + DURATIONS[-1]) - note.onset
        duration = DURATIONS[bisect_right(DURATIONS, max(1, min(note.duration, room))) - 1]
        velocity = VELOCITIES[max(0, min(127, note.velocity)) // 4]
        found.append(note._replace(duration=duration, velocity=velocity))
        after[line] = note.onset
    return tuple(reversed(found))


def transposed(piece: Performance, semitones: int) -> Performance:
    """The same so many semitones higher; drums stay. Errors: ValueError where a note leaves 0 to 127."""
    notes = [note if note.program == DRUMS else note._replace(pitch=note.pitch + semitones) for note in piece.notes]
    if any(not 0 <= note.pitch <= 127 for note in notes):
        raise ValueError(f"a note would leave 0 to 127. Received: semitones={semitones}")
    return Performance(tuple(notes), piece.bars, piece.title)


# ------------------------------------------------------------------------------------------------------------- reading
class _Read(NamedTuple):
    """What a file says, in steps: notes, (step, beats a minute) and (step, meter), each in order."""

    notes: list[Sounding]
    tempos: list[tuple[int, float]]
    meters: list[tuple[int, tuple[int, int]]]
    title: str


def read(data: bytes) -> Performance:
    """All instruments and drums of a standard MIDI file, set to the grid.

    Errors: Unreadable for a file that is damaged or too large, holds no note, or cannot be written in bars.
    """
    if len(data) > MAX_BYTES:
        raise Unreadable(t("larger than {limit} MB", limit=MAX_BYTES >> 20))
    found = _read(data)
    if not found.notes:
        raise Unreadable(t("there is no note in it"))
    notes = on_grid(found.notes)
    if len({note.program for note in notes} - {DRUMS}) > MOST_PROGRAMS:
        raise Unreadable(t("more than {limit} instruments", limit=MOST_PROGRAMS))
    return Performance(notes, tuple(_bars(found, notes[-1].onset)), found.title)


def _read(data: bytes) -> _Read:
    mido = _mido()
    try:
        file = mido.MidiFile(file=io.BytesIO(data), clip=True)
        if not 0 < file.ticks_per_beat < 1 << 15:
            raise Unreadable(t("its times are in seconds, not in beats"))
        if file.type == 2:
            raise Unreadable(t("its tracks are pieces of their own (type 2)"))
        return _messages(file)
    except (EOFError, OSError, ValueError, KeyError, IndexError, TypeError, mido.KeySignatureError) as error:
        raise Unreadable(
            t("the MIDI file is damaged ({error})", error=str(error)[:80] or type(error).__name__)
        ) from None


def _in_order(file: Any) -> Iterator[tuple[int, int, Any]]:
    """(ticks, track, message) by time; a program stands before the notes of its moment, whatever track it is in."""
    found = []
    for number, track in enumerate(file.tracks):
        ticks = 0
        for message in track:
            ticks += message.time
            found.append((ticks, message.type != "program_change", number, message))
    found.sort(key=lambda each: each[:2])
    return ((ticks, number, message) for ticks, _, number, message in found)


def _messages(file: Any) -> _Read:
    beat = file.ticks_per_beat
    notes: list[Sounding] = []
    tempos, meters, title = [(0, 120.0)], [(0, (4, 4))], ""
    programs = [0] * 16
    sounding: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {}
    for ticks, track, message in _in_order(file):
        if message.type == "set_tempo" and message.tempo:
            tempos.append((_step(ticks, beat), 6e7 / message.tempo))
        elif message.type == "time_signature":
            meters.append((_step(ticks, beat), (message.numerator, message.denominator)))
        elif message.type == "track_name" and track == 0 and not title and file.type == 1:
            title = str(message.name).strip("\0 ")
        elif message.type == "program_change":
            programs[message.channel] = message.program
        elif message.type in ("note_on", "note_off"):
            key = (track, message.channel, message.note)
            if message.type == "note_on" and message.velocity:
                program = DRUMS if message.channel == DRUM_CHANNEL else programs[message.channel]
                sounding.setdefault(key, []).append((ticks, program, message.velocity))
            elif sounding.get(key):
                start, program, velocity = sounding[key].pop(0)
                if ticks > start:
                    onset, end = _step(start, beat), _step(ticks, beat)
                    notes.append(Sounding(onset, program, message.note, max(1, end - onset), velocity))
        if len(notes) > MAX_NOTES:
            raise Unreadable(t("more than {limit} notes", limit=f"{MAX_NOTES:,}"))
    return _Read(notes, tempos, meters, title)


def _step(ticks: int, ticks_per_beat: int) -> int:
    return (2 * ticks * STEPS + ticks_per_beat) // (2 * ticks_per_beat)


def _bars(found: _Read, last_onset: int) -> Iterator[Bar]:
    """Bars up to the last onset. A meter that begins within a bar ends that bar early, if sixteenths can say where."""
    at, count, meter = 0, 0, (4, 4)
    changes = list(found.meters)
    seconds = _Clock(found.tempos)
    while at <= last_onset:
        while changes and changes[0][0] <= at:
            meter = changes.pop(0)[1]
        if meter not in METERS:
            raise Unreadable(t("bars of {above}/{below} are not known here", above=meter[0], below=meter[1]))
        bar = Bar(meter)
        cut = _meter_of(changes[0][0] - at) if changes and changes[0][0] - at < bar.steps else None
        bar = Bar(cut or meter)
        took = seconds(at + bar.steps) - seconds(at)
        yield Bar(bar.meter, nearest_tempo(60 * bar.steps / STEPS / took))
        at, count = at + bar.steps, count + 1
        if count > MAX_BARS:
            raise Unreadable(t("more than {limit} bars", limit=f"{MAX_BARS:,}"))


def _meter_of(steps: int) -> tuple[int, int] | None:
    """The meter of a bar of so many steps, counted in quarters if they fit, else eighths, else sixteenths."""
    fits = ((steps // unit, 4 * STEPS // unit) for unit in (STEPS, STEPS // 2, STEPS // 4) if steps % unit == 0)
    return next((meter for meter in fits if meter in METERS), None)


def nearest_tempo(beats_per_minute: float) -> int:
    """The tempo of ``TEMPOS`` that differs by the smallest factor."""
    return min(TEMPOS, key=lambda tempo: max(tempo / beats_per_minute, beats_per_minute / tempo))


class _Clock:
    """Seconds at a step, by the tempos of a file."""

    def __init__(self, tempos: Sequence[tuple[int, float]]) -> None:
        self.steps, self.tempos = [step for step, _ in tempos], [tempo for _, tempo in tempos]
        self.times = [0.0]
        for n in range(1, len(tempos)):
            self.times.append(self.times[-1] + (self.steps[n] - self.steps[n - 1]) / STEPS * 60 / self.tempos[n - 1])

    def __call__(self, step: int) -> float:
        n = bisect_right(self.steps, step) - 1
        return self.times[n] + (step - self.steps[n]) / STEPS * 60 / self.tempos[n]


# ------------------------------------------------------------------------------------------------------------- writing
def write(piece: Performance) -> bytes:
    """A standard MIDI file of type 1, a track an instrument; equal performances, equal bytes."""
    mido = _mido()
    file = mido.MidiFile(type=1, ticks_per_beat=STEPS * TICKS)
    file.tracks.append(mido.MidiTrack(_head(piece, mido)))
    channel = 0
    for program in piece.programs:
        channel += channel == DRUM_CHANNEL
        own = DRUM_CHANNEL if program == DRUMS else channel
        file.tracks.append(mido.MidiTrack(_part(piece, program, own, mido)))
        channel += program != DRUMS
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def _head(piece: Performance, mido: Any) -> Iterator[Any]:
    yield mido.MetaMessage("track_name", name=piece.title.encode("latin-1", "replace").decode("latin-1"))
    said: Bar | None = None
    now = 0
    for start, bar in zip(piece.bar_starts(), piece.bars, strict=False):
        if said is None or bar.meter != said.meter:
            above, below = bar.meter
            yield mido.MetaMessage("time_signature", numerator=above, denominator=below, time=(start - now) * TICKS)
            now = start
        if said is None or bar.tempo != said.tempo:
            yield mido.MetaMessage("set_tempo", tempo=round(6e7 / bar.tempo), time=(start - now) * TICKS)
            now = start
        said = bar


def _part(piece: Performance, program: int, channel: int, mido: Any) -> Iterator[Any]:
    yield mido.MetaMessage("track_name", name=part_name(program))
    if program != DRUMS:
        yield mido.Message("program_change", program=program, channel=channel)
    own = [note for note in piece.notes if note.program == program]
    events = [(note.onset, 1, note.pitch, note.velocity) for note in own]
    events += [(note.onset + note.duration, 0, note.pitch, 0) for note in own]
    now = 0
    for step, on, pitch, velocity in sorted(events):
        kind = "note_on" if on else "note_off"
        yield mido.Message(kind, note=pitch, velocity=velocity, time=(step - now) * TICKS, channel=channel)
        now = step


def part_name(program: int) -> str:
    """The family of General MIDI a program belongs to, and its number as musicians count, from 1."""
    return "Drums" if program == DRUMS else f"{FAMILIES[program // 8]} {program + 1}"


def _mido() -> Any:
    from intaglio.core.registry import import_or_explain

    return import_or_explain("mido", "MIDI")
