"""Real-time factor of timbre transfer and of new sounds, and how many seconds of sound a second of training takes in.

Usage: python bench/sound.py [--steps 200] [--rounds 5] [--quick]
Trains both sizes on synthetic plucks (nothing is fetched), in this process; ten seconds of sound a call. The real-time
factor is seconds a second of sound; the table tells its inverse, how many times faster than life.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _common as common
import numpy as np

sys.path[:0] = [str(common.ROOT / "src"), str(common.ROOT)]
from intaglio.core.contracts import Item  # noqa: E402
from intaglio.media import audio  # noqa: E402
from intaglio.models import sound  # noqa: E402
from tests.support import ItemList, RunContext  # noqa: E402

RATE_HZ = 22_050


def pluck(number: int) -> audio.Samples:
    chance = np.random.default_rng(number)
    at = np.arange(RATE_HZ) / RATE_HZ
    return (0.7 * np.exp(-at * chance.uniform(3, 12)) * np.sin(2 * np.pi * chance.uniform(100, 2000) * at)).astype("f4")


def material(ctx: RunContext) -> ItemList:
    """Forty plucks, every eighth held out."""
    made = []
    for number in range(40):
        file = ctx.put(audio.dump_wav(pluck(number), RATE_HZ), name="a.wav", mime="audio/wav")
        made.append(Item(media="audio", files=(file,), split="heldout" if number % 8 == 7 else "train"))
    return ItemList(made)


def measured(size: str, steps: int, rounds: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        ctx = RunContext(Path(folder), threads=threads)
        component = sound.Component(sound.Config(data=("x",), size=size, steps=steps))
        metrics = component.fit(material(ctx), ctx)
        model = component.load(ctx.out, device="cpu", threads=threads)
    given = np.concatenate([pluck(number) for number in range(10)])
    found: dict[str, Any] = {"learned_s_per_s": metrics["learned_s_per_s"]}
    for name, call in {"transfer": lambda: model.revoice(given, 0), "sample": lambda: model.draw(0, 10.0)}.items():
        call()
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        found[f"realtime_factor_{name}"] = common.spread([each / 10.0 for each in seconds], 5)
        found[f"times_faster_than_life_{name}"] = common.spread([10.0 / each for each in seconds], 1)
    return found


def main() -> None:
    options = common.parser(__doc__, steps=200, rounds=5).parse_args()
    if options.quick:
        options.steps, options.rounds = 20, 1
    result, rows = common.surroundings(options, ("steps", "rounds")), []
    for size in ("tiny", "small"):
        result[size] = measured(size, options.steps, options.rounds, options.threads)
        for name, work in (("transfer", "timbre transfer"), ("sample", "new sounds")):
            got = result[size][f"times_faster_than_life_{name}"]
            rows.append(common.row(f"sound, {size}: {work}", "the length of the sound", got, 1.0))
    common.keep(result, options, rows=rows)


if __name__ == "__main__":
    main()
