"""Make one publication: pages, labels, signed credentials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from intaglio.cli import _text
from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("publish")
@click.argument("step")
@click.option("--allow-unknown", is_flag=True, help="Publish also what was made from material without a known license.")
def publish_command(app: App, step: str, *, allow_unknown: bool) -> None:
    """Make one publication: pages, labels, signed credentials.

    Everything it needs is made first. The finished files lie in public/STEP, each labelled as generated and signed.
    Nothing leaves this machine: what you do with the folder is up to you.
    """
    with app.project() as project, app.progress() as progress:
        answer = project.publish(step, progress=progress, allow_unknown=allow_unknown)
    app.answer(answer, lines(answer, terminal=app.terminal))


def lines(answer: Mapping[str, Any], *, terminal: bool) -> Iterator[str]:
    """Where it lies, and what was left out and why."""
    yield t("Pieces published: {count}, in {folder}", count=answer["pieces"], folder=answer["publication"])
    refused = answer["refused"]
    if refused:
        yield t("Left out ({count}):", count=len(refused))
        rows = [[_text.short_id(each["piece"]), each["reason"]] for each in refused]
        yield from _text.table([t("piece"), t("why")], rows, terminal=terminal)
