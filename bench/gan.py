"""Figures of the adversarial model: pictures a second on the same networks, and distance at equal time.

Usage: python bench/gan.py [--seconds 45] [--rounds 3] [--pythae-python PYTHON] [--threads N] [--quick]
Sides: ``ours`` is ``models/gan.py`` as a step runs it, with penalties, averaging, evaluations and resumable states.
``dcgan`` is the plain loop people write, on the same two networks: float32, Adam (0.0002, 0.5), binary cross-entropy,
real, made and generator passes apart. ``vaegan`` is Pythae's VAEGAN with its own trainer, loss and default networks of
linear layers, 64 latents.
The same 4,500 digits to learn from, 500 to judge by, batch 64, the same threads; the sides take turns. Rates leave out
the first steps. Distances are the kernel distance on ``nn/features.py`` "random" of 2,000 pictures drawn after
``--seconds`` of training to the 500, with precision, recall and coverage; beside them those of copies of training
pictures and of the mean picture. The plain loop is stopped by the clock; its learning rate is constant as usual.
Prints one JSON line and writes bench/results/gan_<machine>_<YYYYMM>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import _common as common

sys.path[:0] = [str(common.ROOT / "src"), str(common.ROOT)]
BATCH, HELDOUT, LATENTS, WIDTH, MADE, WARM = 64, 500, 64, 24, 2_000, 20
SIDES = ("ours", "dcgan", "vaegan")


# ------------------------------------------------------------------------------ one run of one side, in a process
def run_ours(digits: np.ndarray, seconds: float, steps: int, seed: int, threads: int, folder: Path) -> dict[str, Any]:
    from intaglio.models import _adversary as game
    from intaglio.models import _conditions, gan
    from intaglio.models._pictures import Form, Shard
    from intaglio.nn.device import machine
    from tests.support import RunContext

    config = gan.Config(data="digits", size="tiny", size_px=28, width=WIDTH, batch=BATCH, images=steps * BATCH)
    shard = Shard(digits.reshape(-1, 1, 28, 28), len(digits) - HELDOUT, Form(size_px=28, channels=1), 0)
    told = _conditions.Told(_conditions.Conditions(), None)
    times: list[float] = []
    looks: set[int] = set()
    own_loss, own_evaluate = gan.Session.loss, gan.Session.evaluate

    def loss(self: Any, step: int, generator: Any) -> Any:
        times.append(time.perf_counter())
        return own_loss(self, step, generator)

    def evaluate(self: Any) -> Any:
        looks.add(len(times) - 1)
        return own_evaluate(self)

    gan.Session.loss, gan.Session.evaluate = loss, evaluate  # only look at the clock
    ctx = RunContext(folder, seed=seed, threads=threads)
    with machine(device="cpu", threads=threads) as device:
        gan.Component(config)._fit(shard, told, ctx, device)
        model = gan.Component(config).load(ctx.out, device="cpu", threads=threads).model
        made = game.drawn(model, game.noise(MADE, LATENTS, seed, "bench"), None)
    return {**rates(times, looks), "steps": len(times), "made": made.numpy()}


def run_dcgan(digits: np.ndarray, seconds: float, steps: int, seed: int, threads: int, folder: Path) -> dict[str, Any]:
    import torch
    from torch import nn

    from intaglio.nn import gan

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    generator = gan.Generator(size_px=28, channels=1, width=WIDTH, latents=LATENTS)
    critic = gan.Critic(size_px=28, channels=1, width=WIDTH)
    bce = nn.BCEWithLogitsLoss()
    ours = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    theirs = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
    x_all = torch.from_numpy(digits[:-HELDOUT]).float().view(-1, 1, 28, 28) / 127.5 - 1
    yes, no = torch.ones(BATCH), torch.zeros(BATCH)
    times: list[float] = []
    while len(times) < steps or (steps == 0 and (not times or times[-1] - times[0] < seconds)):
        times.append(time.perf_counter())
        real = x_all[torch.randint(len(x_all), (BATCH,))]
        theirs.zero_grad()
        bce(critic(real), yes).backward()
        fake = generator(torch.randn(BATCH, LATENTS))
        bce(critic(fake.detach()), no).backward()
        theirs.step()
        ours.zero_grad()
        bce(critic(fake), yes).backward()
        ours.step()
    with torch.no_grad():
        made = torch.cat([generator(torch.randn(100, LATENTS)) for _ in range(MADE // 100)])
    pixels = ((made + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    return {**rates(times, set()), "steps": len(times), "made": pixels}


def run_vaegan(digits: np.ndarray, seconds: float, steps: int, seed: int, threads: int, folder: Path) -> dict[str, Any]:
    import logging

    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAEGAN, VAEGANConfig
    from pythae.samplers import NormalSampler
    from pythae.trainers import CoupledOptimizerAdversarialTrainer, CoupledOptimizerAdversarialTrainerConfig

    logging.disable(logging.CRITICAL)
    torch.set_num_threads(threads)
    x = torch.from_numpy(digits[:-HELDOUT]).float().view(-1, 1, 28, 28) / 255
    took: list[float] = []
    config = CoupledOptimizerAdversarialTrainerConfig(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        num_epochs=max(1, round(steps * BATCH / len(x))),
        encoder_learning_rate=1e-3,
        decoder_learning_rate=1e-3,
        discriminator_learning_rate=1e-3,
        seed=seed,
        no_cuda=True,
    )
    model = VAEGAN(VAEGANConfig(input_dim=(1, 28, 28), latent_dim=LATENTS))
    trainer = CoupledOptimizerAdversarialTrainer(model, BaseDataset(x, torch.zeros(len(x))), None, config)
    own = trainer.train_step

    def train_step(epoch: int) -> Any:
        start = time.perf_counter()
        result = own(epoch)
        took.append(time.perf_counter() - start)
        return result

    trainer.train_step = train_step
    with open(os.devnull, "w") as silence:
        sys.stderr, before = silence, sys.stderr  # its progress bars
        trainer.train(log_output_dir=str(folder))
        sys.stderr = before
    drawn = NormalSampler(trainer.model).sample(num_samples=MADE, batch_size=100, return_gen=True)
    later = took[1:] or took
    found = {"rate": len(x) * len(later) / sum(later), "seconds": sum(took), "steps": len(took) * -(-len(x) // BATCH)}
    return {**found, "made": (drawn.clamp(0, 1) * 255).round().byte().cpu().numpy()}


def rates(times: list[float], looks: set[int]) -> dict[str, float]:
    """Pictures a second of the steps alone, and the seconds of all steps with what came between them."""
    alone = [times[n + 1] - times[n] for n in range(WARM, len(times) - 1) if n not in looks]
    return {"rate": BATCH * len(alone) / max(1e-9, sum(alone)), "seconds": times[-1] - times[0]}


# ------------------------------------------------------------------------------------------------------ all runs
def turn(side: str, python: str, digits: Path, options: argparse.Namespace, **run: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(Path(__file__)), "--side", side, "--digits", str(digits), "--folder", folder]
        command += ["--threads", str(options.threads), "--seconds", str(options.seconds)]
        command += [part for key, value in run.items() for part in (f"--{key}", str(value))]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = dict(json.loads(done.stdout.splitlines()[-1]))
        return {**found, "made": np.load(Path(folder) / "made.npy")}


def judge(made: np.ndarray, digits: np.ndarray) -> dict[str, Any]:
    import torch

    from intaglio.models import _adversary as game
    from intaglio.nn import features

    real = torch.from_numpy(digits.reshape(-1, 1, 28, 28))
    net = features.load("random")
    return game.figures(net, real[-HELDOUT:], torch.from_numpy(made), real[:MADE]) | {"features": net.name}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    from vae import pythae_python

    digits = common.shuffled(common.digits())
    pythons = dict.fromkeys(SIDES, sys.executable) | {"vaegan": options.pythae_python or pythae_python()}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.npy"
        np.save(path, digits)
        first = {side: turn(side, pythons[side], path, options, steps=150, seed=0) for side in SIDES}
        steps = {side: max(100, int(options.seconds * first[side]["rate"] / BATCH)) for side in SIDES}
        for number in range(options.rounds):
            for side in SIDES:
                found = turn(side, pythons[side], path, options, steps=steps[side], seed=number + 1)
                runs[side].append(found | judge(found.pop("made"), digits))
    keys = ("rate", "seconds", "steps", "precision", "recall", "density", "coverage", "closer_to_train")
    result: dict[str, Any] = {
        side: {key: common.spread([run[key] for run in runs[side]]) for key in keys} for side in SIDES
    }
    for side in SIDES:
        result[side]["distance"] = common.spread([run["distance"][0] for run in runs[side]])
    trivial = runs["ours"][0]
    result["trivial"] = {key: value for key, value in trivial.items() if key.startswith(("copies_", "mean_picture_"))}
    pairs = list(zip(runs["ours"], runs["dcgan"], strict=True))
    result["rate_over_dcgan"] = common.spread([ours["rate"] / theirs["rate"] for ours, theirs in pairs])
    return {**result, "features": trivial["features"], "seeds": list(range(1, options.rounds + 1))}


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    rate, less = "GAN, digits: pictures a second in training, same networks", "GAN: kernel distance less, equal time"
    rows = [common.row(rate, "plain DCGAN loop", result["rate_over_dcgan"], 1.5)]
    for side, peer in (("dcgan", "plain DCGAN loop"), ("vaegan", "Pythae 0.1.2 VAEGAN")):
        rows.append(common.row(less, peer, common.less(result["ours"]["distance"], result[side]["distance"]), 1.0))
    return rows


def main() -> None:
    parser = common.parser(__doc__, seconds=45.0, rounds=3, pythae_python="")
    common.hidden(parser, "side", "digits", "folder", steps=0, seed=0)
    options = parser.parse_args()
    if options.side:
        run = {"ours": run_ours, "dcgan": run_dcgan, "vaegan": run_vaegan}[options.side]
        folder = Path(options.folder)
        digits = np.load(options.digits)
        found = run(digits, options.seconds, options.steps, options.seed, options.threads, folder)
        np.save(folder / "made.npy", found.pop("made"))
        print(json.dumps(found))
        return
    if options.quick:
        options.seconds, options.rounds = 10.0, 1
    result = {
        **common.surroundings(options, ("seconds", "rounds"), pythae="0.1.2"),
        "network": {"size_px": 28, "width": WIDTH, "latents": LATENTS, "batch": BATCH},
        "unit": {
            "rate": "training pictures a second in steps; a step of every side teaches both networks once",
            "distance": "kernel distance on the named random features, 2,000 drawn to 500 held out, less is better",
        },
        **compare(options),
    }
    common.keep(result, options, rows=rows_of(result))


if __name__ == "__main__":
    main()
