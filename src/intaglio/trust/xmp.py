"""XMP packets: build one that says what a file is and how it was made, join it to one that is there, read the label.

Spec: ISO 16684-1 (XMP), IPTC Extension, namespace TC260 of the Chinese labelling guides. Parsed with expat: entities
are refused, nothing is loaded, and no tree is built.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from intaglio.trust.labels import Label, parse

GENERATED_URL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
XMP = "http://ns.adobe.com/xap/1.0/"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
TC260 = "http://www.tc260.org.cn/ns/AIGC/1.0/"

_BEGIN = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
_END = '\n<?xpacket end="w"?>'
_OURS = {f"{DC} title", f"{DC} creator", f"{DC} rights", f"{XMP} CreatorTool"}
_OURS |= {f"{IPTC} DigitalSourceType", f"{TC260} AIGC"}
_OUR_ATTRIBUTES = re.compile(rb"""\s+[\w.-]+:(?:CreatorTool|DigitalSourceType|AIGC)\s*=\s*(?:"[^"]*"|'[^']*')""")
_TAG = re.compile(rb"""<(?:[^>"']|"[^"]*"|'[^']*')*>""")
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
MAX_BYTES = 1 << 20


def clean(text: str) -> str:
    """``text`` without the characters that XML cannot hold."""
    return _NOT_XML.sub("", text)


@dataclass
class Scan:
    """What is in an XML document. root: "namespace name" of the root element. labels: parsed TC260:AIGC values.

    marks: content of ``<?AIGC ...?>``, parsed. cuts: byte ranges of properties that our packet writes itself.
    rdf_end: where ``</rdf:RDF>`` begins, -1 without one.
    """

    root: str = ""
    labels: list[Any] = field(default_factory=list)
    marks: list[Any] = field(default_factory=list)
    cuts: list[tuple[int, int]] = field(default_factory=list)
    rdf_end: int = -1


def scan(data: bytes) -> Scan | None:
    """Look through an XML document; None where it is not well-formed or declares entities."""
    data = data.strip(b"\0 \t\r\n")
    found, parser = Scan(), expat.ParserCreate(namespace_separator=" ")
    open_at: list[int] = []
    text: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        found.root = found.root or name
        open_at.append(parser.CurrentByteIndex)
        text.clear()
        found.labels.extend(parse(value) for key, value in attributes.items() if key == f"{TC260} AIGC")

    def end(name: str) -> None:
        began, at = open_at.pop(), parser.CurrentByteIndex
        if name == f"{TC260} AIGC":
            found.labels.append(parse("".join(text)))
        if name in _OURS:
            tag = _TAG.match(data, at)
            found.cuts.append((began, tag.end() if tag else at))
        if name == f"{RDF} RDF" and at != began:
            found.rdf_end = at

    def refuse(*_: Any) -> None:
        raise ValueError("entities are refused")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text.append
    parser.EntityDeclHandler = refuse
    parser.ProcessingInstructionHandler = lambda target, rest: (
        found.marks.append(parse(rest)) if target == "AIGC" else None
    )
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError):
        return None
    return found


def packet(label: Label, *, old: bytes = b"", wrapped: bool = True) -> bytes:
    """An XMP packet with ``label``; what an ``old`` packet says about other things is kept.

    wrapped: with the xpacket processing instructions, as pictures want it; without, for XML files.
    """
    ours = _description(label)
    old = old.strip(b"\0 \t\r\n")
    there = scan(old) if old else None
    if there is not None and there.rdf_end >= 0 and _is_utf8(old):
        kept, at = [], 0
        for begin, end in there.cuts:
            kept.append(old[at:begin])
            at = end
        kept.append(old[at : there.rdf_end])
        return _OUR_ATTRIBUTES.sub(b"", b"".join(kept)) + ours.encode("utf-8") + old[there.rdf_end :]
    body = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">{ours}</rdf:RDF></x:xmpmeta>'
    return (_BEGIN + body + _END if wrapped else body).encode("utf-8")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def labels_in(data: bytes) -> list[Any]:
    """Every TC260:AIGC value of a packet, parsed; elements and attributes both count."""
    found = scan(bytes(data))
    return found.labels if found else []


def _description(label: Label) -> str:
    tool = f"<xmp:CreatorTool>{escape(clean(label.software))}</xmp:CreatorTool>" if label.software else ""
    return (
        f'<rdf:Description xmlns:rdf="{RDF}" rdf:about="" xmlns:dc="{DC}" xmlns:xmp="{XMP}"'
        f' xmlns:Iptc4xmpExt="{IPTC}" xmlns:TC260="{TC260}">'
        f"{_list('dc:title', 'Alt', label.title)}{_list('dc:creator', 'Seq', label.creator)}"
        f"{_list('dc:rights', 'Alt', label.license)}{tool}"
        f"<Iptc4xmpExt:DigitalSourceType>{GENERATED_URL}</Iptc4xmpExt:DigitalSourceType>"
        f"<TC260:AIGC>{escape(label.json)}</TC260:AIGC></rdf:Description>"
    )


def _list(name: str, kind: str, text: str) -> str:
    if not text:
        return ""
    language = ' xml:lang="x-default"' if kind == "Alt" else ""
    return f"<{name}><rdf:{kind}><rdf:li{language}>{escape(clean(text))}</rdf:li></rdf:{kind}></{name}>"
