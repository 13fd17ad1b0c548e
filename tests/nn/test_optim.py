"""Muon's orthogonalization against the singular value decomposition, its step against the formula, who gets which."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from intaglio.nn.optim import Muon, adamw, muon_and_adamw, orthogonalize


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 48, 16), (2, 16, 48)])
def test_orthogonalize_is_near_the_polar_factor(shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    made = orthogonalize(x, dtype=torch.float32)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    values = torch.linalg.svdvals(made)
    assert 0.85 < values.min() and values.max() < 1.15
    cosine = (made * (u @ vh)).sum((-2, -1)) / made.norm(dim=(-2, -1)) / (u @ vh).norm(dim=(-2, -1))
    assert cosine.min() > 0.99
    near = orthogonalize(x, dtype=torch.bfloat16).float()
    assert (near - made).norm() / made.norm() < 0.2


def test_orthogonalize_of_nothing_is_nothing() -> None:
    assert orthogonalize(torch.zeros(1, 4, 4), dtype=torch.float32).abs().max() == 0


def test_step_follows_the_formula_and_batches_by_shape() -> None:
    weights = [nn.Parameter(torch.randn(8, 4, generator=torch.Generator().manual_seed(n))) for n in range(2)]
    before = [weight.detach().clone() for weight in weights]
    grads = [torch.randn(8, 4, generator=torch.Generator().manual_seed(9 + n)) for n in range(2)]
    for weight, grad in zip(weights, grads, strict=True):
        weight.grad = grad.clone()
    Muon(weights, lr=0.1, momentum=0.9, weight_decay=0.5).step()
    for weight, old, grad in zip(weights, before, grads, strict=True):
        momentum = 0.1 * grad
        direction = orthogonalize((0.1 * grad + 0.9 * momentum)[None], dtype=torch.float32, steps=4)[0]
        assert torch.allclose(weight, old * (1 - 0.1 * 0.5) - 0.1 * 2**0.5 * direction, atol=1e-5)


def test_rows_of_a_wide_matrix_are_made_orthogonal_in_parts() -> None:
    """Wide ones in parts that fit; square ones of as many rows, and those that do not divide, whole."""
    for shape, parts in (((8, 3, 4), 4), ((2, 12), 1), ((12, 4), 1), ((5, 9), 1)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        Muon([weight], lr=1.0, momentum=0.0, rows=2).step()
        expected = orthogonalize(
            weight.grad.flatten(1).view(parts, shape[0] // parts, -1), dtype=torch.float32, steps=4
        )
        scale = max(1.0, shape[0] / weight[0].numel()) ** 0.5
        assert torch.allclose(weight, -scale * expected.reshape(shape), atol=1e-5)


def test_matrices_go_to_muon_and_the_rest_to_adamw() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Conv2d(1, 2, 3), nn.LayerNorm(4))
    muon, adamw = muon_and_adamw(model)
    assert [tuple(p.shape) for p in muon.param_groups[0]["params"]] == [(4, 4), (2, 1, 3, 3)]
    assert len(adamw.param_groups[0]["params"]) == 5


def test_a_model_without_matrices_needs_no_muon() -> None:
    assert len(muon_and_adamw(nn.LayerNorm(4))) == 1


def test_adamw_is_that_of_torch_to_the_bit_and_goes_on_from_its_state() -> None:
    models = [nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    ours = adamw(models[0].parameters(), lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
    theirs = torch.optim.AdamW(models[1].parameters(), lr=0.01, betas=(0.8, 0.9), weight_decay=0.1, fused=True)
    gen = torch.Generator().manual_seed(0)
    for step in range(6):
        if step == 3:  # another optimizer, the state of the first
            state = ours.state_dict()
            ours = adamw(models[0].parameters(), lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
            ours.load_state_dict(state)
        for pair in zip(models[0].parameters(), models[1].parameters(), strict=True):
            grad = torch.randn(pair[0].shape, generator=gen)
            for parameter in pair:
                parameter.grad = grad.clone()
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_parameter_without_gradient_stays() -> None:
    weight = nn.Parameter(torch.ones(2))
    adamw([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(2))
