"""What the flow makes of real pictures: on pixels and over codes, in few steps, by label, and from given pictures.

Usage: python bench/quality/flow.py [--only pixels,codes,few,digits] [--seed 7] [--threads 1] [--quick]
Data as in bench/quality/vae.py: 768 portraits of the demo (100 held out, mirrored by chance), 5,000 digits (500 held
out, told their labels). ``pixels``: 32 px, and the autoencoder's vector beside it; its sheet of edits starts from
held-out portraits. ``codes``: 64 px over the map of a vae, and the same on pixels. ``few``: shortcuts, drawn in every
way from the same seeds. Sheets go to docs/quality/, figures to bench/results/flow_quality_<machine>_<YYYYMM>.json and
to stdout as one JSON line a training. Every training takes some two minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from codes import labels_of_digits, vector
from PIL import Image
from vae import SHEETS, common, digits, trained, twice
from vae import parts as made_parts

from intaglio.core.contracts import Item
from intaglio.media import image as images
from intaglio.models import _flow as fn
from intaglio.models import flow, vae
from intaglio.models._conditions import Conditions, Told
from intaglio.models._flow_figures import drawn_pixels
from intaglio.models._flow_prints import Flow
from intaglio.models._pictures import Form, Shard
from intaglio.models._prints import Prints
from intaglio.nn import features, measures
from intaglio.nn.device import machine
from intaglio.nn.order import derive
from tests.support import RunContext

NOTHING = Told(Conditions(), None)
WAYS = [("euler", n) for n in (1, 2, 4, 8, 16)] + [("heun", n) for n in (2, 4, 8, 16)]
WAYS += [("shortcut", n) for n in (1, 2, 4, 8)]
DRAWN, SHOWN = 192, 8


def learned(
    data: tuple[np.ndarray, int], told: Told, options: argparse.Namespace, codes: Prints | None = None, **config: Any
) -> tuple[Flow, dict[str, Any], Path]:
    """One training: the loaded model, its figures, and its folder."""
    pixels, heldout = data
    shard = Shard(pixels, len(pixels) - heldout, Form(size_px=pixels.shape[-1], channels=pixels.shape[1]), 0)
    ctx = RunContext(Path(tempfile.mkdtemp()), seed=options.seed, threads=options.threads)
    if options.quick:
        config["images"] = 1_000
    component = flow.Component(flow.Config(data="pictures", size="tiny", **config))
    with machine(device="cpu", threads=options.threads) as device:
        lessons = fn.Lessons(shard, codes, ctx, flip=component.config.flip)
        metrics = component._fit(lessons, told, ctx, device)
    metrics.pop("curve")
    print(json.dumps({"use": "flow", "config": config, **metrics}), flush=True)
    return component.load(ctx.out, device="cpu", threads=options.threads), {"config": config, **metrics}, ctx.out


# ------------------------------------------------------------------------------------------------------------- parts
def on_pixels(options: argparse.Namespace) -> dict[str, Any]:
    """Portraits at 32 px, the vector autoencoder beside them, and pictures made from held-out ones."""
    data = common.busts(32)
    model, metrics, folder = learned(data, NOTHING, options, images=40_000, flip=True)
    keep(options, "busts-flow-drawn.png", twice(folder / "samples.png"))
    keep(options, "busts-flow-edited.png", images.dump(edits(model, data[0][-data[1] :][:SHOWN], options)))
    found = {"flow": metrics}
    if not options.quick:
        found["vector"] = vector(data, 48_000, options)
    return found


def over_codes(options: argparse.Namespace) -> dict[str, Any]:
    """Portraits at 64 px, over the map of a vae and on pixels."""
    data = common.busts(64)
    codes, autoencoder = trained(vae, data, options, size="tiny", net="map", images=10_000, flip=True)
    _, metrics, folder = learned(data, NOTHING, options, codes, images=26_000, flip=True)
    keep(options, "busts-flow-codes-drawn.png", (folder / "samples.png").read_bytes())
    _, plain, _ = learned(data, NOTHING, options, images=30_000, flip=True, size_px=64)
    return {"vae": autoencoder, "flow": metrics, "flow_on_pixels": plain}


def in_few_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Distance to the training pictures and pictures a second, by sampler and steps."""
    data = common.busts(32)
    model, metrics, _ = learned(data, NOTHING, options, images=40_000, flip=True, sampler="shortcut")
    network = features.load()
    real = network(torch.from_numpy(data[0][: -data[1]].copy()))
    ways: dict[str, Any] = {}
    for sampler, steps in WAYS:
        model.sampler, model.steps = sampler, steps
        start = time.perf_counter()
        made = drawn_pixels(model, 32 if options.quick else DRAWN, seed=options.seed)
        rate = len(made) / (time.perf_counter() - start)
        ways[f"{sampler} {steps}"] = {"distance": measures.kid(network(made), real).plain(), "img/s": round(rate, 1)}
    print(json.dumps(ways), flush=True)
    rows = []
    for model.sampler, model.steps in (("euler", 1), ("shortcut", 1), ("shortcut", 2), ("shortcut", 4), ("heun", 8)):
        rows += model.pixels([model.noise(derive(options.seed, "row", n)) for n in range(SHOWN)])
    keep(options, "busts-flow-steps.png", images.dump(images.grid(rows, columns=SHOWN)))
    return {"flow": metrics, "ways": ways}


def of_digits(options: argparse.Namespace) -> dict[str, Any]:
    """Digits by label."""
    _, metrics, folder = learned(digits(), labels_of_digits(), options, images=20_000, condition="label")
    keep(options, "digits-flow-drawn.png", twice(folder / "samples.png"))
    return {"flow": metrics}


# ------------------------------------------------------------------------------------------------------------- sheets
def edits(model: Flow, pixels: np.ndarray, options: argparse.Namespace) -> Image.Image:
    """Given pictures; varied by 0.15, 0.4, 0.7; redrawn at 0.3, 0.5, 0.7; lower half, middle filled in; framed."""
    ctx = RunContext(Path(tempfile.mkdtemp()), seed=options.seed, threads=options.threads)
    side = model.form.size_px
    given = [images.from_array(each.transpose(1, 2, 0)) for each in pixels]
    items = [
        Item(media="image", files=(ctx.put(images.dump(each), name="given.png", mime="image/png"),)) for each in given
    ]
    seeds = [derive(options.seed, "edit", number) for number in range(len(items))]
    lower, middle = np.zeros((side, side)), np.zeros((side, side))
    lower[side // 2 :] = 1
    middle[side // 4 : -side // 4, side // 4 : -side // 4] = 1
    rows = [model.vary(items, seeds, ctx, strength=strength) for strength in (0.15, 0.4, 0.7)]
    rows += [model.vary(items, seeds, ctx, strength=strength, through="noised") for strength in (0.3, 0.5, 0.7)]
    rows += [model.fill(items, mask, seeds, ctx) for mask in (lower, middle)]
    rows.append(model.fill(items, None, seeds, ctx, inset=5 / 8))
    shown = [each.resize((2 * side, 2 * side), Image.Resampling.NEAREST) for each in given]
    for row in rows:
        for item in row:
            with Image.open(ctx.path(item.files[0])) as picture:
                shown.append(picture.convert("RGB").resize((2 * side, 2 * side), Image.Resampling.BOX))
    return images.grid(shown, columns=len(items))


def keep(options: argparse.Namespace, name: str, sheet: bytes) -> None:
    if not options.quick:
        (SHEETS / name).write_bytes(sheet)


def main() -> None:
    options = common.parser(__doc__, only="pixels,codes,few,digits", seed=7).parse_args()
    makers = {"pixels": on_pixels, "codes": over_codes, "few": in_few_steps, "digits": of_digits}
    made_parts(options, "flow", {name: lambda make=make: make(options) for name, make in makers.items()})


if __name__ == "__main__":
    main()
