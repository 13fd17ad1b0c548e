"""Personal data reported, redacted or left out: e-mail, phone, card, ID, IBAN, SSN, IP, picture locations.

The finds themselves never leave the item: a report holds kind and place. What is found and how sure:
``trust/pii.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Finding, Item, Skip
from intaglio.core.i18n import t
from intaglio.trust import pii


class Config(StepConfig):
    """action: ``report`` keeps the item as it is, ``redact`` puts ``[kind]`` in place of each find, ``skip`` drops it.

    kinds: what to look for; empty means everything. items: only where it is a step of its own.
    """

    items: Annotated[Names, Role(stages=("data", "optimize"))] = ()
    action: Literal["report", "redact", "skip"] = "report"
    kinds: tuple[
        Literal["email", "iban", "resident_id", "credit_card", "us_ssn", "resident_id_like", "phone", "ip_address"], ...
    ] = ()


class Component:
    """Finds personal data."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._kinds = frozenset(config.kinds or pii.KINDS)

    def apply(self, items: Iterable[Item | Skip], ctx: Context) -> Iterator[Item | Skip]:
        """The items; each find is told to ``ctx.find`` with its place in the text kept (``skip``: in the original)."""
        for item in items:
            if isinstance(item, Skip):
                yield item
                continue
            if item.meta.get("has_location"):
                ctx.find(Finding(item.id, item.origin, "location", 0, 0))
            found = [each for each in pii.find(item.text) if each.kind in self._kinds]
            yield self._act(item, found, ctx) if found else item

    def _act(self, item: Item, found: list[pii.Found], ctx: Context) -> Item | Skip:
        if self.config.action == "redact":
            text, found = pii.redact(item.text, found)
            item = dataclasses.replace(item, text=text)
        for each in found:
            ctx.find(Finding(item.id, item.origin, each.kind, each.start, each.end))
        if self.config.action == "skip":
            kinds = ", ".join(sorted({each.kind for each in found}))
            return Skip(item.origin, t("it holds personal data: {kinds}", kinds=kinds))
        return item


TINY: dict[str, Any] = {}
