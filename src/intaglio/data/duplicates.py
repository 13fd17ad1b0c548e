"""Exact duplicates left out, the first one kept: equal texts after normalization, equal files.

Memory: about 125 bytes an item, so 125 MB for a million. A picture that comes again with another caption is one of
several descriptions and stays; with the same caption, or with none, it is a duplicate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Item, Skip, item_id
from intaglio.core.i18n import t
from intaglio.data._normal import normal


class Config(StepConfig):
    """items: only where it is a step of its own."""

    items: Annotated[Names, Role(stages=("data", "optimize"))] = ()


class Component:
    """Leaves out exact duplicates."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def apply(self, items: Iterable[Item | Skip], ctx: Context) -> Iterator[Item | Skip]:
        """Each content once; what repeats one becomes ``Skip(kind="duplicate", of=<id of the first>)``."""
        seen: dict[bytes, bytes | None] = {}  # content -> id of its first item, None where they are the same
        for item in items:
            if isinstance(item, Skip):
                yield item
                continue
            own = bytes.fromhex(item.id)
            content = _content(item, own)
            if content in seen:
                first = seen[content] or content
                yield Skip(item.origin, t("the same as an earlier item"), kind="duplicate", of=first.hex())
                continue
            seen[content] = None if content == own else own
            if item.files and item.text:  # the same picture again, without a caption, repeats this one
                seen.setdefault(bytes.fromhex(item_id(item.media, "", _files(item), item.parts)), own)
            yield item


def _content(item: Item, own: bytes) -> bytes:
    """The id the item has, or would have with a normal text."""
    text = normal(item.text)
    if text == item.text:
        return own
    return bytes.fromhex(item_id(item.media, text, _files(item), item.parts))


def _files(item: Item) -> tuple[str, ...]:
    return tuple(file.sha256 for file in item.files)


TINY: dict[str, Any] = {}
