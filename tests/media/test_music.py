"""Tunes: bars, repeats, ties and tuplets as the standard says; mido reads the MIDI; sound is in tune; scores repeat."""

from __future__ import annotations

import io
import wave
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from intaglio.media import Unreadable, _abc, music
from intaglio.media._pluck import frequency_hz, render

JIG = """X:1
T:A trial of signs
R:Jig
M:6/8
L:1/8
K:Em
|:"Em"B|E2B {c}B2d|^cBc _BAG|(3EFG ~=FGA z2d|d3-d2B:|
|:G,|A,>BA z/c/d e<f|g3 z3|[EGB]6|1 f3 g2a:|2 g6|]
"""


def first_pitches(text: str) -> list[tuple[int, ...]]:
    return [chord for bar in _abc.pitches(music.parse(text)) for chord in bar]


def test_a_book_falls_into_tunes() -> None:
    book = JIG + "\n\n" + JIG.replace("X:1", "X:2") + "\nwords between tunes\n"
    assert music.looks_like_abc(book) and not music.looks_like_abc("X marks the spot: a story\nK: none")
    assert [music.parse(text).number for text in music.tunes_in(book)] == ["1", "2"]


def test_lengths_follow_meter_unit_tuplets_and_broken_pairs() -> None:
    tune = music.parse(JIG)
    assert tune.full == 3 and [bar.beats for bar in tune.measures[:3]] == [Fraction(1, 2), 3, 3]
    assert [sign.beats for sign in tune.measures[6].signs[:2]] == [Fraction(3, 4), Fraction(1, 4)]
    triplet = tune.measures[3].signs[:3]
    assert [sign.tuplet for sign in triplet] == [3, -1, -1] and sum(sign.beats for sign in triplet) == 1
    sixteenths = music.parse("X:1\nM:2/4\nK:C\nCDEF|\n")  # no L: below 3/4 the unit is a sixteenth
    assert sixteenths.measures[0].beats == 1


def test_accidentals_hold_to_the_end_of_the_bar_and_through_a_tie() -> None:
    assert first_pitches("X:1\nL:1/4\nK:G\nF^CC|CF|\n") == [(66,), (61,), (61,), (60,), (66,)]
    assert first_pitches("X:1\nL:1/4\nK:C\n^F-|FF|\n")[1] == (66,)
    assert first_pitches("X:1\nL:1/4\nK:C\n[C_EG],c'|\n")[:2] == [(60, 63, 67), (84,)]


@pytest.mark.parametrize(
    ("key", "count"),
    [("G", 1), ("Em", 1), ("Dmix", 1), ("Ador", 1), ("Bb", -2), ("F#m", 3), ("C#", 7), ("Gm", -2), ("Flyd", 0)],
)
def test_signatures(key: str, count: int) -> None:
    assert _abc.fifths(_abc.key_name(key)) == count == sum(_abc.signature(key).values())


def test_keys_and_meters_may_change_on_the_way() -> None:
    tune = music.parse("X:1\nM:2/4\nL:1/4\nK:C\nFF|[K:G]FF|\nK:F\nBB|\n")
    assert [chord[0] for bar in _abc.pitches(tune) for chord in bar] == [65, 65, 66, 66, 70, 70]
    assert _abc.pitches(music.parse(music.dump(tune))) == _abc.pitches(tune)


@pytest.mark.parametrize(
    ("body", "order"),
    [
        ("A|B:|", "ABAB"), ("A|:B:|C|]", "ABBC"), ("|:A|1B:|2C|]", "ABAC"), ("A||B:|", "ABB"), ("|:A::B:|", "AABB"),
        ("A|B:|:C|1D:|2E||", "ABABCDCE"),
    ],
)  # fmt: skip
def test_repeats_and_endings(body: str, order: str) -> None:
    tune = music.parse(f"X:1\nL:1/4\nM:1/4\nK:C\n{body}\n")
    names = ["".join(_abc.LETTERS[step % 7] for sign in bar.signs for step, _ in sign.steps) for bar in tune.measures]
    assert "".join(names[number] for number in _abc.played(tune)) == order


def test_what_is_written_reads_as_the_same_music() -> None:
    tune = music.parse(JIG)
    again = music.parse(music.dump(tune))
    assert _abc.pitches(again) == _abc.pitches(tune) and _abc.played(again) == _abc.played(tune)
    assert [[s.beats for s in bar.signs] for bar in again.measures] == [
        [s.beats for s in b.signs] for b in tune.measures
    ]
    assert music.dump(again) == music.dump(tune) and "A,>B" in music.dump(tune)


def test_complete_bars_allow_upbeats_alone() -> None:
    assert music.complete_bars(music.parse("X:1\nM:3/4\nL:1/4\nK:C\nA|BBB|CC:|\n")) == (3, 3)
    assert music.complete_bars(music.parse("X:1\nM:3/4\nL:1/4\nK:C\nABC|BB|CCC|]\n")) == (2, 3)


@pytest.mark.parametrize("text", ["X:1\nK:C\n|||\n", "X:1\nL:0/8\nK:C\nA|\n", "X:1\nK:C\n"])
def test_what_holds_no_tune_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        music.parse(text)


def test_strange_signs_do_not_stop_the_reader() -> None:
    tune = music.parse("X:1\nM:4/4\nL:1/8\nK:C\n!trill!A \x00 \u266b B999/0 (9:9:9 >> | ] [ C,,,,,,,,,|\n")
    assert tune.measures and music.piece_of(tune).notes


# ------------------------------------------------------------ MIDI
def test_midi_gives_the_notes_back() -> None:
    piece = music.piece_of(music.parse(JIG))
    again = music.read_midi(music.midi(piece))
    assert sorted((n.onset, n.duration, n.pitch) for n in again.notes) == sorted(
        (n.onset, n.duration, n.pitch) for n in piece.notes
    )
    assert (again.meter, again.title, again.fifths) == ((6, 8), "A trial of signs", 1)
    assert again.beats_per_minute == pytest.approx(piece.beats_per_minute, rel=1e-5)
    tied = [note for note in piece.notes if note.pitch == 74 and note.duration == Fraction(5, 2)]
    assert tied, "tied notes are one"


@pytest.mark.parametrize("data", [b"", b"MThd", b"MThd\0\0\0\6\0\1\0\2\1\xe0MTrk\0\0\0\x09\0\x90", b"RIFF" * 30])
def test_damaged_midi_is_refused(data: bytes) -> None:
    with pytest.raises(Unreadable):
        music.read_midi(data)


def test_notes_are_written_down_as_a_score() -> None:
    piece = music.piece_of(music.parse("X:1\nM:2/4\nL:1/8\nK:D\nd2fA|B4-|B2^G2|z2E2|]\n"))
    tune = music.tune_of(piece)
    assert tune.key == "D" and music.complete_bars(tune) == (4, 4)
    again = music.piece_of(tune)
    assert [(n.onset, n.duration, n.pitch) for n in again.notes] == [
        (n.onset, n.duration, n.pitch) for n in piece.notes
    ]


# ------------------------------------------------------------ sound and score
def test_strings_are_in_tune() -> None:
    for pitch in (45, 69, 88):
        sound = render([music.Note(Fraction(0), Fraction(4), pitch)], 60.0)
        size = 1 << 19
        strength = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), size))
        near = np.abs(np.fft.rfftfreq(size, 1 / 44_100) - frequency_hz(pitch)) < 8
        found = np.fft.rfftfreq(size, 1 / 44_100)[near][strength[near].argmax()]
        assert found == pytest.approx(frequency_hz(pitch), rel=1e-3) and strength[near].max() > 0.3 * strength.max()
    assert np.abs(sound).max() <= 0.9


def test_wav_has_the_length_of_the_music_and_repeats() -> None:
    piece = music.piece_of(music.parse(JIG))
    data = music.wav(piece)
    with wave.open(io.BytesIO(data)) as file:
        seconds = file.getnframes() / file.getframerate()
    assert piece.seconds < seconds < piece.seconds + 1 and data == music.wav(piece)


def test_scores_are_drawn() -> None:
    data = music.score(music.parse(JIG))
    picture = Image.open(io.BytesIO(data)).convert("L")
    assert picture.width == 1_000 and data == music.score(music.parse(JIG)) and len(data) < 100_000
    dark = np.asarray(picture) < 120
    assert (dark[:, 200:800].mean(axis=1) > 0.95).sum() == 10, "two staves of five lines"
