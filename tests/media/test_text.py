"""Texts in every encoding people have, front matter, units, and what is refused."""

from __future__ import annotations

import pytest

from intaglio.media import Unreadable, text

ZH = "一个人在花园里种菜，春天的时候他把种子埋进土里，夏天浇水，秋天收获。"
TW = "春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少。"
CASES = [
    (ZH, "utf-8"), (ZH, "utf-8-sig"), (ZH, "utf-16"), (ZH, "utf-32"), (ZH, "gb18030"), ("你好世界", "gb18030"),
    ("春眠不觉晓，处处闻啼鸟。", "gb2312"), (TW, "big5"), ("你好世界", "big5"),
    ("瀚海闌干百丈冰，愁雲慘淡萬里凝。", "big5"),
    ("Schöne Grüße aus München!", "latin-1"), ("Grüße", "latin-1"), ("déjà vu", "latin-1"),
    ("L'été dernier, nous avons mangé des crêpes près de la forêt.", "cp1252"),
    ("It\u2019s \u201cfine\u201d", "cp1252"),
    ("El año pasado comí piñas en España.", "latin-1"), ("Весной мы сажали яблони в саду за домом.", "cp1251"),
    ("春になると庭に花が咲き、鳥が歌います。", "shift_jis"), ("春になると庭に花が咲き、鳥が歌います。", "euc_jp"),
    ("봄이 되면 정원에 꽃이 피고 새들이 노래합니다.", "euc_kr"), ("Plain English text.", "ascii"),
    ("An English text without a mark.", "utf-16-le"), ("An English text without a mark.", "utf-16-be"),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "encoding"), CASES)
def test_encodings_are_told_by_content(wanted: str, encoding: str) -> None:
    assert text.parse(wanted.encode(encoding)).text == wanted


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b" \n\t\n", "nothing in it but white space"),
        (bytes(range(256)) * 8, "binary data"),
        (b"\x7fELF" + b"\x00\x01\x02" * 100, "binary data"),
        (ZH.encode()[:-2], "damaged: not valid UTF-8 at byte"),
        (ZH.encode()[:20] + b"\xff" + ZH.encode()[21:], "not valid UTF-8 at byte 18"),
        ((ZH * 3).encode("utf-16")[:-1], "not valid utf-16"),
        (b"---\ntitle: x\n---\n\n", "nothing below its front matter"),
    ],
)
def test_unreadable_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        text.parse(data)


def test_a_few_nul_bytes_do_not_make_a_text_binary() -> None:
    assert text.parse(b"one\0two three four five six").text == "one\0two three four five six"


def test_front_matter_flat() -> None:
    head = 'title: "The garden: a year"\nauthor: [Ada, "Bo Li"]\ntags:\n  - one\n  - two\nlicense: CC-BY-4.0 # ours\n'
    source = f"---\r\n{head}---\r\nBody.\n"
    front, body = text.front_matter(source)
    assert front == {
        "title": "The garden: a year", "author": ["Ada", "Bo Li"], "tags": ["one", "two"], "license": "CC-BY-4.0",
    }  # fmt: skip
    assert body == "Body.\n"


@pytest.mark.parametrize(
    "source",
    [
        "---\nJust a line between rules\n---\nmore",
        "---\nkey: value\nnever closed",
        "No front: matter\n---\n",
        "---\n" + "key: value\n" * 500 + "---\n",
        "---\n---\nbody",
    ],
)
def test_what_is_no_front_matter_stays_text(source: str) -> None:
    assert text.front_matter(source) == ({}, source)


def test_yaml_tricks_are_plain_text() -> None:
    front, _ = text.front_matter("---\na: &x [1]\nb: *x\nc: !!python/object/apply:os.system ls\n---\nbody")
    assert front["b"] == "*x" and front["c"] == "!!python/object/apply:os.system ls"


def test_title_from_heading() -> None:
    assert text.parse(b"# The garden\n\nText.").title == "The garden"
    assert text.parse(b"No heading").title == ""


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_cut_is_the_same_however_the_text_arrives(size: int) -> None:
    source = "one\r\ntwo\r\n\r\n\r\nthree\n\n\nfour\rfive\n"
    chunks = [source[i : i + size] for i in range(0, len(source), size)]
    assert list(text.cut(chunks, "paragraph")) == ["one\ntwo", "three", "four\nfive"]
    assert list(text.cut(chunks, "line")) == ["one", "two", "three", "four", "five"]


def test_an_endless_line_is_refused_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_UNIT_CHARS", 1000)
    with pytest.raises(Unreadable, match="more than 1,000 characters"):
        list(text.cut(("x" * 300 for _ in range(10**9)), "line"))


def test_dump_reads_back() -> None:
    again = text.parse(text.dump("First.\r\n\r\nSecond.\n\n", {"title": 'A "quoted"\ntitle', "license": "CC0-1.0"}))
    assert again.text.strip() == "First.\n\nSecond."
    assert again.front == {"title": "A 'quoted' title", "license": "CC0-1.0"}


def test_preview_cuts_between_words() -> None:
    assert text.preview("short") == "short"
    assert text.preview("one two three four five", 12) == "one two…"
    assert text.preview("床前明月光疑是地上霜举头望明月", 8) == "床前明月光疑是…"
