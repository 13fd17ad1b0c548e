"""No-op rerun of a project with 100,000 files, beside DVC on the same folder: ``python bench/rerun.py``.

Measures whole processes, five runs after one: ``intaglio run --json`` with nothing changed, and ``dvc status``. Then a
file is changed in place (same size), one is added, one removed, and each has to be noticed. DVC is installed into an
environment of its own in the user's cache, unless ``--no-peer`` is given.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _common as common

DVC = "3.67.1"
PROJECT = '[data.notes]\nuse = "folder"\npath = "notes"\nlicense = "CC0-1.0"\n'
RUNS = 5


def intaglio(folder: Path, *words: str) -> dict[str, Any]:
    """One command of ours as a process of its own; its JSON answer."""
    command = [sys.executable, "-c", "import sys; from intaglio.cli.main import main; sys.exit(main())"]
    done = subprocess.run([*command, "-C", str(folder), *words, "--json"], capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def times(call: Any) -> list[float]:
    """Seconds of RUNS calls after one that is not counted."""
    found = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found[1:]


def write_files(folder: Path, count: int) -> None:
    """``count`` short distinct texts in folders of a thousand."""
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:03d}").mkdir(parents=True)
        text = f"Note {number}: on day {number % 365} the press printed sheet {number * 7919 % 100_003}.\n"
        (folder / f"{number // 1000:03d}" / f"{number:06d}.txt").write_text(text, "utf-8")


def noticed(folder: Path) -> dict[str, bool]:
    """Whether a change in place, an added and a removed file are each seen by ``plan``; undone in between."""

    def changed() -> bool:
        return bool(intaglio(folder, "plan")["steps"][0]["state"] == "changed")

    victim = folder / "notes" / "050" / "050500.txt"
    before = victim.read_bytes()
    victim.write_bytes(before.replace(b"press", b"plate"))
    in_place = changed()
    victim.write_bytes(before)
    added = folder / "notes" / "050" / "new.txt"
    added.write_text("one more\n", "utf-8")
    more = changed()
    added.unlink()
    victim.unlink()
    less = changed()
    victim.write_bytes(before)
    return {"changed_in_place": in_place, "added": more, "removed": less, "unchanged_again": not changed()}


def dvc(folder: Path) -> list[float]:
    """Seconds of ``dvc status`` on the same folder."""
    program = Path(common.peer_python(f"dvc=={DVC}")).parent / "dvc"
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}

    def call(*words: str) -> None:
        subprocess.run([program, *words], cwd=folder, check=True, capture_output=True, env=environment)

    call("init", "--no-scm")
    call("config", "core.check_update", "false")
    call("add", "notes")
    return times(lambda: call("status"))


def main() -> None:
    """Measure and write the result."""
    parser = common.parser(__doc__, files=100_000)
    parser.add_argument("--no-peer", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.files = 51_000  # the file that ``noticed`` changes is among them
    result = common.surroundings(options, ("files",), dvc=DVC)
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        write_files(folder / "notes", options.files)
        (folder / "intaglio.toml").write_text(PROJECT, "utf-8")
        start = time.perf_counter()
        first = intaglio(folder, "run")
        ingest = time.perf_counter() - start
        assert first["ran"] == 1, first
        ours = times(lambda: intaglio(folder, "run"))
        assert intaglio(folder, "run")["kept"] == 1
        result |= {"ours_s": common.spread(ours), "first_run_s": round(ingest, 1), "noticed": noticed(folder)}
        peer = None if options.no_peer else dvc(folder)
    got = None
    if peer:
        result["dvc_s"] = common.spread(peer)
        middle = statistics.median(ours)
        got = common.spread([seconds / middle for seconds in peer])
    work = f"run with nothing to do, {options.files:,} files: how much faster"
    common.keep(result, options, rows=[common.row(work, f"DVC {DVC} status", got, 1.0)])


if __name__ == "__main__":
    main()
