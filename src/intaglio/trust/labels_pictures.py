"""Labels in pictures: PNG, JPEG, WebP, GIF, TIFF and SVG carry an XMP packet; pixels and other data stay as they are.

Spec: XMP part 3 (where each format keeps its packet); PNG 3rd ed. 11.3.3, JPEG APP1, WebP container (VP8X flags),
GIF89a application extension with the 258-byte "magic trailer", TIFF tag 700.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from intaglio.core.i18n import t
from intaglio.trust.labels import Buffer, Carrier, Label, LabelError, parse
from intaglio.trust.xmp import MAX_BYTES, labels_in, packet

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_XMP = b"XML:com.adobe.xmp\0"
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_MOST = 65533 - len(_JPEG_XMP)
_GIF_XMP = b"\x21\xff\x0bXMP DataXMP"
_GIF_TRAILER = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"
_TIFF_XMP = 700


def _broken(kind: str) -> LabelError:
    return LabelError(t("this is not a whole {kind} file", kind=kind))


# ------------------------------------------------------------------------------------------------------------------ PNG
def _png_chunks(data: Buffer) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end (whole chunk, with length and checksum) of each chunk."""
    if bytes(data[:8]) != PNG_HEAD:
        raise _broken("PNG")
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            raise _broken("PNG")
        yield bytes(data[at + 4 : at + 8]), at, at + 12 + size
        at += 12 + size


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _is_png_label(kind: bytes, body: bytes) -> bool:
    return (kind == b"iTXt" and body.startswith(_PNG_XMP)) or (
        kind in (b"tEXt", b"zTXt", b"iTXt") and body.startswith(b"AIGC\0")
    )


def write_png(data: bytes, label: Label) -> bytes:
    """An iTXt chunk "XML:com.adobe.xmp" right after the header."""
    old, kept = b"", []
    for kind, start, end in _png_chunks(data):
        body = data[start + 8 : end - 4]
        if _is_png_label(kind, body):
            old = _png_text(body[len(_PNG_XMP) :]) if body.startswith(_PNG_XMP) else old
        else:
            kept.append(data[start:end])
    if not kept or kept[0][4:8] != b"IHDR":
        raise _broken("PNG")
    body = _PNG_XMP + b"\0\0\0\0" + packet(label, old=old)
    return PNG_HEAD + kept[0] + _png_chunk(b"iTXt", body) + b"".join(kept[1:])


def _png_text(rest: bytes) -> bytes:
    """The text of an iTXt chunk after its keyword: flag, method, language, translated keyword, text."""
    if len(rest) < 4:
        return b""
    packed = rest[0] == 1
    parts = rest[2:].split(b"\0", 2)
    text = parts[2] if len(parts) == 3 else b""
    return _inflate(text) if packed else text


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MAX_BYTES)  # a bomb stops at the limit
    except zlib.error:
        return b""


def read_png(data: Buffer) -> list[Any]:
    found: list[Any] = []
    for kind, start, end in _png_chunks(data):
        if kind not in (b"tEXt", b"zTXt", b"iTXt") or end - start > MAX_BYTES:
            continue
        body = bytes(data[start + 8 : end - 4])
        if kind == b"iTXt" and body.startswith(_PNG_XMP):
            found += labels_in(_png_text(body[len(_PNG_XMP) :]))
        elif body.startswith(b"AIGC\0"):
            rest = body[5:]
            found.append(parse({b"tEXt": rest, b"zTXt": _inflate(rest[1:])}.get(kind) or _png_text(rest)))
    return found


# ----------------------------------------------------------------------------------------------------------------- JPEG
def _jpeg_segments(data: Buffer) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment before the picture data."""
    if bytes(data[:2]) != b"\xff\xd8":
        raise _broken("JPEG")
    at = 2
    while at + 4 <= len(data):
        marker = data[at : at + 2]
        if marker[0] != 0xFF or marker[1] in (0xDA, 0xD9):
            return
        if marker[1] == 0xFF:  # fill byte
            at += 1
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if size < 2 or at + 2 + size > len(data):
            raise _broken("JPEG")
        yield marker[1], at, at + 2 + size
        at += 2 + size


def write_jpeg(data: bytes, label: Label) -> bytes:
    """An APP1 segment with the packet, behind JFIF and Exif."""
    place, old, cut = 2, b"", []
    for marker, start, end in _jpeg_segments(data):
        body = data[start + 4 : end]
        if marker == 0xE1 and body.startswith(_JPEG_XMP):
            old = body[len(_JPEG_XMP) :]
            cut.append((start, end))
        elif marker in (0xE0, 0xE1) and place == start:
            place = end
    made = packet(label, old=old)
    if len(made) > _JPEG_MOST:
        made = packet(label)  # the old packet is too long to share one segment
    segment = b"\xff\xe1" + struct.pack(">H", len(made) + len(_JPEG_XMP) + 2) + _JPEG_XMP + made
    return _spliced(data, cut, place, segment)


def _spliced(data: bytes, cut: list[tuple[int, int]], place: int, piece: bytes) -> bytes:
    """``data`` with ``piece`` at ``place`` and without the ranges of ``cut``."""
    out, at = [], 0
    for start, end in sorted([*cut, (place, place)]):
        out.append(data[at:start])
        if (start, end) == (place, place):
            out.append(piece)
        at = max(at, end)
    return b"".join([*out, data[at:]])


def read_jpeg(data: Buffer) -> list[Any]:
    found: list[Any] = []
    for marker, start, end in _jpeg_segments(data):
        body = bytes(data[start + 4 : end])
        if marker == 0xE1 and body.startswith(_JPEG_XMP):
            found += labels_in(body[len(_JPEG_XMP) :])
    return found


# ----------------------------------------------------------------------------------------------------------------- WebP
def _webp_chunks(data: Buffer) -> Iterator[tuple[bytes, int, int]]:
    if bytes(data[:4]) != b"RIFF" or bytes(data[8:12]) != b"WEBP":
        raise _broken("WebP")
    at, end_all = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end_all:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + (size & 1)
        if at + 8 + size > end_all:
            raise _broken("WebP")
        yield bytes(data[at : at + 4]), at, min(end, end_all)
        at = end


def write_webp(data: bytes, label: Label) -> bytes:
    """A chunk "XMP " at the end; a simple file becomes an extended one (VP8X) with the XMP flag."""
    chunks = [(kind, data[start:end]) for kind, start, end in _webp_chunks(data)]
    if not chunks:
        raise _broken("WebP")
    old = next((chunk[8:] for kind, chunk in chunks if kind == b"XMP "), b"")
    chunks = [each for each in chunks if each[0] != b"XMP "]
    if chunks[0][0] == b"VP8X":
        head = bytearray(chunks[0][1])
    else:
        head = bytearray(_webp_head(*chunks[0]))
        chunks.insert(0, (b"VP8X", b""))
    head[8] |= 0x04
    made = packet(label, old=old)
    body = bytes(head) + b"".join(chunk for _, chunk in chunks[1:])
    body += b"XMP " + struct.pack("<I", len(made)) + made + b"\0" * (len(made) & 1)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _webp_head(kind: bytes, chunk: bytes) -> bytes:
    """A VP8X chunk for a simple lossy (VP8) or lossless (VP8L) picture."""
    body = chunk[8:]
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height, alpha = (*(x & 0x3FFF for x in struct.unpack("<HH", body[6:10])), 0)
    elif kind == b"VP8L" and body[:1] == b"\x2f":
        bits = int.from_bytes(body[1:5], "little")
        width, height, alpha = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bits >> 28 & 1
    else:
        raise _broken("WebP")
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X" + struct.pack("<I", 10) + bytes([alpha << 4, 0, 0, 0]) + size


def read_webp(data: Buffer) -> list[Any]:
    found: list[Any] = []
    for kind, start, end in _webp_chunks(data):
        if kind == b"XMP " and end - start <= MAX_BYTES:
            found += labels_in(bytes(data[start + 8 : end]))
    return found


# ------------------------------------------------------------------------------------------------------------------ GIF
def _gif_start(data: Buffer) -> int:
    """Where the blocks begin: behind header, screen descriptor and global colour table."""
    head = bytes(data[:13])
    if head[:6] not in (b"GIF87a", b"GIF89a") or len(head) < 13:
        raise _broken("GIF")
    return 13 + (3 << ((head[10] & 7) + 1) if head[10] & 0x80 else 0)


def _gif_packets(data: Buffer) -> Iterator[tuple[int, int]]:
    """Start and end of each XMP block."""
    start = data.find(_GIF_XMP, _gif_start(data))
    while start >= 0:
        end = data.find(_GIF_TRAILER, start)
        if end < 0:
            return
        yield start, end + len(_GIF_TRAILER)
        start = data.find(_GIF_XMP, end)


def write_gif(data: bytes, label: Label) -> bytes:
    """An application extension "XMP DataXMP" before the first picture; GIF87a becomes GIF89a."""
    place, cut = _gif_start(data), list(_gif_packets(data))
    old = data[cut[0][0] + len(_GIF_XMP) : cut[0][1] - len(_GIF_TRAILER)] if cut else b""
    block = _GIF_XMP + packet(label, old=old) + _GIF_TRAILER
    return b"GIF89a" + _spliced(data, cut, place, block)[6:]


def read_gif(data: Buffer) -> list[Any]:
    found: list[Any] = []
    for start, end in _gif_packets(data):
        if end - start <= MAX_BYTES:
            found += labels_in(bytes(data[start + len(_GIF_XMP) : end - len(_GIF_TRAILER)]))
    return found


# ----------------------------------------------------------------------------------------------------------------- TIFF
def _tiff_first(data: Buffer) -> tuple[str, int, list[bytes], bytes]:
    """Byte order, offset of the first directory, its 12-byte entries, and the offset of the next one (4 bytes)."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
    if order is None:
        raise _broken("TIFF")
    start = struct.unpack(order + "I", data[4:8])[0]
    if start + 2 > len(data):
        raise _broken("TIFF")
    count = struct.unpack(order + "H", data[start : start + 2])[0]
    end = start + 2 + 12 * count
    if end + 4 > len(data):
        raise _broken("TIFF")
    entries = [bytes(data[at : at + 12]) for at in range(start + 2, end, 12)]
    return order, start, entries, bytes(data[end : end + 4])


def write_tiff(data: bytes, label: Label) -> bytes:
    """Tag 700 in a new first directory at the end of the file; nothing that is there moves."""
    order, _, entries, following = _tiff_first(data)
    tag = struct.Struct(order + "H")
    old = b"".join(_tiff_value(data, order, entry) for entry in entries if tag.unpack(entry[:2])[0] == _TIFF_XMP)
    entries = [entry for entry in entries if tag.unpack(entry[:2])[0] != _TIFF_XMP]
    made = packet(label, old=old)
    body = data + b"\0" * (len(data) & 1)
    at = len(body)
    body += made + b"\0" * (len(made) & 1)
    entries.append(struct.pack(order + "HHII", _TIFF_XMP, 1, len(made), at))
    entries.sort(key=lambda entry: tag.unpack(entry[:2])[0])
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + following
    return body[:4] + struct.pack(order + "I", len(body)) + body[8:] + directory


def _tiff_value(data: Buffer, order: str, entry: bytes) -> bytes:
    _, _, size, at = struct.unpack(order + "HHII", entry)
    return bytes(data[at : at + size]) if 4 < size <= MAX_BYTES and at + size <= len(data) else b""


def read_tiff(data: Buffer) -> list[Any]:
    order, _, entries, _ = _tiff_first(data)
    found: list[Any] = []
    for entry in entries:
        if struct.unpack(order + "H", entry[:2])[0] == _TIFF_XMP:
            found += labels_in(_tiff_value(data, order, entry))
    return found


# ------------------------------------------------------------------------------------------------------------------ SVG
_SVG_ROOT = re.compile(rb"<(?:[\w.-]+:)?svg\b(?:[^>\"']|\"[^\"]*\"|'[^']*')*>")
_SVG_LABEL = re.compile(rb"<metadata><x:xmpmeta\b(?:(?!</x:xmpmeta>).)*TC260:AIGC.*?</x:xmpmeta></metadata>", re.DOTALL)


def write_svg(data: bytes, label: Label) -> bytes:
    """A <metadata> element with the packet, first in the root element."""
    data = _SVG_LABEL.sub(b"", data)
    root = _SVG_ROOT.search(data)
    if root is None or root[0].endswith(b"/>"):
        raise _broken("SVG")
    prefix = root[0][1 : root[0].index(b"svg")]
    block = b"<%smetadata>%s</%smetadata>" % (prefix, packet(label, wrapped=False), prefix)
    return data[: root.end()] + block + data[root.end() :]


def read_svg(data: Buffer) -> list[Any]:
    return labels_in(bytes(data[: 16 * MAX_BYTES]))


CARRIERS = {
    "image/png": Carrier(write_png, read_png),
    "image/jpeg": Carrier(write_jpeg, read_jpeg),
    "image/webp": Carrier(write_webp, read_webp),
    "image/gif": Carrier(write_gif, read_gif),
    "image/tiff": Carrier(write_tiff, read_tiff),
    "image/svg+xml": Carrier(write_svg, read_svg),
}
