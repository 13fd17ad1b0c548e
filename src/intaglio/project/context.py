"""The Context a component runs with: seed, device, folders, store access, and a voice."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from intaglio.core.contracts import FileRef, Finding, Inputs, Item, Trace
from intaglio.project.curves import Curves
from intaglio.store import Store

Say = Callable[[dict[str, Any]], None]
PROGRESS_EVERY_S = 0.2


class StepContext:
    """Implements ``core.contracts.Context`` over a store; ``say`` receives events as plain dicts."""

    def __init__(self, *, call: Any, store: Store, say: Say, tracer: Callable[[Item], Trace]) -> None:
        self.step: str = call.name
        self.seed: int = call.seed
        self.device: str = call.device
        self.threads: int = call.threads
        self.offline: bool = call.offline
        self.project = Path(call.project)
        self.languages: tuple[str, ...] = tuple(call.languages)
        self.settings: Mapping[str, Any] = dict(call.settings)  # name, title, author: exporters sign with them
        self.work = Path(call.work) / "work"
        self.out = Path(call.work) / "out"
        self.work.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        self.inputs: Inputs = {}
        self.metrics: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.findings: list[Finding] = []
        self._store = store
        self._say = say
        self._tracer = tracer
        self._told = 0.0
        self._previews = Path(call.work) / "previews"
        self._curves = Curves(Path(call.store) / "tensorboard" / call.name / call.key[:8])

    def progress(self, done: float, total: float, **numbers: float | str) -> None:
        """See ``core.contracts.Context``."""
        now = time.monotonic()
        if now - self._told >= PROGRESS_EVERY_S or 0 < total <= done:
            self._told = now
            self._say({"event": "progress", "done": done, "total": total, "numbers": numbers})

    def warn(self, message: str) -> None:
        """See ``core.contracts.Context``."""
        if message not in self.warnings:
            self.warnings.append(message)
            self._say({"event": "warning", "message": message})

    def find(self, finding: Finding) -> None:
        """See ``core.contracts.Context``."""
        self.findings.append(finding)

    def metric(self, **values: Any) -> None:
        """See ``core.contracts.Context``."""
        self.metrics.update(values)

    def curve(self, step: int, **values: float) -> None:
        """See ``core.contracts.Context``: event files below ``.intaglio/tensorboard/<step>/``, one folder a key."""
        self._curves.add(step, values)

    def preview(self, name: str, data: bytes) -> None:
        """See ``core.contracts.Context``."""
        self._previews.mkdir(parents=True, exist_ok=True)
        safe = Path(name).name
        temp = self._previews / f".{safe}.part"
        temp.write_bytes(data)
        temp.replace(self._previews / safe)

    def put(self, data: bytes | Path, *, name: str, mime: str) -> FileRef:
        """See ``core.contracts.Context``."""
        if isinstance(data, Path):
            sha = self._store.blobs.put_file(data)
            return FileRef(Path(name).name, sha, self._store.blobs.size(sha), mime)
        return FileRef(Path(name).name, self._store.blobs.put_bytes(data), len(data), mime)

    def path(self, file: FileRef) -> Path:
        """See ``core.contracts.Context``."""
        return self._store.blobs.path(file.sha256)

    def trace(self, item: Item) -> Trace:
        """See ``core.contracts.Context``."""
        return self._tracer(item)

    def keep_previews(self) -> None:
        """Live samples become part of what the step made (``previews/`` below ``out``)."""
        if self._previews.is_dir():
            shutil.copytree(self._previews, self.out / "previews", dirs_exist_ok=True)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as plain JSON: numbers that are not finite become None ("unknown")."""

    def one(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): one(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [one(v) for v in value]
        if isinstance(value, bool | int | str) or value is None:
            return value
        if hasattr(value, "item"):
            value = value.item()
        if isinstance(value, float):
            return value if value == value and abs(value) != float("inf") else None
        return value if isinstance(value, int | str) else str(value)

    return {str(k): one(v) for k, v in values.items()}
