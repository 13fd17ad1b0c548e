"""One spelling of a text: what ``normalize`` writes, and what ``duplicates`` compares by."""

from __future__ import annotations

import re
import unicodedata

import ftfy

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff\ufff9-\ufffb]|[\ud800-\udfff]")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_TRAILING = re.compile(r"[^\S\n]+(?=\n)")
_BLANK_LINES = re.compile(r"\n{3,}")
_UNTIDY = re.compile(  # whatever one of the above, or strip(), would change
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ufff9-\ufffb\ud800-\udfff]"
    "|[^\\S\n]\n|\n{3}|\\A\\s|\\s\\Z"
)
_ROUNDS = 8
_SUSPECT = re.compile("[\x80-\xff\u0152-\u0178\u0192\u02c6\u02dc\u2013-\u2122]")


def normal(text: str) -> str:
    """``text`` normalized; ``normal(normal(x)) == normal(x)``."""
    for _ in range(_ROUNDS):  # what one rule leaves can be another's work: a base and its accent parted by a control
        before, text = text, _pass(text)
        if text == before:
            break
    return text


def _pass(text: str) -> str:
    # Mojibake needs a character of the upper half of Latin-1 or Windows-1252; a purely Chinese text has none.
    if not text.isascii() and _SUSPECT.search(text):
        text = ftfy.fix_encoding(text)
    if _UNTIDY.search(text) is not None:
        text = _ESCAPES.sub("", text)
        text = _LINE_ENDS.sub("\n", text)
        text = _CONTROLS.sub("", text)
        text = _TRAILING.sub("", text)
        text = _BLANK_LINES.sub("\n\n", text).strip()
    if not text.isascii() and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    return text
