"""What a model of codes makes of real pictures, beside its vq alone and the vector autoencoder: bits, likeness, sheets.

Usage: python bench/quality/codes.py [--only digits,busts] [--seed 7] [--threads 1] [--quick]
Data as in bench/quality/vae.py: 5,000 digits (500 held out), 768 portraits of the demo (100 held out). The digits are
told their labels; a column of the sheet is one label. Sheets go to docs/quality/, figures to
bench/results/codes_quality_<machine>_<YYYYMM>.json and to stdout as one JSON line a training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vae import common, digits, parts, show, trained, twice

from intaglio.models import codes, vae, vq
from intaglio.models._conditions import Conditions, Told
from intaglio.models._pictures import Form, Shard
from intaglio.nn import features, measures
from intaglio.nn.device import machine
from tests.support import RunContext, kept


def labels_of_digits() -> Told:
    """The labels of ``digits()``, in its order."""
    names = tuple(str(number) for number in range(10))
    return Told(Conditions("label", names, (0.1,) * 10), common.shuffled(common.labels_of_digits()))


def vector(data: tuple[np.ndarray, int], seen: int, options: argparse.Namespace) -> dict[str, Any]:
    """How near to held-out pictures the draws of the vector autoencoder come."""
    model, _ = trained(vae, data, options, size="tiny", net="conv", images=seen, publish_px=0)
    ctx = RunContext(Path(tempfile.mkdtemp()), seed=options.seed)
    form, held = model.form, data[0][-data[1] :]
    made = [form.array(ctx.path(item.files[0])) for item in kept(model.sample(range(len(held)), ctx))]
    net = features.load()
    pixels = torch.from_numpy(np.stack(made).transpose(0, 3, 1, 2).copy())
    return {"kid_like": measures.kid(net(pixels), net(torch.from_numpy(held.copy()))).plain()}


def sheet(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One training of the codes of one vq, and its sheet."""
    data, seen, told, config = {
        "digits": lambda: (digits(), 30_000, labels_of_digits(), {"condition": "label"}),
        "busts": lambda: (common.busts(32), 24_000, Told(Conditions(), None), {"flip": True}),
    }[name]()
    tokenizer, _ = trained(vq, data, options, size="tiny", images=seen)
    pixels, heldout = data
    shard = Shard(pixels, len(pixels) - heldout, Form(size_px=pixels.shape[-1], channels=pixels.shape[1]), 0)
    ctx = RunContext(Path(tempfile.mkdtemp()), seed=options.seed, threads=options.threads)
    config = {"size": "tiny", "images": 1_000 if options.quick else options.images, **config}
    component = codes.Component(codes.Config(data="pictures", model="vq", **config))
    with machine(device="cpu", threads=options.threads) as device:
        metrics = component._fit(shard, told, tokenizer, ctx, device)
    curve = metrics.pop("curve")
    show(f"{name}-codes-drawn", twice(ctx.out / "samples.png"), options)
    found = {"config": config, **metrics, "curve": curve[:: max(1, len(curve) // 20)]}
    if not options.quick:
        found["vector"] = vector(data, seen, options)
    print(json.dumps({"use": "codes", "data": name, **found}), flush=True)
    return found


def main() -> None:
    options = common.parser(__doc__, only="digits,busts", seed=7, images=12_000).parse_args()
    parts(options, "codes", {part: lambda part=part: sheet(part, options) for part in ("digits", "busts")})


if __name__ == "__main__":
    main()
