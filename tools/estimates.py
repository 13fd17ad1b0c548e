"""How far a plan's seconds and bytes are from the truth: ``python -m tools.estimates [NAME ...] [--whole]``.

Each model is trained in a process of its own, on the tiny data of the contract tests with its TINY settings (seconds),
or with ``--whole`` as a project would with ``size = "tiny"`` and nothing else (minutes). Seconds count from the
start of the process, imports included, as a step's do. Foretold and measured stand side by side, with their ratio; 0.77
to 1.3 is the aim, and means something with ``--whole`` alone. Run it where nothing else runs. Nothing is written down.
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


def one(name: str, *, whole: bool, device: str, threads: int, started: float) -> dict[str, float]:
    """Train one model here; foretold and measured seconds and bytes."""
    from intaglio.core import registry
    from intaglio.core.contracts import Size
    from intaglio.project import machine
    from intaglio.store import Store  # noqa: F401  (a worker holds it, so it counts)
    from tests.contracts import _material as material

    with tempfile.TemporaryDirectory() as folder:
        module = registry.load("models", name)
        imported = time.time()
        tiny = module.TINY
        module.TINY = {key: tiny[key] for key in ("data", "model") if key in tiny} | {"size": "tiny"} if whole else tiny
        component, ctx = material.component(name), material.context(name, Path(folder))
        ctx.device, ctx.threads = device, threads
        data = material.tiny_data(ctx, component.takes)
        size_bytes = sum(len(item.text.encode()) + sum(file.size_bytes for file in item.files) for item in data)
        speed = machine.measured(Path(folder) / "machine.json", device, threads)
        foretold = component.estimate(Size(len(data), size_bytes), speed)
        start = time.time()
        component.fit(data, ctx)
        seconds = time.time() - start + imported - started
    return {
        "foretold_s": foretold.seconds,
        "measured_s": seconds,
        "foretold_mb": foretold.bytes / 1e6,
        "measured_mb": machine.peak_bytes() / 1e6,
    }


def row(name: str, found: dict[str, Any]) -> str:
    seconds = found["foretold_s"] / found["measured_s"]
    size = found["foretold_mb"] / found["measured_mb"]
    return (
        f"{name:12} {found['foretold_s']:9.1f} {found['measured_s']:9.1f} {seconds:6.2f}   "
        f"{found['foretold_mb']:9.0f} {found['measured_mb']:9.0f} {size:6.2f}"
    )


def main() -> None:
    from intaglio.project.machine import cores
    from tests.contracts import _material as material

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--whole", action="store_true", help="with size = tiny and all else left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        asked = {"whole": options.whole, "device": options.device, "threads": options.threads}
        found = one(options.names[0], **asked, started=options.started)
        print(json.dumps(found))
        return
    print(
        f"{'model':12} {'foretold s':>9} {'measured':>9} {'ratio':>6}   {'foretold MB':>9} {'measured':>8} {'ratio':>6}"
    )
    for name in options.names or material.names():
        command = [sys.executable, "-m", "tools.estimates", name, "--one", "--device", options.device]
        command += [
            "--threads",
            str(options.threads),
            "--started",
            str(time.time()),
            *(["--whole"] if options.whole else []),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["?"])[-1]
            print(f"{name:12} failed: {last}")
            continue
        print(row(name, json.loads(done.stdout.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
