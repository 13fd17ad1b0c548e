"""Run the whole loop on a small archive, and say where to look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from intaglio.cli import _output, _text
from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("demo")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("demo"))
def demo_command(app: App, folder: Path) -> int:
    """Run the whole loop on a small archive, and say where to look.

    Poems and small pictures of clear license are fetched as pinned packages (or a small archive made for this is taken
    where they cannot be), two models learn from them, and a signed site is published into FOLDER (left out: demo).
    """
    from intaglio.project.demo import demo

    with app.progress() as progress:
        answer = demo(app.folder or folder, progress=progress)
    app.answer(answer, lines(answer))
    return _output.DONE if answer["verified"]["valid"] == answer["verified"]["files"] else _output.FAILED


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """What was made, the planted faults it found, where to look, and what to try next."""
    run, faults, verified = answer["run"], answer["faults"], answer["verified"]
    yield t(
        "Steps made: {ran}, kept as they were: {kept}, failed: {failed}. Time: {time}.",
        ran=run["ran"],
        kept=run["kept"],
        failed=run["failed"],
        time=_text.seconds(answer["seconds"]),
    )
    for origin in faults["duplicates"]:
        yield t("A planted duplicate was found and left out: {file}", file=_text.clean(origin))
    for found in faults["personal"]:
        yield t(
            "A planted piece of personal data was found: {kind} in {file}", kind=found["kind"], file=found["origin"]
        )
    yield t("{valid} of {files} published files verify as valid.", valid=verified["valid"], files=verified["files"])
    traced = answer["traced"]
    items = sum(each.get("items", 0) for each in traced["collections"])
    names = ", ".join(traced["models"])
    yield t(
        "{file} goes back to {items} source items by way of {models}.", file=traced["file"], items=items, models=names
    )
    yield t("Look at it:")
    for path in answer["look"]:
        yield f"  {path}"
    yield t("Where from: intaglio trace {path}", path=answer["look"][0])
    yield t("Change a line of {file}, then: intaglio -C {folder} run", file=_file(answer), folder=answer["project"])


def _file(answer: Mapping[str, Any]) -> str:
    return str(Path(answer["project"]) / "intaglio.toml")
