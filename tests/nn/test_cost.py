"""Costs of a step against closed forms, and when compiling pays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from intaglio.nn.compiling import step_of
from intaglio.nn.cost import flops_of, seconds_of
from intaglio.nn.device import missing_for_compiling, worth_compiling
from intaglio.nn.loop import Plan, train
from intaglio.nn.optim import adamw
from tests.support import RunContext


def test_multiplications_of_a_linear_and_a_convolution() -> None:
    """2 m n k forward, twice that backward; a huge one costs nothing to count."""
    assert flops_of(lambda: nn.Linear(64, 32), (16, 64)) == 3 * 2 * 16 * 64 * 32
    assert flops_of(lambda: nn.Conv2d(3, 8, 3, padding=1), (2, 3, 10, 10)) == 3 * 2 * (2 * 100 * 8) * 27
    assert flops_of(lambda: nn.Linear(200_000, 200_000), (1_000_000, 200_000)) == 6e6 * 200_000**2


def test_a_step_is_timed_and_leaves_gradients() -> None:
    model = nn.Linear(8, 8)
    seconds = seconds_of(lambda: model(torch.ones(4, 8)).sum(), budget_s=0.01)
    assert 0 < seconds < 60 and model.weight.grad is not None


@pytest.mark.parametrize(
    ("seconds", "device", "pays"), [(60, "cpu", False), (3600, "cpu", True), (3600, "cuda", False)]
)
def test_compiling_pays_only_for_long_trainings(seconds: float, device: str, pays: bool) -> None:
    assert worth_compiling(seconds, device, possible=True) is pays


def test_where_the_compiler_is_missing_it_is_said_and_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert missing_for_compiling() == "g++" and not worth_compiling(1e6, "cpu")
    said: list[str] = []

    def loss(micro: int, generator: torch.Generator) -> torch.Tensor:
        return torch.zeros(())

    step = step_of(loss, [], seconds=1e6, device="cpu", warn=said.append)
    assert step.loss is loss and step.facts == {} and "g++ is missing" in said[0]
    assert step_of(loss, [], seconds=60.0, device="cpu", warn=said.append).facts == {} and len(said) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while its compiler is imported
@pytest.mark.skipif(bool(missing_for_compiling()), reason="no C++ compiler here")
def test_a_long_training_takes_compiled_steps_and_judges_as_ever(tmp_path: Path) -> None:
    """The real thing, tiny: the same losses but for rounding, gradients as before, and modules left as they were."""
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    seen: list[bool] = []

    def loss(micro: int, generator: torch.Generator) -> torch.Tensor:
        seen.append("forward" in model.__dict__)
        return (model(x) + torch.randn(4, 8, generator=generator)).square().mean()

    step = step_of(loss, [model], seconds=1e6, device="cpu", warn=pytest.fail)
    assert step.facts == {"compiled": True}
    plain, compiled = (each(0, torch.Generator().manual_seed(2)) for each in (loss, step.loss))
    grads = [torch.autograd.grad(each, list(model.parameters())) for each in (plain, compiled)]
    torch.testing.assert_close(plain, compiled)
    torch.testing.assert_close(*grads)
    assert seen == [False, True] and "forward" not in model.__dict__
    trained = train(
        model,
        step.loss,
        optimizers=[adamw(model.parameters(), lr=1e-2)],
        plan=Plan(steps=4, seed=3, evaluations=2, previews=0),
        work=tmp_path,
        report=RunContext(tmp_path),
        identity=step.facts,
        evaluate=lambda: float(model(x).square().mean()),
    )
    assert trained.steps == 4 and set(seen[2:]) == {True}
