"""Pictures in the ImageFolder layout: class folders give labels, metadata.jsonl or .csv gives captions and more.

Layout: ``[train|test/]label/picture.png``, and beside pictures a ``metadata.jsonl`` (or ``.csv``) with ``file_name``
and any other columns, as Hugging Face datasets writes it. Pictures of a ``test`` or ``validation`` folder stay out of
training.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field

from intaglio.core.config import ProjectFolder
from intaglio.core.contracts import Context, Item, Skip
from intaglio.core.i18n import t
from intaglio.data import _files
from intaglio.data._files import Entry
from intaglio.data._items import picture_item
from intaglio.data._rights import LicensedConfig, said
from intaglio.data._rows import plain
from intaglio.data._table import open_table
from intaglio.media import Unreadable, sniff

METADATA = ("metadata.jsonl", "metadata.csv")
MAX_METADATA_BYTES = 256 << 20
CAPTIONS = ("text", "caption", "prompt", "description", "title")
PARTS = {
    "train": "train",
    "training": "train",
    "test": "heldout",
    "testing": "heldout",
    "val": "heldout",
    "valid": "heldout",
    "validation": "heldout",
    "dev": "heldout",
}


class Config(LicensedConfig):
    """path: the folder. text: the metadata column with the caption; left out: told by its name. limit: 0 reads all."""

    path: ProjectFolder
    text: str = ""
    limit: int = Field(default=0, ge=0)


Rows = dict[str, Mapping[str, Any]]


class Component:
    """Reads an ImageFolder."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, ctx: Context) -> Iterator[Item | Skip]:
        """Items in the order of sorted paths. Errors: UserError where the folder is missing or outside the project."""
        root = _files.place(self.config.path, ctx, folder=True)
        base = _files.origin_of(root, ctx)
        rows: Rows = {}
        done = 0
        for entries in _files.walk(root, ctx):
            # Metadata may name pictures of folders below its own: rows wait under the picture's whole path.
            for entry in entries:
                if entry.name in METADATA:
                    yield from self._metadata(entry, rows)
            for entry in entries:
                if entry.name in METADATA and not entry.refused:
                    continue
                each = self._picture(entry, base, rows.pop(entry.origin, None), ctx)
                yield each
                done += isinstance(each, Item)
                if done == self.config.limit > 0:
                    return
        for origin in rows:
            yield Skip(origin, t("the metadata names it, but it is not there"))

    def _picture(self, entry: Entry, base: str, row: Mapping[str, Any] | None, ctx: Context) -> Item | Skip:
        try:
            if entry.refused:
                raise Unreadable(entry.refused)
            data = _files.read_bytes(entry.path, _files.MAX_PICTURE_BYTES)
            kind = sniff.sniff(data[: sniff.HEAD_BYTES])
            if kind in (sniff.EMPTY, sniff.BINARY):
                raise Unreadable(t(kind.name))
            if kind.media != "image":
                raise Unreadable(t("it is {kind}, not a picture", kind=t(kind.name)))
            return self._item(data, entry, base, row or {}, ctx)
        except Unreadable as reason:
            return Skip(entry.origin, str(reason))

    def _item(self, data: bytes, entry: Entry, base: str, row: Mapping[str, Any], ctx: Context) -> Item:
        folders = PurePosixPath(entry.origin).relative_to(base if base != "." else "").parts[:-1]
        part = PARTS.get(folders[0].lower(), "") if folders else ""
        label = "/".join(folders[1:] if part else folders)
        column = self.config.text or next((name for name in CAPTIONS if isinstance(row.get(name), str)), "")
        strings = {
            key.lower(): value
            for key, value in row.items()
            if isinstance(value, str) and key not in ("file_name", column)
        }
        meta: dict[str, Any] = {
            key: plain(value) for key, value in row.items() if not isinstance(value, str) and value is not None
        }
        if label:
            meta["label"] = label
        if part:
            meta["part"] = folders[0]
        caption = str(row.get(column) or "") if column else label
        rights = said(strings, self.config)
        item = picture_item(data, ctx, name=entry.name, origin=entry.origin, rights=rights, caption=caption, meta=meta)
        return dataclasses.replace(item, split="heldout") if part and PARTS[folders[0].lower()] == "heldout" else item

    def _metadata(self, entry: Entry, rows: Rows) -> Iterator[Skip]:
        folder = entry.origin.rpartition("/")[0]
        try:
            if entry.refused:
                raise Unreadable(entry.refused)
            reader = _jsonl_rows if entry.name.endswith(".jsonl") else _csv_rows
            for number, row in reader(entry):
                origin = f"{entry.origin}#{number}"
                name = row.get("file_name") if row is not None else None
                if not isinstance(name, str) or row is None:
                    yield Skip(origin, t("the line is no JSON object with a file_name"))
                    continue
                try:
                    rows[f"{folder}/{_files.safe_name(name)}".lstrip("/")] = row
                except Unreadable as reason:
                    yield Skip(origin, str(reason))
        except Unreadable as reason:
            yield Skip(entry.origin, str(reason))


def _jsonl_rows(entry: Entry) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    data = _files.read_bytes(entry.path, MAX_METADATA_BYTES)
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            row = None
        yield number, row if isinstance(row, dict) else None


def _csv_rows(entry: Entry) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
    if entry.size_bytes > MAX_METADATA_BYTES:
        raise Unreadable(t("larger than {limit} MB", limit=MAX_METADATA_BYTES >> 20))
    with _files.open_regular(entry.path) as file, open_table(file) as reader:
        header: list[str] = next(reader, [])
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, dict(zip(header, cells, strict=False))
        except csv.Error as error:
            raise Unreadable(
                t("the table breaks off at line {line}: {error}", line=reader.line_num, error=error)
            ) from None


TINY: dict[str, Any] = {"path": ".", "license": "CC0-1.0"}
