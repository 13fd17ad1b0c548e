"""CIFAR-10 in its binary version: data_batch_1.bin to 5, test_batch.bin and batches.meta.txt.

Format: Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html: records of one label byte and 3 x 1,024 bytes (red,
green, blue planes, rows first). The Python version is made of pickles, which run code when they are opened; it is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from intaglio.core.config import ProjectFolder
from intaglio.core.contracts import Context, Item, Skip
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.data import _files
from intaglio.data._files import Entry
from intaglio.data._items import png_item
from intaglio.data._rights import LicensedConfig
from intaglio.media import Unreadable

SIDE_PX = 32
PLANE = SIDE_PX * SIDE_PX
RECORD = 1 + 3 * PLANE
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BINARY = re.compile(r"(data_batch_\d+|test_batch)\.bin")
_PICKLE = re.compile(r"(data_batch_\d+|test_batch|batches\.meta)")


class Config(LicensedConfig):
    """path: the folder of the unpacked binary version. part: train, test (held out) or both. limit: of each file."""

    path: ProjectFolder
    part: Literal["train", "test", "both"] = "both"
    limit: int = Field(default=0, ge=0)


class Component:
    """Reads CIFAR-10."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, ctx: Context) -> Iterator[Item | Skip]:
        """Items in file order. Errors: UserError where only the pickled version, or nothing, is in the folder."""
        root = _files.place(self.config.path, ctx, folder=True)
        entries = [entry for folder in _files.walk(root, ctx) for entry in folder]
        batches = [entry for entry in entries if _BINARY.fullmatch(entry.name) and self._wanted(entry)]
        if not batches:
            raise self._nothing(entries, f"intaglio.toml [data.{ctx.step}]")
        names = _names(entries)
        for entry in batches:
            if entry.refused:
                yield Skip(entry.origin, entry.refused)
                continue
            yield from self._batch(entry, names, ctx)

    def _wanted(self, entry: Entry) -> bool:
        return self.config.part in ("both", "test" if entry.name.startswith("test") else "train")

    def _nothing(self, entries: list[Entry], where: str) -> UserError:
        fix = t("unpack cifar-10-binary.tar.gz (the binary version) of www.cs.toronto.edu/~kriz/cifar.html into it")
        if any(_PICKLE.fullmatch(entry.name) for entry in entries):
            return UserError(
                t("this is the Python version, made of pickles, which run code when they are opened"),
                where=where,
                fix=fix,
            )
        return UserError(t("no data_batch_*.bin in {path}", path=self.config.path), where=where, fix=fix)

    def _batch(self, entry: Entry, names: tuple[str, ...], ctx: Context) -> Iterator[Item | Skip]:
        number = 0
        try:
            with _files.open_unpacked(entry.path) as file:
                while record := file.read(RECORD):
                    if len(record) != RECORD:
                        raise Unreadable(t("truncated: {got} of {wanted} bytes", got=len(record), wanted=RECORD))
                    if record[0] >= len(names):
                        raise Unreadable(
                            t("label {label} where only {count} exist: not CIFAR-10", label=record[0], count=len(names))
                        )
                    yield self._item(record, f"{entry.origin}#{number}", names, ctx)
                    number += 1
                    if number == self.config.limit > 0:
                        return
        except Unreadable as reason:
            yield Skip(f"{entry.origin}#{number}", str(reason))

    def _item(self, record: bytes, origin: str, names: tuple[str, ...], ctx: Context) -> Item:
        pixels = bytearray(3 * PLANE)
        for channel in range(3):
            pixels[channel::3] = record[1 + channel * PLANE : 1 + (channel + 1) * PLANE]
        return png_item(
            bytes(pixels),
            (SIDE_PX, SIDE_PX),
            "RGB",
            ctx,
            origin=origin,
            config=self.config,
            text=names[record[0]],
            part="test" if "test_batch" in origin else "train",
            label=record[0],
        )


def _names(entries: list[Entry]) -> tuple[str, ...]:
    """The class names of ``batches.meta.txt`` where it is there and whole, else CIFAR-10's own."""
    for entry in entries:
        if entry.name == "batches.meta.txt" and not entry.refused:
            try:
                lines = _files.read_bytes(entry.path, 1 << 16).decode("utf-8", "replace").split()
            except Unreadable:
                break
            return tuple(lines) if len(lines) == len(NAMES) else NAMES
    return NAMES


TINY: dict[str, Any] = {"path": ".", "license": "unknown", "limit": 20}
