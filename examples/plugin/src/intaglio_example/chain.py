"""A chain of words: each word is drawn from those that followed the last one in the archive."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Estimate, Item, Machine, Size
from intaglio.core.errors import UserError

END = "\n"


class Config(StepConfig):
    """What it learns from. data: text steps."""

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("text",))]


class Chain:
    """A trained chain. followers: word to the words that followed it, END for the end of a line."""

    makes = "text"

    def __init__(self, followers: Mapping[str, Sequence[str]]) -> None:
        self.followers = followers

    def sample(self, seeds: Sequence[int], ctx: Context) -> Iterator[Item]:
        """One line a seed, of at most 12 words."""
        for seed in seeds:
            draw = random.Random(seed)
            words = [draw.choice(self.followers[""])]
            while words[-1] != END and len(words) < 12:
                words.append(draw.choice(self.followers[words[-1]]))
            yield Item(media="text", text=" ".join(word for word in words if word != END), meta={"seed": seed})


class Component:
    """Counts followers; the checkpoint is one JSON file."""

    takes = ("text",)
    makes = "text"

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """Reading once is all the work."""
        return Estimate(seconds=1.0, bytes=100_000_000)

    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Count. Metrics: ``words`` seen, ``distinct`` words."""
        followers: dict[str, list[str]] = {}
        for item in data:
            words = ["", *item.text.split(), END]
            for word, follower in zip(words, words[1:], strict=False):
                followers.setdefault(word, []).append(follower)
        if not followers:
            raise UserError("there is no text to learn from", where=ctx.step)
        (ctx.out / "chain.json").write_text(json.dumps(followers, sort_keys=True), "utf-8")
        return {"words": sum(map(len, followers.values())), "distinct": len(followers)}

    def load(self, folder: Path, *, device: str, threads: int) -> Chain:
        """The chain written by ``fit``."""
        return Chain(json.loads((folder / "chain.json").read_text("utf-8")))

    def export(self, folder: Path, to: Path) -> list[Path]:
        """The same JSON file: nobody else reads it, and nobody needs more than a JSON reader."""
        target = to / "chain.json"
        target.write_bytes((folder / "chain.json").read_bytes())
        return [target]


TINY: dict[str, Any] = {}
