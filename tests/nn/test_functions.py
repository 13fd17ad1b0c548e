"""The hand-written backward passes against autograd of the plain formulas, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from intaglio.nn import functions
from intaglio.nn.functions import attend, normalize, normalize_rotate, swiglu, vocabulary_loss, vocabulary_nats

EPS = 1e-6


def _random(*shape: int) -> torch.Tensor:
    gen = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=gen, dtype=torch.float64).requires_grad_()


def test_normalize_is_rms_norm() -> None:
    x = _random(3, 5, 8)
    assert torch.allclose(normalize(x, eps=EPS, dtype=x.dtype), F.rms_norm(x, (8,), None, EPS))
    assert torch.autograd.gradcheck(lambda x: normalize(x, eps=EPS, dtype=torch.float64), x)


def test_normalize_rotate_turns_neighboring_pairs() -> None:
    x_BTGH, angle = _random(2, 5, 3, 8), torch.rand(5, 4, dtype=torch.float64) * 6
    turn = torch.polar(torch.ones_like(angle), angle)
    y = F.rms_norm(x_BTGH, (8,), None, EPS) * 1.3
    even, odd, cos, sin = y[..., ::2], y[..., 1::2], angle.cos()[:, None], angle.sin()[:, None]
    expected = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).transpose(1, 2)
    assert torch.allclose(normalize_rotate(x_BTGH, turn, gain=1.3, eps=EPS), expected)
    assert torch.autograd.gradcheck(lambda x: normalize_rotate(x, turn, gain=1.3, eps=EPS), x_BTGH)


def test_swiglu() -> None:
    x = _random(4, 10)
    assert torch.allclose(swiglu(x), F.silu(x[:, :5]) * x[:, 5:])
    assert torch.autograd.gradcheck(swiglu, x)


def test_vocabulary_loss_is_cross_entropy() -> None:
    x, weight, targets = _random(9, 6), _random(11, 6), torch.arange(9)
    assert torch.allclose(vocabulary_loss(x, weight, targets), F.cross_entropy(x @ weight.mT, targets))
    assert torch.autograd.gradcheck(lambda x, w: vocabulary_loss(x, w, targets), (x, weight))


def test_vocabulary_loss_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_spans", lambda rows, columns, cuda: [(0, 4), (4, 8), (8, rows)])
    test_vocabulary_loss_is_cross_entropy()
    x, weight, targets = _random(9, 6), _random(11, 6), torch.arange(9)
    expected = F.cross_entropy(x @ weight.mT, targets, reduction="none")
    assert torch.allclose(vocabulary_nats(x, weight, targets), expected)


def test_parts_cover_all_rows() -> None:
    for rows, columns in ((1, 5), (4096, 4096), (1000, 1 << 22)):
        spans = functions._spans(rows, columns, cuda=False)
        assert [row for start, stop in spans for row in range(start, stop)] == list(range(rows))


def test_a_target_out_of_reach_costs_much_but_not_everything() -> None:
    x, weight = torch.tensor([[300.0]]), torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = vocabulary_loss(x, weight, torch.tensor([1]))
    assert 80.0 < loss.item() < 700.0
    assert torch.allclose(torch.autograd.grad(loss, weight)[0], torch.tensor([[300.0], [-300.0]]))
    assert float(vocabulary_nats(x, weight.detach(), torch.tensor([1]))[0]) == pytest.approx(600.0)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
def test_attend_is_causal_attention(heads: int, groups: int) -> None:
    q, k, v = _random(2, heads, 7, 8), _random(2, groups, 7, 8), _random(2, groups, 7, 8)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert torch.allclose(attend(q, k, v), expected)


def test_training_precision_is_near() -> None:
    x = _random(64, 32).float()
    assert torch.allclose(normalize(x, eps=EPS, dtype=torch.bfloat16).float(), F.rms_norm(x, (32,)), atol=0.02)
