"""What a file is, told by its first bytes and never by its name.

Signatures are those of the formats' own specifications; ``HEAD_BYTES`` of a file are enough to tell.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD_BYTES = 4096

_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png", "a PNG picture"),
    (b"\xff\xd8\xff", "image/jpeg", "a JPEG picture"),
    (b"GIF87a", "image/gif", "a GIF picture"),
    (b"GIF89a", "image/gif", "a GIF picture"),
    (b"II*\x00", "image/tiff", "a TIFF picture"),
    (b"MM\x00*", "image/tiff", "a TIFF picture"),
    (b"%PDF-", "application/pdf", "a PDF document"),
    (b"{\\rtf", "application/rtf", "an RTF document"),
    (b"PK\x03\x04", "application/zip", "a ZIP archive or an office document"),
    (b"PK\x05\x06", "application/zip", "an empty ZIP archive"),
    (b"\x1f\x8b", "application/gzip", "a gzip archive"),
    (b"BZh", "application/x-bzip2", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "application/x-xz", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed", "a 7z archive"),
    (b"Rar!\x1a\x07", "application/vnd.rar", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "application/zstd", "a zstd archive"),
    (b"\x7fELF", "application/x-executable", "a program"),
    (b"SQLite format 3\x00", "application/vnd.sqlite3", "a SQLite database"),
    (b"PAR1", "application/vnd.apache.parquet", "a Parquet table"),
    (b"ID3", "audio/mpeg", "an MP3 recording"),
    (b"\xff\xfb", "audio/mpeg", "an MP3 recording"),
    (b"\xff\xfa", "audio/mpeg", "an MP3 recording"),
    (b"\xff\xf3", "audio/mpeg", "an MP3 recording"),
    (b"\xff\xf2", "audio/mpeg", "an MP3 recording"),
    (b"\xff\xf1", "audio/aac", "an AAC recording"),
    (b"\xff\xf9", "audio/aac", "an AAC recording"),
    (b"fLaC", "audio/flac", "a FLAC recording"),
    (b"OggS", "audio/ogg", "an Ogg recording"),
    (b"MThd", "audio/midi", "a MIDI file"),
    (b"\x1aE\xdf\xa3", "video/x-matroska", "a Matroska video"),
    (b"glTF", "model/gltf-binary", "a glTF scene"),
    (b"\x00asm", "application/wasm", "a WebAssembly program"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage", "an old office document"),
    (b"8BPS", "image/vnd.adobe.photoshop", "a Photoshop document"),
)
_RIFF = {
    b"WEBP": ("image/webp", "a WebP picture"),
    b"WAVE": ("audio/wav", "a WAV recording"),
    b"AVI ": ("video/x-msvideo", "an AVI video"),
}
_MARKUP = (
    (b"<svg", "image/svg+xml", "an SVG drawing"),
    (b"<!doctype html", "text/html", "an HTML page"),
    (b"<html", "text/html", "an HTML page"),
)
PICTURES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/tiff", "image/bmp", "image/avif"})
"""The mime types ``media.image`` reads."""
RECORDINGS = frozenset({"audio/wav", "audio/flac", "audio/ogg", "audio/mpeg", "audio/aiff", "audio/mp4", "audio/aac"})
"""The mime types ``media.audio`` reads, besides the sound of FILMS."""
FILMS = frozenset({"video/mp4", "video/quicktime", "video/webm", "video/x-matroska", "video/x-msvideo", "video/ogg"})
"""The mime types ``media.video`` reads."""
NOTES = frozenset({"audio/midi"})
"""The mime types ``media.music`` reads, besides ABC, which is text."""
_MEDIA = {"image": PICTURES, "audio": RECORDINGS | NOTES, "video": FILMS}


@dataclass(frozen=True, slots=True)
class Kind:
    """media: ``text``, ``image``, ``audio``, ``video``, or empty where nothing here reads it. name: a key of ``t``."""

    media: str
    mime: str
    name: str


TEXT = Kind("text", "text/plain", "a text")
ABC = Kind("text", "text/vnd.abc", "tunes in ABC")
EMPTY = Kind("", "application/x-empty", "the file is empty")
BINARY = Kind("", "application/octet-stream", "binary data, not text")


def sniff(head: bytes) -> Kind:
    """What a file beginning with ``head`` is (its first ``HEAD_BYTES``, or all of it)."""
    if not head:
        return EMPTY
    found = _signature(head)
    if found is not None:
        mime, name = found
        return Kind(next((media for media, mimes in _MEDIA.items() if mime in mimes), ""), mime, name)
    if not looks_like_text(head):
        return BINARY
    return ABC if _ABC.search(head) else TEXT


# A tune's header: its number at the start of a line, then only header fields and comments down to its key.
_ABC = re.compile(rb"^X: *\d+[^\n]*\n(?:(?:[A-Za-z+]:|%)[^\n]*\n)*?K:", re.MULTILINE)


def _signature(head: bytes) -> tuple[str, str] | None:
    for magic, mime, name in _SIGNATURES:
        if head.startswith(magic):
            return _CONTAINERS[mime](head) if mime in _CONTAINERS else (mime, name)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "audio/aiff", "an AIFF recording"
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], ("application/octet-stream", "a RIFF file"))
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    if head[4:8] in (b"moov", b"wide", b"mdat") and head[:2] == b"\0\0":  # QuickTime older than the ftyp box
        return "video/quicktime", "a QuickTime video"
    if head[:2] == b"BM" and len(head) >= 26 and head[6:10] == b"\0\0\0\0":  # reserved fields of a bitmap are zero
        return "image/bmp", "a BMP picture"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    for opening, mime, name in _MARKUP:
        if start.startswith(opening) or (start.startswith(b"<?xml") and opening in start):
            return mime, name
    return None


def _iso_media(head: bytes) -> tuple[str, str]:
    brands = head[8:12] + head[16:32]
    if b"avif" in brands or b"avis" in brands:
        return "image/avif", "an AVIF picture"
    if any(brand in brands for brand in (b"heic", b"heix", b"mif1", b"hevc")):
        return "image/heic", "a HEIC picture"
    if head[8:12] in (b"M4A ", b"M4B "):
        return "audio/mp4", "an MP4 recording"
    return ("video/quicktime", "a QuickTime video") if head[8:12] == b"qt  " else ("video/mp4", "an MP4 video")


def _matroska(head: bytes) -> tuple[str, str]:
    return ("video/webm", "a WebM video") if b"webm" in head[:64] else ("video/x-matroska", "a Matroska video")


def _ogg(head: bytes) -> tuple[str, str]:
    if b"\x80theora" in head[:64]:
        return "video/ogg", "an Ogg video"
    return "audio/ogg", "an Ogg recording"


_CONTAINERS = {"video/x-matroska": _matroska, "audio/ogg": _ogg}


_CONTROLS = bytes(code for code in range(32) if code not in (8, 9, 10, 12, 13, 27)) + b"\x7f"
UTF_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")


def looks_like_text(head: bytes) -> bool:
    """False where more than a tenth of the bytes are control characters, UTF-16 and UTF-32 aside."""
    if head.startswith(UTF_MARKS) or wide_nuls(head):
        return True
    controls = len(head) - len(head.translate(None, _CONTROLS))
    return controls * 10 <= len(head)


def wide_nuls(head: bytes) -> str:
    """``utf-16-le`` or ``utf-16-be`` where NUL bytes stand as in unmarked UTF-16 of mostly Latin text, else ``""``."""
    even, odd = head[0::2], head[1::2]
    if len(odd) < 2 or len(head) % 2 and len(head) < HEAD_BYTES:
        return ""
    low, high = even.count(0) / len(even), odd.count(0) / len(odd)
    if max(low, high) < 0.4 or min(low, high) > 0.05:
        return ""
    encoding, letters = ("utf-16-le", even) if high > low else ("utf-16-be", odd)
    printable = len(letters) - len(letters.translate(None, _CONTROLS))
    return encoding if printable * 20 <= len(letters) else ""
