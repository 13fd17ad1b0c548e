"""The training loop: resumes to the same bits, keeps the best, goes back once from divergence, and says what it did."""

from __future__ import annotations

import errno
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from intaglio.nn.checkpoint import DiskFull, load_tensors, read_meta
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
    root: Path,
    *,
    kill_at: int = -1,
    spoil: tuple[int, ...] = (),
    heldout: bool = True,
    steps: int = 40,
    threads: int = 1,
    look: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Trained, RunContext]:
    """Regression with dropout and noise; ``spoil`` makes the loss infinite the first time each of these steps runs."""
    ctx, spoiled = RunContext(root), list(spoil)
    with machine(device="cpu", threads=threads):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8))

        def loss(step: int, gen: torch.Generator) -> Tensor:
            look()
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


def test_goes_back_and_says_so(tmp_path: Path) -> None:
    _, trained, ctx = _train(tmp_path, spoil=(25,))
    assert trained.rollbacks == 1 and trained.steps == 40
    assert ctx.warnings == ["training diverged at step 26; went back to step 20 with half the learning rate"]


def test_comes_through_after_several_returns(tmp_path: Path) -> None:
    _, trained, ctx = _train(tmp_path, spoil=(25, 35, 36))
    assert trained.rollbacks == 3 and trained.steps == 40 and trained.best_step > 30
    assert [text.split(";")[0] for text in ctx.warnings] == [f"training diverged at step {n}" for n in (26, 36, 37)]


def test_one_divergence_more_keeps_the_best(tmp_path: Path) -> None:
    weights, trained, ctx = _train(tmp_path, spoil=(25, 35, 36, 37))
    assert trained.rollbacks == 3 and trained.steps == 38 and weights.isfinite().all()
    assert "after 3 returns; kept the best state, of step 30" in ctx.warnings[-1]


def test_one_divergence_more_without_heldout_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="diverged at step 38, after 3 returns"):
        _train(tmp_path, spoil=(25, 35, 36, 37), heldout=False)


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
    monkeypatch.setattr("intaglio.nn.states.environment", lambda device: {"torch": "9.9"})
    _, _, ctx = _train(tmp_path)
    assert "resumed at step 13 on another set-up" in ctx.warnings[0] and "-> 9.9" in ctx.warnings[0]


def test_threads_are_set_back_to_those_of_the_state(tmp_path: Path) -> None:
    """Bits depend on the number of threads: a resumed run takes the recorded one, and gives it back."""
    weights, _, _ = _train(tmp_path / "whole", threads=2)
    with pytest.raises(Killed):
        _train(tmp_path / "cut", threads=2, kill_at=13)
    before, seen = torch.get_num_threads(), []
    again, _, ctx = _train(tmp_path / "cut", threads=1, look=lambda: seen.append(torch.get_num_threads()))
    assert torch.equal(weights, again) and not ctx.warnings
    assert set(seen) == {2} and torch.get_num_threads() == before


# ------------------------------------------------------------------------------------------- better, worse, early stop
class Script:
    """A training whose held-out losses are given: 200 units, one row an evaluation."""

    def __init__(self, shifts: list[float], noise: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(4)
        self.units = 1.0 + torch.rand(200, generator=generator)  # hard and easy ones: far wider than the shifts
        self.rows = [self.units + shift + noise * torch.randn(200, generator=generator) for shift in shifts]

    def run(self, root: Path, *, patience: int = 0, kill_at: int = -1) -> tuple[Trained, RunContext]:
        ctx, model = RunContext(root), nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 1.0)

        def loss(step: int, gen: torch.Generator) -> Tensor:
            if step == kill_at:
                raise Killed
            return model.weight.sum()

        def evaluate() -> Tensor:
            return self.rows[round((1.0 - float(model.weight.detach())) / 0.125) - 1]  # the weight counts the steps

        count = len(self.rows)
        plan = Plan(steps=count, seed=0, evaluations=count, patience=patience, warmup=0.0, cooldown=0.0)
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.125)]
        found = train(model, loss, optimizers=optimizers, plan=plan, work=ctx.work, report=ctx, evaluate=evaluate)
        return found, ctx


def test_verdicts_are_paired(tmp_path: Path) -> None:
    """A shift far smaller than the spread of the units is seen, because the same units are compared; noise is not."""
    trained, ctx = Script([0.0, -0.2, -0.2, 0.3, -0.205]).run(tmp_path)
    assert [each["verdict"] for each in trained.verdicts] == ["unknown", "better", "unknown", "worse", "unknown"]
    second = trained.verdicts[1]
    assert second["low"] < -0.2 < second["high"] < 0 and second["high"] - second["low"] < 0.06
    assert trained.best_step in (2, 3, 5) and trained.best_loss == min(
        float(row.mean()) for row in Script([0.0, -0.2, -0.2, 0.3, -0.205]).rows
    )
    assert ctx.metrics["verdicts"] == trained.verdicts and not trained.stopped


def test_a_slow_gain_is_seen_in_the_end(tmp_path: Path) -> None:
    """Each step of it is lost in noise; against the state last found better the sum of them is not."""
    trained, _ = Script([-0.008 * n for n in range(12)]).run(tmp_path, patience=2)
    assert "better" in [each["verdict"] for each in trained.verdicts] and not trained.stopped


def test_stops_early_and_says_so_also_after_a_kill(tmp_path: Path) -> None:
    script = Script([0.0, -0.3, -0.2, -0.3, -0.2, -0.2, -0.2, -0.1])
    whole, ctx = script.run(tmp_path / "whole", patience=3)
    verdicts = [each["verdict"] for each in whole.verdicts]
    assert verdicts == ["unknown", "better", "worse", "unknown", "worse", "worse"]
    assert whole.stopped and whole.steps == 6 and whole.best_step == 2
    assert ctx.warnings == ["stopped early at step 6: the held-out loss has risen since step 2"]
    with pytest.raises(Killed):
        script.run(tmp_path / "cut", patience=3, kill_at=4)
    cut, _ = script.run(tmp_path / "cut", patience=3)
    assert (cut.steps, cut.verdicts, cut.curve, cut.resumed_at) == (6, whole.verdicts, whole.curve, 4)
    assert script.run(tmp_path / "cut", patience=3)[0].steps == 6, "a training that stopped is not gone on with"


def test_noise_does_not_stop_it(tmp_path: Path) -> None:
    """A plateau is no rise: what falls with the learning rate at the end is still to come."""
    trained, ctx = Script([0.0, *[-0.3] * 9]).run(tmp_path, patience=2)
    assert trained.steps == 10 and not trained.stopped and not ctx.warnings


def test_stops_early_by_a_single_figure_too(tmp_path: Path) -> None:
    ctx, model, losses = RunContext(tmp_path), nn.Linear(1, 1), iter([3.0, 2.0, 2.5, 2.1, 1.0])
    trained = train(
        model,
        lambda step, gen: model.weight.sum(),
        optimizers=[torch.optim.SGD(model.parameters(), lr=0.1)],
        plan=Plan(steps=5, seed=0, evaluations=5, patience=2),
        work=ctx.work,
        report=ctx,
        evaluate=lambda: next(losses),
    )
    assert trained.stopped and trained.steps == 4 and trained.best_loss == 2.0 and trained.verdicts == []


def test_accumulated_micro_batches_make_the_update_of_the_whole_batch(tmp_path: Path) -> None:
    """``rows(micro, batch=b / n)`` cuts the batch of a step into n; their mean gradient is that of the whole."""

    def run(root: Path, parts: int) -> tuple[Tensor, Trained]:
        ctx = RunContext(root)
        torch.manual_seed(0)
        model = nn.Linear(8, 8).double()

        def loss(micro: int, gen: torch.Generator) -> Tensor:
            take = torch.from_numpy(rows(micro, batch=24 // parts, count=len(X), seed=5))
            return (model(X[take].double()) - Y[take]).square().mean()

        plan = Plan(steps=20, seed=3, accumulate=parts)
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1)]
        found = train(model, loss, optimizers=optimizers, plan=plan, work=ctx.work, report=ctx)
        return model.weight.detach(), found

    one, whole = run(tmp_path / "1", 1)
    for parts in (2, 3):
        many, cut = run(tmp_path / str(parts), parts)
        assert torch.allclose(one, many, rtol=0, atol=1e-9)
        assert [point[1] for point in cut.curve] == pytest.approx([point[1] for point in whole.curve], abs=2e-6)


def test_curve_points_are_told_with_rate_and_pace(tmp_path: Path) -> None:
    _, trained, ctx = _train(tmp_path)
    assert [step for step, _ in ctx.curves] == [point[0] for point in trained.curve]
    assert all({"loss", "rate", "pace"} <= set(values) for _, values in ctx.curves)
    assert ctx.curves[-1][1]["heldout"] == pytest.approx(trained.curve[-1][2], abs=1e-5)


# ------------------------------------------------------------------------------------------------------- a full disk
@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes, really mounted; only root may do that."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _on(disk: Path, root: Path, hook: Callable[[int], None], *, width: int = 100) -> tuple[Trained, RunContext]:
    ctx = RunContext(root)
    ctx.work = disk
    model = nn.Linear(width, width, bias=False)
    nn.init.constant_(model.weight, 0.5)

    def loss(step: int, gen: torch.Generator) -> Tensor:
        hook(step)
        return model.weight.square().sum()

    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01)]
    plan = Plan(steps=12, seed=0, evaluations=6, save_seconds=0.0)
    evaluate = lambda: float(model.weight.detach().square().sum())  # noqa: E731
    found = train(model, loss, optimizers=optimizers, plan=plan, work=disk, report=ctx, evaluate=evaluate)
    return found, ctx


def test_a_disk_that_fills_up_is_said_and_training_goes_on(tmp_path: Path, small_disk: Path) -> None:
    """Filled by a neighbor at step 3, freed at step 9: the last whole state stays, later saves succeed."""
    kept: list[dict[str, bytes]] = []

    def hook(step: int) -> None:
        if step == 3:
            (small_disk / "neighbor").write_bytes(b"\0" * shutil.disk_usage(small_disk).free)
        if step in (4, 9):
            kept.append({each.name: each.read_bytes() for each in small_disk.glob("*.safetensors")})
        if step == 9:
            (small_disk / "neighbor").unlink()

    trained, ctx = _on(small_disk, tmp_path, hook)
    before, full = kept
    assert before == full and not [each for each in small_disk.iterdir() if each.name.endswith(".part")]
    assert trained.steps == trained.best_step == 12 and trained.best_loss is not None
    assert any("the disk is full: the state of step 4 (good)" in each for each in ctx.warnings)
    assert read_meta(small_disk / "good.safetensors")["state"]["step"] == 12
    weights = load_tensors(small_disk / "best.safetensors")[0]["weight"]
    assert float(weights.square().sum()) == pytest.approx(trained.best_loss), "the best was written when there was room"


def test_best_weights_survive_a_disk_that_stays_full(tmp_path: Path, small_disk: Path) -> None:
    def hook(step: int) -> None:
        if step == 3:
            free = shutil.disk_usage(small_disk).free
            (small_disk / "neighbor").write_bytes(b"\0" * free)

    trained, ctx = _on(small_disk, tmp_path, hook)
    assert trained.best_step == 12 and any("(best)" in each for each in ctx.warnings)
    assert read_meta(small_disk / "good.safetensors")["state"]["step"] <= 4


def test_states_that_cannot_fit_are_refused_before_work(tmp_path: Path, small_disk: Path) -> None:
    def hook(step: int) -> None:
        raise AssertionError("no step may run")

    with pytest.raises(DiskFull, match="the states of this training take 5 MB on disk, and 2 MB are free") as caught:
        _on(small_disk, tmp_path, hook, width=320)
    assert caught.value.errno == errno.ENOSPC and not list(small_disk.iterdir())


def test_rate_rises_and_falls_to_nothing() -> None:
    plan = Plan(steps=100, seed=0, warmup=0.1, cooldown=0.5)
    assert [plan.rate(0), plan.rate(9), plan.rate(49), plan.rate(75)] == [0.1, 1.0, 1.0, 0.5]
    assert 0 < plan.rate(99) < 0.05
