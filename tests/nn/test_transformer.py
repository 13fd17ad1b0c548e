"""Fresh weights of a transformer: where its heads look, and what that is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio.nn.functions import normalize, normalize_rotate
from intaglio.nn.optim import muon_and_adamw
from intaglio.nn.transformer import QK_GAIN, Shape, Transformer

SHAPE = Shape(vocab=48, layers=2, width=64, heads=4, kv_heads=2, hidden=96, context=48)


def attention(model: Transformer, ids_BT: Tensor, *, block: int = 0) -> Tensor:
    """What each head of a fresh block weighs each earlier token by: (B, N, T, T)."""
    shape = model.shape
    n, k, h = shape.heads, shape.kv_heads, shape.head_dim
    x_BTD = normalize(model.embedding(ids_BT), eps=shape.eps, dtype=torch.float32)
    qk_BTGH = F.linear(x_BTD, model.blocks[block].qkv.weight[: (n + k) * h]).unflatten(-1, (n + k, h))
    qk_BGTH = normalize_rotate(qk_BTGH, model.turn_TH[: ids_BT.shape[1]], gain=QK_GAIN, eps=shape.eps)
    q_BNTH, k_BKTH = qk_BGTH.split([n, k], dim=1)
    scores = q_BNTH @ k_BKTH.repeat_interleave(n // k, dim=1).mT / h**0.5
    return scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf).softmax(-1)


@pytest.mark.parametrize("back", [None, (5, 0, 9, 2)])
@torch.no_grad()
def test_fresh_heads_look_at_their_distance_whatever_stands_there(back: tuple[int, ...] | None) -> None:
    model = Transformer(SHAPE, seed=3, back=back)
    ids = torch.randint(SHAPE.vocab, (8, SHAPE.context), generator=torch.Generator().manual_seed(1))
    for block in range(SHAPE.layers):
        weights_NTT = attention(model, ids, block=block).mean(0)
        for head, distance in enumerate(back or (0, 1, 2, 3)):
            found = [float(weights_NTT[head].diagonal(-each)[20 - each :].mean()) for each in range(20)]
            assert max(found) == found[distance] > 0.3, (head, distance, found)


@pytest.mark.parametrize(("heads", "near"), [(4, (0, 1, 2, 3)), (8, (0, 1, 1, 2, 2, 3, 3, 4))])
def test_any_number_of_heads_looks_at_the_nearest_tokens(heads: int, near: tuple[int, ...]) -> None:
    assert replace(SHAPE, heads=heads, kv_heads=heads).near() == near


@torch.no_grad()
def test_what_embeddings_have_in_common_says_nothing_about_the_next_token() -> None:
    model = Transformer(SHAPE, seed=3)
    ids = torch.randint(SHAPE.vocab, (2, SHAPE.context), generator=torch.Generator().manual_seed(1))
    before = model(ids).log_softmax(-1)
    features = model.features(ids)
    shifted = F.linear(features, model.embedding.weight - model.embedding.weight.mean(0)).log_softmax(-1)
    torch.testing.assert_close(shifted, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", [1, 2])
def test_heads_that_begin_at_the_right_places_learn_a_rule_sooner_than_others(seed: int) -> None:
    """Each token is the sum of those one and three before it: nothing but these two places helps."""
    near, far = (learned(back, seed=seed) for back in ((0, 1, 2, 3), (20, 25, 30, 35)))
    assert near < 0.6 * far, (near, far)


def learned(back: tuple[int, ...], *, seed: int, steps: int = 60) -> float:
    """Mean nats a token after ``steps`` updates on sequences of a rule; a guess has log(7) = 1.95."""
    shape = Shape(vocab=7, layers=2, width=64, heads=4, kv_heads=4, hidden=96, context=48)
    gen = torch.Generator().manual_seed(seed)
    model = Transformer(shape, seed=seed, back=back)
    optimizers = muon_and_adamw(model)
    for _ in range(steps):
        model.zero_grad()
        loss = model.loss(ruled(gen, count=16, length=shape.context + 1))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    with torch.no_grad():
        return float(model.nats(ruled(gen, count=64, length=shape.context + 1))[:, 4:].mean())


def ruled(gen: torch.Generator, *, count: int, length: int) -> Tensor:
    ids = torch.randint(7, (count, length), generator=gen)
    for place in range(3, length):
        ids[:, place] = (ids[:, place - 1] + ids[:, place - 3]) % 7
    return ids
