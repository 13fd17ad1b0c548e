"""One step in a process of its own: told by a JSON line on standard input, answering in JSON lines on standard output.

The process ends at once when its parent is gone (end of standard input), and at the next safe point when told to stop.
"""

from __future__ import annotations

import _thread
import errno
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.project.call import StepCall
from intaglio.project.machine import peak_bytes

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def take_answers() -> TextIO:
    """Standard output for answers alone; whatever a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return answers


def main() -> None:
    """Read a StepCall, run it, say what came of it; no traceback on standard error for a person's mistake."""
    answers = take_answers()
    lock = threading.Lock()

    def say(event: dict[str, Any]) -> None:
        with lock:
            answers.write(json.dumps(event, ensure_ascii=False, default=str) + "\n")
            answers.flush()

    call = StepCall.from_json(json.loads(sys.stdin.readline()))
    several = call.processes > 1 and call.stage == "models"
    if several:
        from intaglio.project.ranks import Launcher

        launcher = Launcher(call, say)
    stop = launcher.stop if several else _thread.interrupt_main
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    try:
        say(launcher.run() if several else run(call, say))
    except BrokenPipeError:
        os._exit(1)
    except KeyboardInterrupt:
        say({"event": "failed", "kind": "interrupted", "error": "interrupted", "where": "", "fix": "", "trace": ""})
    answers.flush()
    os._exit(0)  # daemon threads of libraries must not hold a finished step


def run(call: StepCall, say: Any) -> dict[str, Any]:
    """The last event of a step: ``done`` with the result, or ``failed`` with the reason."""
    from intaglio.project.stages import execute

    try:
        result = execute(call, say)
    except UserError as error:
        return {
            "event": "failed",
            "kind": "user",
            "error": error.what,
            "where": error.where,
            "fix": error.fix,
            "trace": "",
        }
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            return _disk_full(error)
        if is_out_of_memory(error):
            return _out_of_memory(error)
        return {
            "event": "failed",
            "kind": getattr(error, "kind", "bug"),
            "error": f"{type(error).__name__}: {error}",
            "where": "",
            "fix": "",
            "trace": traceback.format_exc(),
        }
    return {
        "event": "done",
        "outputs": result.outputs,
        "counts": result.counts,
        "metrics": result.metrics,
        "published": result.published,
        "peak_bytes": peak_bytes(),
    }


def _disk_full(error: OSError) -> dict[str, Any]:
    """No room on the disk is nobody's bug: how much is needed, where, and what to do."""
    need, free = getattr(error, "need", 0), getattr(error, "free", 0)
    if need:
        what = t("the disk is full: {need:.1f} MB are needed, {free:.1f} MB are free", need=need / 1e6, free=free / 1e6)
    else:
        what = t("the disk is full")
    fix = t("make room, then run it again: it goes on where it stopped")
    return {"event": "failed", "kind": "user", "error": what, "where": "", "fix": fix, "trace": ""}


def is_out_of_memory(error: BaseException) -> bool:
    """Of Python and NumPy, of torch on a GPU (told by name: no torch here), of torch on a CPU (a bare RuntimeError)."""
    named = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or named or "can't allocate memory" in str(error)


def _out_of_memory(error: BaseException) -> dict[str, Any]:
    what = t("there is not enough memory for it ({error})", error=" ".join(str(error).split())[:160])
    fix = t("make it smaller (batch, width, size_px, context), or close other programs, and run it again")
    return {"event": "failed", "kind": "user", "error": what, "where": "", "fix": fix, "trace": ""}


def _watch_parent(stop: Callable[[], None]) -> None:
    while line := sys.stdin.readline():
        if line.strip() == "stop":
            stop()
            threading.Timer(10.0, lambda: os._exit(130)).start()
    os._exit(130)
