"""Generator and critic as one module, a step of their game, and what the generator is judged by; for ``models/gan.py``.

Shapes:  B batch, C channels, H height, W width, Z latent numbers, K numbers of a condition, N held-out pictures,
         D features. Pictures are uint8, or floats in [-1, 1] between the networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from intaglio.models._facts import Depth, Side, Width, one_of
from intaglio.nn import gan, measures
from intaglio.nn.augment import Kinds, augment, held_sign, pair_sign
from intaglio.nn.optim import Muon, adamw
from intaglio.nn.order import derive

PROBED = 8  # one picture in so many is asked for the critic's slope at it, every step
REACH = 0.05  # of the probes, in values of [-1, 1]: beyond what bfloat16 rounds away
FEWEST_HELDOUT = 32  # with fewer, overfitting is told from the pairs' signs
HELDOUT_EVERY = 4  # steps between two looks at what the critic says of held-out pictures
OVERFIT = {"heldout": 0.4, "pairs": 0.8}  # the sign of overfitting at which augmentation is neither raised nor lowered
RAISED_OVER = 40_000  # pictures in which the chance of augmentation could rise from 0 to 1
MOST_CHANCE = 0.75  # above it the generator learns the augmentations too (Karras et al., 2020, fig. 4)
MOMENTUM = 0.5  # of Muon
ROWS = 128  # of a wide matrix, made orthogonal to each other: steadier than all 256 of the critic, and less work
UNITS = 256  # held-out pictures each evaluation goes by


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the networks look like; kept in ``config.json`` of a checkpoint. conditions: K, 0 where nothing is told."""

    size_px: Side
    channels: Annotated[int, one_of(1, 3)]
    width: Width
    latents: Width
    conditions: Annotated[int, Field(ge=0, le=1_000)]
    blocks: Depth


class Adversaries(nn.Module):
    """Both players, and the numbers of the game that a resumed training must know.

    chance: of each augmentation. overfit: the running sign of it. best_N, known: of each held-out picture its part of
    the distance in the best evaluation so far. worse: evaluations in a row clearly worse than that.
    """

    chance: Tensor
    overfit: Tensor
    best_N: Tensor
    known: Tensor
    worse: Tensor

    def __init__(self, shape: Shape, *, units: int = 0) -> None:
        super().__init__()
        self.shape = shape
        own: dict[str, Any] = {"size_px": shape.size_px, "channels": shape.channels, "width": shape.width}
        own |= {"conditions": shape.conditions, "blocks": shape.blocks}
        self.generator = gan.Generator(latents=shape.latents, **own)
        self.critic = gan.Critic(**own)
        for name in ("chance", "overfit", "known", "worse"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("best_N", torch.zeros(units))


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights of convolutions and linear layers, but of neither the critic's last one nor the conditions."""
    named = model.named_parameters()
    return [p for name, p in named if p.ndim >= 2 and not name.startswith("critic.out") and "embed" not in name]


def optimizers(model: nn.Module, *, rate: float, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """Muon for ``matrices``, its products in ``dtype``; AdamW without momentum for the rest: conditions at half the
    rate (at a tenth, one of three classes was never drawn), biases and the last layer at a tenth.

    The gradients of a game turn, so Muon's momentum is short.
    """
    inside, told = matrices(model), [p for name, p in model.named_parameters() if "embed" in name]
    known = {id(parameter) for parameter in inside + told}
    others = [parameter for parameter in model.parameters() if id(parameter) not in known]
    found: list[torch.optim.Optimizer] = [Muon(inside, lr=rate, momentum=MOMENTUM, dtype=dtype, rows=ROWS)]
    parts = ((others, 0.1), (told, 0.5))
    return found + [adamw(part, lr=share * rate, betas=(0.0, 0.99)) for part, share in parts if part]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the game is played. gamma: weight of the penalties. kinds: of augmentation, None for none.

    border: (C, 1, 1), what augmentation shows outside a picture. judge: which sign of overfitting steers it.
    """

    gamma: float
    kinds: Kinds | None
    border: Tensor
    judge: str


def floats(pixels: Tensor | np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """uint8 pictures as float32 in [-1, 1] on the device."""
    x = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.ascontiguousarray(pixels))
    return x.to(device).float().div_(127.5).sub_(1.0)


def bytes_of(x_BCHW: Tensor) -> Tensor:
    """Floats in [-1, 1] as uint8 pictures; what lies outside is cut."""
    return x_BCHW.float().add(1.0).mul(127.5).round().clamp(0, 255).byte()


def play(
    model: Adversaries, real_BCHW: Tensor, told_BK: Tensor | None, rules: Rules, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One step of the game: the loss whose gradients teach both players, and the answers (2B,), real ones first.

    A real picture is paired with a made one of the same condition. The critic's parameters get the gradient of the
    paired relativistic loss and of R1 and R2, the generator's that of its own loss.
    """
    count, device = len(real_BCHW), real_BCHW.device
    z_BZ = torch.randn(count, model.shape.latents, generator=generator, device=device)
    fake_BCHW, answered = gan.for_two(model.generator(z_BZ, told_BK))
    rows = torch.cat([real_BCHW, fake_BCHW])
    told = None if told_BK is None else torch.cat([told_BK, told_BK])
    if rules.kinds is not None:
        rows = augment(rows, model.chance, generator=generator, border=rules.border, kinds=rules.kinds)
    few = max(1, count // PROBED)
    chosen = torch.cat([rows[:few], rows[count : count + few]])
    asked = gan.probes(chosen, reach=REACH, generator=generator)
    if told is not None:
        both = torch.cat([told[:few], told[count : count + few]])
        told = torch.cat([told, both, both])
    answers = model.critic(torch.cat([rows, asked]), told)
    real_B, fake_B = answers[:count], answers[count : 2 * count]
    answered(real_B, fake_B)
    slope = gan.probed_slope(answers[2 * count :], reach=REACH)  # of as many real pictures as made ones: R1 + R2
    penalty = rules.gamma * slope.mean()
    value = gan.relativistic_nats(real_B, fake_B).mean() + (penalty - penalty.detach())  # shown: the game alone
    return value, answers[: 2 * count].detach()


@torch.no_grad()
def steer(
    model: Adversaries, answers_2B: Tensor, heldout: tuple[Tensor, Tensor | None] | None, rules: Rules, **chance: Any
) -> None:
    """Raise or lower the chance of augmentation by what the critic has learned by heart (ADA).

    heldout: some pictures that nobody learns from, with their conditions; judged under the same augmentation.
    chance: ``generator``, the only randomness, and ``pictures``, how many were seen since the last call.
    """
    assert rules.kinds is not None
    real_B, fake_B = answers_2B.chunk(2)
    if heldout is None:
        found = pair_sign(real_B, fake_B)
    else:
        x, told = heldout
        x = augment(x, model.chance, generator=chance["generator"], border=rules.border, kinds=rules.kinds)
        found = held_sign(real_B, model.critic(x, told), fake_B)
    model.overfit.lerp_(found, 0.05)
    move = torch.sign(model.overfit - OVERFIT[rules.judge]) * (chance["pictures"] / RAISED_OVER)
    model.chance.add_(move).clamp_(0.0, MOST_CHANCE)


# --------------------------------------------------------------------------------------------- judging what is made
@torch.no_grad()
def drawn(model: gan.Generator, z_NZ: Tensor, told_NK: Tensor | None) -> Tensor:
    """The pictures of these codes, uint8 (N, C, H, W) on the CPU."""
    device = model.mean_CHW.device
    parts = []
    for start in range(0, len(z_NZ), 64):
        told = None if told_NK is None else told_NK[start : start + 64].to(device)
        parts.append(bytes_of(model(z_NZ[start : start + 64].to(device), told)).cpu())
    return torch.cat(parts)


def noise(count: int, latents: int, *parts: object) -> Tensor:
    """Codes (count, Z) that follow from ``parts`` alone, made on the CPU."""
    return torch.randn(count, latents, generator=torch.Generator().manual_seed(derive(*parts)))


def distance_parts(real_ND: Tensor, fake_MD: Tensor) -> Tensor:
    """Of each real picture its part of the kernel distance of ``measures.kid``: (N,), float64; their mean is it."""
    real, fake = real_ND.double(), fake_MD.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.mT / x.shape[1] + 1).pow(3)

    among, within = kernel(real, real), kernel(fake, fake)
    own = (among.sum(1) - among.diagonal()) / max(1, len(real) - 1)
    made = (within.sum() - within.diagonal().sum()) / (len(fake) * max(1, len(fake) - 1))
    return own + made - 2 * kernel(real, fake).mean(1)


def figures(features: Callable[[Tensor], Tensor], real: Tensor, made: Tensor, train: Tensor) -> dict[str, Any]:
    """Distance, precision, recall, density and coverage of made pictures beside held-out ones, and of two trivial
    makers beside them: copies of training pictures, and the mean picture.

    real, made, train: uint8 pictures. closer_to_train: share of the made ones whose nearest training picture is nearer
    than their nearest held-out one, of as many of each; about a half where nothing is learned by heart.
    """
    mean = train.double().mean(0, keepdim=True).round().byte().expand(min(len(made), 64), -1, -1, -1)
    real_ND, made_MD, train_ND, mean_MD = (features(each) for each in (real, made, train, mean))
    few = min(len(made_MD), len(train_ND), len(real_ND))  # Fréchet's distance grows as sets shrink
    found: dict[str, Any] = {"fid_like_compared": few} if few >= 3 else {}
    for name, vectors in (("", made_MD), ("copies_", train_ND), ("mean_picture_", mean_MD)):
        if min(len(vectors), len(real_ND)) >= 3:
            found[f"{name}distance"] = measures.kid(vectors, real_ND).plain()
        if name != "mean_picture_" and few >= 3:
            found[f"{name}fid_like"] = round(measures.frechet(vectors[:few], real_ND[:few]), 4)
        neighbours = min(5, len(vectors) - 1, len(real_ND) - 1)
        if name != "mean_picture_" and neighbours >= 1:
            covered = measures.prdc(real_ND, vectors, k=neighbours)
            values = {key: getattr(covered, key) for key in ("precision", "recall", "density", "coverage")}
            found |= {f"{name}{key}": round(value, 4) for key, value in values.items()}
    same = min(len(train_ND), len(real_ND))
    nearer = measures.nearest(made_MD, train_ND[:same])[0] < measures.nearest(made_MD, real_ND[:same])[0]
    found["closer_to_train"] = round(float(nearer.double().mean()), 4)
    return found


def classes_made(
    features: Callable[[Tensor], Tensor], known: Tensor, labels_N: np.ndarray[Any, Any], made: Tensor, count: int
) -> list[float]:
    """Share of the made pictures whose nearest known picture has each of ``count`` labels."""
    _, place = measures.nearest(features(made), features(known))
    shares = np.bincount(labels_N[place.numpy()], minlength=count) / len(made)
    return [round(float(share), 4) for share in shares]
