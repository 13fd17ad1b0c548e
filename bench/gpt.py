"""Wall time of `gpt` to the held-out loss that nanoGPT reaches with its own CPU configuration, on the same text.

Usage: python bench/gpt.py [--nanogpt CHECKOUT] [--text input.txt] [--steps 64] [--seeds 3] [--rounds 2] [--quick]
Without the first two, nanoGPT and the text of its example (tinyshakespeare) are fetched from GitHub into the user's
cache folder; where that cannot be reached the bench says so and ends.
nanoGPT runs its `config/train_shakespeare_char.py` with the CPU flags of its README (2,000 updates of 12 x 64
characters, 4 layers of width 128), in a copy of the checkout. Ours is the whole component, `models/gpt` size `tiny`,
context 64: the same depth, width and context, about as many weights. Both learn from the first nine tenths of the text.
Both times are those of a whole process, from start to end, imports, evaluations and files included; nanoGPT's
preparation of its data is left out, ours counts. Both losses are the mean nats a character over all windows of 64
characters, side by side, of the last tenth, in float32, computed by one function. Sides take turns. What nanoGPT saved
is read without unpickling objects.
`share_of_bf16_rate`: operations a second of whole updates (forward, backward, optimizer), counted as in PaLM's appendix
B (Chowdhery et al., 2022: 6 a weight and token, 12 x layers x width x length a token for attention), as a share of what
square bfloat16 products of side 2,048 reach in the same process, round by round; of the bench's own model and of the
sizes `small` and `base` with their usual tokens an update and context.
Prints one JSON line and writes bench/results/gpt_<machine>_<YYYYMM>.json.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _common as common

NANOGPT = "https://github.com/karpathy/nanoGPT"
TEXT = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
CONTEXT = 64
ROUNDS = 5  # of the share of the bfloat16 rate
FLAGS = (
    "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 "
    "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
).split()


class Texts:
    """The two parts of the text as items, whole."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = tuple(items)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def split(self, name: str) -> Texts:
        return Texts([item for item in self.items if item.split == name])

    def of(self, *media: str) -> Texts:
        return Texts([item for item in self.items if item.media in media])


class Quiet:
    """The part of a step's Context that training uses; tells nothing."""

    def __init__(self, folder: Path, *, seed: int, threads: int) -> None:
        self.step, self.seed, self.device, self.threads, self.offline = "bench", seed, "cpu", threads, True
        self.out, self.work, self.project, self.languages = folder / "out", folder / "work", folder, ("en",)
        self.inputs: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        for each in (self.out, self.work):
            each.mkdir(parents=True)

    def progress(self, done: float, total: float, **numbers: float | str) -> None: ...
    def warn(self, message: str) -> None: ...
    def metric(self, **values: Any) -> None: ...
    def curve(self, step: int, **values: float) -> None: ...
    def preview(self, name: str, data: bytes) -> None: ...


def fetched() -> tuple[Path, Path]:
    """A checkout of nanoGPT and its text, in the user's cache folder. Errors: OSError where they cannot be fetched."""
    home = common.cache()
    checkout, text = home / "nanoGPT", home / "tinyshakespeare.txt"
    if not (checkout / "train.py").is_file():
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", NANOGPT, str(checkout)], check=True)
    if not text.is_file():
        with urllib.request.urlopen(TEXT, timeout=60) as answer:
            text.write_bytes(answer.read())
    return checkout, text


def halves(text: str) -> tuple[str, str]:
    cut = int(0.9 * len(text))
    return text[:cut], text[cut:]


def run_ours(options: argparse.Namespace) -> None:
    """Train in this process; what is timed is the process."""
    from intaglio.core.contracts import Item
    from intaglio.models import gpt

    train, heldout = halves(Path(options.text).read_text("utf-8"))
    config = gpt.Config(data=("text",), size="tiny", context=CONTEXT, steps=options.steps, tokenizer="char")
    ctx: Any = Quiet(Path(options.folder), seed=options.seed, threads=options.threads)
    items = Texts([Item(media="text", text=train), Item(media="text", text=heldout, split="heldout")])
    gpt.Component(config).fit(items, ctx)


def run_rates(options: argparse.Namespace) -> None:
    """Print the rows of ``share_of_bf16_rate``: measured in this process, which trains nothing else."""
    from intaglio.models.gpt import Config, decide
    from intaglio.nn.device import machine

    rows = {}
    with machine(device="cpu", threads=options.threads):
        for name, vocabulary, config in (
            (f"tiny, context {CONTEXT}", 321, Config(data=("text",), size="tiny", context=CONTEXT)),
            ("small", 4_096, Config(data=("text",), size="small")),
            ("base", 8_192, Config(data=("text",), size="base")),  # seconds an update: fewer rounds
        ):
            rounds = 3 if name == "base" else ROUNDS
            rows[name] = share_of_rate(decide(config, vocab=vocabulary, tokens=4_000_000, documents=1_000), rounds)
    print(json.dumps(rows))


def share_of_rate(run: Any, rounds: int, device: str = "cpu") -> dict[str, Any]:
    import torch

    from intaglio.models._pretrain import micro_batches, optimizers_of
    from intaglio.nn import heap
    from intaglio.nn.device import fast_dtype, matmul_gflops
    from intaglio.nn.graphs import recorded_on_gpu
    from intaglio.nn.transformer import Transformer

    shape, dtype, parts = run.shape, fast_dtype(device), micro_batches(run, device)
    model = Transformer(shape).to(device)
    optimizers = optimizers_of(model, run, dtype=dtype)
    loss = recorded_on_gpu(functools.partial(model.loss, dtype=dtype), model)
    ids = torch.randint(shape.vocab, (run.batch, shape.context + 1), device=device)

    def update() -> None:
        for part in ids.chunk(parts):
            (loss(part) / parts).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize(device)

    side = 2_048 if device == "cpu" else 8_192
    per_token = 6 * shape.parameters() + 12 * shape.layers * shape.width * shape.context
    found: dict[str, list[float]] = {"share_of_bf16_rate": [], "gflops": [], "bf16_gflops": []}
    with heap.kept():
        update()
        for _ in range(rounds):
            rate = matmul_gflops(torch.bfloat16, device=device, size=side, seconds=0.5)
            count, start = 0, time.perf_counter()
            while (seconds := time.perf_counter() - start) < 1.5:
                update()
                wait()
                count += 1
            reached = per_token * run.tokens_per_step * count / seconds / 1e9
            for name, value in zip(found, (reached / rate, reached, rate), strict=True):
                found[name].append(value)
    spread = {name: common.spread(each, 3) for name, each in found.items()}
    return {**spread, "rounds": rounds, "parameters": shape.parameters(), "tokens_per_step": run.tokens_per_step}


def time_rates(options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--side", "rates", "--threads", str(options.threads)]
    printed = subprocess.run(command, check=True, env=surrounded(options.threads), stdout=subprocess.PIPE, text=True)
    return dict(json.loads(printed.stdout))


def surrounded(threads: int) -> dict[str, str]:
    # On all sides idle threads spin a moment only, as in the runner's workers: a neighbor would cost tenfold.
    waiting = {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "1000"}
    return {**os.environ, **waiting, "PYTHONPATH": str(common.ROOT / "src")}


def timed(command: Sequence[str], *, threads: int, cwd: Path | None = None) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=cwd, env=surrounded(threads), stdout=sys.stderr)
    return time.perf_counter() - start


def time_ours(options: argparse.Namespace, folder: Path, seed: int) -> float:
    arguments = ["--side", "ours", "--text", str(Path(options.text).resolve()), "--folder", str(folder)]
    arguments += ["--steps", str(options.steps), "--seed", str(seed), "--threads", str(options.threads)]
    return timed([sys.executable, str(Path(__file__).resolve()), *arguments], threads=options.threads)


def time_nanogpt(options: argparse.Namespace, folder: Path, seed: int) -> float:
    shutil.copytree(options.nanogpt, folder, ignore=shutil.ignore_patterns(".git"))
    shutil.copyfile(options.text, folder / "data" / "shakespeare_char" / "input.txt")
    timed([sys.executable, "data/shakespeare_char/prepare.py"], threads=options.threads, cwd=folder)
    source = folder / "train.py"  # its only seed is a constant
    source.write_text(source.read_text().replace("torch.manual_seed(1337", f"torch.manual_seed({1336 + seed}"))
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", *FLAGS]
    return timed(command, threads=options.threads, cwd=folder)


def windows_nats(nats: Callable[[Any], Any], ids: Sequence[int]) -> float:
    """Mean nats a character: windows of 64 side by side, each with the one character before it as its first input."""
    import torch

    count = (len(ids) - 1) // CONTEXT
    index = torch.arange(count)[:, None] * CONTEXT + torch.arange(CONTEXT + 1)
    rows = torch.tensor(ids)[index]
    with torch.inference_mode():
        return sum(float(nats(part).double().sum()) for part in rows.split(256)) / (count * CONTEXT)


def loss_ours(folder: Path, heldout: str) -> tuple[float, int]:
    from intaglio.models import gpt

    writer = gpt.Component(gpt.Config(data=("text",))).load(folder / "out", device="cpu", threads=1)
    weights = sum(parameter.numel() for parameter in writer.model.parameters())
    return windows_nats(writer.model.nats, writer.tokenizer.encode(heldout)), weights


def loss_nanogpt(folder: Path, text: str) -> tuple[float, int]:
    import torch
    import torch.nn.functional as F

    sys.path.insert(0, str(folder))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    saved = torch.load(folder / "out-shakespeare-char" / "ckpt.pt", map_location="cpu", weights_only=True)
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    sys.path.remove(str(folder))
    number = {character: index for index, character in enumerate(sorted(set(text)))}

    def nats(ids: Any) -> Any:
        logits, _ = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        return F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")

    weights = sum(parameter.numel() for parameter in model.parameters())
    return windows_nats(nats, [number[character] for character in halves(text)[1]]), weights


def unigram(text: str) -> float:
    train, heldout = halves(text)
    counts, total = collections.Counter(train), len(train) + len(set(text))
    return -sum(math.log((counts[character] + 1) / total) for character in heldout) / len(heldout)


def compare(options: argparse.Namespace) -> dict[str, Any]:
    text = Path(options.text).read_text("utf-8")
    sides: dict[str, list[dict[str, float]]] = {"ours": [], "nanogpt": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, max(options.seeds, options.rounds) + 1):
            for side, times in (("nanogpt", options.rounds), ("ours", options.seeds)):
                if seed > times:
                    continue
                place = Path(folder) / f"{side}{seed}"
                load = round(os.getloadavg()[0], 2)
                if side == "ours":
                    seconds = time_ours(options, place, seed)
                    loss, weights = loss_ours(place, halves(text)[1])
                else:
                    seconds = time_nanogpt(options, place, seed)
                    loss, weights = loss_nanogpt(place, text)
                run = {"seed": seed, "seconds": round(seconds, 2), "heldout_nats": round(loss, 4)}
                sides[side].append({**run, "parameters": weights, "load_before": load})
                print(json.dumps({side: sides[side][-1]}), file=sys.stderr)
    target = statistics.mean(run["heldout_nats"] for run in sides["nanogpt"])
    ratios = [run["seconds"] for run in sides["ours"]]
    theirs = statistics.median(run["seconds"] for run in sides["nanogpt"])
    return {
        **sides,
        "target_nats": round(target, 4),
        "reached": all(run["heldout_nats"] <= target for run in sides["ours"]),
        "ratio": {
            "median": round(theirs / statistics.median(ratios), 2),
            "least": round(theirs / max(ratios), 2),
            "most": round(theirs / min(ratios), 2),
        },
        "unigram_nats": round(unigram(text), 4),
        "characters": len(text),
    }


def main() -> None:
    parser = common.parser(__doc__, steps=64, seeds=3, rounds=2, text="")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT")
    common.hidden(parser, "side", "folder", seed=0)
    options = parser.parse_args()
    if options.side:
        {"ours": run_ours, "rates": run_rates}[options.side](options)
        return
    if options.quick:
        options.seeds = options.rounds = 1
    if options.nanogpt is None or not options.text:
        try:
            checkout, text = fetched()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"nanoGPT cannot be fetched ({error}); give --nanogpt and --text", file=sys.stderr)
            return
        options.nanogpt, options.text = options.nanogpt or checkout, options.text or str(text)
    if not (options.nanogpt / "train.py").is_file():
        parser.error("--nanogpt must be a checkout of karpathy/nanoGPT (its folder holds train.py)")
    result = {
        **common.surroundings(options, ("steps", "seeds", "rounds"), nanogpt=common.commit(options.nanogpt)),
        "config": {"ours": {"size": "tiny", "context": CONTEXT, "steps": options.steps}, "nanogpt": " ".join(FLAGS)},
        "unit": {"seconds": "wall, whole process", "heldout_nats": "nats a character, less is better"},
        "share_of_bf16_rate": time_rates(options),
        **compare(options),
    }
    work = f"GPT: wall time to {result['target_nats']:.3f} nats a character, whole process"
    rows = [common.row(work, "nanoGPT, its CPU configuration", result["ratio"] if result["reached"] else None, 8.0)]
    for name, found in result["share_of_bf16_rate"].items():
        got = {key: 100 * value for key, value in found["share_of_bf16_rate"].items()}
        about = f"GPT training, {name} ({found['parameters'] / 1e6:.1f} M weights): arithmetic"
        rows.append(common.row(about, "square bfloat16 products here", got, 50.0, "%"))
    common.keep(result, options, rows=rows)


if __name__ == "__main__":
    main()
