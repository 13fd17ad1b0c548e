"""What is recorded for a GPU gives what is not recorded: losses, gradients, the next token."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from intaglio.core.contracts import Sampling
from intaglio.nn.decoder import SLOTS, Decoder, Weights, slots_of
from intaglio.nn.device import machine
from intaglio.nn.graphs import RecordedLoss, recorded_on_gpu
from intaglio.nn.optim import Muon
from intaglio.nn.sampling import Line, write
from intaglio.nn.tokens import Token
from intaglio.nn.transformer import Shape, Transformer

CONTEXT = 32
SHAPE = Shape(vocab=50, layers=3, width=32, heads=4, kv_heads=2, hidden=48, context=CONTEXT)
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def model(device: str = "cpu") -> Transformer:
    made, gen = Transformer(SHAPE, seed=1), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for block in made.blocks:
            for matrix in (block.out, block.down):
                matrix.weight.normal_(0.0, 0.1, generator=gen)
    return made.to(device)


def ids(rows: int, columns: int, seed: int = 3) -> Tensor:
    return torch.randint(SHAPE.vocab, (rows, columns), generator=torch.Generator().manual_seed(seed))


def test_what_is_recorded_of_a_token_is_what_a_decoder_computes() -> None:
    """Without recording it, so on a CPU too: rows that begin at different columns, and one row that is not used."""
    weights = Weights(model())
    decoder, token = Decoder(weights), Token(weights, 4)
    prompts = [row.tolist() for row in ids(3, 9)]
    prompts[1] = prompts[1][:4]
    decoder.read(prompts)
    for cache, filled in ((token.keys, decoder.keys), (token.values, decoder.values)):
        cache[:, :3, :, :9] = filled[:, :, :, :9]
    for step in range(4):
        new = ids(3, 1, seed=step)[:, 0]
        token._place_at(new, decoder.pads, decoder.column)
        with torch.inference_mode():
            ours = token._run(reach=16)[:3]
        torch.testing.assert_close(ours, decoder.advance(new[:, None]), atol=1e-5, rtol=1e-4)


def test_how_many_go_together_depends_on_device_and_shape_alone() -> None:
    assert slots_of(SHAPE, "cpu") == SLOTS and slots_of(SHAPE, "cuda") == 256
    large = Shape(vocab=8192, layers=24, width=2048, heads=16, kv_heads=16, hidden=8192, context=4096)
    assert slots_of(large, "cuda") == SLOTS
    middle = Shape(vocab=8192, layers=8, width=384, heads=6, kv_heads=6, hidden=1024, context=512)
    assert slots_of(middle, "cuda") == 128 and slots_of(middle, "cuda", torch.bfloat16) == 256


def test_on_a_cpu_nothing_is_recorded() -> None:
    made = model()
    assert recorded_on_gpu(made.loss, made) == made.loss


def told(made: Transformer, loss: Callable[..., Tensor], step: int) -> tuple[float, list[Tensor]]:
    made.zero_grad(set_to_none=True)
    value = loss(ids(4, CONTEXT + 1, seed=step).cuda()) / 2
    value.backward()
    return value.item(), [p.grad.clone() for p in made.parameters() if p.grad is not None]


@pytest.mark.gpu
def test_random_numbers_of_a_recorded_loss_are_those_of_the_generator() -> None:
    """The same as without recording, whatever was drawn before; another seed gives others."""
    linear = torch.nn.Linear(8, 1).cuda()
    chance = torch.Generator("cuda")

    def loss(x_BD: Tensor) -> Tensor:
        return linear(x_BD + torch.randn(x_BD.shape, generator=chance, device="cuda")).square().mean()

    recorded = recorded_on_gpu(loss, linear, generator=chance)

    def value(call: Callable[..., Tensor], seed: int) -> float:
        chance.manual_seed(seed)
        torch.rand(3, generator=chance, device="cuda")
        return float(call(torch.ones(4, 8, device="cuda")).detach())

    with machine(device="cuda", threads=1):
        plain = [value(loss, seed) for seed in (1, 2, 1)]
        assert [value(recorded, seed) for seed in (1, 2, 1)] == plain and plain[0] != plain[1]


@pytest.mark.gpu
def test_muon_has_the_same_bits_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several steps, with another learning rate each, and after its state was loaded."""
    found = []
    for plain in (True, False):
        with machine(device="cuda", threads=1):
            made = model("cuda")
            optimizer = Muon([p for p in made.parameters() if p.ndim > 1], lr=0.02, weight_decay=0.1)
            if plain:
                monkeypatch.setattr(optimizer, "_update_of", lambda key, *told, own=optimizer: own._update(*told))
            for step in range(4):
                told(made, made.loss, step)
                optimizer.param_groups[0]["lr"] = 0.02 / (step + 1)
                optimizer.step()
                if step == 1:
                    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            found.append([p.detach().clone() for p in made.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_recorded_loss_has_the_same_bits(dtype: torch.dtype) -> None:
    with machine(device="cuda", threads=1):
        made = model("cuda")
        plain = functools.partial(made.loss, dtype=dtype)
        recorded = recorded_on_gpu(plain, made)
        assert isinstance(recorded, RecordedLoss)
        for step in range(3):
            (one, gradients), (other, others) = (told(made, loss, step) for loss in (plain, recorded))
            assert one == other and len(gradients) == len(others) == len(list(made.parameters()))
            assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))
            with torch.no_grad():
                for parameter in made.parameters():
                    parameter.add_(0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recorded_tokens_are_those_of_a_cpu(dtype: torch.dtype) -> None:
    """Past the context, so that caches move up and rows are read again; rows end at different times."""
    texts: dict[str, list[list[int]]] = {}
    for device in ("cpu", "cuda"):
        with machine(device=device, threads=1):
            decoder = Decoder(Weights(model(device), dtype=torch.float32 if device == "cpu" else dtype))
            lines = [Line(ids(1, 3 + row)[0].tolist(), seed=row, accept=lambda token: "") for row in range(9)]
            write(decoder, lines, Sampling(max_tokens=4 * CONTEXT, temperature=0.9), end=7)
            texts[device] = [line.drawn for line in lines]
            nats = [line.nats / max(1, len(line.drawn)) for line in lines]
            assert all(0 < each < 10 for each in nats)
    if dtype == torch.float32:
        alike = sum(one == other for one, other in zip(*texts.values(), strict=True))
        assert alike >= 8, "a draw falls between two close tokens once in a million"


@pytest.mark.gpu
def test_caches_are_given_back_and_used_again() -> None:
    with machine(device="cuda", threads=1):
        weights = Weights(model("cuda"))
        first = Decoder(weights)
        first.read([[1, 2], [3]])
        held = first._token
        del first
        assert held in weights._idle
        second = Decoder(weights)
        second.read([[4], [5, 6]])
        assert second._token is held
