"""Tiny data of every medium, and a program that trains one component on it and is killed in the middle.

``python -m tests.contracts._material NAME FOLDER`` trains ``models/NAME`` and dies by SIGKILL half-way.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import random
import signal
import sys
import wave
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from intaglio.core import config as config_
from intaglio.core import registry
from intaglio.core.contracts import Item
from intaglio.core.errors import MissingExtra
from tests.support import DEVICE, ItemList, RunContext

COUNT, HELDOUT = 40, 12
UNTRAINED = ("openai",)  # an engine elsewhere: nothing is trained
WORDS = "the sea wind moon river stone night bird over under falls slow quiet light of a in we sing walk old".split()


def names() -> list[str]:
    """Every component that trains, by listing: a new file joins without a line here."""
    return [
        each.name for each in registry.listing("models") if each.name not in UNTRAINED and each.package == "intaglio"
    ]


def component(name: str, **changes: Any) -> Any:
    """``models/<name>`` with its own TINY; required roles are filled with a name."""
    module = registry.load("models", name)
    required = {key: "above" for key in config_.roles(module.Config) if module.Config.model_fields[key].is_required()}
    values = {**required, **module.TINY, **changes}
    return module.Component(config_.parse(module.Config, values, where=f"models/{name} TINY"))


def context(name: str, root: Path) -> RunContext:
    """A context on one thread, with what the component's TINY names beside its data."""
    ctx = RunContext(root, seed=7, threads=1)
    if name == "finetune" and not (ctx.project / "given").exists():
        first = RunContext(root / "first", seed=5, threads=1)
        component("gpt", steps=8).fit(texts(first), first)
        component("gpt").export(first.out, ctx.project / "given")
    if name == "codes":
        first = RunContext(root / "first", seed=5, threads=1)
        if not (first.out / "model.safetensors").exists():
            component("vq", images=320).fit(pictures(first), first)
        ctx.inputs["model"] = [component("vq").load(first.out, device=DEVICE, threads=1)]
    return ctx


def fit(name: str, root: Path) -> tuple[RunContext, dict[str, Any]]:
    """Context and figures of a training with the component's TINY; the test is skipped where an extra is missing."""
    try:
        made, ctx = component(name), context(name, root)
        return ctx, dict(made.fit(tiny_data(ctx, made.takes), ctx))
    except MissingExtra as error:
        pytest.skip(str(error))


def load(name: str, folder: Path) -> Any:
    """The checkpoint in ``folder``, by ``models/<name>``."""
    return component(name).load(folder, device=DEVICE, threads=1)


def drawn(name: str, folder: Path, ctx: RunContext, seeds: Sequence[int] = (11, 12)) -> list[tuple[str, list[str]]]:
    """Text and files' SHA-256 of what is drawn from the checkpoint in ``folder``."""
    items = load(name, folder).sample(list(seeds), ctx)
    return [(item.text, [file.sha256 for file in item.files]) for item in items]


def tiny_data(ctx: RunContext, takes: tuple[str, ...]) -> ItemList:
    """Items of the first medium a component takes."""
    if takes == ("text", "audio"):
        return tunes(ctx)
    return {"text": texts, "image": pictures, "audio": sounds, "video": films}[takes[0]](ctx)


def _split(number: int) -> str:
    return "heldout" if number >= COUNT - HELDOUT else "train"


def texts(ctx: RunContext) -> ItemList:
    def one(number: int) -> Item:
        chance = random.Random(number)
        lines = [" ".join(chance.choice(WORDS) for _ in range(7)).capitalize() + "." for _ in range(6)]
        return Item(media="text", text="\n".join(lines) + "\n", split=_split(number), origin=f"{number}.txt")

    return ItemList(one(number) for number in range(COUNT))


def tunes(ctx: RunContext) -> ItemList:
    def one(number: int) -> Item:
        chance = random.Random(number)
        bars = "|".join("".join(chance.choice("DEFGABcd") for _ in range(6)) for _ in range(4))
        return Item(media="text", text=f"X:{number}\nM:6/8\nL:1/8\nK:G\n{bars}|]\n", split=_split(number))

    return ItemList(one(number) for number in range(COUNT))


def pictures(ctx: RunContext) -> ItemList:
    def one(number: int) -> Item:
        file = ctx.put(_png(number / COUNT, number), name=f"{number}.png", mime="image/png")
        meta = {"label": ("low", "high")[number % 2]}
        return Item(media="image", text=f"disc {number % 2}", files=(file,), split=_split(number), meta=meta)

    return ItemList(one(number) for number in range(COUNT))


def _picture(phase: float, number: int, side: int = 24) -> Image.Image:
    picture = Image.new("RGB", (side, side), (30, 40 + number % 50, 90))
    x, y = side / 2 + 6 * math.cos(6.28 * phase), side / 2 + 6 * math.sin(6.28 * phase)
    ImageDraw.Draw(picture).ellipse([x - 5, y - 5, x + 5, y + 5], fill=(220, 100 + 100 * (number % 2), 60))
    return picture


def _png(phase: float, number: int) -> bytes:
    data = io.BytesIO()
    _picture(phase, number).save(data, "PNG")
    return data.getvalue()


def sounds(ctx: RunContext) -> ItemList:
    def one(number: int) -> Item:
        file = ctx.put(_wav(number), name=f"{number}.wav", mime="audio/wav")
        return Item(media="audio", text=f"tone {number}", files=(file,), split=_split(number))

    return ItemList(one(number) for number in range(COUNT))


def _wav(number: int, rate_hz: int = 8000, seconds: float = 0.5) -> bytes:
    time = np.arange(int(rate_hz * seconds)) / rate_hz
    tone = sum(np.sin(2 * np.pi * (200 + 20 * number) * k * time) / k for k in (1, 2, 3))
    samples = (0.3 * tone * np.exp(-3 * time) * 32767).astype("<i2")
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())
    return data.getvalue()


def films(ctx: RunContext) -> ItemList:
    def one(number: int) -> Item:
        file = ctx.put(_mp4(number), name=f"{number}.mp4", mime="video/mp4")
        return Item(media="video", text=f"disc going round {number}", files=(file,), split=_split(number))

    return ItemList(one(number) for number in range(COUNT))


def _mp4(number: int, frames: int = 16, rate: int = 8) -> bytes:
    import av

    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as film:
        stream: Any = film.add_stream("libx264", rate=Fraction(rate))
        stream.width = stream.height = 24
        stream.pix_fmt = "yuv420p"  # without mbtree, as in media/video.py: with it bytes differ from run to run
        stream.options = {"crf": "18", "threads": "1", "x264-params": "mbtree=0"}
        for place in range(frames):
            picture = _picture(place / frames + number / COUNT, number)
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.array(picture), format="rgb24")):
                film.mux(packet)
        for packet in stream.encode():
            film.mux(packet)
    return data.getvalue()


def dying_in_the_middle() -> None:
    """From here on a training writes its state after every step, and SIGKILL comes half-way."""
    from intaglio.nn import loop

    class Dying(loop._Run):
        def __init__(self, model: Any, loss: Any, plan: Any, *rest: Any) -> None:
            super().__init__(model, loss, dataclasses.replace(plan, save_seconds=0.0), *rest)

        def _update(self) -> None:
            if self.state.step == self.plan.steps // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            super()._update()

    loop._Run = Dying  # type: ignore[misc]


def files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of every file of a checkpoint."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


if __name__ == "__main__":
    which, folder = sys.argv[1], Path(sys.argv[2])
    made, here = component(which), context(which, folder)
    dying_in_the_middle()
    made.fit(tiny_data(here, made.takes), here)
    raise SystemExit("the training ended before it was killed")
