"""Make a published file again and compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from intaglio.cli import _output
from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("replay")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--deep", is_flag=True, help="Also read the archive and train again, not only generate from the checkpoints."
)
def replay_command(app: App, file: Path, *, deep: bool) -> int:
    """Make a published file again and compare.

    The steps behind it run again from their recorded settings and seeds, aside, without changing the project. Time
    stamps and signatures are left out of the comparison. The exit code is 0 only if all is the same.
    """
    with app.project(file) as project, app.progress() as progress:
        answer = project.replay(file, deep=deep, progress=progress)
    app.answer(answer, lines(answer))
    return _output.FAILED if answer["differs"] else _output.DONE


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """What came out the same, what did not."""
    for name in answer["same"]:
        yield t("same: {name}", name=name)
    for name in answer["differs"]:
        yield t("differs: {name}", name=name)
    for change in answer.get("environment") or []:
        yield t("not as it was then: {change}", change=change)
    yield t("It differs from what was published.") if answer["differs"] else t("It came out the same.")
