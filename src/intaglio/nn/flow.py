"""Rectified flow: the loss of a velocity field, samplers, guidance, shortcuts to few steps, and filling in of holes.

Papers:  Liu et al. (2022), "Flow Straight and Fast", arXiv:2209.03003, eq. 1; Lipman et al. (2022), arXiv:2210.02747;
         Esser et al. (2024), arXiv:2403.03206, eq. 19 (logit-normal times); Ho and Salimans (2022), arXiv:2207.12598,
         eq. 6 (guidance); Frans et al. (2024), "One Step Diffusion via Shortcut Models", arXiv:2410.12557, eq. 4 and 5;
         Lugmayr et al. (2022), "RePaint", arXiv:2201.09865 (going back and forth while a hole is filled).
Code:    written from the papers; differs in: shortcuts are learned in a phase of their own behind the flow.
Licence: ours.
Shapes:  B batch, ... one example's dimensions (C, H, W). Time runs from 0 (noise) to 1 (data), in [0, 1].

A field is called as ``field(x, t_B, span_B)``: the mean velocity of the way from time t to t + span that starts at x;
span 0 is the velocity itself. Samplers take a field, where to start, and the times to stop at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor, Tensor], Tensor]


def between(noise: Tensor, data: Tensor, t_B: Tensor) -> Tensor:
    """Where an example is at time t on the straight way from its noise to its data: (1 - t) noise + t data."""
    return torch.lerp(noise, data, _wide(t_B, data))


def draw_times(count: int, *, law: str, generator: torch.Generator) -> Tensor:
    """Times (B,) to learn at, stratified over the batch so that its loss wavers less.

    law: ``uniform``, or ``logit-normal`` (more often in the middle, where there is most to tell).
    """
    device = generator.device
    steady = torch.arange(count, device=device, dtype=torch.float32)
    steady = (steady + torch.rand(count, generator=generator, device=device)) / count
    shuffled = steady[torch.randperm(count, generator=generator, device=device)]
    if law == "uniform":
        return shuffled
    if law != "logit-normal":
        raise ValueError(f"law must be 'uniform' or 'logit-normal'. Received: law={law!r}")
    return torch.sigmoid(torch.special.ndtri(shuffled.clamp(1e-6, 1 - 1e-6)))


def velocity_loss(field: Field, noise: Tensor, data: Tensor, t_B: Tensor) -> Tensor:
    """Mean squared error of the velocity at time t, one number an example (B,), float32; eq. 1 of Liu et al.

    Its least value is not 0 but the mean variance of ``data - noise`` given where the example is.
    """
    found = field(between(noise, data, t_B), t_B, torch.zeros_like(t_B)).float()
    return (found - (data - noise)).square().flatten(1).mean(1)


def shortcut_loss(field: Field, teacher: Field, x: Tensor, t_B: Tensor, span_B: Tensor) -> Tensor:
    """How far one step of ``span`` is from two of half of it, one number an example (B,); eq. 5 of Frans et al.

    teacher: the field that makes the two steps (no gradient passes); t + span must not pass 1.
    """
    with torch.no_grad():
        half = span_B / 2
        first = teacher(x, t_B, half)
        second = teacher(x + _wide(half, x) * first, t_B + half, half)
        wanted = (first + second).float() / 2
    return (field(x, t_B, span_B).float() - wanted).square().flatten(1).mean(1)


def draw_spans(count: int, *, finest: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Times and spans (B,) of shortcuts: a span is 1/n of the way for n = 1, 2, 4 .. ``finest`` / 2, a time one of its
    stops. ``finest`` is a power of two: the number of steps behind which single velocities are fine enough.
    """
    device = generator.device
    levels = finest.bit_length() - 1
    level = torch.arange(count, device=device) % levels
    parts = torch.pow(2.0, level)
    stop = torch.floor(torch.rand(count, generator=generator, device=device) * parts)
    return stop / parts, 1.0 / parts


def gaussian_velocity(x: Tensor, t_B: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The best velocity for data of independent Gaussians: E[data - noise | x at t]; a closed form to measure by."""
    t = _wide(t_B, x)
    gain = (t * variance - (1.0 - t)) / ((1.0 - t).square() + t.square() * variance)
    return mean + gain * (x - t * mean)


def guided(with_condition: Tensor, without: Tensor, guidance: float) -> Tensor:
    """Away from what the field says without a condition: 1 is the conditional field itself, 0 the other."""
    return torch.lerp(without, with_condition, guidance)


# ----------------------------------------------------------------------------------------------------------- samplers
def stops(steps: int, *, start: float = 0.0) -> list[float]:
    """``steps`` + 1 times from ``start`` to 1, evenly spread."""
    if steps < 1:
        raise ValueError(f"steps must be positive. Received: steps={steps}")
    return [start + (1.0 - start) * number / steps for number in range(steps)] + [1.0]


def euler(field: Field, x: Tensor, times: Sequence[float], *, shortcuts: bool = False) -> Tensor:
    """Follow the field by straight steps; error falls with the step (order 1).

    shortcuts: ask the field for the mean velocity of each step instead of the velocity at its start.
    """
    for now, then in zip(times[:-1], times[1:], strict=True):
        x = x + (then - now) * _ask(field, x, now, then - now if shortcuts else 0.0)
    return x


def heun(field: Field, x: Tensor, times: Sequence[float]) -> Tensor:
    """Follow the field by the trapezoid of the velocities at both ends of a step (order 2); asks twice a step."""
    for now, then in zip(times[:-1], times[1:], strict=True):
        first = _ask(field, x, now, 0.0)
        second = _ask(field, x + (then - now) * first, then, 0.0)
        x = x + (then - now) * 0.5 * (first + second)
    return x


def fill(
    field: Field,
    noise: Tensor,
    known: Tensor,
    mask: Tensor,
    times: Sequence[float],
    *,
    generator: torch.Generator,
    returns: int = 3,
) -> Tensor:
    """Fill the part where ``mask`` is 1; where it is 0 the outcome is ``known`` to the bit.

    After every step the known part is put where it would be at that time, with the noise it started from. ``returns``:
    how often each step is taken again after going back to its start with fresh noise, so that what is filled in
    and what is known come to agree (RePaint's resampling, here for straight ways).
    Seven parameters: the field, three tensors, the times, chance and its one dial.
    """
    x = noise
    for now, then in zip(times[:-1], times[1:], strict=True):
        for again in range(returns + 1 if then < 1.0 else 1):
            if again:
                x = back(x, then, now, generator=generator)
            placed = torch.lerp(noise, known, now)
            x = torch.where(mask > 0, x, placed)
            x = x + (then - now) * _ask(field, x, now, 0.0)
    return torch.where(mask > 0, x, known)


def back(x: Tensor, late: float, early: float, *, generator: torch.Generator) -> Tensor:
    """From time ``late`` back to ``early`` by fresh noise, so that the law at ``early`` is that of the flow.

    x_late = late data + (1 - late) noise is shrunk to early data, and noise is added up to variance (1 - early)^2.
    """
    shrink = early / late
    spread = ((1.0 - early) ** 2 - (shrink * (1.0 - late)) ** 2) ** 0.5
    return shrink * x + spread * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def walk(first: Tensor, last: Tensor, share: float) -> Tensor:
    """Between two noises along the great circle (spherical interpolation), so that the outcome is as long as noise."""
    one, other = first.flatten(), last.flatten()
    cosine = torch.dot(one, other) / (one.norm() * other.norm()).clamp(min=1e-12)
    angle = torch.arccos(cosine.clamp(-1.0, 1.0))
    if float(angle.sin()) < 1e-4:
        return torch.lerp(first, last, share)
    return (torch.sin((1.0 - share) * angle) * first + torch.sin(share * angle) * last) / torch.sin(angle)


def _ask(field: Field, x: Tensor, time: float, span: float) -> Tensor:
    t_B = torch.full((len(x),), time, device=x.device, dtype=torch.float32)
    return field(x, t_B, torch.full_like(t_B, span))


def _wide(t_B: Tensor, like: Tensor) -> Tensor:
    return t_B.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
