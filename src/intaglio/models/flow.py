"""Rectified flow: learns the way from noise to pictures, draws in a few steps, varies pictures and fills in holes.

Paper:   Liu et al. (2022), "Flow Straight and Fast", arXiv:2209.03003, eq. 1; Lipman et al. (2022), arXiv:2210.02747;
         Ho and Salimans (2022), arXiv:2207.12598 (guidance); Frans et al. (2024), arXiv:2410.12557 (few steps);
         Rombach et al. (2022), arXiv:2112.10752 (learning over the codes of an autoencoder).
Code:    written from the papers; differs in: Muon moves the matrices, shortcuts are learned in a phase of their own.
Licence: ours. Weights inherit the licence of the pictures they learned from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Estimate, Machine, Size
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import image as images
from intaglio.models import _conditions
from intaglio.models import _flow as fn
from intaglio.models._checkpoint import reading
from intaglio.models._cost import START, compiled_step, muon_flops, steps_seconds
from intaglio.models._flow_figures import DRAWN, LEAST, figures
from intaglio.models._flow_prints import Flow, export_folder
from intaglio.models._ignored import warn_of_ignored
from intaglio.models._pictures import Form, Shard, choose_side, gather, probe
from intaglio.models._prints import Prints, codes_of
from intaglio.models._room import check_room
from intaglio.nn import flow, heap, parallel
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.cost import operations
from intaglio.nn.device import fast_dtype, machine
from intaglio.nn.graphs import recorded_on_gpu
from intaglio.nn.loop import Plan, Trained, train
from intaglio.nn.optim import Muon, adamw
from intaglio.nn.order import derive, rows


class Config(StepConfig):
    """Keys of ``[models.x]`` with ``use = "flow"``; all but ``data`` have defaults that follow from size and data.

    data:        the pictures. codes: a ``vae`` step; the flow then learns over its codes, for large pictures.
    size:        ``tiny`` (two minutes on 2 cores), ``small`` (half an hour), ``base``. size_px: side of the pictures it
                 works on, a multiple of 4. width: channels of the finest level (``unet``), numbers a patch (``dit``,
                 a multiple of 64). net: ``unet``, or ``dit`` for a transformer over patches.
    condition:   ``label`` (of the item) or ``text`` (its caption): what it can then be asked for. guidance: how much it
                 keeps to what it is asked for; 1 is as learned, 2 to 4 is stricter and less various.
    steps:       how many steps a picture is drawn in. sampler: ``heun`` (two looks a step), ``euler`` (one), or
                 ``shortcut``, for 1 to 4 steps, for which the last part of the training is spent on shortcuts.
    images:      how many pictures it sees in all, repeats counted. batch: pictures a step. learning_rate: Muon's peak.
    flip:        also learn from mirrored pictures; right for faces and fruit, wrong for letters and flags.
    fit:         ``cover`` cuts the middle square, ``contain`` keeps all. background: behind what is transparent.
    publish_px:  prints are enlarged by a whole factor to at most this side; 0 keeps ``size_px``.
    """

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("image",))]
    codes: Annotated[Names, Role(stages=("models",), media=("image",), many=False, uses=("vae",))] = ()
    size: Literal["tiny", "small", "base"] = "small"
    net: Literal["unet", "dit"] = "unet"
    size_px: int | None = Field(default=None, ge=8, le=256, multiple_of=4)
    width: int | None = Field(default=None, ge=16, le=1024, multiple_of=16)
    condition: Literal["none", "label", "text"] = "none"
    guidance: float = Field(default=1.5, ge=0.0, le=20.0)
    steps: int | None = Field(default=None, ge=1, le=1000)
    sampler: Literal["heun", "euler", "shortcut"] = "heun"
    images: int | None = Field(default=None, ge=1)
    batch: int = Field(default=32, ge=1, le=65536)
    learning_rate: float | None = Field(default=None, gt=0.0, le=1.0)
    flip: bool = False
    fit: Literal["cover", "contain"] = "cover"
    background: Literal["white", "black"] = "white"
    publish_px: int = Field(default=256, ge=0, le=4096)

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.net == "dit" and (self.width or 64) % 64:
            raise ValueError(t("width of a dit is a multiple of 64; got {width}", width=self.width))
        return self


TINY: dict[str, Any] = {"data": "pictures", "size": "tiny", "size_px": 16, "width": 16, "images": 600, "batch": 16}


@dataclass(frozen=True)
class Dial:
    """What ``size`` stands for: largest side, channels, blocks, layers and width of a ``dit``, pictures seen."""

    largest_px: int
    width: int
    blocks: int
    layers: int
    dit_width: int
    images: int


DIALS = {
    "tiny": Dial(32, 64, 1, 4, 192, 48_000),
    "small": Dial(64, 64, 2, 6, 256, 200_000),
    "base": Dial(128, 96, 2, 8, 384, 800_000),
}
STEPS = {"heun": 8, "euler": 16, "shortcut": 4}
FINEST = 32  # parts of the way: shortcuts begin where single velocities are fine enough
SHORTCUTS = 0.3  # share of the training that is spent on them, where they are wanted
DROPPED = 0.15  # share of pictures shown without their condition
LOOKED_AT = 256
COPIES = 2_000  # no picture is shown more often than this
REACHED, DRAWING, PER_STEP = 0.52, 0.38, 0.019  # of steps_seconds; drawing: when it only looks


class Component:
    """The model stage ``flow``."""

    takes = ("image",)
    makes = "image"

    def __init__(self, config: Config) -> None:
        self.config = config

    # ------------------------------------------------------------------------------------------------------- planning
    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """Seconds and bytes for the side the dial allows; the pictures' own size may make it less."""
        config, items = self.config, size.items if size.items is not None else 1000
        side = config.size_px or DIALS[config.size].largest_px
        shape = self._shape(side // 4 if config.codes else side, 4 if config.codes else 3, 0)
        work, weights, moving = _work_per_picture(shape)
        steps = self._images(items) / config.batch
        a_step = 3 * work * config.batch + moving
        seconds = steps_seconds(machine, flops=a_step, steps=steps, reached=REACHED, per_step=PER_STEP)
        if config.sampler == "shortcut":
            seconds *= 1.25
        looks = 20 * 2 * min(LOOKED_AT, max(16, items // 10))  # each evaluation, then all that is drawn
        looks += (5 * 16 + 48 + min(DRAWN, max(LEAST, items))) * self._looks()
        seconds += START + 0.001 * items + steps_seconds(machine, flops=work, steps=looks, reached=DRAWING, per_step=0)
        activations = config.batch * shape.size_px**2 // shape.patch**2 * shape.width * 2 * 40 * shape.blocks
        return Estimate(seconds, 500_000_000 + weights * 28 + activations + min(items * side * side * 3, 2**30))

    def _looks(self) -> int:
        """How often the network is asked for one picture."""
        return (self.config.steps or STEPS[self.config.sampler]) * (2 if self.config.sampler == "heun" else 1)

    def _images(self, items: int) -> int:
        return self.config.images or min(DIALS[self.config.size].images, max(1, items) * COPIES)

    def _shape(self, side: int, channels: int, condition: int) -> fn.Shape:
        dial, config = DIALS[self.config.size], self.config
        net = config.net if side >= 4 else "dit"
        patch = 1
        while side % (2 * patch) == 0 and side // patch > 16 and patch < 4:
            patch *= 2
        if net == "dit":
            patch = 4 if side % 4 == 0 and side > 16 else 2 if side % 2 == 0 and side > 8 else 1
        width = config.width or (dial.width if net == "unet" else dial.dit_width)
        blocks = dial.blocks if net == "unet" else dial.layers
        return fn.Shape(
            net=net,
            size_px=side,
            channels=channels,
            width=width if net == "unet" else -(-width // 64) * 64,
            blocks=blocks,
            patch=patch,
            condition=condition,
        )

    # ------------------------------------------------------------------------------------------------------- training
    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Train on the pictures of ``data``; see ``contracts.Model.fit``.

        Errors: UserError where there is no picture to learn from, conditions are missing, or it won't fit in memory.
        """
        pictures, config, dial = data.of("image"), self.config, DIALS[self.config.size]
        if not len(pictures):
            raise UserError(
                t("a flow learns from pictures, and the named steps hold none"),
                where=f"[models.{ctx.step}]",
                fix=t("name a data step with pictures in 'data'"),
            )
        _conditions.check(pictures, config.condition, ctx)
        codes = _codes(config, ctx)
        if config.condition == "none":
            warn_of_ignored(config, "guidance", setting='condition = "none"', ctx=ctx)
        if codes is not None:
            warn_of_ignored(config, "fit", "background", setting="codes", ctx=ctx)
        with machine(device=ctx.device, threads=ctx.threads) as device, heap.kept():
            if codes is not None:
                form = codes.form
            else:
                median_px, grey = probe(pictures, ctx)
                side = config.size_px or choose_side(median_px, dial.largest_px)
                form = Form(size_px=side, channels=1 if grey else 3, fit=config.fit, background=config.background)
            plain = Machine(ctx.device, ctx.threads, 100.0, 100.0, 0)
            sized = self.config.model_copy(update={"size_px": form.size_px})
            need = Component(sized).estimate(Size(items=len(pictures)), plain).bytes
            check_room(need, ctx, fix=t("lower size_px, width or batch"))
            shard = gather(pictures, form, ctx)
            told = _conditions.read(pictures, config.condition, shard, ctx)
            _warn_of_few(shard, config, ctx)
            return self._fit(fn.Lessons(shard, codes, ctx, flip=config.flip), told, ctx, device)

    def _fit(self, lessons: fn.Lessons, told: _conditions.Told, ctx: Context, device: torch.device) -> dict[str, Any]:
        config = self.config
        channels, _, side = lessons.dims
        shape = self._shape(side, channels, told.conditions.dims)
        torch.manual_seed(derive(ctx.seed, "init"))
        model = fn.Velocity(shape).to(device)
        session = Session(model, lessons, told, config, ctx)
        steps = max(2, self._images(lessons.train) // config.batch)
        few = round(steps * SHORTCUTS) if config.sampler == "shortcut" else 0
        found = self._train(model, session, steps - few, 1.0)
        curve, seconds = found.curve, found.seconds
        if few:
            session.shortcuts = True
            second = self._train(model, session, few, 0.5)
            curve = curve + [[point[0] + found.steps if point[0] else 0, *point[1:]] for point in second.curve]
            seconds += second.seconds
        metrics = session.close()
        done = steps * config.batch
        metrics |= {"steps": steps, "best_step": found.best_step, "train_seconds": round(seconds, 1)}
        metrics |= {"images_per_second": round(done / max(seconds, 1e-9), 1), "curve": curve}
        write_atomic(ctx.out / "curve.csv", replace(found, curve=curve).csv())
        return metrics

    def _train(self, model: fn.Velocity, session: Session, steps: int, share: float) -> Trained:
        """One phase: the flow, or (``share`` of the learning rate, a folder of its own) the shortcuts."""
        config, ctx = self.config, session.ctx
        rate = config.learning_rate or 0.02
        work = ctx.work / "shortcuts" if session.shortcuts else ctx.work
        work.mkdir(parents=True, exist_ok=True)
        seed = derive(ctx.seed, "shortcuts") if session.shortcuts else ctx.seed
        session.share = parallel.Share(config.batch, seed=seed)
        plan = Plan(
            accumulate=session.share.parts,
            steps=max(1, steps),
            seed=seed,
            per_step=config.batch,
            unit="img/s",
            ema=0.99,
            warmup=0.05,
            cooldown=0.6,
            previews=2 if session.shortcuts else 5,
        )
        own = self.config.model_copy(update={"size_px": session.lessons.shard.form.size_px})
        size = Size(items=session.lessons.train)
        step = compiled_step(session.loss, [model], expected=partial(Component(own).estimate, size), ctx=ctx)
        identity = {"shape": asdict(model.shape), "flip": config.flip, "shortcuts": session.shortcuts, "rate": rate}
        found = train(
            model,
            step.loss,
            optimizers=optimizers(model, rate=rate * share),
            plan=plan,
            work=work,
            report=ctx,
            evaluate=session.evaluate if session.lessons.heldout else None,
            preview=session.preview,
            identity={**identity, **step.facts},
            say=t,
        )
        session.facts |= step.facts
        return found

    # --------------------------------------------------------------------------------------------- after the training
    def load(self, folder: Path, *, device: str, threads: int) -> Flow:
        """The checkpoint, ready to draw, with the sampler, steps and guidance it was trained with."""
        model, facts = fn.read_checkpoint(folder, device)
        with reading(folder, "flow"):
            codes = codes_of(folder, facts, model.shape.dims, device=device, threads=threads)
            return Flow(model, facts, codes, threads=threads)

    def export(self, folder: Path, to: Path) -> list[Path]:
        """safetensors, ``config.json`` and a ``README.md`` that says how to read them, with the vae where there is one.

        No other library has this network: diffusers' UNet2DModel normalizes by groups and joins levels otherwise.
        """
        return export_folder(folder, to)


class Session:
    """What the training loop calls: the loss of a step, the held-out loss, and pictures to look at."""

    def __init__(
        self, model: fn.Velocity, lessons: fn.Lessons, told: _conditions.Told, config: Config, ctx: Context
    ) -> None:
        self.model, self.lessons, self.told, self.config, self.ctx = model, lessons, told, config, ctx
        self.shortcuts = False
        self.facts: dict[str, Any] = {}  # how it was trained: "compiled"
        self.share = parallel.Share(config.batch, seed=ctx.seed)
        self._block: tuple[int, np.ndarray[Any, Any]] = (-1, np.empty(0))
        self.looked_at = lessons.heldout_rows(LOOKED_AT)
        self._error: dict[int, Callable[..., Tensor]] = {}  # by how many examples learn shortcuts

    def loss(self, micro: int, generator: torch.Generator) -> Tensor:
        """Mean squared velocity error of a micro-batch; in the second phase a quarter of the step's batch, the first,
        learns shortcuts."""
        config, device, batch = self.config, self.model.device, self.config.batch
        step, own = self.share(micro, generator)
        index = self._rows(step)[own]
        turned = None
        if config.flip:
            turned = (torch.rand(batch, generator=generator, device=device) < 0.5)[own].cpu().numpy()
        x = self.lessons.x(index, turned).to(device)
        noise = torch.randn((batch, *x.shape[1:]), generator=generator, device=device)[own]
        rows_BK = self._conditions(index, generator, own)
        first = batch // 4 if self.shortcuts else 0
        times = [flow.draw_times(batch - first, law="uniform", generator=generator)[_behind(own, first)]]
        if first:
            times += [each[own] for each in flow.draw_spans(first, finest=FINEST, generator=generator)]
        if first not in self._error:
            self._error[first] = recorded_on_gpu(self._error_of, self.model)
        return self._error[first](noise, x, *times, *([] if rows_BK is None else [rows_BK]))

    def _error_of(self, noise: Tensor, x: Tensor, time_B: Tensor, *more: Tensor) -> Tensor:
        """Of examples that are all drawn. more: times and spans of the first of them, where those learn shortcuts, and
        the conditions of all, where there are any."""
        rows_BK = None if self.told.stored is None else more[-1]
        cut = len(x) - len(time_B)
        ask = fn.field(self.model, None if rows_BK is None else rows_BK[cut:])
        found = flow.velocity_loss(ask, noise[cut:], x[cut:], time_B)
        if cut:
            time_B, span_B = more[:2]
            ask = fn.field(self.model, None if rows_BK is None else rows_BK[:cut])
            begun = flow.between(noise[:cut], x[:cut], time_B)
            found = torch.cat([found, flow.shortcut_loss(ask, finest_still(ask), begun, time_B, span_B)])
        return found.mean()

    def _conditions(self, index: np.ndarray[Any, Any], generator: torch.Generator, own: slice) -> Tensor | None:
        """Rows of length 1, some of them dropped to zeros by chance, so that "nothing said" is learned too."""
        rows_BK = self.told.rows(index)
        if rows_BK is None:
            return None
        kept = torch.rand(self.config.batch, 1, generator=generator, device=generator.device) >= DROPPED
        return fn.unit_rows(rows_BK).to(generator.device) * kept[own]

    def _rows(self, step: int) -> np.ndarray[Any, Any]:
        block, place = divmod(step, fn.AHEAD)
        if self._block[0] != block:  # the order of many steps costs as much as that of one
            ahead = rows(block, batch=self.config.batch * fn.AHEAD, count=self.lessons.train, seed=self.ctx.seed)
            self._block = (block, ahead.reshape(fn.AHEAD, self.config.batch))
        return self._block[1][place]

    def evaluate(self) -> Tensor:
        """Held-out flow loss of each picture, mean over two times, the same times and noises at every call.

        In the second phase, plus how far whole-way shortcuts are from two of half of it.
        """
        index, device = self.looked_at, self.model.device
        generator = torch.Generator().manual_seed(derive(self.ctx.seed, "judge"))
        found = []
        for start in range(0, len(index), 64):
            some = index[start : start + 64]
            x = self.lessons.x(some).to(device)
            noise = torch.randn(x.shape, generator=generator).to(device)
            time_B = flow.draw_times(len(x), law="uniform", generator=generator).to(device)
            rows_BK = self.told.rows(some)
            ask = fn.field(self.model, None if rows_BK is None else fn.unit_rows(rows_BK).to(device))
            both = [flow.velocity_loss(ask, noise, x, each) for each in (time_B, 1.0 - time_B)]
            if self.shortcuts:
                time_B, span_B = (
                    each.to(device) for each in flow.draw_spans(len(x), finest=FINEST, generator=generator)
                )
                begun = flow.between(noise, x, time_B)
                both += [2 * flow.shortcut_loss(ask, finest_still(ask), begun, time_B, span_B)]
            found.append(torch.stack(both).sum(0) / 2)
        return torch.cat(found).cpu()

    def prints(self, **how: Any) -> Flow:
        """The model as it is now, ready to draw."""
        config = self.config
        facts = fn.facts_of(self.model, self.lessons, self.told.conditions)
        steps = config.steps or STEPS[config.sampler]
        sampler = "heun" if config.sampler == "shortcut" and not self.shortcuts else config.sampler
        facts |= {"steps": steps, "sampler": sampler, "guidance": config.guidance, "publish_px": config.publish_px}
        return Flow(self.model, {**facts, **how}, self.lessons.codes, threads=self.ctx.threads)

    def preview(self, step: int) -> None:
        """A contact sheet of sixteen draws, always of the same seeds."""
        name = f"{'shortcut' if self.shortcuts else 'step'}-{step:05d}.png"
        self.ctx.preview(name, self.sheet(self.prints(), 16))

    def sheet(self, prints: Flow, count: int) -> bytes:
        """PNG of draws side by side, not enlarged."""
        seeds = [derive(self.ctx.seed, "sheet", number) for number in range(count)]
        wishes = [prints.conditions.drawn(seed) for seed in seeds] if prints.conditions.kind == "label" else ()
        drawn = prints.pixels([prints.noise(seed) for seed in seeds], wishes)
        return images.dump(images.grid(drawn, columns=8))

    def close(self) -> dict[str, Any]:
        """Write the checkpoint and the sheet; the figures are returned, of held-out pictures where there are any."""
        lessons, config, out = self.lessons, self.config, self.ctx.out
        prints = self.prints()
        metrics = figures(self.model, lessons, self.told, prints, seed=self.ctx.seed)
        metrics |= {"size_px": lessons.shard.form.size_px, "train_pictures": lessons.train}
        metrics |= {"heldout_pictures": lessons.heldout, "skipped": lessons.shard.skipped}
        metrics |= {"parameters": sum(p.numel() for p in self.model.parameters()), "sampler": config.sampler}
        metrics["sampling_steps"] = prints.steps
        metrics |= self.facts
        facts = {**prints.facts, "flip": config.flip, "metrics": metrics}
        fn.write_checkpoint(out, self.model, facts, lessons.codes)
        write_atomic(out / "samples.png", self.sheet(prints, 48))
        return metrics


def optimizers(model: fn.Velocity, *, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for those at the edges (pixels, times, conditions) and everything else."""
    edges = ("told.time", "told.span", "told.condition", "net.into", "net.last")
    inside: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        at_edge = parameter.ndim < 2 or any(f"{edge}." in f"{name}." for edge in edges) or name.endswith("place")
        (others if at_edge else inside).append(parameter)
    dtype = fast_dtype(str(model.device))
    return [Muon(inside, lr=rate, dtype=dtype), adamw(others, lr=rate * 0.15, betas=(0.9, 0.99))]


def _behind(own: slice, first: int) -> slice:
    """The rows of ``own`` from ``first`` on, counted from there."""
    return slice((own.start - first) % own.step, None, own.step)


def finest_still(ask: flow.Field) -> flow.Field:
    """The field with spans below the finest shortcut taken as velocities: where the ladder of shortcuts stands."""

    def found(x: Tensor, time_B: Tensor, span_B: Tensor) -> Tensor:
        return ask(x, time_B, torch.where(span_B < 1.5 / FINEST, torch.zeros_like(span_B), span_B))

    return found


def _codes(config: Config, ctx: Context) -> Prints | None:
    """The vae over whose codes to learn, where one is named. Errors: UserError where it is no vae."""
    if not config.codes:
        return None
    where = f"[models.{ctx.step}]"
    handle = ctx.inputs["codes"][0]
    if not isinstance(handle, Prints):
        raise UserError(t("codes names a model that has none"), where=where, fix=t("name a vae step as codes"))
    if config.size_px not in (None, handle.form.size_px):
        what = t("size_px is {asked}, but the vae works on {side}", asked=config.size_px, side=handle.form.size_px)
        raise UserError(what, where=where, fix=t("leave size_px out"))
    return handle


def _warn_of_few(shard: Shard, config: Config, ctx: Context) -> None:
    if shard.train < 64:
        text = t("only {count} pictures to learn from: prints will be close to them or unclear", count=shard.train)
        hint = "" if config.flip else t("; flip = true doubles them where a mirrored picture is right too")
        ctx.warn(text + hint)
    if not shard.heldout:
        ctx.warn(t("no picture is held out: figures are of the training pictures, and the last weights are kept"))
    if shard.train > 1 and (shard.pixels[: min(shard.train, 256)] == shard.pixels[0]).all():
        ctx.warn(t("the pictures are all the same"))


@functools.lru_cache(maxsize=16)
def _work_per_picture(shape: fn.Shape) -> tuple[float, int, float]:
    """Floating-point operations of one look at a picture, the number of weights, and Muon's operations of a step; told
    without computing."""
    x, time_B = torch.zeros(1, *shape.dims), torch.zeros(1)
    flops, model = operations(lambda: fn.Velocity(shape), lambda model: model(x, time_B, time_B))
    matrices = optimizers(model, rate=0.0)[0].param_groups[0]["params"]
    return flops, sum(p.numel() for p in model.parameters()), muon_flops(matrices)
