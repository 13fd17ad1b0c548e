"""The rights of what is read: SPDX is checked, and what a file says of itself goes before what its source says."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import field_validator

from intaglio.core.config import SourceConfig
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable

UNKNOWN = "unknown"
_REF = re.compile(r"(DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
_COMMON = frozenset(
    {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT", "Apache-2.0", "PDDL-1.0", UNKNOWN}
)  # nothing to load for these


def check_license(license: str, where: str = "") -> str:
    """The license as a normal SPDX expression, or ``unknown`` where that is said.

    Errors: UserError where it is empty or no SPDX expression; the fix says what to write.
    """
    text = " ".join(license.split())
    if text in _COMMON:
        return text
    if not text:
        raise UserError(
            t("no license is given for this source"),
            where=where,
            fix=t('license = "CC-BY-4.0" (SPDX), or license = "unknown": nothing made from it is published then'),
        )
    if text.lower() == UNKNOWN:
        return UNKNOWN
    try:
        return _expression(text)
    except ValueError as error:
        raise UserError(
            t("the license '{license}' is no SPDX expression ({error})", license=text[:80], error=error),
            where=where,
            fix=t('an identifier of spdx.org/licenses, "LicenseRef-name" for your own terms, or "unknown"'),
        ) from None


@functools.cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing  # 60 ms: not for a plan that meets only common licenses

    return get_spdx_licensing()


@functools.lru_cache(maxsize=1024)
def _expression(text: str) -> str:
    from license_expression import ExpressionError, ExpressionParseError

    try:
        parsed = _licensing().parse(text)
        unknown = [key for key in _licensing().unknown_license_keys(parsed) if not _REF.fullmatch(key)]
    except (ExpressionError, ExpressionParseError, AttributeError, TypeError) as error:
        raise ValueError(str(error).splitlines()[0][:120] if str(error) else "syntax") from None
    if parsed is None:
        raise ValueError("empty")
    if unknown:
        raise ValueError(t("unknown: {keys}", keys=", ".join(unknown)[:120]))
    return str(parsed)


class LicensedConfig(SourceConfig):
    """A ``SourceConfig`` whose license is checked when the project file is read, before any work."""

    @field_validator("license")
    @classmethod
    def _licensed(cls, value: str) -> str:
        try:
            return check_license(value)
        except UserError as error:
            raise ValueError(f"{error.what}. {error.fix}") from None


@dataclass(frozen=True, slots=True)
class Said:
    """What a file or row says of itself: rights and language for the item's fields, the rest for its ``meta``."""

    license: str
    consent: str
    language: str
    meta: dict[str, Any] = field(default_factory=dict)


_NAMES = {
    "license": ("license", "licence", "spdx", "rights"),
    "consent": ("consent",),
    "language": ("language", "lang"),
    "title": ("title",),
    "author": ("author", "authors", "creator", "by"),
    "date": ("date",),
    "tags": ("tags", "keywords"),
    "source": ("source", "origin", "url"),
}
_KNOWN = frozenset(name for names in _NAMES.values() for name in names)


def said(fields: Mapping[str, Any], config: SourceConfig) -> Said:
    """Sort ``fields`` (front matter, lower-case keys) into rights, language and meta; ``config`` fills what is empty.

    Errors: Unreadable where a license is given that is no SPDX expression: its terms are not ours to guess.
    """
    if not fields:
        return Said(config.license, config.consent, "")
    found = {key: _first(fields, names) for key, names in _NAMES.items()}
    meta = {key: found[key] for key in ("title", "author", "date", "tags", "source") if found[key]}
    rest = {key: value for key, value in fields.items() if key not in _KNOWN and value not in ("", [], None)}
    if rest:
        meta["front"] = rest
    return Said(
        item_license(_text(found["license"]), config),
        _text(found["consent"]) or config.consent,
        language_code(_text(found["language"])),
        meta,
    )


def item_license(given: str, config: SourceConfig) -> str:
    """The license one item names for itself, checked; the source's where it names none. Errors: Unreadable."""
    if not given:
        return config.license
    try:
        return check_license(given)
    except UserError as error:
        raise Unreadable(f"{error.what}; {error.fix}") from None


def language_code(given: str) -> str:
    """``zh-CN`` -> ``zh``; empty where it is no language code."""
    code = re.split(r"[-_]", given.strip().lower(), maxsplit=1)[0]
    return code if 2 <= len(code) <= 3 and code.isascii() and code.isalpha() else ""


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((fields[name] for name in names if fields.get(name)), "")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).strip()
