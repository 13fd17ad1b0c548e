"""Performances: what lies on the grid comes back, through a file and through events; sound and picture show it."""

from __future__ import annotations

import io
import itertools
import random
import wave
from fractions import Fraction

import mido
import numpy as np
import pytest
from PIL import Image

from intaglio.media import Unreadable, _midi, _midi_events, _midi_roll, _midi_sound, music
from intaglio.media._midi import DRUMS, DURATIONS, METERS, TEMPOS, VELOCITIES, Bar, Performance, Sounding


def song() -> bytes:
    """A file as another program may write it: 96 ticks a beat, drums, a pickup, other meters and tempi."""
    file = mido.MidiFile(type=1, ticks_per_beat=96)
    head, bass, strings, kit = (file.add_track(name) for name in ("A trial", "low", "high", ""))
    for kind, values in (
        ("time_signature", {"numerator": 1, "denominator": 4}),
        ("set_tempo", {"tempo": 500_000}),
        ("time_signature", {"numerator": 3, "denominator": 4, "time": 96}),
        ("set_tempo", {"tempo": 250_000, "time": 288}),
        ("time_signature", {"numerator": 6, "denominator": 8}),
    ):
        head.append(mido.MetaMessage(kind, **values))
    bass.append(mido.Message("program_change", program=32, channel=4))
    strings.append(mido.Message("program_change", program=48, channel=0))
    for pitch, ticks in ((36, 96), (43, 192), (36, 192)):
        bass.append(mido.Message("note_on", note=pitch, velocity=99, channel=4))
        bass.append(mido.Message("note_on", note=pitch, velocity=0, time=ticks, channel=4))
    for pitch in (60, 64, 67):  # a chord, its notes let go one after the other
        strings.append(mido.Message("note_on", note=pitch, velocity=64, time=0))
    for pitch in (60, 64, 67):
        strings.append(mido.Message("note_off", note=pitch, time=32))
    strings.append(mido.Message("control_change", control=64, value=127, time=5))
    for place in range(12):
        kit.append(mido.Message("note_on", note=42 if place % 2 else 36, velocity=90, channel=9, time=0))
        kit.append(mido.Message("note_off", note=42 if place % 2 else 36, channel=9, time=48))
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def test_all_tracks_drums_meters_and_tempi_are_read() -> None:
    piece = _midi.read(song())
    assert piece.programs == (DRUMS, 32, 48) and piece.title == "A trial"
    assert [bar.meter for bar in piece.bars] == [(1, 4), (3, 4), (6, 8)]
    assert [bar.tempo for bar in piece.bars] == [120, 120, 240 if 240 in TEMPOS else _midi.nearest_tempo(240)]
    chord = [note for note in piece.notes if note.program == 48]
    assert [(note.onset, note.pitch, note.duration) for note in chord] == [(0, 60, 4), (0, 64, 8), (0, 67, 12)]
    assert [note.onset for note in piece.notes if note.program == DRUMS] == list(range(0, 72, 6))
    low = [(note.onset, note.pitch, note.duration) for note in piece.notes if note.program == 32]
    assert low == [(0, 36, 12), (12, 43, 24), (36, 36, 24)]


def random_performance(seed: int) -> Performance:
    chance = random.Random(seed)
    bars = tuple(Bar(chance.choice(METERS), chance.choice(TEMPOS)) for _ in range(chance.randint(1, 6)))
    ends = list(itertools.accumulate(bar.steps for bar in bars))
    programs = [DRUMS, *chance.sample(range(128), chance.randint(1, 15))]
    notes = [
        Sounding(
            chance.randrange(ends[-1]), chance.choice(programs), chance.randrange(128), chance.choice(DURATIONS),
            chance.choice(VELOCITIES),
        )
        for _ in range(chance.randint(1, 120))
    ]  # fmt: skip
    found = _midi.on_grid([*notes, notes[0]._replace(onset=ends[-1] - 1)])
    return Performance(found, bars, "été")


@pytest.mark.parametrize("seed", range(40))
def test_on_the_grid_nothing_is_lost_through_a_file_and_through_events(seed: int) -> None:
    piece = random_performance(seed)
    data = _midi.write(piece)
    assert _midi.read(data) == piece and _midi.write(piece) == data
    text = _midi_events.dump(piece)
    assert _midi_events.parse(text, title="été") == piece
    assert set(text.replace("\nBar", "").split()) <= {name.strip() for name in _midi_events.NAMES}


def test_another_reader_of_midi_finds_the_same_notes_and_seconds() -> None:
    piece = _midi.read(song())
    file = mido.MidiFile(file=io.BytesIO(_midi.write(piece)))
    assert file.length == pytest.approx(piece.seconds, abs=2e-3)
    played = [message for message in file if message.type == "note_on" and message.velocity]
    assert sorted(message.note for message in played) == sorted(note.pitch for note in piece.notes)
    assert {message.channel for message in played if message.note in (42, 36)} >= {9}
    assert {track.name for track in file.tracks} >= {"A trial", "Bass 33", "Ensemble 49", "Drums"}


def test_the_events_read_as_the_papers_name_them() -> None:
    text = _midi_events.dump(_midi.read(song()))
    assert text.startswith(
        "\nBar TimeSig_1/4 Tempo_120 Position_0 Program_-1 Velocity_91 PitchDrum_36 Duration_6 Program_32 Velocity_99"
        " Pitch_36 Duration_12 Program_48 Velocity_67 Pitch_60 Duration_4 Pitch_64 Duration_8 Pitch_67 Duration_12"
        " Position_6 Program_-1 Velocity_91 PitchDrum_42 Duration_6\nBar TimeSig_3/4 Position_0"
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Bar", "event 1, 'B'"),
        ("\nBar Position_0 Pitch_60 Duration_4", "event 3, 'Pitch_60'"),
        ("\nBar Position_48", "event 2, 'Position_48'"),
        ("\nBar Position_3 Position_2", "event 3, 'Position_2'"),
        ("\nBar Position_0 Program_-1 Velocity_91 Pitch_60", "event 5, 'Pitch_60'"),
        ("\nBar Position_0 Program_0 Velocity_91 Duration_4", "event 5, 'Duration_4'"),
        ("\nBar Position_0 TimeSig_3/4", "event 3, 'TimeSig_3/4'"),
        ("\nBar Position_0 Program_0 Velocity_92", "event 4, 'Velocity_92'"),
        ("\nBar\nBar", "no note"),
    ],
)
def test_events_that_make_no_sense_are_named_with_their_place(text: str, what: str) -> None:
    with pytest.raises(Unreadable, match=what):
        _midi_events.parse(text)


def midi_of(*messages: mido.Message | mido.MetaMessage, kind: int = 1) -> bytes:
    file = mido.MidiFile(type=kind)
    file.tracks.append(mido.MidiTrack(messages))
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def sounding(*before: mido.MetaMessage, late: int = 0) -> tuple[mido.Message | mido.MetaMessage, ...]:
    return (*before, mido.Message("note_on", note=60, time=late), mido.Message("note_off", note=60, time=240))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "damaged"),
        (song()[:80], "damaged"),
        (midi_of(), "no note"),
        (midi_of(mido.Message("note_on", note=60)), "no note"),
        (midi_of(*sounding(), kind=2), "type 2"),
        (midi_of(*sounding(mido.MetaMessage("time_signature", numerator=31, denominator=4))), "31/4"),
        (midi_of(*sounding(late=480 * 4 * 10_001)), "more than 10,000 bars"),
        (b"MThd\0\0\0\x06\0\0\0\x01\xe7\x28MTrk\0\0\0\x04\0\xff\x2f\0", "seconds, not in beats"),
    ],
)
def test_what_is_no_performance_is_refused_with_the_reason(data: bytes, what: str) -> None:
    with pytest.raises(Unreadable, match=what):
        _midi.read(data)


def test_too_many_instruments_are_refused() -> None:
    file = mido.MidiFile(type=1)
    for program in range(16):
        change = mido.Message("program_change", program=program, time=480 * program)
        file.tracks.append(mido.MidiTrack([change, *sounding()]))
    out = io.BytesIO()
    file.save(file=out)
    with pytest.raises(Unreadable, match="more than 15 instruments"):
        _midi.read(out.getvalue())


def test_one_player_an_instrument() -> None:
    notes = [Sounding(0, 0, 60, 50, 80), Sounding(0, 0, 60, 20, 127), Sounding(12, 0, 60, 400, 3)]
    assert _midi.on_grid(notes) == (Sounding(0, 0, 60, 12, 83), Sounding(12, 0, 60, 384, 3))


def test_transposed_performances_keep_their_drums() -> None:
    piece = _midi.read(song())
    up = _midi.transposed(piece, 5)
    for before, after in zip(piece.notes, up.notes, strict=True):
        assert after.pitch - before.pitch == (0 if before.program == DRUMS else 5)
    with pytest.raises(ValueError, match="semitones=80"):
        _midi.transposed(piece, 80)


# ------------------------------------------------------------ sound and picture
def loudest_hz(sound: np.ndarray) -> float:
    strength = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 18))
    return float(np.fft.rfftfreq(1 << 18, 1 / 44_100)[strength.argmax()])


@pytest.mark.parametrize("program", [0, 19, 42, 73, 80])
def test_every_family_is_in_tune(program: int) -> None:
    piece = Performance((Sounding(0, program, 69, 24, 99),), (Bar(),))
    found = loudest_hz(_midi_sound.render(piece)[2_000:40_000])
    assert min(abs(found - 440 * k) / (440 * k) for k in (1, 2, 4)) < 3e-3


def test_drums_are_told_apart_by_where_their_sound_lies() -> None:
    def middle_hz(pitch: int) -> float:
        power = np.abs(np.fft.rfft(_midi_sound.drum(pitch, 44_100), 1 << 17)) ** 2
        return float((power * np.fft.rfftfreq(1 << 17, 1 / 44_100)).sum() / power.sum())

    assert middle_hz(36) < 200 < middle_hz(38) < middle_hz(42)


def test_the_wav_is_as_long_as_the_music_and_repeats() -> None:
    piece = _midi.read(song())
    data = _midi_sound.wav(piece)
    with wave.open(io.BytesIO(data)) as file:
        seconds = file.getnframes() / file.getframerate()
    assert piece.seconds < seconds < piece.seconds + 1 and data == _midi_sound.wav(piece)
    loud = np.frombuffer(data[44:], dtype="<i2")
    assert 25_000 < np.abs(loud).max() < 32_767


def test_the_roll_shows_every_instrument_and_each_note_once() -> None:
    piece = _midi.read(song())
    data = _midi_roll.png(piece, title="A trial")
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert picture.shape[1] == 1_000 and data == _midi_roll.png(piece, title="A trial")
    for colour in _midi_roll.COLOURS[:2]:
        assert (np.abs(picture[50:] - np.array(colour)).sum(-1) < 130).sum() > 50
    long = Performance(tuple(Sounding(48 * n, 0, 60, 12, 99) for n in range(400)), (Bar(),) * 400)
    assert Image.open(io.BytesIO(_midi_roll.png(long))).height < 1_000, "a long piece is cut"
    drums = Performance((Sounding(0, DRUMS, 36, 1, 99),), (Bar(),))
    assert Image.open(io.BytesIO(_midi_roll.png(drums))).width == 1_000


# ------------------------------------------------------------ tunes in other keys
AIR = "X:1\nM:3/4\nL:1/8\nK:{key}\n|:G2 ^F_B =cd|[GB]2- [GB]^^c z2|[K:{other}] f4 e,2:|\n"


@pytest.mark.parametrize("semitones", range(-7, 8))
def test_a_tune_sounds_as_many_semitones_higher_and_is_spelled_in_its_new_key(semitones: int) -> None:
    from intaglio.media._abc import fifths, pitches

    tune = music.parse(AIR.format(key="Dmix", other="Em"))
    moved = music.transposed(tune, semitones)
    if moved is None:  # the second key has no signature there
        assert abs(semitones) == 6 or abs(semitones) == 1
        return
    assert pitches(moved) == [[tuple(p + semitones for p in chord) for chord in bar] for bar in pitches(tune)]
    again = music.parse(music.dump(moved))
    assert pitches(again) == pitches(moved) and again.key == moved.key
    assert (fifths(moved.key) - fifths(tune.key) - 7 * semitones) % 12 == 0 and moved.key.endswith("mix")
    assert [sign.beats for bar in moved.measures for sign in bar.signs] == [
        sign.beats for bar in tune.measures for sign in bar.signs
    ]


@pytest.mark.parametrize(
    ("key", "semitones", "new"),
    [("G", 1, "Ab"), ("G", -1, "F#"), ("Em", 2, "F#m"), ("Ador", 3, "Cdor"), ("C", 12, "C"), ("Bb", -2, "Ab")],
)
def test_keys_are_those_with_fewest_signs(key: str, semitones: int, new: str) -> None:
    moved = music.transposed(music.parse(f"X:1\nM:2/4\nL:1/8\nK:{key}\nGA|\n"), semitones)
    assert moved is not None and moved.key in (new, {"F#": "Gb"}.get(new, new))


def test_what_no_sign_can_say_is_not_moved() -> None:
    sharp = music.parse("X:1\nM:2/4\nL:1/8\nK:Bb\n^^Bc|\n")  # three above what the key says
    assert music.transposed(sharp, 0) is not None
    assert music.transposed(sharp, 2) is None
    assert Fraction(1, 2) == sharp.measures[0].signs[0].beats


def test_a_file_that_ends_too_early_is_said_to_do_so() -> None:
    for read in (music.read_midi, _midi.read):
        with pytest.raises(Unreadable, match=r"damaged \(EOFError\)"):
            read(song()[:40])
