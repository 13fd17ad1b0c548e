"""Bring a backup back into a project folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from intaglio.cli._app import App, command
from intaglio.core.errors import UserError
from intaglio.core.i18n import t


@command("restore")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def restore_command(app: App, source: Path, folder: Path) -> None:
    """Bring a backup back into a project folder.

    FOLDER becomes a project folder with the ledger, the stored files and the project file of the backup; its archive is
    yours to put back. A folder that holds a ledger already is refused.
    """
    from intaglio.project.file import FILE_NAME, STORE_FOLDER, read_project
    from intaglio.store import Store

    if not source.is_dir():
        raise UserError(t("there is no such folder"), where=str(source))
    folder.mkdir(parents=True, exist_ok=True)
    kept = source / FILE_NAME
    url = ""
    if kept.is_file():
        url = read_project(source).settings.ledger
    answer = Store.restore(source, folder / STORE_FOLDER, url=url)
    if kept.is_file() and not (folder / FILE_NAME).exists():
        shutil.copyfile(kept, folder / FILE_NAME)
    app.answer({"project": str(folder), **answer}, [t("Restored to {folder}", folder=folder)])
