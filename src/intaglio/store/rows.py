"""Plain JSON objects (verdicts, skips, findings) as Parquet blobs, written and read as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from intaglio.store._parquet import TableFile, TableWriter, dump
from intaglio.store.blobs import Blobs


def write_rows(blobs: Blobs, scratch: Path, rows: Iterable[dict[str, Any]]) -> str:
    """Store plain JSON objects (verdicts, skips, findings) in their order; returns the id."""
    import pyarrow as pa

    table = TableWriter(blobs, Path(scratch), schema=pa.schema({"row": pa.string()}), dictionary=())
    count = 0
    try:
        for row in rows:
            text = dump(row)
            table.add((text,), len(text))
            count += 1
        return table.close({"kind": "rows", "rows": count})
    finally:
        table.discard()


def read_rows(blobs: Blobs, id: str, after: int = 0, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The stored objects from number ``after`` (0 is the first) on, at most ``limit``. Damaged: missing or no rows."""
    return Rows(blobs, id).read(after=after, limit=limit)


class Rows:
    """Stored plain JSON objects: ``len``, iteration, and ``read`` by pages."""

    write = staticmethod(write_rows)

    def __init__(self, blobs: Blobs, id: str) -> None:
        self.blobs = blobs
        self.id = id

    def _file(self) -> TableFile:
        file = TableFile(self.blobs, self.id)
        if file.summary.get("kind") != "rows":
            raise self.blobs.missing(self.id)
        return file

    def __len__(self) -> int:
        return self._file().rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.read()

    def read(self, *, after: int = 0, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """From row ``after`` on, at most ``limit`` rows."""
        file = self._file()
        end = file.rows if limit is None else min(after + limit, file.rows)
        for number, first in file.groups(after):
            if first >= end:
                return
            texts = file.read(number).column("row").slice(max(after - first, 0), end - max(after, first)).to_pylist()
            for text in texts:
                yield json.loads(text)
