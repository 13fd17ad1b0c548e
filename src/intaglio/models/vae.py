"""Variational autoencoder: learns pictures as a Gaussian code, draws new ones, and shows what it could rebuild.

Paper:   Kingma and Welling (2014), "Auto-Encoding Variational Bayes", arXiv:1312.6114, eq. 10 and appendices B, C;
         Rybkin et al. (2021), arXiv:2006.13202 (the Gaussian's variance in closed form); Ghosh et al. (2020),
         arXiv:1903.12436 (drawing from a density fitted afterwards).
Code:    written from the papers; differs in: the decoder adds to the mean picture; weights are averaged for sampling.
Licence: ours. Weights inherit the licence of the pictures they learned from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
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
from intaglio.models import _autoencoder as ae
from intaglio.models import _density
from intaglio.models._checkpoint import reading
from intaglio.models._cost import START, judging_seconds, training_seconds
from intaglio.models._feed import ALL, Feed, floats, moments
from intaglio.models._ignored import warn_of_ignored
from intaglio.models._memory import of_pictures
from intaglio.models._pictures import Form, Shard, choose_side, gather, probe
from intaglio.models._prints import Prints, export_folder, read_checkpoint, sheet, write_checkpoint
from intaglio.models._room import check_room
from intaglio.nn import heap, parallel
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.cost import operations
from intaglio.nn.device import autocast, fast_dtype, machine, rounded_products, rounds_products
from intaglio.nn.graphs import recorded_on_gpu
from intaglio.nn.likelihoods import active_units
from intaglio.nn.loop import Plan, patience, train
from intaglio.nn.optim import adamw
from intaglio.nn.order import derive


class Config(StepConfig):
    """Keys of ``[models.x]`` with ``use = "vae"``; all but ``data`` have defaults that follow from size and data.

    data:        the pictures. size: ``tiny`` (a minute or two on 2 cores), ``small`` (a quarter of an hour), ``base``.
    net:         ``conv``; ``mlp`` for one hidden layer; ``map`` keeps a small map of codes instead of a vector,
                 rebuilds sharply and is what a ``flow`` learns over.
    size_px:     side of the pictures it works on, a multiple of 4.
    width:       channels at the finest level, or hidden units of the ``mlp``. latents: numbers a picture becomes.
    channels:    of a map: numbers at each place. down: of a map: how many pixels of a side become one place.
    likelihood:  ``gaussian`` (its variance learned), ``bernoulli`` (black and white), ``logistic`` (of byte values),
                 or ``auto``: bernoulli for grey pictures that are nearly all black or white (not for a ``map``),
                 else gaussian.
    beta:        weight of the KL term; 1 is the ELBO and what vectors take, a ``map`` takes 0.1.
    free_bits:   nats below which a latent's KL is not pushed down.
    flip:        also learn from mirrored pictures; right for faces and fruit, wrong for letters and flags.
    fit:         ``cover`` cuts the middle square, ``contain`` keeps all. background: behind what is transparent.
    images:      how many pictures it sees in all, repeats counted. batch: pictures a step. learning_rate: the peak.
    prior:       draw from a ``mixture`` of Gaussians fitted to the codes (Ghosh et al.), or the ``normal`` prior.
    temperature: how far draws stray from the mixture's centres; 1 is the fitted spread, less is safer and more alike.
    publish_px:  prints are enlarged by a whole factor to at most this side; 0 keeps ``size_px``.
    """

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("image",))]
    size: Literal["tiny", "small", "base"] = "small"
    net: Literal["conv", "mlp", "map"] = "conv"
    size_px: int | None = Field(default=None, ge=8, le=512, multiple_of=4)
    width: int | None = Field(default=None, ge=8, le=4096)
    latents: int | None = Field(default=None, ge=1, le=1024)
    channels: int = Field(default=4, ge=1, le=64)
    down: Literal[4, 8] = 4
    likelihood: Literal["auto", "gaussian", "bernoulli", "logistic"] = "auto"
    beta: float | None = Field(default=None, ge=0.0, le=1000.0)
    free_bits: float = Field(default=0.0, ge=0.0, le=10.0)
    flip: bool = False
    fit: Literal["cover", "contain"] = "cover"
    background: Literal["white", "black"] = "white"
    images: int | None = Field(default=None, ge=1)
    batch: int | None = Field(default=None, ge=1, le=65536)
    learning_rate: float | None = Field(default=None, gt=0.0, le=1.0)
    prior: Literal["mixture", "normal"] = "mixture"
    temperature: float = Field(default=0.9, ge=0.0, le=2.0)
    publish_px: int = Field(default=256, ge=0, le=4096)


TINY: dict[str, Any] = {"data": "pictures", "size": "tiny", "size_px": 16, "width": 16, "images": 1_200, "batch": 32}


@dataclass(frozen=True)
class Dial:
    """What ``size`` stands for: largest side, channels, hidden units (mlp), latents, blocks a level, pictures seen."""

    largest_px: int
    width: int
    hidden: int
    latents: int
    blocks: int
    images: int


DIALS = {
    "tiny": Dial(64, 64, 512, 32, 1, 48_000),
    "small": Dial(64, 96, 1024, 64, 2, 160_000),
    "base": Dial(128, 96, 2048, 128, 2, 400_000),
}
FEW = 500  # pictures; below it the code is kept short, so that the density between the codes can be told
SAMPLES, BOUNDED = 64, 128  # importance samples of a picture for its bound, and on how many pictures
START_FROM = 256  # pictures whose patches a map starts from
MAP_BETA = 0.1  # a map of codes is to rebuild well; what draws from it is learned afterwards
COPIES = 600  # no picture is shown more often than this: more of few pictures brought nothing (docs/LOG.md)


class Component:
    """The model stage ``vae``."""

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
        shape = self._shape(side, 3, items, "gaussian")
        images = self._images(items)
        work, _ = _work_per_picture(shape)
        pixels = 0 if self.config.net == "mlp" else side * side
        seconds = START + 0.002 * items / max(1, machine.threads)
        counted = {"images": images, "batch": self._batch(items), "pixels": pixels, "items": items}
        seconds += training_seconds(machine, work=work, **counted)
        seconds += judging_seconds(machine, work=work, items=items, draws=SAMPLES * BOUNDED)
        return Estimate(seconds, self._bytes(shape, items))

    def _bytes(self, shape: ae.Shape, items: int) -> int:
        weights = _work_per_picture(shape)[1]
        activations = self._batch(items) * shape.size_px**2 * max(shape.width, 32) * 6
        return 500_000_000 + weights * 32 + activations + min(items * shape.dimensions, 2**30)

    def _images(self, items: int) -> int:
        return self.config.images or min(DIALS[self.config.size].images, max(1, items) * COPIES)

    def _batch(self, items: int) -> int:
        return self.config.batch or (16 if items < 32 else 32 if self.config.net == "map" else 64)

    def _shape(self, side: int, channels: int, items: int, likelihood: str) -> ae.Shape:
        dial, config = DIALS[self.config.size], self.config
        width = config.width or (dial.hidden if config.net == "mlp" else dial.width)
        latents = config.latents or (min(16, dial.latents) if items < FEW else dial.latents)
        if config.net == "map":
            latents = config.channels * (side // config.down) ** 2
        return ae.Shape(
            net=config.net,
            size_px=side,
            channels=channels,
            width=width,
            latents=latents,
            blocks=dial.blocks,
            likelihood=likelihood,
            down=config.down,
        )

    def _weights(self) -> ae.Weights:
        usual = MAP_BETA if self.config.net == "map" else 1.0
        return ae.Weights(
            beta=self.config.beta if self.config.beta is not None else usual, free_bits=self.config.free_bits
        )

    # ------------------------------------------------------------------------------------------------------- training
    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Train on the pictures of ``data``; see ``contracts.Model.fit``.

        Errors: UserError where there is no picture to learn from.
        """
        pictures = data.of("image")
        if not len(pictures):
            raise UserError(
                t("a vae learns from pictures, and the named steps hold none"),
                where=f"[models.{ctx.step}]",
                fix=t("name a data step with pictures in 'data'"),
            )
        config, dial = self.config, DIALS[self.config.size]
        idle = ("latents",) if config.net == "map" else ("channels", "down")
        warn_of_ignored(config, *idle, setting=f'net = "{config.net}"', ctx=ctx)
        with machine(device=ctx.device, threads=ctx.threads) as device:
            median_px, grey = probe(pictures, ctx)
            side = config.size_px or choose_side(median_px, dial.largest_px)
            if config.net == "map" and side % config.down:
                what = t(
                    "a map of codes needs a side that is a multiple of {down}; it is {side}",
                    down=config.down,
                    side=side,
                )
                raise UserError(what, where=f"[models.{ctx.step}]", fix=t("change size_px, or set down = 4"))
            form = Form(size_px=side, channels=1 if grey else 3, fit=config.fit, background=config.background)
            need = self._bytes(self._shape(side, form.channels, len(pictures), "gaussian"), len(pictures))
            check_room(need, ctx, fix=t("lower size_px, width or batch"))
            shard = gather(pictures, form, ctx)
            self._warn_of_few(shard, ctx)
            return self._fit(shard, ctx, device)

    def _warn_of_few(self, shard: Shard, ctx: Context) -> None:
        if shard.train < 64:
            text = t("only {count} pictures to learn from: prints will be close to them or unclear", count=shard.train)
            hint = "" if self.config.flip else t("; flip = true doubles them where a mirrored picture is right too")
            ctx.warn(text + hint)
        if not shard.heldout:
            ctx.warn(t("no picture is held out: figures are of the training pictures, and the last weights are kept"))
        if shard.train > 1 and (shard.pixels[: min(shard.train, 256)] == shard.pixels[0]).all():
            ctx.warn(t("the pictures are all the same"))

    def _fit(self, shard: Shard, ctx: Context, device: torch.device) -> dict[str, Any]:
        config, seed = self.config, ctx.seed
        mean_CHW, spread = moments(shard.pixels[: shard.train])
        likelihood = config.likelihood if config.likelihood != "auto" else _likelihood(shard, config.net)
        shape = self._shape(shard.form.size_px, shard.form.channels, shard.train, likelihood)
        torch.manual_seed(derive(seed, "init"))
        model = ae.Autoencoder(shape)
        model.start_from(mean_CHW, spread)
        model.start_linear(floats(shard.pixels[: min(shard.train, START_FROM)], torch.device("cpu")))
        model.to(device)
        batch = self._batch(shard.train)
        parts = parallel.parts(batch)  # one a process that shares the training
        plan = Plan(
            accumulate=parts,
            steps=max(2, self._images(shard.train) // batch),
            seed=seed,
            per_step=batch,
            unit="img/s",
            ema=0.99,
            cooldown=0.6,
            patience=patience(Plan.evaluations),
        )
        session = Session(model, shard, config, ctx, batch // parts, self._weights())
        with rounded_products(wanted=session.small), heap.kept():
            found = train(
                model,
                session.loss,
                optimizers=[adamw(model.parameters(), lr=config.learning_rate or 2e-3, betas=(0.9, 0.99))],
                plan=plan,
                work=ctx.work,
                report=ctx,
                evaluate=session.evaluate if shard.heldout else None,
                preview=session.preview,
                identity={"shape": asdict(shape), "flip": config.flip, **asdict(session.weights)},
                say=t,
            )
        metrics = session.close()
        metrics |= {"steps": found.steps, "best_step": found.best_step, "train_seconds": round(found.seconds, 1)}
        metrics |= {"images_per_second": round(found.steps * batch / max(found.seconds, 1e-9), 1), "curve": found.curve}
        write_atomic(ctx.out / "curve.csv", found.csv())
        return metrics

    # --------------------------------------------------------------------------------------------- after the training
    def load(self, folder: Path, *, device: str, threads: int) -> Prints:
        """The checkpoint, ready to draw, with the ``temperature``, ``prior`` and ``publish_px`` it was trained with."""
        return load(folder, device=device, threads=threads)

    def export(self, folder: Path, to: Path) -> list[Path]:
        """safetensors, ``config.json`` and a ``README.md`` that says how to read them.

        No other library has this network: diffusers' AutoencoderKL has other layers, pythae loads pickles.
        """
        return export_folder(folder, to)


def load(folder: Path, *, device: str = "cpu", threads: int = 1) -> Prints:
    """A checkpoint, or what ``intaglio export`` wrote of one: for scripts, see docs/howto/walk-among-pictures.md."""
    with reading(folder, "vae"):
        return Prints(*read_checkpoint(folder, device), threads=threads)


class Session:
    """What the training loop calls: the loss of a step, the held-out loss, and pictures to look at."""

    def __init__(
        self, model: ae.Autoencoder, shard: Shard, config: Config, ctx: Context, batch: int, weights: ae.Weights
    ) -> None:
        self.model, self.shard, self.config, self.ctx = model, shard, config, ctx
        self.weights = weights
        self.device = model.variance.device
        self.small = config.net == "mlp" and rounds_products(str(self.device))
        self.dtype = torch.float32 if self.small else fast_dtype(str(self.device))
        self.feed = Feed(shard, batch=batch, seed=ctx.seed, device=self.device, flip=config.flip)
        self._objective: Callable[[Tensor], Tensor] | None = None

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Negative ELBO of the step's batch in nats a dimension."""
        if self._objective is None:
            objective = functools.partial(self._objective_of, generator)
            self._objective = recorded_on_gpu(objective, self.model, generator=generator)
        return self._objective(self.feed(step, generator))

    def _objective_of(self, generator: torch.Generator, x_BCHW: Tensor) -> Tensor:
        with autocast(str(self.device), self.dtype):
            return ae.objective(self.model, x_BCHW, generator, self.weights)

    def generator(self, *parts: object) -> torch.Generator:
        return torch.Generator(device=self.device).manual_seed(derive(self.ctx.seed, *parts))

    def evaluate(self) -> Tensor:
        """Held-out negative ELBO of each picture in nats a dimension; with beta 1, but for a map."""
        beta = self.weights.beta if self.model.shape.net == "map" else 1.0
        with autocast(str(self.device), self.dtype):
            return ae.judge(self.model, self.feed.looked_at, self.generator("judge"), beta=beta)

    def preview(self, step: int) -> None:
        """A contact sheet: originals above their reconstructions, and draws from the prior below."""
        prior = self._prior(512, judge=False)
        self.ctx.preview(f"step-{step:05d}.png", sheet(self.model, self.feed.shown, prior, seed=self.ctx.seed))

    def _prior(self, points: int, *, judge: bool) -> _density.Density:
        """What codes are drawn from, told from ``points`` training pictures; judge: its components by held-out ones."""
        if self.config.prior == "normal":
            return _density.normal(self.model.shape.latents)
        chosen = self.feed.train[:: -(-len(self.feed.train) // points)]
        if self.model.shape.net == "map":
            return _density.fit_map(ae.posterior_means(self.model, chosen))
        judged = ae.posterior_means(self.model, self.feed.heldout[:512]) if judge and len(self.feed.heldout) else None
        codes = ae.posterior_means(self.model, chosen)
        return _density.fit(codes, heldout_MZ=judged, seed=derive(self.ctx.seed, "density"))

    def close(self) -> dict[str, Any]:
        """Write the checkpoint and the sheets; the figures are returned, of held-out pictures where there are any."""
        model, shard, config, out = self.model, self.shard, self.config, self.ctx.out
        judged, learned = self.feed.judged, self.feed.train[:ALL]
        ae.calibrate(model, judged, self.generator("calibrate"))
        found = ae.figures(model, judged, self.generator("figures"), samples=SAMPLES, bounded=BOUNDED)
        found |= ae.baseline(model, model.mean_CHW, judged)
        ae.standardize(model, learned)
        prior = self._prior(4096, judge=True)
        where = "heldout" if shard.heldout else "train"
        metrics: dict[str, Any] = {f"{where}_{name}": round(value, 6) for name, value in found.items()}
        means = ae.posterior_means(model, learned)
        metrics["active_latents"] = active_units(means)
        metrics |= {"latents": model.shape.latents, "likelihood": model.shape.likelihood, "size_px": shard.form.size_px}
        metrics |= {"train_pictures": shard.train, "heldout_pictures": shard.heldout, "skipped": shard.skipped}
        metrics["parameters"] = sum(p.numel() for p in model.parameters())
        if isinstance(prior, _density.Mixture):
            metrics["prior_components"] = len(prior.weights_K)
        if model.shape.likelihood == "gaussian":
            metrics["sigma"] = round(float(model.variance.sqrt()), 6)
        settings = {key: getattr(config, key) for key in ("temperature", "publish_px", "prior", "flip")}
        facts = {
            "kind": "vae",
            "shape": asdict(model.shape),
            "form": asdict(shard.form),
            **settings,
            **asdict(self.weights),
            "metrics": metrics,
        }
        draws = Prints(model, prior, facts, threads=self.ctx.threads)
        drawn = functools.partial(self._drawn, draws)
        losses = functools.partial(ae.judge, model, generator=self.generator("membership"))
        asked: dict[str, Any] = {"losses": losses, "device": str(self.device)}
        metrics |= of_pictures(drawn, self.feed.train, self.feed.heldout, **asked)
        write_checkpoint(out, model, prior, facts)
        write_atomic(out / "reconstructions.png", sheet(model, self.feed.shown, None, seed=0))
        write_atomic(out / "samples.png", draws.contact_sheet([derive(self.ctx.seed, "sheet", n) for n in range(48)]))
        return metrics

    @torch.no_grad()
    def _drawn(self, draws: Prints, count: int) -> Tensor:
        codes = torch.stack([draws.code(derive(self.ctx.seed, "measured", n)) for n in range(count)])
        parts = (self.model.picture(part.to(self.device)) for part in codes.split(64))
        return torch.cat([part.mul(255).round().byte().cpu() for part in parts])


def _likelihood(shard: Shard, net: str) -> str:
    if shard.form.channels != 1 or net == "map":  # a map rebuilds digits with half the squared error under a gaussian
        return "gaussian"
    chosen = np.asarray(shard.pixels[: min(shard.train, 512)])
    return "bernoulli" if float(((chosen < 26) | (chosen > 229)).mean()) >= 0.85 else "gaussian"


@functools.lru_cache(maxsize=16)
def _work_per_picture(shape: ae.Shape) -> tuple[float, int]:
    """Floating-point operations of one training step a picture, and the number of weights; told without computing."""
    x = torch.zeros(1, *shape.pixels)
    flops, model = operations(lambda: ae.Autoencoder(shape), lambda model: model.decode(model.encode(x)[0]))
    return 3.0 * flops, sum(p.numel() for p in model.parameters())
