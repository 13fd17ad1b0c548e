"""How long trainings took on this machine beside what was foretold of them; the next estimate is corrected by it.

A component foretells from operations and a second's measure of speed. What a machine does slowly besides, and what
others on it take away, only whole trainings show.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from intaglio.core.folders import cache_folder, remember, remembered
from intaglio.project import machine

KEPT = 8  # last trainings of each component
MOST = 4.0  # times as long, or as short; beyond it something else happened


def corrected(use: str, seconds: float, *, device: str, threads: int) -> float:
    """Foretold seconds, times the median of what the last trainings by ``use`` took of theirs; where there was none
    yet, of all components' medians, and as they are where nothing was ever trained here."""
    known = remembered(_path()).get(machine.kind(device, threads), {})
    return seconds * _ratio(known, use)


def learn(use: str, foretold: float, took: float, *, device: str, threads: int) -> None:
    """Remember a whole training: seconds that the component foretold, uncorrected, and that it took."""
    if foretold <= 0.0 or took <= 0.0:
        return
    known = remembered(_path())
    here = known.setdefault(machine.kind(device, threads), {})
    ratio = min(MOST, max(1.0 / MOST, took / foretold))
    here[use] = [*here.get(use, []), round(ratio, 4)][-KEPT:]
    remember(_path(), known)


def _ratio(known: dict[str, Any], use: str) -> float:
    own = known.get(use) or [statistics.median(each) for each in known.values()]
    return float(statistics.median(own)) if own else 1.0


def _path() -> Path:
    return cache_folder("machine") / "foretold.json"
