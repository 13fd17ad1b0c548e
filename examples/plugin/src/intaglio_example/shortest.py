"""Keeps the shortest pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Verdict


class Config(StepConfig):
    """items: what is judged. keep: how many are kept."""

    items: Annotated[Names, Role(stages=("generate", "data", "optimize"))]
    keep: int = Field(default=3, ge=1)


class Component:
    """Ranks by length in characters."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, items: Dataset, archive: Dataset, ctx: Context) -> Iterator[Verdict]:
        """One verdict an item; score ``characters``."""
        ranked = sorted(items, key=lambda item: (len(item.text), item.id))
        for rank, item in enumerate(ranked):
            kept = rank < self.config.keep
            reasons = () if kept else (f"longer than the {self.config.keep} shortest",)
            yield Verdict(item.id, kept, {"characters": float(len(item.text))}, reasons, rank)


TINY: dict[str, Any] = {"keep": 1}
