"""A U-shaped network over clips: the layers of pictures frame by frame, and layers that look along time between them.

Papers:  Ho et al. (2022), "Video Diffusion Models", arXiv:2204.03458 (a picture network with attention over time behind
         each level, left out for single pictures); Shaw et al. (2018), arXiv:1803.02155 (attention told how far apart
         two frames are); Xu et al. (2022), arXiv:2111.13680 (motion as the mean of what matches); Siarohin et al.
         (2019), arXiv:2003.00196 (a given frame is warped, and masked where that can't show what is there).
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
MATCHED = 24  # places a side up to which a frame is matched with the first at every one of them
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


def warp(x_BCHW: Tensor, moved_BT2HW: Tensor) -> Tensor:
    """What is seen of a picture at each place moved by so many pixels (down, right): (B, T, C, H, W), bilinear.

    Beyond its border the picture goes on as at the border. By indices, since ``grid_sample`` has no deterministic
    gradient on a GPU; ours is so as long as no gradient is asked for the picture.
    """
    (b, c, h, w), frames = x_BCHW.shape, moved_BT2HW.shape[1]
    place = [torch.arange(size, device=x_BCHW.device, dtype=torch.float32) for size in (h, w)]
    y = (place[0][:, None] + moved_BT2HW[:, :, 0]).clamp(0, h - 1)
    x = (place[1] + moved_BT2HW[:, :, 1]).clamp(0, w - 1)
    top, left = (each.detach().floor().clamp(max=size - 2) for each, size in ((y, h), (x, w)))
    down, right = (y - top).unsqueeze(2), (x - left).unsqueeze(2)
    at_B1P = (top * w + left).long().flatten(1).unsqueeze(1)
    flat = x_BCHW.float().flatten(2)

    def seen(step: int) -> Tensor:
        found = flat.gather(2, (at_B1P + step).expand(-1, c, -1))
        return found.view(b, c, frames, h, w).transpose(1, 2)

    above, below = torch.lerp(seen(0), seen(1), right), torch.lerp(seen(w), seen(w + 1), right)
    return torch.lerp(above, below, down)


def between_places(fine: int, coarse: int) -> Tensor:
    """Weights (fine, coarse) of linear interpolation from the middles of coarse places to those of fine ones."""
    at = ((torch.arange(fine) + 0.5) * coarse / fine - 0.5).clamp(0, coarse - 1)
    return (1.0 - (at[:, None] - torch.arange(coarse)).abs()).clamp(min=0)


class Motion(nn.Module):
    """How far each pixel of each frame lies apart from where the first frame shows it: (B, T, 2, H, W), down and right.

    Each place looks for itself among those of the first frame; the mean of where it is found is told (Xu et al., 2022,
    eq. 3), at first close by. A convolution adds to it, at first nothing.
    """

    where: Tensor
    rise: Tensor

    def __init__(self, width: int, frames: int, sides: list[int], size_px: int) -> None:
        super().__init__()
        side = next((each for each in sides if each <= MATCHED), sides[-1])
        self.frames, self.pixels = frames, size_px / side
        self.alike = nn.Conv2d(width, width, sides[0] // side, stride=sides[0] // side, bias=False)
        self.more = nn.Conv2d(width, 2, sides[0] // side, stride=sides[0] // side)
        nn.init.zeros_(self.more.weight)
        assert self.more.bias is not None
        nn.init.zeros_(self.more.bias)
        self.sharp, self.near = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(0.5))
        place = torch.arange(side).float()
        self.register_buffer("where", torch.cartesian_prod(place, place), persistent=False)
        self.register_buffer("rise", between_places(size_px, side), persistent=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        found_NCP = self.alike(x_NCHW).flatten(2)
        found_BTPC = normalize(found_NCP.mT, eps=EPS, dtype=found_NCP.dtype).unflatten(0, (-1, self.frames))
        scores = (found_BTPC @ found_BTPC[:, :1].mT).float() * (found_BTPC.shape[-1] ** -0.5 * self.sharp)
        apart_2PP = (self.where - self.where[:, None]).permute(2, 0, 1)
        looked_BTPP = (scores - self.near * apart_2PP.square().sum(0)).softmax(3)
        moved = (looked_BTPP[:, :, None] * apart_2PP).sum(4)
        places = (moved + self.more(x_NCHW).float().flatten(2).unflatten(0, (-1, self.frames))) * self.pixels
        side = round(len(self.where) ** 0.5)
        return self._risen(self._risen(places.unflatten(3, (side, side))).mT).mT

    def _risen(self, x: Tensor) -> Tensor:
        """Places along the last dimension to pixels; by sums, since half precision would lose parts of a pixel."""
        return (x[..., None] * self.rise.T).sum(-2)


class Stage(nn.Module):
    """A residual block of pictures, then a layer along time where there is more than one frame."""

    def __init__(self, width: int, told: int, frames: int, side: int, *, loop: bool) -> None:
        super().__init__()
        self.picture = Block(width, told)
        self.time = AlongTime(width, frames, side, loop=loop)

    def forward(self, x_NCHW: Tensor, told_NE: Tensor, *, alone: bool) -> Tensor:
        x = self.picture(x_NCHW, told_NE)
        return x if alone else self.time(x)


class VideoUNet(nn.Module):
    """Pictures (B, 1, C, H, W), or clips (B, T, C, H, W) with their first frames, to what is expected in their place.

    size_px: H and W, a multiple of ``patch``. width: channels of the finest level. blocks: stages a level and side.
    frames: T. loop: clips whose end joins their start.
    """

    since: Tensor
    where: Tensor

    def __init__(
        self, *, size_px: int, channels: int, width: int, blocks: int, patch: int, frames: int, loop: bool
    ) -> None:
        super().__init__()
        sides = levels(size_px // patch)
        widths = [width * min(WIDEST, 2**level) for level, _ in enumerate(sides)]
        told, taken = 4 * width, 2 * channels
        self.told = Told(width=told, condition=0)
        self.into = nn.Sequential(nn.PixelUnshuffle(patch), nn.Conv2d(taken * patch**2, width, 3, padding=1))
        self.place = nn.Conv2d(3, width, 1, bias=False)

        def stages(of: int, side: int) -> nn.ModuleList:
            return nn.ModuleList(Stage(of, told, frames, side, loop=loop) for _ in range(blocks))

        self.down = nn.ModuleList(map(stages, widths, sides))
        self.up = nn.ModuleList(map(stages, widths, sides))
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.twice = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.last = nn.Conv2d(width, (channels + 1) * patch**2, 3, padding=1)
        self.motion = Motion(width, frames, sides, size_px)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        with torch.no_grad():
            self.last.bias[-(patch**2) :] = KEPT
        self.patch, self.frames = patch, frames
        since = torch.arange(frames)
        since = torch.minimum(since, frames - since) if loop else since
        self.register_buffer("since", since.float().view(-1, 1, 1, 1), persistent=False)
        along = torch.linspace(-1.0, 1.0, sides[0])
        self.register_buffer("where", torch.stack(torch.meshgrid(along, along, indexing="ij")), persistent=False)

    def forward(
        self, x_BTCHW: Tensor, t_B: Tensor, span_B: Tensor, first_BCHW: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What is expected, and the first frame alone as it is moved, to learn motion by (pictures: the former twice).

        Of the first frame, the network tells at each pixel of each frame how far it has moved, and how much of it is
        still to be seen there. first_BCHW: the first frames, which clips must have and pictures (one frame) have not.
        """
        frames = x_BTCHW.shape[1]
        assert (frames == 1) == (first_BCHW is None), "a clip goes on from its first frame"
        told_NE = self.told(t_B, span_B, None).repeat_interleave(frames, 0)
        x = self._through(self._taken(x_BTCHW, first_BCHW), told_NE, alone=frames == 1)
        x = F.silu(norm(x))
        found = F.pixel_shuffle(self.last(x), self.patch).float().unflatten(0, (-1, frames))
        clip, kept_BT1HW = found[:, :, :-1], found[:, :, -1:].sigmoid()
        if first_BCHW is None:
            return clip, clip
        moved = warp(first_BCHW, self.motion(x))
        return torch.lerp(clip, moved, kept_BT1HW), moved

    def _taken(self, x: Tensor, first: Tensor | None) -> Tensor:
        """Every frame with the known first frame behind it, and planes that tell where a place is, and when."""
        frames = x.shape[1]
        shown = torch.zeros_like(x) if first is None else first[:, None].expand_as(x)
        taken = torch.cat([x, shown], 2).flatten(0, 1).contiguous(memory_format=CHANNELS_LAST)
        when = (self.since[:frames] / self.frames).expand(-1, 1, *self.where.shape[1:])
        places_T3HW = torch.cat([self.where.expand(frames, -1, -1, -1), when], 1)
        return self.into(taken) + self.place(places_T3HW).repeat(len(x), 1, 1, 1)

    def _through(self, x: Tensor, told_NE: Tensor, *, alone: bool) -> Tensor:
        joined: list[Tensor] = []
        for level, stages in enumerate(self.down):
            if level:
                x = self.halve[level - 1](x)
            for stage in stages:  # type: ignore[attr-defined]
                x = stage(x, told_NE, alone=alone)
            joined.append(x)
        for level in reversed(range(len(joined))):
            if level < len(joined) - 1:
                x = F.pixel_shuffle(self.twice[level](x), 2) + joined[level]
            for stage in self.up[level]:  # type: ignore[attr-defined]
                x = stage(x, told_NE, alone=alone)
        return x
