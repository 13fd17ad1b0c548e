"""A training step in several processes: started under torchrun on this machine, told and heard like one worker.

The launcher is the step's worker. Its child is torchrun's agent, whose children are the processes: number 0 runs the
step and speaks through the launcher; the others run the same code in scratch folders that begin as links to what number
0 prepared, make their share of each update, and sleep in between (``nn/parallel.py``). On Linux they are forked from
the agent, so that torch is read once for all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.core.registry import import_or_explain
from intaglio.project.call import StepCall

CALL, LOG, NOT_LINKED = "call.json", "processes.log", ".safetensors"
Event = dict[str, Any]


def check(processes: int, *, device: str, threads: int) -> None:
    """Errors: UserError where this machine cannot run so many side by side."""
    if processes <= 1:
        return
    if device == "cpu":
        most, what = threads, t("{count} processor cores", count=threads)
    else:
        torch = import_or_explain("torch", t("training"))
        most = torch.cuda.device_count()
        what = t("{count} GPUs", count=most)
    if processes > most:
        raise UserError(
            t("{count} processes were asked for, and there are {what}", count=processes, what=what),
            fix=t("--processes {count} at most", count=most),
        )


# -------------------------------------------------------------------------------------------------------- the launcher
class Launcher:
    """Starts the processes of one step and passes on what number 0 says; ``stop`` from any thread."""

    def __init__(self, call: StepCall, say: Any) -> None:
        self._call, self._say, self._stopping = call, say, False
        self._folder = Path(call.work) / "processes"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        (self._folder / CALL).write_text(json.dumps(call.to_json(), ensure_ascii=False), "utf-8")
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        environment = dict(os.environ) | {"INTAGLIO_TURNS": "1", "INTAGLIO_PROCESSES": str(self._folder)}
        if sys.platform == "linux":
            environment |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        code = f"from {__name__} import launch; launch({self._call.processes})"
        with (self._folder / LOG).open("wb") as log:  # what torchrun itself says is no text for people
            return subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,  # its end tells the agent that the launcher is gone
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
                encoding="utf-8",
            )

    def stop(self) -> None:
        """Ask all to stop; torchrun passes it on."""
        self._stopping = True
        self._process.send_signal(signal.SIGINT)

    def run(self) -> Event:
        """The last event of the step."""
        last: Event | None = None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] in ("done", "failed"):
                last = event
            else:
                self._say(event)
        self._process.wait()
        return self._settled(last)

    def _settled(self, last: Event | None) -> Event:
        """Number 0's answer; where it only lost another, that one's reason; where none spoke, the end of the log."""
        if last is not None and (last["event"] == "done" or last["kind"] != "lost"):
            return last
        if self._stopping:
            return _failed("interrupted", "interrupted")
        for path in sorted(self._folder.glob("failed-*.json")):
            event: Event = json.loads(path.read_text("utf-8"))
            if event["kind"] != "lost":
                return event
        text = t(
            "one of the {count} processes of the training ended, and the others with it", count=self._call.processes
        )
        fix = t("run it again: it goes on from its last state")
        if len(list(self._folder.glob("started-*"))) == self._call.processes:
            return _failed("died", text, fix=fix)  # killed from outside: the log of torchrun adds nothing
        with contextlib.suppress(OSError):
            log = (self._folder / LOG).read_text("utf-8", "replace").splitlines()
            return _failed("died", text, fix=fix, trace="\n".join(log[-40:]))
        return _failed("died", text)


def _failed(kind: str, error: str, *, fix: str = "", trace: str = "") -> Event:
    return {"event": "failed", "kind": kind, "error": error, "where": "", "fix": fix, "trace": trace}


def launch(processes: int) -> None:
    """The launcher's child: torchrun's agent, until all processes have ended."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is; a training asks for what it uses
    import_or_explain("intaglio.nn.parallel", t("training"))
    threading.Thread(target=_watch_launcher, daemon=True).start()
    under_torchrun(processes, main)


def under_torchrun(processes: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run a function in so many processes: what the command ``torchrun --standalone`` does with a program."""
    api = import_or_explain("torch.distributed.launcher.api", t("training"))
    config = api.LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="fork" if sys.platform == "linux" else "spawn",
    )
    api.elastic_launch(config, function)(*arguments)


def _watch_launcher() -> None:
    while os.read(0, 4096):
        pass
    os._exit(130)


# ------------------------------------------------------------------------------------------------- one of the processes
def main() -> None:
    """What torchrun's agent starts: one process of the step."""
    from intaglio.project import worker

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the agent's own are of no use here
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answers = worker.take_answers()
    threading.Thread(target=_watch_agent, args=(os.getppid(),), daemon=True).start()
    folder, rank = Path(os.environ["INTAGLIO_PROCESSES"]), int(os.environ["RANK"])
    call = StepCall.from_json(json.loads((folder / CALL).read_text("utf-8")))
    (folder / f"started-{rank}").write_text(str(os.getpid()), "utf-8")
    if call.device != "cpu":
        call = dataclasses.replace(call, device=f"cuda:{os.environ['LOCAL_RANK']}")
    parallel = import_or_explain("intaglio.nn.parallel", t("training"))
    world = parallel.join(parallel.torch.device(call.device))
    if rank:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # it may sleep where Python does not look
        _follow(call, world, folder, rank, parallel.Dismissed)
    else:
        lock = threading.Lock()

        def say(event: Event) -> None:
            with lock:
                answers.write(json.dumps(event, ensure_ascii=False, default=str) + "\n")
                answers.flush()

        try:
            event = worker.run(call, say)
        except KeyboardInterrupt:
            event = _failed("interrupted", "interrupted")
        say(event)
        if event["event"] == "failed":
            os._exit(1)  # the others may wait for a sum that never comes: torchrun ends them
        world.dismiss()


def _follow(call: StepCall, world: Any, folder: Path, rank: int, dismissed: type[BaseException]) -> None:
    """A process above 0: asleep until a training begins, then the same step in a folder of its own."""
    from intaglio.project import worker

    if not world.wait():
        return
    own = folder / f"rank-{rank}"
    link(Path(call.work) / "work", own / "work")
    try:
        event = worker.run(dataclasses.replace(call, work=str(own)), lambda event: None)
    except dismissed:
        return
    if event["event"] == "failed":
        path = folder / f"failed-{rank}.json"
        path.with_suffix(".part").write_text(json.dumps(event, ensure_ascii=False), "utf-8")
        path.with_suffix(".part").replace(path)
        os._exit(1)


def link(source: Path, target: Path) -> None:
    """What was prepared (not the states of the training) under a second name; copied where links are not possible."""
    for path in sorted(source.rglob("*")):
        if path.is_dir() or path.name.endswith((NOT_LINKED, ".part")):
            continue
        to = target / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, to)
        except OSError:
            shutil.copyfile(path, to)


def _watch_agent(agent: int) -> None:
    while os.getppid() == agent:
        time.sleep(0.2)
    os._exit(130)
