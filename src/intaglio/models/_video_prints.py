"""A trained video model that makes clips: going on from a picture as their first frame, given or drawn before.

Clips are computed four at a time, always four, so that none depends on how many are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intaglio.core.contracts import Context, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable
from intaglio.media import video as films_
from intaglio.models import _video as fn
from intaglio.models._checkpoint import export
from intaglio.models._flow import pixels_to_x, x_to_pixels
from intaglio.models._pictures import Form, decoded
from intaglio.models._prints import Prints
from intaglio.models._video_films import path_of
from intaglio.nn import flow
from intaglio.nn.device import machine

AT_ONCE = 4


class Clips:
    """``contracts.LoadedModel`` for films; besides: ``animate``. steps: how many steps a clip is made in."""

    makes = "video"

    def __init__(self, model: fn.Velocity, facts: Mapping[str, Any], codes: Prints | None, *, threads: int) -> None:
        self.model, self.facts, self.codes, self.threads = model, facts, codes, threads
        self.device = str(model.device)
        self.form = Form(**facts["form"])
        self.factor = max(1, int(facts["publish_px"]) // self.form.size_px)
        self.frames, self.loop = model.shape.frames, model.shape.loop
        self.fps, self.steps = float(facts["fps"]), int(facts["steps"])

    def sample(self, seeds: Sequence[int], ctx: Context) -> Iterator[Item]:
        """One clip a seed, as MP4 (H.264)."""
        for start in range(0, len(seeds), AT_ONCE):
            some = seeds[start : start + AT_ONCE]
            for pixels_TCHW, seed in zip(self.pixels(some), some, strict=True):
                yield self._item(pixels_TCHW, f"clip-{seed}.mp4", {"seed": seed}, ctx)

    def animate(self, items: Sequence[Item], seeds: Sequence[int], ctx: Context) -> Iterator[Item]:
        """Each picture (or first frame of a film) as the first frame of a clip, one a seed.

        Errors: UserError for an item that is neither, or cannot be read.
        """
        for start in range(0, len(items), AT_ONCE):
            some, chances = items[start : start + AT_ONCE], seeds[start : start + AT_ONCE]
            first = torch.stack([self.first_frame(item, ctx) for item in some])
            for item, seed, pixels_TCHW in zip(some, chances, self.pixels(chances, first), strict=True):
                yield self._item(pixels_TCHW, f"animated-{seed}.mp4", {"seed": seed, "of": item.id}, ctx)

    def first_frame(self, item: Item, ctx: Context) -> Tensor:
        """What the model takes of an item: uint8 (C, H, W). Errors: UserError."""
        found: Any
        if item.media == "video":
            try:
                found = next(films_.frames(path_of(item, ctx), side_px=self.form.size_px)).transpose(1, 2, 0)
                if self.form.channels == 1:
                    found = found.mean(2, keepdims=True).round().astype(np.uint8)
            except (Unreadable, FileNotFoundError) as error:
                raise UserError(
                    t("this is no film that can be read: {reason}", reason=error), where=item.origin
                ) from error
        else:
            ((_, found),) = decoded([item], self.form, ctx)
            if isinstance(found, Unreadable):
                raise UserError(t("this is no picture that can be read: {reason}", reason=found), where=item.origin)
        return torch.from_numpy(np.ascontiguousarray(found.transpose(2, 0, 1)))

    # ----------------------------------------------------------------------------------------------- parts of it
    def noise(self, seed: int) -> tuple[Tensor, Tensor]:
        """The noise that ``seed`` stands for: of a picture (1, C, H, W), and of a clip (T, C, H, W)."""
        generator = torch.Generator().manual_seed(seed)
        frames, *dims = self.model.shape.dims
        picture, clip = (fn.noise_like(torch.empty(1, count, *dims), generator)[0] for count in (1, frames))
        return picture, clip

    @torch.no_grad()
    def pixels(self, seeds: Sequence[int], first_NCHW: Tensor | None = None) -> Tensor:
        """Clips as uint8 (N, T, C, H, W), going on from ``first_NCHW`` (uint8), or from pictures drawn first."""
        known = None if first_NCHW is None else self._x(first_NCHW)
        found: list[Tensor] = []
        with machine(device=self.device, threads=self.threads):
            for start in range(0, len(seeds), AT_ONCE):
                chances = list(seeds[start : start + AT_ONCE])
                pictures, clips = zip(*map(self.noise, chances), strict=True)
                if known is None:
                    first = self._flowed(fn.field(self.model), torch.stack(pictures))[:, 0]
                else:
                    first = _four(known[start : start + AT_ONCE]).to(self.device)
                x = self._flowed(fn.field(self.model, first), torch.stack(clips))
                x[:, 0] = first
                found.append(self._decoded(x.float().cpu()[: len(chances)]))
        return torch.cat(found) if found else torch.empty(0, self.frames, self.form.channels, *[self.form.size_px] * 2)

    def _flowed(self, ask: flow.Field, noise: Tensor) -> Tensor:
        """From noise (up to four, each with its frames) to four pictures or clips."""
        times = fn.stops(self.steps, noise.shape[1])
        x = _four(noise).to(self.device)
        return flow.euler(ask, flow.heun(ask, x, times[:-1]), times[-2:])

    def _x(self, pixels_NCHW: Tensor) -> Tensor:
        return pixels_to_x(pixels_NCHW) if self.codes is None else self.codes.encode_maps(pixels_NCHW)

    def _decoded(self, x_BTCHW: Tensor) -> Tensor:
        flat = x_BTCHW.flatten(0, 1)
        pixels = x_to_pixels(flat) if self.codes is None else self.codes.decode_maps(flat)
        return pixels.unflatten(0, (-1, self.frames))

    def _item(self, pixels_TCHW: Tensor, name: str, facts: Mapping[str, Any], ctx: Context) -> Item:
        shown = enlarged(pixels_TCHW, self.factor)
        file = ctx.put(films_.dump_mp4(shown, self.fps), name=name, mime="video/mp4")
        side = shown.shape[2]
        meta = {"width_px": side, "height_px": side, "native_px": self.form.size_px, "fps": self.fps}
        meta |= {"frames": self.frames, "seconds": round(self.frames / self.fps, 4), "loop": self.loop}
        return Item(media="video", files=(file,), meta={**meta, "steps": self.steps, **facts})


def _four(some: Tensor) -> Tensor:
    """Filled up with zeros to four."""
    whole = torch.zeros(AT_ONCE, *some.shape[1:])
    whole[: len(some)] = some
    return whole


def enlarged(pixels_TCHW: Tensor, factor: int = 1) -> np.ndarray[Any, Any]:
    """uint8 [T, 3, H, W], each side ``factor`` times as long."""
    frames = pixels_TCHW.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    if factor > 1:
        size = (frames.shape[2] * factor, frames.shape[1] * factor)
        frames = np.stack([np.asarray(Image.fromarray(each).resize(size, Image.Resampling.LANCZOS)) for each in frames])
    return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))


def sheet(clips: Sequence[Tensor], *, gap_px: int = 1) -> Image.Image:
    """A row a clip (T, C, H, W), its frames side by side."""
    rows = [np.pad(enlarged(each), ((0, 0), (0, 0), (0, gap_px), (0, gap_px)), constant_values=255) for each in clips]
    return Image.fromarray(np.concatenate([np.concatenate(list(row.transpose(0, 2, 3, 1)), 1) for row in rows]))


def wall(clips_NTCHW: Tensor, *, columns: int = 4) -> np.ndarray[Any, Any]:
    """Clips beside and below each other as one film: uint8 [T, 3, H, W]."""
    shown = [enlarged(each) for each in clips_NTCHW]
    shown += [np.full_like(shown[0], 255)] * (-len(shown) % columns)
    rows = [np.concatenate(shown[start : start + columns], 3) for start in range(0, len(shown), columns)]
    return np.concatenate(rows, 2)


README = """# A video model made by Intaglio

`model.safetensors` holds all tensors in float32; `config.json` says the shape.

`net.*` answers pictures x (B, 1, C, H, W), or clips x (B, T, C, H, W) with their first frames, and a time and a span
(B, each; the span is 0) with what is expected at time 1; `v = (net(x, time, 0, first)[0] - x) / max(1 - time, 0.05)` is
the velocity that leads there. Start from standard normal noise at time 0, and go to time 1: `x += (later - time) * v`.
Draw a picture, then a clip whose first frame it is and stays; half of the variance of a clip's noise all its frames
have in common. The network tells (`net.motion`) where each pixel of each frame is found in the first one, and (by a
sigmoid of its last channel) how much of that is to be seen in the place of its other channels. At time 1, x is {what}.

The layers are those of `intaglio/nn/video.py`. No other library has this network. The weights inherit the licence of
the films they learned from.
"""


def export_folder(folder: Path, to: Path) -> list[Path]:
    """Copy the checkpoint with a page that says how to read it; returns the files."""
    _, facts = fn.read_checkpoint(folder, "cpu")
    codes = "a map of codes of each frame, standardized, that the vae in `codes/` decodes"
    page = README.format(what=codes if facts["codes"] else "frames in [-1, 1]")
    return export(folder, to, facts, page=page, parts=["codes"] if facts["codes"] else [])
