"""Fine-tuning: PEFT and transformers read what is written, only answers are learned, bits repeat, pickles refused."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("peft")

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from intaglio.core.config import parse
from intaglio.core.contracts import Item, Machine, Sampling, Size
from intaglio.core.errors import UserError
from intaglio.models import _adapter, finetune, gpt
from intaglio.models._given_writer import GivenWriter, special_ids, token_nats
from intaglio.models._lessons import batch, chat_document, conversation, plain_document
from intaglio.models._tokenizers import END, bpe_tokenizer
from tests import forked
from tests.support import DEVICE, ItemList, RunContext

WORDS = "the garden gate stands open and an old wind walks through reeds where water keeps its name".split()
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def texts(count: int, *, seed: int = 0) -> list[Item]:
    draw = random.Random(seed)
    lines = ["\n".join(" ".join(draw.choices(WORDS, k=5)) for _ in range(3)) for _ in range(count)]
    return [Item(media="text", text=x, split="heldout" if n % 5 == 4 else "train") for n, x in enumerate(lines)]


def chats(count: int) -> list[Item]:
    made = []
    for n in range(count):
        word = WORDS[n % len(WORDS)]
        said = [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": f"{word} {word}"}]
        split = "heldout" if n % 5 == 4 else "train"
        made.append(Item(media="text", text=f"{word} {n}", split=split, meta={"messages": said}))
    return made


def given(folder: Path, kind: str = "qwen3", *, chat: bool = False) -> Path:
    """A small random model with a byte-level tokenizer, saved as others save theirs."""
    torch.manual_seed(3)
    made = bpe_tokenizer((item.text for item in texts(40)), size=400).tokenizer
    extra = ["<|im_start|>", "<|im_end|>"] if chat else []
    end = "<|im_end|>" if chat else END
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=END, eos_token=end, pad_token=END)
    tokenizer.add_special_tokens({"additional_special_tokens": extra})
    if chat:
        tokenizer.chat_template = CHATML
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    long = {"num_key_value_heads": 2, "max_position_embeddings": 64}
    model: Any = {
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**ids, **shape, **long, head_dim=8, tie_word_embeddings=True)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**ids, **shape, **long)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**ids, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
    }[kind]()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def fit(
    root: Path, items: list[Item] | None = None, *, project: Path | None = None, **config: Any
) -> tuple[GivenWriter, dict[str, Any], RunContext]:
    ctx = RunContext(root, project=project)
    if not (ctx.project / "given").exists():
        given(ctx.project / "given", chat=bool(items and items[0].meta))
    values = {"data": "texts", **finetune.TINY, **config}
    if values.get("method") == "full":
        del values["rank"]  # which says nothing there
    component = finetune.Component(parse(finetune.Config, values, where="test"))
    metrics = dict(component.fit(ItemList(texts(40) if items is None else items), ctx))
    return component.load(ctx.out, device=DEVICE, threads=1), metrics, ctx


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[GivenWriter, dict[str, Any], RunContext]:
    return fit(tmp_path_factory.mktemp("lora"), steps=60, context=64, learning_rate=0.01)


# ------------------------------------------------------------ formats others read
@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_peft_and_transformers_give_equal_logits(tmp_path: Path, kind: str) -> None:
    from peft import PeftModel

    folder = given(RunContext(tmp_path).project / "given", kind)
    writer, _, ctx = fit(tmp_path, steps=6, learning_rate=0.02)
    ids = torch.tensor([[0, 70, 71, 300, 12]])
    ours = writer.model(ids.to(DEVICE)).logits.float().cpu()
    exact = {"atol": 1e-4, "rtol": 1e-4} if DEVICE == "cpu" else {"atol": 0.03, "rtol": 0.03}  # bfloat16 on a GPU
    with _adapter.quiet():
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), ctx.out).eval()
    torch.testing.assert_close(adapted(ids).logits, ours, **exact)
    assert (AutoModelForCausalLM.from_pretrained(folder)(ids).logits - ours).abs().max() > 0.01, "it learned something"
    config = finetune.Config(data=("x",), **finetune.TINY)
    files = finetune.Component(config).export(ctx.out, tmp_path / "to")
    assert {"adapter_config.json", "adapter_model.safetensors", "model.safetensors"} <= {path.name for path in files}
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "to" / "merged")
    torch.testing.assert_close(merged(ids).logits, ours, **exact)
    assert AutoTokenizer.from_pretrained(tmp_path / "to" / "merged")("the gate")["input_ids"]


def test_full_fine_tuning_is_a_model_of_its_own(tmp_path: Path) -> None:
    writer, metrics, ctx = fit(tmp_path, method="full", steps=30, context=64, learning_rate=3e-3)
    assert metrics["trained_parameters"] == metrics["parameters"] and not (ctx.out / "base").exists()
    shutil.rmtree(ctx.project / "given")
    alone = AutoModelForCausalLM.from_pretrained(ctx.out)
    ids = torch.tensor([[0, 70, 71]])
    torch.testing.assert_close(alone(ids).logits, writer.model(ids.to(DEVICE)).logits.cpu())
    assert metrics["heldout_bits_per_char"] < metrics["baseline_given_bits_per_char"]


def test_our_own_gpt_can_be_tuned_further(tmp_path: Path) -> None:
    own = RunContext(tmp_path / "own")
    component = gpt.Component(gpt.Config(data=("texts",), size="tiny", context=64, steps=4))  # much is left to learn
    component.fit(ItemList(texts(60)), own)
    ctx = RunContext(tmp_path / "tuned")
    component.export(own.out, ctx.project / "given")
    before = component.load(own.out, device=DEVICE, threads=1)
    new = texts(40, seed=9)
    writer, metrics, _ = fit(ctx.root, new, steps=60, context=64, learning_rate=0.003)
    judged = [item.text for item in new if item.split == "heldout"][1::2]
    bits = sum(before.nats(judged)) / math.log(2) / sum(map(len, judged))
    assert metrics["baseline_given_bits_per_char"] == pytest.approx(bits, rel=1e-3), "equal figure by our own reader"
    assert metrics["verdict"] == "better" and writer.context_tokens == 64


# ------------------------------------------------------------ figures
def test_figures_are_those_of_the_model(made: tuple[GivenWriter, dict[str, Any], RunContext]) -> None:
    writer, metrics, _ = made
    judged = [item.text for item in texts(40) if item.split == "heldout"][1::2]
    assert metrics["heldout_chars"] == sum(map(len, judged)) and metrics["heldout_documents"] == len(judged)
    bits = sum(writer.nats(judged)) / math.log(2) / metrics["heldout_chars"]
    assert metrics["heldout_bits_per_char"] == pytest.approx(bits, rel=1e-3)
    assert metrics["verdict"] == "better"
    mean, low, high = metrics["change_bits_per_char"]
    assert low <= mean <= high < 0
    assert mean == pytest.approx(metrics["heldout_bits_per_char"] - metrics["baseline_given_bits_per_char"], abs=2e-4)


def test_nats_of_long_texts_slide(made: tuple[GivenWriter, dict[str, Any], RunContext]) -> None:
    """Each token is scored once, the first window's as by one plain forward pass."""
    writer = made[0]
    line = np.array([writer.start, *np.random.default_rng(0).integers(5, 300, 200)])
    (nats,) = token_nats(writer.model, [line], context=64)
    logits = writer.model(torch.from_numpy(line[:64])[None].to(DEVICE)).logits.float().log_softmax(-1)[0].cpu()
    plain = -logits[torch.arange(64), torch.from_numpy(line[1:65])]
    np.testing.assert_allclose(nats[:64], plain.detach().numpy(), rtol=1e-4)
    assert len(nats) == 200 and (nats > 0).all()


def test_nothing_held_out_is_said(tmp_path: Path) -> None:
    items = [item for item in texts(10) if item.split == "train"]
    _, metrics, ctx = fit(tmp_path, items)
    assert metrics["verdict"] == "unknown" and metrics["heldout_bits_per_char"] is None
    assert any("held out" in warning for warning in ctx.warnings)


# ------------------------------------------------------------ conversations
def test_conversations_are_told_by_their_fields() -> None:
    alpaca = Item(media="text", text="x", meta={"instruction": "add", "input": "1 2", "output": "3"})
    assert conversation(alpaca) == [
        {"role": "user", "content": "add\n\n1 2"},
        {"role": "assistant", "content": "3"},
    ]
    shared = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}
    assert [m["role"] for m in conversation(Item(media="text", text="x", meta=shared)) or []] == ["user", "assistant"]
    assert conversation(Item(media="text", text="plain", meta={"title": "x"})) is None


def test_only_answers_are_marked(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(given(tmp_path, chat=True))
    said = [{"role": "system", "content": "be brief"}]
    for word in ("gate", "water"):
        said += [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": f"{word} is said"}]
    document = chat_document(said, tokenizer)
    assert document is not None
    assert tokenizer.decode(document.ids) == tokenizer.apply_chat_template(said, tokenize=False)
    learned = [i for i, mark in zip(document.ids, document.marks, strict=True) if mark == 1]
    assert tokenizer.decode(learned) == "gate is saidwater is said" and document.characters == len(
        "gate is saidwater is said"
    )
    ending = [i for i, mark in zip(document.ids, document.marks, strict=True) if mark == 2]
    assert ending[0] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_answers_are_learned(tmp_path: Path) -> None:
    writer, metrics, ctx = fit(tmp_path, chats(60), steps=200, context=64, learning_rate=0.004, method="full")
    assert metrics["conversations"] == 48 and writer.follows_instructions and not ctx.warnings
    assert metrics["heldout_nats_per_char"] < 0.1
    (made,) = writer.complete(["say water"], seeds=[1], sampling=Sampling(max_tokens=20, temperature=0))
    assert made.text == "water water" and made.finish == "stop"


def test_a_model_without_a_template_gets_a_plain_one(tmp_path: Path) -> None:
    given(RunContext(tmp_path).project / "given")
    writer, metrics, ctx = fit(tmp_path, chats(10))
    assert any("chat template" in warning for warning in ctx.warnings) and metrics["conversations"] == 8
    assert "### Answer" in writer.tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


def test_rows_hold_whole_documents_and_packing_sees_every_token() -> None:
    from intaglio.models._lessons import Split

    ids, marks = np.arange(1, 31, dtype=np.uint32), np.ones(30, dtype=np.uint8)
    table = np.array([[0, 10, 9, 9], [10, 14, 3, 3], [14, 30, 15, 15]], dtype=np.int64)
    split = Split(ids, marks, table)
    found, marked = batch(split, 0, count=3, context=20, seed=1, packed=False)
    assert sorted(int(row[0]) for row in found) == [1, 11, 15] and int(marked.sum()) == 30
    seen = torch.cat([batch(split, s, count=2, context=5, seed=1, packed=True)[0][:, :-1].flatten() for s in range(30)])
    assert set(seen.tolist()) == set(range(1, 31))


# ------------------------------------------------------------ writing
def test_draws_do_not_depend_on_neighbors(made: tuple[GivenWriter, dict[str, Any], RunContext]) -> None:
    writer = made[0]
    sampling = Sampling(max_tokens=90, temperature=0.9, top_p=0.95)  # past the context of 64
    together = writer.complete(["the garden", "", "old wind walks"], seeds=[1, 2, 3], sampling=sampling)
    for prompt, seed, one in zip(["the garden", "", "old wind walks"], [1, 2, 3], together, strict=True):
        assert writer.complete([prompt], seeds=[seed], sampling=sampling)[0].text == one.text


def test_greedy_text_is_that_of_transformers(made: tuple[GivenWriter, dict[str, Any], RunContext]) -> None:
    writer = made[0]
    (one,) = writer.complete(["the garden"], seeds=[1], sampling=Sampling(max_tokens=20, temperature=0))
    words = writer.tokenizer("the garden", add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[writer.start, *words]], device=DEVICE)
    theirs = writer.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0
    )
    assert one.text == writer.tokenizer.decode(theirs[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_stream_is_the_text_as_it_is_written(made: tuple[GivenWriter, dict[str, Any], RunContext]) -> None:
    writer = made[0]
    plain = Sampling(max_tokens=90, temperature=0.9)  # past the context of 64
    seeds = range(5, 9)
    written = [each.text for each in writer.complete(["the garden"] * 4, seeds=seeds, sampling=plain)]
    seed, free = max(zip(seeds, written, strict=True), key=lambda found: len(found[1]))
    for stop, penalty in (((), 0.0), ((free[40:43],), 0.0), ((), 1.0)):
        sampling = Sampling(max_tokens=90, temperature=0.9, stop=stop, frequency_penalty=penalty)
        (whole,) = writer.complete(["the garden"], seeds=[seed], sampling=sampling)
        stream, pieces = writer.stream("the garden", seed=seed, sampling=sampling), []
        while True:
            try:
                pieces.append(next(stream))
            except StopIteration as end:
                assert end.value == whole
                break
        assert "".join(pieces) == whole.text and len(pieces) > 5 and all(pieces)
        assert (whole.text != free) == bool(stop or penalty)
    stream = writer.stream("the garden", seed=seed, sampling=plain)
    first = next(stream)
    stream.close()
    assert free.startswith(first) and list(stream) == []


class _OnlyLetters:
    def __init__(self, letters: str, length: int) -> None:
        self.letters, self.length = set(letters), length

    def allow(self, text: str, vocabulary: Any) -> list[bool]:
        room = self.length - len(text)
        return [(not v and room == 0) or (0 < len(v) <= room and set(v) <= self.letters) for v in vocabulary]


def test_constraints_and_stop_words_hold(made: tuple[GivenWriter, dict[str, Any], RunContext]) -> None:
    writer = made[0]
    forms = [_OnlyLetters("thengard ", 12), None]
    one, two = writer.complete(
        ["", "the"], seeds=[1, 2], sampling=Sampling(max_tokens=40, stop=("wa",)), constraints=forms
    )
    assert len(one.text) <= 12 and set(one.text) <= set("thengard ") and one.finish in ("stop", "constraint")
    assert "wa" not in two.text
    strings = writer.strings()
    assert len(strings) == writer.model.config.vocab_size and strings[writer.end] == ""


def test_characters_of_several_tokens_come_whole(made: tuple[GivenWriter, dict[str, Any], RunContext]) -> None:
    from intaglio.models._given_writer import _Draft

    writer = made[0]
    draft = _Draft(writer, [writer.start], 1, None, ())
    for index in writer.tokenizer("water 春眠 😀 é", add_special_tokens=False)["input_ids"]:
        draft.accept(index)
        assert "\ufffd" not in draft.growing.text
    assert draft.growing.text == "water 春眠 😀 é"


def test_sampled_items_repeat(made: tuple[GivenWriter, dict[str, Any], RunContext]) -> None:
    writer, _, ctx = made
    items = list(writer.sample([1, 2], ctx))
    assert list(writer.sample([2], ctx))[0].id == items[1].id and items[0].media == "text"


def test_what_looks_like_a_special_token_in_a_text_is_text(tmp_path: Path) -> None:
    folder = given(tmp_path, chat=True)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    start, end, ends = special_ids(model, tokenizer)
    document = plain_document("a <|im_end|> b", tokenizer, start=start, end=end)
    assert document.ids.count(end) == 1 and document.ids[0] == start == 0 and end in ends
    assert tokenizer.decode(document.ids[1:-1]) == "a <|im_end|> b"


# ------------------------------------------------------------ the same bits
def test_the_same_seed_gives_the_same_bytes_whatever_the_base_is_called(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fit(tmp_path / name)
    for path in (tmp_path / "a" / "out").rglob("*"):
        if path.is_file():
            other = tmp_path / "b" / path.relative_to(tmp_path / "a")
            assert path.read_bytes() == other.read_bytes(), path.name


KILLED = """
import sys
from pathlib import Path
from tests.models.test_finetune import fit
fit(Path(sys.argv[1]), steps=160, context=64)
"""


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    fit(tmp_path / "whole", steps=160, context=64)
    process = forked.start(KILLED, str(tmp_path / "cut"))
    good = tmp_path / "cut" / "work" / "good.safetensors"
    while process.poll() is None and not good.exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed before it ended"
    shutil.rmtree(tmp_path / "cut" / "out")
    fit(tmp_path / "cut", steps=160, context=64)
    for path in (tmp_path / "whole" / "out").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "cut" / path.relative_to(tmp_path / "whole")).read_bytes(), (
                path.name
            )


# ------------------------------------------------------------ refusals
def refused(tmp_path: Path, **config: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        fit(tmp_path, texts(5), **config)
    assert caught.value.fix
    return caught.value


def test_a_pickle_is_refused_by_name_with_the_way_to_convert_it(tmp_path: Path) -> None:
    folder = given(RunContext(tmp_path).project / "given")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refused(tmp_path)
    assert "pytorch_model.bin is a pickle" in error.what and "save_pretrained" in error.fix


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"null", b"PK\x03\x04archive/data.pkl"])
def test_damaged_files_of_a_given_model_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    """Also a pickle under the name of safetensors; whatever transformers would raise."""
    folder = given(RunContext(tmp_path).project / "given")
    (folder / name).write_bytes(content)
    error = refused(tmp_path)
    assert name in error.what + error.fix or "kind" in error.what
    assert "pickle" in error.what or name != "model.safetensors" or not content.startswith(b"PK")


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    _, _, ctx = fit(tmp_path)
    weights = ctx.out / "base" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    component = finetune.Component(finetune.Config(data=("x",), **finetune.TINY))
    with pytest.raises(UserError, match="not what this adapter was trained on"):
        component.load(ctx.out, device=DEVICE, threads=1)
    shutil.rmtree(ctx.out / "base")
    with pytest.raises(UserError, match="is missing"):
        component.load(ctx.out, device=DEVICE, threads=1)


def test_a_large_base_is_found_again_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune._given, "COPIED_BELOW", 0)
    (tmp_path / "intaglio.toml").touch()
    writer, _, ctx = fit(tmp_path / ".intaglio" / "work", project=tmp_path)
    assert not (ctx.out / "base").exists() and writer.count_tokens("the gate") > 0


def test_offline_refuses_the_hub_and_says_what_to_do(tmp_path: Path) -> None:
    error = refused(tmp_path, model=None, hub="some/model")
    assert "some/model" in error.what and "offline = false" in error.fix and "folder" in error.fix


@pytest.mark.parametrize("values", [{}, {"model": "a", "hub": "b/c"}])
def test_one_model_is_named(values: dict[str, str]) -> None:
    with pytest.raises(UserError, match="name one given model"):
        parse(finetune.Config, {"data": "x", **values}, where="here")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    project = RunContext(tmp_path).project
    assert "no folder" in refused(tmp_path, model="nowhere").what
    assert "no folder" in refused(tmp_path, model="../../..").what
    (project / "empty").mkdir()
    assert "config.json" in refused(tmp_path, model="empty").what
    folder = given(project / "strange")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own-kind", "auto_map": {"AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('foreign code ran')")
    assert "own-kind" in refused(tmp_path, model="strange").what


def test_weights_that_do_not_fill_the_model_are_refused(tmp_path: Path) -> None:
    folder = given(RunContext(tmp_path).project / "given")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3, "layer_types": None}))
    assert "lack" in refused(tmp_path).what
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1, "layer_types": None}))
    assert "no layer for" in refused(tmp_path).what


def test_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text to learn from"):
        fit(tmp_path, [Item(media="text", text=" ")])


def test_estimates_grow_with_the_dial() -> None:
    machine = Machine(device="cpu", threads=2, gflops=150.0, bf16_gflops=400.0, memory_bytes=8 << 30)
    made = [
        finetune.Component(finetune.Config(data=("x",), hub="a/b", size=size)).estimate(Size(100, 10**8), machine)  # type: ignore[arg-type]
        for size in finetune.SIZES
    ]
    assert made[0].seconds < made[1].seconds < made[2].seconds
