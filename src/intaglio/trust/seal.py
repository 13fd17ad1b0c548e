"""The bytes a C2PA signature leaves open: find any change in them too, for files that we signed.

The signature covers the content and the claims, not its own wrapping: about a thousand bytes (box lengths and names,
zero padding, checksums of the chunk around the manifest) can be changed and readers still say "trusted". What we write
there is known to the byte, so for our own manifests it is compared. Layout: ISO/IEC 19566-5 (JUMBF), C2PA 2.x sec. 11.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator

from intaglio.core.i18n import t

_UUID_TAIL = bytes.fromhex("00110010800000aa00389b71")
_NAMES = {  # type of a superbox -> its name; None where the claim's hashes cover the name
    b"c2pa": b"c2pa",
    b"c2ma": None,
    b"c2as": b"c2pa.assertions",
    b"c2cl": b"c2pa.claim.v2",
    b"c2cs": b"c2pa.signature",
    b"cbor": None,
}
_ROOT = b"jumdc2pa" + _UUID_TAIL + b"\x03c2pa\x00"


def loose_parts(data: bytes, mime: str) -> list[str]:
    """What is not as we write it, in words; empty when every byte of the wrapping is right.

    Args:
        data: the whole file, or the manifest store itself with mime ``application/c2pa``.
    """
    try:
        store = data if mime == "application/c2pa" else _STORE_OF.get(mime, _contiguous)(data)
        _superbox(store, 0, len(store), depth=0)
    except (ValueError, IndexError, KeyError) as error:
        return [t("the wrapping of the credentials was changed: {error}", error=error)]
    return []


# ------------------------------------------------------------------------------------ the manifest store itself (JUMBF)
def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    while start < end:
        size = int.from_bytes(data[start : start + 4], "big")
        if size < 8 or start + size > end:
            raise ValueError("box length")
        yield data[start + 4 : start + 8], start + 8, start + size
        start += size


def _superbox(data: bytes, start: int, end: int, *, depth: int) -> None:
    if depth == 0:
        boxes = list(_boxes(data, start, end))
        if len(boxes) != 1 or boxes[0][0] != b"jumb":
            raise ValueError("one outer box expected")
        return _superbox(data, boxes[0][1], boxes[0][2], depth=1)
    if depth > 8:
        raise ValueError("too deep")
    (kind, first, last), *children = _boxes(data, start, end)
    if kind != b"jumd":
        raise ValueError("description box")
    what = data[first : first + 4]
    _description(data[first:last], what)
    for child, low, high in children:
        if child == b"jumb":
            _superbox(data, low, high, depth=depth + 1)
        elif child == b"cbor" and what == b"c2cs":
            _signature(data[low:high])
        elif child != b"cbor":
            raise ValueError(f"unexpected box {child!r}")
    return None


def _description(box: bytes, what: bytes) -> None:
    expected = _NAMES[what]
    name, zero, rest = box[17:].partition(b"\0")
    if box[4:16] != _UUID_TAIL or not zero or (expected is not None and name != expected):
        raise ValueError("box name")
    salted = what == b"cbor"  # assertions are salted, and then covered by the claim's hash
    if box[16] != (0x13 if salted else 0x03) or bool(rest) != salted:
        raise ValueError("box flags")


def _signature(cose: bytes) -> None:
    """COSE_Sign1: tag 18, [protected, {"pad": zeros}, nil, signature]; the padding must be zeros."""
    if cose[:2] != b"\xd2\x84":
        raise ValueError("signature box")
    _, at = _bytes(cose, 2)
    pairs = cose[at] - 0xA0
    at += 1
    if not 0 <= pairs <= 2:
        raise ValueError("signature header")
    for key in (b"\x63pad", b"\x64pad2")[:pairs]:
        if cose[at : at + len(key)] != key:
            raise ValueError("signature header")
        padding, at = _bytes(cose, at + len(key))
        if padding.strip(b"\0"):
            raise ValueError("padding")
    if cose[at] != 0xF6:
        raise ValueError("signature payload")
    _, at = _bytes(cose, at + 1)
    if at != len(cose):
        raise ValueError("signature length")


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    """A CBOR byte string at ``at`` in its shortest spelling: its content and where it ends."""
    if data[at] >> 5 != 2:
        raise ValueError("byte string")
    width = {24: 1, 25: 2, 26: 4}.get(data[at] & 31, 0)
    size = int.from_bytes(data[at + 1 : at + 1 + width], "big") if width else data[at] & 31
    start = at + 1 + width
    if (not width and size > 23) or start + size > len(data):
        raise ValueError("byte string length")
    return data[start : start + size], start + size


# -------------------------------------------------------------------------------------- the store out of its container
def _contiguous(data: bytes) -> bytes:
    at = data.find(_ROOT)
    if at < 12 or data[at - 8 : at - 4] != b"jumb":
        raise ValueError("manifest store")
    start = at - 12
    size = int.from_bytes(data[start : start + 4], "big")
    if start + size > len(data):
        raise ValueError("store length")
    return data[start : start + size]


def _png(data: bytes) -> bytes:
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + size]
        if body[:4] == b"caBX":
            if zlib.crc32(body) != int.from_bytes(data[at + 8 + size : at + 12 + size], "big"):
                raise ValueError("checksum")
            return body[4:]
        at += 12 + size
    raise ValueError("chunk caBX")


def _jpeg(data: bytes) -> bytes:
    """APP11 segments: 'JP', instance 0x0211, a running number, then the box head repeated in each."""
    store, head, at, number = b"", b"", 2, 1
    while data[at] == 0xFF and data[at + 1] not in (0xDA, 0xD9):
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + size]
        if data[at + 1] == 0xEB:
            head = head or body[8:16]
            if body[:8] != b"JP\x02\x11" + number.to_bytes(4, "big") or body[8:16] != head:
                raise ValueError("segment head")
            store += body[8:] if number == 1 else body[16:]
            number += 1
        at += 2 + size
    return store


def _webp(data: bytes) -> bytes:
    at = data.find(b"C2PA", 12)
    store = _contiguous(data)
    if at < 0 or int.from_bytes(data[at + 4 : at + 8], "little") != len(store):
        raise ValueError("chunk C2PA")
    return store


def _gif(data: bytes) -> bytes:
    at = data.find(b"\x21\xff\x0bC2PA_GIF\x01\x00\x00")
    if at < 0:
        raise ValueError("C2PA block")
    at, store = at + 14, b""
    while size := data[at]:
        store += data[at + 1 : at + 1 + size]
        at += 1 + size
    return store


def _svg(data: bytes) -> bytes:
    found = re.findall(rb"<c2pa:manifest[^<>]*>([^<>]*)</c2pa:manifest>", data)
    if len(found) != 1:
        raise ValueError("element c2pa:manifest")
    try:
        store = base64.b64decode(found[0], validate=True)
    except binascii.Error as error:
        raise ValueError("base64") from error
    if base64.b64encode(store) != found[0]:
        raise ValueError("base64")
    return store


_STORE_OF = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/webp": _webp,
    "image/gif": _gif,
    "image/svg+xml": _svg,
}
