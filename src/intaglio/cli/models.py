"""List the models of the project with their figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from intaglio.cli import _text
from intaglio.cli._app import App, command
from intaglio.core.i18n import t

FIGURES_SHOWN = 3


@command("models")
@click.argument("action", type=click.Choice(["list"]), default="list", metavar="[list]")
def models_command(app: App, action: str) -> None:
    """List the models of the project with their figures.

    Each checkpoint with the step that made it, how long that took, and how good it is beside a trivial baseline.
    """
    with app.project() as project:
        answer = project.models()
    app.answer(answer, lines(answer, terminal=app.terminal))


def lines(answer: Mapping[str, Any], *, terminal: bool) -> Iterator[str]:
    """One line a model."""
    rows = []
    for each in answer["models"]:
        figures = [f"{name} {value}" for name, value in _text.figures(each.get("metrics") or {})][:FIGURES_SHOWN]
        made = _text.short_id(each["checkpoint"]) if each.get("checkpoint") else t("not trained yet")
        rows.append([each["step"], each["use"], made, _text.seconds(each.get("seconds")), ", ".join(figures)])
    if not rows:
        yield t("No models yet. A section [models.NAME] in intaglio.toml names one; intaglio run trains it.")
    headers = [t("step"), t("component"), t("checkpoint"), t("time"), t("figures")]
    yield from _text.table(headers, rows, terminal=terminal)
