"""A small GPT trained on your own texts: writes in their manner and tells how likely a text is.

Papers:  Radford et al. (2019), "Language models are unsupervised multitask learners"; layout of Qwen3
         (``nn/transformer.py``), optimizers Muon and AdamW (``nn/optim.py``).
Code:    ours; ``transformers`` loads the files that ``fit`` writes as they are. Weights inherit the data's licence.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Estimate, Machine, Sampling, Size
from intaglio.core.errors import StepFailed, UserError
from intaglio.core.i18n import t
from intaglio.models._corpus import Corpus, prepare, texts_of
from intaglio.models._gguf import write_gguf
from intaglio.models._memory import WithCanaries, of_texts
from intaglio.models._tokenizers import TextTokenizer
from intaglio.models._writer import Writer
from intaglio.nn import parallel
from intaglio.nn.checkpoint import load_tensors, save_tensors, write_atomic
from intaglio.nn.device import fast_dtype, machine, peak_memory_bytes
from intaglio.nn.loop import Diverged, Plan, Trained, train
from intaglio.nn.optim import muon_and_adamw
from intaglio.nn.order import derive, places
from intaglio.nn.transformer import Shape, Transformer, from_qwen3, to_qwen3

EXPORTED = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
MAX_PASSES = 60  # over the training text; more only learns it by heart
MIN_STEPS = 40


class Config(StepConfig):
    """The dial is ``size``; the rest follows from it and from the data.

    size:      ``tiny`` (a minute or two on 2 cores), ``small`` (a quarter of an hour), ``base`` (an evening, or a GPU).
    tokenizer: ``char``, ``byte`` (257 tokens for any language), ``bpe``, or ``auto``: characters for small archives
               and for Chinese, Japanese and Korean.
    context:   tokens the model sees at once; left out, it follows from the length of the texts.
    steps:     updates of the weights; left out, from size and data.
    canaries:  so many random texts are put among the training texts, and how well they are remembered is told.
    """

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("text",))]
    size: Literal["tiny", "small", "base"] = "small"
    tokenizer: Literal["auto", "char", "byte", "bpe"] = "auto"
    context: int | None = Field(default=None, ge=8, le=32_768)
    steps: int | None = Field(default=None, ge=1, le=10_000_000)
    canaries: int = Field(default=0, ge=0, le=1_000)


TINY: dict[str, Any] = {"size": "tiny", "context": 16, "steps": 4}


@dataclass(frozen=True)
class _Size:
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    context: int  # at most
    tokens: int  # of one update
    flops: float  # of the whole training, at most


SIZES = {
    "tiny": _Size(4, 128, 4, 4, 344, context=128, tokens=2_048, flops=1.0e13),
    "small": _Size(6, 256, 8, 8, 688, context=256, tokens=4_096, flops=1.5e14),
    "base": _Size(12, 512, 8, 4, 1_376, context=512, tokens=16_384, flops=4.0e15),
}


@dataclass(frozen=True)
class Run:
    """What is decided before training, from config and data alone."""

    shape: Shape
    batch: int
    steps: int
    eval_windows: int

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.shape.context


def decide(config: Config, *, vocab: int, tokens: int, documents: int, heldout_tokens: int = 0) -> Run:
    """Shape and length of a training, a pure function of config and data: no clock, no machine."""
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
    batch = max(1, min(size.tokens, max(256, tokens // 8)) // context)
    per_step = batch * context
    affordable = int(size.flops / (3 * shape.flops_per_token() * per_step))
    steps = config.steps or max(MIN_STEPS, min(affordable, MAX_PASSES * tokens // per_step))
    share = max(8_192, steps * per_step // 80)  # 20 evaluations then cost about a twelfth of the training
    windows = min(max(1, share // context), max(0, heldout_tokens - 1) // context)
    return Run(shape, batch, steps, windows)


class Component:
    """Stage ``models``: trains on texts, makes texts."""

    takes = ("text",)
    makes = "text"

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """Seconds from the multiplications to be done, bytes from weights, optimizer and activations."""
        tokens = max(1_000, int((size.bytes or 2_000_000) * 0.7))
        vocab = 1_024 if tokens < 300_000 else 4_096
        run = decide(self.config, vocab=vocab, tokens=tokens, documents=size.items or 1)
        useful = _efficiency(self.config.size) * (machine.bf16_gflops or machine.gflops) * 1e9
        flops = 3.2 * run.shape.flops_per_token() * run.tokens_per_step * run.steps
        reading = tokens / 3e6 + 4
        weights = run.shape.parameters() * 4 * 6
        activations = run.tokens_per_step * (run.shape.layers * run.shape.width * 60 + run.shape.vocab * 10)
        return Estimate(seconds=flops / useful + reading, bytes=int(450e6 + weights + activations))

    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Train on the texts of ``data``; the checkpoint in ``ctx.out`` is one that ``transformers`` loads.

        Returns figures: held-out nats and bits a character, bits a byte, beside character frequencies (unigram) on the
        same text; None where nothing was held out. Errors: UserError where there is no text.
        """
        if self.config.canaries:
            data = WithCanaries(data, self.config.canaries, seed=ctx.seed)
        with machine(device=ctx.device, threads=ctx.threads):
            corpus = prepare(data, ctx, kind=self.config.tokenizer)
            counts = corpus.train_counts
            heldout_tokens = 0 if corpus.heldout is None else len(corpus.heldout)
            run = decide(
                self.config,
                vocab=corpus.tokenizer.size,
                tokens=counts.tokens,
                documents=counts.documents,
                heldout_tokens=heldout_tokens,
            )
            _say_what_is_thin(corpus, run, ctx)
            model = Transformer(run.shape, seed=derive(ctx.seed, "weights")).to(ctx.device)
            usual = min(1_024, max(32, 2 * counts.tokens // counts.documents))
            writer = Writer(model, corpus.tokenizer, device=ctx.device, threads=ctx.threads, usual_tokens=usual)
            trained = _train(writer, corpus, run, ctx)
            ctx.progress(run.steps, run.steps, doing=t("measuring on held-out text"))
            metrics = _metrics(writer, corpus, run, trained, data)
            metrics["memorization"] = of_texts(writer, data, seed=ctx.seed, tokens=usual)
            _write(ctx.out, writer, metrics, trained)
        return {**metrics, "seconds": round(trained.seconds, 2), "peak_bytes": peak_memory_bytes(ctx.device)}

    def load(self, folder: Path, *, device: str, threads: int) -> Writer:
        """The checkpoint written by ``fit``. Errors: UserError where a file is missing or damaged."""
        try:
            config = json.loads((folder / "config.json").read_text("utf-8"))
            facts = json.loads((folder / "intaglio.json").read_text("utf-8"))
            model = from_qwen3(config, load_tensors(folder / "model.safetensors")[0])
            tokenizer = TextTokenizer.load(folder)
        except (OSError, ValueError) as error:
            raise UserError(
                t("the checkpoint cannot be read: {error}", error=error),
                fix=t("intaglio check --blobs names damaged files; intaglio restore brings them back"),
            ) from error
        return Writer(
            model.to(device), tokenizer, device=device, threads=threads, usual_tokens=int(facts["usual_tokens"])
        )

    def export(self, folder: Path, to: Path) -> list[Path]:
        """A folder for ``transformers.AutoModelForCausalLM.from_pretrained``, and ``model.gguf`` for llama.cpp."""
        to.mkdir(parents=True, exist_ok=True)
        files = [Path(shutil.copyfile(folder / name, to / name)) for name in EXPORTED]
        return [*files, write_gguf(folder, to / "model.gguf", name=to.name or "gpt")]


def _efficiency(size: str) -> float:
    """Share of the machine's bfloat16 matmul speed that training reaches; from runs on 2 busy cores."""
    return {"tiny": 0.4, "small": 0.45, "base": 0.5}[size]


def _say_what_is_thin(corpus: Corpus, run: Run, ctx: Context) -> None:
    if corpus.heldout is None or run.eval_windows == 0:
        ctx.warn(
            t("no text was held out (or too little): quality on unseen text is unknown, and the last state is kept")
        )
    if corpus.train_counts.tokens < 20_000:
        count = corpus.train_counts.characters
        ctx.warn(t("only {count} characters to learn from: expect fragments, not new texts", count=count))


def _train(writer: Writer, corpus: Corpus, run: Run, ctx: Context) -> Trained:
    model, dtype = writer.model, fast_dtype(ctx.device)
    times = max(4, min(20, run.steps // 25))  # short trainings are looked at less often
    parts = parallel.parts(run.batch)  # one a process that shares the training
    plan = Plan(
        steps=run.steps,
        accumulate=parts,
        seed=derive(ctx.seed, "train"),
        per_step=run.tokens_per_step,
        unit="tok/s",
        warmup=0.04,
        cooldown=0.8,
        evaluations=times,
        previews=min(5, times),
    )

    def loss(step: int, gen: torch.Generator) -> Tensor:
        ids = windows(corpus.train, step, batch=run.batch // parts, context=run.shape.context, seed=plan.seed)
        return model.loss(ids.to(ctx.device), dtype=dtype)

    def evaluate() -> float:
        return packed_nats(model, corpus.heldout, windows=run.eval_windows, dtype=dtype)

    def preview(step: int) -> None:
        sampling = Sampling(max_tokens=min(160, writer.usual_tokens), temperature=0.8)
        made = writer.complete(["", "", ""], seeds=[1, 2, 3], sampling=sampling)
        text = "\n\n---\n\n".join(one.text.strip() for one in made)
        ctx.preview(f"step-{step:06d}.txt", (text + "\n").encode("utf-8", "replace"))

    try:
        return train(
            model,
            loss,
            optimizers=muon_and_adamw(model, dtype=dtype),
            plan=plan,
            work=ctx.work,
            report=ctx,
            evaluate=evaluate if run.eval_windows else None,
            preview=preview,
            identity={"shape": asdict(run.shape), "batch": run.batch, "corpus": corpus.digest},
            say=t,
        )
    except Diverged as error:
        raise StepFailed(ctx.step, str(error)) from error


def windows(tokens: np.ndarray, step: int, *, batch: int, context: int, seed: int) -> Tensor:
    """The windows of one step: (batch, context + 1) int64. The line is taken as a ring, cut anew in each pass."""
    epoch, row = places(step, batch=batch, count=max(1, len(tokens) // context), seed=seed)
    shift = np.array([derive(seed, "shift", int(number)) % context for number in epoch], dtype=np.int64)
    index = (row * context + shift)[:, None] + np.arange(context + 1)
    return torch.from_numpy(tokens[index % len(tokens)].astype(np.int64))


@torch.inference_mode()
def packed_nats(model: Transformer, tokens: Any, *, windows: int, dtype: torch.dtype) -> float:
    """Mean nats a token over ``windows`` windows side by side, evenly spread over the line ``tokens``."""
    context, device = model.shape.context, model.embedding.weight.device
    starts = np.linspace(0, len(tokens) - 1 - context, windows).astype(np.int64)
    total, together = 0.0, max(1, 8_192 // context)
    for first in range(0, windows, together):
        index = starts[first : first + together, None] + np.arange(context + 1)
        ids = torch.from_numpy(tokens[index].astype(np.int64)).to(device)
        total += float(model.nats(ids, dtype=dtype).double().sum())
    return total / (windows * context)


def _metrics(writer: Writer, corpus: Corpus, run: Run, trained: Trained, data: Dataset) -> dict[str, Any]:
    counts = corpus.train_counts
    heldout = _heldout(writer, data, limit=max(20_000, run.steps * run.tokens_per_step // 10))
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


def _heldout(writer: Writer, data: Dataset, *, limit: int) -> dict[str, Any]:
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


def _write(out: Path, writer: Writer, metrics: Mapping[str, Any], trained: Trained) -> None:
    """The finished checkpoint; nothing in it tells a time."""
    config, tensors = to_qwen3(writer.model)
    end = writer.tokenizer.end
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    generation = {**ends, "do_sample": True, "temperature": 0.8, "max_new_tokens": writer.usual_tokens}
    facts = {"component": "models/gpt", "usual_tokens": writer.usual_tokens, "metrics": dict(metrics)}
    for name, value in {
        "config.json": {**config, **ends},
        "generation_config.json": generation,
        "intaglio.json": facts,
    }.items():
        write_atomic(out / name, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
    save_tensors(out / "model.safetensors", tensors)
    write_atomic(out / "curve.csv", trained.csv())
    writer.tokenizer.save(out, context=writer.context_tokens)
