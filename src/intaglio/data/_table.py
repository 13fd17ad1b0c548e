"""Opening a table of comma separated values: encoding and delimiter told by content, cells capped."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from intaglio.media import text

MAX_CELL_CHARS = 16_000_000


@contextlib.contextmanager
def open_table(file: BinaryIO, delimiter: str = "") -> Iterator[Any]:
    """A ``csv.reader`` over the file, which stays open. Errors: Unreadable where it is no text."""
    head = file.read(1 << 16)
    encoding = text.detect(head, whole=len(head) < 1 << 16, damaged=True)
    file.seek(0)
    csv.field_size_limit(MAX_CELL_CHARS)
    first = head.decode(encoding, "replace").splitlines()[:1]
    stream = io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="")
    try:
        yield csv.reader(_cleaned(stream), delimiter=delimiter or _delimiter(first[0] if first else ""))
    finally:
        stream.detach()


def _cleaned(stream: io.TextIOWrapper) -> Iterator[str]:
    """Lines no longer than a cell may be; NUL characters, which no table means, are dropped."""
    while line := stream.readline(MAX_CELL_CHARS):
        yield line.replace("\0", "")


def _delimiter(header: str) -> str:
    counts = {each: header.count(each) for each in (",", "\t", ";", "|")}
    return max(counts, key=lambda each: counts[each]) if any(counts.values()) else ","
