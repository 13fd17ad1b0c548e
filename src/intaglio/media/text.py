"""Text: decoded from whatever encoding it came in, with the front matter of Markdown read, and written as UTF-8.

Formats: plain text and Markdown; UTF-8, UTF-16 and UTF-32 with or without mark, GB18030, Big5, Shift-JIS, EUC-JP,
EUC-KR, Windows-1251, Latin-1, and what charset-normalizer tells. Front matter is the flat part of YAML between two
``---`` lines (keys, plain values, lists); nothing of it is executed and no tags or anchors are followed.
"""

from __future__ import annotations

import codecs
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from intaglio.core.i18n import t
from intaglio.media import Unreadable, _encoding
from intaglio.media.sniff import HEAD_BYTES, looks_like_text, wide_nuls

MAX_BYTES = 64 << 20
"""A text longer than this does not become one item; it is read by paragraphs or lines instead."""
MAX_UNIT_CHARS = 8_000_000
"""One paragraph or line may have so many characters."""
UNITS = ("file", "paragraph", "line")


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed text file. text: the body. encoding: it was decoded from. front: lower-case keys. title: or ``""``."""

    text: str
    encoding: str
    front: Mapping[str, str | list[str]] = field(default_factory=dict)
    title: str = ""


def parse(data: bytes) -> Document:
    """Decode a whole file and split off its front matter.

    Errors: Unreadable where it is empty, binary, damaged, or in no encoding that can be told.
    """
    encoding = detect(data, whole=True)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(t("not valid {encoding} at byte {byte}", encoding=encoding, byte=error.start)) from None
    front, body = front_matter(text.removeprefix("\ufeff"))
    if not body.strip():
        raise Unreadable(t("nothing in it but white space") if not front else t("nothing below its front matter"))
    return Document(body, encoding, front, _title(front, body))


def _title(front: Mapping[str, str | list[str]], body: str) -> str:
    given = front.get("title", "")
    if isinstance(given, str) and given:
        return given
    first = body.lstrip()[:300].split("\n", 1)[0].strip()
    return first[2:].strip() if first.startswith("# ") else ""


# ------------------------------------------------------------------------------------------------------------ encodings
def detect(data: bytes, *, whole: bool, damaged: bool = False) -> str:
    """The Python name of the encoding ``data`` is in; ``whole`` False where it is only a file's beginning.

    damaged: UTF-8 with a few wrong bytes is called ``utf-8`` (a table leaves out the rows they are in), else refused.

    Errors: Unreadable for empty, binary or damaged content, or where no encoding fits.
    """
    if not data:
        raise Unreadable(t("the file is empty"))
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    wide = wide_nuls(data[:HEAD_BYTES])
    if wide:
        return wide
    if not looks_like_text(data[:HEAD_BYTES]):
        raise Unreadable(t("binary data, not text"))
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
        return "utf-8"
    except UnicodeDecodeError as error:
        if _nearly_utf8(data):
            if damaged:
                return "utf-8"
            raise Unreadable(t("truncated or damaged: not valid UTF-8 at byte {byte}", byte=error.start)) from None
    encoding = _encoding.guess(data)
    if not encoding:
        raise Unreadable(t("its encoding cannot be told; save it as UTF-8"))
    return encoding


_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def _nearly_utf8(data: bytes) -> bool:
    """What is nearly UTF-8 is a damaged text: read as GB18030, which takes almost any bytes, it would be nonsense."""
    lenient = data[: 1 << 20].decode("utf-8", "replace")
    beyond = sum(1 for char in lenient if ord(char) > 0x7F)
    bad = lenient.count("\ufffd")
    return beyond - bad >= 3 * max(bad, 1)


# --------------------------------------------------------------------------------------------------------- front matter
_KEY = re.compile(r"([A-Za-z][\w .-]{0,40}?)\s*:(?:\s+(.*))?$")
_ENTRY = re.compile(r"\s*-\s+(.*)$")
_MAX_FRONT_LINES = 200


def front_matter(text: str) -> tuple[dict[str, str | list[str]], str]:
    """The flat front matter of a text and its body; an empty dict and the text itself where there is none."""
    opening = re.match(r"---[ \t]*\r?\n", text)
    if opening is None:
        return {}, text
    found: dict[str, str | list[str]] = {}
    key = ""
    position = opening.end()
    for _ in range(_MAX_FRONT_LINES):
        end = text.find("\n", position)
        line = text[position : end if end >= 0 else len(text)].rstrip()
        if line in ("---", "..."):
            return found, text[end + 1 :] if found and end >= 0 else "" if found else text
        position = end + 1
        if end < 0 or len(line) > 4000:
            break
        key = _front_line(line, key, found)
        if key is _BROKEN:
            break
    return {}, text


_BROKEN = "\0"


def _front_line(line: str, key: str, found: dict[str, str | list[str]]) -> str:
    """Put one line into ``found``; returns the key a list below would continue, ``_BROKEN`` for no front matter."""
    if not line.strip() or line.lstrip().startswith("#"):
        return key
    match = _KEY.match(line)
    if match:
        name, value = match[1].strip().lower(), (match[2] or "").strip()
        if value.startswith("[") and value.endswith("]"):
            found[name] = [each for each in map(_plain, value[1:-1].split(",")) if each]
        else:
            found[name] = _plain(value)
        return name
    entry = _ENTRY.match(line)
    if entry and key:
        before = found.get(key, "")
        found[key] = [*(before if isinstance(before, list) else [before] if before else []), _plain(entry[1])]
        return key
    if line[0] in " \t" and key:
        return key  # a nested table: its inner keys are not ours
    return _BROKEN


def _plain(value: str) -> str:
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value.split(" #", 1)[0].strip()


# ---------------------------------------------------------------------------------------------------------------- units
def cut(chunks: Iterable[str], unit: str) -> Iterator[str]:
    """Paragraphs (parted by blank lines) or lines of a text that arrives in pieces; empty ones are left out.

    Errors: Unreadable for a unit longer than ``MAX_UNIT_CHARS``; what came before it was yielded.
    """
    held: list[str] = []
    size = 0
    for line in _lines(chunks):
        if unit == "line":
            if line.strip():
                yield line.strip()
            continue
        if line.strip():
            held.append(line)
            size += len(line)
            if size > MAX_UNIT_CHARS:
                raise _too_long(unit)
        elif held:
            yield "\n".join(held)
            held, size = [], 0
    if held:
        yield "\n".join(held)


def _lines(chunks: Iterable[str]) -> Iterator[str]:
    rest: list[str] = []
    size = 0
    ends = io.IncrementalNewlineDecoder(None, translate=True)  # knows a \r\n that two chunks part
    for chunk in itertools.chain(chunks, ("",)):
        *whole, last = ends.decode(chunk, final=not chunk).split("\n")
        for line in whole:
            yield "".join((*rest, line)) if rest else line
            rest, size = [], 0
        if last:
            rest.append(last)
            size += len(last)
            if size > MAX_UNIT_CHARS:
                raise _too_long("line")
    if rest:
        yield "".join(rest)


def _too_long(unit: str) -> Unreadable:
    count = f"{MAX_UNIT_CHARS:,}"
    if unit == "paragraph":
        return Unreadable(t("a paragraph of more than {count} characters", count=count))
    return Unreadable(t("a line of more than {count} characters", count=count))


# -------------------------------------------------------------------------------------------------------------- writing
def dump(text: str, front: Mapping[str, str] | None = None) -> bytes:
    """The text as UTF-8 with ``\\n`` line ends and one at its end; ``front`` becomes front matter."""
    head = ""
    if front:
        lines = (f'{key}: "{_one_line(value)}"' for key, value in front.items())
        head = "---\n" + "\n".join(lines) + "\n---\n\n"
    body = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    return f"{head}{body}\n".encode("utf-8", "replace")


def _one_line(value: str) -> str:
    return " ".join(value.split()).replace('"', "'")


def preview(text: str, chars: int = 160) -> str:
    """The beginning of a text on one line, at most ``chars`` characters, cut between words where it has any."""
    line = " ".join(text[: chars * 4].split())
    if len(line) <= chars and len(text) <= chars * 4:
        return line
    head = line[: chars - 1]
    space = head.rfind(" ")
    return (head[:space] if space > chars // 2 else head).rstrip(" ,;:，、") + "…"
