"""JSON Lines: texts, alpaca instructions, chats and preference pairs, one JSON object a line, plain or gzipped.

A line that cannot be read is skipped with its number; the others are read. Lines over 64 MiB are skipped unread.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from intaglio.core.contracts import Context, Item, Skip
from intaglio.core.i18n import t
from intaglio.data import _files
from intaglio.data._rows import RowConfig, row_item
from intaglio.media import Unreadable

MAX_LINE_BYTES = 64 << 20
SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


class Config(RowConfig):
    """path: a ``.jsonl`` file, or a folder of them; the field names and ``limit`` as in every table."""


class Component:
    """Reads JSON Lines."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, ctx: Context) -> Iterator[Item | Skip]:
        """Items in the order of lines. Errors: UserError where the path is missing or outside the project."""
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
        with _files.open_unpacked(entry.path) as file:
            for number, line in enumerate(_lines(file), 1):
                if line is None:
                    yield Skip(
                        f"{entry.origin}#{number}", t("a line of more than {limit} MB", limit=MAX_LINE_BYTES >> 20)
                    )
                elif line and not line.isspace():
                    yield self._line(line, f"{entry.origin}#{number}")

    def _line(self, line: bytes | str, origin: str) -> Item | Skip:
        try:
            row = json.loads(line, parse_constant=_no_number)
        except UnicodeDecodeError:
            return Skip(origin, t("the line is not valid UTF-8"))
        except RecursionError:
            return Skip(origin, t("its fields are nested too deeply"))
        except ValueError as error:
            return Skip(origin, t("the line is not valid JSON: {error}", error=str(error)[:120]))
        if not isinstance(row, dict):
            return Skip(origin, t("the line is no JSON object"))
        try:
            return row_item(row, origin, self.config)
        except Unreadable as reason:
            return Skip(origin, str(reason))


def _no_number(name: str) -> Any:
    """``NaN`` and ``Infinity`` are no JSON; a field that holds one is left empty."""
    return None


def _lines(file: BinaryIO) -> Iterator[bytes | str | None]:
    """Lines as bytes (UTF-8), as text (UTF-16 by its mark), or None for one that is too long."""
    first = file.readline(MAX_LINE_BYTES + 1)
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield from _wide_lines(first, file)
        return
    line = first.removeprefix(b"\xef\xbb\xbf")
    while line:
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            yield None
            while line and not line.endswith(b"\n"):
                line = file.readline(_files.CHUNK_BYTES)
        else:
            yield line
        line = file.readline(MAX_LINE_BYTES + 1)


def _wide_lines(first: bytes, file: BinaryIO) -> Iterator[str]:
    from intaglio.media.text import cut

    yield from cut(_files.text_chunks(_Resumed(first, file), "utf-16"), "line")  # type: ignore[arg-type]


class _Resumed:
    """A file whose first bytes were read already."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head, self._file = head, file

    def read(self, size: int) -> bytes:
        head, self._head = self._head, b""
        return head or self._file.read(size)


TINY: dict[str, Any] = {"path": "rows.jsonl", "license": "CC0-1.0"}
