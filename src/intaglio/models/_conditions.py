"""What a picture model is told about a picture: its class label, or its caption as a bag of character n-grams.

Labels come from ``Item.meta["label"]``, captions from ``Item.text``. Both become rows of numbers that a linear layer
takes: one-hot, or signed counts of hashed n-grams (Weinberger et al. (2009), arXiv:0902.2206), enough for captions of
a few words such as ``red apple``: what shares letters lies near.

Legend: N pictures, K numbers of a condition.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from intaglio.core.contracts import Context, Dataset, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.models._facts import Facts, one_of
from intaglio.models._pictures import Shard
from intaglio.nn.order import derive

BUCKETS = 256
MOST_CLASSES = 1000
REMEMBERED = 256  # captions kept with a checkpoint, for samples nobody names a caption for
_GRAMS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Conditions:
    """What a model can be told; kept in ``config.json`` of a checkpoint.

    kind: ``none``, ``label`` or ``text``. names: the labels in order of their number, or some captions. shares: how
    often each came in training.
    """

    kind: str = "none"
    names: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def dims(self) -> int:
        """K; 0 where nothing is told."""
        return {"none": 0, "label": len(self.names), "text": BUCKETS}[self.kind]

    def rows(self, values: Sequence[str]) -> Tensor:
        """One row a value: float32 (N, K). Errors: UserError for a label that was never learned."""
        if self.kind == "text":
            return torch.from_numpy(np.stack([bag(value) for value in values])).float()
        unknown = sorted(set(values) - set(self.names))
        if unknown:
            what = t("this model never learned the label '{label}'", label=unknown[0])
            raise UserError(what, fix=t("labels it knows: {names}", names=", ".join(self.names[:20])))
        index = torch.tensor([self.names.index(value) for value in values], dtype=torch.int64)
        return torch.nn.functional.one_hot(index, len(self.names)).float()

    def drawn(self, seed: int) -> str:
        """The name that ``seed`` stands for, as often as it came in training."""
        place = derive(seed, "condition") / 2**63 * sum(self.shares)
        return self.names[min(int(np.searchsorted(np.cumsum(self.shares), place, side="right")), len(self.names) - 1)]


class ConditionFacts(Facts):
    """``Conditions`` as they stand in ``config.json``."""

    kind: Annotated[str, one_of("none", "label", "text")]
    names: tuple[str, ...]
    shares: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...]

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.names) != len(self.shares) or bool(self.names) != (self.kind != "none"):
            told: dict[str, Any] = {"kind": self.kind, "names": len(self.names), "shares": len(self.shares)}
            raise ValueError(t("a condition of kind {kind} with {names} names and {shares} shares", **told))
        return self

    @property
    def dims(self) -> int:
        """K."""
        return Conditions(self.kind, self.names).dims


class Told:
    """The conditions of a shard's pictures, read by row: ``rows(index)`` is float32 (B, K)."""

    def __init__(self, conditions: Conditions, stored: np.ndarray[Any, Any] | None) -> None:
        self.conditions, self.stored = conditions, stored

    def rows(self, index: np.ndarray[Any, Any]) -> Tensor | None:
        """The conditions of these pictures, None where nothing is told."""
        if self.stored is None:
            return None
        found = torch.from_numpy(np.array(self.stored[index]))
        if self.conditions.kind == "label":
            return torch.nn.functional.one_hot(found.long(), self.conditions.dims).float()
        return found.float()


def bag(text: str) -> np.ndarray[Any, Any]:
    """Signed counts of the hashed n-grams of ``text``: int8 (BUCKETS,)."""
    counts = np.zeros(BUCKETS, dtype=np.int64)
    for word in text.lower().split() or [""]:
        framed = f"^{word}$"
        for size in _GRAMS:
            for start in range(len(framed) - size + 1):
                number = zlib.crc32(framed[start : start + size].encode())
                counts[number % BUCKETS] += 1 if number >> 31 else -1
    return counts.clip(-127, 127).astype(np.int8)


def label_of(item: Item) -> str:
    """The class label of an item as a word; empty where it has none."""
    value = item.meta.get("label")
    return "" if value is None else str(value)


def check(data: Dataset, kind: str, ctx: Context) -> None:
    """Look at the first thousand pictures: are they told what ``kind`` asks for? Before any of them is decoded.

    Errors: UserError where they are not.
    """
    if kind == "none":
        return
    seen = [label_of(item) if kind == "label" else item.text for _, item in zip(range(1000), data, strict=False)]
    missing = sum(not value for value in seen)
    if not missing:
        return
    if kind == "label":
        what = t("{missing} of the first {count} pictures have no label", missing=missing, count=len(seen))
        fix = t('read them with a reader that knows labels (imagefolder, mnist, cifar10), or set condition = "none"')
    else:
        what = t("{missing} of the first {count} pictures have no caption", missing=missing, count=len(seen))
        fix = t('give them captions in the data step, or set condition = "none"')
    raise UserError(what, where=f"[models.{ctx.step}]", fix=fix)


def read(data: Dataset, kind: str, shard: Shard, ctx: Context) -> Told:
    """The conditions of the pictures of ``shard``, which was gathered from ``data``; kept in a file in ``ctx.work``.

    Errors: UserError where one is missing, or where there are too many labels.
    """
    if kind == "none":
        return Told(Conditions(), None)
    counts = Counter(_values(data, kind, shard, ctx))
    if kind == "text":
        raw = ctx.work / "captions.i8"
        with raw.open("wb") as file:
            for value in _values(data, kind, shard, ctx):
                file.write(bag(value).tobytes())
        stored = np.memmap(raw, dtype=np.int8, mode="r", shape=(len(shard.pixels), BUCKETS))
        common = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:REMEMBERED]
        return Told(Conditions(kind, *_split(common)), stored)
    if len(counts) > MOST_CLASSES:
        what = t("{count} labels are more than the {most} a model can be told", count=len(counts), most=MOST_CLASSES)
        raise UserError(what, where=f"[models.{ctx.step}]", fix=t('set condition = "text", or join labels'))
    if len(counts) == 1:
        ctx.warn(t("all pictures have the label '{label}': it tells the model nothing", label=next(iter(counts))))
    ordered = sorted(counts.items(), key=lambda pair: (len(pair[0]), pair[0]) if pair[0].isdigit() else (99, pair[0]))
    conditions = Conditions(kind, *_split(ordered))
    number = {name: place for place, name in enumerate(conditions.names)}
    values = _values(data, kind, shard, ctx)
    return Told(conditions, np.fromiter((number[v] for v in values), dtype=np.int16, count=len(shard.pixels)))


def _split(pairs: Sequence[tuple[str, int]]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    total = sum(count for _, count in pairs)
    return tuple(name for name, _ in pairs), tuple(round(count / total, 6) for _, count in pairs)


def _values(data: Dataset, kind: str, shard: Shard, ctx: Context) -> Iterator[str]:
    """The label or caption of each picture of the shard, in its order."""
    place = 0
    for split in ("train", "heldout"):
        for item in data.split(split):
            if place not in shard.left_out:
                value = label_of(item) if kind == "label" else " ".join(item.text.split())
                if not value:
                    what = t("a picture has no label") if kind == "label" else t("a picture has no caption")
                    raise UserError(what, where=item.origin, fix=t('set condition = "none", or give it one'))
                yield value
            place += 1


def stored(conditions: Conditions) -> Mapping[str, Any]:
    """As plain JSON."""
    return {"kind": conditions.kind, "names": list(conditions.names), "shares": list(conditions.shares)}


def restored(facts: Mapping[str, Any]) -> Conditions:
    """From what ``stored`` gave."""
    return Conditions(str(facts["kind"]), tuple(facts["names"]), tuple(facts["shares"]))
