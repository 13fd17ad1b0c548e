"""A codebook: each vector becomes the nearest of K learned ones, which follow the vectors by moving averages.

Papers:  van den Oord et al. (2017), "Neural Discrete Representation Learning", arXiv:1711.00937, eq. 1 to 3 and
         appendix A.1 (moving averages); Bengio et al. (2013), arXiv:1308.3432 (straight-through gradients);
         Zeghidour et al. (2021), "SoundStream", arXiv:2107.03312, III-C (vectors that are hardly used start anew).
Licence: ours, written from the papers.
Shapes:  B batch, C channels, H height, W width, N vectors, K entries of the codebook.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

DEAD = 0.02  # of the mass an entry has if all are used alike; below it, it starts anew
_SMOOTH = 1e-5


@dataclass(frozen=True)
class Quantized:
    """values: (B, C, H, W), entries of the codebook, with the gradient of what was quantized; codes: (B, H, W), int64;
    commitment: scalar, the mean squared distance, whose gradient pulls what is quantized towards its entries."""

    values_BCHW: Tensor
    codes_BHW: Tensor
    commitment: Tensor


class Codebook(nn.Module):
    """K vectors; no gradient reaches them. In training they move at each call, in eval mode they stay.

    All of its state is buffers, so a resumed training goes on with the same entries. Where ``shared`` is set, each call
    is made by all processes of a training at once: they add up what they saw, so that all hold the same book.

    decay: share of the moving averages kept at each call.
    """

    vectors_KC: Tensor
    mass_K: Tensor
    sums_KC: Tensor
    calls: Tensor
    revived: Tensor

    def __init__(self, *, size: int, channels: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay, self.shared = decay, False
        self.register_buffer("vectors_KC", torch.zeros(size, channels))
        self.register_buffer("mass_K", torch.zeros(size))
        self.register_buffer("sums_KC", torch.zeros(size, channels))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("revived", torch.zeros((), dtype=torch.int64))

    def forward(self, x_BCHW: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantize; in training the generator chooses which vectors entries start from.

        Errors: ValueError in training without a generator.
        """
        with torch.autocast(x_BCHW.device.type, enabled=False):
            x = x_BCHW.float()
            flat_NC = x.permute(0, 2, 3, 1).flatten(0, 2)
            if self.training:
                if generator is None:
                    raise ValueError("a codebook in training needs a generator")
                self._begin(flat_NC.detach(), generator)
            codes_N = self.nearest(flat_NC)
            values = self.values(codes_N.view(len(x), *x.shape[2:]))
            if self.training:
                self._follow(flat_NC.detach(), codes_N, generator)
            commitment = F.mse_loss(x, values)
            return Quantized(x + (values - x).detach(), codes_N.view(len(x), *x.shape[2:]), commitment)

    @torch.no_grad()
    def nearest(self, x_NC: Tensor) -> Tensor:
        """Index of the nearest entry of each vector, (N,), int64; of two equally near the first."""
        squares_K = self.vectors_KC.square().sum(1)
        return (squares_K - 2.0 * x_NC.detach() @ self.vectors_KC.T).argmin(1)

    def values(self, codes_BHW: Tensor) -> Tensor:
        """The entries of codes as maps, (B, C, H, W)."""
        return self.vectors_KC[codes_BHW].movedim(-1, 1).contiguous()

    @torch.no_grad()
    def _begin(self, x_NC: Tensor, generator: torch.Generator | None) -> None:
        if int(self.calls):
            return
        self._put(torch.ones_like(self.mass_K, dtype=torch.bool), x_NC, generator)

    @torch.no_grad()
    def _follow(self, x_NC: Tensor, codes_N: Tensor, generator: torch.Generator | None) -> None:
        chosen_NK = F.one_hot(codes_N, len(self.mass_K)).to(x_NC)
        counts_K, sums_KC = chosen_NK.sum(0), chosen_NK.T @ x_NC
        if self.shared:
            dist.all_reduce(counts_K)
            dist.all_reduce(sums_KC)
        self.mass_K.lerp_(counts_K, 1.0 - self.decay)
        self.sums_KC.lerp_(sums_KC, 1.0 - self.decay)
        total = self.mass_K.sum()
        smoothed = (self.mass_K + _SMOOTH) / (total + len(self.mass_K) * _SMOOTH) * total
        self.vectors_KC.copy_(self.sums_KC / smoothed[:, None])
        self.calls += 1
        dead = self.mass_K < DEAD * total / len(self.mass_K)
        if bool(dead.any()):
            self.revived += dead.sum()
            self._put(dead, x_NC, generator)

    def _put(self, which_K: Tensor, x_NC: Tensor, generator: torch.Generator | None) -> None:
        """Give these entries vectors of this batch, chosen by chance, and the mass of an entry of a full book."""
        size = len(self.mass_K)
        place = torch.randint(len(x_NC), (size,), generator=generator, device=x_NC.device)
        fresh_KC = x_NC[place]
        if self.shared:
            dist.broadcast(fresh_KC, 0)
        mass = len(x_NC) / size
        self.vectors_KC[which_K] = fresh_KC[which_K]
        self.mass_K[which_K] = mass
        self.sums_KC[which_K] = fresh_KC[which_K] * mass


def usage(codes: Tensor, size: int) -> tuple[int, float]:
    """How many entries these codes use, and their perplexity: how many they would be if all were used alike."""
    share = torch.bincount(codes.flatten(), minlength=size).double()
    share = share / share.sum()
    entropy = -(share[share > 0] * share[share > 0].log()).sum()
    return int((share > 0).sum()), float(entropy.exp())
