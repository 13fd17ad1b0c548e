"""What the tests of the store share: the arguments of a step, and the way to run a worker process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")


def step(key: str, **changes: Any) -> dict[str, Any]:
    """Arguments of ``Ledger.begin``."""
    values: dict[str, Any] = {
        "key": key,
        "round": 1,
        "name": "essays",
        "stage": "data",
        "use": "folder",
        "config": {"path": "archive"},
        "seed": 7,
        "code": "c0de",
        "inputs": [],
        "environment": {"python": "3"},
        "device": "cpu",
        "threads": 1,
        "owner": "one",
    }
    return {**values, **changes}


def done(**changes: Any) -> dict[str, Any]:
    """Arguments of ``Ledger.finish``."""
    return {"outputs": {}, "counts": {}, "metrics": {}, "seconds": 1.0, "peak_bytes": 1, **changes}


def environment() -> dict[str, str]:
    """For subprocesses: the package under test must be found there as well."""
    source = Path(__file__).parents[2] / "src"
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])}


def worker(*arguments: object) -> subprocess.Popen[str]:
    """Start ``worker.py`` with these arguments; it talks over pipes."""
    command = [sys.executable, WORKER, *map(str, arguments)]
    return subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
