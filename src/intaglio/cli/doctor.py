"""Examine machine, packages, signing and project; say what mends a fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from intaglio.cli import _output, _text
from intaglio.cli._app import App, command
from intaglio.core.i18n import t

MARKS = {"ok": "ok", "note": "--", "warning": "!!", "error": "XX"}


@command("doctor")
def doctor_command(app: App) -> int:
    """Examine machine, packages, signing and project; say what mends a fault.

    Works without any optional package. What is missing is named with what it is for and the line that installs it; the
    exit code is 1 only where something is broken, not where something optional is missing.
    """
    from intaglio.cli import _health

    checks = _health.checks(app.project_folder())
    answer = {"checks": checks, "ok": all(each["state"] != "error" for each in checks)}
    app.answer(answer, lines(answer, terminal=app.terminal))
    return _output.DONE if answer["ok"] else _output.FAILED


def lines(answer: Mapping[str, Any], *, terminal: bool) -> Iterator[str]:
    """One line a check, and under it what mends it."""
    rows = []
    for each in answer["checks"]:
        rows.append([MARKS[each["state"]], each["name"], each["message"]])
        if each["fix"]:
            rows.append(["", "", t("fix: {fix}", fix=each["fix"])])
    yield from _text.table(["", t("check"), t("found")], rows, terminal=terminal)
    yield t("All is well.") if answer["ok"] else t("Something is broken: see the lines marked XX.")
