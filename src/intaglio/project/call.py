"""What a worker is told and what it answers: plain picklable values, so that any executor can carry them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepInput:
    """One input of a step: the made step behind a role. outputs: role to artifact id."""

    role: str
    name: str
    key: str
    stage: str
    use: str
    config: Mapping[str, Any]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class StepCall:
    """Everything a step needs to run; paths are of this machine and are not stored.

    archive:   ids of the data collections upstream (what a critic compares with).
    processes: how many share a training; what is made does not depend on it, but for the last digits.
    """

    project: str
    store: str
    ledger: str
    work: str
    name: str
    stage: str
    use: str
    key: str
    config: Mapping[str, Any]
    seed: int
    device: str
    threads: int
    offline: bool
    languages: Sequence[str]
    inputs: Sequence[StepInput]
    archive: Sequence[str] = ()
    blocked: Sequence[str] = ()
    allow_unknown: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> StepCall:
        """The inverse of ``to_json``."""
        inputs = [StepInput(**each) for each in values["inputs"]]
        return StepCall(**{**values, "inputs": inputs})


@dataclass(frozen=True)
class StepResult:
    """What a step made: artifact ids by role, counts, metrics; ``published`` rows for a publish step."""

    outputs: dict[str, str]
    counts: dict[str, int]
    metrics: dict[str, Any]
    published: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
