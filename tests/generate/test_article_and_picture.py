"""Articles with material from the archive, and pictures, by real tiny models and an engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from intaglio.core.contracts import Hit, Item
from intaglio.core.errors import UserError
from intaglio.generate import article, picture
from intaglio.generate._briefs import seed_of
from tests.generate.conftest import prompts
from tests.generate.material import PROSE
from tests.support import ItemList, RunContext

ARCHIVE = [Item(media="text", text=text, origin=f"{n}.txt") for n, text in enumerate(PROSE)]


class Shelf:
    """Knowledge over a few texts: search by words, and facts that name themes."""

    def __init__(self, items: Sequence[Item] = (), facts: Sequence[Item] = ()) -> None:
        self.items, self._facts = items, facts

    def search(self, query: str, k: int = 5) -> list[Hit]:
        asked = query.lower().split()
        return [Hit(item.id, item.text, 1.0) for item in self.items if any(word in item.text for word in asked)][:k]

    def facts(self) -> ItemList:
        return ItemList(self._facts)


TOPICS = [
    Item(media="fact", text="bread", meta={"kind": "topic", "terms": ["bread", "oven"]}),
    Item(media="fact", text="a sentence has 9 words", meta={"kind": "style"}),
    Item(media="fact", text="river", meta={"kind": "keyword"}),
]


def write(ctx: RunContext, model: Any, *, knowledge: Sequence[Any] = (), **config: object) -> list[Item]:
    made = article.Component(article.Config(model=("writer",), **config))  # type: ignore[arg-type]
    return list(made.generate({"model": [model], "knowledge": list(knowledge)}, ctx))


def test_articles_without_knowledge(novelist: Any, tmp_path: Path) -> None:
    pieces = write(RunContext(tmp_path), novelist, count=4, length=80)
    assert pieces and all(piece.parents == () and piece.meta["prompt"] == "" for piece in pieces)
    for piece in pieces:
        assert piece.meta["title"] and piece.meta["kind"] == "article" and piece.text.strip() == piece.text
        json.dumps(piece.meta, allow_nan=False)
    assert len({piece.id for piece in pieces}) == len(pieces)


def test_articles_begin_with_few_words_of_a_parent(novelist: Any, tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    pieces = write(ctx, novelist, knowledge=[Shelf(ARCHIVE, TOPICS)], count=4, length=80)
    by_id = {item.id: item for item in ARCHIVE}
    for piece in pieces:
        assert piece.parents and set(piece.parents) <= set(by_id)
        opening = piece.meta["prompt"].split("\n\n")[-1]
        assert by_id[piece.parents[0]].text.startswith(opening) and len(opening.split()) <= 4
        assert piece.text.startswith(opening)
        assert piece.meta["theme"] in ("bread oven", "river")
    assert ctx.metrics["with_material"] == len(pieces)


def test_material_goes_before_the_opening_where_there_is_room(novelist: Any, tmp_path: Path) -> None:
    roomy = [Item(media="text", text=f"river {n} ran on and on") for n in range(4)]

    class Roomy:
        """The same model, seeing more at once."""

        makes, context_tokens = "text", 4096
        count_tokens = staticmethod(novelist.count_tokens)
        complete = staticmethod(novelist.complete)

    (piece,) = write(
        RunContext(tmp_path), Roomy(), knowledge=[Shelf(roomy, TOPICS[2:])], count=1, length=40, material=2
    )
    assert len(piece.parents) == 3 and piece.meta["prompt"].count("\n\n") == 2
    (piece,) = write(RunContext(tmp_path), novelist, knowledge=[Shelf(ARCHIVE, TOPICS[2:])], count=1, length=40)
    assert len(piece.parents) == 1 and "\n\n" not in piece.meta["prompt"], (
        "no whole passage fits into half of 64 characters"
    )


def test_the_same_seed_writes_the_same_articles(novelist: Any, tmp_path: Path) -> None:
    shelf = [Shelf(ARCHIVE, TOPICS)]
    first = write(RunContext(tmp_path / "a"), novelist, knowledge=shelf, count=2, length=60)
    assert first == write(RunContext(tmp_path / "b"), novelist, knowledge=shelf, count=2, length=60)


def test_articles_on_a_theme_by_briefs(novelist: Any, tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    (ctx.project / "b.csv").write_text('title,theme,count\n"Bread, again",bread,2\n', "utf-8")
    pieces = write(ctx, novelist, knowledge=[Shelf(ARCHIVE)], briefs="b.csv", length=60)
    assert [piece.meta["title"] for piece in pieces] == ["Bread, again"] * len(pieces)
    assert all(piece.parents == (ARCHIVE[1].id,) for piece in pieces)
    assert ctx.warnings  # a shelf without topics


def test_chinese_prose(poet: Any, tmp_path: Path) -> None:
    pieces = write(RunContext(tmp_path), poet, count=3, length=40)
    assert all(piece.language == "zh" and len(piece.meta["title"]) <= 14 for piece in pieces)


def test_a_model_that_has_nothing_to_say_is_said(poet: Any, tmp_path: Path) -> None:
    """A greedy model repeats itself: repeated candidates are left out, and that is said."""
    ctx = RunContext(tmp_path)
    pieces = write(ctx, poet, count=12, length=30, temperature=0.0, attempts=1)
    assert len(pieces) == 1 and any("11 of 12" in warning for warning in ctx.warnings)


def test_tidying() -> None:
    assert article._tidy("One sentence. Two sentences. And a bro") == "One sentence. Two sentences."
    assert article._tidy("一句话。两句话。第三") == "一句话。两句话。"
    assert article._tidy("no end at all") == "no end at all"
    assert article._tidy("  \n ") == ""
    assert article._tidy("a.\n\n\n\nb.") == "a.\n\nb."


def test_openings_are_too_short_to_be_copies() -> None:
    for text in PROSE:
        assert 1 <= len(article._opening(text).split()) <= 4
    assert article._opening("白日依山尽，黄河入海流。") == "白日依山"
    assert article._opening("One.") == article._opening("") == article._opening("。") == ""


def test_an_engine_is_asked_with_material_and_style(engine: Any, server: Any, tmp_path: Path) -> None:
    server.answers = ["<think>hm</think># The oven\n\nIt was warm. It was good."]
    ctx = RunContext(tmp_path)
    (piece,) = write(ctx, engine, knowledge=[Shelf(ARCHIVE, TOPICS[:2])], count=1)
    assert (piece.meta["title"], piece.text) == ("The oven", "It was warm. It was good.")
    assert piece.parents == (ARCHIVE[1].id,)
    (asked,) = prompts(server)
    assert "Theme: bread oven" in asked and "She opened the oven door." in asked and "a sentence has 9 words" in asked


def test_an_engine_that_answers_nothing_leaves_nothing(engine: Any, server: Any, tmp_path: Path) -> None:
    server.answers = ["<think>and on"]
    ctx = RunContext(tmp_path)
    assert write(ctx, engine, count=2, attempts=2) == [] and any("2 of 2" in warning for warning in ctx.warnings)


def test_pictures_with_seeds_and_round_trips(painter: Any, tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    made = picture.Component(picture.Config(model=("painter",), count=5))
    pieces = list(made.generate({"model": [painter]}, ctx))
    assert len(pieces) == 5 and len({piece.meta["seed"] for piece in pieces}) == 5
    for number, piece in enumerate(pieces):
        assert piece.media == "image" and len(piece.files) == 1 and ctx.path(piece.files[0]).is_file()
        assert piece.meta["seed"] == seed_of(ctx.seed, 1, number)
        assert 0.0 <= piece.meta["round_trip_mse"] <= 1.0
    again = list(made.generate({"model": [painter]}, RunContext(tmp_path / "again")))
    assert [piece.id for piece in again] == [piece.id for piece in pieces]


def test_a_text_model_does_not_draw(novelist: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not pictures"):
        list(picture.Component(picture.Config(model=("m",))).generate({"model": [novelist]}, RunContext(tmp_path)))


def test_seeds_are_exact_in_json_anywhere() -> None:
    seeds = {
        seed_of(7, brief, candidate, attempt) for brief in range(4) for candidate in range(50) for attempt in range(3)
    }
    assert len(seeds) == 600 and all(0 <= seed < 2**53 for seed in seeds)


class FactsOnly(Shelf):
    """What keywords and style are: their hits hold facts, which are no passages."""

    of_facts = True


def test_facts_give_themes_but_no_material(novelist: Any, tmp_path: Path) -> None:
    facts = FactsOnly([Item(media="text", text="bread: oven, rye, river")], TOPICS)
    alone = write(RunContext(tmp_path / "a"), novelist, knowledge=[facts], count=2, length=60)
    assert all(piece.parents == () and piece.meta["theme"] for piece in alone)
    both = write(RunContext(tmp_path / "b"), novelist, knowledge=[facts, Shelf(ARCHIVE)], count=2, length=60)
    assert all(set(piece.parents) <= {item.id for item in ARCHIVE} and piece.parents for piece in both)
