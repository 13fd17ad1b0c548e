"""One small whole file of every kind that can be labelled, made on the spot."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from intaglio.core.contracts import Rights

RIGHTS = Rights(
    produce_id="almanac-0001",
    title='Herbst & <"Wind"> 秋 \x0b',
    license="CC-BY-4.0 AND CC0-1.0",
    creator="Hüttner 小印社",
    software="Intaglio 0.1.0",
    details={"seed": 7, "models": ["writer"]},
)


def picture(kind: str, **options: object) -> bytes:
    image = Image.linear_gradient("L").resize((40, 28)).convert("RGB")
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M1 1h5v5"/></svg>'
HTML = '<!doctype html>\n<html lang="zh"><head><meta charset="utf-8"><title>秋</title></head><body>秋风</body></html>'
FEED = (
    '<?xml version="1.0" encoding="utf-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom"><title>秋</title>'
    "<id>tag:x,2026:1</id><updated>2026-01-01T00:00:00Z</updated></feed>"
)

FILES: dict[str, tuple[str, bytes]] = {
    "a.png": ("image/png", picture("PNG")),
    "a.jpg": ("image/jpeg", picture("JPEG")),
    "lossy.webp": ("image/webp", picture("WEBP")),
    "lossless.webp": ("image/webp", picture("WEBP", lossless=True)),
    "a.gif": ("image/gif", picture("GIF")),
    "a.tif": ("image/tiff", picture("TIFF", dpi=(72, 72))),
    "a.svg": ("image/svg+xml", SVG),
    "a.html": ("text/html", HTML.encode()),
    "feed.xml": ("application/atom+xml", FEED.encode()),
    "other.xml": ("application/xml", b"<?xml version='1.0'?><r><a/></r>"),
    "a.md": ("text/markdown", "---\ntitle: 秋\n---\n# 秋\n\n秋风起。\n".encode()),
    "bare.md": ("text/markdown", b"# Autumn\n"),
    "a.txt": ("text/plain", "秋风起兮白云飞。\n".encode()),
    "a.json": ("application/json", json.dumps({"title": "秋", "n": 1}).encode()),
    "list.json": ("application/json", b"[1, 2]"),
    "a.css": ("text/css", b"p { color: red }"),
    "a.bin": ("application/octet-stream", bytes(range(256))),
}


def write(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(FILES[name][1])
    return path
