"""Performances learned and drawn: whatever is drawn under the rules is one; other keys by seed and place alone."""

from __future__ import annotations

import io
import itertools
import json
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import mido
import numpy as np
import pytest

from intaglio.core import config
from intaglio.core.contracts import Item
from intaglio.core.errors import UserError
from intaglio.media import Unreadable, _midi, _midi_events, music, sniff
from intaglio.media._midi import DRUMS, Bar, Performance, Sounding
from intaglio.models import _events, _performer
from intaglio.models import music as model
from intaglio.models._corpus import prepare
from intaglio.models._pretrain import windows
from intaglio.models._tunes import Keys, Tunes, shifts
from intaglio.models.music import ABC, MIDI
from tests.support import DEVICE, ItemList, RunContext, assert_same_files, train_apart

FIT = "component(steps=40).fit(performances(ctx := RunContext(root)), ctx)"


def band(number: int) -> Performance:
    """Two bars or three of a bass, a chord and drums, by chance."""
    chance = random.Random(number)
    bars = (Bar((3, 4), 120),) * chance.choice((2, 3))
    notes = []
    for start in range(0, 36 * len(bars), 36):
        root = chance.choice(((36, 38), (38, 41), (41, 43))[number % 3])
        notes.append(Sounding(start, 32, root, 36, 99))
        notes += [Sounding(start + beat, 48, root + up, 12, 75) for beat in (12, 24) for up in (24, 28, 31)]
        notes += [Sounding(start + beat, DRUMS, 36 if beat == 0 else 42, 3, 91) for beat in (0, 12, 24)]
    return Performance(_midi.on_grid(notes), bars, f"band {number}")


def midi_item(ctx: RunContext, data: bytes, name: str, split: str = "train") -> Item:
    return Item(media="audio", files=(ctx.put(data, name=name, mime="audio/midi"),), origin=name, split=split)


def performances(ctx: RunContext) -> ItemList:
    def each() -> Iterator[Item]:
        for number in range(60):
            split = "heldout" if number % 4 == 0 else "train"
            yield midi_item(ctx, _midi.write(band(number)), f"{number}.mid", split)

    return ItemList(each())


def component(**values: object) -> model.Component:
    values = {"data": "x", **model.TINY, "notation": "midi", **values}
    return model.Component(config.parse(model.Config, values, where="test"))


# ------------------------------------------------------------------------------------------------------------ the rules
def walk(grammar: _events.Grammar, strings: list[str], seed: int) -> str:
    """Events drawn by chance alone from those allowed, a kind as likely as another."""
    chance, rules, text = random.Random(seed), _events.Events(grammar), ""
    for _ in range(4_000):
        kinds: dict[str, list[int]] = {}
        for index in np.flatnonzero(rules.allow(text, strings)):
            kinds.setdefault(strings[index].split("_")[0], []).append(int(index))
        index = chance.choice(kinds[chance.choice(sorted(kinds))])  # IndexError: nowhere to go
        if index == 0:
            return text
        text += strings[index]
    raise AssertionError("it does not end")


def test_whatever_is_drawn_under_the_rules_is_a_performance() -> None:
    tokens = _events.tokenizer_of([])
    grammar = _events.Grammar(tokens, bars=5)
    for seed in range(60):
        text = walk(grammar, tokens.strings, seed)
        piece = _midi_events.parse(text)
        assert 1 <= len(piece.bars) <= 5 and piece.notes and text.count("\nBar") == len(piece.bars)
        assert _midi.read(_midi.write(piece)) == piece
        assert _midi_events.parse(_midi_events.dump(piece)) == piece
        assert tokens.decode(tokens.encode(text)) == text and max(tokens.encode(text)) < tokens.size


def test_the_rules_let_real_performances_through_and_stop_what_does_not_fit() -> None:
    tokens = _events.tokenizer_of([])
    for number in range(8):
        text = _midi_events.dump(band(number))
        rules, so_far = _events.Events(_events.Grammar(tokens, bars=3)), ""
        for index in [*tokens.encode(text), tokens.end]:
            assert rules.allow(so_far, tokens.strings)[index], (so_far[-60:], tokens.strings[index])
            so_far += tokens.strings[index]

    def after(text: str, bars: int = 3) -> set[str]:
        flags = _events.Events(_events.Grammar(tokens, bars=bars), text).allow("", tokens.strings)
        return {name.strip() for name, yes in zip(tokens.strings, flags, strict=True) if yes}

    def kinds(text: str, bars: int = 3) -> set[str]:
        return {name.split("_")[0] for name in after(text, bars)}

    head = "\nBar TimeSig_2/4 Tempo_120"
    assert after("") == {"Bar"} and kinds("\nBar") == {"TimeSig"} and kinds("\nBar TimeSig_2/4") == {"Tempo"}
    assert kinds(head) == {"Position", "Bar"} and "Position_23" in after(head) and "Position_24" not in after(head)
    assert kinds(f"{head}\nBar") == {"TimeSig", "Tempo", "Position", "Bar"}
    assert not {"TimeSig_2/4", "Tempo_120"} & after(f"{head}\nBar")
    note = f"{head} Position_3 Program_5 Velocity_63 Pitch_60"
    assert kinds(f"{head} Position_3") == {"Program"} and kinds(f"{head} Position_3 Program_5") == {"Velocity"}
    assert kinds(f"{head} Position_3 Program_-1 Velocity_63") == {"PitchDrum"}
    assert kinds(note) == {"Duration"}
    then = after(f"{note} Duration_12")
    assert "" in then and "Pitch_61" in then and not {"Pitch_60", "Program_5", "Program_4", "Velocity_63"} & then
    assert "Position_4" in then and "Position_3" not in then and "Bar" not in after(f"{note} Duration_12", bars=1)
    assert "Program_4" in after(f"{note} Duration_12 Position_4"), "at a new position programs begin anew"


def test_a_text_is_cut_behind_its_last_whole_note() -> None:
    text = "\nBar TimeSig_2/4 Tempo_120 Position_0 Program_0 Velocity_63 Pitch_60 Duration_12"
    for rest in ("", " Pitch_64", " Position_3 Velocity_67", "\nBar", "\nBar Tempo_60 Position_2"):
        assert _events.whole(text + rest) == text


# ---------------------------------------------------------------------------------------------------------- other keys
def test_shifts_stay_in_the_range_of_each_instrument_and_leave_drums() -> None:
    texts = [_midi_events.dump(band(number)) for number in range(12)]
    ranges = _events.ranges_of(texts)
    assert ranges == {32: (36, 43), 48: (60, 74)}
    text = next(text for text in texts if " Pitch_43" not in text)
    up = _events.moved(text, 1, ranges)
    assert up is not None
    before, after = (_midi_events.parse(each).notes for each in (text, up))
    assert [b.pitch - a.pitch for a, b in zip(before, after, strict=True)] == [
        0 if note.program == DRUMS else 1 for note in before
    ]
    assert _events.moved(text, 12, ranges) is None and _events.moved(text, 127, {}) is None


@pytest.mark.parametrize("notation", ["abc", "midi"])
def test_the_key_of_a_window_is_a_function_of_seed_and_place_and_held_out_stays(tmp_path: Path, notation: str) -> None:
    ctx = RunContext(tmp_path)
    way = ABC if notation == "abc" else MIDI
    data = ItemList(tunes()) if notation == "abc" else performances(ctx)
    gathered = Tunes.gathered(data, ctx, way)
    keys = Keys(gathered, way, 2)
    corpus = prepare(gathered, ctx, kind=lambda _: way.tokenizer(keys.texts()))
    heldout = np.array(corpus.heldout)
    moved = keys.corpus(corpus, ctx)
    assert np.array_equal(moved.heldout, heldout) and len(moved.train) == len(corpus.train)
    assert moved.digest != corpus.digest and Keys(gathered, way, 0).corpus(corpus, ctx) is corpus
    assert np.array_equal(moved.train.lines[0], corpus.train)
    for by, line in zip(shifts(2), moved.train.lines, strict=True):
        for text in corpus.tokenizer.decode(line).split("\nBar TimeSig")[1:] if notation == "midi" else ():
            assert abs(by) <= 2 and _midi_events.parse("\nBar TimeSig" + text).notes
        assert corpus.tokenizer.decode(line) != corpus.tokenizer.decode(corpus.train) or by == 0
    size = {"batch": 8, "context": 16, "seed": 5}
    first = [windows(moved.train, step, **size) for step in range(12)]
    again = [windows(Keys(gathered, way, 2).corpus(corpus, ctx).train, step, **size) for step in reversed(range(12))]
    assert all(bool((a == b).all()) for a, b in zip(first, reversed(again), strict=True))
    plain = [windows(corpus.train, step, **size) for step in range(12)]
    same = [bool((a == b).all()) for a, b in zip(itertools.chain(*first), itertools.chain(*plain), strict=True)]
    assert 0.05 < sum(same) / len(same) < 0.7, "some in their own key, most in another"


def tunes() -> Iterator[Item]:
    for number in range(24):
        chance = random.Random(number)
        own = ("C", "D", "E", "F", "^G", "A", "_B", "c", "d", "e")[number % 6 :][:5]
        bars = ["".join(chance.choice(own) for _ in range(6)) for _ in range(8)]
        text = f"X:{number}\nM:6/8\nL:1/8\nK:{chance.choice(('G', 'Em', 'Ddor'))}\n{'|'.join(bars)}|]\n"
        yield Item(media="text", text=text, split="heldout" if number % 4 == 0 else "train")


def test_every_key_of_a_tune_is_written_with_as_many_tokens_and_sounds_that_much_higher() -> None:
    texts = [ABC.read(item, None) for item in tunes()]  # type: ignore[arg-type]
    within = ABC.ranges(texts)
    assert 60 <= within[0] < within[1] <= 76
    for text in texts:
        for by in range(-3, 4):
            moved = ABC.moved(text, by, (0, 127))
            assert moved is not None
            pitches = [
                [note.pitch for note in music.piece_of(music.parse("X:1\n" + each)).notes] for each in (text, moved)
            ]
            assert pitches[1] == [pitch + by for pitch in pitches[0]]
        assert ABC.moved(text, 12, within) is None


# ------------------------------------------------------------------------------------------------------------ the model
def test_performances_are_learned_and_come_as_midi_sound_and_roll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_performer, "JUDGED", 4)
    ctx = RunContext(tmp_path)
    more = [
        Item(media="text", text="X:1\nM:4/4\nL:1/8\nK:C\nCDEF|]\n", origin="tune.abc"),
        midi_item(ctx, b"MThd", "broken.mid"),
        midi_item(ctx, _midi.write(band(1)), "known.mid", "heldout"),
    ]
    figures = component(steps=60).fit(ItemList([*performances(ctx), *more]), ctx)
    assert figures["left_out"] == 2 and [text for text in ctx.warnings if "tune.abc" in text and '"abc"' in text]
    assert figures["well_formed"] == 1.0 >= figures["well_formed_without_rules"]
    assert figures["heldout_nats_per_note"] < figures["baseline_unigram_nats_per_note"]
    assert figures["heldout_bits_per_event"] < figures["baseline_unigram_bits_per_event"] < 9
    assert figures["notes_per_beat_of_training"] == pytest.approx(10 / 3, abs=1e-3) and not figures.get(
        "heldout_bits_per_char"
    )
    assert 0.5 < figures["pitch_class_overlap_of_heldout"] <= 1
    loaded = component().load(ctx.out, device=DEVICE, threads=1)
    (item,) = loaded.sample([5], ctx)
    assert item.media == "audio" and item.meta["bars"] <= 4
    mimes = [sniff.sniff(ctx.path(file).read_bytes()[: sniff.HEAD_BYTES]).mime for file in item.files]
    assert mimes == ["audio/wav", "audio/midi", "image/png"] == [file.mime for file in item.files]
    data = ctx.path(item.files[1]).read_bytes()
    piece = _midi.read(data)
    assert _midi.write(piece) == data and len(piece.notes) == item.meta["notes"]
    assert mido.MidiFile(file=io.BytesIO(data)).length == pytest.approx(item.meta["seconds"], abs=0.05)
    with pytest.raises(UserError, match="as long as its bars"):
        list(loaded.sample([5], ctx, seconds=3.0))
    head = "\nBar TimeSig_3/4 Tempo_120 Position_0 Program_48 Velocity_63 Pitch_60"
    started = loaded.texts([1, 2], start=head)
    assert all(text.startswith(f"{head} Duration_") for text in started) and started[0] != started[1]
    facts = json.loads((ctx.out / "intaglio.json").read_text("utf-8"))
    assert facts["notation"] == "midi" and facts["metrics"]["judged_pieces"] == 4
    assert {path.name for path in component().export(ctx.out, tmp_path / "export")} >= {"model.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("transpose", [0, 3])
def test_equal_bytes_twice_and_after_kill_9(tmp_path: Path, transpose: int) -> None:
    call = FIT.replace("steps=40", f"steps=40, transpose={transpose}")
    train_apart(__file__, call, tmp_path / "whole")
    train_apart(__file__, call, tmp_path / "cut", kill_at="work/state.safetensors", beyond=0)
    train_apart(__file__, call, tmp_path / "cut")
    assert_same_files(tmp_path / "whole" / "out", tmp_path / "cut" / "out")


def test_in_other_keys_the_weights_are_others_and_both_notations_learn(tmp_path: Path) -> None:
    def fit(name: str, **values: object) -> tuple[dict[str, object], bytes]:
        ctx = RunContext(tmp_path / name)
        data = ItemList(tunes()) if values.get("notation") == "abc" else performances(ctx)
        figures = component(steps=8, **values).fit(data, ctx)
        return dict(figures), (ctx.out / "model.safetensors").read_bytes()

    for notation in ("abc", "midi"):
        figures, weights = fit(notation, notation=notation)
        keyed, other = fit(f"{notation}-keys", notation=notation, transpose=2)
        assert weights != other and figures["heldout_notes"] == keyed["heldout_notes"]
        assert figures["train_tokens"] == keyed["train_tokens"], "a pass over the tunes is as long as before"


def test_nothing_to_learn_from_is_refused_with_what_to_do(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    with pytest.raises(UserError, match="no tune") as caught:
        component().fit(ItemList(tunes()), ctx)
    assert ".mid" in str(caught.value.fix) and '"abc"' in str(caught.value.fix)
    assert "[models.step]" in str(caught.value.where)


def test_drums_alone_are_a_performance_and_no_tune(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    notes = tuple(Sounding(12 * n, DRUMS, 36 + 6 * (n % 2), 3, 91) for n in range(8))
    data = _midi.write(Performance(notes, (Bar(), Bar()), "loop"))
    assert music.read_midi(data).notes == ()
    item = midi_item(ctx, data, "loop.mid")
    assert MIDI.read(item, ctx).count("PitchDrum") == 8
    with pytest.raises(Unreadable, match="only drums"):
        ABC.read(item, ctx)


def test_beats_stay_fractions_of_twelve() -> None:
    piece = music.read_midi(_midi.write(band(3)))
    assert all(note.onset % Fraction(1, 12) == 0 for note in piece.notes)
