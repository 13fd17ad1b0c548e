"""Fine-tunes a given causal language model on your own texts or conversations, by LoRA or as a whole.

Paper:   Hu et al. (2022), "LoRA: Low-rank adaptation of large language models", arXiv:2106.09685, eq. 3.
Code:    transformers holds the model, PEFT the adapter; loss, order of data, resume and figures are ours (``nn/loop``).
Licence: weights inherit the licence of the given model and of the data.
Shapes:  B batch, T time, V vocabulary.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from intaglio.core.config import InputPath, Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Estimate, Machine, Sampling, Size
from intaglio.core.errors import StepFailed
from intaglio.core.i18n import t
from intaglio.models import _given
from intaglio.models._adapter import AdapterConfig, Trainable, merged, peft_package, settle, with_adapter
from intaglio.models._checkpoint import readable
from intaglio.models._corpus import warn_of_sameness
from intaglio.models._cost import START, steps_seconds
from intaglio.models._facts import checked
from intaglio.models._given import Base
from intaglio.models._given_writer import GivenWriter, special_ids, token_nats
from intaglio.models._ignored import warn_of_ignored
from intaglio.models._lessons import LEARNED, PLAIN_TEMPLATE, Lessons, Split, batch, conversation, prepare
from intaglio.models._memory import of_texts
from intaglio.models._room import check_room
from intaglio.nn import parallel
from intaglio.nn.checkpoint import read_meta, write_atomic
from intaglio.nn.device import autocast, fast_dtype, machine, peak_memory_bytes
from intaglio.nn.loop import Diverged, Plan, Trained, patience, train
from intaglio.nn.measures import bootstrap_interval
from intaglio.nn.optim import adamw
from intaglio.nn.order import derive

MIN_STEPS = 20
REACHED, A_LAYER = 0.35, 0.011  # of steps_seconds; a layer's seconds by itself in a step, fitted on 2 threads


class Config(StepConfig):
    """The dial is ``size``: how much training the given model gets; the rest follows from it and from the data.

    size:          ``tiny`` (a minute or two for a model of 20 M parameters), ``small``, ``base``.
    model:         the folder of the given model, inside the project (``config.json``, tokenizer, safetensors).
    hub:           or its name on the hub, ``org/name``; fetched only where the project is not offline.
    revision:      branch, tag or commit on the hub.
    method:        ``lora`` learns a small addition to each linear layer, ``full`` all weights.
    rank, alpha:   of LoRA: numbers a layer's addition is made from, and its weight (alpha / rank).
    learning_rate: the peak; left out, it follows from the model's width and the method.
    context:       tokens a row of the training holds at most. steps: updates; left out, from size and data.
    """

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("text",))]
    model: Annotated[str, InputPath(folder=True)] | None = None
    hub: str | None = Field(default=None, pattern=r"^[\w.-]+(/[\w.-]+)?$")
    revision: str = "main"
    size: Literal["tiny", "small", "base"] = "small"
    method: Literal["lora", "full"] = "lora"
    rank: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=32.0, gt=0.0, le=4096.0)
    learning_rate: float | None = Field(default=None, gt=0.0, le=1.0)
    context: int | None = Field(default=None, ge=8, le=131_072)
    steps: int | None = Field(default=None, ge=1, le=10_000_000)

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.hub is None):
            raise ValueError(t("name one given model: model = a folder of the project, or hub = its name there"))
        return self


TINY: dict[str, Any] = {"model": "given", "size": "tiny", "context": 16, "steps": 4, "rank": 2}


@dataclass(frozen=True)
class _Size:
    context: int  # at most
    tokens: int  # of one update
    passes: float  # over the data
    flops: float  # of the whole training, at most


SIZES = {
    "tiny": _Size(256, 1_024, passes=4, flops=1.5e13),
    "small": _Size(512, 4_096, passes=4, flops=3.0e14),
    "base": _Size(1_024, 16_384, passes=4, flops=1.0e17),
}


@dataclass(frozen=True)
class Run:
    """What is decided before training, from config, model and data alone."""

    context: int
    rows: int
    steps: int
    packed: bool
    learning_rate: float


def decide(config: Config, *, parameters: int, width: int, window: int, split: Split, packed: bool) -> Run:
    """Shape and length of a training, a pure function: no clock, no machine. window: tokens the model can see."""
    size, tokens = SIZES[config.size], len(split.ids)
    longest = int((split.table[:, 1] - split.table[:, 0]).max()) - 1
    natural = max(8, tokens // 8) if packed else longest
    context = max(1, min(config.context or min(size.context, natural), window))
    typical = context if packed else max(1, min(context, tokens // len(split)))
    rows = max(1, min(size.tokens, max(64, tokens // 4)) // typical)
    rows = rows if packed else min(rows, len(split))
    per_token = (4 if config.method == "lora" else 6) * parameters  # LoRA needs no gradient of the weights themselves
    affordable = int(size.flops / (per_token * rows * typical))
    steps = config.steps or max(MIN_STEPS, min(affordable, int(size.passes * tokens / (rows * typical))))
    peak = 0.05 / width * (10 if config.method == "lora" else 1)
    return Run(context, rows, steps, packed, config.learning_rate or min(peak, 4e-3))


class Component:
    """Stage ``models``: a given writer, tuned to these texts."""

    takes = ("text",)
    makes = "text"

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """Seconds and bytes for a model of the folder's size, or of 135 M parameters where the folder is not here."""
        given, dial = _given_size(Path(self.config.model or "") if self.config.model else None), SIZES[self.config.size]
        tokens = max(1_000.0, (size.bytes or 2_000_000) / _bytes_a_token(given.vocabulary))
        per_token = (4 if self.config.method == "lora" else 6) * given.parameters
        affordable = dial.flops / (per_token * dial.tokens)
        steps = self.config.steps or max(MIN_STEPS, min(affordable, dial.passes * tokens / dial.tokens))
        speed = {"reached": REACHED, "per_step": 0.0}
        seconds = steps_seconds(machine, flops=1.6 * per_token * dial.tokens, steps=steps, **speed)
        if machine.device == "cpu":
            seconds += steps * given.layers * A_LAYER  # its modules, and the adapter's
        evaluations = max(2, min(12, steps // 20))
        judged = 2 * tokens / 10 + evaluations * tokens / 20 + 128 * 500  # before and after, between, for membership
        seconds += steps_seconds(machine, flops=2 * given.parameters * judged, steps=1, **speed)
        drawn = 64 + 80 * min(4, evaluations)  # one token of a few texts after the other: every weight is read
        seconds += drawn * (given.layers * A_LAYER / 20 + given.parameters * 4 / 2e10)
        states = 1.1 if self.config.method == "lora" else 4
        held = int(5.5e8 + given.parameters * 4 * states + _activations(dial.tokens, given))
        return Estimate(seconds=seconds + 2 * START + tokens / 1e6, bytes=held)

    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Tune the given model; the checkpoint holds PEFT's adapter files (or the whole model) and what it rests on.

        Returns held-out bits a character and a byte beside those of the given model unchanged, on the same text, and a
        verdict by paired bootstrap over documents. Errors: UserError for a model that cannot be read, or no text.
        """
        where = f"intaglio.toml [models.{ctx.step}]"
        if self.config.method == "lora":
            peft_package()
        else:
            warn_of_ignored(self.config, "rank", "alpha", setting='method = "full"', ctx=ctx)
        base = self._base(ctx, where)
        with machine(device=ctx.device, threads=ctx.threads, own=False):
            tokenizer = _given.open_tokenizer(base.folder, where=where)
            model = _given.open_model(
                base.folder, device=ctx.device, dtype=_precision(ctx.device, self.config), where=where
            )
            if tokenizer.chat_template is None and any(conversation(item) for item in data.of("text").split("train")):
                tokenizer.chat_template = PLAIN_TEMPLATE
                ctx.warn(t("the model has no chat template: questions and answers are laid out plainly"))
            start, end, _ = special_ids(model, tokenizer)
            lessons = prepare(data, ctx, tokenizer, start=start, end=end)
            if not lessons.chats:
                warn_of_sameness(data, ctx)
            tuned = _Tuning(self.config, ctx, base, model, tokenizer, lessons)
            metrics = tuned.run()
            if not lessons.chats:
                asked = {"tokens": 64, "samples": 16, "known": 64}  # given models are slow
                metrics["memorization"] = of_texts(tuned.writer(), data, seed=ctx.seed, **asked)
            return metrics

    def _base(self, ctx: Context, where: str) -> Base:
        if self.config.hub is not None:
            return _given.base_of_hub(self.config.hub, self.config.revision, offline=ctx.offline, where=where)
        return _given.base_of_project(ctx.project, self.config.model or "", where=where)

    def load(self, folder: Path, *, device: str, threads: int) -> GivenWriter:
        """The tuned model, its adapter merged. Errors: UserError where the base is missing or is another."""
        facts, model, tokenizer = _read(folder, device=device, config=self.config)
        told = {"context": facts["context_tokens"], "usual_tokens": facts["usual_tokens"], "chat": facts["chat"]}
        return GivenWriter(model, tokenizer, threads=threads, **told)

    def export(self, folder: Path, to: Path) -> list[Path]:
        """PEFT's adapter files, and in ``merged`` the model with the adapter worked in; of ``full``, the model."""
        to.mkdir(parents=True, exist_ok=True)
        left = ("intaglio.json", "curve.csv", "MODEL_CARD.md", "DATA_CARD.md")  # cards come with what the run knows
        names = [path.name for path in sorted(folder.iterdir()) if path.is_file() and path.name not in left]
        made = [Path(shutil.copyfile(folder / name, to / name)) for name in names]
        if (folder / "adapter_config.json").is_file():
            _, model, tokenizer = _read(folder, device="cpu", config=self.config)
            model.save_pretrained(to / "merged")
            tokenizer.save_pretrained(to / "merged")
            made += sorted((to / "merged").iterdir())
        return made


@dataclass
class _Tuning:
    """One call of ``fit``: the model as it is given, the adapter put in, trained, judged and written."""

    config: Config
    ctx: Context
    base: Base
    model: Any
    tokenizer: Any
    lessons: Lessons

    def run(self) -> dict[str, Any]:
        ctx, lessons = self.ctx, self.lessons
        shape = self.model.config.get_text_config()
        self.window = min(int(getattr(shape, "max_position_embeddings", 0) or 2_048), 32_768)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.plan = decide(
            self.config,
            parameters=self.parameters,
            width=shape.hidden_size,
            window=self.window,
            split=lessons.train,
            packed=not lessons.chats,
        )
        given = _Given(self.parameters, shape.num_hidden_layers, shape.hidden_size, shape.vocab_size)
        states = 0.1 if self.config.method == "lora" else 3  # beside the weights, which are here already
        need = self.parameters * 4 * states + _activations(self.plan.rows * self.plan.context, given)
        check_room(int(need), ctx, fix=t("lower context or size"))
        if lessons.left_out:
            ctx.warn(t("{count} conversations do not fit the model's chat template: left out", count=lessons.left_out))
        chosen, judged = _halves(len(lessons.heldout))
        if not judged:
            ctx.warn(t("nothing was held out: whether it writes better than the given model is unknown"))
        ctx.progress(0, self.plan.steps, doing=t("measuring the given model"))
        before = np.zeros(len(judged)) if parallel.helping() else self._nats(judged)
        if self.config.method == "lora":
            self.model = with_adapter(
                self.model, rank=self.config.rank, alpha=self.config.alpha, seed=derive(ctx.seed, "adapter")
            )
        trained = self._train(chosen)
        ctx.progress(self.plan.steps, self.plan.steps, doing=t("measuring on held-out text"))
        metrics = {**self._judge(before, self._nats(judged), judged), **self._figures(trained)}
        if metrics["verdict"] == "worse":
            ctx.warn(t("on held-out text it is worse than the given model: less training, or more text"))
        self._write(metrics, trained)
        return {**metrics, "seconds": round(trained.seconds, 2), "peak_bytes": peak_memory_bytes(ctx.device)}

    def _train(self, chosen: list[int]) -> Trained:
        plan, ctx, dtype = self.plan, self.ctx, fast_dtype(self.ctx.device)
        seed = derive(ctx.seed, "train")
        share = parallel.Share(plan.rows, seed=seed)

        def loss(micro: int, gen: torch.Generator) -> Tensor:
            step, own = share(micro, gen)
            ids, marks = batch(
                self.lessons.train, step, count=plan.rows, context=plan.context, seed=seed, packed=plan.packed
            )
            marked = 0.0
            if share.parts > 1:
                marked = int(marks[:, 1:].sum()) / share.parts
                learned = marks[own].any(0).nonzero()
                width = max(2, int(learned[-1]) + 1 if len(learned) else 0)
                ids, marks = ids[own, :width], marks[own, :width]  # nothing is learned behind: causal, so left out
            with autocast(ctx.device, dtype):
                return marked_loss(self.model, ids.to(ctx.device), marks.to(ctx.device), marked=marked)

        def evaluate() -> float:
            characters = sum(int(self.lessons.heldout.table[n, 2]) for n in chosen)
            return float(self._nats(chosen).sum()) / max(1, characters)

        def preview(step: int) -> None:
            made = self.writer().complete([""] * 2, seeds=[1, 2], sampling=Sampling(max_tokens=80, temperature=0.8))
            text = "\n\n---\n\n".join(one.text.strip() for one in made)
            ctx.preview(f"step-{step:06d}.txt", (text + "\n").encode("utf-8", "replace"))

        weights = Trainable(self.model)
        times = max(2, min(12, plan.steps // 20))
        try:
            return train(
                weights,
                loss,
                optimizers=[adamw(weights.parameters(), lr=plan.learning_rate, betas=(0.9, 0.99))],
                plan=Plan(
                    accumulate=share.parts,
                    steps=plan.steps,
                    seed=seed,
                    per_step=plan.rows * plan.context,
                    unit="tok/s",
                    warmup=0.05,
                    cooldown=0.5,
                    evaluations=times,
                    patience=patience(times),
                    previews=min(4, times),
                ),
                work=ctx.work,
                report=ctx,
                evaluate=evaluate if chosen else None,
                preview=preview,
                identity=self._identity(),
                say=t,
            )
        except Diverged as error:
            raise StepFailed(ctx.step, str(error)) from error

    def _identity(self) -> dict[str, Any]:
        own = {"method": self.config.method, "rank": self.config.rank, "alpha": self.config.alpha}
        run = {"rows": self.plan.rows, "context": self.plan.context, "rate": self.plan.learning_rate}
        return {**own, **run, "base": self.base.digest, "lessons": self.lessons.digest}

    def _nats(self, chosen: list[int]) -> np.ndarray:
        """Nats of the marked tokens of each of these held-out documents."""
        totals = []
        for first in range(0, len(chosen), 64):
            some = [self.lessons.heldout.document(n) for n in chosen[first : first + 64]]
            found = token_nats(self.model, [ids for ids, _ in some], context=self.window)
            totals += [float(nats[marks[1:] == LEARNED].sum()) for nats, (_, marks) in zip(found, some, strict=True)]
        return np.array(totals)

    def _judge(self, before: np.ndarray, after: np.ndarray, judged: list[int]) -> dict[str, Any]:
        names = ("heldout_nats_per_char", "heldout_bits_per_char", "heldout_bits_per_byte")
        beside = ("baseline_given_bits_per_char", "baseline_given_bits_per_byte", "change_bits_per_char")
        if not judged:
            return {**dict.fromkeys((*names, *beside)), "heldout_documents": 0, "verdict": "unknown"}
        table = self.lessons.heldout.table[judged]
        characters, size = int(table[:, 2].sum()), int(table[:, 3].sum())
        change = bootstrap_interval(torch.from_numpy(after - before), seed=derive(self.ctx.seed, "bootstrap"))
        surely = len(judged) > 1 and (change.high < 0 or change.low > 0)
        scale = len(judged) / characters / np.log(2)
        values = (after.sum() / characters, after.sum() / characters / np.log(2), after.sum() / size / np.log(2))
        given = (before.sum() / characters / np.log(2), before.sum() / size / np.log(2))
        return {
            **{name: round(float(value), 4) for name, value in zip(names, values, strict=True)},
            **{name: round(float(value), 4) for name, value in zip(beside, given, strict=False)},
            "change_bits_per_char": [round(float(v * scale), 4) for v in (change.value, change.low, change.high)],
            "heldout_documents": len(judged),
            "heldout_chars": characters,
            "verdict": "unknown" if not surely else "better" if change.high < 0 else "worse",
        }

    def _figures(self, trained: Trained) -> dict[str, Any]:
        return {
            "given": self.base.name,
            "method": self.config.method,
            "parameters": self.parameters,
            "trained_parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "conversations": self.lessons.chats,
            "train_documents": len(self.lessons.train),
            "train_tokens": len(self.lessons.train.ids),
            "steps": trained.steps,
            "best_step": trained.best_step or trained.steps,
            "context": self.plan.context,
            "learning_rate": self.plan.learning_rate,
            "rollbacks": trained.rollbacks,
        }

    def _usual(self) -> int:
        lengths = self.lessons.train.table[:, 1] - self.lessons.train.table[:, 0]
        return int(min(1_024, max(32, 2 * float(lengths.mean()))))

    def writer(self) -> GivenWriter:
        """The model as it is now, ready to write."""
        return GivenWriter(
            self.model, self.tokenizer, context=self.window, threads=self.ctx.threads, usual_tokens=self._usual()
        )

    def _write(self, metrics: Mapping[str, Any], trained: Trained) -> None:
        """The finished checkpoint; nothing in it tells a time or a place on this machine."""
        out = self.ctx.out
        lora = self.config.method == "lora"
        self.model.save_pretrained(out)
        self.tokenizer.save_pretrained(out)
        if lora:
            settle(out / "adapter_config.json", self.base)
            (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
            if not self.base.revision and self.base.size_bytes <= _given.COPIED_BELOW:
                (out / "base").mkdir(exist_ok=True)
                for name in self.base.files:
                    shutil.copyfile(self.base.folder / name, out / "base" / name)
        facts = {
            "component": "models/finetune",
            "base": self.base.facts() if lora else {"name": self.base.name, "revision": self.base.revision},
            "context_tokens": self.window,
            "usual_tokens": self._usual(),
            "chat": bool(self.lessons.chats),
            "metrics": dict(metrics),
        }
        write_atomic(out / "intaglio.json", (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode())
        write_atomic(out / "curve.csv", trained.csv())


def marked_loss(model: Any, ids_BT: Tensor, marks_BT: Tensor, *, marked: float = 0.0) -> Tensor:
    """Mean cross-entropy in nats of the marked tokens, each given those before it; 0 where none is marked.

    marked: divides the sum in place of their number, where it is not 0: of a part of a step, its share of the marked
    tokens of the whole.
    """
    logits = model(input_ids=ids_BT[:, :-1], use_cache=False).logits.float()
    nats = F.cross_entropy(logits.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
    marks = marks_BT[:, 1:].flatten().to(nats.dtype)
    return (nats * marks).sum() / (marked or marks.sum().clamp(min=1))


@dataclass(frozen=True)
class _Given:
    """What is known of a given model before it is opened."""

    parameters: float = 1.35e8
    layers: int = 30
    width: int = 576
    vocabulary: int = 49_152


def _bytes_a_token(vocabulary: int) -> float:
    """Of usual tokenizers: single bytes or characters up to some hundred tokens, 4 bytes from 32,000 tokens on."""
    return max(1.0, min(4.5, math.log2(vocabulary) / 2 - 3.5))


def _activations(tokens: int, given: _Given) -> int:
    """Bytes of what one update of so many tokens keeps for its gradients."""
    return tokens * (given.layers * given.width * 60 + given.vocabulary * 12)


def _given_size(folder: Path | None) -> _Given:
    """Of the folder's ``config.json`` and weights, taken for float32; of a usual one where they are elsewhere."""
    try:
        held = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder else 0
        told = json.loads((folder / "config.json").read_text("utf-8")) if folder and held else {}
    except (OSError, ValueError):
        return _Given()
    if not held:
        return _Given()
    usual = _Given(parameters=held / 4)
    layers, width = told.get("num_hidden_layers") or told.get("n_layer"), told.get("hidden_size") or told.get("n_embd")
    vocabulary = told.get("vocab_size") or usual.vocabulary
    return _Given(held / 4, int(layers or usual.layers), int(width or usual.width), int(vocabulary))


def _halves(count: int) -> tuple[list[int], list[int]]:
    """Held-out documents the best state is chosen by, and those it is judged by: others, where there are enough."""
    return (list(range(count)),) * 2 if count < 4 else (list(range(0, count, 2)), list(range(1, count, 2)))


def _precision(device: str, config: Config) -> torch.dtype:
    """Weights that are only read may lie in bfloat16 on a GPU; learned ones, and all on a CPU, are float32."""
    return fast_dtype(device) if config.method == "lora" and torch.device(device).type == "cuda" else torch.float32


def _read(folder: Path, *, device: str, config: Config) -> tuple[dict[str, Any], Any, Any]:
    """Facts, model (its adapter merged) and tokenizer of a checkpoint. Errors: UserError where it cannot be read."""
    with readable():
        facts = checked(folder / "intaglio.json", _given.Tuned)
        lora = (folder / "adapter_config.json").is_file()
        if lora:
            read_meta(folder / "adapter_model.safetensors")  # PEFT would say less of what is wrong
            checked(folder / "adapter_config.json", AdapterConfig)
        held = _given.find_again(facts["base"], folder) if lora else folder
        model = _given.open_model(held, device=device, dtype=_precision(device, config))
        if lora:
            model = merged(model, folder)
        return facts, model.eval(), _given.open_tokenizer(folder)
