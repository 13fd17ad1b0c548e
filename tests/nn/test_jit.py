"""The compiled calls for one token, of one sequence and of many, against the same model called the usual way."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from intaglio.core.contracts import Sampling
from intaglio.nn.decoder import Decoder, Weights
from intaglio.nn.sampling import Line, write
from intaglio.nn.transformer import Shape, Transformer

CONTEXT = 24

pytest.importorskip("numba")


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Random weights large enough that every token matters; two query heads to a key head."""
    made = Transformer(Shape(vocab=50, layers=3, width=32, heads=4, kv_heads=2, hidden=72, context=CONTEXT), seed=1)
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=gen) * 0.2 + (parameter.ndim == 1))
    return made


def _write(weights: Weights, prompt: list[int], tokens: int) -> Line:
    line = Line(prompt, seed=3, accept=lambda token: "")
    write(Decoder(weights), [line], Sampling(max_tokens=tokens, temperature=0.9), end=-1)
    return line


def test_logits_are_those_of_the_usual_way(model: Transformer) -> None:
    weights = Weights(model, alone=True)
    assert weights.alone is not None
    fast, plain = Decoder(weights), Decoder(model)
    fast.read([[1, 2, 3]])
    plain.read([[1, 2, 3]])
    for token in range(4, 20):
        ids = torch.tensor([[token]])
        assert torch.allclose(fast.advance(ids), plain.advance(ids), atol=2e-5)


def test_a_row_that_is_left_of_several_keeps_its_own_beginning(model: Transformer) -> None:
    decoders = [Decoder(Weights(model, alone=alone)) for alone in (True, False)]
    found = []
    for decoder in decoders:
        decoder.read([[5, 6, 7, 8], [9, 1]])
        decoder.keep([1])
        found.append(torch.cat([decoder.advance(torch.tensor([[token]])) for token in (2, 3, 4)]))
    assert decoders[0].pads == [2] and torch.allclose(*found, atol=2e-5)


def test_the_same_text_past_the_context_with_any_threads(model: Transformer) -> None:
    weights, plain = Weights(model, alone=True), _write(Weights(model), [3, 4], 4 * CONTEXT)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            line = _write(weights, [3, 4], 4 * CONTEXT)
            assert line.drawn == plain.drawn and line.nats == pytest.approx(plain.nats, rel=1e-5)
    finally:
        torch.set_num_threads(before)


def test_many_at_once_are_written_as_in_the_usual_way(model: Transformer) -> None:
    """Prompts of unlike lengths, past the context, rows that end early, any number of threads."""
    prompts, found = [[1], [2, 3, 4, 5, 6], [7] * 10, [8, 9]], []
    before = torch.get_num_threads()
    try:
        for threads, together in ((1, False), (1, True), (2, True)):
            torch.set_num_threads(threads)
            weights = Weights(model, together=together)
            assert (weights.between is not None) is together
            lines = [
                Line(prompt, seed, accept=lambda token, seed=seed: "stop" if seed == 1 and token < 5 else "")  # type: ignore[misc]
                for seed, prompt in enumerate(prompts)
            ]
            write(Decoder(weights), lines, Sampling(max_tokens=4 * CONTEXT, temperature=0.9), end=-1)
            found.append([(line.drawn, line.finish, pytest.approx(line.nats, rel=1e-5)) for line in lines])
    finally:
        torch.set_num_threads(before)
    assert len(found[0][1][0]) < 4 * CONTEXT == len(found[0][0][0]), "one of them ends early"
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_many_are_those_of_the_usual_way(model: Transformer, dtype: torch.dtype) -> None:
    decoders = [Decoder(Weights(model, dtype=dtype, together=together)) for together in (True, False)]
    for decoder in decoders:
        decoder.read([[1, 2, 3], [4]])
    for step in range(2 * CONTEXT):  # the longer one leaves the context
        ids = torch.tensor([[step], [step + 1]])
        fast, plain = (decoder.advance(ids) for decoder in decoders)
        assert torch.allclose(fast, plain, atol=2e-5 if dtype == torch.float32 else 0.05 * float(plain.std()))


def test_bfloat16_rounds_weights_only(model: Transformer) -> None:
    rounded = Transformer(model.shape)
    with torch.no_grad():
        for to, of in zip(rounded.parameters(), model.parameters(), strict=True):
            to.copy_(of.bfloat16().float())
        rounded.gain.copy_(model.gain)
    halves, whole = (Decoder(w) for w in (Weights(model, dtype=torch.bfloat16, alone=True), Weights(rounded)))
    for decoder in (halves, whole):
        decoder.read([[1, 2]])
    a, b = (decoder.advance(torch.tensor([[3]])) for decoder in (halves, whole))
    assert (a - b).abs().max() < 0.05 * b.std()  # the prompt was read with rounded activations too


def test_what_is_not_a_number_stays_none(model: Transformer) -> None:
    broken = Transformer(model.shape)
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.blocks[1].down.weight[0, 0] = torch.nan
    decoder = Decoder(Weights(broken, alone=True, together=True))
    for batch in (1, 2):
        decoder.reset(batch)
        assert decoder.advance(torch.tensor([[1]] * batch)).isnan().all()


def test_exp() -> None:
    from intaglio.nn.jit import _exp

    x = np.linspace(-80, 20, 10_001, dtype=np.float32)
    found = np.array([_exp(value) for value in x], dtype=np.float64)
    wrong = np.abs(found / np.exp(x.astype(np.float64)) - 1)
    assert (wrong / (3 + 2 * np.abs(x))).max() < 2.0**-24
    assert _exp(np.float32(-1e30)) < 1e-37


def test_without_numba_it_writes_as_before(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "intaglio.nn.jit", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    weights = Weights(model, alone=True, together=True)
    assert weights.alone is None and weights.between is None
    assert _write(weights, [3], 8).drawn == _write(Weights(model), [3], 8).drawn
