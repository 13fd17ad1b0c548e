"""Machine-readable labels that say "generated": GB 45438-2025 and IPTC, written into and read from each kind of file.

Source:  GB 45438-2025 annex E and guides TC260-PG-20258A/20259A (field names, character set, carriers);
         IPTC Photo Metadata, DigitalSourceType.
A kind of file is one ``Carrier``: a function that writes the label into the file's bytes without touching its content,
and one that finds every label in it. Where a format has no carrier, the label lies in the signed manifest.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from intaglio.core.contracts import Rights
from intaglio.core.i18n import LANGUAGES, t

FIELDS = (
    "Label",
    "ContentProducer",
    "ProduceID",
    "ReservedCode1",
    "ContentPropagator",
    "PropagateID",
    "ReservedCode2",
)
GENERATED, POSSIBLY, SUSPECTED = "1", "2", "3"
_ALLOWED = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]*\Z")  # annex E j): no space, no quotation mark, no backslash
_SAFE = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"
_MAX_FIELD = 512


class LabelError(ValueError):
    """A label breaks the standard, or a file is not what it should be; the message says how."""


class NoPlace(LabelError):
    """This very file has no place for a label (a JSON list, say); the signed manifest holds it."""


class Buffer(Protocol):
    """Bytes or a memory map of a file."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> bytes: ...
    def find(self, sub: bytes, start: int = ..., end: int = ..., /) -> int: ...


@dataclass(frozen=True)
class Label:
    """What is written into a file: the seven fields, and what readers of IPTC and Dublin Core expect beside them."""

    aigc: Mapping[str, str]
    title: str
    creator: str
    license: str
    software: str

    @property
    def json(self) -> str:
        """The seven fields as one line, in the order of the standard."""
        return json.dumps({name: self.aigc[name] for name in FIELDS}, separators=(",", ":"))


@dataclass(frozen=True)
class Carrier:
    """One kind of file. write: bytes without a label (or with an old one) -> bytes with exactly one.

    read: every label found, as parsed values (a value that is no JSON object comes back as its text).
    """

    write: Callable[[bytes, Label], bytes]
    read: Callable[[Buffer], list[Any]]


def label_for(rights: Rights) -> Label:
    """The label of a generated file. Errors: LabelError where ``produce_id`` cannot be written in the standard's
    character set."""
    who = code(rights.creator) or code(rights.software.partition(" ")[0]) or "Intaglio"
    if not rights.produce_id or code(rights.produce_id) != rights.produce_id:
        raise LabelError(t("produce_id must be printable ASCII without spaces, got {value!r}", value=rights.produce_id))
    aigc = {
        "Label": GENERATED,
        "ContentProducer": who,
        "ProduceID": rights.produce_id,
        "ReservedCode1": "",
        "ContentPropagator": who,  # who publishes is who made it
        "PropagateID": rights.produce_id,
        "ReservedCode2": "",
    }
    check(aigc)
    return Label(aigc, rights.title, rights.creator, rights.license, rights.software)


def code(name: str) -> str:
    """A name in the standard's character set; what is not in it is percent-encoded UTF-8, so it can be read back."""
    if _ALLOWED.match(name) and "%" not in name:
        return name[:_MAX_FIELD]
    return urllib.parse.quote(name, safe="!#$&'()*+,-./:;<=>?@[]^_`{|}~", encoding="utf-8", errors="replace")[
        :_MAX_FIELD
    ]


def check(aigc: Any) -> dict[str, str]:
    """The seven fields, when ``aigc`` keeps the standard. Errors: LabelError."""
    if not isinstance(aigc, dict):
        raise LabelError(t("the AIGC label is not an object"))
    unknown = [str(name)[:40] for name in aigc if name not in FIELDS]
    absent = [name for name in FIELDS if name not in aigc]
    if unknown or absent:
        raise LabelError(t("the AIGC label has not its seven fields: {names}", names=", ".join(absent + unknown)))
    for name, value in aigc.items():
        if not isinstance(value, str) or not _ALLOWED.match(value):
            raise LabelError(t("field {name} of the AIGC label is not printable ASCII", name=name))
    if aigc["Label"] not in (GENERATED, POSSIBLY, SUSPECTED):
        raise LabelError(t("field {name} of the AIGC label has an unknown value", name="Label"))
    if not aigc["ContentProducer"] or not aigc["ProduceID"]:
        raise LabelError(t("the AIGC label names no producer or no number"))
    return dict(aigc)


def explicit(languages: tuple[str, ...] = LANGUAGES) -> str:
    """The label people read, an AI element and a generation element: ``AI-generated / 人工智能生成``."""
    return " / ".join(t("AI-generated", language) for language in languages)


def parse(text: str | bytes) -> Any:
    """A label's JSON as a value, or the text itself where it is none; ``{"AIGC": {...}}`` is unwrapped."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return str(text)[:200]
    if isinstance(value, dict) and set(value) == {"AIGC"}:
        return value["AIGC"]
    return value
