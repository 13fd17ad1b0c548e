"""The game's maths against closed forms and slow ways: losses, penalties, networks, augmentation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from intaglio.nn import gan
from intaglio.nn.augment import Kinds, augment, held_sign, pair_sign, resample, turned

BORDER = torch.zeros(3, 1, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------ loss and penalties
def test_relativistic_loss_by_hand() -> None:
    found = gan.relativistic_nats(torch.tensor([0.0, 2.0, -1.0]), torch.tensor([0.0, 0.0, 1.0]))
    expected = [math.log(2), math.log(1 + math.exp(-2)), math.log(1 + math.exp(2))]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_slopes_of_a_linear_critic_are_its_weights() -> None:
    weight = torch.randn(2, 4, 4, dtype=torch.float64)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    critic = lambda x: (x * weight).flatten(1).sum(1)  # noqa: E731
    squared = float(weight.square().sum())
    assert gan.exact_slope(critic, x).tolist() == pytest.approx([squared] * 3, rel=1e-5)
    many = torch.zeros(20_000, 2, 4, 4, dtype=torch.float64)
    asked = gan.probes(many, reach=0.05, generator=generator())
    found = gan.probed_slope(critic(asked), reach=0.05)
    assert float(found.mean()) == pytest.approx(squared, rel=0.05)
    assert float(found.std() / found.mean()) == pytest.approx(math.sqrt(2), rel=0.05)


def test_slope_of_a_curved_critic_is_that_of_autograd_and_can_be_learned_from() -> None:
    torch.manual_seed(0)
    critic = gan.Critic(size_px=8, channels=1, width=8)
    block = next(layer for layer in critic.maps if isinstance(layer, gan.Block))
    nn.init.normal_(block.second.weight, std=0.1)
    x = torch.randn(4, 1, 8, 8)
    exact = gan.exact_slope(critic, x)
    draws = [
        gan.probed_slope(critic(gan.probes(x, reach=0.01, generator=generator(n))), reach=0.01) for n in range(600)
    ]
    torch.testing.assert_close(torch.stack(draws).mean(0).detach(), exact.detach(), rtol=0.25, atol=0)
    own = torch.autograd.grad(exact.mean(), critic.out.weight)[0]
    probed = torch.autograd.grad(torch.stack(draws).mean(), critic.out.weight)[0]
    assert float(torch.cosine_similarity(own.flatten(), probed.flatten(), dim=0)) > 0.97


# ------------------------------------------------------------------------------------------ networks
@pytest.mark.parametrize("size_px", [8, 12, 16, 28, 32, 48, 64])
def test_networks_fit_the_size(size_px: int) -> None:
    made = gan.Generator(size_px=size_px, channels=3, width=8, latents=5, conditions=4)(
        torch.randn(2, 5), torch.eye(4)[:2]
    )
    assert made.shape == (2, 3, size_px, size_px)
    assert gan.Critic(size_px=size_px, channels=3, width=8)(made).shape == (2,)
    assert gan.levels(size_px)[-1] <= 7 or gan.levels(size_px)[-1] % 2


def test_an_untrained_generator_is_near_the_mean_picture_and_odd_sizes_are_refused() -> None:
    torch.manual_seed(0)
    model = gan.Generator(size_px=16, channels=1, width=8, latents=8)
    mean = torch.linspace(-1, 1, 256).view(1, 16, 16)
    model.start_from(mean, 0.02)
    assert float((model(torch.randn(64, 8)).mean(0) - mean).abs().mean().detach()) < 0.05
    with pytest.raises(ValueError, match="even"):
        gan.levels(9)


def test_the_critic_judges_each_picture_alone() -> None:
    critic, x = gan.Critic(size_px=16, channels=1, width=8), torch.randn(5, 1, 16, 16)
    torch.testing.assert_close(critic(x)[2:3], critic(x[2:3]), rtol=1e-4, atol=1e-5)


def test_the_gradient_is_turned_for_the_generator_alone() -> None:
    x = torch.randn(3, 1, 2, 2, requires_grad=True)
    seen, answered = gan.for_two(x)
    fake, real = seen.flatten(1).sum(1), torch.tensor([0.3, -0.2, 1.0])
    answered(real, fake)
    gan.relativistic_nats(real, fake).sum().backward()
    expected = -torch.sigmoid(real - fake.detach()).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)


def test_what_is_cut_can_come_back_but_not_go_further() -> None:
    x = torch.tensor([-3.0, -3.0, 0.5, 3.0, 3.0], requires_grad=True)
    found = gan.cut(x)
    assert found.tolist() == [-1.0, -1.0, 0.5, 1.0, 1.0]
    (found * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])).sum().backward()  # descent goes against the gradient
    assert x.grad is not None and x.grad.tolist() == [0.0, -1.0, 1.0, 1.0, 0.0]


# ------------------------------------------------------------------------------------------ augmentation
def test_no_chance_changes_nothing_and_some_keeps_shape() -> None:
    x = torch.rand(6, 3, 12, 12) * 2 - 1
    assert augment(x, torch.tensor(0.0), generator=generator(), border=BORDER) is x
    tiny = augment(x, torch.tensor(1e-9), generator=generator(), border=BORDER, kinds=Kinds(mirror=True))
    torch.testing.assert_close(tiny, x)
    found = augment(x, 1.0, generator=generator(), border=BORDER)
    assert found.shape == x.shape and torch.isfinite(found).all() and not torch.allclose(found, x)
    again = augment(x, 1.0, generator=generator(), border=BORDER)
    assert torch.equal(found, again)


def test_geometry_alone_keeps_the_range_and_the_border() -> None:
    x = torch.rand(8, 3, 16, 16) * 2 - 1
    kinds = Kinds(colour=False, cutout=True, mirror=True)
    found = augment(x, 1.0, generator=generator(1), border=BORDER, kinds=kinds)
    assert float(found.abs().max()) <= 1.0 + 1e-5
    flat = torch.full((4, 3, 16, 16), -0.7)
    border = torch.full((3, 1, 1), -0.7)
    torch.testing.assert_close(augment(flat, 1.0, generator=generator(2), border=border, kinds=kinds), flat)


@pytest.mark.parametrize("kinds", [Kinds(colour=False, cutout=False), Kinds(geometry=False), Kinds(mirror=True)])
def test_gradients_are_those_of_differences(kinds: Kinds) -> None:
    x = (torch.rand(2, 3, 6, 6) * 2 - 1).requires_grad_()
    weight = torch.randn(2, 3, 6, 6)

    def score(x: Tensor) -> Tensor:
        return (augment(x, 0.9, generator=generator(4), border=BORDER, kinds=kinds) * weight).sum()

    score(x).backward()
    assert x.grad is not None
    with torch.no_grad():
        for place in [(0, 0, 2, 3), (1, 2, 4, 1), (0, 1, 5, 5)]:
            step = torch.zeros_like(x)
            step[place] = 0.01
            slope = float(score(x + step) - score(x - step)) / 0.02
            assert float(x.grad[place]) == pytest.approx(slope, abs=2e-3)


def test_resampling_mirrors_shifts_and_keeps_what_is_made_smaller() -> None:
    row = torch.arange(8.0)
    turn = lambda scale, shift: resample(8, torch.tensor([[[scale]]]), torch.tensor([[[shift]]]))[0] @ row  # noqa: E731
    torch.testing.assert_close(turn(1.0, 0.0), row)
    torch.testing.assert_close(turn(-1.0, 0.0), row.flip(0))
    torch.testing.assert_close(turn(1.0, 2.0), torch.tensor([0.0, 0, 0, 1, 2, 3, 4, 5]))
    assert float(turn(0.5, 0.0).sum()) == pytest.approx(float(row.sum()) / 2, rel=0.05)


def test_turning_a_blob_moves_it_by_the_angle() -> None:
    rows, columns = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    blob = torch.exp(-((rows - 0) ** 2 + (columns - 9) ** 2) / 8)[None, None]
    angle = 0.5
    found = turned(blob, torch.tensor([angle]))[0, 0]
    weight = found / found.sum()
    middle = float((weight * columns).sum()), float((weight * rows).sum())
    assert middle[0] == pytest.approx(9 * math.cos(angle), abs=0.2)
    assert abs(middle[1]) == pytest.approx(9 * math.sin(angle), abs=0.2)
    assert torch.equal(turned(blob, torch.tensor([0.0])), blob)


def test_signs_of_overfitting() -> None:
    train, fake = torch.tensor([2.0, 4.0]), torch.tensor([-1.0, -1.0])
    assert float(held_sign(train, train, fake)) == 0.0
    assert float(held_sign(train, fake, fake)) == 1.0
    assert float(held_sign(train, torch.tensor([1.0]), fake)) == pytest.approx(0.5)
    assert float(pair_sign(torch.tensor([1.0, 1.0, 1.0, -1.0]), torch.zeros(4))) == 0.5
