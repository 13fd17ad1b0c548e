"""Video: learns short clips as a flow with a time axis, makes new ones and loops, and sets pictures in motion.

Papers:  Liu et al. (2022), "Flow Straight and Fast", arXiv:2209.03003, eq. 1; Ho et al. (2022), "Video Diffusion
         Models", arXiv:2204.03458 (clips and single pictures learned together); Siarohin et al. (2019),
         arXiv:2003.00196 (motion warps a given frame); Blattmann et al. (2023), "Align your Latents",
         arXiv:2304.08818 (flow over the codes of a picture autoencoder, with layers along time).
Code:    written from the papers; differs in: a clip always goes on from its first frame, which is given, or drawn
         before as a picture; times are moved towards the noise by the number of frames; loops are learned on a circle
         of time. Without ``codes`` it learns over pixels, which is simpler; which of the two is better at 32 to 64 a
         side has not been measured.
Licence: ours. Weights inherit the licence of the films they learned from.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Estimate, Machine, Size
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import image as images
from intaglio.media import video as films_
from intaglio.models import _video as fn
from intaglio.models._checkpoint import reading
from intaglio.models._cost import START, compiled_step, muon_flops, steps_seconds
from intaglio.models._pictures import Form, choose_side
from intaglio.models._prints import Prints, codes_of
from intaglio.models._room import check_room
from intaglio.models._video_figures import DRAWN, NEAREST, figures
from intaglio.models._video_films import USUAL_FPS, Cut, Films, gather, look
from intaglio.models._video_prints import Clips, export_folder, sheet, wall
from intaglio.nn import parallel
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.cost import operations
from intaglio.nn.device import fast_dtype, machine
from intaglio.nn.graphs import recorded_on_gpu
from intaglio.nn.loop import Plan, train
from intaglio.nn.optim import Muon, adamw
from intaglio.nn.order import derive, rows


class Config(StepConfig):
    """Keys of ``[models.x]`` with ``use = "video"``; all but ``data`` have defaults that follow from size and data.

    data:        the films; clips are cut from them, starting at every frame. codes: a ``vae`` step with ``net =
                 "map"``; the flow then learns over its codes, for more than some 64 pixels a side.
    size:        ``tiny`` (some minutes on 2 cores), ``small`` (an hour or two), ``base``. size_px: side of the frames
                 it works on, a multiple of 4. width: channels of the finest level.
    frames:      of a clip. fps: frames a second; left out: that of most films, at most 8.
    loop:        clips whose end joins their start: from films that do so themselves and are at most four clips long,
                 else by going there and back.
    steps:       how many steps a clip is made in. clips: how many it sees in all, repeats counted. batch: clips a step.
    learning_rate: Muon's peak. flip: also learn from mirrored films.
    publish_px:  clips are enlarged by a whole factor to at most this side; 0 keeps ``size_px``.
    """

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("video",))]
    codes: Annotated[Names, Role(stages=("models",), media=("image",), many=False, uses=("vae",))] = ()
    size: Literal["tiny", "small", "base"] = "small"
    size_px: int | None = Field(default=None, ge=8, le=256, multiple_of=4)
    width: int | None = Field(default=None, ge=16, le=1024, multiple_of=16)
    frames: int = Field(default=12, ge=4, le=64)
    fps: float | None = Field(default=None, gt=0.0, le=60.0)
    loop: bool = False
    steps: int = Field(default=12, ge=2, le=1000)
    clips: int | None = Field(default=None, ge=1)
    batch: int = Field(default=8, ge=1, le=4096)
    learning_rate: float | None = Field(default=None, gt=0.0, le=1.0)
    flip: bool = False
    publish_px: int = Field(default=256, ge=0, le=4096)


TINY: dict[str, Any] = {
    "data": "films", "size": "tiny", "size_px": 16, "width": 16, "frames": 6, "clips": 80, "batch": 4, "steps": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Dial:
    """What ``size`` stands for: largest side, channels, stages a level and side, clips seen."""

    largest_px: int
    width: int
    blocks: int
    clips: int


DIALS = {"tiny": Dial(32, 64, 1, 12_000), "small": Dial(48, 64, 2, 64_000), "base": Dial(96, 96, 2, 400_000)}
PICTURES = 4  # single frames learned beside each clip
MOVED = 0.5  # weight of the first frame alone, as it is moved: else motion is not found before its share is given up
LOOKED_AT = 48
REACHED, PER_STEP = 0.33, 0.02  # of steps_seconds
SHOWN = 8


class Component:
    """The model stage ``video``."""

    takes = ("video",)
    makes = "video"

    def __init__(self, config: Config) -> None:
        self.config = config

    # ------------------------------------------------------------------------------------------------------- planning
    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """Seconds and bytes for the side the dial allows; films are taken to be a hundred frames long."""
        config, items = self.config, size.items if size.items is not None else 100
        side = config.size_px or DIALS[config.size].largest_px
        return self._estimate(side, 3, items * 100, machine)

    def _estimate(self, side: int, channels: int, frames: int, machine: Machine) -> Estimate:
        config = self.config
        shape = self._shape(side // 4, 8) if config.codes else self._shape(side, channels)
        work, weights, moving = _work_per_clip(shape)
        steps = self._clips() / config.batch
        looks = 20 * LOOKED_AT + (2 * DRAWN + 5 * 4 + 2 * SHOWN) * 2 * config.steps
        flops = 3 * work * config.batch + moving
        seconds = steps_seconds(machine, flops=flops, steps=steps, reached=REACHED, per_step=PER_STEP)
        seconds += START + frames * 1e-3 / max(1, machine.threads)
        seconds += steps_seconds(machine, flops=work, steps=looks, reached=REACHED, per_step=0)
        places = config.frames * shape.size_px**2 // shape.patch**2
        activations = config.batch * places * shape.width * shape.blocks * 2 * 200
        stored = min(frames * channels * side * side, 2**30)
        compared = min(NEAREST, frames) * config.frames * channels * side * side * 16  # clips beside clips, at the end
        return Estimate(seconds, 500_000_000 + weights * 28 + max(activations, compared) + stored)

    def _clips(self) -> int:
        return self.config.clips or DIALS[self.config.size].clips

    def _shape(self, side: int, channels: int) -> fn.Shape:
        config, dial = self.config, DIALS[self.config.size]
        patch = 4 if side % 4 == 0 and side > 16 and not config.codes else 2 if side % 2 == 0 and side > 8 else 1
        return fn.Shape(
            size_px=side,
            channels=channels,
            width=config.width or dial.width,
            blocks=dial.blocks,
            patch=patch,
            frames=config.frames,
            loop=config.loop,
        )

    # ------------------------------------------------------------------------------------------------------- training
    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Train on the films of ``data``; see ``contracts.Model.fit``.

        Errors: UserError where there is no clip to learn from, nothing moves, or it won't fit in memory.
        """
        films, config, dial = data.of("video"), self.config, DIALS[self.config.size]
        if not len(films):
            raise UserError(
                t("a video model learns from films, and the named steps hold none"),
                where=f"[models.{ctx.step}]",
                fix=t("name a data step with films in 'data'"),
            )
        codes = _codes(config, ctx)
        with machine(device=ctx.device, threads=ctx.threads) as device:
            seen = look(films, ctx)
            side = config.size_px or choose_side(seen.side_px, dial.largest_px)
            form = codes.form if codes is not None else Form(size_px=side, channels=1 if seen.grey else 3)
            cut = Cut(config.frames, config.fps or min(USUAL_FPS, seen.fps), config.loop)
            plain = Machine(ctx.device, ctx.threads, 100.0, 100.0, 0)
            need = self._estimate(form.size_px, form.channels, len(films) * 100, plain).bytes
            check_room(need, ctx, fix=t("lower size_px, frames, width or batch"))
            gathered = gather(films, form, cut, ctx)
            _warn(gathered, ctx)
            return self._fit(fn.Lessons(gathered, codes, ctx, flip=config.flip), ctx, device)

    def _fit(self, lessons: fn.Lessons, ctx: Context, device: torch.device) -> dict[str, Any]:
        config, (channels, _, side) = self.config, lessons.dims
        torch.manual_seed(derive(ctx.seed, "init"))
        model = fn.Velocity(self._shape(side, channels)).to(device)
        session = Session(model, lessons, config, ctx)
        rate = config.learning_rate or 0.02
        steps = max(2, self._clips() // config.batch)
        plan = Plan(
            accumulate=session.share.parts,
            steps=steps,
            seed=ctx.seed,
            per_step=config.batch,
            unit="clip/s",
            ema=0.99,
            warmup=0.05,
            cooldown=0.6,
        )
        films = lessons.films
        frames = len(films.frames)
        expected = functools.partial(self._estimate, films.form.size_px, films.form.channels, frames)
        step = compiled_step(session.loss, [model], expected=expected, ctx=ctx)
        identity = {"shape": asdict(model.shape), "cut": asdict(films.cut), "flip": config.flip, "rate": rate}
        found = train(
            model,
            step.loss,
            optimizers=optimizers(model, rate=rate),
            plan=plan,
            work=ctx.work,
            report=ctx,
            evaluate=session.evaluate if films.heldout else None,
            preview=session.preview,
            identity={**identity, **step.facts},
            say=t,
        )
        metrics = {**session.close(), **step.facts}
        metrics |= {"steps": steps, "best_step": found.best_step, "train_seconds": round(found.seconds, 1)}
        metrics |= {"clips_per_second": round(steps * config.batch / max(found.seconds, 1e-9), 1), "curve": found.curve}
        write_atomic(ctx.out / "curve.csv", found.csv())
        return metrics

    # --------------------------------------------------------------------------------------------- after the training
    def load(self, folder: Path, *, device: str, threads: int) -> Clips:
        """The checkpoint, ready to make clips."""
        model, facts = fn.read_checkpoint(folder, device)
        with reading(folder, "video"):
            codes = codes_of(folder, facts, model.shape.dims[1:], device=device, threads=threads)
            return Clips(model, facts, codes, threads=threads)

    def export(self, folder: Path, to: Path) -> list[Path]:
        """safetensors, ``config.json`` and a ``README.md`` that says how to read them, with the vae where there is one.

        No other library has this network: diffusers' video networks have other layers.
        """
        return export_folder(folder, to)


class Session:
    """What the training loop calls: the loss of a step, the held-out loss, and clips to look at."""

    def __init__(self, model: fn.Velocity, lessons: fn.Lessons, config: Config, ctx: Context) -> None:
        self.model, self.lessons, self.config, self.ctx = model, lessons, config, ctx
        self.share = parallel.Share(config.batch, seed=ctx.seed)
        self._error = recorded_on_gpu(self._error_of, model)

    def loss(self, micro: int, generator: torch.Generator) -> Tensor:
        """Mean squared velocity error of a micro-batch: of clips going on from their first frames, and of pictures."""
        step, own = self.share(micro, generator)
        clips, pictures = self._clips(step, own, generator), self._pictures(step, own, generator)
        going_on, begun = self._noised(clips, 1, own, generator), self._noised(pictures, PICTURES, own, generator)
        return self._error(*going_on, *begun)

    def _error_of(self, *noised: Tensor) -> Tensor:
        """noised: noise, x and times of the clips, then of the pictures."""
        going_on, moved = fn.motion_loss(self.model, *noised[:3])
        begun = fn.picture_loss(self.model, *noised[3:])
        return (going_on.mean() + MOVED * moved.mean() + begun.mean()) / 2

    def _noised(self, x: Tensor, count: int, own: slice, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noise, clips or pictures (``count`` a row of the batch), and times, where the model lies."""
        whole = self.config.batch * count
        noise = fn.noise_like(torch.empty((whole, *x.shape[1:]), device="meta"), generator)
        time_B = fn.draw_times(whole, x.shape[1], generator)
        noise, time_B = (each.unflatten(0, (-1, count))[own].flatten(0, 1) for each in (noise, time_B))
        return noise, x.to(self.model.device), time_B

    def _clips(self, step: int, own: slice, generator: torch.Generator) -> Tensor:
        config, device, batch = self.config, self.model.device, self.config.batch
        index = rows(step, batch=batch, count=len(self.lessons.train), seed=self.ctx.seed)[own]
        chance = torch.rand(2, batch, generator=generator, device=device)[:, own]
        turn = (chance[0] * config.frames).long().cpu().numpy() if config.loop else None
        mirrored = (chance[1] < 0.5).cpu().numpy() if config.flip else None
        return self.lessons.x(self.lessons.train[index], turn, mirrored)

    def _pictures(self, step: int, own: slice, generator: torch.Generator) -> Tensor:
        """Frames (B PICTURES, 1, C, H, W) of other clips."""
        batch, train, seed = self.config.batch, self.lessons.train, derive(self.ctx.seed, "pictures")
        index = rows(step, batch=batch * PICTURES, count=len(train), seed=seed).reshape(batch, PICTURES)[own].ravel()
        chance = torch.rand(2, batch, PICTURES, generator=generator, device=self.model.device)[:, own].flatten(1)
        mirrored = (chance[1] < 0.5).cpu().numpy() if self.config.flip else None
        return self.lessons.pictures(train[index], (chance[0] * self.config.frames).long().cpu().numpy(), mirrored)

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """Held-out loss of each clip, as it is learned; the same chance at every call."""
        lessons, device = self.lessons, self.model.device
        generator = torch.Generator().manual_seed(derive(self.ctx.seed, "judge"))
        found, looked_at = [], lessons.some(lessons.judged, LOOKED_AT)
        for start in range(0, len(looked_at), 8):
            whole = lessons.x(looked_at[start : start + 8])
            drawn = []
            for x in (whole, whole[:, :1]):
                noise, time_B = fn.noise_like(x, generator), fn.draw_times(len(x), x.shape[1], generator)
                drawn.append([each.to(device) for each in (noise, x, time_B)])
            going_on, _ = fn.motion_loss(self.model, *drawn[0])
            found.append((going_on + fn.picture_loss(self.model, *drawn[1])) / 2)
        return torch.cat(found).cpu()

    def made(self) -> Clips:
        """The model as it is now, ready to make clips."""
        films, config = self.lessons.films, self.config
        facts = {"kind": "video", "shape": asdict(self.model.shape), "form": asdict(films.form), "fps": films.cut.fps}
        facts |= {"steps": config.steps, "publish_px": config.publish_px, "codes": self.lessons.codes is not None}
        return Clips(self.model, facts, self.lessons.codes, threads=self.ctx.threads)

    def preview(self, step: int) -> None:
        """Four clips, always of the same seeds, a row each."""
        seeds = [derive(self.ctx.seed, "sheet", number) for number in range(4)]
        self.ctx.preview(f"step-{step:05d}.png", images.dump(sheet(list(self.made().pixels(seeds)))))

    def close(self) -> dict[str, Any]:
        """Write the checkpoint, the sheets and an animation; the figures are returned."""
        lessons, out, films, made = self.lessons, self.ctx.out, self.lessons.films, self.made()
        drawn = DRAWN if len(lessons.train) > 64 else 16
        metrics = figures(self.model, lessons, made, seed=self.ctx.seed, drawn=drawn)
        metrics |= {"size_px": films.form.size_px, "frames": films.cut.frames, "fps": films.cut.fps}
        metrics |= {"train_films": films.train, "heldout_films": films.heldout, "skipped": films.skipped}
        metrics |= {"train_clips": len(lessons.train), "heldout_clips": len(lessons.judged) if films.heldout else 0}
        metrics |= {"parameters": sum(p.numel() for p in self.model.parameters()), "sampling_steps": made.steps}
        fn.write_checkpoint(out, self.model, {**made.facts, "metrics": metrics}, lessons.codes)
        seeds = [derive(self.ctx.seed, "sheet", number) for number in range(SHOWN)]
        clips = made.pixels(seeds)
        write_atomic(out / "samples.png", images.dump(sheet(list(clips))))
        write_atomic(out / "samples.webp", films_.dump_webp(wall(clips), films.cut.fps))
        real = lessons.pixels(lessons.some(lessons.judged, SHOWN // 2))
        moved = made.pixels(seeds[: len(real)], real[:, 0])
        pairs = [clip for pair in zip(real, moved, strict=True) for clip in pair]
        write_atomic(out / "animated.png", images.dump(sheet(pairs)))  # each film above what is made of its start
        return metrics


def optimizers(model: fn.Velocity, *, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for those at the edges (frames, times) and everything else."""
    edges = ("net.told.time", "net.told.span", "net.into", "net.place", "net.last", "net.motion.more")
    inside: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        at_edge = parameter.ndim < 2 or name.startswith(edges) or name.endswith("far")
        (others if at_edge else inside).append(parameter)
    dtype = fast_dtype(str(model.device))
    return [Muon(inside, lr=rate, dtype=dtype), adamw(others, lr=rate * 0.15, betas=(0.9, 0.99))]


def _codes(config: Config, ctx: Context) -> Prints | None:
    """The vae over whose maps to learn, where one is named. Errors: UserError where it keeps none."""
    if not config.codes:
        return None
    where, handle = f"[models.{ctx.step}]", ctx.inputs["codes"][0]
    if not isinstance(handle, Prints) or handle.map_shape[1] < 2:
        raise UserError(t("codes names a model that keeps no map"), where=where, fix=t('train a vae with net = "map"'))
    if config.size_px not in (None, handle.form.size_px):
        what = t("size_px is {asked}, but the vae works on {side}", asked=config.size_px, side=handle.form.size_px)
        raise UserError(what, where=where, fix=t("leave size_px out"))
    return handle


def _warn(films: Films, ctx: Context) -> None:
    if len(films.clips(train=True)) < 64:
        ctx.warn(
            t(
                "only {count} clips to learn from: what is made will be close to them",
                count=len(films.clips(train=True)),
            )
        )
    if films.alike:
        ctx.warn(t("the films are all the same"))
    if not films.heldout:
        ctx.warn(t("no film is held out: figures are of the training films, and the last weights are kept"))
    if films.cut.loop:
        joined = int(films.joined[: films.train].sum())
        ctx.warn(
            t(
                "{joined} of {count} films join their own start; of the others, loops go there and back",
                joined=joined,
                count=films.train,
            )
        )


@functools.lru_cache(maxsize=16)
def _work_per_clip(shape: fn.Shape) -> tuple[float, int, float]:
    """Floating-point operations of one look at a clip, the number of weights, and Muon's operations of a step; told
    without computing."""
    x, time_B = torch.zeros(1, *shape.dims), torch.zeros(1)
    clip, model = operations(lambda: fn.Velocity(shape), lambda model: model(x, time_B, time_B, x[:, 0]))
    picture, _ = operations(lambda: model, lambda model: model(x[:, :1], time_B, time_B))
    matrices = optimizers(model, rate=0.0)[0].param_groups[0]["params"]
    return clip + PICTURES * picture, sum(p.numel() for p in model.parameters()), muon_flops(matrices)
