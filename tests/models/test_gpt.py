"""The GPT: transformers gives equal logits, bits repeat and resume, thin archives are said, figures are right."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from intaglio.core.contracts import Item, Machine, Sampling, Size
from intaglio.core.errors import UserError
from intaglio.models import _writer, gpt
from intaglio.models._corpus import prepare
from intaglio.models._pretrain import bytes_of, decide
from intaglio.models._tokenizers import (
    TextTokenizer,
    bpe_tokenizer,
    byte_tokenizer,
    character_tokenizer,
    choose_kind,
    count_characters,
)
from intaglio.models._writer import Writer
from intaglio.nn import loop
from intaglio.nn.device import machine
from tests import forked
from tests.support import DEVICE, ItemList, RunContext, on_cpu

WORDS = (
    "the garden gate stands open and an old wind walks through reeds where water keeps its 春眠不覺曉 處處聞".split()
)


def poems(count: int, *, seed: int = 0) -> list[Item]:
    """Lines of words drawn at random, every tenth poem held out."""
    draw = random.Random(seed)
    lines = ["\n".join(" ".join(draw.choices(WORDS, k=5)) for _ in range(4)) for _ in range(count)]
    return [
        Item(media="text", text=text, split="heldout" if n % 10 == 9 else "train", license="CC0-1.0")
        for n, text in enumerate(lines)
    ]


def fit(root: Path, items: Sequence[Item] | None = None, **config: Any) -> tuple[Writer, dict[str, Any], RunContext]:
    ctx = RunContext(root)
    component = gpt.Component(gpt.Config(data=("texts",), **{**gpt.TINY, **config}))
    metrics = dict(component.fit(ItemList(poems(60) if items is None else items), ctx))
    return component.load(ctx.out, device=DEVICE, threads=1), metrics, ctx


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Writer, dict[str, Any], RunContext]:
    return fit(tmp_path_factory.mktemp("gpt"), steps=60, context=64)


# ------------------------------------------------------------ formats others read
@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_transformers_gives_equal_logits_and_text(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    writer, _, ctx = fit(tmp_path, steps=30, context=64, tokenizer=kind)
    files = gpt.Component(gpt.Config(data=("x",))).export(ctx.out, tmp_path / "exported")
    assert {path.name for path in files} == {*gpt.EXPORTED, "model.gguf"}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    ids = torch.tensor([tokenizer("the old wind\nwalks 春")["input_ids"]])
    assert ids[0].tolist() == [0, *writer.tokenizer.encode("the old wind\nwalks 春")]
    with torch.no_grad():
        assert (theirs(ids).logits - writer.model(ids.to(DEVICE)).cpu()).abs().max() < 1e-4
    written = theirs.generate(ids, do_sample=False, max_new_tokens=20)[0, ids.shape[1] :]
    mine = writer.complete(["the old wind\nwalks 春"], seeds=[0], sampling=Sampling(max_tokens=20, temperature=0))
    assert tokenizer.decode(written, skip_special_tokens=True) == mine[0].text


TEXTS = (
    "the gate",
    "",
    "春眠 x\r\n\ty",
    "émoji 😀 \x00 ж",
    " lead",
    "<|end|> and <0x41>",
    "12345 it's",
    "a\u3000z\ufeff",
)


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_tokenizers_round_trip_here_and_in_transformers(tmp_path: Path, kind: str) -> None:
    from transformers import AutoTokenizer

    texts = [item.text for item in poems(40)]
    if kind == "byte":
        made = byte_tokenizer()
        assert made.size == 257 and made.encode("春a") == [1 + byte for byte in "春a".encode()]
    else:
        made = character_tokenizer(count_characters(texts)) if kind == "char" else bpe_tokenizer(iter(texts), size=400)
    made.save(tmp_path, context=64)
    again, theirs = TextTokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert again.kind == kind and again.size == made.size == len(again.strings)
    assert theirs.eos_token_id == theirs.bos_token_id == TextTokenizer.end
    for text in TEXTS:
        ids = made.encode(text)
        assert made.decode(ids) == text == again.decode(again.encode(text))
        if "<" not in text:  # transformers takes the name of the end token, written out in a text, for the token
            assert theirs(text, add_special_tokens=False)["input_ids"] == ids
            assert theirs.decode(ids) == text
    assert made.decode(made.encode("a\ud800b")) == "a?b"
    for index, string in enumerate(made.strings):
        assert string == made.decode([index])


def test_damaged_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match="no readable tokenizer"):
        TextTokenizer.load(tmp_path)


def test_kind_of_tokens_follows_the_texts() -> None:
    assert choose_kind(count_characters(["short"])) == "char"
    assert choose_kind(count_characters(["english words " * 200_000])) == "bpe"
    assert choose_kind(count_characters(["春眠不覺曉" * 500_000])) == "char"


# ------------------------------------------------------------ training and figures
def test_learns_and_tells_how_well(made: tuple[Writer, dict[str, Any], RunContext]) -> None:
    writer, metrics, ctx = made
    assert metrics["heldout_bits_per_char"] < 0.7 * metrics["baseline_unigram_bits_per_char"]
    heldout = [item.text for item in poems(60) if item.split == "heldout"]
    nats, characters = sum(writer.nats(heldout)), sum(map(len, heldout))
    size_bytes = len("".join(heldout).encode())
    assert metrics["heldout_chars"] == characters
    assert metrics["heldout_nats_per_char"] == pytest.approx(nats / characters, abs=1e-4)
    assert metrics["heldout_bits_per_byte"] == pytest.approx(nats / size_bytes / math.log(2), abs=1e-4)
    assert metrics["parameters"] == sum(p.numel() for p in writer.model.parameters())
    assert metrics["steps"] == 60 and metrics["tokenizer"] == "char" and json.dumps(metrics)
    assert ctx.previews and ctx.metrics["curve"][-1][0] == 60 and (ctx.out / "curve.csv").exists()


def test_unigram_baseline_is_the_formula(tmp_path: Path) -> None:
    items = [Item(media="text", text="aab"), Item(media="text", text="ac", split="heldout")]
    corpus = prepare(ItemList(items), RunContext(tmp_path), kind="char")
    assert corpus.unigram_nats == pytest.approx(-(math.log(3 / 6) + math.log(1 / 6)) / 2)
    assert corpus.train.tolist() == [*corpus.tokenizer.encode("aab"), 0]


def test_nats_are_the_chain_rule_and_slide(made: tuple[Writer, dict[str, Any], RunContext]) -> None:
    writer = made[0]
    text = "the garden gate stands"
    ids = torch.tensor([[0, *writer.tokenizer.encode(text)]], device=DEVICE)
    with torch.no_grad():
        expected = -writer.model(ids)[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).sum()
    long = " ".join(item.text for item in poems(5))
    one, none, other = writer.nats([text, "", long])
    assert one == pytest.approx(float(expected), rel=1e-5) and none == 0.0
    assert other / len(long) == pytest.approx(made[1]["heldout_nats_per_char"], rel=0.2)
    assert writer.nats([long])[0] == pytest.approx(other, rel=1e-5)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    one, two = (fit(tmp_path / name)[2] for name in ("one", "two"))
    names = sorted(path.name for path in one.out.iterdir())
    assert names == sorted([*gpt.EXPORTED, "curve.csv", "intaglio.json"])
    for name in names:
        assert (one.out / name).read_bytes() == (two.out / name).read_bytes(), name


@on_cpu  # on a GPU losses are looked at every sixteenth step
def test_first_twenty_steps_are_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A golden curve in this machine's fast precision, at a thirtieth of the usual rates: rounding stays small."""
    usual = loop.Plan.rate
    monkeypatch.setattr(loop.Plan, "rate", lambda plan, step: 0.03 * usual(plan, step))
    _, _, ctx = fit(tmp_path, steps=20, context=32)
    losses = [point[1] for point in ctx.metrics["curve"]]
    assert losses == pytest.approx(GOLDEN_LOSSES, abs=0.02), [round(value, 3) for value in losses]


GOLDEN_LOSSES: list[float] = [
    6.142,
    5.788,
    5.396,
    4.988,
    4.689,
    4.341,
    4.109,
    3.852,
    3.539,
    3.394,
    3.123,
    2.949,
    2.792,
    2.693,
    2.624,
    2.449,
    2.402,
    2.236,
    2.237,
    2.249,
]

LOADED = """
import sys
from pathlib import Path
sys.path[:0] = ["src", "."]
from tests.models.test_gpt import fit
fit(Path(sys.argv[1]), steps=2, context=16)
print([name for name in ("torch._dynamo", "torch._inductor", "transformers", "sympy") if name in sys.modules])
"""


def test_a_training_loads_no_compiler(tmp_path: Path) -> None:
    """``torch.use_deterministic_algorithms`` would: a second of every short training."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", LOADED, str(tmp_path)]
    printed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    assert printed.stdout.strip() == "[]"


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = ["src", "."]
from tests.models.test_gpt import fit
fit(Path(sys.argv[1]), steps=40, context=32)
"""


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    fit(tmp_path / "whole", steps=40, context=32)
    process = forked.start(KILLED, str(tmp_path / "cut"))
    good = tmp_path / "cut" / "work" / "good.safetensors"
    first = None
    while process.poll() is None:  # until the second evaluation was kept: in the middle of training
        try:
            now = good.stat().st_mtime_ns
        except FileNotFoundError:
            now = None
        if first is None:
            first = now
        elif now != first:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed before it ended"
    _, metrics, ctx = fit(tmp_path / "cut", steps=40, context=32)
    for path in (tmp_path / "whole" / "out").iterdir():
        assert path.read_bytes() == (ctx.out / path.name).read_bytes(), path.name


# ------------------------------------------------------------ few texts
def test_few_texts_are_gone_over_eight_times_and_hold_weights_small() -> None:
    config = gpt.Config(data=("x",), size="tiny")
    few, some, many = (decide(config, vocab=300, tokens=n, documents=n // 1000) for n in (20_000, 200_000, 4_000_000))
    for run, tokens in ((few, 20_000), (some, 200_000)):
        assert run.steps * run.tokens_per_step <= 8 * tokens
    assert few.steps * few.tokens_per_step > 7 * 20_000
    assert few.decay == 1.0 > some.decay > many.decay > 0.0
    in_keys = decide(config, vocab=300, tokens=20_000, documents=20, keys=5)
    assert in_keys.steps > 4 * few.steps and in_keys.decay < few.decay
    assert decide(config, vocab=300, tokens=20_000, documents=20, start=few.shape).decay == 0.0


def test_what_only_gets_worse_is_stopped_early(tmp_path: Path) -> None:
    """Random words cannot be foretold; after a few passes they are known by heart, and unseen ones ever less."""
    _, metrics, ctx = fit(tmp_path, poems(12), steps=400, context=32)
    assert metrics["steps"] < 400 and metrics["best_step"] < metrics["steps"]
    (said,) = [warning for warning in ctx.warnings if "stopped early" in warning]
    assert f"at step {metrics['steps']}" in said


# ------------------------------------------------------------ thin archives
@pytest.mark.parametrize("texts", [["短", "詩", "一"], ["a"], ["one line", "two lines", "three"]])
def test_a_few_short_texts_are_enough_to_run(tmp_path: Path, texts: list[str]) -> None:
    writer, metrics, ctx = fit(tmp_path, [Item(media="text", text=text) for text in texts], context=None, steps=5)
    assert any("unknown" in warning for warning in ctx.warnings) and any("only" in w for w in ctx.warnings)
    assert metrics["heldout_bits_per_char"] is None and metrics["steps"] == 5
    assert len(writer.complete(["", "x"], seeds=[1, 2], sampling=Sampling(max_tokens=30))) == 2


@pytest.mark.parametrize(
    "items", [[], [Item(media="text", text=" \n\t")], [Item(media="text", text="only held out", split="heldout")]]
)
def test_no_text_is_refused(tmp_path: Path, items: list[Item]) -> None:
    with pytest.raises(UserError, match="no text to learn from") as caught:
        fit(tmp_path, items)
    assert caught.value.fix


def test_strange_texts_are_no_trouble(tmp_path: Path) -> None:
    texts = ["\x00\x01", "a\ud800b", "<|end|>", "x" * 5_000, "\u202e\u200f", "😀" * 50]
    writer, _, _ = fit(tmp_path, [Item(media="text", text=text) for text in texts])
    assert len(writer.nats(texts)) == len(texts)


def test_length_of_training_follows_size_and_data() -> None:
    def steps(size: str, tokens: int) -> gpt.Run:
        return gpt.decide(gpt.Config(data=("x",), size=size), vocab=400, tokens=tokens, documents=tokens // 100 + 1)  # type: ignore[arg-type]

    assert steps("tiny", 1_000).steps < steps("tiny", 50_000).steps <= steps("tiny", 5_000_000).steps
    assert steps("tiny", 10_000_000) == steps("tiny", 10_000_000)
    long, short = (gpt.decide(gpt.Config(data=("x",)), vocab=400, tokens=10**6, documents=n) for n in (10, 10**5))
    assert short.shape.context < long.shape.context == gpt.SIZES["small"].context
    machine = Machine(device="cpu", threads=2, gflops=150.0, bf16_gflops=400.0, memory_bytes=8 << 30)
    figures = [gpt.Component(gpt.Config(data=("x",), size=s)).estimate(Size(1_000, 10**6), machine) for s in gpt.SIZES]  # type: ignore[arg-type]
    assert figures[0].seconds < figures[1].seconds < figures[2].seconds
    assert figures[0].seconds < 180 and figures[0].bytes < figures[2].bytes


def test_windows_see_every_token_in_each_pass() -> None:
    tokens = np.arange(1_000, dtype=np.uint16)
    seen = torch.cat([gpt.windows(tokens, step, batch=4, context=8, seed=1)[:, :-1].flatten() for step in range(32)])
    assert len(set(seen.tolist())) > 990
    assert gpt.windows(np.array([5, 6], dtype=np.uint16), 0, batch=1, context=8, seed=1).shape == (1, 9)


# ------------------------------------------------------------ writing
def test_sampled_items_repeat_and_tell_their_seed(made: tuple[Writer, dict[str, Any], RunContext]) -> None:
    writer, _, ctx = made
    items = list(writer.sample([1, 2, 3], ctx))
    assert [item.meta["seed"] for item in items] == [1, 2, 3] and len({item.text for item in items}) == 3
    (again,) = writer.sample([2], ctx)
    assert again.id == items[1].id and again.media == writer.makes == "text"


def test_stop_words_end_a_text_and_are_cut_off(made: tuple[Writer, dict[str, Any], RunContext]) -> None:
    writer = made[0]
    seeds = range(20)
    made_free = writer.complete(["the"] * 20, seeds=seeds, sampling=Sampling(max_tokens=60))
    seed, free = next((seed, each) for seed, each in zip(seeds, made_free, strict=True) if len(each.text) > 20)
    word = free.text[10:13]  # at its first occurrence, wherever that is, the text ends
    held = writer.complete(["the"], seeds=[seed], sampling=Sampling(max_tokens=60, stop=(word, "")))[0]
    assert held.finish == "stop", held
    assert held.text == free.text[: free.text.index(word)]
    assert free.nats is not None and held.nats is not None and held.nats < free.nats


class OnlyVowels:
    """Allows ``a`` and ``e``, then, from five characters on, the end."""

    def allow(self, text: str, vocabulary: Sequence[str]) -> Sequence[bool]:
        return [token == "" if len(text) >= 5 else token in ("a", "e") for token in vocabulary]


class Nothing:
    def allow(self, text: str, vocabulary: Sequence[str]) -> Sequence[bool]:
        return [False] * len(vocabulary)


def test_constraints_are_kept(made: tuple[Writer, dict[str, Any], RunContext]) -> None:
    sampling = Sampling(max_tokens=20)
    vowels, nothing, free = made[0].complete(
        ["", "", ""], seeds=[1, 2, 3], sampling=sampling, constraints=[OnlyVowels(), Nothing(), None]
    )
    assert len(vowels.text) == 5 and set(vowels.text) <= {"a", "e"} and vowels.finish == "stop"
    assert nothing.text == "" and nothing.finish == "constraint" and free.text
    with pytest.raises(ValueError, match="one seed and constraint a prompt"):
        made[0].complete(["", ""], seeds=[1], sampling=sampling)


def test_half_a_character_is_not_shown(tmp_path: Path) -> None:
    writer, _, _ = fit(tmp_path, [Item(media="text", text="日本語" * 50)], tokenizer="bpe", steps=60, context=32)
    assert "\ufffd" not in writer.complete([""], seeds=[1], sampling=Sampling(max_tokens=1, temperature=0))[0].text


def streamed(writer: Any, prompt: str, **more: Any) -> tuple[list[str], Any]:
    """The pieces, and the completion the generator returned."""
    stream, pieces = writer.stream(prompt, **more), []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def test_a_stream_is_the_text_as_it_is_written(made: tuple[Writer, dict[str, Any], RunContext]) -> None:
    writer = made[0]
    free = writer.complete(["the"], seeds=[6], sampling=Sampling(max_tokens=60))[0].text
    for stop in ((), (free[14:17],), (free[14:18] + "?", free[-3:])):
        sampling = Sampling(max_tokens=60, stop=stop, frequency_penalty=0.2 if not stop else 0.0)
        (whole,) = writer.complete(["the"], seeds=[6], sampling=sampling)
        pieces, completion = streamed(writer, "the", seed=6, sampling=sampling)
        assert "".join(pieces) == whole.text and completion == whole
        assert len(pieces) > 5 and all(pieces)
    pieces, completion = streamed(writer, "", seed=1, sampling=Sampling(max_tokens=20), constraint=OnlyVowels())
    assert len("".join(pieces)) == 5 and completion.finish == "stop"
    pieces, completion = streamed(writer, "", seed=1, sampling=Sampling(max_tokens=20), constraint=Nothing())
    assert not pieces and completion.finish == "constraint"


def test_a_writer_trained_on_writes_with_its_new_weights(tmp_path: Path) -> None:
    """It keeps its weights laid out between calls; what it gives is that of a new writer all the same."""
    writer, _, _ = fit(tmp_path, steps=4)
    sampling = Sampling(max_tokens=30)
    before = writer.complete(["the", ""], seeds=[1, 2], sampling=sampling)
    assert writer.complete(["the", ""], seeds=[1, 2], sampling=sampling) == before
    with torch.no_grad():
        writer.model.gain.mul_(3.0)
    now = writer.complete(["the", ""], seeds=[1, 2], sampling=sampling)
    fresh = Writer(writer.model, writer.tokenizer, device=DEVICE, threads=1, usual_tokens=9)
    assert now != before and now == fresh.complete(["the", ""], seeds=[1, 2], sampling=sampling)


@on_cpu
def test_whoever_writes_much_gets_compiled_calls_and_the_same_texts(
    made: tuple[Writer, dict[str, Any], RunContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(_writer, "WORTH_COMPILING", 25)
    sampling = Sampling(max_tokens=20)
    for way, prompts in (("alone", ["the"]), ("together", ["the", ""])):
        writer = Writer(made[0].model, made[0].tokenizer, device=DEVICE, threads=1, usual_tokens=9)
        found, laid_out = [], []
        for _ in range(3):
            found.append(writer.complete(prompts, seeds=[1, 2][: len(prompts)], sampling=sampling))
            assert writer._laid_out is not None
            laid_out.append((writer._laid_out.alone is not None, writer._laid_out.between is not None))
        assert laid_out == [(False, False)] * 2 + [(way == "alone", way == "together")]
        assert len({tuple(made.text for made in some) for some in found}) == 1


def test_several_threads_write_with_one_writer(made: tuple[Writer, dict[str, Any], RunContext]) -> None:
    sampling = Sampling(max_tokens=30)
    alone = [made[0].complete(["the"], seeds=[seed], sampling=sampling)[0].text for seed in range(6)]
    with machine(device=DEVICE, threads=1), ThreadPoolExecutor(3) as pool:  # torch's settings are the process's
        found = pool.map(lambda seed: made[0].complete(["the"], seeds=[seed], sampling=sampling)[0].text, range(6))
        assert list(found) == alone


def test_a_stream_shows_whole_characters_and_ends_when_closed(tmp_path: Path) -> None:
    writer, _, _ = fit(tmp_path, [Item(media="text", text="日本語" * 50)], tokenizer="byte", steps=60, context=32)
    sampling = Sampling(max_tokens=30, temperature=0)
    (whole,) = writer.complete([""], seeds=[1], sampling=sampling)
    pieces, _ = streamed(writer, "", seed=1, sampling=sampling)
    assert "".join(pieces) == whole.text and 3 <= len(pieces) < 20, "some 3 bytes a character, one a token"
    stream = writer.stream("", seed=1, sampling=Sampling(max_tokens=10**6, temperature=0))
    first = next(stream)
    stream.close()
    assert whole.text.startswith(first) and list(stream) == []


def test_damaged_checkpoint_is_said(made: tuple[Writer, dict[str, Any], RunContext], tmp_path: Path) -> None:
    component = gpt.Component(gpt.Config(data=("x",)))
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        for source in made[2].out.iterdir():
            (tmp_path / source.name).write_bytes(source.read_bytes())
        (tmp_path / name).write_bytes(b"{")
        with pytest.raises(UserError, match="cannot be read"):
            component.load(tmp_path, device=DEVICE, threads=1)


def test_a_tokenizer_of_another_model_is_said(made: tuple[Writer, dict[str, Any], RunContext], tmp_path: Path) -> None:
    for source in made[2].out.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    character_tokenizer(count_characters(["春眠不覺曉"])).save(tmp_path, context=16)
    with pytest.raises(UserError, match="vocab_size is .*, but tokenizer.json is 262"):
        gpt.Component(gpt.Config(data=("x",))).load(tmp_path, device=DEVICE, threads=1)


def test_the_memory_of_a_training_is_that_of_one_pass(tmp_path: Path) -> None:
    """Long windows take more; many of them only where a device takes them at once."""
    usual, long = (
        decide(gpt.Config(data="x", size="base", context=context), vocab=4_096, tokens=10**8, documents=10**4)
        for context in (512, 32_768)
    )
    assert bytes_of(usual, "cpu") < bytes_of(usual, "cuda") < bytes_of(long, "cpu")
    assert bytes_of(usual, "cpu") < 4e9


def test_texts_that_are_all_the_same_are_said(tmp_path: Path) -> None:
    _, _, ctx = fit(tmp_path / "same", poems(1) * 3, steps=2)
    assert "the texts are all the same" in ctx.warnings
    _, _, ctx = fit(tmp_path / "one", poems(1), steps=2)
    assert "the texts are all the same" not in ctx.warnings
