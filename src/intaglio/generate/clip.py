"""Clip: short films from a video model: new ones, or pictures of the archive set in motion.

New:      one clip a seed. Animate: each picture of ``items`` (of a film its first frame), in turn, as the first frame
          of a clip; its parent is the picture, so that rights and trace follow.
Seeds:    derived from the step's seed; in ``meta["seed"]``. Repeated ones are left out and said.
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

AT_ONCE = 16
TINY: dict[str, Any] = {"count": 2}


class Config(StepConfig):
    """What to make.

    mode:  ``new`` makes clips from nothing, ``animate`` goes on from the pictures of ``items``.
    count: how many clips; with fewer pictures than that, each is taken again with another seed.
    loop:  true refuses a model whose clips do not join end to start, false one whose clips do; left out: either.
    """

    model: Annotated[Names, Role(stages=("models",), media=("video",), many=False)]
    items: Annotated[Names, Role(stages=("data", "generate", "optimize"), media=("image", "video"))] = ()
    mode: Literal["new", "animate"] = "new"
    count: int = Field(default=12, ge=1, le=1_000_000)
    loop: bool | None = None

    @model_validator(mode="after")
    def _fits_the_mode(self) -> Config:
        if self.mode == "animate" and not self.items:
            raise ValueError(t('mode = "animate" needs pictures: items = "..."'))
        if self.mode == "new" and self.items:
            raise ValueError(t("mode 'new' starts from nothing: leave 'items' out, or set a mode that uses them"))
        return self


class Component:
    """``core.contracts.Generator``."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def generate(self, inputs: Inputs, ctx: Context) -> Iterator[Item]:
        """Clips as MP4. Errors: UserError for a model that makes no films, or not the kind that is asked for."""
        model, config = inputs["model"][0], self.config
        self._check(model)
        made = self._new(model, ctx) if config.mode == "new" else self._animated(model, inputs, ctx)
        seen: set[str] = set()
        repeated = 0
        for number, item in enumerate(made):
            ctx.progress(number + 1, config.count, clips=number + 1)
            if item.id in seen:
                repeated += 1
                continue
            seen.add(item.id)
            yield dataclasses.replace(item, meta={**item.meta, "candidate": number})
        if repeated:
            ctx.warn(t("{count} clips were the same as earlier ones and were left out", count=repeated))
        ctx.metric(candidates=len(seen))

    def _check(self, model: Any) -> None:
        if model.makes != "video":
            what = t("this model makes {makes}, not films", makes=model.makes)
            raise UserError(what, fix=t("name a video model as model"))
        if self.config.mode == "animate" and not callable(getattr(model, "animate", None)):
            raise UserError(t("this model sets no pictures in motion"), fix=t('train one with use = "video"'))
        wanted, is_loop = self.config.loop, bool(getattr(model, "loop", False))
        if wanted is not None and wanted != is_loop:
            what = (
                t("the clips of this model join end to start") if is_loop else t("the clips of this model are no loops")
            )
            raise UserError(what, fix=t("train it with loop = {wanted}", wanted=str(wanted).lower()))

    def _new(self, model: Any, ctx: Context) -> Iterator[Item]:
        for start in range(0, self.config.count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, self.config.count))
            yield from model.sample([seed_of(ctx.seed, 2, number) for number in numbers], ctx)

    def _animated(self, model: Any, inputs: Inputs, ctx: Context) -> Iterator[Item]:
        count = self.config.count
        given = (item for dataset in inputs["items"] for item in dataset.of("image", "video"))
        sources = list(itertools.islice(given, count))
        if not sources:
            raise UserError(t("the steps named in 'items' hold no picture"), fix=t("name steps that hold pictures"))
        for start in range(0, count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, count))
            some = [sources[number % len(sources)] for number in numbers]
            seeds = [seed_of(ctx.seed, 2, number) for number in numbers]
            for before, after in zip(some, model.animate(some, seeds, ctx), strict=True):
                meta = {**after.meta, "kind": "animated", "title": str(before.meta.get("title") or "")}
                yield dataclasses.replace(after, meta=meta, parents=(before.id,), text=before.text)
