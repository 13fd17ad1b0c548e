"""Which label goes into which kind of file, and what kind a file is by its content."""

from __future__ import annotations

from pathlib import PurePath

from intaglio.trust import labels_pictures, labels_texts
from intaglio.trust.labels import Carrier

CARRIERS: dict[str, Carrier] = {**labels_pictures.CARRIERS, **labels_texts.CARRIERS}

_MAGIC = (  # offset, bytes, media type
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (8, b"WEBP", "image/webp"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (4, b"ftypavif", "image/avif"),
    (8, b"WAVE", "audio/wav"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftyp", "video/mp4"),
    (0, b"%PDF-", "application/pdf"),
)
_BY_NAME = {
    ".html": "text/html",
    ".htm": "text/html",
    ".svg": "image/svg+xml",
    ".xml": "application/xml",
    ".atom": "application/atom+xml",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".txt": "text/plain",
    ".json": "application/json",
    ".css": "text/css",
    ".js": "text/javascript",
}
BINARY = frozenset(mime for _, _, mime in _MAGIC)
UNKNOWN = "application/octet-stream"


def plain(mime: str) -> str:
    """A media type in lower case and without parameters."""
    return mime.partition(";")[0].strip().lower()


def carrier(mime: str) -> Carrier | None:
    """How a label is carried in files of this media type; None where only the signed manifest can hold it."""
    return CARRIERS.get(plain(mime))


def kind_of(head: bytes, name: str = "") -> str:
    """The media type by the first 4 kB of a file, and by its name where text looks like text."""
    for offset, magic, mime in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return mime
    start = head[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "text/html"
    if start.startswith((b"<?xml", b"<svg", b"<!--")) and b"<svg" in start:
        return "image/svg+xml"
    return _BY_NAME.get(PurePath(name).suffix.lower(), UNKNOWN)
