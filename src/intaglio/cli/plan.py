"""Show what a run would do, and why; nothing is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from intaglio.cli import _text
from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("plan")
@click.argument("steps", nargs=-1, metavar="[STEP]...")
def plan_command(app: App, steps: tuple[str, ...]) -> None:
    """Show what a run would do, and why; nothing is made.

    Each step is made (nothing to do), changed, new, or blocked, with the reason, and the time and memory it is
    expected to take on this machine. STEP limits the plan to these steps and what they need.
    """
    with app.project() as project:
        answer = project.plan(steps)
    app.answer(answer, lines(answer, terminal=app.terminal))


def lines(answer: Mapping[str, Any], *, terminal: bool) -> Iterator[str]:
    """The plan as a table and one sentence."""
    steps = answer["steps"]
    yield from _text.table(
        [t("step"), t("stage"), t("component"), t("state"), t("time"), t("memory"), t("why")],
        [
            [
                step["name"],
                step["stage"],
                step["use"],
                t(step["state"]),
                _text.seconds(step.get("seconds") or None),
                _text.size(step.get("bytes") or None),
                step.get("reason", ""),
            ]
            for step in steps
        ],
        terminal=terminal,
    )
    todo = [step for step in steps if step["state"] in ("new", "changed")]
    if answer.get("device"):
        yield t("Device: {device} ({reason})", device=answer["device"], reason=answer.get("device_reason", ""))
    if todo:
        expected = _text.seconds(sum(step.get("seconds") or 0 for step in todo))
        yield t("Steps to do: {count}, about {time}. `intaglio run` does them.", count=len(todo), time=expected)
    else:
        yield t("Nothing to do: everything is made already.")
