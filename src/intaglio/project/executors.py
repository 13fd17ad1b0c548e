"""Where a step runs: in this process, or in a local worker process. Ray comes as one more function of this shape."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from intaglio.project import worker
from intaglio.project.call import StepCall

Event = dict[str, Any]


class Running(Protocol):
    """A step under way."""

    def stop(self) -> None:
        """Ask it to stop at the next safe point."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...


class Executor(Protocol):
    """Starts a step; every event goes into ``events`` as (step name, event), the last one ``done`` or ``failed``."""

    def __call__(self, call: StepCall, events: queue.Queue[tuple[str, Event]]) -> Running: ...


class _Process:
    def __init__(self, call: StepCall, events: queue.Queue[tuple[str, Event]]) -> None:
        environment = dict(os.environ)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(call.threads)
        environment["TOKENIZERS_PARALLELISM"] = "false"
        if "OMP_WAIT_POLICY" not in environment:  # idle threads spin a moment only, or they would stop the step beside
            environment.setdefault("GOMP_SPINCOUNT", "1000")
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self._telling = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {worker.__name__} import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C in the terminal reaches the runner, which then tells us
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(call.to_json(), ensure_ascii=False) + "\n")
        self._process.stdin.flush()
        threading.Thread(target=self._pump, args=(call.name, events), daemon=True).start()

    def _pump(self, name: str, events: queue.Queue[tuple[str, Event]]) -> None:
        last = ""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            last = event["event"]
            events.put((name, event))
        self._process.stdout.close()
        code = self._process.wait()
        with self._telling:
            assert self._process.stdin is not None
            self._process.stdin.close()
        if last not in ("done", "failed"):
            reason = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
            hint = " (out of memory?)" if code == -9 else ""
            events.put(
                (name, {"event": "failed", "kind": "died", "error": reason + hint, "where": "", "fix": "", "trace": ""})
            )

    def stop(self) -> None:
        with self._telling:
            assert self._process.stdin is not None
            if self._process.stdin.closed:
                return
            try:
                self._process.stdin.write("stop\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                return  # it ended in this moment

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def local_process(call: StepCall, events: queue.Queue[tuple[str, Event]]) -> Running:
    """Run the step in a process of its own on this machine."""
    return _Process(call, events)


class _Here:
    def stop(self) -> None: ...
    def kill(self) -> None: ...


def in_process(call: StepCall, events: queue.Queue[tuple[str, Event]]) -> Running:
    """Run the step here and now (notebooks, debuggers); returns when it is done."""
    say: Callable[[Event], None] = lambda event: events.put((call.name, event))  # noqa: E731
    events.put((call.name, worker.run(call, say)))
    return _Here()
