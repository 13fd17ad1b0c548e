"""Picture: pictures from a model that draws, each from its own seed: new ones, or given ones varied or completed.

Seeds:    one a candidate, derived from the step's seed; in ``meta["seed"]``.
Parents:  a picture made from another one names it as its parent, so that its rights and its trace follow.
Measured: ``meta["round_trip_mse"]``, the mean squared error (in [0, 1] units) between a picture and the model's own
          reconstruction of it: a picture that the model cannot hold on to lies outside what it learned. None where the
          model has no encoder.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from intaglio.core.config import Names, ProjectFile, Role, StepConfig
from intaglio.core.contracts import Context, Inputs, Item, PictureModel
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.generate._briefs import seed_of
from intaglio.media import Unreadable
from intaglio.media import image as images

BATCH = 64
MASK_PX = 512
TINY: dict[str, Any] = {"count": 2}
METHODS = {"new": "sample", "variation": "vary", "image": "vary", "inpaint": "fill", "outpaint": "fill"}


class Config(StepConfig):
    """Keys of ``[generate.x]`` with ``use = "picture"``.

    count:    how many candidates to draw. asked: labels or captions to ask for, in turn, of a model that learned them.
    mode:     ``new``: from nothing. From the pictures of ``items``, in turn: ``variation``: alike, but not the same;
              ``image``: redrawn in the model's manner, the form kept; ``inpaint``: what the mask marks made new;
              ``outpaint``: the picture shrunk, and what lies around it made new.
    strength: how far a variation or a redrawn picture may go from where it started; 1 leaves nothing of it.
    mask:     a picture inside the project, white where to fill and black where to keep; laid over each picture.
    inset:    the share of the side a picture takes when what lies around it is made (``outpaint``).
    """

    model: Annotated[Names, Role(stages=("models",), media=("image",), many=False)]
    items: Annotated[Names, Role(stages=("data", "optimize"), media=("image",))] = ()
    count: int = Field(default=24, ge=1, le=1_000_000)
    mode: Literal["new", "variation", "image", "inpaint", "outpaint"] = "new"
    asked: tuple[str, ...] = ()
    strength: float = Field(default=0.5, gt=0.0, le=1.0)
    mask: ProjectFile | None = None
    inset: float = Field(default=0.625, ge=0.2, lt=1.0)

    @model_validator(mode="after")
    def _complete(self) -> Config:
        if self.mode != "new" and not self.items:
            raise ValueError(t("mode '{mode}' starts from pictures: name them in 'items'", mode=self.mode))
        if self.mode == "new" and self.items:
            raise ValueError(t("mode 'new' starts from nothing: leave 'items' out, or set a mode that uses them"))
        if (self.mode == "inpaint") != (self.mask is not None):
            raise ValueError(t("'mask' belongs to mode 'inpaint', which needs it"))
        return self


class Component:
    """``core.contracts.Generator``."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def generate(self, inputs: Inputs, ctx: Context) -> Iterator[Item]:
        """Pictures, one a seed. Errors: UserError for a model that cannot do it, before any work; for a mask that is
        no picture, or no picture to start from."""
        model: PictureModel = inputs["model"][0]
        self._check(model)
        sources = self._sources(inputs)
        draw = self._drawing(model, sources, ctx)
        seeds = [seed_of(ctx.seed, 1, number) for number in range(self.config.count)]
        errors: list[float] = []
        repeated = 0
        seen: set[str] = set()
        for first in range(0, len(seeds), BATCH):
            some = seeds[first : first + BATCH]
            made = list(draw(some, first))
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
                parents = (sources[number % len(sources)].id,) if sources else item.parents
                yield dataclasses.replace(item, meta={**meta, "mode": self.config.mode}, parents=parents)
            ctx.progress(min(first + BATCH, len(seeds)), len(seeds), pictures=min(first + BATCH, len(seeds)))
        if repeated:
            ctx.warn(t("{count} pictures were the same as earlier ones and were left out", count=repeated))
        ctx.metric(candidates=len(seen), round_trip_mse=round(statistics.fmean(errors), 6) if errors else None)

    def _check(self, model: PictureModel) -> None:
        """Errors: UserError where the model makes no pictures, cannot do what ``mode`` needs, or cannot be asked."""
        config = self.config
        if model.makes != "image":
            raise UserError(
                t("this model makes {makes}, not pictures", makes=model.makes), fix=t("name a picture model as model")
            )
        if not callable(getattr(model, METHODS[config.mode], None)):
            what = t("this model draws new pictures only; it cannot do mode '{mode}'", mode=config.mode)
            raise UserError(what, fix=t('train a model with use = "flow", and name that'))
        if config.asked and _kind(model) == "none":
            what = t("this model was told neither labels nor captions: it cannot be asked for any")
            raise UserError(what, fix=t('train it with condition = "label" or "text", or leave \'asked\' out'))

    def _sources(self, inputs: Inputs) -> list[Item]:
        """The pictures to start from, no more of them than will be used."""
        if self.config.mode == "new":
            return []
        named = itertools.chain.from_iterable(each.of("image") for each in inputs["items"])
        found = list(itertools.islice(named, self.config.count))
        if not found:
            raise UserError(t("the steps named in 'items' hold no picture"), fix=t("name steps that hold pictures"))
        return found

    def _drawing(
        self, model: Any, sources: Sequence[Item], ctx: Context
    ) -> Callable[[Sequence[int], int], Iterator[Item]]:
        """What turns seeds, and the number of the first of them, into pictures."""
        config = self.config
        mask = _mask(ctx.project / config.mask, config.mask) if config.mask else None
        role = "labels" if _kind(model) == "label" else "texts"

        def draw(seeds: Sequence[int], first: int) -> Iterator[Item]:
            numbers = range(first, first + len(seeds))
            asked: dict[str, Any] = {}
            if config.asked:
                asked[role] = [config.asked[number % len(config.asked)] for number in numbers]
            if config.mode == "new":
                return model.sample(seeds, ctx, **asked)
            some = [sources[number % len(sources)] for number in numbers]
            if config.mode in ("inpaint", "outpaint"):
                inset = config.inset if config.mode == "outpaint" else 1.0
                return model.fill(some, mask, seeds, ctx, inset=inset, **asked)
            through = "inverted" if config.mode == "variation" else "noised"
            return model.vary(some, seeds, ctx, strength=config.strength, through=through, **asked)

        return draw


def _kind(model: Any) -> str:
    """What a model can be asked for: ``label``, ``text`` or ``none``."""
    return str(getattr(getattr(model, "conditions", None), "kind", "none"))


def _mask(path: Path, name: str) -> Any:
    """What a picture marks: bool [H, W], True where it is nearer to white than to black. Errors: UserError."""
    try:
        grey = images.to_array(path, MASK_PX, mode="L")[:, :, 0]
    except (Unreadable, FileNotFoundError) as error:
        what = t("the mask is no picture that can be read: {reason}", reason=error)
        raise UserError(what, where=name, fix=t("save it as PNG: white is filled, black is kept")) from error
    marked = grey > 127
    if not marked.any():
        raise UserError(t("the mask marks nothing to fill"), where=name, fix=t("white is filled, black is kept"))
    return marked


def _round_trips(model: PictureModel, made: Sequence[Item], ctx: Context) -> Iterator[float | None]:
    """The reconstruction error of each picture, None from a model without an encoder."""
    if not callable(getattr(model, "reconstruct", None)):
        return iter(itertools.repeat(None, len(made)))
    return (round(float(error), 6) for _, _, error in model.reconstruct(made, ctx))
