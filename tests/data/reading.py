"""Runs a source and the transforms behind it, as the runner does."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from intaglio.core import config, registry
from intaglio.core.contracts import Item, Skip
from tests.support import RunContext


def read(use: str, ctx: RunContext, *, chain: Sequence[str] = (), **values: Any) -> list[Item | Skip]:
    """What ``use`` yields with these values (license CC0-1.0 unless given), through ``chain``."""
    module = registry.load("data", use)
    parsed = config.parse(module.Config, {"license": "CC0-1.0", **values}, where=f"intaglio.toml [data.{ctx.step}]")
    stream: Iterable[Item | Skip] = module.Component(parsed).read(ctx)
    for name in chain:
        stream = apply(name, stream, ctx)
    return list(stream)


def apply(name: str, items: Iterable[Item | Skip], ctx: RunContext, **values: Any) -> Iterator[Item | Skip]:
    module = registry.load("data", name)
    applied: Iterator[Item | Skip] = module.Component(config.parse(module.Config, values, where="test")).apply(
        items, ctx
    )
    return applied


def picture(
    kind: str = "PNG", size: tuple[int, int] = (16, 12), color: tuple[int, ...] = (200, 80, 40), **save: Any
) -> bytes:
    """A small picture that is not one flat color, as bytes of a real file."""
    image = Image.new("RGB" if len(color) == 3 else "RGBA", size, color)
    for x in range(size[0]):
        image.putpixel((x, x % size[1]), (x * 7 % 256, 255 - x * 5 % 256, 30, *color[3:]))
    out = io.BytesIO()
    image.save(out, kind, **save)
    return out.getvalue()


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder
