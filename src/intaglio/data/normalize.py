"""Texts made uniform: mojibake repaired, Unicode NFC, one kind of line end, no control characters, trim white space.

Nothing that an author chose is changed: curly quotes, full-width punctuation, ligatures of meaning and letter case
stay. Pictures keep their bytes; an EXIF orientation that no source noted is noted in ``meta``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Item, Skip
from intaglio.core.i18n import t
from intaglio.data._normal import normal


class Config(StepConfig):
    """items: only where it is a step of its own."""

    items: Annotated[Names, Role(stages=("data", "optimize"))] = ()


class Component:
    """Normalizes texts."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def apply(self, items: Iterable[Item | Skip], ctx: Context) -> Iterator[Item | Skip]:
        """The items with normal texts; a text with nothing left becomes a Skip."""
        for item in items:
            if isinstance(item, Skip):
                yield item
                continue
            text = normal(item.text)
            if not text and not item.files and not item.parts:
                yield Skip(item.origin, t("nothing left of it but white space and control characters"))
                continue
            changes: dict[str, Any] = {} if text == item.text else {"text": text}
            if item.media == "image" and item.files and "width_px" not in item.meta:
                changes["meta"] = {**item.meta, **_header(item, ctx)}
            yield dataclasses.replace(item, **changes) if changes else item


def _header(item: Item, ctx: Context) -> dict[str, Any]:
    from intaglio.media import Unreadable, image

    try:
        info = image.inspect(ctx.path(item.files[0]), decode=False)
    except Unreadable:
        return {}
    return {"width_px": info.width_px, "height_px": info.height_px, "mode": info.mode, "orientation": info.orientation}


TINY: dict[str, Any] = {}
