"""Shows a run on stderr: live bars on a terminal, throttled lines with fixed fields elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from intaglio.cli import _output, _text
from intaglio.core.i18n import t

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

LINE_SECONDS = 5.0  # at most one line a step in this time
MEMORY_NUMBERS = ("mem", "memory", "bytes", "memory_bytes", "peak_bytes")
OWN_NUMBERS = ("seconds",)  # the runner's, shown as time left


def watcher() -> Watcher:
    """Bars where a person watches a terminal, lines everywhere else."""
    return BarWatcher() if sys.stderr.isatty() else Watcher()


def introduction(steps: Sequence[Mapping[str, Any]], device: str, device_reason: str) -> list[str]:
    """The first lines of a run: what it will do, what is made already, on which device and why."""
    todo = [step for step in steps if step.get("state") in ("new", "changed")]
    made = [step for step in steps if step.get("state") == "made"]
    blocked = [step for step in steps if step.get("state") == "blocked"]
    lines = []
    if todo:
        expected = sum(step.get("seconds") or 0 for step in todo)
        names = ", ".join(str(step["name"]) for step in todo)
        lines.append(t("To do: {names} (about {time})", names=names, time=_text.seconds(expected)))
    else:
        lines.append(t("Nothing to do: everything is made already."))
    if made and todo:
        lines.append(t("Made already: {names}", names=", ".join(str(step["name"]) for step in made)))
    for step in blocked:
        lines.append(t("Blocked: {name}: {reason}", name=step["name"], reason=step.get("reason", "")))
    if todo:
        lines.append(t("Device: {device} ({reason})", device=device, reason=device_reason))
    return [_text.clean(line) for line in lines]


def numbers_text(numbers: Mapping[str, Any]) -> list[str]:
    """Each number as a field: ``loss 0.4312``, ``182 img/s``, ``mem 2.1 GB``."""
    fields = []
    for name, value in numbers.items():
        if name in OWN_NUMBERS:
            continue
        if name in MEMORY_NUMBERS and isinstance(value, int | float):
            fields.append(f"mem {_text.size(value)}")
        elif "/" in name:
            fields.append(f"{_text.number(value)} {_text.clean(name)}")
        else:
            fields.append(f"{_text.clean(name)} {_text.shorten(_text.number(value), 40)}")
    return fields


def time_left(done: float, total: float, seconds: float) -> float | None:
    """Seconds left if it goes on as it went; None while nothing can be said."""
    return seconds * (total - done) / done if 0 < done <= total and seconds > 0 else None


def line(step: str, done: float, total: float, numbers: Mapping[str, Any]) -> str:
    """``writer | step 00120/01000 | loss 0.4312 | 182 img/s | eta 3.1 min | mem 2.1 GB``."""
    fields = [step, f"step {done:05.0f}/{total:05.0f}" if total else f"step {done:05.0f}"]
    named = numbers_text(numbers)
    memory = [field for field in named if field.startswith("mem ")]
    fields += [field for field in named if field not in memory]
    left = time_left(done, total, float(numbers.get("seconds", 0) or 0))
    fields += [f"eta {_text.seconds(left)}"] if left else []
    return " | ".join(fields + memory)


class Watcher:
    """Lines on stderr; also the base of the bars. Satisfies ``project.progress.Progress``."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def write(self, text: str) -> None:
        """One line for the person."""
        _output.write(text, error=True)

    def plan(self, steps: Sequence[Mapping[str, Any]], device: str, device_reason: str) -> None:
        """The first lines of a run."""
        for text in introduction(steps, device, device_reason):
            self.write(text)

    def started(self, step: str, note: str) -> None:
        """A step begins."""
        self.write(f"{step} | {t('started')}" + (f" | {_text.clean(note)}" if note else ""))

    def update(self, step: str, done: float, total: float, numbers: Mapping[str, Any]) -> None:
        """How far it is; most calls say nothing."""
        now = time.monotonic()
        if now - self._said.get(step, -LINE_SECONDS) >= LINE_SECONDS:
            self._said[step] = now
            self.write(line(step, done, total, numbers))

    def warned(self, step: str, message: str) -> None:
        """Something the person should know."""
        self.write(t("warning: {step}: {message}", step=step, message=_text.clean(message)))

    def finished(self, step: str, state: str, seconds: float) -> None:
        """A step ended; what was kept was said by the plan."""
        if state != "kept":
            self.write(f"{step} | {t(state)} | {_text.seconds(seconds)}")


class BarWatcher(Watcher):
    """One live bar for each running step, with the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console: Console = Console(stderr=True, highlight=False, markup=False)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def write(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(text)

    def started(self, step: str, note: str) -> None:
        """A bar appears."""
        assert self._bars is not None
        self._tasks[step] = self._bars.add_task(step, total=None, numbers=_text.clean(note))

    def update(self, step: str, done: float, total: float, numbers: Mapping[str, Any]) -> None:
        """The bar moves."""
        assert self._bars is not None
        if step not in self._tasks:
            self.started(step, "")
        left = time_left(done, total, float(numbers.get("seconds", 0) or 0))
        fields = numbers_text(numbers)
        fields += [t("{time} left", time=_text.seconds(left))] if left is not None else []
        self._bars.update(self._tasks[step], completed=done, total=total or None, numbers="  ".join(fields))

    def finished(self, step: str, state: str, seconds: float) -> None:
        """The bar becomes a line."""
        task = self._tasks.pop(step, None)
        if task is not None and self._bars is not None:
            self._bars.remove_task(task)
        super().finished(step, state, seconds)
