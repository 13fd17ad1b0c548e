"""What a run tells whoever watches it: a protocol, and a watcher that says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Progress(Protocol):
    """Receives the course of a run; called from one thread."""

    def plan(self, steps: Sequence[Mapping[str, Any]], device: str, device_reason: str) -> None:
        """Before any work: every step with its state, reason and expected time."""
        ...

    def started(self, step: str, note: str) -> None: ...

    def update(self, step: str, done: float, total: float, numbers: Mapping[str, Any]) -> None:
        """How far a step is (``total`` 0: not known); ``numbers``: what it wants shown, ``seconds`` since its start."""
        ...

    def warned(self, step: str, message: str) -> None: ...

    def finished(self, step: str, state: str, seconds: float) -> None:
        """``state`` is ``made``, ``kept``, ``failed`` or ``blocked``."""
        ...


class Silent:
    """A watcher for notebooks and tests."""

    def plan(self, steps: Sequence[Mapping[str, Any]], device: str, device_reason: str) -> None: ...
    def started(self, step: str, note: str) -> None: ...
    def update(self, step: str, done: float, total: float, numbers: Mapping[str, Any]) -> None: ...
    def warned(self, step: str, message: str) -> None: ...
    def finished(self, step: str, state: str, seconds: float) -> None: ...
