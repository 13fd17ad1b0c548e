"""Writing token by token: the cache against the whole model, the filters against those of transformers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from intaglio.core.contracts import Sampling
from intaglio.core.errors import UserError
from intaglio.nn.decoder import Decoder, Weights
from intaglio.nn.sampling import Line, filtered, steps, write
from intaglio.nn.transformer import Shape, Transformer

CONTEXT = 24


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Random weights large enough that every token matters."""
    made = Transformer(Shape(vocab=50, layers=3, width=32, heads=4, kv_heads=2, hidden=64, context=CONTEXT), seed=1)
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=gen) * 0.2)
    return made


def _write(model: Transformer, prompts: Sequence[Sequence[int]], sampling: Sampling, **more: object) -> list[Line]:
    lines = [Line(prompt=list(p), seed=len(p) + 1, accept=lambda token: "", **more) for p in prompts]  # type: ignore[arg-type]
    write(Decoder(model), lines, sampling, end=0)
    return lines


@torch.no_grad()
def test_cache_gives_what_the_whole_model_gives(model: Transformer) -> None:
    prompts = [list(range(1, 10)), [7, 3, 5], [4]]
    decoder = Decoder(model)
    logits = decoder.read(prompts)
    for number in range(5):
        for row, prompt in enumerate(prompts):
            assert torch.allclose(logits[row], model(torch.tensor([prompt]))[0, -1], atol=1e-4)
        prompts = [[*prompt, 11 + number] for prompt in prompts]
        logits = decoder.advance(torch.full((3, 1), 11 + number))


def test_greedy_is_argmax_and_nats_are_the_models(model: Transformer) -> None:
    (line,) = _write(model, [[5, 6, 7]], Sampling(max_tokens=12, temperature=0))
    text, nats = [5, 6, 7], 0.0
    for token in line.drawn:
        with torch.no_grad():
            scores = model(torch.tensor([text]))[0, -1].log_softmax(-1)
        assert token == int(scores.argmax())
        nats -= float(scores[token])
        text.append(token)
    assert line.nats == pytest.approx(nats, abs=1e-3) and line.finish in ("stop", "length")


def test_who_writes_beside_does_not_matter_even_past_the_context(model: Transformer) -> None:
    sampling = Sampling(max_tokens=90, temperature=1.0)
    prompts = [[3], [9, 8, 7, 6], list(range(1, 30)), [2, 2]]
    together = _write(model, prompts, sampling)
    for line, prompt in zip(together, prompts, strict=True):
        assert _write(model, [prompt], sampling)[0].drawn == line.drawn
    assert any(len(line.drawn) > 2 * CONTEXT for line in together)


def test_a_seed_is_a_text(model: Transformer) -> None:
    lines = [Line(prompt=[1], seed=seed, accept=lambda token: "") for seed in (5, 6, 5)]
    write(Decoder(model), lines, Sampling(max_tokens=10), end=0)
    assert lines[0].drawn == lines[2].drawn != lines[1].drawn


def test_draws_follow_the_probabilities(model: Transformer) -> None:
    lines = [Line(prompt=[1, 2], seed=seed, accept=lambda token: "") for seed in range(3_000)]
    write(Decoder(model), lines, Sampling(max_tokens=1), end=-1)
    counts = torch.bincount(torch.tensor([line.drawn[0] for line in lines]), minlength=50)
    with torch.no_grad():
        expected = model(torch.tensor([[1, 2]]))[0, -1].softmax(-1) * 3_000
    likely = expected > 5
    statistic = ((counts - expected).square() / expected)[likely].sum()
    assert statistic < 2 * int(likely.sum()), "chi-squared"


@pytest.mark.parametrize(
    "sampling",
    [Sampling(top_k=5), Sampling(top_p=0.6), Sampling(min_p=0.2), Sampling(top_k=20, top_p=0.9, min_p=0.02)],
)
def test_filters_are_those_of_transformers(sampling: Sampling) -> None:
    from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = torch.randn(6, 50, generator=torch.Generator().manual_seed(3)) * 2
    expected = scores
    if sampling.top_k:
        expected = TopKLogitsWarper(sampling.top_k)(None, expected)
    if sampling.top_p < 1:
        expected = TopPLogitsWarper(sampling.top_p)(None, expected)
    if sampling.min_p:
        expected = MinPLogitsWarper(sampling.min_p)(None, expected)
    made = filtered(scores, sampling)
    assert torch.allclose(made / made.sum(-1, keepdim=True), expected.softmax(-1), atol=1e-6)


@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0, 12.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_of_a_large_vocabulary_is_that_of_a_full_sort(spread: float, top_p: float) -> None:
    scores = torch.randn(5, 6_000, generator=torch.Generator().manual_seed(2)) * spread
    chances = scores.softmax(-1)
    ordered, index = chances.sort(dim=-1, descending=True, stable=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
    assert torch.equal(filtered(scores, Sampling(top_p=top_p)), torch.zeros_like(chances).scatter(-1, index, ordered))


def test_large_matrices_are_multiplied_as_the_model_does() -> None:
    shape = Shape(vocab=3_000, layers=2, width=256, heads=4, kv_heads=2, hidden=700, context=32)
    model, ids = Transformer(shape, seed=3), [[5, 1999, 7], [8]]
    gen = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in model.blocks:
            for matrix in (block.out, block.down):
                matrix.weight.normal_(0.0, 0.05, generator=gen)
    weights = Weights(model)
    for together in (ids, ids[:1], ids * 20):
        decoder, texts = Decoder(weights), [list(each) for each in together]
        logits = decoder.read(texts)
        for token in range(11, 15):
            for row, text in enumerate(texts):
                with torch.no_grad():
                    assert torch.allclose(logits[row], model(torch.tensor([text]))[0, -1], atol=2e-4)
                text.append(token)
            logits = decoder.advance(torch.full((len(texts), 1), token))


def test_repetition_penalty_is_that_of_transformers(model: Transformer) -> None:
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    (line,) = _write(model, [[5, 6]], Sampling(max_tokens=8, temperature=0, repetition_penalty=1.5))
    text = [5, 6]
    penalize = RepetitionPenaltyLogitsProcessor(1.5)
    for token in line.drawn:
        ids = torch.tensor([text])
        with torch.no_grad():
            assert token == int(penalize(ids, model(ids)[:, -1])[0].argmax())
        text.append(token)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=40, temperature=0, frequency_penalty=0.7, presence_penalty=0.4),
        Sampling(max_tokens=40, temperature=0, frequency_penalty=-0.3),
        Sampling(max_tokens=40, temperature=0, presence_penalty=1.5, repetition_penalty=1.2),
    ],
)
def test_penalties_are_taken_off_the_logits_of_what_was_drawn(model: Transformer, sampling: Sampling) -> None:
    """The formula of OpenAI's documentation, token by token over the whole model, beside neighbors that end earlier."""
    prompts = [[5, 6, 6, 6], [9], [3, 2]]
    lines = [Line(prompt=list(prompt), seed=1, accept=lambda token: "") for prompt in prompts]
    lines[1].accept = lambda token: "stop"
    write(Decoder(model), lines, sampling, end=-1)
    for line in (lines[0], lines[2]):
        drawn: list[int] = []
        while len(line.prompt) + len(drawn) <= CONTEXT and len(drawn) < len(line.drawn):
            with torch.no_grad():
                logits = model(torch.tensor([[*line.prompt, *drawn]]))[0, -1]
            for token in {*line.prompt, *drawn}:
                by = sampling.repetition_penalty
                logits[token] = logits[token] / by if logits[token] > 0 else logits[token] * by
            for token in set(drawn):
                logits[token] -= drawn.count(token) * sampling.frequency_penalty + sampling.presence_penalty
            assert line.drawn[len(drawn)] == int(logits.argmax())
            drawn.append(int(logits.argmax()))
        assert len(drawn) > 15


def test_a_presence_penalty_makes_more_different_tokens(model: Transformer) -> None:
    kinds = []
    for penalty in (0.0, 2.0):
        line = Line(prompt=[5, 6], seed=3, accept=lambda token: "")
        write(Decoder(model), [line], Sampling(max_tokens=25, temperature=0.2, presence_penalty=penalty), end=-1)
        kinds.append(len(set(line.drawn)))
    assert kinds[1] > kinds[0]


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
@pytest.mark.parametrize("value", [2.1, -3.0, float("nan"), float("inf")])
def test_penalties_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name} must be from -2 to 2; got {value}"):
        Sampling(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_repetition_penalty_is_above_zero(value: float) -> None:
    with pytest.raises(UserError, match="repetition_penalty must be above 0"):
        Sampling(repetition_penalty=value)


def test_steps_are_what_write_writes_and_leave_torch_alone(model: Transformer) -> None:
    sampling = Sampling(max_tokens=30)
    (whole,) = _write(model, [[5, 6]], sampling)
    line = Line(prompt=[5, 6], seed=3, accept=lambda token: "")
    threads = torch.get_num_threads()
    for count, _ in enumerate(steps(Decoder(model), [line], sampling, end=0), 1):
        assert len(line.drawn) == count or line.finish == "stop"
        assert not torch.is_inference_mode_enabled() and torch.get_num_threads() == threads
    assert (line.drawn, line.nats, line.finish) == (whole.drawn, whole.nats, whole.finish)


def test_closed_steps_write_no_further(model: Transformer) -> None:
    line = Line(prompt=[5, 6], seed=3, accept=lambda token: "")
    work = steps(Decoder(model), [line], Sampling(max_tokens=30), end=-1)
    next(work), next(work)
    work.close()
    assert len(line.drawn) == 2 and list(work) == []


def test_constraints_hold_and_end(model: Transformer) -> None:
    even = torch.arange(50) % 2 == 0
    nothing = torch.zeros(50, dtype=torch.bool)
    line = Line(prompt=[1], seed=1, accept=lambda token: "")
    line.allowed = lambda: nothing if len(line.drawn) == 5 else even & (torch.arange(50) > 0)
    free = Line(prompt=[1], seed=1, accept=lambda token: "")
    write(Decoder(model), [line, free], Sampling(max_tokens=20), end=0)
    assert line.finish == "constraint" and len(line.drawn) == 5 and all(token % 2 == 0 for token in line.drawn)
    assert free.finish != "constraint" and any(token % 2 for token in free.drawn)


def test_settings_without_tokens_write_nothing(model: Transformer) -> None:
    (line,) = _write(model, [[1]], Sampling(max_tokens=0))
    assert line.drawn == [] and line.finish == "length"


def test_precision_of_the_cache_follows_the_decoder(model: Transformer) -> None:
    exact, near = Decoder(model), Decoder(model, dtype=torch.bfloat16)
    left: Tensor = exact.read([[1, 2, 3]])
    assert (left - near.read([[1, 2, 3]])).abs().max() < 0.05 * left.abs().max()
