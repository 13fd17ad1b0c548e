"""What the flow makes of real pictures: by pixels, codes and labels, in few steps, from given ones; with other makers.

Usage: python bench/quality/flow.py [--only busts,few,large,digits] [--seed 7] [--images 20000] [--threads N] [--quick]
Data as in bench/quality/vae.py: 768 portraits of the demo (668 to learn from, mirrored by chance, 100 held out) and
5,000 digits (500 held out), told their labels. ``busts``: pixels at 32 px beside the autoencoder's vector, copies of
training pictures and the mean picture, and what is made from given pictures. ``few``: one model that learned shortcuts,
drawn in every way. ``large``: 64 px, over the map of an autoencoder that saw 10,000 pictures, and on pixels. Every flow
sees as many pictures, of the digits half as many; one seed. Distances are of 256 drawn pictures to those held out, in
the ``ways`` of ``few`` of 192 to the training pictures. Sheets go to docs/quality/, figures, in the order of the page's
tables, to bench/results/flow_quality_<machine>_<YYYYMM>.json and to stdout as one JSON line a part.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from codes import labels_of_digits
from gan import judged
from PIL import Image
from vae import common, digits, drawn, parts, place, show, tell, twice
from vae import trained as autoencoder

from intaglio.core.contracts import Item
from intaglio.media import image as images
from intaglio.models import _flow as fn
from intaglio.models import flow, vae
from intaglio.models._conditions import Conditions, Told
from intaglio.models._flow_figures import DRAWN, drawn_pixels
from intaglio.models._pictures import Form, Shard
from intaglio.nn import features, measures
from intaglio.nn.device import machine

ENCODER_IMAGES = 10_000
WAYS = {"euler": (1, 2, 4, 8, 16), "heun": (2, 4, 8, 16), "shortcut": (1, 2, 4, 8)}  # steps; heun looks twice in each
WAYS_SHOWN = (("euler", 1), ("shortcut", 1), ("shortcut", 2), ("shortcut", 4), ("heun", 8))
COMPARED, COLUMNS = 192, 8
VARIED, REDRAWN = (0.15, 0.4, 0.7), (0.3, 0.5, 0.7)
SHOWN = ("distance", "precision", "recall", "density", "coverage")
KEPT = (*SHOWN[1:], "heldout_loss", "heldout_baseline_loss", "nearer_than_heldout_share", "train_seconds", "steps")


def shard_of(data: tuple[np.ndarray, int]) -> Shard:
    pixels, heldout = data
    return Shard(pixels, len(pixels) - heldout, Form(size_px=pixels.shape[-1], channels=pixels.shape[1]), 0)


def trained(
    shard: Shard, options: argparse.Namespace, *, told: Told | None = None, codes: Any = None, **config: Any
) -> tuple[Any, dict[str, Any], bytes]:
    """A flow ready to draw, its row of the table, and its sheet."""
    ctx = place(options)
    config = {"size": "tiny", "size_px": shard.form.size_px, "images": options.images, "publish_px": 0, **config}
    if options.quick:
        config["steps"] = 2
    component = flow.Component(flow.Config(data="pictures", codes="plate" if codes else (), **config))
    with machine(device="cpu", threads=options.threads) as device:
        lessons = fn.Lessons(shard, codes, ctx, flip=component.config.flip)
        metrics = component._fit(lessons, told or Told(Conditions(), None), ctx, device)
    prints = component.load(ctx.out, device="cpu", threads=options.threads)
    row = {"drawn_by": f"{prints.sampler}, {prints.steps} steps", "images": config["images"]}
    row |= {"distance": metrics["kid_like"], **{key: metrics[key] for key in KEPT}}
    return prints, row, twice(ctx.out / "samples.png")


def trivial(shard: Shard) -> list[dict[str, Any]]:
    """Rows of the makers that need no training: copies of training pictures, and the mean picture."""
    found = judged(shard, torch.from_numpy(shard.pixels[:COLUMNS].copy()))
    copies = {key: found[f"copies_{key}"] for key in SHOWN}
    mean = {"what": "the mean picture", "distance": found["mean_picture_distance"]}
    return [{"what": "training pictures", **copies}, mean]


def busts(options: argparse.Namespace) -> dict[str, Any]:
    """Pixels at 32 px beside other makers, and pictures made from given ones."""
    data = common.busts(32)
    shard = shard_of(data)
    prints, row, sheet = trained(shard, options, flip=True)
    show("busts-flow-drawn", sheet, options)
    show("busts-flow-edited", twice(edited(prints, shard, options)), options)
    model, soft = autoencoder(vae, data, options, size="tiny", net="conv", images=options.images, publish_px=0)
    found = judged(shard, drawn(model, DRAWN, options))
    vector = {"what": "vae, a vector", "images": soft["config"]["images"], "train_seconds": soft["train_seconds"]}
    vector |= {key: found[key] for key in SHOWN}
    return tell("busts", {"table": [{"what": "flow on pixels", **row}, vector, *trivial(shard)]})


def edited(prints: Any, shard: Shard, options: argparse.Namespace) -> bytes:
    """Held-out pictures above what is made of them: varied, redrawn, two holes filled, shrunk and framed."""
    ctx, side = place(options), shard.form.size_px
    items = []
    for number, pixels_CHW in enumerate(shard.pixels[shard.train :][:COLUMNS]):
        picture = images.dump(images.from_array(np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0))))
        items.append(Item(media="image", files=(ctx.put(picture, name=f"{number}.png", mime="image/png"),)))
    lower, middle = np.zeros((side, side)), np.zeros((side, side))
    lower[side // 2 :] = 1
    middle[side // 3 : -(side // 3), side // 3 : -(side // 3)] = 1
    seeds = range(COLUMNS)
    rows = [items, *(prints.vary(items, seeds, ctx, strength=each) for each in VARIED)]
    rows += [prints.vary(items, seeds, ctx, strength=each, through="noised") for each in REDRAWN]
    rows += [prints.fill(items, mask, seeds, ctx) for mask in (lower, middle)]
    rows += [prints.fill(items, None, seeds, ctx, inset=0.625)]
    tiles = [Image.open(ctx.path(item.files[0])) for row in rows for item in row]
    return images.dump(images.grid(tiles, columns=COLUMNS))


def few(options: argparse.Namespace) -> dict[str, Any]:
    """One model that learned shortcuts, drawn in every way."""
    shard = shard_of(common.busts(32))
    prints, row, _ = trained(shard, options, flip=True, sampler="shortcut")
    net = features.load("random")
    train, held = (net(torch.from_numpy(each.copy())) for each in np.split(shard.pixels, [shard.train]))
    count = COLUMNS if options.quick else COMPARED
    ways, tiles = [], list[Image.Image]()
    for sampler, counts in WAYS.items():
        for steps in counts:
            prints.sampler, prints.steps = sampler, steps
            start = time.perf_counter()
            made = drawn_pixels(prints, count, seed=options.seed)
            rate = count / (time.perf_counter() - start)
            far = measures.kid(net(made), train).plain()
            looks = steps * 2 if sampler == "heun" else steps
            ways.append({"sampler": sampler, "looks": looks, "distance": far, "pictures_per_second": round(rate, 1)})
    for prints.sampler, prints.steps in WAYS_SHOWN:
        tiles += prints.pixels([prints.noise(seed) for seed in range(COLUMNS)])
    show("busts-flow-steps", twice(images.dump(images.grid(tiles, columns=COLUMNS))), options)
    mark = measures.kid(held, train).plain()
    table = [{"what": "flow with shortcuts", **row}]
    return tell("few", {"table": table, "ways": ways, "distance_of_heldout": mark})


def large(options: argparse.Namespace) -> dict[str, Any]:
    """64 px: over the codes of an autoencoder, and on pixels."""
    data = common.busts(64)
    shard = shard_of(data)
    plate, encoder = autoencoder(vae, data, options, size="tiny", net="map", images=ENCODER_IMAGES, publish_px=0)
    _, over_codes, sheet = trained(shard, options, flip=True, codes=plate)
    show("busts-flow-codes-drawn", sheet, options)
    over_codes |= {"encoder_images": encoder["config"]["images"], "encoder_seconds": encoder["train_seconds"]}
    _, on_pixels, _ = trained(shard, options, flip=True)
    rows = [{"what": "flow over the map of a vae", **over_codes}, {"what": "flow on pixels", **on_pixels}]
    return tell("large", {"table": [*rows, *trivial(shard)]})


def labelled(options: argparse.Namespace) -> dict[str, Any]:
    """Digits that were asked for by label."""
    shard = shard_of(digits())
    seen = max(1, options.images // 2)
    _, row, sheet = trained(shard, options, told=labels_of_digits(), condition="label", images=seen)
    show("digits-flow-drawn", sheet, options)
    return tell("digits", {"table": [{"what": "flow on pixels, told labels", **row}, *trivial(shard)]})


def main() -> None:
    options = common.parser(__doc__, only="busts,few,large,digits", seed=7, images=20_000).parse_args()
    if options.quick:
        options.images = 320
    makers = {"busts": busts, "few": few, "large": large, "digits": labelled}
    parts(options, "flow", {name: partial(make, options) for name, make in makers.items()})


if __name__ == "__main__":
    main()
