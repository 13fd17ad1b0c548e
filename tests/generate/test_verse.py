"""Poems under masks: every form is kept, seeds are recorded, and the same seed writes the same poem."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.core.config import parse
from intaglio.core.contracts import Hit, Item, Sampling
from intaglio.core.errors import UserError
from intaglio.generate import verse
from intaglio.generate._han import HanForm, State, vocabulary_of
from intaglio.generate._latin import LatinForm, Lexicon
from intaglio.generate._layout import read_layout
from intaglio.generate._titles import opening_title, split_title
from intaglio.media.verse import FORMS, Form, check, lines_of, rhyme_class
from tests.generate.conftest import prompts
from tests.generate.material import POEMS, PROSE
from tests.support import ItemList, RunContext


def write(ctx: RunContext, model: Any, *, knowledge: Sequence[Any] = (), **config: object) -> list[Item]:
    made = verse.Component(verse.Config(model=("writer",), **config))  # type: ignore[arg-type]
    return list(made.generate({"model": [model], "knowledge": list(knowledge)}, ctx))


def drawn(constraint: Any, vocabulary: Sequence[str], rng: random.Random, most: int = 2000) -> str:
    """A poem drawn by chance alone: what the mask allows, nothing else speaks."""
    text = ""
    for _ in range(most):
        open_ = np.flatnonzero(constraint.allow(text, vocabulary))
        if not len(open_):
            return text
        text += vocabulary[rng.choice(open_.tolist())]
    raise AssertionError(f"no end: {text!r}")


CHARACTERS = [
    "",
    "\ufffd",
    "，",
    "。",
    "！",
    "\n",
    " ",
    "a",
    "春风",
    "山，",
    "。\n",
    *sorted(set("".join(POEMS)) - set("，。\n")),
]


@pytest.mark.parametrize("name", ["quatrain", "couplet"])
@pytest.mark.parametrize("size", [5, 7])
@pytest.mark.parametrize("opening", ["", "春风"])
def test_the_chinese_mask_cannot_be_left(name: str, size: int, opening: str) -> None:
    form, rng = FORMS[name, "zh", size], random.Random(1)
    for _ in range(20):
        poem = opening + drawn(HanForm(form, opening), CHARACTERS, rng)
        assert check(poem, form).faults == ()
        lines = lines_of(poem, "zh")
        if name == "quatrain":
            ends = [line[-1] for line in lines]
            assert rhyme_class(ends[2]) != rhyme_class(ends[1]), "line 3 keeps away from the rhyme"
            assert len({ends[1], ends[3]}) == 2


def test_the_chinese_mask_is_its_automaton() -> None:
    """The vectorised mask and the step-by-step automaton agree on every token at every place."""
    form = FORMS["quatrain", "zh", 5]
    constraint, rng = HanForm(form), random.Random(2)
    table = vocabulary_of(CHARACTERS)
    for _ in range(10):
        poem = drawn(constraint, CHARACTERS, rng)
        for end in range(len(poem)):
            state = constraint.read(poem[:end], table.wide)
            assert state is not None
            mask = constraint.allow(poem[:end], CHARACTERS)
            for token, flag in zip(CHARACTERS, mask, strict=True):
                after: State | None = state
                for char in token:
                    after = constraint.step(after, char, table.wide) if after is not None else None
                assert flag == (bool(token) and "\ufffd" not in token and after is not None), (poem[:end], token)


def test_a_vocabulary_that_cannot_keep_the_form_ends_the_text() -> None:
    assert not any(HanForm(FORMS["quatrain", "zh", 5]).allow("", ["", "a", "，"]))
    assert not any(HanForm(FORMS["quatrain", "zh", 5], "a").allow("", CHARACTERS))


@pytest.mark.parametrize("name", ["quatrain", "couplet", "haiku", "limerick", "sonnet"])
def test_the_english_mask_keeps_lines_and_rhyme(name: str) -> None:
    vocabulary = ["", "\ufffd", *"abcdefghijklmnopqrstuvwxyz ,.\n", " the", " and", " day", "ing"]
    form, lexicon, rng = FORMS[name, "en", 0], Lexicon([]), random.Random(3)
    for _ in range(3):
        assert check(drawn(LatinForm(form, lexicon), vocabulary, rng), form).faults == ()


def test_an_english_opening_stays_a_word() -> None:
    vocabulary = ["", *"abcdefghijklmnopqrstuvwxyz ,.\n"]
    mask = LatinForm(FORMS["couplet", "en", 0], Lexicon([]), "King").allow("", vocabulary)
    assert [token for token, flag in zip(vocabulary, mask, strict=True) if flag] == [" ", ",", "."]


def test_quatrains_by_a_real_model(poet: Any, tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    poems = write(ctx, poet, count=6, temperature=1.3)
    assert len(poems) == 6 == ctx.metrics["form_kept"] and ctx.metrics["line_lengths"]
    assert set(ctx.metrics["line_lengths"]) == {"5"}, "the model learned lines of five"
    for number, poem in enumerate(poems):
        form = Form.from_meta(poem.meta["form"])
        assert form == FORMS["quatrain", "zh", 5] and check(poem.text, form).faults == ()
        assert poem.language == "zh" and poem.media == "text" and poem.meta["title"]
        assert poem.meta["candidate"] == number and isinstance(poem.meta["seed"], int)
        json.dumps(poem.meta, allow_nan=False)
    assert len({poem.meta["seed"] for poem in poems}) == 6 and len({poem.id for poem in poems}) == 6
    assert len({poem.meta["title"] for poem in poems}) >= 5


def test_the_same_seed_writes_the_same_poems(poet: Any, tmp_path: Path) -> None:
    first = write(RunContext(tmp_path / "a", seed=3), poet, count=3)
    assert first == write(RunContext(tmp_path / "b", seed=3), poet, count=3)
    assert first != write(RunContext(tmp_path / "c", seed=4), poet, count=3)
    # what is recorded is enough to draw the poem again
    meta = first[0].meta
    sampling = Sampling(max_tokens=meta["sampling"]["max_tokens"], temperature=0.8, top_p=0.95)
    again = poet.complete(
        [meta["prompt"]], seeds=[meta["seed"]], sampling=sampling, constraints=[HanForm(FORMS["quatrain", "zh", 5])]
    )
    assert again[0].text.replace("\n", "") == first[0].text.replace("\n", "")


def test_more_candidates_leave_the_first_as_they_are(novelist: Any, tmp_path: Path) -> None:
    few = write(RunContext(tmp_path / "a"), novelist, count=2, form="couplet")
    more = write(RunContext(tmp_path / "b"), novelist, count=4, form="couplet")
    assert more[:2] == few


def test_briefs_and_themes(poet: Any, tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    (ctx.project / "briefs.csv").write_text(
        "标题,主题,形式,数量\n夜思,明月,quatrain,2\n,,couplet,1\n,moon,free,1\n", "utf-8-sig"
    )
    poems = write(ctx, poet, briefs="briefs.csv")
    assert [poem.meta["brief"]["number"] for poem in poems] == [1, 1, 2, 3]
    assert all(poem.meta["title"] == "夜思" and poem.text.startswith("明月") for poem in poems[:2])
    assert poems[2].meta["form"]["name"] == "couplet" and len(lines_of(poems[2].text, "zh")) == 2
    assert poems[3].meta["form"] is None
    assert any("moon" in warning for warning in ctx.warnings)


class Shelf:
    """Knowledge over a few texts: finds those that share a character with the question."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def search(self, query: str, k: int = 5) -> list[Hit]:
        return [Hit(item.id, item.text, 1.0) for item in self.items if set(query) & set(item.text)][:k]

    def facts(self) -> ItemList:
        return ItemList([])


def test_a_word_that_found_items_share_names_them_as_parents(poet: Any, tmp_path: Path) -> None:
    shelf = [Item(media="text", text=text) for text in ("明月，高楼", "明月，积雪", "孤舟")]
    ctx = RunContext(tmp_path)
    (ctx.project / "b.csv").write_text("theme,count\n月夜,3\n", "utf-8")
    poems = write(ctx, poet, knowledge=[Shelf(shelf)], briefs="b.csv")
    by_opening = {poem.meta["prompt"]: poem.parents for poem in poems}
    assert by_opening["月夜"] == ()
    assert by_opening["明月"] == (shelf[0].id, shelf[1].id)


def test_english_by_a_real_model(novelist: Any, tmp_path: Path) -> None:
    poems = write(RunContext(tmp_path), novelist, count=2, form="couplet")
    assert all(check(poem.text, FORMS["couplet", "en", 0]).faults == () for poem in poems)
    assert all(poem.language == "en" and poem.text[0].isupper() for poem in poems)


def test_prose_stays_free(novelist: Any, tmp_path: Path) -> None:
    assert all(poem.meta["form"] is None for poem in write(RunContext(tmp_path), novelist, count=2, length=60))


def test_a_form_the_language_has_not_is_refused_before_work(poet: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sonnet in this language"):
        write(RunContext(tmp_path), poet, form="sonnet")


def test_a_model_of_pictures_is_refused(painter: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not text"):
        write(RunContext(tmp_path), painter)


def test_layouts_are_read_from_texts() -> None:
    plain = read_layout(POEMS)
    assert (plain.script, plain.verse, plain.lengths, plain.titled) == ("zh", True, ((5, 8),), False)
    titled = read_layout([f"夜思{n}\n{text}" for n, text in enumerate(POEMS)])
    assert titled.titled and titled.gap == "\n" and titled.verse
    assert read_layout([f"# 静夜思\n\n{text}" for text in POEMS]).gap == "\n\n"
    assert not read_layout(PROSE).verse and read_layout(PROSE).script == "en"
    assert read_layout(["The day is done,\nthe night is near,\nand all the birds\nare gone from here.\n"] * 3).verse
    assert not read_layout(["", ""]).verse


def test_titles() -> None:
    taken: set[str] = set()
    assert opening_title(POEMS[0], taken=taken) == "白日"
    assert opening_title(POEMS[0], taken={"白日"}) == "白日依山尽"
    assert opening_title("the day is done, and the night", taken=taken) == "The day is done"
    assert opening_title("I went down to the river and into the dark of it.", taken=taken) == "I went down to the river"
    assert opening_title("", taken=taken) == opening_title("…", taken=taken) == ""
    assert split_title("# Rain\n\nIt fell.") == ("Rain", "It fell.")
    assert split_title("Rain\n\nIt fell.") == ("Rain", "It fell.")
    assert split_title("It fell.\n\nIt rose.") == ("", "It fell.\n\nIt rose.")


def test_an_engine_is_told_the_form_and_checked(engine: Any, server: Any, tmp_path: Path) -> None:
    good = "床前秋夜光，疑是瓦间霜。\n举酒邀明月，低头忆小乡。"
    server.answers = ["# 夜\n\n三个字。", f"好的，这是诗：\n\n# 《秋夜》\n\n{good}"]
    ctx = RunContext(tmp_path, languages=("zh",))
    (ctx.project / "b.csv").write_text("theme,form,count\n秋夜,quatrain,1\n", "utf-8")
    shelf = [Item(media="text", text="秋夜长")]
    (poem,) = write(ctx, engine, knowledge=[Shelf(shelf)], briefs="b.csv", line=5)
    assert (poem.meta["title"], poem.text, poem.meta["faults"]) == ("秋夜", good, [])
    assert poem.parents == (shelf[0].id,)
    asked = prompts(server)[0]
    assert "每句恰好 5 个字" in asked and "秋夜长" in asked and "主题：秋夜" in asked


def test_an_engine_that_never_keeps_the_form_is_told_by_its_faults(engine: Any, server: Any, tmp_path: Path) -> None:
    server.answers = ["# 夜\n\n三个字。"]
    (poem,) = write(RunContext(tmp_path, languages=("zh",)), engine, count=1, form="quatrain", attempts=2)
    assert poem.meta["faults"] and len(server.asked) == 2


BAD = [
    (b"titel,theme\na,b\n", "b.csv:1", "did you mean 'title'?"),
    (b"title,title\na,b\n", "b.csv:1", "columns"),
    (b"title,count\na,none\n", "b.csv:2", ""),
    (b"title,count\nok,1\na,0\n", "b.csv:3", ""),
    (b"title,count\na,999999999999999999999\n", "b.csv:2", ""),
    (b"title,form\na,sonet\n", "b.csv:2", ""),
    (b"title\na,b\n", "b.csv:2", "columns"),
    (b"title\nok\n\xff\xfe\xff\n", "b.csv:3", "UTF-8"),
    ("title\n月光\n".encode("gb18030"), "b.csv:2", "UTF-8"),
    (b"title\na\x00b\n", "b.csv:2", "UTF-8"),
    (b'title\n"open\n', "b.csv", "columns"),
    (b"title,theme\n\n", "b.csv", "columns"),
    (b"", "b.csv", "columns"),
]


@pytest.mark.parametrize(("data", "where", "fix"), BAD)
def test_bad_briefs_are_refused_with_their_line(data: bytes, where: str, fix: str, tmp_path: Path, poet: Any) -> None:
    ctx = RunContext(tmp_path)
    (ctx.project / "b.csv").write_bytes(data)
    with pytest.raises(UserError) as caught:
        write(ctx, poet, briefs="b.csv")
    assert caught.value.where.startswith(where) and fix in caught.value.fix


def test_missing_briefs_are_refused(tmp_path: Path, poet: Any) -> None:
    with pytest.raises(UserError, match="no such file"):
        write(RunContext(tmp_path), poet, briefs="none.csv")


def test_utf16_briefs_of_a_spreadsheet_are_read(tmp_path: Path, poet: Any) -> None:
    ctx = RunContext(tmp_path)
    (ctx.project / "b.csv").write_bytes("题目,数量\n月,1\n".encode("utf-16"))
    assert [poem.meta["title"] for poem in write(ctx, poet, briefs="b.csv")] == ["月"]


def test_config_refuses_what_is_out_of_range() -> None:
    for values in ({"count": 0}, {"temperature": -1}, {"form": "ode"}, {"line": 6}):
        with pytest.raises(UserError):
            parse(verse.Config, {"model": "writer", **values}, where="here")


def test_chinese_poems_are_printed_two_lines_on_one() -> None:
    assert (
        verse._stanzas("白日依山尽，黄河入海流。欲穷千里目，更上一层楼")
        == "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼"
    )
    assert verse._stanzas("白日依山尽\n黄河入海流。\n\n欲穷千里目 更上一层楼。") == (
        "白日依山尽\n黄河入海流。\n欲穷千里目\n更上一层楼。"
    )


class Topical(Shelf):
    """The same, naming one theme."""

    def facts(self) -> ItemList:
        return ItemList([Item(media="fact", text="月", meta={"kind": "topic", "terms": ["月", "山"]})])


def test_a_weak_model_keeps_the_form_of_its_archive(novelist: Any, tmp_path: Path) -> None:
    """A model that shows no verse of its own is held to the lines of the archive that knowledge finds."""
    shelf = Topical([Item(media="text", text=text) for text in POEMS])
    layout = verse.of_archive([shelf], RunContext(tmp_path / "a"))
    assert layout.verse and layout.script == "zh" and dict(layout.lengths).keys() == {5}
    assert not verse.of_archive([Shelf([])], RunContext(tmp_path / "b")).verse
    assert not verse.of_archive([], RunContext(tmp_path / "c")).verse
