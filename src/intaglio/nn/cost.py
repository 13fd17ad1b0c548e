"""What a training step costs: multiplications counted without doing them, or seconds told by doing one or two."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

BACKWARD = 2.0  # multiplications of the backward pass for each of the forward pass, where every weight is trained


def flops_of(make: Callable[[], nn.Module], *shapes: Sequence[int]) -> float:
    """Multiplications and additions of a training step (forward and backward) of the module that ``make`` builds.

    shapes: of the float32 inputs. Nothing is computed and no memory taken: module and inputs are on the meta device.
    """
    with torch.device("meta"):
        model, inputs = make(), [torch.empty(tuple(shape)) for shape in shapes]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return float(counter.get_total_flops()) * (1.0 + BACKWARD)


def seconds_of(step: Callable[[], Tensor], *, budget_s: float = 1.0) -> float:
    """Wall seconds of one training step: the fastest of those that fit into ``budget_s`` (two at least).

    step: computes a scalar loss; its backward pass is done here. The first one is left out: it allocates.
    """
    fastest, start, count = float("inf"), time.perf_counter(), 0
    while count < 3 or time.perf_counter() - start < budget_s:
        before = time.perf_counter()
        loss = step()
        loss.backward()
        float(loss.detach())  # waits for a GPU
        count += 1
        if count > 1:
            fastest = min(fastest, time.perf_counter() - before)
    return fastest
