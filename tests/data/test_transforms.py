"""Cleaning: normalize, language, duplicates, personal, split; each as a stream, each the same twice."""

from __future__ import annotations

import dataclasses
import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.core.contracts import FileRef, Item, Skip
from intaglio.data._normal import normal
from intaglio.data.language import language_of
from tests import forked
from tests.data.reading import apply, picture, read, write
from tests.support import RunContext, kept, skips


@pytest.fixture
def ctx(tmp_path: Path) -> RunContext:
    return RunContext(tmp_path)


def texts(*given_: str) -> Iterator[Item]:
    return (Item(media="text", text=text, origin=f"o{number}") for number, text in enumerate(given_))


# ------------------------------------------------------------------------------------------------------------ normalize
@pytest.mark.parametrize(
    ("given_", "wanted"),
    [
        ("a\r\nb\rc\u2028d\x0be", "a\nb\nc\nd\ne"),
        ("  a  \n\n\n\n b\t\n", "a\n\n b"),
        ("nul\0 bell\x07 bom\ufeff esc\x1b[31mred\x1b[0m", "nul bell bom escred"),
        ("e\u0301t\u00e9", "été"),
        ("e\x00\u0301", "é"),
        ("sch\u00c3\u00b6n", "schön"),
        ("lone \ud800 half", "lone  half"),
        ("“curly” ‘quotes’, 全角，。！ ＡＢＣ ﬁ 1½ …", "“curly” ‘quotes’, 全角，。！ ＡＢＣ ﬁ 1½ …"),
        ("&lt;b&gt; stays", "&lt;b&gt; stays"),
        ("👩\u200d💻 می\u200cخواهم", "👩\u200d💻 می\u200cخواهم"),
        ("　　段首缩进", "段首缩进"),
        ("x\u0085y", "x…y"),  # Windows-1252's ellipsis read as Latin-1
    ],
)
def test_normal(given_: str, wanted: str) -> None:
    assert normal(given_) == wanted


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec=None), max_size=40))
def test_normal_is_stable_and_storable(text: str) -> None:
    once = normal(text)
    assert normal(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == once.strip() and "\r" not in once and "\0" not in once
    once.encode("utf-8")


@given(st.text("abc 床前明月光，。\n", max_size=60))
def test_plain_texts_agree_with_ftfy(text: str) -> None:
    """Where there is nothing to choose, ftfy's own whole pass says the same."""
    config = ftfy.TextFixerConfig(uncurl_quotes=False, fix_character_width=False, unescape_html=False)
    assert "".join(normal(text).split()) == "".join(ftfy.fix_text(text, config).split())


def test_what_has_nothing_left_is_skipped(ctx: RunContext) -> None:
    found = list(apply("normalize", texts("a", "\0\ufeff \n", "b"), ctx))
    assert [item.text for item in kept(found)] == ["a", "b"]
    assert [skip.origin for skip in skips(found)] == ["o1"]


def test_pictures_keep_bytes_and_get_their_size(ctx: RunContext) -> None:
    file = ctx.put(picture("JPEG", (30, 20)), name="a.jpg", mime="image/jpeg")
    (item,) = kept(apply("normalize", [Item(media="image", files=(file,))], ctx))
    assert item.files == (file,)
    assert item.meta == {"width_px": 30, "height_px": 20, "mode": "RGB", "orientation": 1}


# ------------------------------------------------------------------------------------------------------------- language
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("春眠不觉晓", "zh"), ("床前明月光，疑是地上霜。", "zh"), ("月", "zh"),
        ("處處聞啼鳥", "zh"), ("你好 world", "zh"),
        ("春になると庭に花が咲き", "ja"), ("こんにちは", "ja"), ("봄이 되면 꽃이 핀다", "ko"), ("สวัสดีครับ", "th"),
        ("The garden is quiet and the light is low.", "en"), ("A letter to my sister, written in spring", "en"),
        ("Der Garten ist still und das Licht steht tief über dem Haus.", "de"),
        ("Le jardin est calme et la lumière est basse.", "fr"), ("El jardín está tranquilo y la luz es baja.", "es"),
        ("Весной мы сажали яблони в саду за домом.", "ru"), ("Η άνοιξη ήρθε στον κήπο", "el"),
        ("Ein Brief an meine Schwester", "de"), ("chipmunk", ""), ("canoe", ""), ("Le jardin", ""),
        ("12:30 - 14:00", ""), ("...", ""), ("ok", ""),
        ("The word 春 means spring and the word 月 means moon in the poem.", "en"),
    ],
)  # fmt: skip
def test_language(text: str, wanted: str) -> None:
    assert language_of(text) == wanted


def test_language_said_by_the_source_stays(ctx: RunContext) -> None:
    items = [Item(media="text", text="The garden and the light", language="de"), Item(media="text", text="春天来了")]
    assert [item.language for item in kept(apply("language", items, ctx))] == ["de", "zh"]


def test_only_some_languages(ctx: RunContext) -> None:
    found = list(apply("language", texts("The garden and the light", "春天来了", "..."), ctx, only=("zh",)))
    assert [item.text for item in kept(found)] == ["春天来了", "..."]
    assert skips(found)[0].reason == "its language is en"


# ----------------------------------------------------------------------------------------------------------- duplicates
def test_duplicates_point_to_the_first(ctx: RunContext) -> None:
    found = list(apply("duplicates", texts("one", "two", "one", " one \r\n", "e\u0301", "\u00e9"), ctx))
    first = kept(found)[0]
    assert [item.origin for item in kept(found)] == ["o0", "o1", "o4"]
    assert [(skip.origin, skip.kind, skip.of) for skip in skips(found)] == [
        ("o2", "duplicate", first.id), ("o3", "duplicate", first.id), ("o5", "duplicate", kept(found)[2].id),
    ]  # fmt: skip


def test_duplicates_of_untidy_firsts_name_their_real_id(ctx: RunContext) -> None:
    found = list(apply("duplicates", texts("one \r\n", "one"), ctx))
    assert skips(found)[0].of == kept(found)[0].id


def test_duplicate_pictures(ctx: RunContext) -> None:
    file = FileRef("a.png", "0" * 64, 1, "image/png")
    captions = ("A fox.", "A fox.", "", "Another word for it.", "")
    items = [Item(media="image", text=caption, files=(file,), origin=f"o{n}") for n, caption in enumerate(captions)]
    found = list(apply("duplicates", items, ctx))
    assert [item.origin for item in kept(found)] == ["o0", "o3"]
    assert {skip.of for skip in skips(found)} == {items[0].id}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_duplicates_of_a_million_fit_in_200_mb(tmp_path: Path) -> None:
    """Of the whole process, in one of its own: to trace each allocation takes six times as long."""
    process = forked.start(MILLION, str(tmp_path))
    assert process.wait() == 0, process.errors
    before, peak = json.loads(process.out)
    assert before > 10e6 and peak - before < 200e6


MILLION = """
import json, sys
from pathlib import Path
from intaglio.core.contracts import Item
from tests.data.test_transforms import apply
from tests.support import RunContext

def memory(what):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(what))

before, ctx = memory("VmRSS"), RunContext(Path(sys.argv[1]))
stream = (Item(media="text", text=f"text number {number}") for number in range(1_000_000))
assert sum(1 for _ in apply("duplicates", stream, ctx)) == 1_000_000
print(json.dumps([before, memory("VmHWM")]))
"""


# ------------------------------------------------------------------------------------------------------------- personal
PERSONAL = "Write to ada@example.org or 138 0013 8000."


def test_personal_reports_without_holding_the_value(ctx: RunContext) -> None:
    (item,) = kept(apply("personal", texts(PERSONAL), ctx))
    assert item.text == PERSONAL
    assert [(f.kind, PERSONAL[f.start : f.end], f.item, f.origin) for f in ctx.findings] == [
        ("email", "ada@example.org", item.id, "o0"), ("phone", "138 0013 8000", item.id, "o0"),
    ]  # fmt: skip
    assert "ada@" not in repr(ctx.findings)


def test_personal_redacts(ctx: RunContext) -> None:
    (item,) = kept(apply("personal", texts(PERSONAL), ctx, action="redact"))
    assert item.text == "Write to [email] or [phone]."
    assert [item.text[f.start : f.end] for f in ctx.findings] == ["[email]", "[phone]"]
    assert {f.item for f in ctx.findings} == {item.id}


def test_personal_skips(ctx: RunContext) -> None:
    found = list(apply("personal", texts(PERSONAL, "clean"), ctx, action="skip"))
    assert [item.text for item in kept(found)] == ["clean"]
    assert skips(found)[0].reason == "it holds personal data: email, phone" and len(ctx.findings) == 2


def test_personal_kinds(ctx: RunContext) -> None:
    list(apply("personal", texts(PERSONAL), ctx, kinds=["phone"]))
    assert [f.kind for f in ctx.findings] == ["phone"]


def test_a_picture_that_tells_where_it_was_taken(ctx: RunContext) -> None:
    list(apply("personal", [Item(media="image", meta={"has_location": True})], ctx))
    assert [f.kind for f in ctx.findings] == ["location"]


# ---------------------------------------------------------------------------------------------------------------- split
@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_split_is_near_the_share(ctx: RunContext, share: float) -> None:
    found = kept(apply("split", texts(*map(str, range(20_000))), ctx, heldout=share))
    assert [item.origin for item in found] == [f"o{n}" for n in range(20_000)]
    assert abs(sum(item.split == "heldout" for item in found) / 20_000 - share) < 0.015


def test_split_moves_no_old_item_when_new_ones_come(ctx: RunContext) -> None:
    few = {item.id: item.split for item in kept(apply("split", texts(*map(str, range(500))), ctx))}
    many = {item.id: item.split for item in kept(apply("split", texts(*map(str, range(-500, 900))), ctx))}
    assert all(many[key] == side for key, side in few.items())


@pytest.mark.parametrize("count", range(2, 12))
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5])
def test_neither_side_is_empty(ctx: RunContext, count: int, share: float) -> None:
    for start in range(20):
        names = [f"{start} {n}" for n in range(count)]
        found = kept(apply("split", texts(*names), ctx, heldout=share))
        assert {item.split for item in found} == {"train", "heldout"} and len(found) == count


def test_split_of_one_none_and_nothing_held_out(ctx: RunContext) -> None:
    for name in map(str, range(30)):
        assert [item.split for item in kept(apply("split", texts(name), ctx, heldout=0.5))] == ["train"]
    assert list(apply("split", (), ctx)) == []
    assert {item.split for item in kept(apply("split", texts(*map(str, range(50))), ctx, heldout=0.0))} == {"train"}


def test_split_keeps_groups_together_and_given_parts(ctx: RunContext) -> None:
    units = [Item(media="text", text=f"{g} {n}", meta={"group": f"{g}"}) for g in range(300) for n in range(4)]
    sides: dict[str, set[str]] = {}
    for item in kept(apply("split", units, ctx)):
        sides.setdefault(item.meta["group"], set()).add(item.split)
    assert all(len(each) == 1 for each in sides.values())
    given_ = [
        Item(media="text", text=str(n), split="heldout" if n % 2 else "train", meta={"part": "x"}) for n in range(40)
    ]
    assert [item.split for item in kept(apply("split", given_, ctx))] == ["train", "heldout"] * 20


def test_split_holds_little_before_it_lets_go(ctx: RunContext) -> None:
    """Of an endless stream the first items come out; nothing waits for the end."""

    def endless() -> Iterator[Item]:
        number = 0
        while True:
            yield Item(media="text", text=str(number))
            number += 1

    stream = apply("split", endless(), ctx, heldout=0.1)
    assert len([next(stream) for _ in range(1000)]) == 1000


# ---------------------------------------------------------------------------------------------------------- whole chain
CHAIN = ("normalize", "language", "duplicates", "personal", "split")


def test_the_whole_chain_on_a_planted_archive(ctx: RunContext) -> None:
    files = {f"{n}.txt": f"The letter number {n} and the garden." for n in range(30)}
    write(
        ctx.project / "archive",
        {**files, "copy.txt": files["7.txt"] + "\r\n", "mail.txt": "ada@example.org and the rest", "x.txt": ""},
    )
    first = read("folder", ctx, path="archive", chain=CHAIN)
    assert len(kept(first)) == 31
    assert {(skip.origin, skip.kind) for skip in skips(first)} == {
        ("archive/copy.txt", "duplicate"), ("archive/x.txt", "skipped"),
    }  # fmt: skip
    assert [f.kind for f in ctx.findings] == ["email"]
    assert {item.language for item in kept(first)} == {"en"} and {item.split for item in kept(first)} == {
        "train",
        "heldout",
    }
    assert read("folder", ctx, path="archive", chain=CHAIN) == first


def test_skips_pass_through_every_transform(ctx: RunContext) -> None:
    skip = Skip("a", "because")
    for name in CHAIN:
        items = [skip, dataclasses.replace(next(texts("The one and the other")))]
        assert skip in list(apply(name, items, ctx))
