"""A U-shaped network over clips: the layers of pictures frame by frame, and layers that look along time between them.

Papers:  Ho et al. (2022), "Video Diffusion Models", arXiv:2204.03458 (a picture network with attention over time behind
         each level); Shaw et al. (2018), arXiv:1803.02155 (attention told how far apart two frames are).
Code:    written from the papers; differs in: each frame is also mixed with its neighbours in time; of a loop, time is a
         circle, so that no frame is the first.
Licence: ours.
Shapes:  B clips, T frames, N = B T, C channels, H height, W width, E embedding. Frames of a clip lie one after another.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intaglio.nn.functions import normalize
from intaglio.nn.unet import EPS, WIDEST, Block, Told, levels, norm

CHANNELS_LAST = torch.channels_last
SHARED = 0.5
KEPT = 3.0  # of a known first frame 95 % is to be seen before anything is learned: a still picture
TOGETHER = 1024  # places of all frames up to which everything looks at everything; above, each place at itself


class AlongTime(nn.Module):
    """Frames mixed with those beside them, then looking at all frames; starts as nothing.

    Where a clip has few places, each looks at every place of every frame, so that what moves is found again; else at
    itself. loop: the last frame is beside the first, and how far apart two frames are is told around the circle.
    """

    apart: Tensor

    def __init__(self, width: int, frames: int, side: int, *, loop: bool) -> None:
        super().__init__()
        self.frames, self.heads, self.loop = frames, max(1, width // 64), loop
        self.together = frames * side * side <= TOGETHER
        self.beside = nn.Conv2d(3 * width, width, 3, padding=1)
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.out = nn.Conv2d(width, width, 1, bias=False)
        nn.init.zeros_(self.beside.weight)
        nn.init.zeros_(self.out.weight)
        self.far = nn.Parameter(torch.zeros(self.heads, frames if loop else 2 * frames - 1))
        frame = torch.arange(frames)
        apart = frame[None] - frame[:, None]
        self.register_buffer("apart", apart % frames if loop else apart + frames - 1, persistent=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x = x_NCHW + self.beside(self._neighbours(norm(x_NCHW)))
        n, c, h, w = x.shape
        qkv = self.qkv(norm(x)).reshape(n // self.frames, self.frames, 3 * self.heads, c // self.heads, h * w)
        bias = self.far[:, self.apart]
        if self.together:  # (B, heads, T H W, numbers of a head)
            q, k, v = qkv.permute(0, 2, 1, 4, 3).flatten(2, 3).chunk(3, 1)
            bias = bias.repeat_interleave(h * w, 1).repeat_interleave(h * w, 2)
            seen = self._seen(q, k, v, bias).unflatten(2, (self.frames, h * w)).permute(0, 2, 1, 4, 3)
        else:  # (B H W, heads, T, numbers of a head)
            q, k, v = qkv.permute(0, 4, 2, 1, 3).flatten(0, 1).chunk(3, 1)
            seen = self._seen(q, k, v, bias).unflatten(0, (-1, h * w)).permute(0, 3, 2, 4, 1)
        return x + self.out(seen.reshape(n, c, h, w).contiguous(memory_format=CHANNELS_LAST))

    def _seen(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        q, k = (normalize(each, eps=EPS, dtype=v.dtype) for each in (q, k))
        scores = (q @ k.mT) * q.shape[-1] ** -0.5
        return (scores.float() + bias).softmax(-1).to(v.dtype) @ v

    def _neighbours(self, y_NCHW: Tensor) -> Tensor:
        """The frame before, the frame itself and the one behind, as channels; nothing beyond the ends of a clip."""
        y = y_NCHW.unflatten(0, (-1, self.frames))
        before, behind = y.roll(1, 1), y.roll(-1, 1)
        if not self.loop:
            nothing = torch.zeros_like(y[:, :1])
            before, behind = torch.cat([nothing, y[:, :-1]], 1), torch.cat([y[:, 1:], nothing], 1)
        return torch.cat([before, y, behind], 2).flatten(0, 1).contiguous(memory_format=CHANNELS_LAST)


def mixed_noise(own: Tensor, shared: Tensor) -> Tensor:
    """Noise (..., T, C, H, W) of variance 1 that frames have in part (``SHARED``) in common; both parts are normal.

    Ge et al. (2023), arXiv:2305.10474, eq. 3: what stays the same from frame to frame then needs no agreement between
    frames. shared: (..., 1, C, H, W).
    """
    return SHARED**0.5 * shared + (1.0 - SHARED) ** 0.5 * own


def later(times_B: Tensor, frames: int) -> Tensor:
    """Even times moved towards the noise, as far as clips of so many frames ask for.

    Frames tell the same thing again, so that noise must be stronger until it hides what they show: Esser et al. (2024),
    arXiv:2403.03206, eq. 23; instead of pixels the frames are counted, less as noise is shared between them.
    """
    shift = (SHARED + (1.0 - SHARED) / frames) ** -0.5
    return times_B / (times_B + shift * (1.0 - times_B))


class Stage(nn.Module):
    """A residual block of pictures, then a layer along time."""

    def __init__(self, width: int, told: int, frames: int, side: int, *, loop: bool) -> None:
        super().__init__()
        self.picture = Block(width, told)
        self.time = AlongTime(width, frames, side, loop=loop)

    def forward(self, x_NCHW: Tensor, told_NE: Tensor) -> Tensor:
        return self.time(self.picture(x_NCHW, told_NE))


class VideoUNet(nn.Module):
    """Clips (B, T, C, H, W), times, spans and (where known) first frames to clips of the same shape.

    size_px: H and W, a multiple of ``patch``. width: channels of the finest level. blocks: stages a level and side.
    frames: T. loop: clips whose end joins their start.
    """

    def __init__(
        self, *, size_px: int, channels: int, width: int, blocks: int, patch: int, frames: int, loop: bool
    ) -> None:
        super().__init__()
        sides = levels(size_px // patch)
        widths = [width * min(WIDEST, 2**level) for level, _ in enumerate(sides)]
        told, taken = 4 * width, 2 * channels + 1
        self.told = Told(width=told, condition=0)
        self.into = nn.Sequential(nn.PixelUnshuffle(patch), nn.Conv2d(taken * patch**2, width, 3, padding=1))

        def stages(of: int, side: int) -> nn.ModuleList:
            return nn.ModuleList(Stage(of, told, frames, side, loop=loop) for _ in range(blocks))

        self.down = nn.ModuleList(map(stages, widths, sides))
        self.up = nn.ModuleList(map(stages, widths, sides))
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.twice = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.last = nn.Conv2d(width, (channels + 1) * patch**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        with torch.no_grad():
            self.last.bias[-(patch**2) :] = KEPT
        self.patch, self.frames = patch, frames

    def forward(
        self,
        x_BTCHW: Tensor,
        t_B: Tensor,
        span_B: Tensor,
        first_BCHW: Tensor | None = None,
        known_B: Tensor | None = None,
    ) -> Tensor:
        """known_B: 1 where the first frame is given, 0 where it is not; without it none is.

        Of a given frame, the network tells at each pixel of each frame how much of it is still to be seen there.
        """
        told_NE = self.told(t_B, span_B, None).repeat_interleave(self.frames, 0)
        x = self.into(self._shown(x_BTCHW, first_BCHW, known_B).contiguous(memory_format=CHANNELS_LAST))
        joined: list[Tensor] = []
        for level, stages in enumerate(self.down):
            if level:
                x = self.halve[level - 1](x)
            for stage in stages:  # type: ignore[attr-defined]
                x = stage(x, told_NE)
            joined.append(x)
        for level in reversed(range(len(joined))):
            if level < len(joined) - 1:
                x = F.pixel_shuffle(self.twice[level](x), 2) + joined[level]
            for stage in self.up[level]:  # type: ignore[attr-defined]
                x = stage(x, told_NE)
        found = F.pixel_shuffle(self.last(F.silu(norm(x))), self.patch).float().unflatten(0, (-1, self.frames))
        clip, kept_BT1HW = found[:, :, :-1], found[:, :, -1:].sigmoid()
        if first_BCHW is None or known_B is None:
            return clip
        return torch.lerp(clip, first_BCHW[:, None], kept_BT1HW * known_B.view(-1, 1, 1, 1, 1))

    def _shown(self, x: Tensor, first: Tensor | None, known_B: Tensor | None) -> Tensor:
        """Every frame with the known first frame behind it, and a plane that is 1 in the frame that is known."""
        shown, plane = torch.zeros_like(x), torch.zeros_like(x[:, :, :1])
        if first is not None and known_B is not None:
            known = known_B.to(x.dtype).view(-1, 1, 1, 1)
            shown = (first * known)[:, None].expand_as(x)
            plane[:, 0] = known.expand_as(plane[:, 0])
        return torch.cat([x, shown, plane], 2).flatten(0, 1)
