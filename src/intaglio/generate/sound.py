"""Sound: new recordings from a sound model, or recordings of the archive played again in the timbre it learned.

New:      one sound a seed. Timbre: every recording of ``items`` (or the first ``count``), of the same length and
          loudness; its parent is the recording, so that the license follows it.
Seeds:    derived from the step's seed; in ``meta["seed"]``. Silent and repeated ones are left out and said.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Inputs, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.generate._briefs import seed_of

TINY: dict[str, Any] = {"count": 2}
SILENT_LUFS = -69.0


class Config(StepConfig):
    """What to make.

    mode:    ``new`` draws sounds, ``timbre`` gives the recordings of ``items`` the learned timbre.
    count:   how many at most. seconds: length of new sounds; left out: the length the model learned.
    """

    model: Annotated[Names, Role(stages=("models",), media=("audio",), many=False)]
    items: Annotated[Names, Role(stages=("data", "generate", "optimize"), media=("audio",))] = ()
    mode: Literal["new", "timbre"] = "new"
    count: int = Field(default=24, ge=1, le=1_000_000)
    seconds: float | None = Field(default=None, ge=0.1, le=600.0)

    @model_validator(mode="after")
    def _fits_the_mode(self) -> Config:
        if self.mode == "timbre" and not self.items:
            raise ValueError(t('mode = "timbre" needs recordings: items = "..."'))
        if self.mode == "timbre" and self.seconds is not None:
            raise ValueError(t('seconds is for mode = "new"; a transfer is as long as its recording'))
        return self


class Component:
    """``core.contracts.Generator``."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def generate(self, inputs: Inputs, ctx: Context) -> Iterator[Item]:
        """Recordings as WAV. Errors: UserError for a model that makes no sound, or one that lends no timbre."""
        model = inputs["model"][0]
        if model.makes != "audio":
            raise UserError(
                t("this model makes {makes}, not sound", makes=model.makes), fix=t("name a sound model as model")
            )
        made = self._new(model, ctx) if self.config.mode == "new" else self._timbre(model, inputs, ctx)
        seen: set[str] = set()
        repeated = silent = 0
        for item in made:
            if item.id in seen:
                repeated += 1
            elif item.meta.get("lufs", 0.0) <= SILENT_LUFS:
                silent += 1
            else:
                seen.add(item.id)
                yield item
        if repeated:
            ctx.warn(t("{count} sounds were the same as earlier ones and were left out", count=repeated))
        if silent:
            ctx.warn(t("{count} sounds were silent and were left out", count=silent))
        ctx.metric(candidates=len(seen))

    def _new(self, model: Any, ctx: Context) -> Iterator[Item]:
        given = {} if self.config.seconds is None else {"seconds": self.config.seconds}
        seeds = [seed_of(ctx.seed, 2, number) for number in range(self.config.count)]
        for number, item in enumerate(model.sample(seeds, ctx, **given)):
            yield dataclasses.replace(item, meta={**item.meta, "kind": "sound", "candidate": number})
            ctx.progress(number + 1, len(seeds), sounds=number + 1)

    def _timbre(self, model: Any, inputs: Inputs, ctx: Context) -> Iterator[Item]:
        if not callable(getattr(model, "transfer", None)):
            raise UserError(t("this model lends no timbre"), fix=t('train one with use = "sound"'))
        given = (item for dataset in inputs["items"] for item in dataset.of("audio"))
        chosen = itertools.islice(given, self.config.count)
        for number, (before, after) in enumerate(model.transfer(chosen, ctx, seed=seed_of(ctx.seed, 3, 0))):
            meta = {**after.meta, "kind": "timbre", "candidate": number, "title": str(before.meta.get("title") or "")}
            yield dataclasses.replace(after, meta=meta, parents=(before.id,), text=before.text)
            ctx.progress(number + 1, self.config.count, sounds=number + 1)
