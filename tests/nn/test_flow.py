"""Rectified flow against closed forms: losses, samplers and their order, guidance, shortcuts, filling in."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from intaglio.nn import flow
from intaglio.nn.dit import DiT
from intaglio.nn.unet import UNet, levels

MEAN, SPREAD = 0.7, 0.4


def gaussian(x: Tensor, t_B: Tensor, span_B: Tensor) -> Tensor:
    """The true velocity of data N(MEAN, SPREAD^2)."""
    return flow.gaussian_velocity(x, t_B, torch.tensor(MEAN), torch.tensor(SPREAD**2))


def exact(x: Tensor, start: float, end: float) -> Tensor:
    """Where the flow of ``gaussian`` brings x: for Gaussians it keeps each point's place in units of the spread."""

    def spread(t: float) -> float:
        return math.sqrt((1 - t) ** 2 + (t * SPREAD) ** 2)

    return end * MEAN + (x - start * MEAN) * spread(end) / spread(start)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------------- the loss
def test_the_loss_of_the_true_field_is_the_variance_that_is_left() -> None:
    """For Gaussians Var[data - noise | x at t] has a closed form; no field can do better, and another does worse."""
    gen, count = generator(), 400_000
    noise = torch.randn(count, 1, generator=gen, dtype=torch.float64)
    data = MEAN + SPREAD * torch.randn(count, 1, generator=gen, dtype=torch.float64)
    for time in (0.0, 0.3, 0.8, 1.0):
        t_B = torch.full((count,), time, dtype=torch.float64)
        found = float(flow.velocity_loss(gaussian, noise, data, t_B).mean())
        total = (1 - time) ** 2 + time**2 * SPREAD**2
        left = (SPREAD**2 + 1) - (time * SPREAD**2 - (1 - time)) ** 2 / total
        assert found == pytest.approx(left, rel=0.01)
        shifted = flow.velocity_loss(lambda x, t, s: gaussian(x, t, s) + 0.3, noise, data, t_B).mean()
        assert float(shifted) == pytest.approx(left + 0.09, rel=0.02)


def test_a_trained_line_finds_the_true_field() -> None:
    """Least squares over the loss's own pairs gives the closed form: the loss learns what it should."""
    gen, count, time = generator(1), 100_000, 0.6
    noise = torch.randn(count, 1, generator=gen)
    data = MEAN + SPREAD * torch.randn(count, 1, generator=gen)
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=30)
    t_B = torch.full((count,), time)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = flow.velocity_loss(lambda x, t, s: weight[0] * x + weight[1], noise, data, t_B).mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    at = torch.tensor([[0.0], [1.0]])
    wanted = gaussian(at, torch.full((2,), time), torch.zeros(2)).flatten()
    found = torch.stack([weight[1], weight[0] + weight[1]]).detach()
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("law", ["uniform", "logit-normal"])
def test_times_follow_their_law(law: str) -> None:
    drawn = flow.draw_times(4096, law=law, generator=generator())
    assert 0 <= float(drawn.min()) and float(drawn.max()) <= 1
    quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    wanted = quantiles if law == "uniform" else torch.sigmoid(torch.distributions.Normal(0.0, 1.0).icdf(quantiles))
    torch.testing.assert_close(torch.quantile(drawn, quantiles), wanted, atol=1e-3, rtol=0)
    assert (drawn[1:] < drawn[:-1]).any(), "the order must be shuffled, or a time would always meet the same row"
    with pytest.raises(ValueError, match="law"):
        flow.draw_times(2, law="cosine", generator=generator())


# ------------------------------------------------------------------------------------------------- samplers
@pytest.mark.parametrize(("sampler", "order"), [(flow.euler, 1), (flow.heun, 2)])
def test_samplers_follow_the_flow_with_their_order(sampler, order) -> None:  # type: ignore[no-untyped-def]
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    errors = [float((sampler(gaussian, x, flow.stops(n)) - exact(x, 0, 1)).abs().max()) for n in (16, 32, 64, 128)]
    rates = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert rates[-1] == pytest.approx(order, abs=0.15), rates
    assert errors[-1] < 0.02


def test_the_flow_can_be_followed_back() -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    there = flow.heun(gaussian, x, flow.stops(64))
    torch.testing.assert_close(flow.heun(gaussian, there, flow.stops(64)[::-1]), x, atol=1e-3, rtol=0)


def test_stops_cover_the_way() -> None:
    assert flow.stops(4) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert flow.stops(2, start=0.5) == [0.5, 0.75, 1.0]
    with pytest.raises(ValueError, match="steps"):
        flow.stops(0)


def test_guidance_is_a_line_through_both_answers() -> None:
    told, untold = torch.randn(3, 2), torch.randn(3, 2)
    torch.testing.assert_close(flow.guided(told, untold, 1.0), told)
    torch.testing.assert_close(flow.guided(told, untold, 0.0), untold)
    torch.testing.assert_close(flow.guided(told, untold, 3.0), untold + 3.0 * (told - untold))


# ------------------------------------------------------------------------------------------------- few steps
def mean_velocity(x: Tensor, t_B: Tensor, span_B: Tensor) -> Tensor:
    """The true mean velocity of ``gaussian``'s flow over a span."""
    rows = [
        (exact(x[n], float(t_B[n]), float(t_B[n] + span_B[n])) - x[n]) / float(span_B[n])
        if float(span_B[n])
        else gaussian(x[n : n + 1], t_B[n : n + 1], span_B[n : n + 1])[0]
        for n in range(len(x))
    ]
    return torch.stack(rows)


def test_true_mean_velocities_have_no_shortcut_loss_and_draw_in_one_step() -> None:
    x = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]
    t_B, span_B = flow.draw_spans(12, finest=16, generator=generator())
    t_B, span_B = t_B.double(), span_B.double()
    assert float(flow.shortcut_loss(mean_velocity, mean_velocity, x, t_B, span_B).max()) < 1e-20
    assert float(flow.shortcut_loss(gaussian, mean_velocity, x, t_B, span_B).max()) > 1e-4
    torch.testing.assert_close(flow.euler(mean_velocity, x, flow.stops(1), shortcuts=True), exact(x, 0, 1))


def test_spans_lie_on_their_ladder() -> None:
    t_B, span_B = flow.draw_spans(4000, finest=16, generator=generator())
    assert sorted(set(span_B.tolist())) == [0.125, 0.25, 0.5, 1.0]
    assert float((t_B + span_B).max()) == 1.0
    assert torch.equal((t_B / span_B).frac(), torch.zeros(4000))
    assert set(t_B[span_B == 0.25].tolist()) == {0.0, 0.25, 0.5, 0.75}


def test_no_gradient_passes_through_the_teacher() -> None:
    weight = torch.ones(1, requires_grad=True)
    own = torch.ones(1, requires_grad=True)
    t_B, span_B = torch.zeros(4), torch.ones(4)
    value = flow.shortcut_loss(lambda x, t, s: own * x, lambda x, t, s: weight * x, torch.randn(4, 1), t_B, span_B)
    value.sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is None and own.grad is not None and float(own.grad.abs()) > 0


# ------------------------------------------------------------------------------------------------- filling in
def test_going_back_gives_the_law_of_the_earlier_time() -> None:
    gen, count = generator(2), 200_000
    data = MEAN + SPREAD * torch.randn(count, 1, generator=gen)
    late = flow.between(torch.randn(count, 1, generator=gen), data, torch.full((count,), 0.8))
    found = flow.back(late, 0.8, 0.3, generator=gen)
    assert float(found.mean()) == pytest.approx(0.3 * MEAN, abs=0.01)
    assert float(found.var()) == pytest.approx(0.7**2 + (0.3 * SPREAD) ** 2, rel=0.01)
    assert float(torch.corrcoef(torch.cat([found, data], 1).T)[0, 1]) == pytest.approx(
        0.3 * SPREAD / math.sqrt(0.7**2 + (0.3 * SPREAD) ** 2), abs=0.01
    )


def pair_field(x: Tensor, t_B: Tensor, span_B: Tensor) -> Tensor:
    """The true velocity for pairs of numbers that are always equal, N(0, 1) each."""
    t = t_B.view(-1, 1)
    middle = x.mean(1, keepdim=True)
    gain = t / (t**2 + (1 - t) ** 2 / 2).clamp(min=1e-9)
    expected = gain * middle  # E[data | x]; the mean of both noises has variance 1/2
    return torch.where(t < 1, (expected - x) / (1 - t).clamp(min=1e-3), torch.zeros_like(x)).expand_as(x)


def test_what_is_filled_in_agrees_with_what_is_known_which_stays_to_the_bit() -> None:
    known = torch.randn(2000, 2, generator=generator(3))
    mask = torch.tensor([0.0, 1.0]).expand_as(known)
    noise = torch.randn(2000, 2, generator=generator(4))
    errors = []
    for returns in (0, 5):
        found = flow.fill(pair_field, noise, known, mask, flow.stops(20), generator=generator(5), returns=returns)
        assert torch.equal(found[:, 0], known[:, 0])
        errors.append(float((found[:, 1] - known[:, 0]).square().mean()))
    assert errors[1] < 0.5 * errors[0], f"going back brings both to agree: {errors}"
    assert errors[1] < 0.1


def test_a_walk_keeps_the_length_of_noise() -> None:
    one, other = torch.randn(2, 4000, generator=generator(6))
    assert torch.equal(flow.walk(one, one, 0.4), one)
    torch.testing.assert_close(flow.walk(one, other, 0.0), one)
    torch.testing.assert_close(flow.walk(one, other, 1.0), other)
    assert float(flow.walk(one, other, 0.5).norm()) == pytest.approx(4000**0.5, rel=0.03)


# ------------------------------------------------------------------------------------------------- networks
NETS = {
    "unet": lambda k: UNet(size_px=16, channels=3, width=16, blocks=1, patch=2, condition=k),
    "dit": lambda k: DiT(size_px=16, channels=3, width=64, depth=2, patch=4, condition=k),
    "vector": lambda k: DiT(size_px=1, channels=6, width=64, depth=2, patch=1, condition=k),
}


@torch.no_grad()
@pytest.mark.parametrize("name", NETS)
def test_networks_answer_in_shape_and_hear_time_span_and_condition(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name](5)
    for parameter in net.parameters():  # the last layers start at zero: look behind the start
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(3, 6, 1, 1) if name == "vector" else torch.randn(3, 3, 16, 16)
    t_B, span_B, rows = torch.full((3,), 0.4), torch.zeros(3), torch.eye(5)[:3]
    first = net(x, t_B, span_B, rows)
    assert first.shape == x.shape and first.dtype == torch.float32
    for other in (net(x, t_B + 0.2, span_B, rows), net(x, t_B, span_B + 0.5, rows), net(x, t_B, span_B, rows.flip(0))):
        assert float((other - first).abs().max()) > 1e-3
    torch.testing.assert_close(net(x, t_B, span_B, torch.zeros(3, 5)), net(x, t_B, span_B, None))
    torch.testing.assert_close(net(x[1:2], t_B[:1], span_B[:1], rows[1:2]), first[1:2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_a_fresh_network_hears_no_span(name: str) -> None:
    """So that the shortcut phase begins as the flow it continues."""
    net = NETS[name](0)
    torch.nn.init.normal_(net.last.weight, std=0.1)
    x = torch.randn(2, 6, 1, 1) if name == "vector" else torch.randn(2, 3, 16, 16)
    t_B = torch.tensor([0.2, 0.7])
    torch.testing.assert_close(net(x, t_B, torch.zeros(2)), net(x, t_B, torch.ones(2)))


def test_levels_halve_down_to_four_or_more() -> None:
    assert levels(16) == [16, 8, 4] and levels(14) == [14, 7] and levels(24) == [24, 12, 6] and levels(4) == [4]
