"""The network of the video model, the clips or maps of codes it learns over, and its checkpoint.

Shapes:  B clips, T frames, C channels, H height, W width. Frames are floats in [-1, 1], codes are standardized maps.
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
from intaglio.models._checkpoint import filled, read, reading, write
from intaglio.models._facts import Depth, Side, Steps, Width
from intaglio.models._flow import IN_MEMORY_BYTES, pixels_to_x
from intaglio.models._pictures import PictureFacts
from intaglio.models._prints import Prints
from intaglio.models._video_films import Films
from intaglio.nn import flow
from intaglio.nn.device import autocast, fast_dtype
from intaglio.nn.video import VideoUNet, later, mixed_noise

SLOWEST = 0.05  # of the way left, for the velocity of what is expected: Li and He (2025), arXiv:2511.13720


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the network looks like; kept in ``config.json`` of a checkpoint.

    size_px, channels: of what it learns over (pixels, or codes). width: channels at the finest level. blocks: stages a
    level and side. patch: side of the squares taken as one place. frames, loop: of a clip.
    """

    size_px: Side
    channels: Width
    width: Width
    blocks: Depth
    patch: Side
    frames: Annotated[int, Field(ge=2, le=1_024)]
    loop: bool

    @property
    def dims(self) -> tuple[int, int, int, int]:
        return self.frames, self.channels, self.size_px, self.size_px


class _Facts(PictureFacts):
    shape: Shape
    codes: bool
    fps: Annotated[float, Field(gt=0.0, le=1_000.0)]
    steps: Steps

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if not self.codes:
            self.same_form(self.shape.size_px, self.shape.channels)
        return self


class Velocity(nn.Module):
    """The field: clips (B, T, C, H, W) with their first frames, or pictures (B, 1, C, H, W), to a velocity, float32."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.net = VideoUNet(**asdict(shape))
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs forget it

    def forward(self, x: Tensor, t_B: Tensor, span_B: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The network tells the data it expects; its velocity from where x is leads there (``SLOWEST``: a bound).

        Besides, the velocity that would lead to the first frame as it is moved.
        """
        left = (1.0 - t_B).clamp(min=SLOWEST).view(-1, 1, 1, 1, 1)
        expected, moved = self.net(x, t_B, span_B, first)
        return (expected - x) / left, (moved - x) / left

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def field(model: Velocity, first_BCHW: Tensor | None = None) -> flow.Field:
    """The model as a field, in the machine's fast precision: of pictures, or of clips that go on from a first frame.

    A clip's first frame stands at ``first_BCHW`` whatever x says, and does not move.
    """

    def ask(x: Tensor, t_B: Tensor, span_B: Tensor) -> Tensor:
        found = velocities(model, x, t_B, span_B, first_BCHW)[0]
        return found if first_BCHW is None else torch.cat([torch.zeros_like(found[:, :1]), found[:, 1:]], 1)

    return ask


def velocities(
    model: Velocity, x: Tensor, t_B: Tensor, span_B: Tensor, first_BCHW: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What the model answers, where a clip's first frame is put in its place."""
    device = str(model.device)
    with autocast(device, fast_dtype(device)):
        if first_BCHW is not None:
            x = torch.cat([first_BCHW[:, None], x[:, 1:]], 1)
        return model(x, t_B, span_B, first_BCHW)


def draw_times(count: int, frames: int, generator: torch.Generator) -> Tensor:
    """Times (B,) to learn at, most of them where noise begins to hide what the frames show."""
    return later(flow.draw_times(count, law="logit-normal", generator=generator), frames)


def picture_loss(model: Velocity, noise: Tensor, x: Tensor, t_B: Tensor) -> Tensor:
    """Mean squared velocity error of each picture (B, 1, C, H, W): (B,)."""
    return flow.velocity_loss(field(model), noise, x, t_B)


def motion_loss(model: Velocity, noise: Tensor, x: Tensor, t_B: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared velocity error of each clip (B,), over the frames behind the first, which is given.

    Besides, that of the first frame as it is moved: how well motion alone tells the clip.
    """
    found = velocities(model, flow.between(noise, x, t_B), t_B, torch.zeros_like(t_B), x[:, 0])
    whole, moved = ((each - (x - noise))[:, 1:].square().flatten(1).mean(1) for each in found)
    return whole, moved


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of clips (B, T, C, H, W), drawn where the generator lies; equal for equal generators and shapes."""
    own, shared = (torch.randn(of, generator=generator, device=generator.device) for of in (x.shape, x[:, :1].shape))
    return mixed_noise(own, shared)


def stops(steps: int, frames: int) -> list[float]:
    """``steps`` + 1 times from 0 to 1 for a sampler, spread as they were learned."""
    return [float(each) for each in later(torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64), frames)]


# --------------------------------------------------------------------------------------------- what it learns over
class Lessons:
    """Clips as x (B, T, C, H, W), float32 on the CPU: frames themselves, or their maps of codes, mirrored by chance.

    Maps are computed once, of each frame and (where ``flip``) of its mirror image, and lie in ``ctx.work``.
    """

    def __init__(self, films: Films, codes: Prints | None, ctx: Context, *, flip: bool) -> None:
        self.films, self.codes, self.flip = films, codes, flip
        self.train = films.clips(train=True)
        self.judged = films.clips(train=not films.heldout)
        if not films.heldout:
            self.judged = self.judged[:: max(1, films.cut.least)]
        self.dims = codes.map_shape if codes is not None else tuple(films.frames.shape[1:])
        self._maps = self._encoded(codes, ctx) if codes is not None else None
        small = films.frames.nbytes <= IN_MEMORY_BYTES
        self._frames: Any = np.array(films.frames) if small else films.frames

    def _encoded(self, codes: Prints, ctx: Context) -> np.ndarray[Any, Any]:
        count = len(self.films.frames)
        stored = np.lib.format.open_memmap(
            ctx.work / "codes.npy", mode="w+", dtype=np.float32, shape=(2 if self.flip else 1, count, *self.dims)
        )
        for start in range(0, count, 256):
            pixels = np.array(self.films.frames[start : start + 256])
            stored[0, start : start + 256] = codes.encode_maps(pixels).numpy()
            if self.flip:
                stored[1, start : start + 256] = codes.encode_maps(pixels[..., ::-1].copy()).numpy()
            ctx.progress(start, count, frames=start)
        return stored

    def x(
        self,
        clips_B2: np.ndarray[Any, Any],
        turn_B: np.ndarray[Any, Any] | None = None,
        mirrored_B: np.ndarray[Any, Any] | None = None,
    ) -> Tensor:
        """These clips; turn_B: of loops, the frame they start at. mirrored_B: which of them are mirrored."""
        return self._of(self.films.rows(clips_B2, turn_B), mirrored_B)

    def _of(self, rows_BT: np.ndarray[Any, Any], mirrored_B: np.ndarray[Any, Any] | None) -> Tensor:
        if self._maps is not None:
            side = np.zeros(len(rows_BT), dtype=np.int64) if mirrored_B is None else mirrored_B.astype(np.int64)
            return torch.from_numpy(np.array(self._maps[side[:, None], rows_BT]))
        x = pixels_to_x(self._frames[rows_BT])
        return (
            x
            if mirrored_B is None
            else torch.where(torch.from_numpy(mirrored_B)[:, None, None, None, None], x.flip(4), x)
        )

    def pictures(
        self, clips_B2: np.ndarray[Any, Any], frame_B: np.ndarray[Any, Any], mirrored_B: np.ndarray[Any, Any] | None
    ) -> Tensor:
        """One frame of each clip: (B, 1, C, H, W)."""
        return self._of(np.take_along_axis(self.films.rows(clips_B2), frame_B[:, None], 1), mirrored_B)

    def pixels(self, clips_B2: np.ndarray[Any, Any]) -> Tensor:
        """The frames themselves, uint8 (B, T, C, H, W)."""
        return torch.from_numpy(np.array(self._frames[self.films.rows(clips_B2)]))

    def some(self, clips_N2: np.ndarray[Any, Any], most: int) -> np.ndarray[Any, Any]:
        """At most so many clips, spread over them all."""
        return clips_N2[:: -(-len(clips_N2) // most)]


# ------------------------------------------------------------------------------------------------------- checkpoint
def write_checkpoint(folder: Path, model: Velocity, facts: Mapping[str, Any], codes: Prints | None) -> None:
    """What ``read_checkpoint`` reads: weights, ``config.json``, and below ``codes/`` a copy of the vae it stands on."""
    write(folder, model.state_dict(), facts)
    if codes is not None:
        codes.save(folder / "codes")


def read_checkpoint(folder: Path, device: str) -> tuple[Velocity, dict[str, Any]]:
    """Network and ``config.json``. Errors: UserError where the folder holds no video checkpoint."""
    with reading(folder, "video"):
        tensors, facts = read(folder, "video", _Facts, device)
        model = filled(lambda: Velocity(Shape(**facts["shape"])), tensors)
    return model.to(device).eval(), facts
