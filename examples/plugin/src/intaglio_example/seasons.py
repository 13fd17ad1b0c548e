"""Twelve short lines about the seasons, written for this example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from intaglio.core.config import SourceConfig
from intaglio.core.contracts import Context, Item, Skip

SEASONS = {
    "spring": ("rain on the young leaves", "a plough turns the dark earth", "the river wakes and runs"),
    "summer": ("bees in the lime tree", "dust on the white road", "the long light on the wheat"),
    "autumn": ("smoke over the stubble", "the last pears fall at night", "geese go over the roofs"),
    "winter": ("snow lies on the well", "the fire tells old stories", "stars stand in the ice"),
}


class Config(SourceConfig):
    """The lines. seasons: how many seasons to read, 1 to 4."""

    license: str = "CC0-1.0"
    transforms: tuple[str, ...] = ()
    seasons: int = Field(default=4, ge=1, le=4)


class Component:
    """Reads the lines as items of media ``text``."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, ctx: Context) -> Iterator[Item | Skip]:
        """Three items a season."""
        for season in list(SEASONS)[: self.config.seasons]:
            for number, line in enumerate(SEASONS[season]):
                yield Item(media="text", text=line, origin=f"seasons/{season}-{number}", language="en")


TINY: dict[str, Any] = {"seasons": 2}
