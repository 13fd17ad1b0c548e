"""MNIST and its kin (Fashion-MNIST, KMNIST, EMNIST): pictures and labels in idx files, gzipped or not.

Format: LeCun et al., "The MNIST database": big-endian magic 0x00000803 (pictures: count, rows, columns) and
0x00000801 (labels: count), then one byte a value. Files are told by their content; pictures and labels of one part
(``train``, ``t10k`` or ``test``) belong together by their names' beginnings.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

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

PICTURES, LABELS = 0x00000803, 0x00000801
MAX_SIDE_PX, MAX_COUNT = 4096, 100_000_000


class Config(LicensedConfig):
    """path: the folder with the idx files. part: train, test (kept out of training) or both.

    names: what labels 0, 1, ... are called; left out means the digits themselves. limit: of each part; 0 reads all.
    """

    path: ProjectFolder
    part: Literal["train", "test", "both"] = "both"
    names: tuple[str, ...] = ()
    limit: int = Field(default=0, ge=0)


class Component:
    """Reads MNIST idx files."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, ctx: Context) -> Iterator[Item | Skip]:
        """Items in file order, train before test. Errors: UserError where no idx pictures are in the folder."""
        root = _files.place(self.config.path, ctx, folder=True)
        pictures, labels = _find(root, ctx)
        wanted = ("train", "test") if self.config.part == "both" else (self.config.part,)
        if not any(part in pictures for part in wanted):
            raise UserError(
                t("no idx file with pictures in {path}", path=self.config.path),
                where=f"intaglio.toml [data.{ctx.step}]",
                fix=t("it should hold train-images-idx3-ubyte and train-labels-idx1-ubyte, or their .gz"),
            )
        for part in wanted:
            if part in pictures:
                yield from self._part(part, pictures[part], labels.get(part), ctx)

    def _part(self, part: str, pictures: Entry, labels: Entry | None, ctx: Context) -> Iterator[Item | Skip]:
        done = 0
        try:
            with _files.open_unpacked(pictures.path) as file:
                count, height, width = _picture_header(file)
                known = _labels(labels) if labels is not None else b""
                if known and len(known) != count:
                    raise Unreadable(t("{labels} labels for {pictures} pictures", labels=len(known), pictures=count))
                for number in range(count):
                    yield self._item(
                        _exactly(file, height * width), (width, height), ctx, part, pictures, number, known
                    )
                    done += 1
                    if done == self.config.limit > 0:
                        return
        except Unreadable as reason:
            yield Skip(f"{pictures.origin}#{done}", str(reason))

    def _item(
        self, pixels: bytes, size: tuple[int, int], ctx: Context, part: str, pictures: Entry, number: int, known: bytes
    ) -> Item:  # seven: one row of the format is all of these
        label = known[number] if known else None
        names = self.config.names
        text = "" if label is None else names[label] if label < len(names) else str(label)
        meta: dict[str, Any] = {"part": part} if label is None else {"part": part, "label": label}
        return png_item(
            pixels, size, "L", ctx, origin=f"{pictures.origin}#{number}", config=self.config, text=text, **meta
        )


def _find(root: Any, ctx: Context) -> tuple[dict[str, Entry], dict[str, Entry]]:
    pictures: dict[str, Entry] = {}
    labels: dict[str, Entry] = {}
    for folder in _files.walk(root, ctx):
        for entry in folder:
            magic = _magic(entry)
            part = (
                "test" if entry.name.lower().startswith(("t10k", "test")) or "-test-" in entry.name.lower() else "train"
            )
            if magic == PICTURES:
                pictures.setdefault(part, entry)
            elif magic == LABELS:
                labels.setdefault(part, entry)
    return pictures, labels


def _magic(entry: Entry) -> int:
    if entry.refused:
        return 0
    try:
        with _files.open_unpacked(entry.path) as file:
            head = file.read(4)
    except Unreadable:
        return 0
    return int.from_bytes(head, "big") if len(head) == 4 else 0


def _picture_header(file: BinaryIO) -> tuple[int, int, int]:
    _, count, height, width = struct.unpack(">IIII", _exactly(file, 16))
    if not (0 < height <= MAX_SIDE_PX and 0 < width <= MAX_SIDE_PX) or count > MAX_COUNT:
        raise Unreadable(
            t(
                "its header claims {count} pictures of {width} x {height} pixels",
                count=count,
                width=width,
                height=height,
            )
        )
    return count, height, width


def _labels(entry: Entry) -> bytes:
    with _files.open_unpacked(entry.path) as file:
        _, count = struct.unpack(">II", _exactly(file, 8))
        if count > MAX_COUNT:
            raise Unreadable(t("its header claims {count} labels", count=count))
        return _exactly(file, count)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise Unreadable(t("truncated: {got} of {wanted} bytes", got=len(data), wanted=size))
    return data


TINY: dict[str, Any] = {"path": ".", "license": "CC-BY-SA-3.0", "limit": 20}
