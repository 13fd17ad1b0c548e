"""How to train and what came of it: ``Plan`` and ``Trained``, which the loop of ``nn/loop.py`` takes and gives."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train; every field changes the result except ``save_seconds``, ``unit`` and ``per_step``.

    steps, seed:  how many updates; the only source of randomness.
    per_step:     how many ``unit`` one update takes in, for the rate that is shown.
    warmup:       share of the steps over which the learning rate rises. cooldown: share at the end over which it falls
                  to zero in a straight line.
    clip:         largest norm of the gradient; 0 is off. ema: decay of the moving average of weights; 0 is off.
    evaluations:  how often the held-out loss is taken, evenly spread, the last at the last step.
    patience:     stop after so many evaluations surely worse than the best state (not lower, where the held-out loss is
                  one figure) and none better; 0 never stops early.
    accumulate:   micro-batches of one update. ``loss`` is called with the number of the micro-batch,
                  ``step * accumulate + a``; the update goes by the mean. With several processes (``nn/parallel.py``)
                  the micro-batches are shared among them; ``parallel.parts(batch)`` says how many to make. A state
                  made with another number is gone on from, and the difference is said.
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
    patience: int = 0
    accumulate: int = 1
    previews: int = 5
    save_seconds: float = 15.0

    def rate(self, step: int) -> float:
        """Learning rate of ``step`` (from 0) as a share of its peak, in (0, 1]."""
        rise = (step + 1) / max(1.0, self.warmup * self.steps)
        fall = (self.steps - step) / max(1.0, self.cooldown * self.steps)
        return min(1.0, rise, fall)

    def exact(self) -> dict[str, Any]:
        """The fields that say which training this is."""
        free = ("save_seconds", "unit", "per_step", "accumulate")
        return {key: value for key, value in asdict(self).items() if key not in free}


def patience(evaluations: int) -> int:
    """What models judged by a held-out loss take: a quarter of the evaluations, and never one alone."""
    return max(2, evaluations // 4)


@dataclass(kw_only=True)
class Trained:
    """What a training came to. Held-out losses are None where nothing was held out.

    curve:      points ``[step, train loss (mean since the last point), held-out loss or None]``.
    verdicts:   where ``evaluate`` gives a loss a unit, for each evaluation ``step``, ``heldout``, ``verdict`` (better,
                worse, unknown), and ``low``, ``high``: the 95 % interval of the difference to the state last found
                better; the first has nothing to be compared with, and its verdict is unknown.
    stopped:    True where patience ended it. resumed_at: the step a state was taken up at, 0 if none.
    seconds:    over all parts of a resumed training.
    """

    steps: int = 0
    best_step: int = 0
    best_loss: float | None = None
    curve: list[list[float | None]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
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
