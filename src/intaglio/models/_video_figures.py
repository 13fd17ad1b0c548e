"""What a trained video model is judged by: losses beside closed-form baselines, motion, frames, and nearness to copies.

The baselines know mean and variance alone: of each pixel of a first frame; and of a clip that goes on from one, of how
far each pixel strays from that frame: a still picture, with the right doubt about it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from intaglio.models import _video as fn
from intaglio.models._video_prints import Clips
from intaglio.nn import features, flow, measures
from intaglio.nn.order import derive

DRAWN, JUDGED, NEAREST = 32, 128, 2_048
LEAST = 16  # pictures a side, below which a distance of sets says nothing


@torch.no_grad()
def figures(model: fn.Velocity, lessons: fn.Lessons, made: Clips, *, seed: int, drawn: int = DRAWN) -> dict[str, Any]:
    """All figures as plain JSON; ``heldout_`` or, where nothing is held out, ``train_``."""
    where = "heldout" if lessons.films.heldout else "train"
    judged = lessons.some(lessons.judged, JUDGED)
    found = {
        f"{where}_{name}": round(float(each.mean()), 6) for name, each in losses(model, lessons, judged, seed).items()
    }
    real = lessons.pixels(judged)
    seeds = [derive(seed, "measured", number) for number in range(drawn)]
    clips = made.pixels(seeds)
    moved = made.pixels(seeds[: len(real)], real[: len(seeds), 0])
    found |= {f"{where}_{name}": value for name, value in gone_on(moved, real[: len(seeds)], lessons).items()}
    found |= {"motion": motion(clips), "motion_animated": motion(moved), f"motion_of_{where}": motion(real)}
    if lessons.films.cut.loop:
        found |= {"seam": seam(clips), f"seam_of_{where}": seam(real)}
    return found | {"judged_clips": len(real), "drawn_clips": len(clips)} | nearness(clips, real, lessons)


def losses(model: fn.Velocity, lessons: fn.Lessons, judged: np.ndarray[Any, Any], seed: int) -> dict[str, Tensor]:
    """Flow loss of each judged clip, of its first frame alone and of how it goes on, each beside its baseline."""
    train = lessons.x(lessons.some(lessons.train, 512))
    mean, variance = train[:, 0].mean(0), train[:, 0].var(0, correction=0) + 1e-4
    strayed = (train[:, 1:] - train[:, :1]).square().mean(0) + 1e-4
    generator = torch.Generator().manual_seed(derive(seed, "figures"))
    found: dict[str, list[Tensor]] = {"loss": [], "baseline_loss": [], "animate_loss": [], "still_loss": []}
    for start in range(0, len(judged), 8):
        clips = lessons.x(judged[start : start + 8])
        begun, going_on = _drawn(clips[:, :1], generator), _drawn(clips, generator)
        found["loss"].append(fn.picture_loss(model, *(each.to(model.device) for each in begun)).cpu())
        found["baseline_loss"].append(_wrong(*begun, mean, variance))
        found["animate_loss"].append(fn.motion_loss(model, *(each.to(model.device) for each in going_on))[0].cpu())
        later = (going_on[0][:, 1:], clips[:, 1:], going_on[2])
        found["still_loss"].append(_wrong(*later, clips[:, :1], strayed))
    return {name: torch.cat(each) for name, each in found.items()}


def _drawn(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, data and times as they are learned."""
    return fn.noise_like(x, generator), x, fn.draw_times(len(x), x.shape[1], generator)


def _wrong(noise: Tensor, x: Tensor, t_B: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Loss (B,) of who knows mean and variance alone."""
    guess = flow.gaussian_velocity(flow.between(noise, x, t_B), t_B, mean, variance)
    return (guess - (x - noise)).square().flatten(1).mean(1)


def gone_on(moved: Tensor, real: Tensor, lessons: fn.Lessons) -> dict[str, float]:
    """How far clips made from true first frames are from what truly followed: root mean squares in [0, 1].

    Beside them the same of the first frame repeated and of the mean clip. One that guesses among several ways to go on
    is further off than a mean of them all: no mark to reach, but a copy that stands still would show here.
    """
    train = lessons.pixels(lessons.some(lessons.train, 512)).float().mean(0)
    guesses = {"animate_rmse": moved, "still_rmse": real[:, :1].expand_as(real), "mean_rmse": train.expand_as(real)}
    return {name: _rms(each.float()[:, 1:] - real.float()[:, 1:]) for name, each in guesses.items()} | {
        "first_frame_rmse": _rms(moved[:, 0].float() - real[:, 0].float())
    }


def _rms(difference: Tensor) -> float:
    return round(float((difference / 255).square().mean().sqrt()), 5)


def motion(clips_NTCHW: Tensor) -> float:
    """Mean absolute difference of neighbouring frames in [0, 1]; a still picture has 0."""
    return round(float(clips_NTCHW.float().diff(dim=1).abs().mean() / 255), 5)


def seam(clips_NTCHW: Tensor) -> float:
    """How much the last frame differs from the first, over how much neighbours do: 1 where nobody sees the seam."""
    x = clips_NTCHW.float()
    return round(float((x[:, -1] - x[:, 0]).abs().mean() / x.diff(dim=1).abs().mean().clamp(min=1e-3)), 4)


def nearness(clips: Tensor, real: Tensor, lessons: fn.Lessons) -> dict[str, Any]:
    """Frames beside held-out frames by features, and how near clips are to the nearest to learn from."""
    train = lessons.pixels(lessons.some(lessons.train, NEAREST))
    found: dict[str, Any] = {}
    if lessons.films.heldout and min(len(clips), len(real)) * clips.shape[1] >= 4 * LEAST:
        net = features.load(device="cpu")
        sets = {"": clips, "_of_training": train[:: -(-len(train) // len(clips))]}
        judged = net(real.flatten(0, 1))
        found["features"] = net.name
        found |= {
            f"frame_kid_like{name}": measures.kid(net(each.flatten(0, 1)), judged).plain()
            for name, each in sets.items()
        }
    made_apart, real_apart = (_apart(each, train) for each in (clips, real))
    found["nearest_training"] = round(float(made_apart.median()), 5)
    if lessons.films.heldout:
        found["nearest_training_of_heldout"] = round(float(real_apart.median()), 5)
        nearer = (made_apart < torch.quantile(real_apart, 0.05)).double().mean()
        found["nearer_than_heldout_share"] = round(float(nearer), 4)
    return found


def _apart(clips: Tensor, train: Tensor) -> Tensor:
    """Root mean squared distance of each clip to the nearest clip to learn from, in [0, 1]."""
    flat = [each.flatten(1).float() / 255 for each in (clips, train)]
    return measures.nearest(*flat)[0] / flat[0].shape[1] ** 0.5
