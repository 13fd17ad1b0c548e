"""Picture: new pictures from a model that draws, each from its own seed, kept with the model's rebuild of it.

Seeds:    one a candidate, derived from the step's seed; in ``meta["seed"]``.
Measured: ``meta["round_trip_mse"]``, the mean squared error (in [0, 1] units) between a picture and the model's own
          reconstruction of it: a picture that the model cannot hold on to lies outside what it learned. None where the
          model has no encoder.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Inputs, Item, PictureModel
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.generate._briefs import seed_of

BATCH = 64
TINY: dict[str, Any] = {"count": 2}


class Config(StepConfig):
    """``count``: how many candidates to draw."""

    model: Annotated[Names, Role(stages=("models",), media=("image",), many=False)]
    count: int = Field(default=24, ge=1, le=1_000_000)


class Component:
    """``core.contracts.Generator``."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def generate(self, inputs: Inputs, ctx: Context) -> Iterator[Item]:
        """Pictures, one a seed. Errors: UserError for a model that does not draw."""
        model: PictureModel = inputs["model"][0]
        if model.makes != "image":
            raise UserError(
                t("this model makes {makes}, not pictures", makes=model.makes), fix=t("name a picture model as model")
            )
        seeds = [seed_of(ctx.seed, 1, number) for number in range(self.config.count)]
        errors: list[float] = []
        repeated = 0
        seen: set[str] = set()
        for first in range(0, len(seeds), BATCH):
            some = seeds[first : first + BATCH]
            made = list(model.sample(some, ctx))
            if len(made) != len(some):
                raise UserError(t("the model gave {got} pictures for {wanted} seeds", got=len(made), wanted=len(some)))
            for number, (item, seed, error) in enumerate(
                zip(made, some, _round_trips(model, made, ctx), strict=True), first
            ):
                if item.id in seen:
                    repeated += 1
                    continue
                seen.add(item.id)
                if error is not None:
                    errors.append(error)
                meta = {**item.meta, "kind": "picture", "seed": seed, "candidate": number, "round_trip_mse": error}
                yield dataclasses.replace(item, meta=meta)
            ctx.progress(min(first + BATCH, len(seeds)), len(seeds), pictures=min(first + BATCH, len(seeds)))
        if repeated:
            ctx.warn(t("{count} pictures were the same as earlier ones and were left out", count=repeated))
        ctx.metric(candidates=len(seen), round_trip_mse=round(statistics.fmean(errors), 6) if errors else None)


def _round_trips(model: PictureModel, made: Sequence[Item], ctx: Context) -> Iterator[float | None]:
    """The reconstruction error of each picture, None from a model without an encoder."""
    if not callable(getattr(model, "reconstruct", None)):
        return iter(itertools.repeat(None, len(made)))
    return (round(float(error), 6) for _, _, error in model.reconstruct(made, ctx))
