"""What the adversarial model makes of real pictures, beside the autoencoder's draws and two trivial makers, by seeds.

Usage: python bench/quality/gan.py [--only digits,busts,few] [--seeds 3] [--images 48000] [--threads N] [--quick]
Data as in bench/quality/vae.py; the digits are told their labels, the busts may be mirrored. ``few`` learns from 100 of
the busts without mirroring, with and without augmentation, for twice as many pictures: here the critic can learn its
pictures by heart. Distances are of 512 drawn pictures to those held out. Sheets of the first seed go to docs/quality/,
figures to bench/results/gan_quality_<machine>_<YYYYMM>.json and to stdout as one JSON line a training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from codes import labels_of_digits
from vae import common, digits, parts, show, twice

from intaglio.models import _adversary as game
from intaglio.models import gan, vae
from intaglio.models._conditions import Conditions, Told
from intaglio.models._pictures import Form, Shard
from intaglio.nn import features
from intaglio.nn.device import machine
from tests.support import RunContext, kept

DRAWN, FEW = 512, 100
SHOWN = ("distance", "precision", "recall", "density", "coverage", "closer_to_train")


def judged(shard: Shard, made: torch.Tensor) -> dict[str, Any]:
    pixels = torch.from_numpy(np.ascontiguousarray(shard.pixels))
    return game.figures(features.load("random"), pixels[shard.train :], made, pixels[: shard.train][:DRAWN])


def drawn_by_gan(shard: Shard, told: Told, options: argparse.Namespace, seed: int, sheet: str, **config: Any) -> Any:
    """Figures of one training; its sheet where it has a name."""
    ctx = RunContext(Path(tempfile.mkdtemp()), seed=seed, threads=options.threads)
    component = gan.Component(gan.Config(data="pictures", size="tiny", **config))
    with machine(device="cpu", threads=options.threads) as device:
        metrics = component._fit(shard, told, ctx, device)
        model = component.load(ctx.out, device="cpu", threads=options.threads).model
        index = np.arange(DRAWN) % shard.train
        made = game.drawn(model, game.noise(DRAWN, gan.DIALS["tiny"].latents, seed, "figures"), told.rows(index))
    if sheet:
        show(f"{sheet}-gan-drawn", twice(ctx.out / "samples.png"), options)
    keys = ("train_seconds", "augmented", "best_step", "steps", "rollbacks", "class_shares")
    found = {**judged(shard, made), **{key: metrics[key] for key in keys if key in metrics}}
    print(json.dumps({"use": "gan", "seed": seed, "config": config, **found}), flush=True)
    return found


def drawn_by_vae(shard: Shard, options: argparse.Namespace, seed: int, images: int) -> dict[str, Any]:
    ctx = RunContext(Path(tempfile.mkdtemp()), seed=seed, threads=options.threads)
    component = vae.Component(vae.Config(data="pictures", size="tiny", net="conv", images=images, publish_px=0))
    with machine(device="cpu", threads=options.threads) as device:
        metrics = component._fit(shard, ctx, device)
    model = component.load(ctx.out, device="cpu", threads=options.threads)
    tiles = [shard.form.array(ctx.path(item.files[0])) for item in kept(model.sample(range(DRAWN), ctx))]
    made = torch.from_numpy(np.stack(tiles).transpose(0, 3, 1, 2).copy())
    found = {**judged(shard, made), "train_seconds": metrics["train_seconds"]}
    print(json.dumps({"use": "vae", "seed": seed, **found}), flush=True)
    return found


def spreads(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and most over the seeds, and every training as it was."""
    plain = [{**run, "distance": run["distance"][0]} for run in runs]
    return {"runs": runs, **{key: common.spread([run[key] for run in plain]) for key in SHOWN}}


def whole(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Digits or busts, all of them."""
    pixels, heldout = digits() if name == "digits" else common.busts(32)
    told = labels_of_digits() if name == "digits" else Told(Conditions(), None)
    config = {"condition": "label"} if name == "digits" else {"flip": True}
    shard = Shard(pixels, len(pixels) - heldout, Form(size_px=pixels.shape[-1], channels=pixels.shape[1]), 0)
    images = 1_000 if options.quick else options.images
    seeds = range(1, options.seeds + 1)
    made = [
        drawn_by_gan(shard, told, options, seed, name if seed == 1 else "", images=images, **config) for seed in seeds
    ]
    soft = [drawn_by_vae(shard, options, seed, images) for seed in seeds]
    return {"config": {**config, "images": images}, "gan": spreads(made), "vae": spreads(soft)}


def few(options: argparse.Namespace) -> dict[str, Any]:
    """A hundred busts, with augmentation and without."""
    pixels, heldout = common.busts(32)
    pixels = np.concatenate([pixels[:FEW], pixels[-heldout:]])
    shard = Shard(pixels, FEW, Form(size_px=32, channels=3), 0)
    found: dict[str, Any] = {}
    for augment in ("auto", "off"):
        config = {"augment": augment, "images": 1_000 if options.quick else 2 * options.images}
        runs = []
        for seed in range(1, options.seeds + 1):
            sheet = f"few-{augment}" if seed == 1 else ""
            runs.append(drawn_by_gan(shard, Told(Conditions(), None), options, seed, sheet, **config))
        found[augment] = spreads(runs)
    return found


def main() -> None:
    options = common.parser(__doc__, only="digits,busts,few", seeds=3, seed=1, images=48_000).parse_args()
    makers = {"digits": lambda: whole("digits", options), "busts": lambda: whole("busts", options)}
    parts(options, "gan", {**makers, "few": lambda: few(options)})


if __name__ == "__main__":
    main()
