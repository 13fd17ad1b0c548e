"""The training loop: driven by a loss of the step, resumable to the same bits, keeping the best by held-out loss.

Everything random in a step comes from a generator seeded by (seed, step), and the order of the data is a pure function
of the step (``nn/order.py``), so a resumed run needs weights, optimizer state and a number, and goes on bit for bit.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from intaglio.nn.checkpoint import load_tensors, pack_optimizers, read_meta, save_tensors, unpack_optimizers
from intaglio.nn.device import environment
from intaglio.nn.ema import Ema
from intaglio.nn.order import derive

AVERAGED_EVERY = 4  # steps: the average of weights moves so slowly that every fourth step tells it as much
CURVE_POINTS = 400  # a curve keeps about this many points, however long the training


class Diverged(RuntimeError):
    """The loss grew without bound twice, the second time at half the learning rate, and nothing good was kept."""


class Report(Protocol):
    """Where the loop tells how it goes; a step's Context is one."""

    def progress(self, done: float, total: float, **numbers: float | str) -> None: ...
    def warn(self, message: str) -> None: ...
    def metric(self, **values: Any) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train; every field changes the result except ``save_seconds``, ``unit`` and ``per_step``.

    steps, seed:  how many updates; the only source of randomness.
    per_step:     how many ``unit`` one update takes in, for the rate that is shown.
    warmup:       share of the steps over which the learning rate rises. cooldown: share at the end over which it falls
                  to zero in a straight line.
    clip:         largest norm of the gradient; 0 is off. ema: decay of the moving average of weights; 0 is off.
    evaluations:  how often the held-out loss is taken, evenly spread, the last at the last step.
    previews:     how many live samples. save_seconds: a resumable state is written about this often.
    """

    steps: int
    seed: int
    per_step: float = 1.0
    unit: str = "items/s"
    warmup: float = 0.02
    cooldown: float = 0.98
    clip: float = 1.0
    ema: float = 0.0
    evaluations: int = 20
    previews: int = 5
    save_seconds: float = 15.0

    def rate(self, step: int) -> float:
        """Learning rate of ``step`` (from 0) as a share of its peak, in (0, 1]."""
        rise = (step + 1) / max(1.0, self.warmup * self.steps)
        fall = (self.steps - step) / max(1.0, self.cooldown * self.steps)
        return min(1.0, rise, fall)

    def exact(self) -> dict[str, Any]:
        """The fields that change the result."""
        return {key: value for key, value in asdict(self).items() if key not in ("save_seconds", "unit", "per_step")}


@dataclass(kw_only=True)
class Trained:
    """What a training came to. Held-out losses are None where nothing was held out.

    curve: points ``[step, train loss (mean since the last point), held-out loss or None]``.
    resumed_at: the step a state was taken up at, 0 if none. seconds: over all parts of a resumed training.
    """

    steps: int = 0
    best_step: int = 0
    best_loss: float | None = None
    curve: list[list[float | None]] = field(default_factory=list)
    rollbacks: int = 0
    resumed_at: int = 0
    seconds: float = 0.0

    def csv(self) -> bytes:
        """The curve as CSV with the columns step, train_loss, heldout_loss."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["step", "train_loss", "heldout_loss"])
        writer.writerows([["" if value is None else repr(value) for value in point] for point in self.curve])
        return text.getvalue().encode()


def train(
    model: nn.Module,
    loss: Callable[[int, torch.Generator], Tensor],
    *,
    optimizers: Sequence[Optimizer],
    plan: Plan,
    work: Path,
    report: Report,
    evaluate: Callable[[], float] | None = None,
    preview: Callable[[int], None] | None = None,
    identity: Mapping[str, Any] | None = None,
    say: Callable[..., str] = str.format,
) -> Trained:
    """Train ``model`` in place; at the end it holds the weights that were best on held-out data (or the last ones).

    Ten parameters, because a training is this much: what, by what, how, where to, and three ways to look at it.

    Args:
        loss:     of a step: the scalar to go down, on this step's batch, with the generator (on the model's device) as
                  the only randomness. Choose the batch by ``nn.order.rows(step, ...)``. The global torch generators are
                  seeded alike, so dropout repeats.
        evaluate: the held-out loss of the model as it is now; called without gradients, in eval mode, with averaged
                  weights where ``plan.ema`` is on, seeded alike each time.
        preview:  shows a sample of the model at this step; called the same way.
        work:     folder for resumable state; what an earlier call with the same ``identity`` left there is taken up.
        identity: what the state must agree with (plain JSON): model config, data. The plan is always part of it.
        say:      makes a sentence for people from an English template and its values (``core.i18n.t``).
    Errors:
        Diverged: the loss became infinite, or grew far past its start, again after one return to the last good state.
    """
    averaged = Ema(model, decay=plan.ema**AVERAGED_EVERY) if plan.ema else None
    keeper = _Keeper(work, model, list(optimizers), averaged, {"plan": plan.exact(), **(identity or {})})
    run = _Run(model, loss, plan, report, keeper, say, evaluate, preview)
    return run.run()


@dataclass
class _State:
    """What a training has to know besides weights, optimizer state and average."""

    step: int = 0
    done: Trained = field(default_factory=Trained)
    learning_rate: float = 1.0
    first: float | None = None  # first loss, its running mean and that mean's lowest value: to notice divergence
    mean: float | None = None
    lowest: float | None = None
    since: list[float] = field(default_factory=list)  # losses since the last point of the curve


@dataclass
class _Keeper:
    """Writes and reads resumable states: ``good`` at each evaluation, ``last`` by the clock."""

    work: Path
    model: nn.Module
    optimizers: list[Optimizer]
    averaged: Ema | None
    identity: dict[str, Any]

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.environment = environment(str(self.device))

    def path(self, name: str) -> Path:
        return self.work / f"{name}.safetensors"

    def save(self, name: str, state: _State) -> None:
        tensors, numbers = pack_optimizers(self.optimizers)
        tensors |= {f"model.{key}": value for key, value in self.model.state_dict().items()}
        if self.averaged:
            tensors |= {f"ema.{key}": value for key, value in self.averaged.state().items()}
        meta: dict[str, Any] = {"identity": self.identity, "environment": self.environment, "state": asdict(state)}
        meta |= {"numbers": numbers, "updates": self.averaged.updates if self.averaged else 0}
        save_tensors(self.path(name), tensors, meta)

    def newest(self) -> tuple[str, dict[str, Any]] | None:
        """Name and meta of the state of this run that is furthest on; damaged and strange ones do not count."""
        found = []
        for name in ("good", "last"):
            try:
                meta = read_meta(self.path(name))
            except (FileNotFoundError, ValueError):
                continue
            if meta.get("identity") == self.identity:
                found.append(((meta["state"]["done"]["rollbacks"], meta["state"]["step"]), name, meta))
        return max(found)[1:] if found else None

    def load(self, name: str) -> _State:
        """Put back weights, optimizer state and average; the rest is returned."""
        tensors, meta = load_tensors(self.path(name), device=str(self.device))
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}}
        for key, value in tensors.items():
            part, _, rest = key.partition(".")
            if part in parts:
                parts[part][rest] = value
        self.model.load_state_dict(parts["model"])
        unpack_optimizers(self.optimizers, tensors, meta["numbers"])
        if self.averaged:
            self.averaged.load(parts["ema"], updates=meta["updates"])
        state = _State(**meta["state"])
        state.done = Trained(**meta["state"]["done"])
        return state

    def save_best(self) -> None:
        save_tensors(self.path("best"), self.model.state_dict(), {"identity": self.identity})

    def load_best(self) -> None:
        self.model.load_state_dict(load_tensors(self.path("best"), device=str(self.device))[0])


class _Run:
    """One call of ``train``."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[int, torch.Generator], Tensor],
        plan: Plan,
        report: Report,
        keeper: _Keeper,
        say: Callable[..., str],
        evaluate: Callable[[], float] | None,
        preview: Callable[[int], None] | None,
    ) -> None:
        self.model, self.loss, self.plan, self.report = model, loss, plan, report
        self.keeper, self.say, self.evaluate, self.preview = keeper, say, evaluate, preview
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.generator = torch.Generator(device=keeper.device)
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in keeper.optimizers]
        self.state = _State()
        self.pending: list[Tensor] = []  # losses not looked at yet: on a GPU reading one waits for all work before it
        self.look_every = 16 if keeper.device.type == "cuda" else 1
        self.started = self.counted = self.saved = time.monotonic()

    def run(self) -> Trained:
        self._resume()
        while self.state.step < self.plan.steps:
            self._update()
            evaluation = _spread(self.state.step, self.plan.steps, self.plan.evaluations)
            late = time.monotonic() - self.saved >= self.plan.save_seconds
            if evaluation or late or len(self.pending) >= self.look_every:
                if not self._look():
                    if self._roll_back():
                        continue
                    break
                self._tell()
            if evaluation:
                self._evaluate()
            if self.preview and _spread(self.state.step, self.plan.steps, self.plan.previews):
                self._as_sampled(functools.partial(self.preview, self.state.step))
            if evaluation:
                self._save("good")
            elif late:
                self._save("last")
            elif self.state.step % max(1, self.plan.steps // CURVE_POINTS) == 0:
                self._point(None)
        return self._finish()

    def _update(self) -> None:
        state = self.state
        self._seed("step", state.step)
        factor = self.plan.rate(state.step) * state.learning_rate
        for optimizer, peaks in zip(self.keeper.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        value = self.loss(state.step, self.generator)
        value.backward()
        if self.plan.clip:
            self._clip()
        for optimizer in self.keeper.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.keeper.averaged and ((state.step + 1) % AVERAGED_EVERY == 0 or state.step + 1 == self.plan.steps):
            self.keeper.averaged.update()
        self.pending.append(value.detach())
        state.step += 1

    def _clip(self) -> None:
        """As ``clip_grad_norm_``; on the CPU gradients within the bound are left as they are, not multiplied by one."""
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(grads, foreach=True)
        if norm.device.type != "cpu" or not norm <= self.plan.clip:
            nn.utils.clip_grads_with_norm_(self.parameters, self.plan.clip, norm, foreach=True)

    def _look(self) -> bool:
        """Take in the losses not looked at yet; False where they say that the training has diverged."""
        state = self.state
        for value in torch.stack(self.pending).float().tolist() if self.pending else []:
            state.since.append(value)
            state.first = value if state.first is None else state.first
            state.mean = value if state.mean is None else state.mean + 0.1 * (value - state.mean)
            if not math.isfinite(state.mean):
                self.pending.clear()
                return False
            state.lowest = state.mean if state.lowest is None else min(state.lowest, state.mean)
        self.pending.clear()
        if state.mean is None or state.first is None or state.lowest is None:
            return True
        return state.mean <= state.first + max(0.5 * abs(state.first), state.first - state.lowest, 1.0)

    def _evaluate(self) -> None:
        """Held-out loss, and the weights kept if it is the lowest so far."""
        done = self.state.done
        heldout = self._as_sampled(self.evaluate) if self.evaluate else None
        if heldout is not None and math.isfinite(heldout) and (done.best_loss is None or heldout < done.best_loss):
            done.best_loss, done.best_step = heldout, self.state.step
            self._as_sampled(self.keeper.save_best)
        self._point(heldout)
        self.report.metric(curve=done.curve)

    def _as_sampled(self, call: Callable[[], Any]) -> Any:
        self._seed("evaluate")
        self.model.eval()
        try:
            with torch.no_grad():
                if self.keeper.averaged is None:
                    return call()
                with self.keeper.averaged.applied():
                    return call()
        finally:
            self.model.train()

    def _seed(self, *parts: object) -> None:
        seed = derive(self.plan.seed, *parts)
        self.generator.manual_seed(seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for every other kind of device each time
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)

    def _point(self, heldout: float | None) -> None:
        state = self.state
        if state.since:
            mean = sum(state.since) / len(state.since)
            state.done.curve.append([state.step, round(mean, 6), None if heldout is None else round(heldout, 6)])
            state.since = []

    def _tell(self) -> None:
        done, step = self.state.done, self.state.step
        numbers: dict[str, float | str] = {"loss": round(self.state.mean or 0.0, 4)}
        if done.best_loss is not None:
            numbers["heldout"] = round(done.best_loss, 4)
        seconds = max(1e-9, time.monotonic() - self.started)
        numbers[self.plan.unit] = round((step - done.resumed_at) * self.plan.per_step / seconds, 1)
        self.report.progress(step, self.plan.steps, **numbers)

    # ------------------------------------------------------------------------------------ keeping, resuming, going back
    def _save(self, name: str) -> None:
        now = time.monotonic()
        self.state.done.seconds += now - self.counted
        self.counted = now
        self.keeper.save(name, self.state)
        self.saved = time.monotonic()

    def _resume(self) -> None:
        self.model.train()
        found = self.keeper.newest()
        if found is None:
            self._save("good")
            return
        name, meta = found
        self.state = self.keeper.load(name)
        self.state.done.resumed_at = self.state.step
        before, now = meta["environment"], self.keeper.environment
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            what = ", ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in changed)
            text = "resumed at step {step} on another set-up ({what}): the last bits may differ from an unbroken run"
            self.report.warn(self.say(text, step=self.state.step, what=what))

    def _roll_back(self) -> bool:
        """Return to the last good state at half the learning rate; False if that was done once before."""
        if self.state.done.rollbacks:
            if self.state.done.best_loss is None:
                raise Diverged(self.say("the loss diverged twice, at step {step} at last", step=self.state.step))
            text = "training diverged again at step {step}; kept the best state, of step {best}"
            self.report.warn(self.say(text, step=self.state.step, best=self.state.done.best_step))
            return False
        failed, resumed = self.state.step, self.state.done.resumed_at
        self.state = self.keeper.load("good")
        self.state.done.resumed_at = resumed
        self.state.learning_rate *= 0.5
        self.state.done.rollbacks += 1
        text = "training diverged at step {failed}; went back to step {step} with half the learning rate"
        self.report.warn(self.say(text, failed=failed, step=self.state.step))
        self._save("good")
        return True

    def _finish(self) -> Trained:
        done = self.state.done
        if done.best_loss is not None:
            self.keeper.load_best()
        elif self.keeper.averaged:
            self.keeper.averaged.assign()
        done.steps = self.state.step
        self.model.eval()
        return done


def _spread(step: int, steps: int, times: int) -> bool:
    """True at ``times`` steps spread evenly over 1..steps, the last always among them."""
    times = min(times, steps)
    return times > 0 and (step * times) // steps > ((step - 1) * times) // steps
