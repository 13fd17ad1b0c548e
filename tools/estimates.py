"""How far a plan's seconds and bytes are from the truth: ``python -m tools.estimates [NAME ...] [--whole]``.

Each model is trained in a process of its own, on the tiny data of the contract tests with its TINY settings (seconds),
or with ``--whole`` as a project would with ``size = "tiny"`` and nothing else (minutes), on more and larger data: 400
pictures of 96 pixels a side, 24 films of a hundred frames, 60 sounds of two seconds, 400 texts. ``--set images=2000``
shortens it. Seconds count from the start of the process, imports included, as a step's do. Foretold and measured stand
side by side, with their ratio; 0.77 to 1.3 is the aim, and means something with ``--whole`` alone. What trainings here
taught plans (``project/foretold.py``) is left out. Run it where nothing else runs. Nothing is written down.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def larger_data(ctx: Any, takes: tuple[str, ...]) -> Any:
    """Data of the sizes an estimate takes for granted, of the first medium a component takes."""
    from intaglio.core.contracts import Item
    from intaglio.media import audio, image, video
    from tests.contracts import _material as material
    from tests.support import ItemList

    def put(data: bytes, kind: str) -> tuple[Any, ...]:
        return (ctx.put(data, name=f"one.{kind.rpartition('/')[2]}", mime=kind),)

    def words(number: int) -> str:
        chance = random.Random(number)
        if takes == ("text", "audio"):
            bars = "|".join("".join(chance.choice("DEFGABcd") for _ in range(6)) for _ in range(16))
            return f"X:{number}\nM:6/8\nL:1/8\nK:G\n{bars}|]\n"
        return "\n".join(" ".join(chance.choice(material.WORDS) for _ in range(7)) for _ in range(20)) + "\n"

    def item(number: int, count: int) -> Item:
        split = "heldout" if number >= count * 7 // 8 else "train"
        if takes[0] == "image":
            return Item(media="image", files=put(image.dump(_discs(number, 1)[0]), "image/png"), split=split)
        if takes[0] == "video":
            return Item(media="video", files=put(video.dump_mp4(_frames(number), 8), "video/mp4"), split=split)
        if takes == ("audio",):
            return Item(media="audio", files=put(audio.dump_wav(_tone(number), 22_050), "audio/wav"), split=split)
        return Item(media="text", text=words(number), split=split, origin=str(number))

    count = {"video": 24, "audio": 60}.get(takes[0], 400)
    return ItemList(item(number, count) for number in range(count))


def _discs(number: int, count: int, side: int = 96) -> list[Any]:
    """Pictures of a disc that goes round."""
    from PIL import Image, ImageDraw

    found = []
    for place in range(count):
        angle = 0.5 * number + 2 * math.pi * place / 16
        x, y = side / 2 * (1 + math.cos(angle) / 2), side / 2 * (1 + math.sin(angle) / 2)
        picture = Image.new("RGB", (side, side), (30, 40 + number % 50, 90))
        ImageDraw.Draw(picture).ellipse([x - 20, y - 20, x + 20, y + 20], fill=(220, 100 + number % 100, 60))
        found.append(picture)
    return found


def _tone(number: int) -> Any:
    """Two seconds of a plucked string."""
    import numpy as np

    at, pitch = np.arange(44_100) / 22_050, 110.0 * 2 ** (number % 24 / 12)
    return (0.3 * np.exp(-3 * at) * sum(np.sin(2 * np.pi * n * pitch * at) / n for n in range(1, 6))).astype("f4")


def _frames(number: int) -> Any:
    import numpy as np

    return np.stack([np.asarray(each).transpose(2, 0, 1) for each in _discs(number, 100)])


def _codebook(root: Path) -> None:
    """A vq of 256 codes a picture, in a process of its own: its memory is not what is asked for."""
    from tests.contracts import _material as material
    from tests.support import RunContext

    ctx = RunContext(root, threads=2)
    whole = {"size_px": 64, "width": 64, "codebook": 256, "dims": 16, "images": 64}
    material.component("vq", **whole).fit(larger_data(ctx, ("image",)), ctx)


def one(
    name: str, *, whole: bool, device: str, threads: int, started: float, changes: dict[str, Any]
) -> dict[str, float]:
    """Train one model here; foretold and measured seconds and bytes."""
    from intaglio.core import registry
    from intaglio.core.contracts import Size
    from intaglio.nn.device import peak_memory_bytes
    from intaglio.project import machine
    from intaglio.store import Store  # noqa: F401  (a worker holds it, so it counts)
    from tests.contracts import _material as material

    with tempfile.TemporaryDirectory() as folder:
        module = registry.load("models", name)
        imported = time.time()
        tiny = module.TINY
        module.TINY = {key: tiny[key] for key in ("data", "model") if key in tiny} | {"size": "tiny"} if whole else tiny
        module.TINY = module.TINY | changes
        component, ctx = material.component(name), material.context(name, Path(folder))
        if whole and name == "codes":
            making = multiprocessing.get_context("spawn").Process(target=_codebook, args=(Path(folder) / "book",))
            making.start()
            making.join()
            ctx.inputs["model"] = [
                material.component("vq").load(Path(folder) / "book" / "out", device="cpu", threads=1)
            ]
        os.chdir(ctx.project)
        ctx.device, ctx.threads = device, threads
        data = larger_data(ctx, component.takes) if whole else material.tiny_data(ctx, component.takes)
        size_bytes = sum(len(item.text.encode()) + sum(file.size_bytes for file in item.files) for item in data)
        speed = machine.measured(device, threads)
        foretold = component.estimate(Size(len(data), size_bytes), speed)
        start = time.time()
        component.fit(data, ctx)
        seconds = time.time() - start + imported - started
    return {
        "foretold_s": foretold.seconds,
        "measured_s": seconds,
        "foretold_mb": foretold.bytes / 1e6,
        "measured_mb": (machine.peak_bytes() if device == "cpu" else peak_memory_bytes(device)) / 1e6,
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
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        parts = [each.partition("=") for each in options.set]
        changes = {key: json.loads(value) if value[:1].isdigit() else value for key, _, value in parts}
        asked: dict[str, Any] = {
            "changes": changes,
            "whole": options.whole,
            "device": options.device,
            "threads": options.threads,
        }
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
            *(f"--set={each}" for each in options.set),
        ]
        environment = {"GOMP_SPINCOUNT": "1000", "PYTHONPATH": ".", **os.environ}  # as a worker's threads wait
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["?"])[-1]
            print(f"{name:12} failed: {last}")
            continue
        print(row(name, json.loads(done.stdout.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
