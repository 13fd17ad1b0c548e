"""The training of a transformer from nothing on a line of tokens: its size, length, windows, figures and files.

Papers:  Radford et al. (2019), "Language models are unsupervised multitask learners"; layout of Qwen3
         (``nn/transformer.py``), optimizers Muon and AdamW (``nn/optim.py``).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from intaglio.core.contracts import Context, Dataset, Estimate, Machine, Sampling
from intaglio.core.errors import StepFailed
from intaglio.core.i18n import t
from intaglio.models._checkpoint import readable
from intaglio.models._corpus import Corpus, texts_of
from intaglio.models._cost import START, steps_seconds, writing_seconds
from intaglio.models._facts import checked, equal
from intaglio.models._memory import SAMPLE_TOKENS, SAMPLES
from intaglio.models._qwen import QwenConfig, Written
from intaglio.models._room import check_room
from intaglio.models._tokenizers import TextTokenizer
from intaglio.models._writer import Writer
from intaglio.nn import heap, parallel
from intaglio.nn.checkpoint import load_tensors, save_tensors, write_atomic
from intaglio.nn.decoder import SLOTS, cache_bytes, slots_of
from intaglio.nn.device import fast_dtype
from intaglio.nn.graphs import recorded_on_gpu
from intaglio.nn.loop import Diverged, Plan, Trained, patience, train
from intaglio.nn.optim import muon_and_adamw
from intaglio.nn.order import derive, places
from intaglio.nn.transformer import Shape, Transformer, from_qwen3, to_qwen3

EXPORTED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
MAX_PASSES, IN_ALL_KEYS = 8, 60  # over the training text; more only learns it by heart
DECAY, MOST_DECAY = 1 / 32, 1.0  # of Muon's weights, where there are as many as tokens: few texts want much of it
MIN_STEPS = 40
MICRO_TOKENS = 4_096  # of one pass through the net, at most, on a CPU
REACHED = {"tiny": 0.3, "small": 0.4, "base": 0.5}  # share of the machine's products, from runs on 2 cores
SCORED = 512  # texts whose likelihood is asked for at the end


class Wanted(Protocol):
    """What of a component's Config is needed here."""

    @property
    def size(self) -> str: ...
    @property
    def context(self) -> int | None: ...
    @property
    def steps(self) -> int | None: ...


@dataclass(frozen=True)
class Dial:
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    context: int  # at most
    tokens: int  # of one update
    flops: float  # of the whole training, at most


SIZES = {
    "tiny": Dial(4, 128, 4, 4, 344, context=128, tokens=2_048, flops=1.0e13),
    "small": Dial(6, 256, 8, 8, 688, context=256, tokens=4_096, flops=1.5e14),
    "base": Dial(12, 512, 8, 4, 1_376, context=512, tokens=16_384, flops=4.0e15),
}


@dataclass(frozen=True)
class Run:
    """What is decided before training, from config and data alone."""

    shape: Shape
    batch: int
    steps: int
    eval_windows: int
    decay: float  # of Muon's weights

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.shape.context


def decide(
    config: Wanted,
    *,
    vocab: int,
    tokens: int,
    documents: int,
    heldout_tokens: int = 0,
    keys: int = 1,
    start: Shape | None = None,
) -> Run:
    """Shape and length of a training, a pure function of config and data: no clock, no machine.

    keys: in how many versions the text is read. start: the shape of the model to go on from; only its context may be
    changed.
    """
    size = SIZES[config.size]
    usual = 1 << max(4, math.ceil(math.log2(4 * tokens / max(1, documents))))  # room for about four texts
    context = config.context or max(8, min(size.context, usual, 1 << max(3, int(math.log2(max(2, tokens // 4))))))
    shape = Shape(
        vocab=vocab,
        layers=size.layers,
        width=size.width,
        heads=size.heads,
        kv_heads=size.kv_heads,
        hidden=size.hidden,
        context=context,
    )
    if start is not None:
        context = config.context or start.context
        shape = replace(start, context=context)
    batch = max(1, min(size.tokens, max(256, tokens // 8)) // context)
    per_step = batch * context
    affordable = int(size.flops / (3 * shape.flops_per_token() * per_step))
    steps = config.steps or max(MIN_STEPS, min(affordable, min(MAX_PASSES * keys, IN_ALL_KEYS) * tokens // per_step))
    share = max(8_192, steps * per_step // 80)  # 20 evaluations then cost about a twelfth of the training
    windows = min(max(1, share // context), max(0, heldout_tokens - 1) // context)
    decay = 0.0 if start is not None else min(MOST_DECAY, DECAY * shape.parameters() / (keys * tokens))
    return Run(shape, batch, steps, windows, decay)


def estimate_of(
    config: Wanted, machine: Machine, *, tokens: int, vocab: int, documents: int, keys: int = 1, drawn: float = 0.0
) -> Estimate:
    """Seconds from the multiplications to be done, bytes from weights, optimizer and activations.

    drawn: tokens that are written one after the other, of texts side by side, besides those of the report of memory.
    """
    run = decide(config, vocab=vocab, tokens=tokens, documents=documents, keys=keys)
    a_token, reached = run.shape.flops_per_token(), REACHED[config.size]
    flops = 3.2 * a_token * run.tokens_per_step
    seconds = steps_seconds(machine, flops=flops, steps=run.steps, reached=reached, per_step=0.002)
    scored = min(tokens, SCORED * tokens // documents) + run.steps * run.tokens_per_step // 12
    seconds += steps_seconds(machine, flops=a_token * scored, steps=1, reached=reached, per_step=0)
    drawn += min(SAMPLE_TOKENS, max(32, 2 * tokens // documents)) * SAMPLES / SLOTS
    seconds += writing_seconds(machine, steps=drawn, layers=run.shape.layers, a_token=a_token)
    return Estimate(START + tokens / 3e6 + seconds, bytes_of(run, machine.device))


def bytes_of(run: Run, device: str) -> int:
    """Memory of a training: weights, their states, and the activations of one pass through the net."""
    weights = run.shape.parameters() * 4 * 6
    tokens = run.tokens_per_step // micro_batches(run, device)
    activations = tokens * (run.shape.layers * run.shape.width * 60 + run.shape.vocab * 10)
    if torch.device(device).type != "cpu":  # a CPU takes memory only as it is written to
        activations += min(64, slots_of(run.shape, device)) * cache_bytes(run.shape)
    return int(450e6 + weights + activations)


def begin(
    config: Wanted, corpus: Corpus, ctx: Context, *, keys: int = 1, start: Writer | None = None
) -> tuple[Run, Writer]:
    """What is decided for this corpus (see ``decide``), said where it is thin, and the model ready to write: untrained,
    or a copy of ``start``. Errors: UserError where the training would not fit into memory."""
    counts = corpus.train_counts
    heldout_tokens = 0 if corpus.heldout is None else len(corpus.heldout)
    run = decide(
        config,
        vocab=corpus.tokenizer.size,
        tokens=counts.tokens,
        documents=counts.documents,
        heldout_tokens=heldout_tokens,
        keys=keys,
        start=start.model.shape if start is not None else None,
    )
    check_room(bytes_of(run, ctx.device), ctx, fix=t("lower context or size"))
    say_what_is_thin(corpus, run, ctx)
    model = Transformer(run.shape, seed=derive(ctx.seed, "weights")).to(ctx.device)
    if start is not None:
        model.load_state_dict(start.model.state_dict())
    usual = min(1_024, max(32, 2 * counts.tokens // counts.documents))
    return run, Writer(model, corpus.tokenizer, device=ctx.device, threads=ctx.threads, usual_tokens=usual)


def read(folder: Path, facts: type[Written], *, device: str, threads: int) -> tuple[dict[str, Any], Writer]:
    """What ``save`` wrote: ``intaglio.json``, as ``facts`` says it must be, and the model.

    Errors: UserError where a file is missing, damaged, or not as it was written.
    """
    with readable():
        config, told = checked(folder / "config.json", QwenConfig), checked(folder / "intaglio.json", facts)
        model = from_qwen3(config, load_tensors(folder / "model.safetensors")[0])
        tokenizer = TextTokenizer.load(folder)
        equal({"vocab_size": config["vocab_size"]}, {"tokenizer.json": tokenizer.size})
    writer = Writer(model.to(device), tokenizer, device=device, threads=threads, usual_tokens=told["usual_tokens"])
    return told, writer


def say_what_is_thin(corpus: Corpus, run: Run, ctx: Context) -> None:
    if corpus.heldout is None or run.eval_windows == 0:
        ctx.warn(
            t("no text was held out (or too little): quality on unseen text is unknown, and the last state is kept")
        )
    if corpus.train_counts.tokens < 20_000:
        count = corpus.train_counts.characters
        ctx.warn(t("only {count} characters to learn from: expect fragments, not new texts", count=count))


def train_on(writer: Writer, corpus: Corpus, run: Run, ctx: Context, *, rate: float = 1.0, start: str = "") -> Trained:
    """Train the model of ``writer`` in place. rate: of the peak learning rates. start: digest of the weights it starts
    from, where these are of another training."""
    model, dtype = writer.model, fast_dtype(ctx.device)
    times = max(4, min(20, run.steps // 25))  # short trainings are looked at less often
    parts = micro_batches(run, ctx.device)
    plan = Plan(
        steps=run.steps,
        accumulate=parts,
        seed=derive(ctx.seed, "train"),
        per_step=run.tokens_per_step,
        unit="tok/s",
        warmup=0.04,
        cooldown=0.5,
        evaluations=times,
        patience=patience(times),
        previews=max(2, min(5, run.steps // 60)),
    )

    loss_of = recorded_on_gpu(functools.partial(model.loss, dtype=dtype), model)

    def loss(step: int, gen: torch.Generator) -> Tensor:
        ids = windows(corpus.train, step, batch=run.batch // parts, context=run.shape.context, seed=plan.seed)
        return loss_of(ids.to(ctx.device))

    def evaluate() -> Tensor:
        return window_nats(model, corpus.heldout, windows=run.eval_windows, dtype=dtype)

    def preview(step: int) -> None:
        sampling = Sampling(max_tokens=min(160, writer.usual_tokens), temperature=0.8)
        made = writer.complete(["", "", ""], seeds=[1, 2, 3], sampling=sampling)
        text = "\n\n---\n\n".join(one.text.strip() for one in made)
        ctx.preview(f"step-{step:06d}.txt", (text + "\n").encode("utf-8", "replace"))

    optimizers = optimizers_of(model, run, dtype=dtype, rate=rate)
    identity = {"shape": asdict(run.shape), "batch": run.batch, "corpus": corpus.digest}
    try:
        with heap.kept():
            return train(
                model,
                loss,
                optimizers=optimizers,
                plan=plan,
                work=ctx.work,
                report=ctx,
                evaluate=evaluate if run.eval_windows else None,
                preview=preview,
                identity=identity | ({"start": start, "rate": rate} if start else {}),
                say=t,
            )
    except Diverged as error:
        raise StepFailed(ctx.step, str(error)) from error


def optimizers_of(model: Transformer, run: Run, *, dtype: torch.dtype, rate: float = 1.0) -> list[Optimizer]:
    """Muon and AdamW as text is learned with. rate: of the peak learning rates.

    In fewer than 400 steps larger ones of Muon, over a shorter memory, come further; ``docs/LOG.md`` has the figures.
    """
    more = min(1.5, max(1.0, (400 / run.steps) ** 0.3))
    rates = {"matrix_lr": 0.025 * more * rate, "other_lr": 6e-3 * rate, "momentum": 1.0 - 0.1 * more}
    return muon_and_adamw(model, weight_decay=run.decay, dtype=dtype, **rates)


def micro_batches(run: Run, device: str) -> int:
    """Into how many parts an update is cut: one a process that shares the training; on a CPU, whose caches are small,
    as many more as bring a part to ``MICRO_TOKENS``."""
    parts = parallel.parts(run.batch)
    if torch.device(device).type == "cpu":
        fitting = (n for n in range(parts, run.batch + 1, parts) if run.batch % n == 0)
        parts = next((n for n in fitting if run.tokens_per_step <= n * MICRO_TOKENS), run.batch)
    return parts


def windows(tokens: np.ndarray, step: int, *, batch: int, context: int, seed: int) -> Tensor:
    """The windows of one step: (batch, context + 1) int64. The line is taken as a ring, cut anew in each pass."""
    epoch, row = places(step, batch=batch, count=max(1, len(tokens) // context), seed=seed)
    shift = np.array([derive(seed, "shift", int(number)) % context for number in epoch], dtype=np.int64)
    index = (row * context + shift)[:, None] + np.arange(context + 1)
    return torch.from_numpy(tokens[index % len(tokens)].astype(np.int64))


@torch.inference_mode()
def window_nats(model: Transformer, tokens: Any, *, windows: int, dtype: torch.dtype) -> Tensor:
    """Mean nats a token of each of ``windows`` windows, evenly spread over the line ``tokens``: (windows), float64."""
    context, device = model.shape.context, model.embedding.weight.device
    starts = np.linspace(0, len(tokens) - 1 - context, windows).astype(np.int64)
    found, together = [], max(1, 8_192 // context)
    for first in range(0, windows, together):
        index = starts[first : first + together, None] + np.arange(context + 1)
        ids = torch.from_numpy(tokens[index].astype(np.int64)).to(device)
        found.append(model.nats(ids, dtype=dtype).double().mean(1).cpu())
    return torch.cat(found)


def packed_nats(model: Transformer, tokens: Any, *, windows: int, dtype: torch.dtype) -> float:
    """Mean nats a token over ``windows`` windows side by side, evenly spread over the line ``tokens``."""
    return float(window_nats(model, tokens, windows=windows, dtype=dtype).mean())


def samples_of(run: Run) -> int:
    """How many samples the report of memorization draws: 64, fewer where the training was short beside that."""
    return max(16, min(64, run.steps * run.tokens_per_step // 10_240))


def metrics_of(writer: Writer, corpus: Corpus, run: Run, trained: Trained, data: Dataset) -> dict[str, Any]:
    counts = corpus.train_counts
    heldout = heldout_figures(writer, data, limit=max(20_000, run.steps * run.tokens_per_step // 20))
    if corpus.unigram_nats is not None:
        heldout["baseline_unigram_bits_per_char"] = round(corpus.unigram_nats / math.log(2), 4)
    return {
        **heldout,
        "parameters": run.shape.parameters(),
        "steps": trained.steps,
        "best_step": trained.best_step or trained.steps,
        "train_documents": counts.documents,
        "train_chars": counts.characters,
        "train_tokens": counts.tokens,
        "passes": round(trained.steps * run.tokens_per_step / counts.tokens, 2),
        "tokenizer": corpus.tokenizer.kind,
        "vocabulary": corpus.tokenizer.size,
        "context": run.shape.context,
        "rollbacks": trained.rollbacks,
    }


def heldout_figures(writer: Writer, data: Dataset, *, limit: int) -> dict[str, Any]:
    """Nats and bits of the first ``limit`` characters of held-out text, text by text, in float32."""
    texts: list[str] = []
    characters = 0
    for text in texts_of(data, "heldout"):
        if characters >= limit:
            break
        texts.append(text[: limit - characters])
        characters += len(texts[-1])
    names = ("heldout_nats_per_char", "heldout_bits_per_char", "heldout_bits_per_byte")
    if not characters:
        return {**dict.fromkeys(names), "heldout_chars": 0, "baseline_unigram_bits_per_char": None}
    nats = sum(writer.nats(texts))
    size_bytes = sum(len(text.encode("utf-8", "replace")) for text in texts)
    values = (nats / characters, nats / characters / math.log(2), nats / size_bytes / math.log(2))
    return {**{n: round(v, 4) for n, v in zip(names, values, strict=True)}, "heldout_chars": characters}


def save(out: Path, writer: Writer, metrics: Mapping[str, Any], trained: Trained, **facts: Any) -> None:
    """The finished checkpoint; nothing in it tells a time. facts: what else ``intaglio.json`` holds: ``component``."""
    config, tensors = to_qwen3(writer.model)
    end = writer.tokenizer.end
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    generation = {**ends, "do_sample": True, "temperature": 0.8, "max_new_tokens": writer.usual_tokens}
    facts |= {"usual_tokens": writer.usual_tokens, "metrics": dict(metrics)}
    for name, value in {
        "config.json": {**config, **ends},
        "generation_config.json": generation,
        "intaglio.json": facts,
    }.items():
        write_atomic(out / name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
    save_tensors(out / "model.safetensors", tensors)
    write_atomic(out / "curve.csv", trained.csv())
    writer.tokenizer.save(out, context=writer.context_tokens)
