"""Layers over clips: a circle of time has no first frame, nothing leaks between clips, noise keeps its variance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from intaglio.nn import video


def network(*, loop: bool, size_px: int = 8, frames: int = 5) -> video.VideoUNet:
    torch.manual_seed(0)
    net = video.VideoUNet(size_px=size_px, channels=3, width=16, blocks=1, patch=1, frames=frames, loop=loop)
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.2)
    return net.eval()


def clips(count: int = 2, frames: int = 5, side: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, frames, 3, side, side, generator=generator), torch.rand(count, generator=generator)


@pytest.mark.parametrize("shift", [1, 3])
def test_a_loop_has_no_first_frame(shift: int) -> None:
    """The network of a loop commutes with turning the circle of time; that of a clip with two ends does not."""
    x, time_B = clips()
    with torch.no_grad():
        for loop in (True, False):
            net = network(loop=loop)
            turned = net(x.roll(shift, 1), time_B, 0 * time_B)
            still = net(x, time_B, 0 * time_B).roll(shift, 1)
            assert torch.allclose(turned, still, atol=1e-4) is loop


@pytest.mark.parametrize("together", [True, False])
def test_frames_tell_each_other_and_clips_do_not(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "TOGETHER", 1024 if together else 0)
    net, (x, time_B) = network(loop=False), clips()
    other = x.clone()
    other[0, 4] += 1.0
    with torch.no_grad():
        before, after = (net(each, time_B, 0 * time_B) for each in (x, other))
    changed = (before - after).abs().flatten(2).amax(2)
    assert (changed[0] > 1e-5).all(), "every frame of the clip hears of it"
    assert (changed[1] == 0).all(), "the other clip does not"


def test_a_place_looks_at_itself_or_at_all() -> None:
    """Attention as plain sums: the outcome of one place, computed by hand."""
    torch.manual_seed(2)
    for together in (True, False):
        layer = video.AlongTime(8, 3, 2 if together else 64, loop=False)
        assert layer.together is together
        layer.out.weight.data.normal_()
        layer.far.data.normal_()
        torch.nn.init.zeros_(layer.beside.bias)
        x = torch.randn(3, 8, 2, 2)
        y = layer.qkv(video.norm(x))
        q, k, v = (part.permute(0, 2, 3, 1) for part in y.chunk(3, 1))  # (T, H, W, numbers)
        q, k = (part / part.square().mean(-1, keepdim=True).sqrt() for part in (q, k))
        frame, row, column = 1, 0, 1
        places = [(f, r, c) for f in range(3) for r in range(2) for c in range(2)]
        if not together:
            places = [(f, row, column) for f in range(3)]
        scores = torch.stack([q[frame, row, column] @ k[p] * 8**-0.5 + layer.far[0, p[0] - frame + 2] for p in places])
        seen = sum(weight * v[p] for weight, p in zip(scores.softmax(0), places, strict=True))
        wanted = x[frame, :, row, column] + layer.out.weight[:, :, 0, 0] @ seen
        assert torch.allclose(layer(x)[frame, :, row, column], wanted, atol=1e-4)


def test_the_first_frame_is_shown_only_where_it_is_known() -> None:
    net, (x, time_B) = network(loop=False), clips()
    first, known = torch.ones(2, 3, 8, 8), torch.tensor([1.0, 0.0])
    with torch.no_grad():
        without, given = net(x, time_B, 0 * time_B), net(x, time_B, 0 * time_B, first, known)
    assert not torch.allclose(without[0], given[0], atol=1e-3)
    assert torch.allclose(without[1], given[1], atol=1e-6)


def test_shared_noise_has_variance_one_and_the_share_in_common() -> None:
    generator = torch.Generator().manual_seed(3)
    own, shared = torch.randn(4000, 2, 5, generator=generator), torch.randn(4000, 1, 5, generator=generator)
    noise = video.mixed_noise(own, shared)
    assert float(noise.var()) == pytest.approx(1.0, abs=0.03)
    assert float((noise[:, 0] * noise[:, 1]).mean()) == pytest.approx(video.SHARED, abs=0.03)


def test_times_move_towards_the_noise_and_keep_their_ends() -> None:
    times = torch.linspace(0, 1, 9)
    assert torch.equal(video.later(times, 1), times)
    moved = video.later(times, 12)
    assert moved[0] == 0 and moved[-1] == 1 and (moved[1:-1] < times[1:-1]).all() and (moved.diff() > 0).all()


def test_a_known_frame_is_kept_as_far_as_the_network_says() -> None:
    net, (x, time_B) = network(loop=False), clips()
    first = torch.full((2, 3, 8, 8), 7.0)
    torch.nn.init.zeros_(net.last.weight)
    net.last.bias.data[:] = torch.tensor([1.0, 2.0, 3.0, 0.0])
    with torch.no_grad():
        found = net(x, time_B, 0 * time_B, first, torch.tensor([1.0, 0.0]))
    assert found[0, 2, :, 0, 0].tolist() == pytest.approx([4.0, 4.5, 5.0])
    assert found[1, 2, :, 0, 0].tolist() == pytest.approx([1.0, 2.0, 3.0])
