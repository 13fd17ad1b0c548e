"""A training to be run under torchrun, or alone, with the words ``FOLDER [--kill ...]``.

Prints one JSON line a process that trained: its rank and a digest of its weights; process 0 keeps them in the folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
from pathlib import Path

import torch
from torch import Tensor, nn

from intaglio.nn import parallel
from intaglio.nn.checkpoint import save_tensors
from intaglio.nn.device import machine
from intaglio.nn.loop import Plan, train
from intaglio.nn.optim import adamw, muon_and_adamw
from intaglio.nn.order import rows
from tests.support import RunContext

X = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
Y = X @ torch.randn(8, 8, generator=torch.Generator().manual_seed(2))
BATCH = 24


class Running(nn.Module):
    """Keeps a running mean of what passes, as batch norm does: a buffer that every process writes on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(), 0.1)
        return x


class Turned(nn.Module):
    """A convolution whose weights lie in channels last, as those of the models for pictures do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 2)
        self.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(self.conv(x.view(-1, 2, 2, 4)), (0, 1, 0, 1)).reshape(len(x), 16)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--accumulate", type=int, default=0)
    parser.add_argument("--kill", default="", help="RANK:STEP, or all:STEP")
    parser.add_argument("--spoil", type=int, default=-1)
    parser.add_argument("--judge", action="store_true", help="evaluate writes a buffer")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    rank = int(os.environ.get("RANK", "0"))
    ctx = RunContext(options.folder / f"rank{rank}")
    parts = options.accumulate or parallel.parts(BATCH)
    who, _, when = options.kill.partition(":")
    spoiled = {options.spoil}
    with machine(device="cpu", threads=parallel.size()):
        torch.manual_seed(rank)  # the first process's weights are everyone's
        model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), Running(), nn.Dropout(0.1), nn.Linear(16, 8))

        if options.channels_last:
            model.insert(2, Turned())
        judged = torch.zeros(())
        if options.judge:
            model.register_buffer("judged", judged)

        def evaluate() -> Tensor:
            if options.judge:
                judged.add_(1.0)
            return (model(X) - Y).square().mean(1)

        def loss(micro: int, gen: torch.Generator) -> Tensor:
            step = micro // parts
            if when and step == int(when) and who in ("all", str(rank)):
                os.kill(os.getpid(), signal.SIGKILL)
            take = torch.from_numpy(rows(micro, batch=BATCH // parts, count=len(X), seed=5))
            value = (model(X[take] + 0.01 * torch.randn(len(take), 8, generator=gen)) - Y[take]).square().mean()
            if step in spoiled and rank == parallel.size() - 1:
                spoiled.remove(step)
                return value * float("nan")
            return value

        trained = train(
            model,
            loss,
            optimizers=[adamw(model.parameters(), lr=3e-3)] if options.channels_last else muon_and_adamw(model),
            plan=Plan(
                steps=options.steps, seed=3, ema=0.9, evaluations=5, accumulate=parts, save_seconds=0.0, previews=2
            ),
            work=ctx.work,
            report=ctx,
            evaluate=evaluate,
            preview=lambda step: ctx.preview(f"{step}", b"x"),
        )
    weights = dict(model.state_dict())
    if rank == 0:
        save_tensors(options.folder / "weights.safetensors", weights, {"curve": trained.curve})
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in weights.values())).hexdigest()
    told = {"previews": len(ctx.previews), "progress": len(ctx.progressed), "warnings": ctx.warnings}
    told |= {"judged": float(judged)}
    # one write call: lines of several processes must not mix
    os.write(1, (json.dumps({"rank": rank, "digest": digest, "resumed": trained.resumed_at, **told}) + "\n").encode())


if __name__ == "__main__":
    main()
