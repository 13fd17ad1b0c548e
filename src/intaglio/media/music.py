"""Music as notes: ABC tunes and MIDI files read into one form, written again, played as sound and drawn as a score.

A note is onset and duration in beats (quarter notes, Fractions), pitch and velocity as MIDI counts them, and a track.
MIDI is read and written through mido (MIT); nothing is played by a sound font: ``media/_pluck.py`` makes the sound.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from intaglio.core.i18n import t
from intaglio.media import Unreadable, _abc
from intaglio.media._abc import (
    LETTERS,
    SECTION_ENDS,
    SEMITONES,
    Measure,
    Sign,
    Tune,
    looks_like_abc,
    parse,
    signature,
    tunes_in,
)
from intaglio.media._abc_moved import transposed
from intaglio.media._abc_out import body, dump

__all__ = [
    "Note",
    "Piece",
    "Tune",
    "body",
    "complete_bars",
    "dump",
    "looks_like_abc",
    "midi",
    "parse",
    "piece_of",
    "read_midi",
    "score",
    "transposed",
    "tune_of",
    "tunes_in",
    "wav",
]

TICKS = 480  # of a beat, in the MIDI files written here
MAX_BYTES = 16 << 20
MAX_NOTES = 500_000
USUAL_TEMPO = {"jig": 120.0, "slip jig": 120.0, "reel": 200.0, "hornpipe": 160.0, "waltz": 130.0, "march": 110.0}


@dataclass(frozen=True, slots=True)
class Note:
    """onset, duration: beats. pitch: 60 is middle C. velocity: 1 to 127."""

    onset: Fraction
    duration: Fraction
    pitch: int
    velocity: int = 80
    track: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Notes in the order of their onsets, and how they are counted. meter: None where nothing says it."""

    notes: tuple[Note, ...]
    beats_per_minute: float = 120.0
    meter: tuple[int, int] | None = None
    title: str = ""
    fifths: int = 0

    @property
    def beats(self) -> Fraction:
        return max((note.onset + note.duration for note in self.notes), default=Fraction(0))

    @property
    def seconds(self) -> float:
        return float(self.beats) * 60 / self.beats_per_minute


def piece_of(tune: Tune, *, repeats: bool = True) -> Piece:
    """The notes of a tune as they are played; tied notes are one, the first of a bar is a little louder."""
    notes: list[Note] = []
    open_ties: dict[int, int] = {}
    at, found = Fraction(0), _abc.pitches(tune)
    for number in _abc.played(tune) if repeats else range(len(tune.measures)):
        into = Fraction(0)
        for sign, chord in zip(tune.measures[number].signs, found[number], strict=True):
            ties: dict[int, int] = {}
            for pitch in chord:
                pitch = max(0, min(127, pitch))
                if pitch in open_ties:
                    place = open_ties[pitch]
                    old = notes[place]
                    notes[place] = Note(old.onset, at + sign.beats - old.onset, pitch, old.velocity)
                else:
                    place = len(notes)
                    notes.append(Note(at, sign.beats, pitch, 96 if into == 0 else 80))
                if sign.tie:
                    ties[pitch] = place
            open_ties = ties
            at, into = at + sign.beats, into + sign.beats
    return Piece(tuple(notes), tempo_of(tune), tune.meter, tune.title, _abc.fifths(tune.key))


def complete_bars(tune: Tune) -> tuple[int, int]:
    """How many bars have the meter's length, and how many there are.

    A section may begin with an upbeat, and its last bar may be short by an upbeat: its own or the next section's.
    """
    full = tune.full
    if not full:
        return 0, 0
    firsts = {0, *(n + 1 for n, each in enumerate(tune.measures) if each.right in SECTION_ENDS)}
    firsts |= {n for n, each in enumerate(tune.measures) if each.left}
    upbeats = {each.beats for n, each in enumerate(tune.measures) if n in firsts and each.beats < full}
    good = 0
    for number, measure in enumerate(tune.measures):
        last = measure.right in SECTION_ENDS
        short = (number in firsts and measure.beats < full) or (last and full - measure.beats in upbeats)
        good += measure.beats == full or (short and measure.beats > 0)
    return good, len(tune.measures)


def tempo_of(tune: Tune) -> float:
    """Beats a minute: the tune's own, else what is usual for its dance, else 110."""
    named = next((tempo for name, tempo in USUAL_TEMPO.items() if name in tune.rhythm), 0.0)
    compound = 150.0 if tune.meter is not None and tune.meter[1] == 8 else 110.0
    return tune.beats_per_minute or named or compound


# ---------------------------------------------------------------------------------------------------------------- MIDI
def read_midi(data: bytes) -> Piece:
    """The notes of a standard MIDI file; drums (channel 10) are left out, so a file of drums alone has none.

    Errors: Unreadable for a file that is damaged, too large, or holds neither note nor drum.
    """
    if len(data) > MAX_BYTES:
        raise Unreadable(t("larger than {limit} MB", limit=MAX_BYTES >> 20))
    mido = _mido()
    try:
        file = mido.MidiFile(file=io.BytesIO(data), clip=True)
        if not 0 < file.ticks_per_beat < 1 << 15:
            raise Unreadable(t("its times are in seconds, not in beats"))
        read = [list(_track(track, number, file.ticks_per_beat)) for number, track in enumerate(file.tracks)]
        facts = [message for track in file.tracks for message in track if message.is_meta]
        drums = any(each.type == "note_on" and each.channel == 9 for track in file.tracks for each in track)
    except (EOFError, OSError, ValueError, KeyError, IndexError, TypeError, mido.KeySignatureError) as error:
        raise Unreadable(
            t("the MIDI file is damaged ({error})", error=str(error)[:80] or type(error).__name__)
        ) from None
    notes = sorted((note for track in read for note in track), key=lambda n: (n.onset, n.track, n.pitch))
    if not notes and not drums:
        raise Unreadable(t("there is no note in it"))
    return _told(tuple(notes), facts)


def _told(notes: tuple[Note, ...], facts: Sequence[Any]) -> Piece:
    first: dict[str, Any] = {}
    for message in facts:
        first.setdefault(message.type, message)
    tempo = 6e7 / first["set_tempo"].tempo if "set_tempo" in first and first["set_tempo"].tempo else 120.0
    meter = (
        (first["time_signature"].numerator, first["time_signature"].denominator) if "time_signature" in first else None
    )
    title = str(first["track_name"].name).strip("\0 ") if "track_name" in first else ""
    key = _abc.fifths(_abc.key_name(first["key_signature"].key)) if "key_signature" in first else 0
    return Piece(notes, tempo, meter, title, key)


def _track(track: Any, number: int, ticks_per_beat: int) -> Iterator[Note]:
    ticks, count = 0, 0
    sounding: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for message in track:
        ticks += message.time
        if message.type not in ("note_on", "note_off") or message.channel == 9:
            continue
        key = (message.channel, message.note)
        if message.type == "note_on" and message.velocity:
            sounding.setdefault(key, []).append((ticks, message.velocity))
        elif sounding.get(key):
            start, velocity = sounding[key].pop(0)
            if ticks > start:
                count += 1
                if count > MAX_NOTES:
                    raise Unreadable(t("more than {limit} notes", limit=f"{MAX_NOTES:,}"))
                beats = (Fraction(start, ticks_per_beat), Fraction(ticks - start, ticks_per_beat))
                yield Note(*beats, message.note, velocity, number)


def midi(piece: Piece) -> bytes:
    """The piece as a standard MIDI file of type 1, 480 ticks a beat; equal pieces, equal bytes."""
    mido = _mido()
    file = mido.MidiFile(type=1, ticks_per_beat=TICKS)
    head = mido.MidiTrack()
    file.tracks.append(head)
    if piece.title:
        head.append(mido.MetaMessage("track_name", name=piece.title.encode("latin-1", "replace").decode("latin-1")))
    head.append(mido.MetaMessage("set_tempo", tempo=round(6e7 / piece.beats_per_minute)))
    if piece.meter:
        above, below = piece.meter
        head.append(mido.MetaMessage("time_signature", numerator=above, denominator=below))
    head.append(mido.MetaMessage("key_signature", key=_key_of(piece.fifths)))
    for number in sorted({note.track for note in piece.notes}):
        events = sorted(
            event
            for note in piece.notes
            if note.track == number
            for event in (
                (round(note.onset * TICKS), 1, note.pitch, note.velocity),
                (round((note.onset + note.duration) * TICKS), 0, note.pitch, 0),
            )
        )
        track, now = mido.MidiTrack(), 0
        for ticks, on, pitch, velocity in events:
            kind = "note_on" if on else "note_off"
            track.append(mido.Message(kind, note=pitch, velocity=velocity, time=ticks - now, channel=number % 9))
            now = ticks
        file.tracks.append(track)
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def _key_of(fifths: int) -> str:
    return ["Cb", "Gb", "Db", "Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "C#"][fifths + 7]


def _mido() -> Any:
    from intaglio.core.registry import import_or_explain

    return import_or_explain("mido", "MIDI")


# ----------------------------------------------------------------------------------------------- from notes to a score
GRID = Fraction(1, 4)  # of a beat: what notes are set to before they are written down


def tune_of(piece: Piece, *, title: str = "") -> Tune:
    """The upper voice of a piece, written down in sixteenths and bars, with ties where a note crosses a bar line."""
    meter = piece.meter or (4, 4)
    key = _key_of(piece.fifths or guess_fifths(piece.notes))
    tune = Tune(title=title or piece.title, meter=meter, key=key, beats_per_minute=round(piece.beats_per_minute, 1))
    full, at = tune.full, Fraction(0)
    spelled = signature(key)
    measure = Measure()

    def add(pitch: int | None, beats: Fraction) -> None:
        nonlocal measure, at
        while beats > 0:
            room = full - measure.beats
            part = _writable(min(beats, room))
            steps = () if pitch is None else (_spell(pitch, spelled, measure),)
            measure.signs.append(Sign(steps, part, part, tie=pitch is not None and part < beats))
            beats, at = beats - part, at + part
            if measure.beats == full:
                tune.measures.append(measure)
                measure = Measure()

    for onset, end, pitch in _upper_voice(piece.notes):
        if onset > at:
            add(None, onset - at)
        add(pitch, end - at)
    if measure.signs:
        add(None, full - measure.beats)
    if tune.measures:
        tune.measures[-1].right = "|]"
    return tune


def _upper_voice(notes: Sequence[Note]) -> list[tuple[Fraction, Fraction, int]]:
    """The highest note at each onset, cut where the next begins, on the grid: (onset, end, pitch)."""
    highest: dict[Fraction, Note] = {}
    for note in notes:
        onset = round(note.onset / GRID) * GRID
        if onset not in highest or note.pitch > highest[onset].pitch:
            highest[onset] = note
    found = []
    onsets = sorted(highest)
    for place, onset in enumerate(onsets):
        end = onset + max(GRID, round(highest[onset].duration / GRID) * GRID)
        if place + 1 < len(onsets) and (end > onsets[place + 1] or onsets[place + 1] - end < 2 * GRID):
            end = onsets[place + 1]
        found.append((onset, end, highest[onset].pitch))
    return found


def _writable(beats: Fraction) -> Fraction:
    """The longest length that one note sign can show, dots included."""
    return max(length for length in _SHOWN_LENGTHS if length <= beats)


_SHOWN_LENGTHS = sorted({Fraction(n, 4) for n in (1, 2, 3, 4, 6, 8, 12, 16)})


def _spell(pitch: int, key: dict[int, int], measure: Measure) -> tuple[int, int | None]:
    """A pitch on the staff: by the key's own notes, else as a sharp (a flat in keys of flats); with its accidental."""
    flats = any(alter < 0 for alter in key.values())
    octave, tone = divmod(pitch, 12)
    options = []
    for letter, semitones in enumerate(SEMITONES):
        for alter in (0, 1, -1):
            if (semitones + alter) % 12 == tone:
                ranked = (key.get(letter, 0) != alter, alter != 0 and (alter < 0) != flats, abs(alter))
                options.append((ranked, 7 * (octave - 1 + (semitones + alter - tone) // -12) + letter, alter))
    _, step, alter = min(options)
    own = [old[1] for sign in measure.signs for old in sign.steps if old[0] == step and old[1] is not None]
    return step, None if alter == (own[-1] if own else key.get(step % 7, 0)) else alter


def guess_fifths(notes: Sequence[Note]) -> int:
    """The signature whose seven notes cover most of the sound, nearest to none where several do."""
    weights = [Fraction(0)] * 12
    for note in notes:
        weights[note.pitch % 12] += note.duration

    def covered(fifths: int) -> Fraction:
        alters = signature(_key_of(fifths))
        return sum((weights[(SEMITONES[n] + alters.get(n, 0)) % 12] for n in range(len(LETTERS))), Fraction(0))

    return max(range(-6, 7), key=lambda fifths: (covered(fifths), -abs(fifths), fifths))


def wav(piece: Piece, *, rate_hz: int = 44_100) -> bytes:
    """The piece as a WAV file, mono, 16 bits, played on plucked strings."""
    from intaglio.media import _pluck

    return _pluck.wav(piece.notes, piece.beats_per_minute, rate_hz=rate_hz)


def score(tune: Tune, *, title: str = "") -> bytes:
    """The tune as a picture of a score, PNG, 1,000 pixels wide."""
    from intaglio.media import _engrave

    return _engrave.png(tune, title=title)
