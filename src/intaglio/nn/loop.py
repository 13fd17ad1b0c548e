"""The training loop: driven by a loss of the step, resumable to the same bits, keeping the best by held-out loss.

Everything random in a step comes from a generator seeded by (seed, step), and the order of the data is a pure function
of the step (``nn/order.py``), so a resumed run needs weights, optimizer state and a number, and goes on bit for bit.
That holds for one number of threads, one build of torch and one kind of device. They are kept with the state: threads
are set back to what they were; what cannot be set back (another torch, processor, kind of device, number of processes)
is said, and the training goes on all the same, because hours of work are worth more than last bits.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from intaglio.nn import parallel
from intaglio.nn.ema import Ema
from intaglio.nn.measures import bootstrap_interval
from intaglio.nn.order import derive
from intaglio.nn.states import Keeper, State
from intaglio.nn.trained import Plan, Trained, patience

__all__ = ["Diverged", "Plan", "Report", "Trained", "patience", "train"]

AVERAGED_EVERY = 4  # steps: the average of weights moves so slowly that every fourth step tells it as much
RESAMPLES = 1000  # of the held-out units, for the interval of a difference
RETURNS = 3  # to the last good state where the loss diverges, each at half the learning rate of before
CURVE_POINTS = 400  # a curve keeps about this many points, however long the training


class Diverged(RuntimeError):
    """The loss grew without bound again after every return to the last good state, and nothing good was kept."""


class Report(Protocol):
    """Where the loop tells how it goes; a step's Context is one. A ``curve(step, **values)``, where it has one, is told
    each point of the curve: loss, heldout, rate (of the peak learning rate) and the pace."""

    def progress(self, done: float, total: float, **numbers: float | str) -> None: ...
    def warn(self, message: str) -> None: ...
    def metric(self, **values: Any) -> None: ...


def train(
    model: nn.Module,
    loss: Callable[[int, torch.Generator], Tensor],
    *,
    optimizers: Sequence[Optimizer],
    plan: Plan,
    work: Path,
    report: Report,
    evaluate: Callable[[], float | Tensor] | None = None,
    preview: Callable[[int], None] | None = None,
    identity: Mapping[str, Any] | None = None,
    say: Callable[..., str] = str.format,
) -> Trained:
    """Train ``model`` in place; at the end it holds the weights that were best on held-out data (or the last ones).

    Under ``torchrun`` the micro-batches of ``plan.accumulate`` are shared among the processes, see ``nn/parallel.py``.

    Ten parameters, because a training is this much: what, by what, how, where to, and three ways to look at it.

    Args:
        loss:     of a micro-batch (of a step, where ``plan.accumulate`` is 1): the scalar to go down, with the
                  generator (on the model's device) as the only randomness. Choose the batch by
                  ``nn.order.rows(number, ...)``. The global torch generators are seeded alike: dropout repeats.
        evaluate: the held-out loss of the model as it is now; called without gradients, in eval mode, with averaged
                  weights where ``plan.ema`` is on, seeded alike each time. A row of losses, one a held-out unit (a
                  picture, a text) and always the same units, says also how sure "better" is.
        preview:  shows a sample of the model at this step; called the same way.
        work:     folder for resumable state; what an earlier call with the same ``identity`` left there is taken up.
        identity: what the state must agree with (plain JSON): model config, data. The plan is always part of it.
        say:      makes a sentence for people from an English template and its values (``core.i18n.t``).
    Errors:
        Diverged: the loss became infinite, or grew far past its start, again after ``RETURNS`` returns to the last good
            state, each at half the learning rate, and no state was judged by held-out data.
        DiskFull: the resumable states would not fit on the disk; raised before any work.
        LostProcess: another process of a shared training ended.
    """
    threads = torch.get_num_threads()
    world = _world(next(model.parameters()).device, plan, report, say)
    quiet = world.rank > 0
    averaged = Ema(model, decay=plan.ema**AVERAGED_EVERY) if plan.ema and not quiet else None
    shared = {"processes": world.size, "accumulate": plan.accumulate}
    extra = {key: value for key, value in shared.items() if value != 1}
    try:
        torch.set_num_threads(max(1, threads // world.size))
        known = {"plan": plan.exact(), **(identity or {})}
        keeper = Keeper(work, model, list(optimizers), averaged, known, report.warn, say, extra)
        run = _Run(model, loss, plan, _Silent() if quiet else report, keeper, say, evaluate, preview, world)
        return run.run()
    finally:
        torch.set_num_threads(threads)


def _world(device: torch.device, plan: Plan, report: Report, say: Callable[..., str]) -> parallel.Alone:
    """The processes to share with, all of them called; none where the update cannot be cut into as many parts."""
    world = parallel.join(device)
    if plan.accumulate % world.size:
        text = "an update of this training cannot be cut into {count} equal parts: one process trains alone"
        text = say(text, count=world.size)
        if not world.turns:
            raise ValueError(text)
        report.warn(text)
        return parallel.Alone()
    world.start()
    return world


class _Silent:
    """The report of a process whose part is told by another."""

    def progress(self, done: float, total: float, **numbers: float | str) -> None: ...
    def warn(self, message: str) -> None: ...
    def metric(self, **values: Any) -> None: ...


class _Run:
    """One call of ``train``."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[int, torch.Generator], Tensor],
        plan: Plan,
        report: Report,
        keeper: Keeper,
        say: Callable[..., str],
        evaluate: Callable[[], float | Tensor] | None,
        preview: Callable[[int], None] | None,
        world: parallel.Alone,
    ) -> None:
        self.model, self.loss, self.plan, self.report, self.world = model, loss, plan, report, world
        self.keeper, self.say, self.evaluate, self.preview = keeper, say, evaluate, preview
        self.first = world.rank == 0  # the process that judges, shows, tells and saves
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.generator = torch.Generator(device=keeper.device)
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in keeper.optimizers]
        self.state = State()
        self.pending: list[Tensor] = []  # losses not looked at yet: on a GPU reading one waits for all work before it
        self.look_every = 16 if keeper.device.type == "cuda" else 1
        self.started = self.counted = self.saved = time.monotonic()

    def run(self) -> Trained:
        self._resume()
        self.world.reducing(self.model, self.parameters)
        while self.state.step < self.plan.steps and not self.state.done.stopped:
            self._update()
            evaluation = _spread(self.state.step, self.plan.steps, self.plan.evaluations)
            look = evaluation or len(self.pending) >= self.look_every
            if look:  # at these steps only, never by the clock: all processes must look at the same ones
                if not self._look():
                    if self._roll_back():
                        continue
                    break
                self._tell()
            if evaluation:
                self._evaluate()
            elif self.state.step % max(1, self.plan.steps // CURVE_POINTS) == 0:
                self._point(None)  # whether a state is written at this step or not: a curve knows no clock
            if self.first and self.preview and _spread(self.state.step, self.plan.steps, self.plan.previews):
                self._as_sampled(functools.partial(self.preview, self.state.step))
            if evaluation:
                self._save("last" if self._worse() else "good")
            elif look and time.monotonic() - self.saved >= self.plan.save_seconds:
                self._save("last")
        return self._finish()

    def _update(self) -> None:
        state, count = self.state, self.plan.accumulate
        factor = self.plan.rate(state.step) * state.learning_rate
        for optimizer, peaks in zip(self.keeper.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        total: Tensor | None = None
        for micro in (mine := self.world.micros(count)):
            self._seed("step", state.step * count + micro)
            self.world.overlapped(micro == mine[-1])
            value = self.loss(state.step * count + micro, self.generator)
            value = value if count == 1 else value / count
            value.backward()
            total = value.detach() if total is None else total + value.detach()
        assert total is not None
        self.pending.append(self.world.settle(total))
        if self.plan.clip:
            self._clip()
        for optimizer in self.keeper.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.keeper.averaged and ((state.step + 1) % AVERAGED_EVERY == 0 or state.step + 1 == self.plan.steps):
            self.keeper.averaged.update()
        state.step += 1

    def _clip(self) -> None:
        """As ``clip_grad_norm_``; on the CPU gradients within the bound are left as they are, not multiplied by one."""
        grads = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = _norm(grads)
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

    # ---------------------------------------------------------------------------------------------------------- judging
    def _evaluate(self) -> None:
        """Held-out loss, the weights kept if it is the lowest so far, and whether to go on."""
        done = self.state.done
        self.world.check_equal(self.model)
        if self.first:
            found = self._as_sampled(self.evaluate) if self.evaluate else None
            heldout = float(found.mean()) if isinstance(found, Tensor) else found
            if heldout is not None and math.isfinite(heldout) and (done.best_loss is None or heldout < done.best_loss):
                done.best_loss, done.best_step = heldout, self.state.step
                self._as_sampled(functools.partial(self.keeper.save_best, self.state.step))
            if heldout is not None:
                self._compare(heldout, found.detach().float().cpu() if isinstance(found, Tensor) else None)
            self._point(heldout)
            self.report.metric(curve=done.curve)
        done.stopped = bool(self.world.tell(done.stopped)[0])
        self.world.share_running()

    def _compare(self, heldout: float, units: Tensor | None) -> None:
        """Better than the state last found better? Compared with that one, and not with the lowest mean so far, because
        a slow gain would be lost in the noise of each step of it."""
        state, before = self.state, self.keeper.units
        better = state.reference is None or heldout < state.reference
        worse = not better
        if units is not None:
            verdict = {
                "step": state.step,
                "heldout": round(heldout, 6),
                "verdict": "unknown",
                "low": None,
                "high": None,
            }
            if before is not None and before.shape == units.shape:
                seed = derive(self.plan.seed, "compare", state.step)
                change = bootstrap_interval(units.double() - before.double(), draws=RESAMPLES, seed=seed)
                sure = "better" if change.high < 0 else "worse" if change.low > 0 else "unknown"
                verdict |= {"verdict": sure, "low": round(change.low, 6), "high": round(change.high, 6)}
                better, worse = sure == "better", sure == "worse"
            state.done.verdicts.append(verdict)
            self.report.metric(verdicts=state.done.verdicts)
        state.waited = 0 if better else state.waited + worse
        if better:
            state.reference, state.reference_step, self.keeper.units = heldout, state.step, units
        if self.plan.patience and state.waited >= self.plan.patience and state.step < self.plan.steps:
            state.done.stopped = True
            text = "stopped early at step {step}: the held-out loss has risen since step {best}"
            self.report.warn(self.say(text, step=state.step, best=state.reference_step))

    def _worse(self) -> bool:
        """True where the evaluation just made found the state surely worse: none to go back to."""
        found = self.state.done.verdicts[-1:]
        return bool(found) and found[0]["step"] == self.state.step and found[0]["verdict"] == "worse"

    def _as_sampled(self, call: Callable[[], Any]) -> Any:
        self._seed("evaluate")
        self.model.eval()
        threads = torch.get_num_threads()
        torch.set_num_threads(threads * self.world.size)  # the others wait
        try:
            with torch.no_grad():
                if self.keeper.averaged is None:
                    return call()
                with self.keeper.averaged.applied():
                    return call()
        finally:
            torch.set_num_threads(threads)
            self.model.train()

    def _seed(self, *parts: object) -> None:
        seed = derive(self.plan.seed, *parts)
        self.generator.manual_seed(seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for every other kind of device each time
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)

    # ---------------------------------------------------------------------------------------------------------- telling
    def _point(self, heldout: float | None) -> None:
        state = self.state
        if not state.since:
            return
        mean = sum(state.since) / len(state.since)
        state.done.curve.append([state.step, round(mean, 6), None if heldout is None else round(heldout, 6)])
        state.since = []
        curve = getattr(self.report, "curve", None)
        if curve is not None:
            values = {"loss": mean, "rate": self.plan.rate(state.step - 1) * state.learning_rate, "pace": self._pace()}
            curve(state.step, **values, **({} if heldout is None else {"heldout": heldout}))

    def _pace(self) -> float:
        seconds = max(1e-9, time.monotonic() - self.started)
        return (self.state.step - self.state.done.resumed_at) * self.plan.per_step / seconds

    def _tell(self) -> None:
        done, step = self.state.done, self.state.step
        numbers: dict[str, float | str] = {"loss": round(self.state.mean or 0.0, 4)}
        if done.best_loss is not None:
            numbers["heldout"] = round(done.best_loss, 4)
        numbers[self.plan.unit] = round(self._pace(), 1)
        self.report.progress(step, self.plan.steps, **numbers)

    # ------------------------------------------------------------------------------------ keeping, resuming, going back
    def _save(self, name: str) -> None:
        now = time.monotonic()
        self.state.done.seconds += now - self.counted
        self.counted = now
        if self.first:
            self.keeper.save(name, self.state)
        self.saved = time.monotonic()

    def _agree(self) -> None:
        """Errors: RuntimeError where the processes prepared different trainings."""
        text = json.dumps(self.keeper.identity, sort_keys=True, default=str)
        mine = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
        if int(self.world.tell(mine)[0]) != mine:
            raise RuntimeError("the processes of this training were given different data or settings")

    def _load(self, name: str) -> State:
        self.world.share_file(self.keeper.path(name))
        return self.keeper.load(name)

    def _resume(self) -> None:
        self._agree()
        self.model.train()
        found = self.keeper.newest() if self.first else None
        names = ("none", "good", "last")
        name = names[int(self.world.tell(names.index(found[0]) if found else 0)[0])]
        if name == "none":
            if self.first:
                self.keeper.check_room()
            self.world.share_weights(self.model)
            self._save("good")
            return
        self.state = self._load(name)
        self.state.done.resumed_at = self.state.step
        what = self.keeper.enforce(found[1]["environment"]) if found else ""
        torch.set_num_threads(int(self.world.tell(torch.get_num_threads())[0]))
        if what:
            text = "resumed at step {step} on another set-up ({what}): the last bits may differ from an unbroken run"
            self.report.warn(self.say(text, step=self.state.step, what=what))

    def _roll_back(self) -> bool:
        """Return to the last good state at half the learning rate; False after ``RETURNS`` of them."""
        possible = bool(self.world.tell(self.first and self.keeper.can_go_back())[0])
        failed, times, done = self.state.step, self.state.done.rollbacks, self.state.done
        if times >= RETURNS or not possible:
            if not self.world.tell(done.best_loss is not None)[0]:
                text = "the loss diverged at step {step}, after {times} returns to a good state with ever lower rates"
                raise Diverged(self.say(text, step=failed, times=times))
            text = "training diverged at step {step}, after {times} returns; kept the best state, of step {best}"
            self.report.warn(self.say(text, step=failed, times=times, best=done.best_step))
            return False
        resumed = done.resumed_at
        self.state = self._load("good")
        self.state.done.resumed_at = resumed
        self.state.learning_rate *= 0.5
        self.state.done.rollbacks += 1
        text = "training diverged at step {failed}; went back to step {step} with half the learning rate"
        self.report.warn(self.say(text, failed=failed, step=self.state.step))
        self._save("good")
        return True

    def _finish(self) -> Trained:
        done = self.state.done
        if self.first and done.best_loss is not None:
            self.keeper.load_best()
        elif self.keeper.averaged:
            self.keeper.averaged.assign()
        self.world.share_weights(self.model)
        done.steps = self.state.step
        self.model.eval()
        self.world.end()
        return done


def _norm(grads: Sequence[Tensor]) -> Tensor:
    """Of all of them as one vector. On the CPU a product with itself is more than twice as fast as torch's norm."""
    if grads[0].device.type != "cpu" or not all(grad.is_contiguous() for grad in grads):
        return nn.utils.get_total_norm(grads, foreach=True)
    flat = [grad.view(-1) for grad in grads]
    return torch.stack([torch.dot(grad, grad) for grad in flat]).sum().sqrt()


def _spread(step: int, steps: int, times: int) -> bool:
    """True at ``times`` steps spread evenly over 1..steps, the last always among them."""
    times = min(times, steps)
    return times > 0 and (step * times) // steps > ((step - 1) * times) // steps
