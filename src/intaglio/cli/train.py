"""Train one model, and what it needs first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from intaglio.cli import _text
from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("train")
@click.argument("step")
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:1; left out: a GPU where there is one.")
@click.option("--processes", type=click.IntRange(1), default=1, help="Processes that share each training.")
def train_command(app: App, step: str, *, device: str | None, processes: int) -> None:
    """Train one model, and what it needs first.

    The data it learns from is read first where that is not done yet. An interrupted training goes on where it stopped;
    a finished one is not done again unless its data, settings or code changed.
    """
    with app.project() as project, app.progress() as progress:
        answer = project.train(step, progress=progress, device=device, processes=processes)
    app.answer(answer, lines(answer))


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """The checkpoint and its figures."""
    yield t("{step} is trained. Checkpoint: {id}", step=answer["step"], id=answer["checkpoint"])
    yield from _text.table([t("figure"), t("value")], [list(each) for each in _text.figures(answer["metrics"])])
