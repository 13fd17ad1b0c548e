"""Compiled training steps, for trainings long enough to give back what compiling costs; ``nn.device.worth_compiling``.

Only the steps: judging, drawing and saving call the same modules as they are, in any shape, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.nn.device import missing_for_compiling, worth_compiling

Loss = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Step:
    """What ``nn.loop.train`` takes: the loss, and facts for its ``identity`` and the ledger, none where nothing is
    compiled: compiled steps differ from others in their last bits."""

    loss: Loss
    facts: Mapping[str, Any] = field(default_factory=dict)


def step_of(
    loss: Loss,
    modules: Sequence[nn.Module],
    *,
    seconds: float,
    device: str,
    warn: Callable[[str], None],
    say: Callable[..., str] = str.format,
) -> Step:
    """``loss`` with these of the modules it calls compiled, where that pays.

    Args:
        seconds: the training is expected to take, by its estimate; never by a clock: a resumed one must answer alike.
        warn:    told where it would pay and cannot be: no C++ compiler.
    """
    if not worth_compiling(seconds, device):
        missing = missing_for_compiling()
        if missing and worth_compiling(seconds, device, possible=True):
            text = "compiling would save time in this training, and {what} is missing: it goes on without"
            warn(say(text, what=missing))
        return Step(loss)
    failed = _failure(device)
    if failed:
        warn(say("compiling would save time in this training, and it fails here: {why}", why=failed))
        return Step(loss)
    compiled = [(module, torch.compile(module.forward, dynamic=False)) for module in modules]

    def step(micro: int, generator: torch.Generator) -> Tensor:
        before = [module.__dict__.get("forward") for module, _ in compiled]
        for module, forward in compiled:
            module.forward = forward
        try:
            return loss(micro, generator)
        finally:
            for (module, _), own in zip(compiled, before, strict=True):
                if own is None:
                    del module.forward
                else:
                    module.forward = own

    return Step(step, {"compiled": True})


def _failure(device: str) -> str:
    """Why nothing can be compiled here, such as missing headers, told by compiling next to nothing; empty if it can."""
    try:
        torch.compile(_double, dynamic=False)(torch.ones(8, device=device))
    except RuntimeError as error:  # what dynamo and its backends raise
        return str(error).strip().splitlines()[0][:200]
    return ""


def _double(x: Tensor) -> Tensor:
    return x * 2.0
