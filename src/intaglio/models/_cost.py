"""Seconds a training of a network over pictures takes, told from its operations and the machine's measured speed.

Fitted to 1 and 2 threads of an AVX-512/AMX machine, where it was within 27 % for perceptrons, vectors, maps and
codebooks of 28 to 64 pixels a side (docs/LOG.md): large convolutions reach 85 % of a square product's rate; the rest is
what activations cost a pixel, and each step by itself.
"""

from __future__ import annotations

from intaglio.core.contracts import Machine
from intaglio.models._feed import ALL, LOOKED_AT

REACHED = 0.85
PER_PIXEL, PER_STEP = 0.13e-6, 2.0e-3  # seconds on the CPU, of one thread
PER_STEP_GPU = 4e-3
EVALUATIONS = 20
START = 6.0  # seconds until the first step, and between the last and the end


def training_seconds(machine: Machine, *, work: float, images: int, batch: int, pixels: int) -> float:
    """``images`` seen in steps of ``batch``, ``work`` operations each forward and backward, with the evaluations.

    pixels: of a picture where convolutions keep maps of that size; 0 for a perceptron.
    """
    rate = REACHED * 1e9 * max(machine.gflops, machine.bf16_gflops)
    on_cpu = machine.device == "cpu"
    a_pixel = PER_PIXEL / max(1, machine.threads) if on_cpu else 0.0
    looked_at = EVALUATIONS * LOOKED_AT / 3.0  # forward alone is a third of a step
    return (images + looked_at) * (work / rate + pixels * a_pixel) + images / batch * (
        PER_STEP if on_cpu else PER_STEP_GPU
    )


def judging_seconds(machine: Machine, *, work: float, items: int, draws: int) -> float:
    """The last figures in float32: all pictures several times there and back, and ``draws`` decoded besides."""
    passes = 3.0 * min(items, ALL) + 4.0 * min(items // 10 + 1, ALL) + 0.5 * draws
    return passes * work / 3.0 / (0.8e9 * max(machine.gflops, 1e-9))
