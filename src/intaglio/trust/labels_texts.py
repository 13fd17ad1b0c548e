"""Labels in texts: HTML, Atom and other XML, Markdown, plain text and JSON; the text itself stays as it is.

Spec: TC260-PG-20258A (front matter in Markdown), HTML ``<meta name="AIGC">`` as seen in practice, schema.org
``digitalSourceType``, C2PA 2.x A.8 (``link rel="c2pa-manifest"``).
"""

from __future__ import annotations

import html
import json
import re
import urllib.parse
from html.parser import HTMLParser
from typing import Any

from intaglio.core.i18n import t
from intaglio.trust.labels import FIELDS, Buffer, Carrier, Label, LabelError, NoPlace, explicit, parse
from intaglio.trust.xmp import GENERATED_URL, IPTC, MAX_BYTES, TC260, clean, scan

ATOM = "http://www.w3.org/2005/Atom"
_READ_MOST = 16 * MAX_BYTES


def _text(data: bytes, kind: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LabelError(t("this {kind} is not UTF-8", kind=kind)) from error


def _start(data: Buffer, most: int = _READ_MOST) -> str:
    return bytes(data[:most]).decode("utf-8", "replace")


# ----------------------------------------------------------------------------------------------------------------- HTML
_META = re.compile(r'[ \t]*<meta name="AIGC"[^>]*>\n?', re.IGNORECASE)
_OUR_LD = re.compile(r'[ \t]*<script type="application/ld\+json" data-label="AIGC">.*?</script>\n?', re.DOTALL)
_LINK = re.compile(r'[ \t]*<link rel="c2pa-manifest"[^>]*>\n?', re.IGNORECASE)
_PLACES = (r"</head\s*>", r"<body\b", r"(?<=<html>)", r"(?<=<!doctype html>)")


def write_html(data: bytes, label: Label) -> bytes:
    """A ``<meta name="AIGC">`` and a schema.org description (JSON-LD) in the head."""
    page = _OUR_LD.sub("", _META.sub("", _text(data, "HTML")))
    about = {
        "@context": "https://schema.org",
        "@type": "CreativeWork",
        "name": clean(label.title),
        "identifier": label.aigc["ProduceID"],
        "creator": {"@type": "Organization", "name": clean(label.creator)},
        "license": clean(label.license),
        "digitalSourceType": "https://schema.org/TrainedAlgorithmicMediaDigitalSource",
    }
    ld = json.dumps({k: v for k, v in about.items() if v}, ensure_ascii=False).replace("<", "\\u003c")
    lines = (
        f'<meta name="AIGC" content="{html.escape(label.json)}">\n'
        f'<script type="application/ld+json" data-label="AIGC">{ld}</script>\n'
    )
    return _into_head(page, lines).encode("utf-8")


def link_manifest(data: bytes, sidecar: str) -> bytes:
    """The page with ``<link rel="c2pa-manifest">`` to its sidecar, a file name in the same folder."""
    page = _LINK.sub("", _text(data, "HTML"))
    return _into_head(page, f'<link rel="c2pa-manifest" href="{urllib.parse.quote(sidecar)}">\n').encode("utf-8")


def _into_head(page: str, lines: str) -> str:
    for place in _PLACES:
        found = re.search(place, page, re.IGNORECASE)
        if found:
            return page[: found.start()] + lines + page[found.start() :]
    return lines + page


class _Metas(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Any] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "meta" and (values.get("name") or "").lower() == "aigc":
            self.found.append(parse(values.get("content") or ""))


def read_html(data: Buffer) -> list[Any]:
    reader = _Metas()
    reader.feed(_start(data))
    return reader.found


# ------------------------------------------------------------------------------------------------------------------ XML
_XML_ROOT = re.compile(r"<(?![?!])(?:[^>\"']|\"[^\"]*\"|'[^']*')*>")
_XML_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_XML_PROLOG = re.compile(r"\A\ufeff?(<\?xml\b[^>]*\?>)?")
_XML_OLD = re.compile(
    r'<\?AIGC .*?\?>\n?|<TC260:AIGC xmlns:TC260="[^"]*">[^<]*</TC260:AIGC>'
    r'|<Iptc4xmpExt:DigitalSourceType xmlns:Iptc4xmpExt="[^"]*">[^<]*</Iptc4xmpExt:DigitalSourceType>'
)


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def write_xml(data: bytes, label: Label) -> bytes:
    """Atom: two extension elements in the feed. Other XML: a processing instruction, which no schema forbids."""
    text = _XML_OLD.sub("", _text(data, "XML"))
    found, root = scan(text.encode("utf-8")), _XML_ROOT.search(_XML_COMMENT.sub(_blank, text))
    if found is None or root is None:
        raise LabelError(t("this is not a whole {kind} file", kind="XML"))
    if found.root == f"{ATOM} feed" and not root[0].endswith("/>"):
        at = root.end()
        block = (
            f'<TC260:AIGC xmlns:TC260="{TC260}">{html.escape(label.json, quote=False)}</TC260:AIGC>'
            f'<Iptc4xmpExt:DigitalSourceType xmlns:Iptc4xmpExt="{IPTC}">{GENERATED_URL}</Iptc4xmpExt:DigitalSourceType>'
        )
    else:
        at = _XML_PROLOG.match(text).end()  # type: ignore[union-attr]
        block = f"<?AIGC {label.json.replace('?>', '%3F%3E')}?>\n"
        block = "\n" + block if at else block
    return (text[:at] + block + text[at:]).encode("utf-8")


def read_xml(data: Buffer) -> list[Any]:
    found = scan(bytes(data[:_READ_MOST]))
    return found.labels + found.marks if found else []


# ------------------------------------------------------------------------------------------------------------- Markdown
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_FRONT_LABEL = re.compile(r"^AIGC:[^\n]*\n(?:[ \t]+[^\n]*\n)*|^digital_source_type:[^\n]*\n", re.MULTILINE)
_TEXT_LABEL = re.compile(r"^AIGC: ?\{[^\n]*\}[ \t]*\n?", re.MULTILINE)


def write_markdown(data: bytes, label: Label) -> bytes:
    """``AIGC:`` in the YAML front matter, and the label in words as the last line."""
    text = _text(data, "Markdown")
    front = _FRONT.match(text)
    inside = _FRONT_LABEL.sub("", front[1]) if front else ""
    body = text[front.end() :] if front else text
    fields = "".join(f"  {name}: {json.dumps(label.aigc[name])}\n" for name in FIELDS)
    words = f"*{explicit()}*"
    if not body.rstrip().endswith(words):
        body = f"{body.rstrip()}\n\n{words}\n"
    return f"---\n{inside}digital_source_type: {GENERATED_URL}\nAIGC:\n{fields}---\n{body}".encode()


def read_markdown(data: Buffer) -> list[Any]:
    front = _FRONT.match(_start(data))
    return [_mapping(block[0]) for block in re.finditer(r"^AIGC:.*?(?=^\S|\Z)", front[1], re.S | re.M)] if front else []


def _mapping(block: str) -> Any:
    first, *lines = block.splitlines()
    if first.partition(":")[2].strip():
        return parse(first.partition(":")[2].strip())
    found: dict[str, Any] = {}
    for line in lines:
        name, colon, value = line.strip().partition(":")
        if not colon or name in found:
            return block[:200]
        text = value.strip()
        found[name] = parse(text) if text.startswith('"') else text
    return found


# ----------------------------------------------------------------------------------------------------------- plain text
def write_text(data: bytes, label: Label) -> bytes:
    """Two lines at the end: the label in words, and the seven fields."""
    words = explicit()
    body = _TEXT_LABEL.sub("", _text(data, "text")).rstrip()
    body = body.removesuffix(words).rstrip()
    return f"{body}\n\n{words}\nAIGC: {label.json}\n".encode()


def read_text(data: Buffer) -> list[Any]:
    return [parse(found[0].strip().partition(":")[2]) for found in _TEXT_LABEL.finditer(_start(data))]


# ----------------------------------------------------------------------------------------------------------------- JSON
def write_json(data: bytes, label: Label) -> bytes:
    """A key ``AIGC`` in the outer object. Errors: NoPlace where the outer value is a list or a plain value."""
    text = _text(data, "JSON")
    try:
        value = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        raise LabelError(t("this is not a whole {kind} file", kind="JSON")) from error
    if not isinstance(value, dict):
        raise NoPlace("JSON")
    if "AIGC" in value:
        value = {name: each for name, each in value.items() if name != "AIGC"}
        text = json.dumps(value, ensure_ascii=False, indent=2)
    at = text.index("{") + 1
    return f'{text[:at]}"AIGC":{label.json}{"," if value else ""}{text[at:]}'.encode()


def read_json(data: Buffer) -> list[Any]:
    found: list[Any] = []

    def outer(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        labels = [value for name, value in pairs if name == "AIGC"]
        found[:] = labels  # the outermost object is closed last
        return dict(pairs)

    try:
        value = json.loads(_start(data).removeprefix("\ufeff"), object_pairs_hook=outer)
    except (ValueError, RecursionError):
        return []
    return found if isinstance(value, dict) else []


CARRIERS = {
    "text/html": Carrier(write_html, read_html),
    "application/xhtml+xml": Carrier(write_xml, read_xml),
    "application/atom+xml": Carrier(write_xml, read_xml),
    "application/rss+xml": Carrier(write_xml, read_xml),
    "application/xml": Carrier(write_xml, read_xml),
    "text/xml": Carrier(write_xml, read_xml),
    "text/markdown": Carrier(write_markdown, read_markdown),
    "text/plain": Carrier(write_text, read_text),
    "application/json": Carrier(write_json, read_json),
    "application/ld+json": Carrier(write_json, read_json),
    "application/feed+json": Carrier(write_json, read_json),
}
