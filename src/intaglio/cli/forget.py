"""Forget one item: show what it touched, block it, rebuild without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from intaglio.cli import _output, _text
from intaglio.cli._app import App, command
from intaglio.core.i18n import t

SHOWN = 12


@command("forget")
@click.argument("item")
@click.option("--dry-run", is_flag=True, help="Only show what it touched; nothing changes.")
def forget_command(app: App, item: str, *, dry_run: bool) -> int:
    """Forget one item: show what it touched, block it, rebuild without it.

    ITEM is an id, a unique beginning of one (8 characters or more), or the path of the file it came from. What it
    touched is listed; without --dry-run it is then blocked for good, and every dataset, model and publication made with
    it is rebuilt without it. Your own file is not deleted.
    """
    with app.project() as project, app.progress() as progress:
        answer = project.forget(item, dry_run=dry_run, progress=progress)
    app.answer(answer, lines(answer, dry_run=dry_run))
    return _output.FAILED if not dry_run and not _gone(answer) else _output.DONE


def _gone(answer: Mapping[str, Any]) -> bool:
    """Whether no dataset in force holds it any more and everything was rebuilt."""
    return not answer["proof"]["still_in"] and not answer["rebuilt"]["failed"]


def lines(answer: Mapping[str, Any], *, dry_run: bool) -> Iterator[str]:
    """What it touched, by kind."""
    titles = {
        "datasets": t("Datasets"),
        "models": t("Models"),
        "pieces": t("Pieces"),
        "choices": t("Choices"),
        "publications": t("Publications"),
        "posts": t("Posts"),
    }
    for kind, title in titles.items():
        found = answer.get(kind) or []
        names = ", ".join(_name(each) for each in found[:SHOWN])
        more = t(" and {count} more", count=len(found) - SHOWN) if len(found) > SHOWN else ""
        yield f"{title} ({len(found)}): {names}{more}" if found else f"{title}: {t('none')}"
    if dry_run:
        yield t("Nothing was changed. Without --dry-run it is blocked, and these are rebuilt without it.")
        return
    proof = answer["proof"]
    for name in proof["still_in"]:
        yield t("NOT gone: {name} still holds it.", name=name)
    if _gone(answer):
        yield t(
            "It is gone. Results withdrawn and made again without it: {steps}; stored files erased: {blobs}.",
            steps=proof["blocked_steps"],
            blobs=proof["erased_blobs"],
        )
    else:
        yield t("It is blocked, but not everything could be rebuilt: see `intaglio run`.")


def _name(found: Any) -> str:
    if not isinstance(found, Mapping):
        return _text.clean(found)
    return _text.clean(next((found[key] for key in ("name", "step", "path", "id") if found.get(key)), "?"))
