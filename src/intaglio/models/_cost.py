"""Seconds a training takes, told from its operations and the machine's measured speed.

Networks over pictures: fitted to 1 and 2 threads of an AVX-512/AMX machine, where it was within 27 % for perceptrons,
vectors, maps and codebooks of 28 to 64 pixels a side (docs/LOG.md): large convolutions reach 85 % of a square product's
rate; the rest is what activations cost a pixel, and each step by itself. ``steps_seconds`` is coarser: a family says
what share of the measured speed it reaches and what a step costs by itself, fitted to two sizes on 2 threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from intaglio.core.contracts import Context, Estimate, Machine
from intaglio.core.i18n import t
from intaglio.models._feed import ALL, LOOKED_AT
from intaglio.nn.compiling import Loss, Step, step_of
from intaglio.nn.decoder import SLOTS
from intaglio.nn.device import cpu_multiplies_bf16
from intaglio.nn.optim import rows_together

REACHED = 0.85
PER_PIXEL, PER_STEP = 0.13e-6, 2.0e-3  # seconds on the CPU, of one thread
PER_STEP_GPU, OF_A_GPU = 4e-3, 0.35  # a recorded step of a GPT on an H100; how much less than on a CPU it reaches
EVALUATIONS = 20
START = 1.5  # seconds until the first step, imports included, and between the last and the end
NEWTON_SCHULZ = 4  # steps of Muon, see nn/optim.py
A_LAYER = 1e-3  # seconds of a layer of a transformer by itself, of one token of sequences written side by side


def steps_seconds(machine: Machine, *, flops: float, steps: float, reached: float, per_step: float) -> float:
    """``steps`` of ``flops`` operations each, at the ``reached`` share of the machine's products; per_step: seconds of
    each by itself, whatever its size, on a CPU. Of a GPU little is known: see ``docs/LOG.md``."""
    rate = reached * 1e9 * max(machine.gflops, machine.bf16_gflops, 1e-3)
    if machine.device != "cpu":
        rate, per_step = OF_A_GPU * rate, PER_STEP_GPU if per_step else 0.0
    return steps * (flops / rate + per_step)


def writing_seconds(machine: Machine, *, steps: float, layers: int, a_token: float) -> float:
    """``steps`` tokens one after the other, of ``SLOTS`` sequences side by side; a_token: operations of one."""
    return steps * (layers * A_LAYER + SLOTS * a_token / max(0.8e9 * machine.gflops, 1e-9))


def nominal(device: str, threads: int) -> Machine:
    """A usual machine of this kind, for decisions that must come out alike whenever a training is taken up."""
    if torch.device(device).type != "cpu":
        return Machine(device, threads, 20_000.0, 100_000.0, 0)
    return Machine(device, threads, 100.0 * threads, (400.0 if cpu_multiplies_bf16() else 100.0) * threads, 0)


def compiled_step(
    loss: Loss, modules: Sequence[nn.Module], *, expected: Callable[[Machine], Estimate], ctx: Context
) -> Step:
    """``loss`` with these of its modules compiled where the estimate says that it pays; see ``nn/compiling.py``."""
    seconds = expected(nominal(ctx.device, ctx.threads)).seconds
    return step_of(loss, modules, seconds=seconds, device=ctx.device, warn=ctx.warn, say=t)


def muon_flops(matrices: Iterable[nn.Parameter], *, together: int | None = None) -> float:
    """Operations of one step of Muon: of each matrix (m, n), m the shorter, twice its Gram matrix's products and its
    square, in every Newton-Schulz step. together: its ``rows``."""
    total = 0.0
    for matrix in matrices:
        height, width = len(matrix), matrix.numel() // len(matrix)
        parts = height // rows_together(height, width, together)
        rows, columns = sorted((height // parts, width))
        total += parts * NEWTON_SCHULZ * (4.0 * rows**2 * columns + 2.0 * rows**3)
    return total


def training_seconds(
    machine: Machine, *, work: float, images: int, batch: int, pixels: int, items: int = 10 * LOOKED_AT
) -> float:
    """``images`` seen in steps of ``batch``, ``work`` operations each forward and backward, with the evaluations.

    pixels: of a picture where convolutions keep maps of that size; 0 for a perceptron. items: pictures there are, a
    tenth of them held out.
    """
    rate = REACHED * 1e9 * max(machine.gflops, machine.bf16_gflops)
    on_cpu = machine.device == "cpu"
    a_pixel = PER_PIXEL / max(1, machine.threads) if on_cpu else 0.0
    looked_at = EVALUATIONS * min(LOOKED_AT, items // 10 + 1) / 3.0  # forward alone is a third of a step
    return (images + looked_at) * (work / rate + pixels * a_pixel) + images / batch * (
        PER_STEP if on_cpu else PER_STEP_GPU
    )


def judging_seconds(machine: Machine, *, work: float, items: int, draws: int, times: float = 3.0) -> float:
    """The last figures in float32: all pictures some ``times`` there and back, and ``draws`` decoded besides."""
    passes = times * min(items, ALL) + 4.0 * min(items // 10 + 1, ALL) + 0.5 * draws
    return passes * work / 3.0 / (0.8e9 * max(machine.gflops, 1e-9))
