"""Show what a step made, what was skipped and why, and its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from intaglio.cli import _text
from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("show")
@click.argument("step")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Items on a page.")
@click.option("--after", metavar="ID", default=None, help="Go on after this item: the last id of the page before.")
def show_command(app: App, step: str, *, limit: int, after: str | None) -> None:
    """Show what a step made, what was skipped and why, and its figures.

    Its items by pages with license and origin, what was skipped and why, and its figures.
    """
    with app.project() as project:
        answer = project.show(step, limit=limit, after=after)
    app.answer(answer, lines(answer, step=step, terminal=app.terminal))


def lines(answer: Mapping[str, Any], *, step: str, terminal: bool) -> Iterator[str]:
    """Items, skipped, figures."""
    items = answer.get("items") or []
    yield from _text.table(
        [t("item"), t("media"), t("license"), t("origin"), t("text")],
        [
            [
                _text.short_id(item["id"]),
                item.get("media", ""),
                item.get("license", ""),
                _text.shorten(item.get("origin", ""), 40),
                _text.shorten(item.get("text", ""), 60),
            ]
            for item in items
        ],
    )
    if answer.get("next"):
        yield t("More: intaglio show {step} --after {id}", step=step, id=answer["next"])
    skipped = answer.get("skipped") or []
    if skipped:
        counts = answer.get("counts") or {}
        total = max(len(skipped), counts.get("skipped", 0) + counts.get("duplicates", 0))
        yield t("Not taken in ({count}):", count=total)
        rows = [[_text.shorten(each["origin"], 48), each["reason"]] for each in skipped]
        yield from _text.table([t("file"), t("why")], rows, terminal=terminal)
        if total > len(skipped):
            yield t("... and {count} more; a greater --limit shows them", count=total - len(skipped))
    refused = [each for each in answer.get("verdicts") or [] if not each.get("kept")] + (answer.get("refused") or [])
    if refused:
        yield t("Left out ({count}):", count=len(refused))
        yield from _text.table([t("piece"), t("why")], [_refusal(each) for each in refused], terminal=terminal)
    findings = answer.get("findings") or []
    if findings:
        yield t("Personal data found ({count}); the texts themselves are not shown:", count=len(findings))
        rows = [[each["kind"], _text.shorten(each["origin"], 80)] for each in findings]
        yield from _text.table([t("kind"), t("file")], rows)
    figures = list(_text.figures(answer.get("metrics") or {}))
    if figures:
        yield from _text.table([t("figure"), t("value")], [list(each) for each in figures])
    if any(each["path"] == "MODEL_CARD.md" for each in answer.get("files") or ()):
        yield t("Its cards: MODEL_CARD.md and DATA_CARD.md; intaglio export {step} FOLDER writes them out.", step=step)
    if not (items or skipped or refused or figures):
        yield t("{step} holds nothing to show.", step=step)


def _refusal(each: Mapping[str, Any]) -> list[str]:
    reasons = each.get("reasons") or [each.get("reason", "")]
    return [_text.short_id(each.get("item") or each.get("piece") or ""), "; ".join(map(str, reasons))]
