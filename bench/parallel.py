"""Per-core efficiency of a training shared by two processes, against one process on one core.

Usage: python bench/parallel.py [--quick] [--rounds 3] [--processes 2] [--only gpt,vae]
Work: `models/gpt` size small (6 layers of width 256, 16 windows of 256 tokens a process), and the convolutional net of
`models/vae` size tiny (64 pictures of 32 pixels a process), each through `nn.loop.train` with its own optimizers, on
made data. One process with one thread trains on its share alone; two processes with one thread each train on twice as
much, under torchrun, gradients averaged. Efficiency = rate of two / (2 x rate of one): 1 where sharing costs nothing.
Sides take turns, the first 10 updates are left out, and so is what comes after the last. What two single
processes side by side do to each other, sharing nothing, is measured too, as `beside`: no program can exceed it.
Prints one JSON line and writes bench/results/parallel_<machine>_<YYYYMM>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _common as common

WARM = 10
SHAPES = ("gpt", "vae")


class Quiet:
    def progress(self, done: float, total: float, **numbers: float | str) -> None: ...
    def warn(self, message: str) -> None:
        print(message, file=sys.stderr)

    def metric(self, **values: Any) -> None: ...


def gpt() -> tuple[Any, Callable[[int, Any], Any], list[Any], int, str]:
    """Model, loss of a micro-batch, optimizers, units a micro-batch, name of the unit."""
    import numpy as np

    from intaglio.models.gpt import windows
    from intaglio.nn.device import fast_dtype
    from intaglio.nn.optim import muon_and_adamw
    from intaglio.nn.transformer import Shape, Transformer

    shape = Shape(vocab=512, layers=6, width=256, heads=8, kv_heads=8, hidden=688, context=256)
    model, dtype = Transformer(shape, seed=1), fast_dtype("cpu")
    tokens = np.random.default_rng(0).integers(0, 512, 500_000).astype(np.uint16)

    def loss(micro: int, gen: Any) -> Any:
        return model.loss(windows(tokens, micro, batch=16, context=256, seed=3), dtype=dtype)

    return model, loss, muon_and_adamw(model, dtype=dtype), 16 * 256, "tok/s"


def vae() -> tuple[Any, Callable[[int, Any], Any], list[Any], int, str]:
    import torch

    from intaglio.models import _autoencoder as ae
    from intaglio.nn.device import autocast, fast_dtype
    from intaglio.nn.optim import adamw
    from intaglio.nn.order import rows

    torch.manual_seed(1)
    shape = ae.Shape(net="conv", size_px=32, channels=3, width=32, latents=32, blocks=1, likelihood="gaussian")
    model, dtype = ae.Autoencoder(shape), fast_dtype("cpu")
    pictures = torch.rand(2_000, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    weights = ae.Weights()

    def loss(micro: int, gen: Any) -> Any:
        take = torch.from_numpy(rows(micro, batch=64, count=2_000, seed=3))
        with autocast("cpu", dtype):
            return ae.objective(model, pictures[take], gen, weights)

    return model, loss, [adamw(model.parameters(), lr=2e-3)], 64, "img/s"


def work(side: str, steps: int, folder: Path) -> None:
    """One process of one run; process 0 prints its rate: units of all processes a second."""
    sys.path.insert(0, str(common.ROOT / "src"))
    from intaglio.nn import parallel
    from intaglio.nn.device import machine
    from intaglio.nn.loop import Plan, train

    times: list[float] = []
    processes = parallel.size()
    with machine(device="cpu", threads=processes):
        model, own, optimizers, units, unit = {"gpt": gpt, "vae": vae}[side]()

        def loss(micro: int, gen: Any) -> Any:
            times.append(time.perf_counter())
            return own(micro, gen)

        plan = Plan(steps=steps, seed=1, accumulate=processes, evaluations=1, previews=0, save_seconds=1e9)
        place = folder / os.environ.get("RANK", "0")
        train(model, loss, optimizers=optimizers, plan=plan, work=place, report=Quiet())
    if os.environ.get("RANK", "0") == "0":
        rate = units * processes * (len(times) - 1 - WARM) / (times[-1] - times[WARM])
        print(json.dumps({"rate": rate, "unit": unit}))


def turn(side: str, processes: int, steps: int, beside: int = 1) -> float:
    """The rate of one run, or of ``beside`` runs next to each other, added up."""
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for number in range(beside):
            command = [sys.executable]
            if processes > 1:
                command += ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
                command += [f"--nproc-per-node={processes}"]
            command += [str(Path(__file__).resolve()), "--side", side, "--steps", str(steps)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
            running.append(
                subprocess.Popen(
                    [*command, "--folder", f"{folder}/{number}"], stdout=subprocess.PIPE, text=True, env=environment
                )
            )
        outputs = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            raise SystemExit("a run failed")
        return sum(json.loads(out.splitlines()[-1])["rate"] for out in outputs)


def compare(side: str, options: argparse.Namespace) -> dict[str, Any]:
    steps = {"gpt": 20, "vae": 60}[side] if options.quick else {"gpt": 40, "vae": 200}[side]
    one, several, beside = [], [], []
    for _ in range(options.rounds):
        one.append(turn(side, 1, steps))
        several.append(turn(side, options.processes, steps))
        beside.append(turn(side, 1, steps, options.processes))
        print(json.dumps({side: [one[-1], several[-1], beside[-1]]}), file=sys.stderr)
    count = options.processes
    return {
        "one": common.spread(one, 1),
        "shared": common.spread(several, 1),
        "efficiency": common.spread([b / (count * a) for a, b in zip(one, several, strict=True)], 3),
        "beside": common.spread([b / (count * a) for a, b in zip(one, beside, strict=True)], 3),
        "unit": {"gpt": "tok/s", "vae": "img/s"}[side],
        "steps": steps,
    }


def main() -> None:
    parser = common.parser(__doc__, rounds=3, processes=2, only=",".join(SHAPES))
    common.hidden(parser, "side", "folder", steps=0)
    options = parser.parse_args()
    if options.side:
        work(options.side, options.steps, Path(options.folder))
        return
    if options.quick:
        options.rounds = 1
    result = common.surroundings(options, ("rounds", "processes", "only")) | {"processes": options.processes}
    sides = {side: compare(side, options) for side in options.only.split(",")}
    rows = []
    for side, found in sides.items():
        got = {key: 100 * value for key, value in found["efficiency"].items()}
        work_done = f"{side}, {options.processes} processes: rate a core"
        rows.append(common.row(work_done, "one process on one core", got, 85.0, "%"))
    common.keep({**result, **sides}, options, rows=rows)


if __name__ == "__main__":
    main()
