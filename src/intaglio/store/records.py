"""What the ledger hands out: plain records of steps, artifacts, published files and blocks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from intaglio.core.errors import IntaglioError


class LeaseLost(IntaglioError):
    """Another process took this step over (its lease had run out); what was made here does not count."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One run of a step. state: ``running``, ``made`` or ``failed``; outputs: role to artifact id; times in UTC."""

    id: int
    key: str
    round: int
    name: str
    stage: str
    use: str
    state: str
    config: dict[str, Any]
    seed: int
    code: str
    inputs: list[dict[str, Any]]
    outputs: dict[str, str]
    counts: dict[str, Any]
    metrics: dict[str, Any]
    environment: dict[str, Any]
    device: str
    threads: int
    started: str
    ended: str | None
    seconds: float | None
    peak_bytes: int | None
    error: str | None
    blocked: bool
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One thing made. kind: collection, tree, rows, piece, publication, rating, post or file."""

    id: str
    kind: str = "file"
    media: str = ""
    bytes: int = 0
    meta: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One published file. sidecar_sha256 is empty where the credentials are inside; pieces: ids of what it shows."""

    step_id: int
    path: str
    sha256: str
    unsigned_sha256: str
    sidecar_sha256: str
    produce_id: str
    pieces: list[str]
    mime: str
    title: str
    created: str = ""


@dataclass(frozen=True, slots=True)
class BlockRow:
    """One forgotten item: never to be used again. steps: names of the steps it had touched."""

    item: str
    origin: str
    reason: str
    steps: list[str]
    created: str


def utc_now() -> str:
    """The time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_json(value: Any) -> str:
    """Plain data as ASCII JSON that every database keeps; a number that is not finite becomes null (not assessed)."""
    return json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(text: str) -> str:
    """Text that every database keeps: NUL and lone surrogates become the replacement character."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
