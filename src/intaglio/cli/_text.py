"""Plain words for figures, and tables that keep their columns in English and Chinese."""

from __future__ import annotations

import shutil
import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from intaglio.core.i18n import t

MIN_LAST_COLUMN = 24
TALL_WIDTH = 100_000  # no wrapping where the output is not a terminal


def width(text: str) -> int:
    """Columns a terminal needs for ``text``; Chinese characters take two."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, columns: int) -> str:
    """``text`` filled up with spaces to ``columns`` terminal columns."""
    return text + " " * max(0, columns - width(text))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, terminal: bool = False) -> Iterator[str]:
    """Lines of a table; the last column is wrapped to the terminal's width where ``terminal`` is true."""
    if not rows:
        return
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(width(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]
    left = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = max(MIN_LAST_COLUMN, shutil.get_terminal_size().columns - left) if terminal else TALL_WIDTH
    for row in [list(headers), *cells]:
        head = "  ".join(pad(cell, size) for cell, size in zip(row[:-1], widths, strict=False))
        parts = wrap(row[-1], room)
        yield f"{head}  {parts[0]}".rstrip() if len(row) > 1 else parts[0]
        yield from (" " * (left + 0) + part for part in parts[1:])


def wrap(text: str, columns: int) -> list[str]:
    """``text`` cut into lines of at most ``columns``; a text without spaces (Chinese) is cut anywhere."""
    if width(text) <= columns:
        return [text]
    if width(text) == len(text):
        return textwrap.wrap(text, columns) or [""]
    lines, line = [], ""
    for char in text:
        if width(line + char) > columns:
            lines.append(line)
            line = ""
        line += char
    return [*lines, line]


def clean(text: object) -> str:
    """One printable line: line breaks become spaces, control characters are dropped (a file's name may hold any)."""
    line = " ".join(str(text).split())
    return "".join(c for c in line if unicodedata.category(c)[0] != "C" or c == "\u200d")


def shorten(text: object, columns: int) -> str:
    """The beginning of ``text``, with an ellipsis where something is cut off."""
    line = clean(text)
    if width(line) <= columns:
        return line
    while width(line) > columns - 1:
        line = line[:-1]
    return line.rstrip() + "…"


def seconds(value: float | None) -> str:
    """A duration in a person's words: ``0.4 s``, ``12 s``, ``3.1 min``, ``2.5 h``; ``-`` for None."""
    if value is None:
        return "-"
    if value < 10:
        return t("{number} s", number=f"{value:.1f}")
    if value < 100:
        return t("{number} s", number=f"{value:.0f}")
    if value < 5400:
        return t("{number} min", number=f"{value / 60:.1f}")
    return t("{number} h", number=f"{value / 3600:.1f}")


def size(value: float | None) -> str:
    """A number of bytes: ``812 B``, ``3.4 MB``, ``2.1 GB`` (powers of 1000); ``-`` for None."""
    if value is None:
        return "-"
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit in ("B", "kB") else f"{amount:.1f} {unit}"
        amount /= 1000
    return ""


def number(value: Any) -> str:
    """A figure as people read it: at most four significant digits."""
    if isinstance(value, bool) or value is None:
        return {True: t("yes"), False: t("no"), None: "-"}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else clean(value)


def figures(values: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every single figure of nested metrics with its dotted name, and intervals; long lists are left to ``--json``."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from figures(value, prefix=f"{name}.")
        elif isinstance(value, str | int | float | bool) or value is None:
            yield name, shorten(number(value), 80)
        elif isinstance(value, list) and len(value) == 3 and all(isinstance(each, int | float) for each in value):
            middle, low, high = map(number, value)
            yield name, f"{middle} ({low} … {high})"


def short_id(value: object) -> str:
    """The beginning of an id, long enough to be used as ITEM."""
    return str(value)[:12]
