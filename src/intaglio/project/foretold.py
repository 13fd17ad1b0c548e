"""How long trainings took on this machine beside what was foretold of them; the next estimate is corrected by it.

A component foretells from operations and a second's measure of speed. What a machine does slowly besides, and what
others on it take away, only whole trainings show.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from intaglio.core.folders import cache_folder, numbers, remember, remembered
from intaglio.project import machine

KEPT = 8  # last trainings of each component
MOST = 4.0  # times as long, or as short; beyond it something else happened


def corrected(use: str, seconds: float, *, device: str, threads: int) -> float:
    """Foretold seconds, times the median of what the last trainings by ``use`` took of theirs; where there was none
    yet, of all components' medians, and as they are where nothing was ever trained here."""
    return seconds * _ratio(_known(device, threads), use)


def learn(use: str, foretold: float, took: float, *, device: str, threads: int) -> None:
    """Remember a whole training: seconds that the component foretold, uncorrected, and that it took."""
    if foretold <= 0.0 or took <= 0.0:
        return
    here = _known(device, threads)
    here[use] = [*here.get(use, []), round(_bounded(took / foretold), 4)][-KEPT:]
    remember(_path(), {**remembered(_path()), machine.kind(device, threads): here})


def _known(device: str, threads: int) -> dict[str, list[float]]:
    """The ratios of each component on this machine."""
    found = remembered(_path()).get(machine.kind(device, threads))
    rows = {use: numbers(each) for use, each in found.items()} if isinstance(found, dict) else {}
    return {use: row for use, row in rows.items() if row}


def _ratio(known: dict[str, list[float]], use: str) -> float:
    own = known.get(use) or [statistics.median(each) for each in known.values()]
    return _bounded(statistics.median(own)) if own else 1.0


def _bounded(ratio: float) -> float:
    return min(MOST, max(1.0 / MOST, ratio))


def _path() -> Path:
    return cache_folder("machine") / "foretold.json"
