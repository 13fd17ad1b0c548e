"""Networks that play against each other, the loss of their game, and the penalties that let it settle.

Papers:  Huang et al. (2024), "The GAN is dead; long live the GAN!", arXiv:2501.05441 (R3GAN: the paired relativistic
         loss, eq. 4, with both penalties, eq. 5 and 6; residual networks without normalization); Mescheder et al.
         (2018), arXiv:1801.04406 (zero-centred penalties R1 and R2); Miyato and Koyama (2018), arXiv:1802.05637
         (the condition as a projection); Zhang et al. (2019), arXiv:1901.09321 (residual branches that start at zero).
Code:    written from the papers; differs in: both players learn from one pass through the critic (``for_two``).
Licence: ours.
Shapes:  B batch, C channels, H height, W width, Z latent numbers, K numbers of a condition. Pictures are floats in
         [-1, 1]. The critic's answer (B,) has no unit: only differences between answers mean something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST = 4  # times the finest width, at the coarsest level
FINE = 2  # the finest width over the channels at full size
TOLD = 0.2  # of the noise's size is a condition; as large as the noise, it made the generator draw one picture a class
_STEEPEST = 12.0  # exp of more than this is no sensible weight


# ------------------------------------------------------------------------------------------------------- the game
def relativistic_nats(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """The critic's loss of each pair, ``softplus(-(D(x) - D(G(z))))``; log 2 where it cannot tell them apart (eq. 4).

    The generator's loss of the same pair is that of the pair turned round, ``relativistic_nats(fake_B, real_B)``.
    """
    return F.softplus(fake_B - real_B)


class _ForTwo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weights: list[Tensor]) -> Tensor:
        ctx.weights = weights
        return x_BCHW.view_as(x_BCHW)

    @staticmethod
    def backward(ctx: Any, grad_BCHW: Tensor) -> tuple[Tensor, None]:
        return grad_BCHW * ctx.weights[-1].view(-1, 1, 1, 1).to(grad_BCHW.dtype), None


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1.0, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        further = ((x > 1.0) & (grad < 0)) | ((x < -1.0) & (grad > 0))
        return grad.masked_fill(further, 0.0)


def cut(x: Tensor) -> Tensor:
    """Cut to [-1, 1], with the gradient of what may come back: only steps that would lead further out have none.

    Black and white are then met exactly, and a picture that is wrong everywhere can still be mended, which behind a
    squashing function it cannot.
    """
    return _Cut.apply(x)


def for_two(fake_BCHW: Tensor) -> tuple[Tensor, Callable[[Tensor, Tensor], None]]:
    """Lets one backward pass of the critic's loss give the generator the gradient of its own loss.

    With ``d = D(x) - D(G(z))`` the two losses of a pair pull at D(G(z)) with sigmoid(-d) and -sigmoid(d): the same
    gradient but for a factor -exp(d) a picture. As the critic looks at each picture alone (it has no batch
    normalization), that factor can be put on where the gradient leaves the critic, and the second pass through it is
    saved.

    Returns:
        The pictures for the critic, and a function to be called with the critic's answers (real_B, fake_B) before
        ``backward``. Nothing but ``relativistic_nats`` of these pairs may depend on the pictures returned.
    """
    weights: list[Tensor] = []

    def answered(real_B: Tensor, fake_B: Tensor) -> None:
        weights.append(-(real_B - fake_B).detach().float().clamp(max=_STEEPEST).exp())

    return _ForTwo.apply(fake_BCHW, weights), answered


def exact_slope(critic: Callable[[Tensor], Tensor], x_BCHW: Tensor) -> Tensor:
    """Squared norm of the critic's gradient at each picture, (B,), by differentiating twice; half of it, weighted by
    gamma, is R1 on real pictures and R2 on generated ones."""
    x = x_BCHW.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).float().sum(), x, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)


def probes(x_BCHW: Tensor, *, reach: float, generator: torch.Generator) -> Tensor:
    """Each picture moved there and back by normal noise of standard deviation ``reach`` a number: (2B, C, H, W)."""
    x = x_BCHW.detach()
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype) * reach
    return torch.cat([x + noise, x - noise])


def probed_slope(answers_2B: Tensor, *, reach: float) -> Tensor:
    """``exact_slope`` from the answers to ``probes``, (B,): the squared slope along the noise.

    Its mean over the noise is the squared norm of the gradient of the critic, exactly for a critic that is linear
    within the reach; one number of it strays by sqrt(2) times its mean. Needs no second derivative, so that it runs in
    bfloat16 and with every kernel.
    """
    there, back = answers_2B.float().chunk(2)
    return ((there - back) / (2.0 * reach)).square()


# ------------------------------------------------------------------------------------------------------- the networks
def levels(size_px: int) -> list[int]:
    """Sides of the feature maps: half of ``size_px``, then halved while it stays whole and above 7.

    Errors: ValueError: size_px is odd or below 8.
    """
    if size_px < 8 or size_px % 2:
        raise ValueError(f"size_px must be even and 8 at least. Received: size_px={size_px}")
    found = [size_px // 2]
    while found[-1] % 2 == 0 and found[-1] > 7:
        found.append(found[-1] // 2)
    return found


def widths(size_px: int, width: int) -> list[int]:
    """Channels at each of ``levels``: doubled at each halving, up to ``MOST`` times the finest."""
    return [width * min(MOST, 1 << level) for level in range(len(levels(size_px)))]


class Block(nn.Module):
    """x + conv(f(conv(f(x)))) with leaky rectifiers f, the second convolution starting at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width, 3)
        self.second = _conv(width, width, 3)
        nn.init.zeros_(self.second.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        hidden = self.first(F.leaky_relu(x_BCHW, 0.2))
        return x_BCHW + self.second(F.leaky_relu(hidden, 0.2))


class Generator(nn.Module):
    """Noise (B, Z), and a condition (B, K) where ``conditions`` is not 0, to pictures (B, C, H, W).

    Every level adds to the picture of the coarser one, enlarged by bilinear steps (Karras et al. (2020),
    arXiv:1912.04958, section 4.1): what no level has learned yet comes out smooth, not grained. For the same reason
    a convolution at full size, with few channels, has the last word: pixels shuffled side by side know nothing of
    each other. What is learned is what differs from the mean picture, cut to [-1, 1] (``cut``).
    """

    mean_CHW: Tensor
    spread: Tensor

    def __init__(
        self, *, size_px: int, channels: int, width: int, latents: int, conditions: int = 0, blocks: int = 1
    ) -> None:
        super().__init__()
        sides, wide = levels(size_px), widths(size_px, width)
        self.start = (wide[-1], sides[-1], sides[-1])
        embedded = min(latents, 64) if conditions else 0
        self.embed = nn.Linear(conditions, embedded, bias=False) if conditions else None
        self.into = nn.Linear(latents + embedded, wide[-1] * sides[-1] ** 2)
        order = list(reversed(range(len(sides))))
        self.blocks = nn.ModuleList(nn.Sequential(*[Block(wide[n]) for _ in range(blocks)]) for n in order)
        self.shown = nn.ModuleList(_conv(wide[n], channels, 3, gain=0.5) for n in order)
        self.finer = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wide[n], 4 * wide[n - 1], 1, bias=False), nn.PixelShuffle(2)) for n in order[:-1]
        )
        fine = wide[0] // FINE
        self.out = nn.Sequential(
            nn.Conv2d(wide[0], 4 * fine, 1, bias=False),
            nn.PixelShuffle(2),
            _conv(fine, fine, 3),
            nn.LeakyReLU(0.2),
            _conv(fine, channels, 3, gain=0.1),
        )
        self.register_buffer("mean_CHW", torch.zeros(channels, size_px, size_px))
        self.register_buffer("spread", torch.tensor(0.5))

    def start_from(self, mean_CHW: Tensor, spread: float) -> None:
        """Take in the mean picture and the standard deviation around it, both of the training pictures in [-1, 1]."""
        self.mean_CHW.copy_(mean_CHW)
        self.spread.fill_(max(spread, 1e-2))

    def forward(self, z_BZ: Tensor, condition_BK: Tensor | None = None) -> Tensor:
        if self.embed is not None:
            z_BZ = torch.cat([z_BZ, TOLD * _unit(self.embed(condition_BK))], 1)
        x = self.into(z_BZ).view(-1, *self.start).contiguous(memory_format=torch.channels_last)
        picture: Tensor | None = None
        for number, (block, shown) in enumerate(zip(self.blocks, self.shown, strict=True)):
            x = block(x if number == 0 else self.finer[number - 1](x))
            seen = shown(F.leaky_relu(x, 0.2))
            picture = seen if picture is None else _twice(picture) + seen
        assert picture is not None
        picture = _twice(picture) + self.out(F.leaky_relu(x, 0.2))
        return cut(self.mean_CHW + self.spread * picture.float())


class Critic(nn.Module):
    """Pictures (B, C, H, W), and conditions (B, K) where ``conditions`` is not 0, to one number each, float32.

    Every picture is judged alone: nothing is normalized over the batch.
    """

    def __init__(
        self, *, size_px: int, channels: int, width: int, conditions: int = 0, blocks: int = 1, features: int = 256
    ) -> None:
        super().__init__()
        sides, wide = levels(size_px), widths(size_px, width)
        fine = wide[0] // FINE
        layers: list[nn.Module] = [_conv(channels, fine, 3), nn.LeakyReLU(0.2)]  # sees every pixel's neighbours alike
        layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * fine, wide[0], 1, bias=False)]
        for level in range(len(sides)):
            if level:
                layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * wide[level - 1], wide[level], 1, bias=False)]
            layers += [Block(wide[level]) for _ in range(blocks)]
        self.maps = nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Flatten())
        self.seen = nn.Sequential(nn.Linear(wide[-1] * sides[-1] ** 2, features), nn.LeakyReLU(0.2))
        self.out = nn.Linear(features, 1)
        self.embed = nn.Linear(conditions, features, bias=False) if conditions else None

    def forward(self, x_BCHW: Tensor, condition_BK: Tensor | None = None) -> Tensor:
        seen_BF = self.seen(self.maps(x_BCHW.contiguous(memory_format=torch.channels_last))).float()
        # by hand, so that it stays float32: the penalties take small differences of answers
        answer_B = (seen_BF * self.out.weight).sum(1) + self.out.bias
        if self.embed is not None:
            assert condition_BK is not None
            answer_B = answer_B + (seen_BF * _unit(self.embed(condition_BK).float())).mean(1)
        return answer_B


def _unit(x_BE: Tensor) -> Tensor:
    """Scaled so that the mean square of each row is 1."""
    return x_BE * torch.rsqrt(x_BE.square().mean(1, keepdim=True) + 1e-8)


def _twice(x_BCHW: Tensor) -> Tensor:
    return F.interpolate(x_BCHW, scale_factor=2, mode="bilinear", align_corners=False)


def _conv(inputs: int, outputs: int, kernel: int, *, gain: float = 1.0) -> nn.Conv2d:
    made = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(made.weight, a=0.2)
    assert made.bias is not None
    with torch.no_grad():
        made.weight.mul_(gain)
    nn.init.zeros_(made.bias)
    return made
