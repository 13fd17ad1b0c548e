"""The network of the flow, the pictures or codes it learns over, and its checkpoint; trained by ``models/flow.py``.

Shapes:  B batch, C channels, H height, W width, K numbers of a condition. Pictures are floats in [-1, 1], codes are
         standardized maps of a vae.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from intaglio.core.contracts import Context
from intaglio.models import _conditions
from intaglio.models._checkpoint import filled, read, reading, write
from intaglio.models._facts import Depth, Side, Steps, Width, equal, one_of
from intaglio.models._pictures import PictureFacts, Shard
from intaglio.models._prints import Prints
from intaglio.nn import flow
from intaglio.nn.device import autocast, fast_dtype
from intaglio.nn.dit import DiT
from intaglio.nn.unet import UNet

AHEAD = 64
IN_MEMORY_BYTES = 2**30


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the network looks like; kept in ``config.json`` of a checkpoint.

    net: ``unet`` or ``dit``. size_px, channels: of what it learns over (pixels, or codes). width: channels at the
    finest level, or numbers of a patch. blocks: residual blocks a level and side, or layers. patch: side of the squares
    taken as one place. condition: numbers a condition has.
    """

    net: Annotated[str, one_of("unet", "dit")]
    size_px: Side
    channels: Width
    width: Width
    blocks: Depth
    patch: Side
    condition: Annotated[int, Field(ge=0, le=1_000)] = 0

    @property
    def dims(self) -> tuple[int, int, int]:
        return self.channels, self.size_px, self.size_px


class _Facts(PictureFacts):
    shape: Shape
    conditions: _conditions.ConditionFacts
    codes: bool
    steps: Steps
    sampler: Annotated[str, one_of("heun", "euler", "shortcut")]
    guidance: Annotated[float, Field(ge=0.0, le=20.0)]
    flip: bool = False

    @model_validator(mode="after")
    def _of_one_network(self) -> Self:
        if not self.codes:
            self.same_form(self.shape.size_px, self.shape.channels)
        equal({"shape.condition": self.shape.condition}, {"conditions": self.conditions.dims})
        return self


class Velocity(nn.Module):
    """The field: x (B, C, H, W), time and span (B,), and rows of conditions (B, K) to a mean velocity, float32."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        own = {"size_px": shape.size_px, "channels": shape.channels, "width": shape.width, "patch": shape.patch}
        if shape.net == "unet":
            self.net: nn.Module = UNet(**own, blocks=shape.blocks, condition=shape.condition)
        else:
            self.net = DiT(**own, depth=shape.blocks, condition=shape.condition)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs forget it

    def forward(self, x: Tensor, t_B: Tensor, span_B: Tensor, rows_BK: Tensor | None = None) -> Tensor:
        return self.net(x, t_B, span_B, rows_BK)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def field(model: Velocity, rows_BK: Tensor | None = None, *, guidance: float = 1.0) -> flow.Field:
    """The model as a field under these conditions, in the machine's fast precision; both halves of guidance at once."""
    device = str(model.device)
    dtype = fast_dtype(device)

    def ask(x: Tensor, t_B: Tensor, span_B: Tensor) -> Tensor:
        with autocast(device, dtype):
            if rows_BK is None or guidance == 1.0:
                return model(x, t_B, span_B, rows_BK)
            rows = torch.cat([rows_BK, torch.zeros_like(rows_BK)])
            both = model(torch.cat([x, x]), torch.cat([t_B, t_B]), torch.cat([span_B, span_B]), rows)
            with_condition, without = both.chunk(2)
            return flow.guided(with_condition, without, guidance)

    return ask


def unit_rows(rows_BK: Tensor) -> Tensor:
    """Rows of conditions brought to length 1; rows of zeros stay."""
    return rows_BK / rows_BK.norm(dim=1, keepdim=True).clamp(min=1e-6)


# --------------------------------------------------------------------------------------------- what it learns over
def pixels_to_x(pixels_NCHW: np.ndarray[Any, Any] | Tensor) -> Tensor:
    """Bytes as floats in [-1, 1]."""
    whole = torch.from_numpy(np.array(pixels_NCHW)) if isinstance(pixels_NCHW, np.ndarray) else pixels_NCHW
    return whole.float().div_(127.5).sub_(1.0)


def x_to_pixels(x_NCHW: Tensor) -> Tensor:
    """Floats in [-1, 1] as bytes, cut to their range."""
    return x_NCHW.clamp(-1.0, 1.0).add(1.0).mul_(127.5).round_().to(torch.uint8)


class Lessons:
    """What a flow learns over, as a row number to x: pictures themselves, or their maps of codes, mirrored by chance.

    Maps are computed once, of each picture and (where ``flip``) of its mirror image, and lie in ``ctx.work``.
    """

    def __init__(self, shard: Shard, codes: Prints | None, ctx: Context, *, flip: bool) -> None:
        self.shard, self.codes, self.flip = shard, codes, flip
        self.train, self.heldout = shard.train, shard.heldout
        self.dims = codes.map_shape if codes is not None else tuple(shard.pixels.shape[1:])
        self._maps = self._encoded(codes, ctx) if codes is not None else None
        self._pixels: Any = shard.pixels
        if shard.pixels.nbytes <= IN_MEMORY_BYTES:
            self._pixels = np.array(shard.pixels)

    def _encoded(self, codes: Prints, ctx: Context) -> np.ndarray[Any, Any]:
        count = len(self.shard.pixels)
        stored = np.lib.format.open_memmap(
            ctx.work / "codes.npy", mode="w+", dtype=np.float32, shape=(2 if self.flip else 1, count, *self.dims)
        )
        for start in range(0, count, 256):
            pixels = np.array(self.shard.pixels[start : start + 256])
            stored[0, start : start + 256] = codes.encode_maps(pixels).numpy()
            if self.flip:
                stored[1, start : start + 256] = codes.encode_maps(pixels[..., ::-1].copy()).numpy()
            ctx.progress(start, count, pictures=start)
        return stored

    def x(self, index: np.ndarray[Any, Any], turned: np.ndarray[Any, Any] | None = None) -> Tensor:
        """These rows, (B, C, H, W) float32 on the CPU; ``turned``: which of them are mirrored."""
        if self._maps is not None:
            side = np.zeros(len(index), dtype=np.int64) if turned is None else turned.astype(np.int64)
            return torch.from_numpy(np.array(self._maps[side, index]))
        x = pixels_to_x(self._pixels[index])
        return x if turned is None else torch.where(torch.from_numpy(turned)[:, None, None, None], x.flip(3), x)

    def heldout_rows(self, most: int) -> np.ndarray[Any, Any]:
        """Row numbers of at most so many held-out pictures, spread over them; of training pictures where there are
        none."""
        first, count = (self.train, self.heldout) if self.heldout else (0, self.train)
        return first + np.arange(count)[:: -(-count // most)]

    def pixels(self, index: np.ndarray[Any, Any]) -> Tensor:
        """The pictures themselves, uint8 (B, C, H, W)."""
        return torch.from_numpy(np.array(self.shard.pixels[index]))


# ------------------------------------------------------------------------------------------------------- checkpoint
def write_checkpoint(folder: Path, model: Velocity, facts: Mapping[str, Any], codes: Prints | None) -> None:
    """What ``read_checkpoint`` reads: weights, ``config.json``, and below ``codes/`` a copy of the vae it stands on."""
    write(folder, model.state_dict(), facts)
    if codes is not None:
        codes.save(folder / "codes")


def read_checkpoint(folder: Path, device: str) -> tuple[Velocity, dict[str, Any]]:
    """Network and ``config.json``. Errors: UserError where the folder holds no flow checkpoint."""
    with reading(folder, "flow"):
        tensors, facts = read(folder, "flow", _Facts, device)
        model = filled(lambda: Velocity(Shape(**facts["shape"])), tensors)
    return model.to(device).eval(), facts


def facts_of(model: Velocity, lessons: Lessons, conditions: _conditions.Conditions) -> dict[str, Any]:
    """What a checkpoint must say of itself so that it can be read."""
    return {
        "kind": "flow",
        "shape": asdict(model.shape),
        "form": asdict(lessons.shard.form),
        "conditions": dict(_conditions.stored(conditions)),
        "codes": lessons.codes is not None,
    }
