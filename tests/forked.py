"""Processes for tests that train: forked from a server that has imported torch, so that each starts at once.

They are processes like any others: with a pid, killed by a signal, of one thread when they begin. A test process keeps
one server, started when first asked; what a training stands on is imported there, nothing of it is used yet.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from intaglio.project.ranks import under_torchrun

ROOT = Path(__file__).parent.parent
MODELS = "codes finetune flow gan gpt music sound vae video vq".split()
IMPORTED = ["torch.distributed.launcher.api", "peft", *(f"intaglio.models.{name}" for name in MODELS)]
OWN = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}


class Forked:
    """A process on its way; ``pid``, ``poll``, ``wait`` and ``send_signal`` as of ``subprocess.Popen``."""

    def __init__(self, call: Callable[..., None], *arguments: Any) -> None:
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._told = [Path(folder) / name for name in ("out", "errors")]
        around, forking = {**os.environ, **OWN}, multiprocessing.get_context("forkserver")
        forking.set_forkserver_preload(IMPORTED)
        before = dict(os.environ)
        os.environ.update(OWN)  # the first of them starts the server, which reads its number of threads there
        try:
            self._process = forking.Process(target=_begin, args=(call, arguments, around, self._told))
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        self._process.join(0)
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"not done after {timeout} s: {self.errors[-2000:]}")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def out(self) -> str:
        return self._told[0].read_text("utf-8") if self._told[0].exists() else ""

    @property
    def errors(self) -> str:
        return self._told[1].read_text("utf-8") if self._told[1].exists() else ""


def _begin(call: Callable[..., None], arguments: tuple[Any, ...], around: dict[str, str], told: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(around)
    os.chdir(ROOT)
    for number, path in zip((1, 2), told, strict=True):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    call(*arguments)


def start(source: str, *arguments: str) -> Forked:
    """``python -c source arguments``, on its way."""
    return Forked(_execute, source, arguments)


def _execute(source: str, arguments: Sequence[str]) -> None:
    sys.argv = ["-c", *arguments]
    exec(compile(source, "<test>", "exec"), {"__name__": "__main__"})


def _run_module(module: str, arguments: Sequence[str]) -> None:
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run(
    module: str, arguments: Sequence[str], *, processes: int = 1, timeout: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """``python -m module arguments``, or that under torchrun in as many processes, to its end."""
    if processes > 1:
        process = Forked(under_torchrun, processes, _run_module, module, arguments)
    else:
        process = Forked(_run_module, module, arguments)
    code = process.wait(timeout)
    return subprocess.CompletedProcess([module, *arguments], code, process.out, process.errors)
