"""Generative adversarial network: draws pictures at one stroke, sharp where an autoencoder is soft.

Paper:   Goodfellow et al. (2014), arXiv:1406.2661, in the form of Huang et al. (2024), "The GAN is dead; long live the
         GAN!", arXiv:2501.05441 (paired relativistic loss, R1 and R2); Karras et al. (2020), arXiv:2006.06676 (adaptive
         augmentation); Miyato and Koyama (2018), arXiv:1802.05637 (conditions).
Code:    written from the papers; differs in: both players learn from one backward pass, and the penalties take slopes
         by differences (``nn/gan.py``); overfitting is told by held-out pictures.
Licence: ours. Weights inherit the licence of the pictures they learned from.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Estimate, Machine, Size
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import image as images
from intaglio.models import _adversary as game
from intaglio.models import _conditions
from intaglio.models._checkpoint import reading, write
from intaglio.models._cost import START, compiled_step, muon_flops, nominal, steps_seconds
from intaglio.models._draws import Draws, export_folder, picture, read_checkpoint
from intaglio.models._pictures import Form, Shard, choose_side, gather, probe
from intaglio.models._room import check_room
from intaglio.nn import features, measures, parallel
from intaglio.nn.augment import Kinds
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.cost import operations
from intaglio.nn.device import autocast, fast_dtype, machine
from intaglio.nn.loop import Plan, train
from intaglio.nn.memorization import picture_report
from intaglio.nn.order import derive, rows


class Config(StepConfig):
    """Keys of ``[models.x]`` with ``use = "gan"``; all but ``data`` have defaults that follow from size and data.

    data:        the pictures. size: ``tiny`` (minutes on 2 cores), ``small`` (half an hour), ``base`` (for a GPU).
    size_px:     side of the pictures it works on, a multiple of 4. width: channels at the finest level.
    condition:   what it is told of each picture: ``none``, its ``label``, or its caption (``text``).
    augment:     ``auto`` changes what the critic sees as much as it learns pictures by heart; ``off`` never does.
    flip:        also learn from mirrored pictures; right for faces and fruit, wrong for letters and flags.
    fit:         ``cover`` cuts the middle square, ``contain`` keeps all. background: behind what is transparent.
    images:      how many pictures it sees in all, repeats counted. batch: pictures a step. learning_rate: Muon's peak.
    gamma:       weight of the gradient penalties; more is steadier and slower. It starts at three times as much.
    truncation:  spread of the noise pictures are drawn from; 1 is what it was trained with, less is safer, more alike.
    publish_px:  prints are enlarged by a whole factor to at most this side; 0 keeps ``size_px``.
    """

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("image",))]
    size: Literal["tiny", "small", "base"] = "small"
    size_px: int | None = Field(default=None, ge=8, le=256, multiple_of=4)
    width: int | None = Field(default=None, ge=8, le=1024)
    condition: Literal["none", "label", "text"] = "none"
    augment: Literal["auto", "off"] = "auto"
    flip: bool = False
    fit: Literal["cover", "contain"] = "cover"
    background: Literal["white", "black"] = "white"
    images: int | None = Field(default=None, ge=1)
    batch: int | None = Field(default=None, ge=2, le=65536)
    learning_rate: float | None = Field(default=None, gt=0.0, le=1.0)
    gamma: float = Field(default=0.2, ge=0.0, le=10_000.0)
    truncation: float = Field(default=1.0, gt=0.0, le=2.0)
    publish_px: int = Field(default=256, ge=0, le=4096)


TINY: dict[str, Any] = {"data": "pictures", "size": "tiny", "size_px": 16, "width": 8, "images": 1_024, "batch": 16}


@dataclass(frozen=True)
class Dial:
    """What ``size`` stands for: largest side, channels, latents, blocks a level, pictures seen, pictures a step."""

    largest_px: int
    width: int
    latents: int
    blocks: int
    images: int
    batch: int


DIALS = {
    "tiny": Dial(32, 24, 64, 1, 96_000, 32),
    "small": Dial(64, 32, 128, 1, 500_000, 64),
    "base": Dial(128, 64, 128, 2, 4_000_000, 64),
}
FEWEST = 8  # pictures; with less there is nothing to tell a maker of pictures from a copier by
FEW = 64
UPDATED = 0.995  # decay of the averaged weights
PATIENCE = 3  # evaluations in a row clearly worse than the best before the training is taken back
MADE = 2_048  # pictures the last figures are of
LOW_COVERAGE = 0.3
FIRM = 3.0  # times gamma at the start, when the critic could run away; falling over the first third
SHOWN = 64
AHEAD = 64
REACHED, PER_STEP = 0.31, 0.015  # of steps_seconds


class Component:
    """The model stage ``gan``."""

    takes = ("image",)
    makes = "image"

    def __init__(self, config: Config) -> None:
        self.config = config

    # ------------------------------------------------------------------------------------------------------- planning
    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """Seconds and bytes for the side the dial allows; the pictures' own size may make it less."""
        dial, config = DIALS[self.config.size], self.config
        side = config.size_px or dial.largest_px
        items = size.items if size.items is not None else 1000
        shape = self._shape(side, 3, 0)
        work, weights, muon = _work_per_picture(shape)
        images = config.images or dial.images
        batch = config.batch or dial.batch
        counted = {"flops": work * batch + muon, "steps": images / batch, "reached": REACHED, "per_step": PER_STEP}
        seconds = START + steps_seconds(machine, **counted) + 0.001 * items
        made = 20 * min(game.UNITS, items // 10 + 1) + 5 * SHOWN + MADE  # each evaluation, then what is drawn
        seconds += steps_seconds(machine, flops=work / 6, steps=made, reached=REACHED, per_step=0)
        activations = batch * side * side * shape.width * 40
        cached = min(items * 3 * side**2, 2**30)
        return Estimate(seconds, 430_000_000 + weights * 32 + activations + cached)

    def _shape(self, side: int, channels: int, conditions: int) -> game.Shape:
        dial = DIALS[self.config.size]
        width = self.config.width or dial.width
        return game.Shape(
            size_px=side,
            channels=channels,
            width=width,
            latents=dial.latents,
            conditions=conditions,
            blocks=dial.blocks,
        )

    # ------------------------------------------------------------------------------------------------------- training
    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Train on the pictures of ``data``; see ``contracts.Model.fit``.

        Errors: UserError where there are too few pictures to learn from, all are the same, or one lacks the label or
        caption that ``condition`` asks for.
        """
        pictures, config = data.of("image"), self.config
        where = f"[models.{ctx.step}]"
        if not len(pictures):
            what = t("a gan learns from pictures, and the named steps hold none")
            raise UserError(what, where=where, fix=t("name a data step with pictures in 'data'"))
        if len(pictures.split("train")) < FEWEST:
            what = t("{count} pictures are too few for a gan: {least} at least", count=len(pictures), least=FEWEST)
            raise UserError(what, where=where, fix=t('add pictures, or set use = "vae"'))
        _conditions.check(pictures, config.condition, ctx)
        with machine(device=ctx.device, threads=ctx.threads) as device:
            median_px, grey = probe(pictures, ctx)
            side = config.size_px or choose_side(median_px, DIALS[config.size].largest_px)
            form = Form(size_px=side, channels=1 if grey else 3, fit=config.fit, background=config.background)
            sized = Component(config.model_copy(update={"size_px": side}))
            need = sized.estimate(Size(items=len(pictures)), nominal(ctx.device, ctx.threads)).bytes
            check_room(need, ctx, fix=t("lower size_px, width or batch"))
            shard = gather(pictures, form, ctx)
            if (shard.pixels[: min(shard.train, 256)] == shard.pixels[0]).all():
                what = t("the pictures are all the same: a gan would have nothing to learn")
                raise UserError(what, where=where, fix=t("look at the data step: intaglio show"))
            self._warn_of_few(shard, ctx)
            told = _conditions.read(pictures, config.condition, shard, ctx)
            return self._fit(shard, told, ctx, device)

    def _warn_of_few(self, shard: Shard, ctx: Context) -> None:
        if shard.train < FEW:
            text = t("only {count} pictures to learn from: what is drawn will be close to them", count=shard.train)
            hint = "" if self.config.flip else t("; flip = true doubles them where a mirrored picture is right too")
            ctx.warn(text + hint)
        if shard.heldout < game.FEWEST_HELDOUT:
            ctx.warn(t("only {count} pictures are held out: figures are of training pictures too", count=shard.heldout))

    def _fit(self, shard: Shard, told: _conditions.Told, ctx: Context, device: torch.device) -> dict[str, Any]:
        config = self.config
        shape = self._shape(shard.form.size_px, shard.form.channels, told.conditions.dims)
        session = Session(shape, shard, told, config, ctx, device)
        model = session.model
        plan = Plan(
            accumulate=session.parts,
            steps=session.steps,
            seed=ctx.seed,
            per_step=session.batch,
            unit="img/s",
            ema=UPDATED,
            cooldown=0.5,
            clip=0.0,  # the players' gradients have nothing to do with each other's size
        )
        rate = config.learning_rate or 0.01
        own = config.model_copy(update={"size_px": shard.form.size_px})
        expected = functools.partial(Component(own).estimate, Size(items=shard.train))
        step = compiled_step(session.loss, [model.generator, model.critic], expected=expected, ctx=ctx)
        found = train(
            model,
            step.loss,
            optimizers=game.optimizers(model, rate=rate, dtype=session.dtype),
            plan=plan,
            work=ctx.work,
            report=ctx,
            evaluate=session.evaluate,
            preview=session.preview,
            identity={
                "shape": asdict(shape),
                "flip": config.flip,
                "gamma": config.gamma,
                "augment": config.augment,
                "condition": config.condition,
                "rate": rate,
                **step.facts,
            },
            say=t,
        )
        metrics = {**session.close(), **step.facts}
        metrics |= {"steps": found.steps, "best_step": found.best_step, "train_seconds": round(found.seconds, 1)}
        metrics |= {
            "images_per_second": round(found.steps * session.batch / max(found.seconds, 1e-9), 1),
            "curve": found.curve,
        }
        metrics["rollbacks"] = found.rollbacks
        write_atomic(ctx.out / "curve.csv", found.csv())
        return metrics

    # --------------------------------------------------------------------------------------------- after the training
    def load(self, folder: Path, *, device: str, threads: int) -> Draws:
        """The checkpoint, ready to draw, with the ``truncation`` and ``publish_px`` it was trained with."""
        with reading(folder, "gan"):
            return Draws(*read_checkpoint(folder, device), threads=threads)

    def export(self, folder: Path, to: Path) -> list[Path]:
        """safetensors, ``config.json`` and a ``README.md`` that says how to read them; no other library has this
        network."""
        return export_folder(folder, to)


class Session:
    """What the training loop calls: the loss of a step, the held-out distance, and pictures to look at."""

    def __init__(
        self,
        shape: game.Shape,
        shard: Shard,
        told: _conditions.Told,
        config: Config,
        ctx: Context,
        device: torch.device,
    ) -> None:
        self.shard, self.told, self.config, self.ctx, self.device = shard, told, config, ctx, device
        dial = DIALS[config.size]
        self.batch = config.batch or dial.batch
        self.steps = max(2, (config.images or dial.images) // self.batch)
        self.parts = parallel.parts(self.batch)  # one a process that shares the training
        self.dtype = fast_dtype(str(device))
        self._block: tuple[int, np.ndarray[Any, Any]] = (-1, np.empty(0))
        train_pixels = shard.pixels[: shard.train]
        small = train_pixels.nbytes <= 2**30
        self.pixels: Tensor | np.ndarray[Any, Any] = torch.from_numpy(np.array(train_pixels)) if small else train_pixels
        many = shard.heldout >= game.FEWEST_HELDOUT
        first = shard.train if many else 0
        self.judged = first + np.arange(len(shard.pixels) - first)  # rows that figures are of
        self.units = self.judged[:: max(1, len(self.judged) // game.UNITS)][: game.UNITS]
        torch.manual_seed(derive(ctx.seed, "init"))
        self.model = game.Adversaries(shape, units=len(self.units))
        mean_CHW, spread = _moments(train_pixels)
        self.model.generator.start_from(mean_CHW, spread)
        self.model.to(device)
        edge = np.concatenate([train_pixels[:1000, :, 0], train_pixels[:1000, :, -1]], axis=2)
        border = torch.from_numpy(edge.mean((0, 2), dtype=np.float64) / 127.5 - 1).float().view(-1, 1, 1).to(device)
        kinds = Kinds(mirror=config.flip) if config.augment == "auto" else None
        judge = "heldout" if many else "pairs"
        self.rules = game.Rules(gamma=config.gamma, kinds=kinds, border=border, judge=judge)
        self.features = features.load("random", str(device))
        self.real_ND = self.features(self._pixels(self.units))

    # ----------------------------------------------------------------------------------------------------- for the loop
    def loss(self, micro: int, generator: torch.Generator) -> Tensor:
        """The critic's loss of a micro-batch with its penalties; its gradients teach both players.

        A pair's loss and a probe's penalty ask for no other pair, so the mean over the parts of an update is that over
        the whole; each part draws its own noise. What steers the augmentation is told from the answers of all parts.
        Not a number where the pictures have become clearly worse for ``PATIENCE`` evaluations: the loop then goes back.
        """
        model = self.model
        step, part = divmod(micro, self.parts)
        index = self._rows(step, self.batch)[part :: self.parts]
        chosen = self.pixels[torch.from_numpy(index)] if isinstance(self.pixels, Tensor) else self.pixels[index]
        x_BCHW = game.floats(chosen, self.device)
        told = self._told(index)
        if self.config.flip:
            turned = torch.rand(len(x_BCHW), 1, 1, 1, generator=generator, device=self.device) < 0.5
            x_BCHW = torch.where(turned, x_BCHW.flip(3), x_BCHW)
        with autocast(str(self.device), self.dtype):
            rules = replace(self.rules, gamma=self.rules.gamma * FIRM ** max(0.0, 1 - 3 * step / self.steps))
            value, answers = game.play(model, x_BCHW, told, rules, generator)
            if self.rules.kinds is not None and step % game.HELDOUT_EVERY == 0:
                self._steer(step, answers, generator)
        return value * torch.where(model.worse >= PATIENCE, float("nan"), 1.0)

    def _steer(self, step: int, answers: Tensor, generator: torch.Generator) -> None:
        """The same move of the chance of augmentation in every process, from what the critic said to all of them."""
        if self.parts > 1:
            both = parallel.join(self.device).gathered(answers.view(1, 2, -1))
            answers = both.transpose(0, 1).flatten()
            generator = torch.Generator(device=self.device).manual_seed(derive(self.ctx.seed, "steer", step))
        pictures = self.batch * game.HELDOUT_EVERY
        game.steer(self.model, answers, self._heldout(step), self.rules, generator=generator, pictures=pictures)

    def _heldout(self, step: int) -> tuple[Tensor, Tensor | None] | None:
        """A few held-out pictures with their conditions; None where there are too few to tell anything by."""
        if self.rules.judge != "heldout":
            return None
        index = self.shard.train + rows(step, batch=32, count=self.shard.heldout, seed=derive(self.ctx.seed, "held"))
        return game.floats(self.shard.pixels[index], self.device), self._told(index)

    def _rows(self, step: int, batch: int) -> np.ndarray[Any, Any]:
        block, place = divmod(step, AHEAD)
        if self._block[0] != block:  # the order of many steps costs as much as that of one
            ahead = rows(block, batch=batch * AHEAD, count=self.shard.train, seed=self.ctx.seed)
            self._block = (block, ahead.reshape(AHEAD, batch))
        return self._block[1][place]

    def _told(self, index: np.ndarray[Any, Any]) -> Tensor | None:
        found = self.told.rows(index)
        return None if found is None else found.to(self.device)

    def _pixels(self, index: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(np.array(self.shard.pixels[index]))

    def _made(self, index: np.ndarray[Any, Any], *parts: object) -> Tensor:
        """One picture for each of these rows, told what its picture is told."""
        z = game.noise(len(index), self.model.shape.latents, self.ctx.seed, *parts)
        with autocast(str(self.device), self.dtype):
            return game.drawn(self.model.generator, z, self.told.rows(index))

    def evaluate(self) -> Tensor:
        """Of each held-out picture its part of the distance to what the averaged generator makes; less is better."""
        model = self.model
        made_ND = self.features(self._made(self.units, "evaluate"))
        if not torch.isfinite(made_ND).all():
            return torch.full((len(self.units),), float("inf"))
        parts_N = game.distance_parts(self.real_ND, made_ND).float()
        covered = measures.prdc(self.real_ND, made_ND, k=min(5, len(self.units) - 1))
        now = {"distance": float(parts_N.mean()), "recall": covered.recall, "coverage": covered.coverage}
        now |= {"augmented": float(model.chance), "overfit": float(model.overfit), "worse": int(self._compare(parts_N))}
        self.ctx.metric(**{f"now_{name}": round(value, 5) for name, value in now.items()})
        return parts_N

    def _compare(self, parts_N: Tensor) -> float:
        """Evaluations in a row that were clearly worse than the best, this one counted."""
        model, best_N = self.model, self.model.best_N.cpu()
        change = measures.bootstrap_interval(parts_N - best_N, seed=self.ctx.seed)
        if not bool(model.known) or change.value < 0:
            model.best_N.copy_(parts_N)
            model.known.fill_(1.0)
            model.worse.zero_()
        elif change.low > 0 and float(parts_N.mean()) > 2 * float(best_N.mean()):
            model.worse.add_(1.0)
            if float(model.worse) == PATIENCE:
                text = t("what is drawn has become clearly worse {count} times in a row", count=PATIENCE)
                self.ctx.warn(text)
        else:
            model.worse.zero_()
        return float(model.worse)

    def preview(self, step: int) -> None:
        """A contact sheet of the same seeds each time."""
        self.ctx.preview(f"step-{step:05d}.png", self._sheet())

    def _sheet(self) -> bytes:
        index = np.arange(SHOWN) % self.shard.train
        tiles = [picture(each) for each in self._made(index, "sheet")]
        return images.dump(images.grid(tiles, columns=16 if tiles[0].width < 48 else 8))

    # ------------------------------------------------------------------------------------------------------ at the end
    def close(self) -> dict[str, Any]:
        """Write the checkpoint and the sheet; the figures are returned, of held-out pictures where there are any."""
        model, shard, out = self.model, self.shard, self.ctx.out
        count = min(MADE, len(self.judged), shard.train)
        index = self.judged[:count]
        made = self._made(np.resize(self.judged, max(count, min(MADE, 512))), "figures")
        known = self._pixels(np.arange(count))
        found = game.figures(self.features, self._pixels(index), made, known)
        where = "heldout" if self.rules.judge == "heldout" else "train"
        metrics: dict[str, Any] = {f"{where}_{name}": value for name, value in found.items()}
        if shard.heldout >= 16:
            known = self._pixels(np.arange(min(shard.train, 2 * MADE)))
            strange = self._pixels(shard.train + np.arange(min(shard.heldout, MADE)))
            metrics["memorization"] = picture_report(self.features, made, known, strange)
        metrics |= {"features": self.features.name, "condition": self.told.conditions.kind, "made": len(made)}
        metrics |= {"size_px": shard.form.size_px, "skipped": shard.skipped, "augmented": round(float(model.chance), 3)}
        metrics |= {"train_pictures": shard.train, "heldout_pictures": shard.heldout}
        metrics["parameters"] = sum(p.numel() for p in model.generator.parameters())
        metrics["critic_parameters"] = sum(p.numel() for p in model.critic.parameters())
        metrics |= self._classes(made)
        self._warn_of_collapse(found)
        conditions = self.told.conditions
        facts = {
            "kind": "gan",
            "shape": asdict(model.shape),
            "form": asdict(shard.form),
            "conditions": _conditions.stored(conditions),
            "truncation": self.config.truncation,
            "publish_px": self.config.publish_px,
            "metrics": metrics,
        }
        write(out, model.generator.state_dict(), facts)
        draws = Draws(model.generator, facts, threads=self.ctx.threads)
        write_atomic(
            out / "samples.png", draws.contact_sheet([derive(self.ctx.seed, "sheet", n) for n in range(SHOWN)])
        )
        return metrics

    def _classes(self, made: Tensor) -> dict[str, Any]:
        if self.told.conditions.kind != "label":
            return {}
        assert self.told.stored is not None
        known = np.arange(min(self.shard.train, MADE))
        labels = np.asarray(self.told.stored[known])
        shares = game.classes_made(self.features, self._pixels(known), labels, made, self.told.conditions.dims)
        return {"class_shares": dict(zip(self.told.conditions.names, shares, strict=True))}

    def _warn_of_collapse(self, found: Mapping[str, Any]) -> None:
        covered, copies = found.get("coverage"), found.get("copies_coverage")
        if covered is not None and copies and covered < LOW_COVERAGE * copies:
            text = t(
                "what is drawn covers {covered:.0%} of the pictures (copies would cover {copies:.0%}): it has "
                "collapsed to a few kinds, or has not learned enough; raise images or gamma",
                covered=covered,
                copies=copies,
            )
            self.ctx.warn(text)


def _moments(pixels_NCHW: np.ndarray[Any, Any]) -> tuple[Tensor, float]:
    """The mean picture and the standard deviation around it, in [-1, 1], of at most some 20,000 pictures."""
    chosen = pixels_NCHW[:: max(1, len(pixels_NCHW) // 20_000)]
    total = np.zeros(chosen.shape[1:], dtype=np.float64)
    squares = np.zeros(chosen.shape[1:], dtype=np.float64)
    for start in range(0, len(chosen), 256):
        part = chosen[start : start + 256].astype(np.float64) / 127.5 - 1
        total += part.sum(0)
        squares += (part**2).sum(0)
    mean = total / len(chosen)
    return torch.from_numpy(mean).float(), float(np.sqrt(np.maximum(squares / len(chosen) - mean**2, 0).mean()))


@functools.lru_cache(maxsize=16)
def _work_per_picture(shape: game.Shape) -> tuple[float, int, float]:
    """Floating-point operations of one training step a picture, the number of weights, and Muon's operations of a step;
    told without computing."""
    x, z = torch.zeros(1, shape.channels, shape.size_px, shape.size_px), torch.zeros(1, shape.latents)
    critic, _ = operations(lambda: game.Adversaries(shape), lambda model: model.critic(x))
    generator, model = operations(lambda: game.Adversaries(shape), lambda model: model.generator(z))
    flops = 3.0 * (generator + (2 + 4 / game.PROBED) * critic)
    matrices = muon_flops(game.matrices(model), together=game.ROWS)
    return flops, sum(p.numel() for p in model.parameters()), matrices
