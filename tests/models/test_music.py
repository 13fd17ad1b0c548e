"""Tunes as tokens: what is written is read again, the rules keep every bar whole, a tune comes as sound and score."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from intaglio.core import config
from intaglio.core.contracts import Item, Machine, Size
from intaglio.core.errors import UserError
from intaglio.media import Unreadable, music, sniff
from intaglio.models import music as model
from intaglio.models._notes import Form, Habits, Rules, plain, tokenizer_of, tune_from
from intaglio.models._tokenizers import TextTokenizer
from tests.support import DEVICE, ItemList, RunContext

JIG = """X:1
T:A jig
R:Double Jig
M:6/8
L:1/8
K:Em
B|E2B {c}B2d|^cBc _BAG|(3EFG ~FG zd|d3-d2:|
|:g|f>ga/g/ [EGB]2f|e3- e2g|1 f3 g2a:|2 g6|]
"""
REEL = "X:2\nT:A reel\nM:4/4\nL:1/8\nK:D\nA2|dAFA dAFA|B2e2 e2dB|dAFA d2f2|e2d2 d2:|\n"
PLAIN = """R:jig
M:6/8
L:1/8
K:Em
B|E2BB2d|^cBc_BAG|(3EFGFGzd|d3-d2:||:g|f>ga/g/B2f|e3-e2g|1f3g2a:|2g6|]"""


def tokenizer() -> TextTokenizer:
    texts = [plain(music.parse(text)) for text in (JIG, REEL, JIG, REEL)]  # twice: a name seen once is none
    return tokenizer_of(ItemList(Item(media="text", text=text) for text in texts))


def test_the_plain_text_keeps_the_notes_and_reads_back() -> None:
    found = plain(music.parse(JIG))
    assert found == PLAIN
    assert plain(tune_from(found)) == found
    assert [bar.beats for bar in tune_from(found).measures] == [bar.beats for bar in music.parse(JIG).measures]
    slur = plain(music.parse("X:1\nM:2/4\nL:1/8\nK:C\nC-DE-E|F2-|F2z2|]\n"))
    assert slur.endswith("CDE-E|F2-|F2z2|]")
    with pytest.raises(Unreadable, match="key changes"):
        plain(music.parse("X:1\nM:2/4\nL:1/8\nK:C\nCDEF|[K:G]GABc|]\n"))


def test_a_token_a_name_and_bytes_for_what_is_none(tmp_path: Path) -> None:
    tokens = tokenizer()
    tokens.save(tmp_path, context=16)
    again = TextTokenizer.load(tmp_path)
    assert again.kind == "notes" and again.size == tokens.size
    ids = again.encode("M:6/8\nL:1/8\nK:Em\n^cG2|1f>g(3:||:")
    names = ["M:6/8\nL:1/8\n", "K:Em\n", "^c", "G", "2", "|1", "f", ">", "g", "(3", ":||:"]
    assert [again.strings[index] for index in ids] == names
    strange = "K:H#\nä?"
    assert again.decode(again.encode(strange)) == strange and all(0 < n <= 256 for n in again.encode("ä"))


def walk(rules: Rules, tokens: TextTokenizer, seed: int, start: str = "") -> str:
    """A tune of tokens drawn by chance alone from those allowed."""
    chance, form, text = random.Random(seed), Form(rules, start), ""
    for _ in range(4_000):
        allowed = [number for number, yes in enumerate(form.allow(text, tokens.strings)) if yes]
        index = chance.choice(allowed)  # IndexError: nowhere to go
        if index == tokens.end:
            return start + text
        text += tokens.strings[index]
    raise AssertionError("it does not end")


@pytest.mark.parametrize("habits", [Habits(), Habits(square=8), Habits(square=4, sections=2)])
def test_whatever_is_drawn_under_the_rules_has_whole_bars_and_an_end(habits: Habits) -> None:
    tokens = tokenizer()
    rules = Rules(tokens, bars=12, habits=habits)
    for seed in range(60):
        text = walk(rules, tokens, seed)
        tune = tune_from(text)
        whole, bars = music.complete_bars(tune)
        assert 0 < whole == bars <= 18, text
        assert text.endswith(("|]", ":|"))
        assert [bar.beats for bar in tune_from(plain(tune)).measures] == [bar.beats for bar in tune.measures]
        lengths = model.sections_of(tune)
        assert not habits.square or all(count in (4, 8) for count in lengths), text
        assert len(lengths) >= habits.sections or bars >= rules.bars, text


def test_what_nearly_all_tunes_do_becomes_a_habit() -> None:
    parts = f"F#m\n{'FGAB|' * 3}FGAB:|{'FGAB|' * 3}FGAF", "G\n" + "GABc|" * 8, "A\nABcA"
    two, away, one = (f"M:2/4\nL:1/8\nK:{part}|]" for part in parts)
    assert model.habits_of([two] * 9 + [away]) == Habits(square=4, sections=2, home=True)
    assert model.habits_of([two, away]) == Habits(square=4), "half of them"
    assert model.habits_of([two, one]) == Habits(home=True)
    assert model.habits_of([]) == model.habits_of(["no tune"]) == Habits()


def test_the_rules_let_real_tunes_through_and_stop_what_does_not_fit() -> None:
    tokens = tokenizer()
    for text in (PLAIN, plain(music.parse(REEL))):
        form, so_far = Form(Rules(tokens, bars=24)), ""
        for index in [*tokens.encode(text), tokens.end]:
            assert form.allow(so_far, tokens.strings)[index], (so_far[-12:], tokens.strings[index])
            so_far += tokens.strings[index]

    def after(text: str) -> set[str]:
        flags = Form(Rules(tokens, bars=24), text).allow("", tokens.strings)
        return {name for name, yes in zip(tokens.strings, flags, strict=True) if yes}

    head = "M:6/8\nL:1/8\nK:Em\n"
    assert after("M:6/8\nL:1/8\n") == {"K:Em\n", "K:D\n", "K:G\n"}
    assert not {"|", "|]"} & after(f"{head}EFGEF") and "|" in after(f"{head}EFGEFG")
    assert "|" in after(f"{head}B"), "an upbeat"
    assert ":|" in after(f"{head}B|EFGEFG|EFGEF") and ":|" not in after(f"{head}EFGEFG|EFGEF")
    assert ">" not in after(f"{head}EFGEFG") and ">" in after(f"{head}EFGEF") | after(f"{head}EFGE")
    assert "(3" not in after(f"{head}EFGEFG") and after(f"{head}EFG3-") == {"G"}
    assert after(f"{head}EFG(3E2F") == {"2"}, "the notes of a triplet are of one length"
    assert after(f"{head}EFGEFG|]") == {""}


def tunes(ctx: RunContext) -> Iterator[Item]:
    def one(number: int) -> str:
        chance = random.Random(number)
        bars = ["".join(chance.choice("DEFGABcd") for _ in range(6)) for _ in range(8)]
        return f"X:{number}\nM:6/8\nL:1/8\nK:G\n{'|'.join(bars[:4])}:|\n{'|'.join(bars[4:])}|]\n"

    for number in range(30):
        yield Item(media="text", text=one(number), split="heldout" if number % 4 == 0 else "train")
    data = music.midi(music.piece_of(music.parse(REEL)))
    yield Item(media="audio", files=(ctx.put(data, name="reel.mid", mime="audio/midi"),))
    yield Item(media="text", text="no tune at all", origin="letter.txt")
    yield Item(media="text", text=one(1), split="heldout")  # known from training


def component(**values: object) -> model.Component:
    return model.Component(config.parse(model.Config, {"data": "x", **model.TINY, **values}, where="test"))


def test_tunes_are_learned_and_come_as_sound_midi_abc_and_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "JUDGED", 4)
    ctx = RunContext(tmp_path)
    figures = component(steps=4).fit(ItemList(tunes(ctx)), ctx)
    assert figures["train_documents"] == 23 and figures["left_out"] == 1
    assert [text for text in ctx.warnings if "letter.txt" in text]
    assert figures["whole_bars"] == 1.0 > figures["whole_bars_without_rules"]
    assert figures["several_sections_of_training"] > 0.9
    assert figures["heldout_bits_per_token"] < 9 and 3 < figures["baseline_unigram_bits_per_token"] < 6
    loaded = component().load(ctx.out, device=DEVICE, threads=1)
    assert loaded.rules.habits == Habits(square=4, sections=2)
    (item,) = loaded.sample([5], ctx)
    assert [file.name for file in item.files] == ["tune.wav", "tune.mid", "tune.abc", "score.png"]
    mimes = [sniff.sniff(ctx.path(file).read_bytes()[: sniff.HEAD_BYTES]).mime for file in item.files]
    assert mimes == ["audio/wav", "audio/midi", "text/vnd.abc", "image/png"] == [file.mime for file in item.files]
    piece = music.read_midi(ctx.path(item.files[1]).read_bytes())
    tune = music.parse(ctx.path(item.files[2]).read_text("utf-8"))
    assert len(piece.notes) == len(music.piece_of(tune).notes) and item.meta["seconds"] > 1
    assert (item.meta["key"], item.meta["bars"]) == (tune.key, len(tune.measures))
    with pytest.raises(UserError, match="as long as its bars"):
        list(loaded.sample([5], ctx, seconds=3.0))
    started = loaded.texts([1, 2], start="M:6/8\nL:1/8\nK:G\nGAB")
    assert all(text.startswith("M:6/8\nL:1/8\nK:G\nGAB") for text in started) and started[0] != started[1]
    exported = component().export(ctx.out, tmp_path / "export")
    assert {path.name for path in exported} >= {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_checkpoint_of_before_there_were_more_habits_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "JUDGED", 1)
    ctx = RunContext(tmp_path)
    component(steps=1).fit(ItemList(tunes(ctx)), ctx)
    path = ctx.out / "intaglio.json"
    facts = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({key: value for key, value in facts.items() if key not in ("sections", "home")}))
    assert component().load(ctx.out, device=DEVICE, threads=1).rules.habits == Habits(square=4)


def test_a_tune_that_shall_end_on_the_note_of_its_key_is_drawn_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "JUDGED", 1)
    monkeypatch.setattr(model, "TRIES", 100)
    ctx = RunContext(tmp_path)
    component(steps=1).fit(ItemList(tunes(ctx)), ctx)
    player = component().load(ctx.out, device=DEVICE, threads=1)
    anyhow = player.texts(range(6))
    player.rules.habits = Habits(square=4, sections=2, home=True)
    home = player.texts(range(6))
    assert model.shares_of(home)["ends_on_its_key"] == 1.0 > model.shares_of(anyhow)["ends_on_its_key"]
    at_once = [a == b for a, b in zip(anyhow, home, strict=True) if model.shares_of([a])["ends_on_its_key"]]
    assert all(at_once) and player.texts([4])[0] == home[4], "each follows from its own seed"


def test_no_tune_is_refused_with_what_to_do(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    with pytest.raises(UserError, match="no tune") as caught:
        component().fit(ItemList([Item(media="text", text="words")]), ctx)
    assert ".abc" in str(caught.value.fix)


def test_more_tunes_are_foretold_to_take_longer() -> None:
    here = Machine(device="cpu", threads=2, gflops=50.0, bf16_gflops=80.0, memory_bytes=8 << 30)
    few, many = (component(steps=None).estimate(Size(100, size), here) for size in (30_000, 3_000_000))
    assert few.seconds < many.seconds and few.bytes <= many.bytes


def test_tunes_in_more_keys_take_longer_and_are_foretold_so() -> None:
    machine = Machine("cpu", 1, 50.0, 100.0, 8 << 30)
    plain, in_keys = (component(steps=None, transpose=reach).estimate(Size(40, 40_000), machine) for reach in (0, 2))
    assert in_keys.seconds - 30 > 3 * (plain.seconds - 30)  # 30 of them are for judging, whatever the keys
