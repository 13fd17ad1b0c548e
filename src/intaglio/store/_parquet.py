"""Parquet with one spelling: the same rows give the same bytes, and the file's SHA-256 is its id.

A row group is closed at 8,192 rows or 16 MiB of text, whichever comes first; that bounds the memory of writer and
reader and makes a page cheap. A summary stands in the footer, so that counts are known without reading a row.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from intaglio.core.hashing import canonical_json
from intaglio.store._files import TempFile, writing
from intaglio.store.blobs import Blobs

GROUP_ROWS = 8192
GROUP_BYTES = 16 << 20
SUMMARY = b"intaglio"


def dump(value: Any) -> str:
    """Canonical JSON; text that is no valid Unicode (a lone surrogate) is kept by escapes."""
    text = canonical_json(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text


class _Hashing:
    """A file that hashes what is written to it; a Parquet writer never goes back."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.hasher = hashlib.sha256()
        self.size = 0
        self.closed = False
        self.given_up = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if self.given_up:
            return view.nbytes
        self.hasher.update(view)
        self.file.write(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        if not self.given_up:
            self.file.flush()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


class TableWriter:
    """Columns of plain Python values to one Parquet blob; ``discard`` leaves nothing behind."""

    def __init__(self, blobs: Blobs, scratch: Path, *, schema: Any, dictionary: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.blobs = blobs
        self.schema = schema
        self.columns: list[list[Any]] = [[] for _ in schema.names]
        self.pending_bytes = 0
        # On the disk of the blobs when the scratch folder is elsewhere: the last step must be a rename.
        scratch.mkdir(parents=True, exist_ok=True)
        blobs.root.mkdir(parents=True, exist_ok=True)
        same_disk = scratch.stat().st_dev == blobs.root.stat().st_dev
        self.temp = TempFile(scratch) if same_disk else blobs.temporary()
        self.sink = _Hashing(self.temp.file)
        self.writer = pq.ParquetWriter(
            pa.PythonFile(self.sink, mode="w"),
            schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=list(dictionary),
            write_statistics=list(dictionary) or False,
            store_schema=False,
            write_page_checksum=True,
            version="2.6",
            data_page_version="1.0",
        )

    def add(self, row: Sequence[Any], size_bytes: int) -> None:
        """One row, in the order of the schema; ``size_bytes`` is about what it weighs."""
        for column, value in zip(self.columns, row, strict=True):
            column.append(value)
        self.pending_bytes += size_bytes
        if len(self.columns[0]) >= GROUP_ROWS or self.pending_bytes >= GROUP_BYTES:
            self._flush()

    def close(self, summary: dict[str, Any]) -> str:
        """Write the rest and the summary; returns the id. UserError: the disk is full."""
        self._flush()
        with writing(self.blobs.root):
            self.writer.add_key_value_metadata({SUMMARY: dump(summary).encode("utf-8")})
            self.writer.close()
            sha256 = self.sink.hasher.hexdigest()
            if self.blobs.holds(sha256, self.sink.size):
                self.temp.discard()
            else:
                self.blobs.adopt(self.temp, sha256)
        return sha256

    def discard(self) -> None:
        """Give up: nothing is left of what was written."""
        if self.writer.is_open:
            self.sink.given_up = True  # closing writes a footer, and there may be no room for it
            self.writer.close()
        self.temp.discard()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self.columns[0]:
            return
        arrays = [pa.array(column, field.type) for column, field in zip(self.columns, self.schema, strict=True)]
        with writing(self.blobs.root):
            self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema), row_group_size=GROUP_ROWS)
        for column in self.columns:
            column.clear()
        self.pending_bytes = 0


class TableFile:
    """A Parquet blob, read row group by row group. Damaged: the blob is missing or not what it should be."""

    def __init__(self, blobs: Blobs, sha256: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.lost = functools.partial(blobs.missing, sha256)
        try:
            self.file = pq.ParquetFile(blobs.path(sha256), page_checksum_verification=True)
            self.summary: dict[str, Any] = json.loads(self.file.metadata.metadata[SUMMARY])
        except (FileNotFoundError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise self.lost() from error
        self.rows: int = self.file.metadata.num_rows
        starts = [0]
        for number in range(self.file.metadata.num_row_groups):
            starts.append(starts[-1] + self.file.metadata.row_group(number).num_rows)
        self.starts = starts

    def groups(self, first_row: int = 0) -> Iterator[tuple[int, int]]:
        """(number, first row) of each row group from the one that holds ``first_row``."""
        for number in range(len(self.starts) - 1):
            if self.starts[number + 1] > first_row:
                yield number, self.starts[number]

    def read(self, number: int, columns: Sequence[str] | None = None) -> Any:
        """One row group as a ``pyarrow.Table``. Damaged: its bytes make no sense."""
        try:
            return self.file.read_row_group(number, columns=list(columns) if columns else None, use_threads=False)
        except (OSError, ValueError) as error:  # Arrow's own errors are among these
            raise self.lost() from error
