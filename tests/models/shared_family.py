"""A family's training to be run under torchrun, or alone, with the words ``NAME FOLDER [--kill ...]``.

What it stands on (a given model, a codebook) must lie prepared in ``FOLDER/base``; each process trains in a folder of
its own, ``FOLDER/rank<number>``. Prints one JSON line a process: its losses and warnings. ``--double`` computes in
float64, so that what differs between two trainings is not rounding.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch

import intaglio.nn.device
from intaglio.models import _video
from intaglio.nn import loop
from tests.contracts import _material as material
from tests.support import RunContext


def dying(who: str, when: int, rank: int) -> None:
    """A state after every step, and SIGKILL before update ``when`` in this process or in all."""

    class Dying(loop._Run):
        def __init__(self, model: Any, loss: Any, plan: Any, *rest: Any) -> None:
            super().__init__(model, loss, dataclasses.replace(plan, save_seconds=0.0), *rest)

        def _update(self) -> None:
            if self.state.step == when and who in ("all", str(rank)):
                os.kill(os.getpid(), signal.SIGKILL)
            super()._update()

    loop._Run = Dying  # type: ignore[misc]


def in_double() -> None:
    """Weights, pictures and noise in float64 from here on; Muon's products and the clock stay as they are."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    pixels = _video.pixels_to_x
    _video.pixels_to_x = lambda pixels_NCHW: pixels(pixels_NCHW).double()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", type=json.loads, default={})
    parser.add_argument("--kill", default="", help="RANK:STEP, or all:STEP")
    parser.add_argument("--double", action="store_true", help="float64; made for video")
    options = parser.parse_args()
    if options.double:
        in_double()
    intaglio.nn.device.cpu_multiplies_bf16 = lambda: False
    rank = int(os.environ.get("RANK", "0"))
    base = material.context(options.name, options.folder / "base")
    ctx = RunContext(options.folder / f"rank{rank}", project=base.project, inputs=base.inputs)
    ctx.threads = int(os.environ.get("WORLD_SIZE", "1"))  # one each
    if options.kill:
        who, _, when = options.kill.partition(":")
        dying(who, int(when), rank)
    made = material.component(options.name, **options.set)
    metrics = made.fit(material.tiny_data(ctx, made.takes), ctx)
    told = {"losses": [values["loss"] for _, values in ctx.curves], "warnings": ctx.warnings}
    told |= {"augmented": metrics.get("augmented"), "rank": rank}
    os.write(1, (json.dumps(told) + "\n").encode())  # one write call: lines of several processes must not mix


if __name__ == "__main__":
    main()
