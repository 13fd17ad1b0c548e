"""Rows of a table (JSONL, CSV, Parquet) as items: which field is the text, and what the other fields mean.

Shapes told by their fields: plain text; alpaca (``instruction``, ``input``, ``output``); messages (``messages`` or
``conversations``, each with ``role``/``from`` and ``content``/``value``); preference pairs (``chosen``,
``rejected``). The whole conversation or pair stays in ``meta``, so that later training can use it as it was.
"""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from intaglio.core.config import ProjectPath
from intaglio.core.contracts import Item
from intaglio.core.i18n import t
from intaglio.data._items import storable
from intaglio.data._rights import LicensedConfig, item_license, language_code
from intaglio.media import Unreadable
from intaglio.media.text import MAX_BYTES

TEXT_NAMES = ("text", "content", "body", "document", "article", "story", "poem", "sentence", "caption", "completion")


class RowConfig(LicensedConfig):
    """path: a file, or a folder of them. text, title, author: names of fields; ``text`` left out: told by the fields.

    license_field, origin_field, consent_field, language_field: a row's own rights go before the source's.
    limit: read so many items and stop; 0 reads all.
    """

    path: ProjectPath
    text: str = ""
    title: str = "title"
    author: str = "author"
    license_field: str = "license"
    origin_field: str = "source"
    consent_field: str = "consent"
    language_field: str = "language"
    limit: int = Field(default=0, ge=0)


def row_item(row: Mapping[str, Any], origin: str, config: RowConfig, *, compose: bool = False) -> Item:
    """One row as a text item; the fields that are not its text or rights go into ``meta``.

    compose: a row without a text field becomes ``field: value`` lines (briefs); else it is refused.
    Errors: Unreadable with the reason.
    """
    text, used = _text(row, config, compose)
    if not text.strip():
        raise Unreadable(t("its text is empty"))
    if len(text) > MAX_BYTES:
        raise Unreadable(t("larger than {limit} MB", limit=MAX_BYTES >> 20))
    consent, language, license_ = (
        row.get(name) or "" for name in (config.consent_field, config.language_field, config.license_field)
    )
    used |= {config.consent_field, config.language_field, config.license_field}
    meta = {key: value for key, value in row.items() if key not in used and value is not None and value != ""}
    if meta:
        names = {config.title: "title", config.author: "author", config.origin_field: "source"}
        meta = {storable(names.get(key, str(key))): plain(value) for key, value in meta.items()}
    return Item(
        media="text",
        text=storable(text),
        origin=origin,
        license=item_license(str(license_).strip(), config) if license_ else config.license,
        consent=str(consent) if consent else config.consent,
        language=language_code(str(language)) if language else "",
        meta=meta,
    )


def _text(row: Mapping[str, Any], config: RowConfig, compose: bool) -> tuple[str, frozenset[str]]:
    """The text and the fields it was made from."""
    if config.text:
        if config.text not in row:
            raise Unreadable(_no_field(config.text, row))
        return _string(row[config.text], config.text), frozenset((config.text,))
    if "chosen" in row and "rejected" in row:
        return _joined([_speech(row.get("prompt") or row.get("instruction")), _speech(row["chosen"])]), frozenset()
    for name in ("messages", "conversations"):
        if isinstance(row.get(name), list):
            return _speech(row[name]), frozenset()
    if "instruction" in row and ("output" in row or "response" in row):
        used = ("instruction", "input", "output" if "output" in row else "response")
        return _joined([_string(row.get(name) or "", name) for name in used]), frozenset()
    for name in TEXT_NAMES:
        if name in row:
            return _string(row[name], name), frozenset((name,))
    if compose:
        return "\n".join(f"{key}: {value}" for key, value in row.items() if value), frozenset()
    raise Unreadable(_no_field("text", row))


def _no_field(name: str, row: Mapping[str, Any]) -> str:
    here = ", ".join(str(key) for key in list(row)[:12])[:200]
    return t("no field '{name}'; fields here: {here}", name=name, here=here)


def _string(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is None:
        return ""
    raise Unreadable(t("the field '{name}' is no text", name=name))


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part.strip() for part in parts if part and part.strip())


_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


def _speech(value: Any) -> str:
    """A prompt or answer: a string, or messages as ``role: words`` blocks."""
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise Unreadable(t("a message is neither text nor a list of messages"))
    blocks = []
    for each in value:
        if not isinstance(each, Mapping):
            raise Unreadable(t("a message is no object with role and content"))
        role = str(each.get("role") or each.get("from") or "")
        words = each.get("content") if "content" in each else each.get("value")
        if isinstance(words, list):  # parts of one message: only its texts are read
            words = "\n".join(str(part.get("text", "")) for part in words if isinstance(part, Mapping))
        if not isinstance(words, str):
            raise Unreadable(t("a message has no content"))
        blocks.append(f"{_ROLES.get(role, role)}: {words}" if role else words)
    return _joined(blocks)


def plain(value: Any, depth: int = 0) -> Any:
    """A value as plain JSON: dates and decimals as text, bytes left out, NaN as null, surrogates replaced."""
    if isinstance(value, str):
        return storable(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > 20:
        raise Unreadable(t("its fields are nested too deeply"))
    if isinstance(value, Mapping):
        return {storable(str(key)): plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, depth + 1) for each in value]
    if isinstance(value, datetime.date | datetime.time | decimal.Decimal):
        return str(value)
    return None
