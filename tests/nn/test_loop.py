"""The training loop: resumes to the same bits, keeps the best, goes back once from divergence, and says what it did."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from intaglio.nn.device import machine
from intaglio.nn.loop import Diverged, Plan, Trained, train
from intaglio.nn.optim import muon_and_adamw
from intaglio.nn.order import rows
from tests.support import RunContext

X = torch.randn(200, 8, generator=torch.Generator().manual_seed(1))
Y = X @ torch.randn(8, 8, generator=torch.Generator().manual_seed(2))


class Killed(BaseException):
    pass


def _train(
    root: Path, *, kill_at: int = -1, spoil: tuple[int, ...] = (), heldout: bool = True, steps: int = 40
) -> tuple[Tensor, Trained, RunContext]:
    """Regression with dropout and noise; ``spoil`` makes the loss infinite the first time each of these steps runs."""
    ctx, spoiled = RunContext(root), list(spoil)
    with machine(device="cpu", threads=1):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8))

        def loss(step: int, gen: torch.Generator) -> Tensor:
            if step == kill_at:
                raise Killed
            take = torch.from_numpy(rows(step, batch=16, count=len(X), seed=5))
            value = (model(X[take] + 0.01 * torch.randn(16, 8, generator=gen)) - Y[take]).square().mean()
            if step in spoiled:
                spoiled.remove(step)
                return value * math.inf
            return value

        trained = train(
            model,
            loss,
            optimizers=muon_and_adamw(model),
            plan=Plan(steps=steps, seed=3, ema=0.9, evaluations=4, previews=2, save_seconds=0.0),
            work=ctx.work,
            report=ctx,
            evaluate=(lambda: float((model(X) - Y).square().mean())) if heldout else None,
            preview=lambda step: ctx.preview(f"{step}", b""),
        )
    return torch.cat([p.detach().flatten() for p in model.parameters()]), trained, ctx


@pytest.mark.parametrize("kill_at", [0, 1, 13, 20, 39])
def test_resumes_to_the_same_bits(tmp_path: Path, kill_at: int) -> None:
    weights, trained, _ = _train(tmp_path / "whole")
    with pytest.raises(Killed):
        _train(tmp_path / "cut", kill_at=kill_at)
    again, resumed, _ = _train(tmp_path / "cut")
    assert torch.equal(weights, again) and trained.curve == resumed.curve and resumed.resumed_at == kill_at
    finished, done, _ = _train(tmp_path / "cut")
    assert torch.equal(weights, finished) and done.resumed_at == 40, "a finished training is not run again"


def test_loss_falls_and_is_told(tmp_path: Path) -> None:
    _, trained, ctx = _train(tmp_path)
    heldout = [point[2] for point in trained.curve if point[2] is not None]
    assert len(heldout) == 4 and heldout[-1] < heldout[0] and trained.best_loss is not None
    assert math.isclose(trained.best_loss, min(heldout), abs_tol=1e-5)
    assert set(ctx.previews) == {"20", "40"} and ctx.metrics["curve"] == trained.curve
    done, total, numbers = ctx.progressed[-1]
    assert (done, total) == (40, 40) and {"loss", "heldout", "items/s"} <= set(numbers)
    assert trained.csv().splitlines()[0] == b"step,train_loss,heldout_loss" and not ctx.warnings


def test_best_is_kept_not_last(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    losses = iter([3.0, 1.0, 2.0, 5.0])
    seen: list[float] = []

    def evaluate() -> float:
        seen.append(float(model.weight.detach()))
        return next(losses)

    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1)]
    plan = Plan(steps=4, seed=0, evaluations=4)
    trained = train(
        model,
        lambda step, gen: model.weight.sum(),
        optimizers=optimizers,
        plan=plan,
        work=ctx.work,
        report=ctx,
        evaluate=evaluate,
    )
    assert trained.best_step == 2 and trained.best_loss == 1.0 and float(model.weight.detach()) == seen[1] != seen[3]


def test_goes_back_once_and_says_so(tmp_path: Path) -> None:
    _, trained, ctx = _train(tmp_path, spoil=(25,))
    assert trained.rollbacks == 1 and trained.steps == 40
    assert ctx.warnings == ["training diverged at step 26; went back to step 20 with half the learning rate"]


def test_second_divergence_keeps_the_best(tmp_path: Path) -> None:
    weights, trained, ctx = _train(tmp_path, spoil=(25, 35))
    assert trained.rollbacks == 1 and trained.steps == 36 and weights.isfinite().all()
    assert "kept the best state, of step 30" in ctx.warnings[-1]


def test_second_divergence_without_heldout_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="diverged twice"):
        _train(tmp_path, spoil=(25, 35), heldout=False)


def test_going_back_resumes_to_the_same_bits(tmp_path: Path) -> None:
    weights, _, _ = _train(tmp_path / "whole", spoil=(25,))
    with pytest.raises(Killed):
        _train(tmp_path / "cut", spoil=(25,), kill_at=33)
    again, trained, _ = _train(tmp_path / "cut")
    assert torch.equal(weights, again) and trained.rollbacks == 1


def test_state_of_another_plan_or_damaged_is_not_taken_up(tmp_path: Path) -> None:
    _train(tmp_path)
    _, trained, _ = _train(tmp_path, steps=41)
    assert trained.resumed_at == 0
    for name in ("good", "last"):
        (tmp_path / "work" / f"{name}.safetensors").write_bytes(b"torn")
    _, trained, _ = _train(tmp_path)
    assert trained.resumed_at == 0


def test_another_setup_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        _train(tmp_path, kill_at=13)
    monkeypatch.setattr("intaglio.nn.loop.environment", lambda device: {"torch": "9.9"})
    _, _, ctx = _train(tmp_path)
    assert "resumed at step 13 on another set-up" in ctx.warnings[0] and "-> 9.9" in ctx.warnings[0]


def test_rate_rises_and_falls_to_nothing() -> None:
    plan = Plan(steps=100, seed=0, warmup=0.1, cooldown=0.5)
    assert [plan.rate(0), plan.rate(9), plan.rate(49), plan.rate(75)] == [0.1, 1.0, 1.0, 0.5]
    assert 0 < plan.rate(99) < 0.05
