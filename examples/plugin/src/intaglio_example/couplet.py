"""Two lines of a model, one under the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Inputs, Item


class Config(StepConfig):
    """model: writes the lines. knowledge: its first fact becomes a parent of each couplet. count: how many couplets."""

    model: Annotated[Names, Role(stages=("models",), media=("text",), many=False)]
    knowledge: Annotated[Names, Role(stages=("knowledge",))] = ()
    count: int = Field(default=4, ge=1)


class Component:
    """Couplets; the seed of each is recorded."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def generate(self, inputs: Inputs, ctx: Context) -> Iterator[Item]:
        """``count`` items of media ``text``."""
        model = inputs["model"][0]
        facts = [fact for known in inputs.get("knowledge", ()) for fact in known.facts()]
        parents = facts[0].parents if facts else ()
        for number in range(self.config.count):
            seed = ctx.seed + 2 * number
            lines = [item.text for item in model.sample([seed, seed + 1], ctx)]
            yield Item(media="text", text="\n".join(lines), language="en", parents=parents, meta={"seed": seed})


TINY: dict[str, Any] = {"count": 2}
