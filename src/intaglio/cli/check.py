"""Check the project file and everything it names; nothing is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from intaglio.cli import _output
from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("check")
@click.option(
    "--blobs", is_flag=True, help="Also read every stored file again and compare it with its content address."
)
def check_command(app: App, *, blobs: bool) -> int:
    """Check the project file and everything it names; nothing is made.

    Every section, key, input and file it names is checked as `run` would check it; nothing is made. With --blobs every
    stored file is read again: damage by a failing disk is found and named.
    """
    from intaglio.cli._health import damaged_blobs

    with app.project() as project:
        steps = project.plan()["steps"]
        damaged, checked = damaged_blobs(project.store.blobs) if blobs else ([], 0)
    answer = {"valid": not damaged, "steps": len(steps), "blobs": checked, "damaged": damaged}
    app.answer(answer, lines(answer, blobs=blobs))
    return _output.FAILED if damaged else _output.DONE


def lines(answer: Mapping[str, Any], *, blobs: bool) -> Iterator[str]:
    """One sentence, or the damage."""
    yield t("The project file is in order. Steps: {count}", count=answer["steps"])
    if blobs and not answer["damaged"]:
        yield t("Stored files, all whole: {count}", count=answer["blobs"])
    for sha256 in answer["damaged"]:
        yield t("damaged: {name}", name=sha256)
    if answer["damaged"]:
        yield t("Restore them from a backup (intaglio restore), or delete .intaglio and run again.")
