"""Figures of the flow: sampling speed at equal distance, and distance at equal training time, beside diffusers.

Usage: python bench/flow.py [--seconds 45] [--rounds 3] [--diffusers-python PYTHON] [--threads N] [--quick]
Sides: ``ours`` is ``models/flow.py`` as a step runs it, ``size = "tiny"``, with averaging, evaluations and resumable
states on the clock. ``diffusers`` is UNet2DModel of about as many parameters with the loop of its tutorial: DDPM,
AdamW at 1e-4, cosine after a warm-up (of 5 % here: its 500 steps would not end), clipping at 1, batch 16, float32; it
draws by DDIM in 50 steps. ``tuned`` is the same network with what one does next: bfloat16, channels last, 1e-3,
averaged weights.
The same emoji busts at 32 px (768 of npm @lobehub/fluent-emoji-3d): 668 to learn from, mirrored by chance, 100 held
out; the same threads; the sides take turns. Distances are the kernel distance on ``nn/features.py`` "random" of 256
drawn pictures to those held out; beside them that of training pictures. Ours is drawn in several ways; "equal distance"
takes the fastest whose distance is not above the peer's. The peer gets an environment of its own in the user's cache
folder.
Prints one JSON line and writes bench/results/flow_<machine>_<YYYYMM>.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import _common as common

DIFFUSERS = "diffusers==0.35.2"
SIDES = ("ours", "diffusers", "tuned")
SIDE_PX, DRAWN, BATCH = 32, 256, 64
PEER_WIDTHS = (32, 64, 96)
WAYS = (("heun", 8), ("heun", 4), ("euler", 16), ("euler", 8), ("euler", 4), ("euler", 2), ("euler", 1))


# ------------------------------------------------------------------------------ one run of one side, in a process
def run_ours(pixels: np.ndarray, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The component as a step runs it, for as many pictures as fit into the seconds by a short run before."""
    from intaglio.models import _conditions, flow
    from intaglio.models import _flow as fn
    from intaglio.models._flow_figures import drawn_pixels
    from intaglio.models._pictures import Form, Shard
    from intaglio.nn.device import machine
    from tests.support import RunContext

    shard = Shard(pixels, options.train, Form(size_px=SIDE_PX, channels=3), 0)

    def run(images: int, folder: Path) -> tuple[RunContext, Any, dict[str, Any]]:
        config = flow.Config(data="busts", size="tiny", size_px=SIDE_PX, flip=True, images=images)
        ctx = RunContext(folder, seed=options.seed, threads=options.threads)
        with machine(device="cpu", threads=options.threads) as device:
            lessons = fn.Lessons(shard, None, ctx, flip=True)
            component = flow.Component(config)
            metrics = component._fit(lessons, _conditions.Told(_conditions.Conditions(), None), ctx, device)
        return ctx, component, metrics

    with tempfile.TemporaryDirectory() as folder:
        rate = run(3_200, Path(folder) / "first")[2]["images_per_second"]
        ctx, component, metrics = run(max(640, int(rate * options.seconds)), Path(folder) / "whole")
        prints = component.load(ctx.out, device="cpu", threads=options.threads)
    found: dict[str, Any] = {"train_rate": metrics["images_per_second"], "seconds": metrics["train_seconds"]}
    found |= {"parameters": metrics["parameters"], "heldout_loss": metrics["heldout_loss"], "sample_rate": {}}
    made = {}
    for sampler, steps in WAYS:
        prints.sampler, prints.steps = sampler, steps
        start = time.perf_counter()
        made[f"{sampler}-{steps}"] = drawn_pixels(prints, options.drawn, seed=options.seed).numpy()
        found["sample_rate"][f"{sampler}-{steps}"] = options.drawn / (time.perf_counter() - start)
    return found, made


def run_peer(pixels: np.ndarray, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """diffusers' network, schedulers and optimizer, as its tutorial for unconditional pictures puts them together."""
    import copy

    import torch
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_cosine_schedule_with_warmup

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tuned = options.side == "tuned"
    model = UNet2DModel(
        sample_size=SIDE_PX,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=PEER_WIDTHS,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    average = copy.deepcopy(model) if tuned else None
    noising = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3 if tuned else 1e-4)
    train = torch.from_numpy(pixels[: options.train]).float() / 127.5 - 1.0
    batch, schedule, steps = 16, None, 0
    start = warm = time.perf_counter()
    while time.perf_counter() - start < options.seconds:
        clean = train[torch.randint(len(train), (batch,))]
        clean = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, clean.flip(3), clean)
        noise, when = torch.randn_like(clean), torch.randint(0, 1000, (batch,))
        noisy = noising.add_noise(clean, noise, when)
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            guess = model(noisy, when, return_dict=False)[0]
        torch.nn.functional.mse_loss(guess.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        optimizer.zero_grad()
        steps += 1
        if average is not None:
            with torch.no_grad():
                for mean, live in zip(average.parameters(), model.parameters(), strict=True):
                    mean.lerp_(live, 1 - min(0.995, (1 + steps) / (10 + steps)))
        if steps == 5:
            warm = time.perf_counter()
        if steps == 15:  # from here it is known how many steps there will be
            whole = max(
                30, int(15 + (options.seconds - (time.perf_counter() - start)) * 10 / (time.perf_counter() - warm))
            )
            schedule = get_cosine_schedule_with_warmup(optimizer, max(1, whole // 20), whole)
    seconds = time.perf_counter() - start
    found = {"train_rate": steps * batch / seconds, "seconds": seconds}
    found |= {"parameters": sum(p.numel() for p in model.parameters())}
    network = average if average is not None else model
    drawing = DDIMScheduler.from_config(noising.config)
    drawing.set_timesteps(50)
    generator = torch.Generator().manual_seed(options.seed)
    parts, start = [], time.perf_counter()
    for first in range(0, options.drawn, BATCH):
        x = torch.randn(min(BATCH, options.drawn - first), 3, SIDE_PX, SIDE_PX, generator=generator)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            for when in drawing.timesteps:
                x = drawing.step(network(x, when).sample.float(), when, x, eta=0.0).prev_sample
        parts.append(((x.clamp(-1, 1) + 1) * 127.5).round().byte())
    found["sample_rate"] = {"ddim-50": options.drawn / (time.perf_counter() - start)}
    return found, {"ddim-50": torch.cat(parts).numpy()}


# ------------------------------------------------------------------------------------------------------ all runs
def turn(side: str, python: str, data: Path, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(Path(__file__)), "--side", side, "--data", str(data), "--folder", folder]
        command += ["--threads", str(options.threads), "--seconds", str(options.seconds), "--seed", str(seed)]
        command += ["--train", str(options.train), "--drawn", str(options.drawn)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        made = np.load(Path(folder) / "made.npz")
        return {**json.loads(done.stdout.splitlines()[-1]), "made": {name: made[name] for name in made.files}}


def judge(made: np.ndarray, pixels: np.ndarray, train: int) -> dict[str, float]:
    """Kernel distance to held-out pictures and to training pictures, precision and recall beside the latter."""
    import torch

    from intaglio.nn import features, measures

    net = features.load("random")
    own, real, learned = (
        net(torch.from_numpy(np.ascontiguousarray(each))) for each in (made, pixels[train:], pixels[:train])
    )
    cover = measures.prdc(learned, own)
    found = {"distance": measures.kid(own, real).value, "distance_to_training": measures.kid(own, learned).value}
    return found | {"precision": cover.precision, "recall": cover.recall, "coverage": cover.coverage}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    pixels, heldout = common.busts(SIDE_PX)
    options.train = len(pixels) - heldout
    theirs = options.diffusers_python or common.peer_python(DIFFUSERS, ("numpy",), (DIFFUSERS,), torch=True)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.npy"
        np.save(path, pixels)
        for number in range(options.rounds):
            for side in SIDES:
                found = turn(side, sys.executable if side == "ours" else theirs, path, options, number + 1)
                found["judged"] = {way: judge(made, pixels, options.train) for way, made in found.pop("made").items()}
                runs[side].append(found)
    result: dict[str, Any] = {}
    for side in SIDES:
        result[side] = {
            key: common.spread([run[key] for run in runs[side]]) for key in ("train_rate", "seconds", "parameters")
        }
        for way in runs[side][0]["judged"]:
            judged = [run["judged"][way] for run in runs[side]]
            figures = {key: common.spread([each[key] for each in judged]) for key in judged[0]}
            figures["sample_rate"] = common.spread([run["sample_rate"][way] for run in runs[side]])
            result[side][way] = figures
    mark = judge(pixels[: min(DRAWN, options.train)], pixels, options.train)
    result["training_pictures"] = {"distance": round(mark["distance"], 4)}
    for peer in SIDES[1:]:
        result[f"over_{peer}"] = versus(result["ours"], result[peer])
    return {**result, "seeds": list(range(1, options.rounds + 1))}


def versus(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """By the medians: distances after equal time, and how much faster ours draws at the peer's distance or less."""
    peer = theirs["ddim-50"]
    ways = {name: ours[name] for name in (f"{sampler}-{steps}" for sampler, steps in WAYS)}
    near = {n: w for n, w in ways.items() if w["distance"]["median"] <= peer["distance"]["median"]}
    found = {
        "distance_at_equal_time": [ours["heun-8"]["distance"]["median"], peer["distance"]["median"]],
        "train_rate": round(ours["train_rate"]["median"] / theirs["train_rate"]["median"], 2),
    }
    if not near:
        return found | {"sampling_at_equal_distance": None}
    best = max(near, key=lambda name: near[name]["sample_rate"]["median"])
    factor = near[best]["sample_rate"]["median"] / peer["sample_rate"]["median"]
    return found | {"sampling_at_equal_distance": round(factor, 2), "drawn_by": best}


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    made = []
    for peer, name in (("diffusers", "its tutorial"), ("tuned", "tuned by us")):
        against, theirs = f"diffusers UNet2D + DDIM 50, {name}", result[peer]["ddim-50"]
        versus_peer, ours = result[f"over_{peer}"], result["ours"]
        got = None
        if versus_peer["sampling_at_equal_distance"] is not None:
            rate, of = ours[versus_peer["drawn_by"]]["sample_rate"], theirs["sample_rate"]
            got = {"median": versus_peer["sampling_at_equal_distance"]}
            got |= {"least": rate["least"] / of["most"], "most": rate["most"] / of["least"]}
        made.append(common.row("flow, portraits 32 px: pictures drawn a second at equal distance", against, got, 5.0))
        less = common.less(ours["heun-8"]["distance"], theirs["distance"])
        made.append(common.row("flow: kernel distance less, equal training time", against, less, 1.0))
    return made


def main() -> None:
    parser = common.parser(__doc__, seconds=45.0, rounds=3, diffusers_python="")
    common.hidden(parser, "side", "data", "folder", seed=0, train=0, drawn=DRAWN)
    options = parser.parse_args()
    sys.path[:0] = [str(common.ROOT / "src"), str(common.ROOT)]
    if options.side:
        found, made = (run_ours if options.side == "ours" else run_peer)(np.load(options.data), options)
        np.savez(Path(options.folder) / "made.npz", **made)
        print(json.dumps(found))
        return
    if options.quick:
        options.seconds, options.rounds, options.drawn = 15.0, 1, 64
    result = {
        **common.surroundings(options, ("seconds", "rounds"), diffusers=DIFFUSERS[11:]),
        "unit": {
            "train_rate": "training pictures a second; ours with evaluations, previews and files",
            "sample_rate": "pictures drawn a second; ours 16 at a time, the peer 64",
            "distance": f"kernel distance on random features, {options.drawn} drawn to those held out, less is better",
        },
        **compare(options),
    }
    common.keep(result, options, rows=rows_of(result))


if __name__ == "__main__":
    main()
