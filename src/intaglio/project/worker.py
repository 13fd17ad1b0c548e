"""One step in a process of its own: told by a JSON line on standard input, answering in JSON lines on standard output.

The process ends at once when its parent is gone (end of standard input), and at the next safe point when told to stop.
"""

from __future__ import annotations

import _thread
import json
import os
import sys
import threading
import traceback
from typing import Any

from intaglio.core.errors import UserError
from intaglio.project.call import StepCall
from intaglio.project.machine import peak_bytes


def main() -> None:
    """Read a StepCall, run it, say what came of it; no traceback on standard error for a person's mistake."""
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    lock = threading.Lock()

    def say(event: dict[str, Any]) -> None:
        with lock:
            answers.write(json.dumps(event, ensure_ascii=False, default=str) + "\n")
            answers.flush()

    call = StepCall.from_json(json.loads(sys.stdin.readline()))
    threading.Thread(target=_watch_parent, daemon=True).start()
    try:
        say(run(call, say))
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
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return {
            "event": "failed",
            "kind": "bug",
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


def _watch_parent() -> None:
    while line := sys.stdin.readline():
        if line.strip() == "stop":
            _thread.interrupt_main()
            threading.Timer(10.0, lambda: os._exit(130)).start()
    os._exit(130)
