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
    `music` is such a folder too; `finetune` is the adapter as PEFT reads it, and below merged/ the whole model.

    Of all others it is model.safetensors, config.json, and a README.md that says what the tensors are.
    """
    with app.project() as project:
        answer = project.export(step, folder)
    lines = [*map(str, answer["files"]), t("Files in {folder}: {count}", count=len(answer["files"]), folder=folder)]
    app.answer(answer, lines)
