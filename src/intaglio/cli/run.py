"""Make everything that is new or changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from intaglio.cli import _output, _text
from intaglio.cli._app import App, command
from intaglio.core.i18n import t


@command("run")
@click.argument("steps", nargs=-1, metavar="[STEP]...")
@click.option("--jobs", type=click.IntRange(1), help="Steps at the same time; left out: as many as fit the processor.")
@click.option("--device", metavar="NAME", help="cpu, cuda or cuda:1; left out: a GPU where there is one.")
@click.option("--processes", type=click.IntRange(1), default=1, help="Processes that share each training.")
@click.option("--next-round", is_flag=True, help="Begin a new round: name@last now means what this round made.")
@click.option("--allow-unknown", is_flag=True, help="Publish also what was made from material without a known license.")
@click.option("--dry", is_flag=True, help="Show the plan and stop, like `intaglio plan`.")
def run_command(
    app: App,
    steps: tuple[str, ...],
    *,
    jobs: int | None,
    device: str | None,
    processes: int,
    next_round: bool,
    allow_unknown: bool,
    dry: bool,
) -> int:
    """Make everything that is new or changed.

    All steps of the project file, or the steps named and what they need. What is made already stays as it is. Ctrl-C
    stops cleanly; the same command goes on from there, also after a power cut.
    """
    with app.project() as project:
        if dry:
            from intaglio.cli.plan import lines as plan_lines

            planned = project.plan(steps, device=device, allow_unknown=allow_unknown)
            app.answer(planned, plan_lines(planned, terminal=app.terminal))
            return _output.DONE
        with app.progress() as progress:
            answer = project.run(
                steps,
                progress=progress,
                jobs=jobs,
                device=device,
                processes=processes,
                next_round=next_round,
                allow_unknown=allow_unknown,
            )
    return finish(app, answer)


def finish(app: App, answer: Mapping[str, Any]) -> int:
    """Say what was made, and what failed; the exit code. A mistake of the person that stopped everything is 2."""
    failed = [step for step in answer["steps"] if step.get("error")]
    for step in failed:
        for line in problem(step):
            app.say(line)
    app.answer(answer, lines(answer, terminal=app.terminal))
    if not answer["failed"]:
        return _output.DONE
    mistakes = all(step["state"] == "blocked" or step["error"].get("kind") == "user" for step in failed)
    return _output.MISTAKE if mistakes and not answer["ran"] else _output.FAILED


def problem(step: Mapping[str, Any]) -> Iterator[str]:
    """Why a step failed: where, what, fix; the traceback only where it is a bug."""
    error = step["error"]
    own, where = f"[{step['stage']}.{step['name']}]", error.get("where") or ""
    said = where in ("", own, f"intaglio.toml {own}", step["name"])  # a component names its own step, or not
    yield t("error: {message}", message=f"{own} {error['error']}" if said else f"{own} {where}: {error['error']}")
    if error.get("fix"):
        yield "  " + t("fix: {fix}", fix=error["fix"])
    if error.get("kind") == "bug" and error.get("trace"):
        yield str(error["trace"]).rstrip()


def lines(answer: Mapping[str, Any], *, terminal: bool) -> Iterator[str]:
    """What was made, in a table and one sentence; where to look; what went wrong."""
    done = [step for step in answer["steps"] if step["state"] != "kept"]
    yield from _text.table(
        [t("step"), t("stage"), t("state"), t("time"), t("counts")],
        [
            [step["name"], step["stage"], t(step["state"]), _text.seconds(step.get("seconds")), counts_text(step)]
            for step in done
        ],
        terminal=terminal,
    )
    yield t(
        "Steps made: {ran}, kept as they were: {kept}, failed: {failed}. Time: {time}.",
        ran=answer["ran"],
        kept=answer["kept"],
        failed=answer["failed"],
        time=_text.seconds(answer["seconds"]),
    )
    for step in done:
        if step["stage"] == "publish" and step["state"] == "made":
            yield t("Published: {folder}", folder=f"public/{step['name']}/")


def counts_text(step: Mapping[str, Any]) -> str:
    """``items 312, duplicates 2, skipped 1``."""
    counts = step.get("counts") or {}
    named = [
        (t(name), value) for name, value in counts.items() if isinstance(value, int) and (value or name == "items")
    ]
    return ", ".join(f"{name} {value:,}" for name, value in named)
