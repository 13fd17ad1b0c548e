"""A small U-shaped convolutional network that answers a picture with a picture, told a time and a condition.

Papers:  Ronneberger et al. (2015), "U-Net", arXiv:1505.04597; Perez et al. (2018), "FiLM", arXiv:1709.07871;
         Shi et al. (2016), arXiv:1609.05158 (pixel shuffle).
Code:    written from the papers; differs in: levels are joined by sums; norms are over the channels of a place (RMS);
         the finest level works on patches of pixels, where a processor multiplies fast.
Licence: ours.
Shapes:  B batch, C channels, H height, W width, E embedding, K numbers of a condition.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intaglio.nn.functions import normalize

EPS = 1e-6
WIDEST = 2  # times the finest level's channels; more costs Muon more than it tells (docs/LOG.md)


class Told(nn.Module):
    """Time, span and condition as one vector (B, E).

    A condition is a row (B, K) of length about 1; a row of zeros is "nothing said". The span's part starts at zero.
    """

    frequencies: Tensor

    def __init__(self, *, width: int, condition: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0.0, math.log(200.0), 32)), persistent=False)
        self.time = nn.Linear(64, width)
        self.span = nn.Linear(64, width, bias=False)
        nn.init.zeros_(self.span.weight)
        self.out = nn.Linear(width, width)
        self.condition = nn.Linear(condition, width, bias=False) if condition else None
        if self.condition is not None:
            nn.init.normal_(self.condition.weight, std=0.5)

    def forward(self, t_B: Tensor, span_B: Tensor, rows_BK: Tensor | None) -> Tensor:
        known = self.time(self._waves(t_B)) + self.span(self._waves(span_B) - self._waves(torch.zeros_like(span_B)))
        if self.condition is not None and rows_BK is not None:
            known = known + self.condition(rows_BK)
        return F.silu(self.out(F.silu(known)))

    def _waves(self, t_B: Tensor) -> Tensor:
        angle = t_B[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], 1)


class Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x) * (1 + a) + b))))), a and b told; the second convolution starts at zero."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.told = nn.Linear(told, 2 * width)
        nn.init.zeros_(self.told.weight)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x_BCHW: Tensor, told_BE: Tensor) -> Tensor:
        scale, shift = self.told(told_BE).to(x_BCHW.dtype)[:, :, None, None].chunk(2, 1)
        hidden = self.first(F.silu(torch.addcmul(shift, norm(x_BCHW), 1 + scale)))
        return x_BCHW + self.second(F.silu(norm(hidden)))


class Attention(nn.Module):
    """Every place looks at every other; its outcome starts at zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.out = nn.Conv2d(width, width, 1, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        b, c, h, w = x_BCHW.shape
        y_BGTH = self.qkv(norm(x_BCHW)).permute(0, 2, 3, 1).reshape(b, h * w, 3 * self.heads, -1).transpose(1, 2)
        q, k, v = y_BGTH.chunk(3, 1)
        return x_BCHW + self.out(looked(q, k, v).transpose(1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2))


def looked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of every place to every other: (B, N, T, H) each. By plain products on a CPU, faster for few places."""
    if q.is_cuda or q.shape[2] > 512:
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q @ k.mT).float() * q.shape[-1] ** -0.5
    return scores.softmax(-1).to(v.dtype) @ v


def norm(x_BCHW: Tensor) -> Tensor:
    """Each place's channels divided by their root mean square."""
    return normalize(x_BCHW.permute(0, 2, 3, 1), eps=EPS, dtype=x_BCHW.dtype).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """Pictures (B, C, H, W), times, spans and conditions to pictures of the same shape.

    size_px: H and W, a multiple of ``patch``. width: channels of the finest level; each level below has half the side
    and at most ``WIDEST`` times as many. blocks: residual blocks a level, on each side. condition: how many
    numbers a condition has, 0 for none.
    """

    def __init__(self, *, size_px: int, channels: int, width: int, blocks: int, patch: int, condition: int) -> None:
        super().__init__()
        sides = levels(size_px // patch)
        widths = [width * min(WIDEST, 2**level) for level, _ in enumerate(sides)]
        told = 4 * width
        self.told = Told(width=told, condition=condition)
        self.into = nn.Sequential(nn.PixelUnshuffle(patch), nn.Conv2d(channels * patch**2, width, 3, padding=1))
        self.down = nn.ModuleList(nn.ModuleList(Block(w, told) for _ in range(blocks)) for w in widths)
        self.up = nn.ModuleList(nn.ModuleList(Block(w, told) for _ in range(blocks)) for w in widths)
        self.attention = Attention(widths[-1], max(1, widths[-1] // 64)) if sides[-1] <= 16 else nn.Identity()
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.twice = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.last = nn.Conv2d(width, channels * patch**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        self.patch = patch

    def forward(self, x_BCHW: Tensor, t_B: Tensor, span_B: Tensor, rows_BK: Tensor | None = None) -> Tensor:
        told_BE = self.told(t_B, span_B, rows_BK)
        x = self.into(x_BCHW.contiguous(memory_format=torch.channels_last))
        kept: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            if level:
                x = self.halve[level - 1](x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, told_BE)
            kept.append(x)
        x = self.attention(x)
        for level in reversed(range(len(kept))):
            if level < len(kept) - 1:
                x = F.pixel_shuffle(self.twice[level](x), 2) + kept[level]
            for block in self.up[level]:  # type: ignore[attr-defined]
                x = block(x, told_BE)
        return F.pixel_shuffle(self.last(F.silu(norm(x))), self.patch).float()


def levels(side: int) -> list[int]:
    """Sides of the maps, from ``side`` halved while it stays even and above 4."""
    found = [side]
    while found[-1] % 2 == 0 and found[-1] > 7:
        found.append(found[-1] // 2)
    return found
