"""What a trained flow is judged by: loss beside a closed-form baseline, and prints beside held-out pictures.

Distances are between sets of features (``nn/features.py``) and carry the name of the network that made them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from intaglio.models import _conditions
from intaglio.models import _flow as fn
from intaglio.models._flow_prints import Flow
from intaglio.nn import features, flow, measures, memorization
from intaglio.nn.order import derive

DRAWN = 256
JUDGED = 1_024
LEAST = 16  # pictures on each side, below which a distance of sets tells nothing


@torch.no_grad()
def figures(
    model: fn.Velocity, lessons: fn.Lessons, told: _conditions.Told, prints: Flow, *, seed: int
) -> dict[str, Any]:
    """All figures as plain JSON; ``heldout_`` or, where nothing is held out, ``train_``."""
    where = "heldout" if lessons.heldout else "train"
    own, baseline = losses(model, lessons, told, seed=seed)
    found: dict[str, Any] = {
        f"{where}_loss": round(float(own.mean()), 6),
        f"{where}_baseline_loss": round(float(baseline.mean()), 6),
    }
    return found | likeness(lessons, prints, seed=seed)


def losses(model: fn.Velocity, lessons: fn.Lessons, told: _conditions.Told, *, seed: int) -> tuple[Tensor, Tensor]:
    """Flow loss of each judged picture, and that of the best field that knows mean and variance of each pixel alone."""
    mean, variance = _moments(lessons)
    index, device = lessons.heldout_rows(JUDGED), model.device
    generator = torch.Generator().manual_seed(derive(seed, "figures"))
    own, baseline = [], []
    for start in range(0, len(index), 64):
        some = index[start : start + 64]
        x = lessons.x(some)
        noise = torch.randn(x.shape, generator=generator)
        time_B = flow.draw_times(len(x), law="uniform", generator=generator)
        rows_BK = told.rows(some)
        ask = fn.field(model, None if rows_BK is None else fn.unit_rows(rows_BK).to(device))
        own.append(flow.velocity_loss(ask, noise.to(device), x.to(device), time_B.to(device)).cpu())
        guess = flow.gaussian_velocity(flow.between(noise, x, time_B), time_B, mean, variance)
        baseline.append((guess - (x - noise)).square().flatten(1).mean(1))
    return torch.cat(own), torch.cat(baseline)


def _moments(lessons: fn.Lessons) -> tuple[Tensor, Tensor]:
    x = lessons.x(np.arange(lessons.train)[:: -(-lessons.train // 4096)])
    return x.mean(0), x.var(0, correction=0) + 1e-6


def likeness(lessons: fn.Lessons, prints: Flow, *, seed: int) -> dict[str, Any]:
    """Prints beside held-out pictures, training pictures beside them as the mark to reach, and how near copies are."""
    judged = lessons.pixels(lessons.heldout_rows(JUDGED)) if lessons.heldout else torch.empty(0)
    if len(judged) < LEAST or lessons.train < LEAST:
        return {}
    train = lessons.pixels(np.arange(lessons.train)[:: -(-lessons.train // JUDGED)])
    drawn = drawn_pixels(prints, min(DRAWN, max(LEAST, lessons.train)), seed=seed)
    network = features.load(device=prints.device)
    real, made, own = network(judged), network(drawn), network(train)
    few = min(len(made), len(own), len(real))  # this distance grows as sets shrink
    cover, mark = measures.prdc(real, made), measures.prdc(real, own)
    found: dict[str, Any] = {
        "features": network.name,
        "kid_like": measures.kid(made, real).plain(),
        "kid_like_of_training": measures.kid(own, real).plain(),
        "fid_like": round(measures.frechet(made[:few], real[:few]), 4),
        "fid_like_of_training": round(measures.frechet(own[:few], real[:few]), 4),
        "fid_like_compared": few,
        "prints_measured": len(drawn),
    }
    for name in ("precision", "recall", "density", "coverage"):
        found[name] = round(getattr(cover, name), 4)
        found[f"{name}_of_training"] = round(getattr(mark, name), 4)
    prints_apart, heldout_apart = (_apart(each, train) for each in (drawn, judged))
    found["nearest_training"] = round(float(prints_apart.median()), 5)
    found["nearest_training_of_heldout"] = round(float(heldout_apart.median()), 5)
    found["memorization"] = memorization.picture_report(network, drawn, train, judged)
    copied = (prints_apart < torch.quantile(heldout_apart, 0.05)).double().mean()
    return found | {"nearer_than_heldout_share": round(float(copied), 4)}


def drawn_pixels(prints: Flow, count: int, *, seed: int) -> Tensor:
    """uint8 (N, C, H, W) of prints at the model's own side."""
    seeds = [derive(seed, "measured", number) for number in range(count)]
    wishes = [prints.conditions.drawn(each) for each in seeds] if prints.conditions.kind == "label" else ()
    mode = "L" if prints.form.channels == 1 else "RGB"
    pictures = [np.asarray(each.convert(mode)) for each in prints.pixels([prints.noise(s) for s in seeds], wishes)]
    side = prints.form.size_px
    stacked = np.stack([each.reshape(side, side, -1).transpose(2, 0, 1) for each in pictures])
    return torch.from_numpy(np.ascontiguousarray(stacked))


def _apart(pixels: Tensor, train: Tensor) -> Tensor:
    """Root mean squared distance of each picture to the nearest training picture, in [0, 1]."""
    flat = [each.flatten(1).float() / 255 for each in (pixels, train)]
    return measures.nearest(*flat)[0] / flat[0].shape[1] ** 0.5
