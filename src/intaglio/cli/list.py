"""List the components of each stage: what `use = "..."` may name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from intaglio.cli import _text
from intaglio.cli._app import App, command
from intaglio.core import registry
from intaglio.core.i18n import t


@command("list")
@click.argument("stage", type=click.Choice(registry.STAGES), required=False, metavar="[STAGE]")
def list_command(app: App, stage: str | None) -> None:
    """List the components of each stage: what `use = "..."` may name.

    They are what `use = "..."` may name in the project file: built in, or brought by an installed plug-in.
    """
    found = registry.listing(stage)
    answer = {
        "components": [
            {"stage": each.stage, "name": each.name, "summary": each.summary, "package": each.package} for each in found
        ]
    }
    app.answer(answer, lines(answer, terminal=app.terminal))


def lines(answer: Mapping[str, Any], *, terminal: bool) -> Iterator[str]:
    """A table; the package is named where it is not ours."""
    rows = []
    for each in answer["components"]:
        package = "" if each["package"] == "intaglio" else f" [{each['package']}]"
        rows.append([each["stage"], each["name"], t(each["summary"]) + package])
    yield from _text.table([t("stage"), t("component"), t("what it does")], rows, terminal=terminal)
