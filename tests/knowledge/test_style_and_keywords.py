"""Style in figures and keywords, each fact with its sources."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from intaglio.core.contracts import Item
from intaglio.core.errors import UserError
from intaglio.knowledge import keywords, style
from intaglio.media import words as words_
from tests.knowledge.archive import BREAD, SEA, archive
from tests.support import ItemList, RunContext

QUATRAINS = [
    "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。",
    "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
    "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。",
    "千山鸟飞绝，万径人踪灭。\n孤舟蓑笠翁，独钓寒江雪。",
]


def read(module: Any, items: list[Item], root: Path, **config: object) -> tuple[list[Item], RunContext]:
    ctx = RunContext(root)
    component = module.Component(module.Config(items=("texts",), **config))
    return list(component.extract(ItemList(items), ctx)), ctx


def by_figure(facts: list[Item], script: str) -> dict[str, Item]:
    return {fact.meta["figure"]: fact for fact in facts if fact.meta.get("script") == script}


def test_a_profile_of_quatrains(tmp_path: Path) -> None:
    items = [Item(media="text", text=text, language="zh") for text in QUATRAINS]
    facts, ctx = read(style, items, tmp_path)
    zh = by_figure(facts, "zh")
    assert zh["verse_form"].meta["values"] == {"4 x 5": 1.0}
    assert zh["line_length"].meta["values"] == {"5": 1.0}
    assert zh["rhyme_rate"].meta["values"] == 1.0
    assert zh["sentence_length"].meta["values"] == {"median": 12}
    assert zh["punctuation"].meta["values"]["，"] == pytest.approx(100 * 2 / len(QUATRAINS[0]), abs=0.01)
    assert ctx.metrics["zh_verse_form"] == {"4 x 5": 1.0} and ctx.metrics["items"] == 4
    known = {item.id for item in items}
    assert all(fact.parents and set(fact.parents) <= known for fact in facts)


def test_a_profile_of_two_languages(tmp_path: Path) -> None:
    facts, ctx = read(style, archive(), tmp_path)
    assert {fact.meta.get("script") for fact in facts} == {None, "en", "zh"}
    assert facts[0].meta["values"] == {"en": round(50 / 74, 4), "zh": round(24 / 74, 4)}
    assert by_figure(facts, "en")["sentence_length"].meta["values"] == {"median": 9}
    assert 0 < by_figure(facts, "en")["punctuation"].meta["values"]["."] < 5
    assert len({fact.id for fact in facts}) == len(facts)


def test_the_language_of_facts_is_the_projects(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path, languages=("zh", "en"))
    component = style.Component(style.Config(items=("texts",)))
    facts = list(component.extract(ItemList(archive()[:8]), ctx))
    assert facts[0].text.startswith("语言") and facts[0].language == "zh"


def test_a_sample_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "SAMPLE", 20)
    facts, ctx = read(style, archive(), tmp_path)
    assert 0 < ctx.metrics["sampled"] < 74 and any("74" in warning for warning in ctx.warnings)
    assert facts[0].meta["values"]["en"] == round(50 / 74, 4)  # languages count every item


def test_keywords_of_items_and_archive(tmp_path: Path) -> None:
    facts, ctx = read(keywords, archive(), tmp_path)
    items = {item.id: item for item in archive()}
    of_items = [fact for fact in facts if fact.meta["kind"] == "keywords"]
    assert len(of_items) == len(items) == ctx.metrics["items"]
    for fact in of_items:
        (parent,) = fact.parents
        assert all(part in items[parent].text.lower() for term in fact.meta["terms"] for part in term.split())
        assert fact.meta["weights"] == sorted(fact.meta["weights"], reverse=True)
    leading = {fact.text: fact for fact in facts if fact.meta["kind"] == "keyword"}
    assert len(set(leading) & set(SEA + BREAD)) >= 12 and not set(leading) & {"the", "and", "的"}
    for word, fact in leading.items():
        assert 1 <= len(fact.parents) <= 5
        assert all(part in items[parent].text.lower() for parent in fact.parents for part in word.split())
    assert len({fact.id for fact in facts}) == len(facts)


def test_equal_texts_keep_a_fact_each(tmp_path: Path) -> None:
    items = [Item(media="text", text="tide and anchor" + "." * n, origin="same.txt") for n in range(3)]
    facts, _ = read(keywords, items, tmp_path)
    of_items = [fact for fact in facts if fact.meta["kind"] == "keywords"]
    assert len({fact.id for fact in of_items}) == 3 and {fact.parents for fact in of_items} == {(i.id,) for i in items}


def test_facts_are_asked_by_words(tmp_path: Path) -> None:
    component = keywords.Component(keywords.Config(items=("texts",)))
    facts, ctx = read(keywords, archive(), tmp_path)
    knowledge = component.load(ctx.out, ItemList(facts), threads=1)
    assert knowledge.search("lighthouse", 3)[0].score == 1.0
    assert knowledge.search("", 3) == [] and knowledge.search("zzzz", 3) == [] and knowledge.search("tide", 0) == []
    assert list(knowledge.facts()) == facts


@pytest.mark.parametrize("module", [style, keywords])
@pytest.mark.parametrize("items", [[], [Item(media="text", text=" ")], [Item(media="image")]])
def test_nothing_to_read_is_refused(module: Any, items: list[Item], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no item here has any text"):
        read(module, items, tmp_path)


@pytest.mark.parametrize("module", [style, keywords])
def test_odd_items_do_not_fail(module: Any, tmp_path: Path) -> None:
    texts = ["。", "a", "1234 5678", "\x00\x01", "lone \ud800", "字", "x" * 100_000, "！\n" * 5000, "é ü ñ слово λόγος"]
    facts, ctx = read(module, [Item(media="text", text=text) for text in texts], tmp_path)
    assert ctx.metrics["items"] == len(texts)


@pytest.fixture
def without_jieba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    words_.cuts_words.cache_clear()
    monkeypatch.setattr(words_.importlib.util, "find_spec", lambda name: None)
    yield
    words_.cuts_words.cache_clear()


def test_without_jieba_pairs_of_characters_are_said(tmp_path: Path, without_jieba: None) -> None:
    items = [Item(media="text", text=text) for text in QUATRAINS]
    facts, ctx = read(keywords, items, tmp_path)
    assert ctx.metrics["cuts_chinese"] is False and any("jieba" in warning for warning in ctx.warnings)
    assert all(len(term) == 2 for fact in facts if fact.meta["kind"] == "keywords" for term in fact.meta["terms"])
