"""Briefs: what is wanted, one line of a CSV file each, with every mistake told by its line."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
from dataclasses import dataclass
from pathlib import Path

from intaglio.core.errors import UserError
from intaglio.core.hashing import digest
from intaglio.core.i18n import t

COLUMNS = {  # as written in the file -> our word
    **{name: name for name in ("title", "theme", "form", "count", "language")},
    "标题": "title",
    "题目": "title",
    "主题": "theme",
    "形式": "form",
    "体裁": "form",
    "数量": "count",
    "语言": "language",
}
MOST_BYTES = 8 << 20
MOST_COUNT = 100_000


@dataclass(frozen=True, slots=True)
class Brief:
    """One wish. number: from 1, its place in the file; count: candidates to make. Empty texts leave the choice to the
    generator."""

    number: int
    count: int
    title: str = ""
    theme: str = ""
    form: str = ""
    language: str = ""

    def as_meta(self) -> dict[str, str | int]:
        """The brief as it is kept with a piece."""
        told = {"title": self.title, "theme": self.theme, "form": self.form, "language": self.language}
        return {"number": self.number, **{name: value for name, value in told.items() if value}}


def briefs(project: Path, name: str | None, *, count: int, forms: tuple[str, ...] = ()) -> list[Brief]:
    """The briefs of a CSV file inside the project, or one empty brief; ``count`` where a line names none.

    Columns: title, theme, form, count, language (or 标题 主题 形式 数量 语言), any of them, in any order.
    Errors: UserError with the file and the line: not there, not UTF-8 (or UTF-16 with a mark), unknown or doubled
            columns,
    lines too long or empty, a count that is no number from 1 to 100,000, a form not in ``forms`` (where those are
    given).
    """
    if not name:
        return [Brief(1, count)]
    text = _text(project, name)
    reader = csv.reader(io.StringIO(text), strict=True)
    found: list[Brief] = []
    try:
        columns = _columns(next(reader, []), name)
        for row in reader:
            if any(cell.strip() for cell in row):
                found.append(_brief(row, columns, len(found) + 1, _Place(f"{name}:{reader.line_num}", count, forms)))
    except csv.Error as error:
        raise UserError(
            t("not readable as CSV: {error}", error=error), where=f"{name}:{reader.line_num}", fix=_fix()
        ) from None
    if not found:
        raise UserError(t("there is no brief below the column names"), where=name, fix=_fix())
    return found


def _fix() -> str:
    return t("columns: title, theme, form, count, language; one brief a line, fields with commas in double quotes")


def _text(project: Path, name: str) -> str:
    path = project / name
    if not path.is_file():
        raise UserError(t("no such file"), where=name, fix=t("briefs is a path inside the project folder"))
    if path.stat().st_size > MOST_BYTES:
        raise UserError(t("larger than {most} MB", most=MOST_BYTES >> 20), where=name, fix=_fix())
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            t("not UTF-8: byte {byte} of the file", byte=error.start),
            where=f"{name}:{line}",
            fix=t("save it as CSV in UTF-8"),
        ) from None
    if "\x00" in text:
        line = text[: text.index("\x00")].count("\n") + 1
        raise UserError(t("a NUL byte: this is no text file"), where=f"{name}:{line}", fix=t("save it as CSV in UTF-8"))
    return text


def _columns(head: list[str], name: str) -> list[str]:
    columns = []
    for cell in head:
        word = COLUMNS.get(cell.strip().lower())
        if word is None:
            near = difflib.get_close_matches(cell.strip().lower(), list(COLUMNS), n=1)
            hint = t("did you mean '{name}'?", name=near[0]) if near else _fix()
            raise UserError(t("unknown column '{column}'", column=cell.strip()[:40]), where=f"{name}:1", fix=hint)
        if word in columns:
            raise UserError(t("column '{column}' stands twice", column=cell.strip()), where=f"{name}:1", fix=_fix())
        columns.append(word)
    if not columns:
        raise UserError(t("the file is empty"), where=name, fix=_fix())
    return columns


@dataclass(frozen=True)
class _Place:
    where: str
    count: int
    forms: tuple[str, ...]


def _brief(row: list[str], columns: list[str], number: int, place: _Place) -> Brief:
    if len(row) > len(columns):
        raise UserError(
            t("{got} fields, but {wanted} columns", got=len(row), wanted=len(columns)), where=place.where, fix=_fix()
        )
    values = {column: cell.strip() for column, cell in zip(columns, row, strict=False)}
    told = values.get("count", "")
    if told and not (told.isascii() and told.isdigit() and 1 <= int(told[:9]) <= MOST_COUNT and len(told) < 9):
        raise UserError(
            t("count is a number from 1 to {most}; got '{got}'", most=MOST_COUNT, got=told[:40]), where=place.where
        )
    form = values.get("form", "").lower()
    if form and place.forms and form not in place.forms:
        known = ", ".join(place.forms)
        raise UserError(t("unknown form '{form}'. Forms: {known}", form=form[:40], known=known), where=place.where)
    return Brief(
        number,
        int(told) if told else place.count,
        values.get("title", "")[:200],
        values.get("theme", "")[:500],
        form,
        values.get("language", "").lower(),
    )


def seed_of(seed: int, *numbers: int) -> int:
    """The seed of one draw, from the step's seed and the draw's numbers (brief, candidate, attempt): 52 bits, exact in
    JSON anywhere."""
    return int(digest(["draw", seed, *numbers])[:13], 16)
