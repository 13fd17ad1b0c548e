"""Copy everything the project made to a folder, also during a run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from intaglio.cli import _output, _text
from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("backup")
@click.argument("to", type=click.Path(path_type=Path))
def backup_command(app: App, to: Path) -> int:
    """Copy everything the project made to a folder, also during a run.

    Ledger and stored files are copied so that they fit together, also while a run is going on. A later backup to the
    same folder copies only what is new. `intaglio restore` is the way back.
    """
    from intaglio.project.file import FILE_NAME

    with app.project() as project:
        answer = project.backup(to)
        shutil.copyfile(project.folder / FILE_NAME, to / FILE_NAME)
    app.answer(answer, lines(answer, to))
    return _output.FAILED if answer["damaged"] or answer["missing"] else _output.DONE


def lines(answer: Mapping[str, Any], to: Path) -> Iterator[str]:
    """How much was copied, and what could not be."""
    size = _text.size(answer["bytes"])
    yield t("Backed up to {folder}. Files copied: {count}, {size}", folder=to, count=answer["copied"], size=size)
    for sha256 in [*answer["damaged"], *answer["missing"]]:
        yield t("damaged: {name}", name=sha256)
