"""Follow a published file back to every source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from intaglio.cli import _text
from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("trace")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--limit", type=click.IntRange(1), default=None, help="Sources to show at most; left out: 20, all with --json."
)
def trace_command(app: App, file: Path, *, limit: int | None) -> None:
    """Follow a published file back to every source.

    Shows each source item with its origin, license and consent, the models it passed through, and the steps.
    """
    shown = limit if limit is not None or app.as_json else 20
    with app.project(file) as project:
        answer = project.trace(file, limit=shown)
    app.answer(answer, lines(answer, terminal=app.terminal))


def lines(answer: Mapping[str, Any], *, terminal: bool) -> Iterator[str]:
    """Steps, models, sources."""
    rows = [[step["name"], step["stage"], step["use"]] for step in answer["steps"]]
    yield t("Made by these steps:")
    yield from _text.table([t("step"), t("stage"), t("component")], rows)
    if answer["models"]:
        yield t("Models:")
        models = [[each["step"], each["use"], _text.short_id(each["checkpoint"])] for each in answer["models"]]
        yield from _text.table([t("step"), t("component"), t("checkpoint")], models)
    sources = answer["sources"]
    total = max(len(sources), sum(each.get("items", 0) for each in answer.get("collections") or []))
    yield t("From {count} sources:", count=total)
    found = [
        [_text.short_id(each["id"]), each["license"], each.get("consent") or "-", _text.shorten(each["origin"], 80)]
        for each in sources
    ]
    yield from _text.table([t("item"), t("license"), t("consent"), t("origin")], found, terminal=terminal)
    if total > len(sources):
        yield t("... and {count} more; --json shows them all", count=total - len(sources))
