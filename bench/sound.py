"""Real-time factor of timbre transfer and of new sounds, and how many seconds of sound a second of training takes in.

    python bench/sound.py [--quick]

Trains on synthetic plucks (no download), one process, the threads torch finds; median and spread of five runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from intaglio.core.contracts import Item
from intaglio.media import audio
from intaglio.models import sound
from tests.support import ItemList, RunContext

RATE_HZ = 22_050


def pluck(number: int) -> audio.Samples:
    chance = np.random.default_rng(number)
    at = np.arange(RATE_HZ) / RATE_HZ
    return (0.7 * np.exp(-at * chance.uniform(3, 12)) * np.sin(2 * np.pi * chance.uniform(100, 2000) * at)).astype("f4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    steps = 20 if (quick := parser.parse_args().quick) else 200
    threads = torch.get_num_threads()
    result: dict[str, object] = {"command": " ".join(sys.argv), "torch": torch.__version__, "threads": threads}
    result["steps"] = steps
    for size in ("tiny", "small"):
        with tempfile.TemporaryDirectory() as folder:
            ctx = RunContext(Path(folder), threads=threads)
            items = [
                Item(media="audio", files=(ctx.put(audio.dump_wav(pluck(n), RATE_HZ), name="a.wav", mime="audio/wav"),),
                     split="heldout" if n % 8 == 7 else "train")
                for n in range(40)
            ]  # fmt: skip
            component = sound.Component(sound.Config(data=("x",), size=size, steps=steps))
            metrics = component.fit(ItemList(items), ctx)
            model = component.load(ctx.out, device="cpu", threads=threads)
            given = np.concatenate([pluck(n) for n in range(10)])
            calls = {"transfer": lambda: model.revoice(given, 0), "sample": lambda: model.draw(0, 10.0)}  # noqa: B023
            found: dict[str, object] = {"learned_s_per_s": metrics["learned_s_per_s"]}
            for name, call in calls.items():
                call()
                runs = []
                for _ in range(5):
                    start = time.perf_counter()
                    call()
                    runs.append((time.perf_counter() - start) / 10.0)
                found[f"realtime_factor_{name}"] = {"median": statistics.median(runs), "runs": runs}
            result[size] = found
    print(json.dumps(result, indent=1))
    if not quick:
        stamp = time.strftime("%Y%m")
        place = Path(__file__).parent / "results" / f"sound_{platform.machine()}_{stamp}.json"
        place.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
