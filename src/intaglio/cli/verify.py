"""Check a published file offline: credentials, labels, ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from intaglio.cli import _output
from intaglio.cli._app import App, command
from intaglio.core.i18n import t

PARTS = ("credentials", "labels", "ledger")


@command("verify")
@click.argument("file", type=click.Path(path_type=Path))
def verify_command(app: App, file: Path) -> int:
    """Check a published file offline: credentials, labels, ledger.

    Three answers, found without a network: are its signed credentials whole, are its labels there, and does the ledger
    of the project know this very file. The exit code is 0 only if all is well; one changed byte is enough for 1.
    """
    from intaglio.project import verify_file

    answer = verify_file(file, app.project_folder(file))
    app.answer(answer, lines(answer, file))
    return _output.DONE if answer["valid"] else _output.FAILED


def lines(answer: Mapping[str, Any], file: Path) -> Iterator[str]:
    """Three lines and a sentence."""
    names = {"credentials": t("credentials"), "labels": t("labels"), "ledger": t("ledger")}
    for part in PARTS:
        yield f"{names[part]}: {t(answer[part])}"
    for reason in answer.get("reasons") or []:
        yield f"  {reason}"
    if answer["valid"]:
        yield t("{file} is as it was published.", file=file)
    else:
        yield t("{file} is NOT as it was published, or was not published here.", file=file)
