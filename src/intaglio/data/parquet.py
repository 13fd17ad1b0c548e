"""Parquet tables of texts, or of pictures in the Hugging Face layout (a column of ``{bytes, path}``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from intaglio.core.contracts import Context, Item, Skip
from intaglio.core.i18n import t
from intaglio.data import _files
from intaglio.data._items import picture_item
from intaglio.data._rights import said
from intaglio.data._rows import TEXT_NAMES, RowConfig, plain, row_item
from intaglio.media import Unreadable

BATCH_BYTES = 64 << 20
BATCH_ROWS = 1024
MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO = 1 << 30, 200

DICTIONARY_PAGE = 2


class Config(RowConfig):
    """path: a ``.parquet`` file, or a folder of them. image: the column with pictures; left out: told by content."""

    image: str = ""


class Component:
    """Reads Parquet tables."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, ctx: Context) -> Iterator[Item | Skip]:
        """Items in the order of rows. Errors: UserError where the path is missing or outside the project."""
        done = 0
        for entry in _files.shards(_files.place(self.config.path, ctx), (".parquet",), ctx):
            if entry.refused:
                yield Skip(entry.origin, entry.refused)
                continue
            try:
                for each in self._file(entry, ctx):
                    yield each
                    done += isinstance(each, Item)
                    if done == self.config.limit > 0:
                        return
            except Unreadable as reason:
                yield Skip(entry.origin, str(reason))

    def _file(self, entry: _files.Entry, ctx: Context) -> Iterator[Item | Skip]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with _files.open_regular(entry.path) as file:
            try:
                table = pq.ParquetFile(file, pre_buffer=False)
                number = 0
                rows = _batch_rows(table.metadata, file, entry.size_bytes)
                for batch in table.iter_batches(batch_size=rows, use_threads=False):
                    for row in batch.to_pylist():
                        number += 1
                        yield self._row(row, f"{entry.origin}#{number}", ctx)
            except (pa.ArrowException, OSError, MemoryError, RecursionError) as error:
                reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
                raise Unreadable(t("no Parquet table that can be read: {error}", error=reason)) from None

    def _row(self, row: dict[str, Any], origin: str, ctx: Context) -> Item | Skip:
        try:
            name = self.config.image or _picture_column(row)
            if not name:
                return row_item(row, origin, self.config)
            return self._picture(row, name, origin, ctx)
        except Unreadable as reason:
            return Skip(origin, str(reason))

    def _picture(self, row: dict[str, Any], column: str, origin: str, ctx: Context) -> Item:
        value = row.get(column)
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, None)
        if not isinstance(data, bytes):
            raise Unreadable(t("the column '{column}' holds no picture", column=column))
        words = self.config.text or next((each for each in TEXT_NAMES if isinstance(row.get(each), str)), "")
        rest = {str(key): plain(each) for key, each in row.items() if key not in (column, words) and each is not None}
        rights = said({key.lower(): each for key, each in rest.items() if isinstance(each, str)}, self.config)
        numbers = {key: each for key, each in rest.items() if not isinstance(each, str)}
        name = str(path or origin).rsplit("/", 1)[-1]
        caption = str(row.get(words) or "") if words else ""
        return picture_item(data, ctx, name=name, origin=origin, rights=rights, caption=caption, meta=numbers)


def _picture_column(row: Mapping[str, Any]) -> str:
    for name, value in row.items():
        if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
            return name
        if name in ("image", "img") and isinstance(value, bytes):
            return name
    return ""


def _batch_rows(metadata: Any, file: BinaryIO, size_bytes: int) -> int:
    """Rows a batch, so that one cannot hold more than about ``BATCH_BYTES``.

    A value that stands in a dictionary once can be meant by every row: 600 bytes of file became 13 GB. So a row counts
    as large as all dictionaries together, which writers keep at 1 MiB a column.
    """
    largest = 1
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        chunks = [group.column(number) for number in range(group.num_columns)]
        unpacked = sum(chunk.total_uncompressed_size for chunk in chunks)
        if unpacked > max(MAX_UNPACKED_BYTES, size_bytes * MAX_UNPACKED_RATIO):
            raise Unreadable(t("it unpacks to more than {limit} MB: a compression bomb", limit=unpacked >> 20))
        row = unpacked // max(group.num_rows, 1) + sum(_dictionary_bytes(chunk, file) for chunk in chunks)
        largest = max(largest, row)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // largest))


def _dictionary_bytes(chunk: Any, file: BinaryIO) -> int:
    """Unpacked size of a column chunk's dictionary page, from its header (Thrift compact: type and size come first)."""
    at = chunk.dictionary_page_offset
    file.seek(chunk.data_page_offset if at is None else min(at, chunk.data_page_offset))
    head = file.read(16)
    kind, rest = _integer_field(head)
    size, _ = _integer_field(rest)
    return max(size, 0) if kind == DICTIONARY_PAGE else 0


def _integer_field(data: bytes) -> tuple[int, bytes]:
    """The value of a Thrift compact i32 field and what comes after it; -1 where there is another field."""
    if data[:1] != b"\x15":
        return -1, b""
    value = shift = 0
    for index, byte in enumerate(data[1:], 2):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value >> 1 ^ -(value & 1), data[index:]
    return -1, b""


TINY: dict[str, Any] = {"path": "rows.parquet", "license": "CC0-1.0"}
