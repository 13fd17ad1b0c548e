"""Vector-quantized autoencoder: turns pictures into maps of whole numbers and back, for models that write in codes.

Paper:   van den Oord et al. (2017), "Neural Discrete Representation Learning", arXiv:1711.00937, eq. 3 (without the
         second term: the codebook follows by moving averages, appendix A.1).
Code:    written from the paper; differs in: entries that are hardly used start anew; the decoder adds to the mean
         picture; encoder and decoder start from the principal components of patches; weights are averaged.
Licence: ours. Weights inherit the licence of the pictures they learned from.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Estimate, Machine, Size
from intaglio.core.errors import UserError
from intaglio.core.hashing import digest
from intaglio.core.i18n import t
from intaglio.media import image as images
from intaglio.models import _quantized as vq
from intaglio.models._checkpoint import export, reading
from intaglio.models._cost import START, judging_seconds, training_seconds
from intaglio.models._feed import ALL, Feed, floats, moments
from intaglio.models._pictures import Form, Shard, choose_side, gather, probe
from intaglio.models._room import check_room
from intaglio.nn import heap, parallel
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.cost import operations
from intaglio.nn.device import autocast, fast_dtype, machine
from intaglio.nn.loop import Plan, patience, train
from intaglio.nn.memorization import membership
from intaglio.nn.optim import adamw
from intaglio.nn.order import derive
from intaglio.nn.quantize import usage


class Config(StepConfig):
    """Keys of ``[models.x]`` with ``use = "vq"``; all but ``data`` have defaults that follow from the size.

    data:        the pictures. size: ``tiny`` (a minute or two on 2 cores), ``small`` (a quarter of an hour), ``base``.
    size_px:     side of the pictures it works on, a multiple of 4 (of 8 where ``down`` is 8).
    codebook:    how many codes there are. dims: numbers of a codebook entry. down: pixels of a side that share a code.
    width:       channels of the convolutions. commitment: weight of the pull towards the entries.
    decay:       share the codebook keeps of itself at each step.
    flip:        also learn from mirrored pictures; right for faces and fruit, wrong for letters and flags.
    fit:         ``cover`` cuts the middle square, ``contain`` keeps all. background: behind what is transparent.
    images:      how many pictures it sees in all, repeats counted. batch: pictures a step. learning_rate: the peak.
    publish_px:  prints are enlarged by a whole factor to at most this side; 0 keeps ``size_px``.
    """

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("image",))]
    size: Literal["tiny", "small", "base"] = "small"
    size_px: int | None = Field(default=None, ge=8, le=512, multiple_of=4)
    codebook: int | None = Field(default=None, ge=2, le=65536)
    dims: int = Field(default=16, ge=1, le=1024)
    down: Literal[4, 8] = 4
    width: int | None = Field(default=None, ge=8, le=4096)
    commitment: float = Field(default=0.25, ge=0.0, le=100.0)
    decay: float = Field(default=0.98, ge=0.0, lt=1.0)
    flip: bool = False
    fit: Literal["cover", "contain"] = "cover"
    background: Literal["white", "black"] = "white"
    images: int | None = Field(default=None, ge=1)
    batch: int | None = Field(default=None, ge=1, le=65536)
    learning_rate: float | None = Field(default=None, gt=0.0, le=1.0)
    publish_px: int = Field(default=256, ge=0, le=4096)


TINY: dict[str, Any] = {
    "data": "pictures",
    "size": "tiny",
    "size_px": 16,
    "width": 16,
    "codebook": 32,
    "dims": 8,
    "images": 1_200,
    "batch": 16,
}
# of each size: largest side, channels, blocks, codes, pictures seen
DIALS = {"tiny": (64, 64, 1, 256, 32_000), "small": (64, 96, 2, 512, 120_000), "base": (128, 128, 2, 1024, 400_000)}
COPIES = 2_000  # no picture is shown more often than this
START_FROM = 256  # pictures whose patches the linear paths start from


class Component:
    """The model stage ``vq``."""

    takes = ("image",)
    makes = "image"

    def __init__(self, config: Config) -> None:
        self.config = config

    # ------------------------------------------------------------------------------------------------------- planning
    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """Seconds and bytes for the side the dial allows; the pictures' own size may make it less."""
        items = size.items if size.items is not None else 1000
        shape = self._shape(self.config.size_px or DIALS[self.config.size][0], 3)
        work, batch = work_per_picture(shape), self._batch(items)
        seconds = START + 0.002 * items / max(1, machine.threads)
        seconds += training_seconds(
            machine, work=work, images=self._images(items), batch=batch, pixels=shape.size_px**2, items=items
        )
        seconds += judging_seconds(machine, work=work, items=items, draws=0, times=1.0)
        return Estimate(seconds, self._bytes(shape, items))

    def _bytes(self, shape: vq.Shape, items: int) -> int:
        side, batch = shape.size_px, self._batch(items)
        weights = 60 * shape.width**2 * (1 + shape.blocks) + 2 * shape.codebook * (shape.dims + math.prod(shape.code))
        activations = (
            batch * side * side * max(shape.width, 32) * 6 + batch * math.prod(shape.code) * shape.codebook * 12
        )
        return 500_000_000 + weights * 32 + activations + min(items * math.prod(shape.pixels), 2**30)

    def _images(self, items: int) -> int:
        return self.config.images or min(DIALS[self.config.size][4], max(1, items) * COPIES)

    def _batch(self, items: int) -> int:
        return self.config.batch or (32 if items >= 32 else 16)

    def _shape(self, side: int, channels: int) -> vq.Shape:
        config, (_, width, blocks, codebook, _) = self.config, DIALS[self.config.size]
        return vq.Shape(
            size_px=side,
            channels=channels,
            width=config.width or width,
            blocks=blocks,
            down=config.down,
            dims=config.dims,
            codebook=config.codebook or codebook,
        )

    # ------------------------------------------------------------------------------------------------------- training
    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Train on the pictures of ``data``; see ``contracts.Model.fit``.

        Errors: UserError where there is no picture to learn from, or the training would not fit into memory.
        """
        config, pictures = self.config, data.of("image")
        where = f"[models.{ctx.step}]"
        if not len(pictures):
            what = t("a {model} learns from pictures, and the named steps hold none", model="vq")
            raise UserError(what, where=where, fix=t("name a data step with pictures in 'data'"))
        with machine(device=ctx.device, threads=ctx.threads) as device, heap.kept():
            median_px, grey = probe(pictures, ctx)
            side = config.size_px or choose_side(median_px, DIALS[config.size][0])
            if side % config.down:
                what = t(
                    "a map of codes needs a side that is a multiple of {down}; it is {side}",
                    down=config.down,
                    side=side,
                )
                raise UserError(what, where=where, fix=t("change size_px, or set down = 4"))
            form = Form(size_px=side, channels=1 if grey else 3, fit=config.fit, background=config.background)
            need = self._bytes(self._shape(side, form.channels), len(pictures))
            check_room(need, ctx, fix=t("lower size_px, width or batch"))
            return self._fit(gather(pictures, form, ctx), ctx, device)

    def _fit(self, shard: Shard, ctx: Context, device: torch.device) -> dict[str, Any]:
        config = self.config
        self._warn(shard, ctx)
        torch.manual_seed(derive(ctx.seed, "init"))
        model = vq.Tokenizer(self._shape(shard.form.size_px, shard.form.channels), decay=config.decay)
        start = floats(shard.pixels[: min(shard.train, START_FROM)], torch.device("cpu"))
        model.start_from(*moments(shard.pixels[: shard.train]), start)
        model.to(device)
        batch = self._batch(shard.train)
        steps = max(2, self._images(shard.train) // batch)
        parts = parallel.parts(batch)
        model.codebook.shared = parts > 1
        plan = Plan(
            steps=steps,
            seed=ctx.seed,
            per_step=batch,
            unit="img/s",
            ema=0.99,
            cooldown=0.6,
            patience=patience(Plan.evaluations),
            accumulate=parts,
        )
        identity = {"shape": asdict(model.shape), "flip": config.flip, "commitment": config.commitment}
        identity |= {"decay": config.decay}
        feed = Feed(shard, batch=batch // parts, seed=ctx.seed, device=device, flip=config.flip)
        session = Session(model, feed, config, ctx)
        session.keep_usage(digest([identity, plan.exact()]))
        found = train(
            model,
            session.loss,
            optimizers=[adamw(model.parameters(), lr=config.learning_rate or 2e-3, betas=(0.9, 0.99))],
            plan=plan,
            work=ctx.work,
            report=ctx,
            evaluate=session.evaluate if shard.heldout else None,
            preview=session.preview,
            identity=identity,
            say=t,
        )
        metrics = session.close()
        metrics |= {"steps": found.steps, "best_step": found.best_step, "train_seconds": round(found.seconds, 1)}
        metrics |= {"images_per_second": round(found.steps * batch / max(found.seconds, 1e-9), 1), "curve": found.curve}
        write_atomic(ctx.out / "curve.csv", found.csv())
        return metrics

    def _warn(self, shard: Shard, ctx: Context) -> None:
        if shard.train < 64:
            ctx.warn(
                t("only {count} pictures to learn from: prints will be close to them or unclear", count=shard.train)
            )
        if not shard.heldout:
            ctx.warn(t("no picture is held out: figures are of the training pictures, and the last weights are kept"))
        if shard.train > 1 and (shard.pixels[: min(shard.train, 256)] == shard.pixels[0]).all():
            ctx.warn(t("the pictures are all the same"))

    # --------------------------------------------------------------------------------------------- after the training
    def load(self, folder: Path, *, device: str, threads: int) -> vq.Codes:
        """The checkpoint, ready to turn pictures into codes and codes into pictures."""
        with reading(folder, "vq"):
            return vq.Codes(*vq.read_checkpoint(folder, device), threads=threads)

    def export(self, folder: Path, to: Path) -> list[Path]:
        """safetensors, ``config.json`` and a ``README.md`` that says how to read them; no other library has it."""
        _, facts = vq.read_checkpoint(folder, "cpu")
        return export(folder, to, facts, page=README)


class Session:
    """What the training loop calls: the loss of a step, the held-out loss, and pictures to look at."""

    def __init__(self, model: vq.Tokenizer, feed: Feed, config: Config, ctx: Context) -> None:
        self.model, self.feed, self.config, self.ctx = model, feed, config, ctx
        self.device, self.seen = feed.device, 0
        self.dtype = fast_dtype(str(self.device))
        self.points: dict[int, list[float]] = {}

    def keep_usage(self, identity: str) -> None:
        """Take up what an earlier, killed part of this training noted of the codebook's use."""
        self.identity = identity
        try:
            kept = json.loads((self.ctx.work / "usage.json").read_text("utf-8"))
        except (OSError, ValueError):
            return
        if kept["identity"] == identity:
            self.points = {int(seen): point for seen, point in kept["points"].items()}

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Squared error in units of the data's variance, and the commitment (eq. 3)."""
        self.seen = (step + 1) * self.feed.batch
        x_BCHW = self.feed(step, generator)
        with autocast(str(self.device), self.dtype):
            rebuilt, quantized = self.model(x_BCHW, generator)
        error = (rebuilt - x_BCHW).square().mean() / self.model.spread.square()
        return error + self.config.commitment * quantized.commitment

    def evaluate(self) -> Tensor:
        """Held-out squared error of each picture in units of the data's variance; notes which codes are used."""
        error_N, codes = self._error(self.feed.looked_at)
        used, perplexity = usage(codes, self.model.shape.codebook)
        epoch = self.seen / max(1, self.feed.shard.train)
        self.points[self.seen] = [round(epoch, 3), used, round(perplexity, 2), int(self.model.codebook.revived)]
        kept = {"identity": self.identity, "points": self.points}
        write_atomic(self.ctx.work / "usage.json", json.dumps(kept, sort_keys=True).encode())
        self.ctx.metric(codes_used=used, perplexity=round(perplexity, 2))
        return error_N / float(self.model.spread) ** 2

    @torch.no_grad()
    def _error(self, pixels: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        """Mean squared error of each picture in [0, 1] units, (N,), and the codes, in float32."""
        squares, codes = [], []
        for start in range(0, len(pixels), vq.AT_ONCE):
            x = floats(pixels[start : start + vq.AT_ONCE], self.device)
            codes.append(self.model.codes(x))
            squares.append((self.model.picture(codes[-1]) - x).square().mean((1, 2, 3)))
        return torch.cat(squares).cpu(), torch.cat(codes).cpu()

    def preview(self, step: int) -> None:
        """A contact sheet: originals above their reconstructions."""
        self.ctx.preview(f"step-{step:05d}.png", vq.sheet(self.model, self.feed.shown))

    def close(self) -> dict[str, Any]:
        """Write the checkpoint and the sheets; the figures are returned, of held-out pictures where there are any."""
        model, feed, out = self.model, self.feed, self.ctx.out
        shape, where = model.shape, "heldout" if feed.shard.heldout else "train"
        error_N, codes = self._error(feed.judged)
        mean = model.mean_CHW.cpu().numpy()
        alike = np.mean([np.square(part / 255.0 - mean).mean() for part in feed.judged])
        known_N, learned = self._error(feed.train[:ALL])
        counts = torch.nn.functional.one_hot(learned, shape.codebook).sum(0) + 1e-3
        model.frequency_HWK.copy_(counts / counts.sum(-1, keepdim=True))
        metrics: dict[str, Any] = {
            f"{where}_reconstruction_mse": round(float(error_N.mean()), 6),
            f"{where}_baseline_mse": round(float(alike), 6),
        }
        if feed.shard.heldout:
            metrics["memorization"] = membership(known_N.tolist(), error_N.tolist())
        metrics[f"{where}_codes_used"], perplexity = usage(codes, shape.codebook)
        metrics[f"{where}_perplexity"] = round(perplexity, 2)
        metrics["codes_used"], perplexity = usage(learned, shape.codebook)
        metrics |= {
            "perplexity": round(perplexity, 2),
            "codebook": shape.codebook,
            "revived": int(model.codebook.revived),
        }
        metrics["bits_per_picture"] = round(math.prod(shape.code) * math.log2(shape.codebook), 1)
        metrics |= {"code_side": shape.code[0], "size_px": shape.size_px, "train_pictures": feed.shard.train}
        metrics |= {"heldout_pictures": feed.shard.heldout, "skipped": feed.shard.skipped}
        metrics["parameters"] = sum(p.numel() for p in model.parameters())
        facts = {
            "kind": "vq",
            "form": asdict(feed.shard.form),
            "publish_px": self.config.publish_px,
            "metrics": metrics,
        }
        vq.write_checkpoint(out, model, facts)
        write_atomic(out / "usage.csv", self._usage_csv())
        write_atomic(out / "reconstructions.png", vq.sheet(model, feed.shown))
        drawn = vq.Codes(model, facts, threads=self.ctx.threads)
        chance = torch.stack([drawn.chance(derive(self.ctx.seed, "sheet", n)) for n in range(48)])
        tiles = [vq.tile(each) for each in drawn.draw(chance)]
        write_atomic(out / "samples.png", images.dump(images.grid(tiles, columns=8)))
        return metrics

    def _usage_csv(self) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["pictures", "epoch", "codes_used", "perplexity", "revived"])
        writer.writerows([seen, *point] for seen, point in sorted(self.points.items()))
        return text.getvalue().encode()


def work_per_picture(shape: vq.Shape) -> float:
    """Floating-point operations of one training step a picture; told without computing."""
    x = torch.zeros(1, *shape.pixels)
    flops, _ = operations(lambda: vq.Tokenizer(shape), lambda model: model.decode(model.encode(x)))
    return 3.0 * flops + 4.0 * math.prod(shape.code) * shape.codebook * shape.dims


README = """# A vector-quantized autoencoder made by Intaglio

`model.safetensors` holds all weights in float32; `config.json` says the shape.

- `encoder.*`: pictures (B, C, H, W) in [0, 1], less `mean_CHW`, divided by `spread`, to (B, dims, h, w): the sum of the
  convolutions `encoder.maps` and of the linear path `encoder.plain`.
- `codebook.vectors_KC`: the entries; a code is the index of the nearest one.
- `decoder.*`: entries (B, dims, h, w) to (B, C, H, W); times `spread`, plus `mean_CHW`, cut to [0, 1].
- `frequency_HWK`: how often each code came at each place in training; what `sample` draws from.

The layers are those of `intaglio/nn/vision.py` (`MapEncoder`, `MapDecoder`). The weights inherit the licence of the
pictures they learned from.
"""
