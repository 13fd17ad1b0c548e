"""A transformer over patches that answers a picture with a picture, told a time and a condition.

Papers:  Peebles and Xie (2023), "Scalable Diffusion Models with Transformers", arXiv:2212.09748 (adaLN-Zero);
         Li and He (2025), "Back to Basics: Let Denoising Generative Models Denoise", arXiv:2511.13720.
Code:    written from the papers; differs in: gated linear units, RMS norms, one matrix tells all layers.
Licence: ours.
Shapes:  B batch, C channels, H height, W width, T patches, D width, N heads, E embedding, K numbers of a condition.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intaglio.nn.functions import normalize, swiglu
from intaglio.nn.unet import EPS, Told, looked


class Layer(nn.Module):
    """Attention (where there is more than one patch) and gated linear units, each scaled, shifted and gated as told."""

    def __init__(self, width: int, heads: int, told: int, patches: int) -> None:
        super().__init__()
        self.heads = heads
        hidden = -(-width * 8 // 3 // 32) * 32
        if patches > 1:
            self.qkv = nn.Linear(width, 3 * width, bias=False)
            self.out = nn.Linear(width, width, bias=False)
        self.told = nn.Linear(told, 6 * width)
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTD: Tensor, told_BE: Tensor) -> Tensor:
        a, b, c, d, e, f = self.told(told_BE).to(x_BTD.dtype)[:, None].chunk(6, -1)
        if hasattr(self, "qkv"):
            y = torch.addcmul(b, normalize(x_BTD, eps=EPS, dtype=x_BTD.dtype), 1 + a)
            q, k, v = self.qkv(y).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).chunk(3, 1)
            q, k = (normalize(each, eps=EPS, dtype=v.dtype) for each in (q, k))
            x_BTD = torch.addcmul(x_BTD, c, self.out(looked(q, k, v).transpose(1, 2).flatten(2)))
        y = torch.addcmul(e, normalize(x_BTD, eps=EPS, dtype=x_BTD.dtype), 1 + d)
        return torch.addcmul(x_BTD, f, self.down(swiglu(self.gate_up(y))))


class DiT(nn.Module):
    """As ``unet.UNet``; width: numbers a patch becomes, a multiple of 64. depth: layers.

    A picture of one patch (a vector code) makes it a plain residual perceptron.
    """

    def __init__(self, *, size_px: int, channels: int, width: int, depth: int, patch: int, condition: int) -> None:
        super().__init__()
        self.patch, self.side = patch, size_px // patch
        told = max(128, width)
        self.told = Told(width=told, condition=condition)
        self.into = nn.Linear(channels * patch**2, width)
        self.place = nn.Parameter(torch.randn(self.side**2, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, width // 64, told, self.side**2) for _ in range(depth))
        self.last_told = nn.Linear(told, 2 * width)
        nn.init.zeros_(self.last_told.weight)
        self.last = nn.Linear(width, channels * patch**2)
        nn.init.zeros_(self.last.weight)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, span_B: Tensor, rows_BK: Tensor | None = None) -> Tensor:
        told_BE = self.told(t_B, span_B, rows_BK)
        patches = F.pixel_unshuffle(x_BCHW, self.patch).flatten(2).mT
        x = self.into(patches)
        x = x + self.place.to(x.dtype)
        for layer in self.layers:
            x = layer(x, told_BE)
        scale, shift = self.last_told(told_BE).to(x.dtype)[:, None].chunk(2, -1)
        y = self.last(torch.addcmul(shift, normalize(x, eps=EPS, dtype=x.dtype), 1 + scale))
        return F.pixel_shuffle(y.mT.unflatten(2, (self.side, self.side)), self.patch).float()
