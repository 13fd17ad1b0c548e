"""A small GPT trained on your own texts: writes in their manner and tells how likely a text is.

Papers:  Radford et al. (2019), "Language models are unsupervised multitask learners"; layout of Qwen3
         (``nn/transformer.py``), optimizers Muon and AdamW (``nn/optim.py``).
Code:    ours; ``transformers`` loads the files that ``fit`` writes as they are. Weights inherit the data's licence.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Estimate, Machine, Size
from intaglio.core.i18n import t
from intaglio.models._corpus import prepare
from intaglio.models._gguf import write_gguf
from intaglio.models._memory import WithCanaries, of_texts
from intaglio.models._pretrain import (
    EXPORTED,
    SIZES,
    Run,
    begin,
    decide,
    estimate_of,
    metrics_of,
    packed_nats,
    read,
    samples_of,
    save,
    train_on,
    windows,
)
from intaglio.models._qwen import Written
from intaglio.models._start import SHARE, GoingOn, taken_over
from intaglio.models._writer import Writer
from intaglio.nn import heap
from intaglio.nn.device import machine, peak_memory_bytes

__all__ = ["EXPORTED", "SIZES", "TINY", "Component", "Config", "Run", "decide", "packed_nats", "windows"]


class Config(StepConfig):
    """The dial is ``size``; the rest follows from it and from the data.

    size:      ``tiny`` (a minute or two on 2 cores), ``small`` (a quarter of an hour), ``base`` (an evening, or a GPU).
    tokenizer: ``char``, ``byte`` (257 tokens for any language), ``bpe``, or ``auto``: characters for small archives
               and for Chinese, Japanese and Korean.
    context:   tokens the model sees at once; left out, it follows from the length of the texts.
    steps:     updates of the weights; left out, from size and data.
    start:     a ``gpt`` step to go on from: its weights and tokenizer are taken over, and trained on this data at a
               lower learning rate; ``size`` then only says how long. Its figures stand beside those of the start.
    canaries:  so many random texts are put among the training texts, and how well they are remembered is told.
    """

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("text",))]
    start: Annotated[Names, Role(stages=("models",), media=("text",), many=False, uses=("gpt",))] = ()
    size: Literal["tiny", "small", "base"] = "small"
    tokenizer: Literal["auto", "char", "byte", "bpe"] = "auto"
    context: int | None = Field(default=None, ge=8, le=32_768)
    steps: int | None = Field(default=None, ge=1, le=10_000_000)
    canaries: int = Field(default=0, ge=0, le=1_000)


TINY: dict[str, Any] = {"size": "tiny", "context": 16, "steps": 4}


class _Facts(Written):
    component: Literal["models/gpt"]


class Component:
    """Stage ``models``: trains on texts, makes texts."""

    takes = ("text",)
    makes = "text"

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """Seconds from the multiplications to be done, bytes from weights, optimizer and activations."""
        tokens, items = max(1_000, int((size.bytes or 2_000_000) * 0.7)), size.items or 1
        vocab = 1_024 if tokens < 300_000 else 4_096
        return estimate_of(self.config, machine, tokens=tokens, vocab=vocab, documents=items)

    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Train on the texts of ``data``; the checkpoint in ``ctx.out`` is one that ``transformers`` loads.

        Returns figures: held-out nats and bits a character, bits a byte, beside character frequencies (unigram) on the
        same text; None where nothing was held out. Where it goes on from another model, also that one's figure on the
        same text, the change with its interval, and a verdict. Errors: UserError where there is no text, or where the
        model to start from is none to start from.
        """
        if self.config.canaries:
            data = WithCanaries(data, self.config.canaries, seed=ctx.seed)
        with machine(device=ctx.device, threads=ctx.threads), heap.kept():
            start = taken_over(ctx, kind=self.config.tokenizer)
            corpus = prepare(data, ctx, kind=self.config.tokenizer if start is None else lambda _: start.tokenizer)
            run, writer = begin(self.config, corpus, ctx, start=start)
            if start is None:
                going_on = None
                trained = train_on(writer, corpus, run, ctx)
            else:
                going_on = GoingOn(start, data, ctx)
                trained = train_on(writer, corpus, run, ctx, rate=SHARE, start=going_on.digest)
            ctx.progress(run.steps, run.steps, doing=t("measuring on held-out text"))
            metrics = metrics_of(writer, corpus, run, trained, data)
            if going_on is not None:
                metrics |= going_on.figures(writer)
            tokens, samples = writer.usual_tokens, samples_of(run)
            metrics["memorization"] = of_texts(writer, data, seed=ctx.seed, tokens=tokens, samples=samples)
            save(ctx.out, writer, metrics, trained, component="models/gpt")
        return {**metrics, "seconds": round(trained.seconds, 2), "peak_bytes": peak_memory_bytes(ctx.device)}

    def load(self, folder: Path, *, device: str, threads: int) -> Writer:
        """The checkpoint written by ``fit``. Errors: UserError where a file is missing or damaged."""
        return read(folder, _Facts, device=device, threads=threads)[1]

    def export(self, folder: Path, to: Path) -> list[Path]:
        """A folder for ``transformers.AutoModelForCausalLM.from_pretrained``, and ``model.gguf`` for llama.cpp."""
        to.mkdir(parents=True, exist_ok=True)
        files = [Path(shutil.copyfile(folder / name, to / name)) for name in EXPORTED]
        return [*files, write_gguf(folder, to / "model.gguf", name=to.name or "gpt")]
