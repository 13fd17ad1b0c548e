"""The pictures of a shard as batches for a training step, and those held out to look at.

Shapes: B batch, C channels, H height, W width; floats in [0, 1].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from intaglio.models._pictures import Shard
from intaglio.nn.order import rows

AHEAD = 64
IN_MEMORY_BYTES = 2**30
LOOKED_AT = 512  # held-out pictures each evaluation during training takes in; the last figures take all, up to ALL
ALL = 4_096
SHOWN = 16


class Feed:
    """Batches in an order that is a pure function of the step; ``flip`` mirrors every other picture by chance."""

    def __init__(self, shard: Shard, *, batch: int, seed: int, device: torch.device, flip: bool = False) -> None:
        self.shard, self.batch, self.seed, self.device, self.flip = shard, batch, seed, device, flip
        self.train = shard.pixels[: shard.train]
        self.heldout = shard.pixels[shard.train :]
        self.judged = self.heldout[:ALL] if shard.heldout else self.train[:ALL]
        self.looked_at = np.array(self.heldout[:: max(1, len(self.heldout) // LOOKED_AT)][:LOOKED_AT])
        self.shown = np.array((self.heldout if shard.heldout else self.train)[:SHOWN])
        in_memory = self.train.nbytes <= IN_MEMORY_BYTES
        self._pixels: Tensor | np.ndarray[Any, Any] = (
            torch.from_numpy(np.array(self.train)) if in_memory else self.train
        )
        self._block: tuple[int, np.ndarray[Any, Any]] = (-1, np.empty(0))

    def __call__(self, step: int, generator: torch.Generator) -> Tensor:
        """The batch of ``step``, (B, C, H, W); the generator lies on the device."""
        index = self._rows(step)
        if isinstance(self._pixels, Tensor):
            chosen = self._pixels.index_select(0, torch.from_numpy(index))  # seven times as fast as by brackets
        else:
            chosen = self._pixels[index]
        x_BCHW = floats(chosen, self.device)
        if not self.flip:
            return x_BCHW
        turned = torch.rand(len(x_BCHW), 1, 1, 1, generator=generator, device=self.device) < 0.5
        return torch.where(turned, x_BCHW.flip(3), x_BCHW)

    def _rows(self, step: int) -> np.ndarray[Any, Any]:
        block, place = divmod(step, AHEAD)
        if self._block[0] != block:  # the order of many steps costs as much as that of one
            ahead = rows(block, batch=self.batch * AHEAD, count=self.shard.train, seed=self.seed)
            self._block = (block, ahead.reshape(AHEAD, self.batch))
        return self._block[1][place]


def floats(pixels_BCHW: np.ndarray[Any, Any] | Tensor, device: torch.device) -> Tensor:
    """Bytes as floats in [0, 1] on ``device``."""
    whole = torch.from_numpy(np.array(pixels_BCHW)) if isinstance(pixels_BCHW, np.ndarray) else pixels_BCHW
    return whole.to(device).float().div_(255.0)


def moments(pixels_NCHW: np.ndarray[Any, Any]) -> tuple[Tensor, float]:
    """The mean picture, float32 in [0, 1], and the standard deviation around it, of at most some 20,000 pictures."""
    chosen = pixels_NCHW[:: max(1, len(pixels_NCHW) // 20_000)]
    total = np.zeros(chosen.shape[1:], dtype=np.float64)
    squares = np.zeros(chosen.shape[1:], dtype=np.float64)
    for start in range(0, len(chosen), 256):
        part = chosen[start : start + 256].astype(np.float64) / 255
        total += part.sum(0)
        squares += (part**2).sum(0)
    mean = total / len(chosen)
    spread = float(np.sqrt(np.maximum(squares / len(chosen) - mean**2, 0).mean()))
    return torch.from_numpy(mean).float(), spread
