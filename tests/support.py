"""Real, small stand-ins that tests of every stage share: a Context over real files, and a Dataset over a list.

``RunContext`` behaves like the runner's context: what is put is stored by content below ``<root>/blobs``, findings,
metrics, warnings and previews are kept in lists so that a test can look at them.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from intaglio.core.contracts import FileRef, Finding, Item, Skip, SourceInfo, Trace
from intaglio.core.hashing import sha256_bytes, sha256_file
from tests import forked

DEVICE = os.environ.get("INTAGLIO_TEST_DEVICE", "cpu")  # of models: also cuda (CONTRIBUTING.md)

on_cpu = pytest.mark.skipif(DEVICE != "cpu", reason="says something of the CPU alone")


class RunContext:
    """``core.contracts.Context`` over real files below ``root``; ``project`` is ``root/project`` unless given."""

    def __init__(
        self,
        root: Path,
        *,
        seed: int = 7,
        step: str = "step",
        device: str = DEVICE,
        threads: int = 1,
        offline: bool = True,
        project: Path | None = None,
        languages: Sequence[str] = ("en", "zh"),
        traces: Mapping[str, Trace] | None = None,
        inputs: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.root = root
        self.step, self.seed, self.device, self.threads, self.offline = step, seed, device, threads, offline
        self.out, self.work, self.blobs = root / "out", root / "work", root / "blobs"
        self.project = project or root / "project"
        self.languages = tuple(languages)
        self.inputs, self.settings = dict(inputs or {}), dict[str, Any]()
        for folder in (self.out, self.work, self.blobs, self.project):
            folder.mkdir(parents=True, exist_ok=True)
        self.progressed: list[tuple[float, float, dict[str, float | str]]] = []
        self.warnings: list[str] = []
        self.findings: list[Finding] = []
        self.metrics: dict[str, Any] = {}
        self.previews: dict[str, bytes] = {}
        self.curves: list[tuple[int, dict[str, float]]] = []
        self.traces = dict(traces or {})

    def progress(self, done: float, total: float, **numbers: float | str) -> None:
        self.progressed.append((done, total, numbers))

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    def find(self, finding: Finding) -> None:
        self.findings.append(finding)

    def metric(self, **values: Any) -> None:
        self.metrics.update(values)

    def curve(self, step: int, **values: float) -> None:
        self.curves.append((step, values))

    def preview(self, name: str, data: bytes) -> None:
        self.previews[name] = data

    def put(self, data: bytes | Path, *, name: str, mime: str) -> FileRef:
        sha256 = sha256_file(data) if isinstance(data, Path) else sha256_bytes(data)
        target = self.blobs / sha256[:2] / sha256[2:]
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            partial = target.with_name(f"{target.name}.{os.getpid()}")
            if isinstance(data, Path):
                shutil.copyfile(data, partial)
            else:
                partial.write_bytes(data)
            partial.replace(target)
        return FileRef(name=name, sha256=sha256, size_bytes=target.stat().st_size, mime=mime)

    def path(self, file: FileRef) -> Path:
        return self.blobs / file.sha256[:2] / file.sha256[2:]

    def trace(self, item: Item) -> Trace:
        """The trace given for this item at construction; else one that names the item's parents and nothing more."""
        known = self.traces.get(item.id)
        parents = tuple(SourceInfo(p, "", item.license, item.consent, direct=True) for p in item.parents)
        return known if known is not None else Trace(sources=parents, models=(), steps=())


class ItemList:
    """``core.contracts.Dataset`` over items that lie in memory."""

    def __init__(self, items: Iterable[Item]) -> None:
        self.items = tuple(items)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def split(self, name: str) -> ItemList:
        return ItemList(item for item in self.items if item.split == name)

    def of(self, *media: str) -> ItemList:
        return ItemList(item for item in self.items if item.media in media)


def kept(results: Iterable[Item | Skip]) -> list[Item]:
    """Only the items of what a source or transform yielded."""
    return [each for each in results if isinstance(each, Item)]


def skips(results: Iterable[Item | Skip]) -> list[Skip]:
    """Only the skips of what a source or transform yielded."""
    return [each for each in results if isinstance(each, Skip)]


# ------------------------------------------------------------------------------------------------ killed in the middle
def train_apart(
    test_file: str, call: str, root: Path, *, kill_at: str = "", beyond: int = 10, pause: float = 0.0
) -> None:
    """Run ``call``, a training in Python over the names of ``test_file`` and ``root``, in a process of its own.

    kill_at: a state of the loop below ``root``; once it is beyond that step, ``pause`` seconds later, SIGKILL comes.
    """
    here = Path(test_file)
    paths = [str(here.parent), str(Path(__file__).parent.parent), *sys.path]
    start = f"import sys; sys.path[:0] = {paths!r}\nfrom pathlib import Path\nfrom {here.stem} import *\n"
    start += f"root = Path({str(root)!r})\n{call}"
    process = forked.start(start)
    if kill_at:
        while process.poll() is None and not _step(root / kill_at) > beyond:
            time.sleep(0.02)
        time.sleep(pause)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
    assert process.wait(timeout=300) == 0 or kill_at, process.errors


def _step(path: Path) -> int:
    from intaglio.nn.checkpoint import load_tensors

    try:
        return int(load_tensors(path)[1]["state"]["step"])
    except (ValueError, FileNotFoundError):
        return 0


def assert_same_files(one: Path, other: Path) -> None:
    """Both folders hold the same names and bytes."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        if (one / name).is_file():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
