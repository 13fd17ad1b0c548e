"""What a training knows of itself, and the files it goes on from after a kill: ``good``, ``last`` and ``best``.

A full disk does not end a training: what cannot be written is said, the last whole state stays, and the next save tries
again. Before the start it is asked whether the states will fit at all.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from intaglio.nn.checkpoint import (
    FULL,
    DiskFull,
    load_tensors,
    pack_optimizers,
    read_meta,
    save_tensors,
    unpack_optimizers,
)
from intaglio.nn.device import environment
from intaglio.nn.ema import Ema
from intaglio.nn.trained import Trained


@dataclass
class State:
    """What a training has to know besides weights, optimizer state and average."""

    step: int = 0
    done: Trained = field(default_factory=Trained)
    learning_rate: float = 1.0
    first: float | None = None  # first loss, its running mean and that mean's lowest value: to notice divergence
    mean: float | None = None
    lowest: float | None = None
    since: list[float] = field(default_factory=list)  # losses since the last point of the curve
    reference: float | None = None  # mean held-out loss of the state last found better, its step, how often since then
    reference_step: int = 0  # a state was found worse
    waited: int = 0


@dataclass
class Keeper:
    """Writes and reads resumable states: ``good`` at each evaluation, ``last`` by the clock, ``best`` weights alone.

    units: the held-out losses, one a unit, of the state last found better; kept with every state.
    extra: what bits depend on besides ``nn.device.environment``.
    """

    work: Path
    model: nn.Module
    optimizers: list[Optimizer]
    averaged: Ema | None
    identity: dict[str, Any]
    warn: Callable[[str], None]
    say: Callable[..., str]
    extra: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.environment = self._environment()
        self.units: Tensor | None = None
        self.held_best: dict[str, Tensor] | None = None  # best weights that the disk had no room for

    def _environment(self) -> dict[str, str | int]:
        return {**environment(str(self.device)), **self.extra}

    def path(self, name: str) -> Path:
        return self.work / f"{name}.safetensors"

    # ------------------------------------------------------------------------------------------------ room on the disk
    def bytes_needed(self) -> int:
        """What the states will take at most: three, and one that is being written."""
        weights = sum(value.numel() * value.element_size() for value in self.model.state_dict().values())
        trained = sum(p.numel() * p.element_size() for p in self.model.parameters() if p.requires_grad)
        averages = trained if self.averaged else 0
        return 3 * (weights + 2 * trained + averages) + weights  # good, last, one in the making; best is weights alone

    def check_room(self) -> None:
        """Errors: DiskFull before any work where the states cannot fit."""
        self.work.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for name in ("good", "last", "best") if (path := self.path(name)).exists())
        need, free = self.bytes_needed() - there, shutil.disk_usage(self.work).free
        if need > free:
            text = "the states of this training take {need} MB on disk, and {free} MB are free"
            sentence = self.say(text, need=-(-need // 10**6), free=free // 10**6)
            raise DiskFull(errno.ENOSPC, sentence, str(self.work), need=need, free=free)

    def _written(self, name: str, step: int, write: Callable[[], None]) -> bool:
        """False where the disk is too full; the file from before is whole."""
        try:
            write()
        except OSError as error:
            if error.errno not in FULL:
                raise
            text = "the disk is full: the state of step {step} ({name}) could not be written. Training goes on and "
            text += "tries again; until then a stop goes back to the last state written"
            self.warn(self.say(text, step=step, name=name))
            return False
        return True

    # ------------------------------------------------------------------------------------------------ writing, reading
    def save(self, name: str, state: State) -> None:
        tensors, numbers = pack_optimizers(self.optimizers)
        tensors |= {f"model.{key}": value for key, value in self.model.state_dict().items()}
        if self.averaged:
            tensors |= {f"ema.{key}": value for key, value in self.averaged.state().items()}
        if self.units is not None:
            tensors["units.reference"] = self.units
        if self.held_best is not None:
            self._write_best(state.step)
        meta: dict[str, Any] = {"identity": self.identity, "environment": self.environment, "state": asdict(state)}
        meta |= {"numbers": numbers, "updates": self.averaged.updates if self.averaged else 0}
        self._written(name, state.step, lambda: save_tensors(self.path(name), tensors, meta))

    def newest(self) -> tuple[str, dict[str, Any]] | None:
        """Name and meta of the state of this run that is furthest on; damaged and strange ones do not count."""
        found = []
        for name in ("good", "last"):
            try:
                meta = read_meta(self.path(name))
            except (FileNotFoundError, ValueError):
                continue
            if meta.get("identity") == self.identity:
                found.append(((meta["state"]["done"]["rollbacks"], meta["state"]["step"]), name, meta))
        return max(found)[1:] if found else None

    def can_go_back(self) -> bool:
        """True where ``good`` is of this run: after a full disk it may not be."""
        try:
            return read_meta(self.path("good")).get("identity") == self.identity
        except (FileNotFoundError, ValueError):
            return False

    def load(self, name: str) -> State:
        """Put back weights, optimizer state and average; the rest is returned."""
        tensors, meta = load_tensors(self.path(name), device=str(self.device))
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "units": {}}
        for key, value in tensors.items():
            part, _, rest = key.partition(".")
            if part in parts:
                parts[part][rest] = value
        self.model.load_state_dict(parts["model"])
        unpack_optimizers(self.optimizers, tensors, meta["numbers"])
        if self.averaged:
            self.averaged.load(parts["ema"], updates=meta["updates"])
        units = parts["units"].get("reference")
        self.units = None if units is None else units.cpu()
        state = State(**meta["state"])
        state.done = Trained(**meta["state"]["done"])
        return state

    def save_best(self, step: int) -> None:
        """The weights as they are now; kept in memory until there is room for them."""
        self.held_best = dict(self.model.state_dict())
        if not self._write_best(step):
            self.held_best = {key: value.detach().cpu().clone() for key, value in self.held_best.items()}

    def _write_best(self, step: int) -> bool:
        tensors, meta = self.held_best or {}, {"identity": self.identity}
        if self._written("best", step, lambda: save_tensors(self.path("best"), tensors, meta)):
            self.held_best = None
            return True
        return False

    def load_best(self) -> None:
        best = self.held_best or load_tensors(self.path("best"), device=str(self.device))[0]
        self.model.load_state_dict(best)

    # ------------------------------------------------------------------------------------------ the same bits as before
    def enforce(self, before: Mapping[str, Any]) -> str:
        """Set this machine up as the state's was: the number of threads. What cannot be set is returned as text."""
        threads, now = before.get("threads"), self.environment
        alike = before.get("processes") == now.get("processes") and self.device.type == "cpu"
        if isinstance(threads, int) and alike and threads != now.get("threads"):
            torch.set_num_threads(max(1, threads))
        self.environment = now = self._environment()
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        return ", ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in changed)
