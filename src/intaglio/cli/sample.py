"""Make samples from one trained model, for looking at."""

from __future__ import annotations

from pathlib import Path

import click

from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("sample")
@click.argument("step")
@click.option("--count", type=click.IntRange(1, 10_000), default=4, show_default=True, help="How many.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed gives the same samples."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("samples"),
    show_default=True,
    metavar="FOLDER",
    help="Where the files go; made if missing.",
)
def sample_command(app: App, step: str, *, count: int, seed: int, out: Path) -> None:
    """Make samples from one trained model, for looking at.

    They are for your own eyes: unmarked drafts, not to be given away. What `publish` makes is labelled and signed.
    """
    with app.project() as project:
        answer = project.sample(step, count=count, seed=seed, out=out)
    app.answer(
        answer, [*map(str, answer["files"]), t("Files in {folder}: {count}", count=len(answer["files"]), folder=out)]
    )
