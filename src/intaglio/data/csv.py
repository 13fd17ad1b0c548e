"""CSV tables with a header row: a text column, or briefs whose columns become "column: value" lines.

Comma, semicolon, tab and bar are told apart by the header; the encoding is told by content. A row with more cells
than the header is skipped with its line; a missing cell is empty.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from intaglio.core.contracts import Context, Item, Skip
from intaglio.core.i18n import t
from intaglio.data import _files
from intaglio.data._rows import RowConfig, row_item
from intaglio.data._table import open_table
from intaglio.media import Unreadable

SUFFIXES = (".csv", ".tsv")


class Config(RowConfig):
    """path: a ``.csv`` or ``.tsv`` file, or a folder of them; field names are those of the header row.

    delimiter: left out means: told by the header.
    """

    delimiter: str = ""


class Component:
    """Reads CSV tables."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, ctx: Context) -> Iterator[Item | Skip]:
        """Items in the order of rows. Errors: UserError where the path is missing or outside the project."""
        done = 0
        for entry in _files.shards(_files.place(self.config.path, ctx), SUFFIXES, ctx):
            if entry.refused:
                yield Skip(entry.origin, entry.refused)
                continue
            try:
                for each in self._file(entry):
                    yield each
                    done += isinstance(each, Item)
                    if done == self.config.limit > 0:
                        return
            except Unreadable as reason:
                yield Skip(entry.origin, str(reason))

    def _file(self, entry: _files.Entry) -> Iterator[Item | Skip]:
        with _files.open_regular(entry.path) as file, open_table(file, self.config.delimiter) as reader:
            yield from self._rows(reader, entry.origin)

    def _rows(self, reader: Any, origin: str) -> Iterator[Item | Skip]:
        header: list[str] = next(reader, [])
        if not any(name.strip() for name in header):
            raise Unreadable(t("its first row names no columns"))
        names = [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise Unreadable(
                    t("the table breaks off at line {line}: {error}", line=reader.line_num, error=error)
                ) from None
            if any(cells):
                yield self._row(names, cells, f"{origin}#{reader.line_num}")

    def _row(self, names: list[str], cells: list[str], origin: str) -> Item | Skip:
        if len(cells) > len(names):
            return Skip(origin, t("{got} cells where the header has {wanted}", got=len(cells), wanted=len(names)))
        row = dict(zip(names, cells, strict=False))
        if any(_undecoded(cell) for cell in cells):
            return Skip(origin, t("its text is not in the encoding of the rest of the table"))
        try:
            return row_item(row, origin, self.config, compose=True)
        except Unreadable as reason:
            return Skip(origin, str(reason))


def _undecoded(cell: str) -> bool:
    return not cell.isascii() and any("\udc80" <= char <= "\udcff" for char in cell)


TINY: dict[str, Any] = {"path": "rows.csv", "license": "CC0-1.0"}
