"""Layers over clips: a circle of time has no first frame, nothing leaks between clips, noise keeps its variance."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
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
def test_in_a_loop_time_is_a_circle(shift: int) -> None:
    """Layers along the time of a loop commute with turning the circle; those of a clip with two ends do not."""
    for loop in (True, False):
        torch.manual_seed(0)
        layer = video.AlongTime(16, 5, 4, loop=loop)
        for parameter in layer.parameters():
            parameter.data.normal_(0, 0.2)
        x = torch.randn(2, 5, 16, 4, 4)
        with torch.no_grad():
            turned = layer(x.roll(shift, 1).flatten(0, 1)).unflatten(0, (2, 5))
            still = layer(x.flatten(0, 1)).unflatten(0, (2, 5)).roll(shift, 1)
        assert torch.allclose(turned, still, atol=1e-4) is loop


@pytest.mark.parametrize("together", [True, False])
def test_frames_tell_each_other_and_clips_do_not(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "TOGETHER", 1024 if together else 0)
    net, (x, time_B) = network(loop=False), clips()
    other = x.clone()
    other[0, 4] += 1.0
    with torch.no_grad():
        before, after = (net(each, time_B, 0 * time_B, x[:, 0])[0] for each in (x, other))
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


def test_a_single_picture_passes_no_layer_along_time() -> None:
    net, (x, time_B) = network(loop=False), clips()
    with torch.no_grad():
        before, _ = net(x[:, :1], time_B, 0 * time_B)
        for module in net.modules():
            if isinstance(module, video.AlongTime):
                module.out.weight.fill_(float("nan"))
        after, _ = net(x[:, :1], time_B, 0 * time_B)
    assert before.shape == (2, 1, 3, 8, 8) and torch.equal(before, after)


def test_warping_is_what_grid_sample_does() -> None:
    generator = torch.Generator().manual_seed(4)
    x, moved = torch.randn(2, 3, 6, 9, generator=generator), 4 * torch.randn(2, 5, 2, 6, 9, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    at = torch.stack([2 * (columns + moved[:, :, 1]) / 8 - 1, 2 * (rows + moved[:, :, 0]) / 5 - 1], -1)
    wanted = torch.stack([F.grid_sample(x, at[:, t], padding_mode="border", align_corners=True) for t in range(5)], 1)
    assert torch.allclose(video.warp(x, moved), wanted, atol=1e-5)
    assert torch.equal(video.warp(x, 0 * moved), x[:, None].expand(-1, 5, -1, -1, -1))


def test_places_between_are_those_of_linear_interpolation() -> None:
    x = torch.randn(1, 1, 4, 3, generator=torch.Generator().manual_seed(5))
    found = video.between_places(16, 4) @ x[0, 0] @ video.between_places(12, 3).T
    wanted = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)[0, 0]
    assert torch.allclose(found, wanted, atol=1e-6)


def test_motion_is_where_a_place_is_found_again() -> None:
    """Places told apart by one channel each, moved by one: the first frame shows them one place further up."""
    motion = video.Motion(16, 2, [4], 16)
    motion.alike.weight.data = torch.eye(16)[:, :, None, None]
    motion.sharp.data.fill_(1e3)
    first = torch.eye(16).view(16, 4, 4)
    found = motion(torch.stack([first, first.roll(1, 1)]))
    assert torch.allclose(found[0, 0], torch.zeros(2, 16, 16), atol=1e-4)
    assert torch.allclose(found[0, 1, 0, 6:], torch.tensor(-4.0), atol=1e-4), "pixels, up"
    assert torch.allclose(found[0, 1, 1], torch.zeros(16, 16), atol=1e-4)


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
        found, moved = net(x, time_B, 0 * time_B, first)
        alone, _ = net(x[:, :1], time_B, 0 * time_B)
    assert found[0, 2, :, 0, 0].tolist() == pytest.approx([4.0, 4.5, 5.0])
    assert torch.equal(moved, first[:, None].expand_as(moved)), "what is even looks the same wherever it is moved"
    assert alone[1, 0, :, 0, 0].tolist() == pytest.approx([1.0, 2.0, 3.0])
