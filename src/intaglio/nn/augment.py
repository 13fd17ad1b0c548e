"""Augmentation for a critic that sees few pictures: every step differentiable, every picture with its own chances.

Paper:   Karras et al. (2020), "Training Generative Adversarial Networks with Limited Data", arXiv:2006.06676 (ADA):
         appendix B for the transformations, section 3.1 for the signs of overfitting.
Code:    written from the paper; differs in: rotation is small and done by three shears, as a photograph or a letter
         seldom stands on its head; no quarter turns, no filtering.
Licence: ours.
Shapes:  B batch, C channels, H height, W width. Floats in any range; what comes from outside has the value ``border``.

All of it is matrix products and gathers whose gradients are the same operations, so that bits repeat on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TURN = 0.2  # radians, standard deviation of a rotation
SHIFT = 0.125  # of the side, largest translation
STRETCH = 0.2 * math.log(2)  # standard deviation of the logarithm of a scale
BRIGHTER = 0.2  # standard deviation, of values in [-1, 1]
CONTRAST = 0.5 * math.log(2)
CUT = 0.5  # of the side


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Which transformations are drawn. mirror: left and right, right for faces and fruit, wrong for letters."""

    geometry: bool = True
    colour: bool = True
    cutout: bool = True
    mirror: bool = False


def augment(
    x_BCHW: Tensor, chance: Tensor | float, *, generator: torch.Generator, border: Tensor, kinds: Kinds | None = None
) -> Tensor:
    """Each picture moved, scaled, turned, recoloured and covered, each with probability ``chance``; 0 changes nothing.

    Args:
        chance: in [0, 1], a number or a tensor of no dimension on the pictures' device.
        border: (C, 1, 1), what lies outside the pictures and what covers them.
    """
    kinds = kinds or Kinds()
    if isinstance(chance, Tensor) and chance.device.type == "cpu":
        chance = float(chance)
    if not isinstance(chance, Tensor) and chance <= 0.0:
        return x_BCHW
    drawn = _Draws(len(x_BCHW), chance, generator, x_BCHW.device)
    x = (x_BCHW - border).float()
    if kinds.geometry or kinds.mirror:
        x = _placed(x, drawn, kinds)
    if kinds.colour:
        x = _coloured(x + border, drawn) - border
    if kinds.cutout:
        x = _covered(x, drawn)
    return x + border


class _Draws:
    """Numbers of each picture that are 0 where its coin says that nothing is to happen."""

    def __init__(self, count: int, chance: Tensor | float, generator: torch.Generator, device: torch.device) -> None:
        self.shape, self.chance, self.generator, self.device = (count, 1, 1), chance, generator, device

    def uniform(self) -> Tensor:
        return torch.rand(self.shape, generator=self.generator, device=self.device)

    def coin(self) -> Tensor:
        return (self.uniform() < self.chance).float()

    def normal(self, spread: float) -> Tensor:
        drawn = torch.randn(self.shape, generator=self.generator, device=self.device)
        return drawn * spread * self.coin()

    def between(self, reach: float) -> Tensor:
        return (self.uniform() * 2 - 1) * reach * self.coin()


def _placed(x_BCHW: Tensor, drawn: _Draws, kinds: Kinds) -> Tensor:
    height, width = x_BCHW.shape[2:]
    one = torch.ones(drawn.shape, device=x_BCHW.device)
    scale = wide = one
    down = right = torch.zeros_like(one)
    if kinds.geometry:
        scale, wide = drawn.normal(STRETCH).exp(), drawn.normal(STRETCH / 2).exp()
        down, right = (drawn.between(SHIFT) * height).round(), (drawn.between(SHIFT) * width).round()
    mirror = 1 - 2 * drawn.coin() * (drawn.uniform() < 0.5) if kinds.mirror else one
    rows_B1HH = resample(height, scale / wide, down)[:, None]
    columns_B1WW = resample(width, scale * wide * mirror, right)[:, None]
    x = rows_B1HH @ x_BCHW @ columns_B1WW.mT
    return turned(x, drawn.normal(TURN).flatten()) if kinds.geometry else x


def resample(side: int, scale_B11: Tensor, shift_B11: Tensor) -> Tensor:
    """Matrices (B, side, side) that scale a row of numbers about its middle (mirrored where negative) and shift it.

    Linear interpolation; what is made smaller is averaged, and what comes from outside is 0. Scale 1 and whole shifts
    are exact.
    """
    place = torch.arange(side, device=scale_B11.device, dtype=torch.float32)
    middle = (side - 1) / 2
    source_BS1 = (place[None, :, None] - middle - shift_B11) / scale_B11 + middle
    reach_B11 = (1 / scale_B11.abs()).clamp(min=1.0)
    return (1 - (source_BS1 - place[None, None, :]).abs() / reach_B11).clamp(min=0.0) / reach_B11


def turned(x_BCHW: Tensor, radians_B: Tensor) -> Tensor:
    """Each picture turned about its middle by an angle of less than a quarter turn, as three shears; 0 is exact."""
    height, width = x_BCHW.shape[2:]
    rows = torch.arange(height, device=x_BCHW.device) - (height - 1) / 2
    columns = torch.arange(width, device=x_BCHW.device) - (width - 1) / 2
    across_BH = -torch.tan(radians_B / 2)[:, None] * rows
    along_BW = torch.sin(radians_B)[:, None] * columns
    x = _Slide.apply(x_BCHW, across_BH)
    x = _Slide.apply(x.transpose(2, 3), along_BW).transpose(2, 3)
    return _Slide.apply(x, across_BH)


class _Slide(torch.autograd.Function):
    """Row h of picture b moved right by ``shift_BH`` with linear interpolation; its adjoint is the slide back."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, shift_BH: Tensor) -> Tensor:
        ctx.save_for_backward(shift_BH)
        return _slid(x_BCHW, shift_BH)

    @staticmethod
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor, None]:
        (shift_BH,) = ctx.saved_tensors
        return _Slide.apply(grad_BCHW, -shift_BH), None


def _slid(x_BCHW: Tensor, shift_BH: Tensor) -> Tensor:
    width = x_BCHW.shape[3]
    whole = shift_BH.floor()
    part = (shift_BH - whole)[:, None, :, None]
    source = torch.arange(width, device=x_BCHW.device) - whole[:, None, :, None].long()
    taken = _taken(x_BCHW, source) * (1 - part)
    return taken + _taken(x_BCHW, source - 1) * part


def _taken(x_BCHW: Tensor, source_B1HW: Tensor) -> Tensor:
    inside = (source_B1HW >= 0) & (source_B1HW < x_BCHW.shape[3])
    index = source_B1HW.clamp(0, x_BCHW.shape[3] - 1).expand(x_BCHW.shape)
    return x_BCHW.gather(3, index) * inside


def _coloured(x_BCHW: Tensor, drawn: _Draws) -> Tensor:
    x = x_BCHW * drawn.normal(CONTRAST).exp()[..., None] + drawn.normal(BRIGHTER)[..., None]
    if x.shape[1] < 3:
        return x
    grey = x.mean(1, keepdim=True)
    return grey + (x - grey) * drawn.normal(1.0).exp().clamp(max=3.0)[..., None]


def _covered(x_BCHW: Tensor, drawn: _Draws) -> Tensor:
    height, width = x_BCHW.shape[2:]
    rows = torch.arange(height, device=x_BCHW.device).view(1, height, 1) / height
    columns = torch.arange(width, device=x_BCHW.device).view(1, 1, width) / width
    inside = ((rows - drawn.uniform()).abs() < CUT / 2) & ((columns - drawn.uniform()).abs() < CUT / 2)
    return x_BCHW * (1 - inside.float() * drawn.coin())[:, None]


# ------------------------------------------------------------------------------------------------ how much of it
def held_sign(train_B: Tensor, heldout_B: Tensor, fake_B: Tensor) -> Tensor:
    """How far the critic has learned the training pictures by heart, from its answers (ADA, eq. 1, left).

    0: held-out pictures are to it as training ones are. 1: they are to it as generated ones are.
    """
    span = (train_B.mean() - fake_B.mean()).clamp(min=1e-3)
    return ((train_B.mean() - heldout_B.mean()) / span).clamp(-1.0, 1.0)


def pair_sign(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """Mean sign of D(x) - D(G(z)) over pairs: 0 where the critic knows nothing, 1 where it is never wrong. Stands in
    for the sign of D(x) (ADA, eq. 1, right), which means nothing to a critic that learns from differences alone."""
    return (real_B - fake_B).sign().mean()
