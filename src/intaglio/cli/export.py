"""Write a trained model in the layout other programs load."""

from __future__ import annotations

from pathlib import Path

import click

from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("export")
@click.argument("step")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def export_command(app: App, step: str, folder: Path) -> None:
    """Write a trained model in the layout other programs load.

    For `gpt` that is the folder `transformers` reads with AutoModelForCausalLM, and in it model.gguf for llama.cpp.
    """
    with app.project() as project:
        answer = project.export(step, folder)
    lines = [*map(str, answer["files"]), t("Files in {folder}: {count}", count=len(answer["files"]), folder=folder)]
    app.answer(answer, lines)
