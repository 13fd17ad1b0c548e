"""Collections: what goes in comes out, in order, by pages and views, in the same bytes each time."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.core.contracts import Dataset, FileRef, Item
from intaglio.core.errors import UserError
from intaglio.store import _parquet
from intaglio.store.blobs import Blobs, Damaged
from intaglio.store.collections import Collection, CollectionWriter, Rows, read_rows, union, write_rows
from tests.store.support import environment

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
ITEMS = st.builds(
    Item,
    media=st.sampled_from(["text", "image", "fact"]),
    text=TEXT,
    files=st.lists(st.builds(FileRef, TEXT, TEXT, st.integers(0, 2**40), TEXT), max_size=2).map(tuple),
    origin=TEXT,
    license=TEXT,
    consent=TEXT,
    language=TEXT,
    split=st.sampled_from(["train", "heldout"]),
    meta=st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), TEXT, st.lists(TEXT, max_size=2))),
    parents=st.lists(TEXT, max_size=2).map(tuple),
    parts=st.lists(TEXT, max_size=2).map(tuple),
)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs", lazy=True)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parquet, "GROUP_ROWS", 7)


def stored(blobs: Blobs, items: Any) -> Collection:
    with CollectionWriter(blobs, blobs.root / "scratch") as writer:
        for item in items:
            writer.add(item)
    return Collection(blobs, writer.close().id)


def text(number: int, **changes: Any) -> Item:
    return Item(media="text", text=f"text {number}", origin=f"{number}.txt", **changes)


@given(items=st.lists(ITEMS, max_size=20))
@settings(max_examples=60, deadline=None)
def test_items_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, items: list[Item]) -> None:
    blobs = Blobs(tmp_path_factory.mktemp("s"), lazy=True)
    collection = stored(blobs, items)
    assert list(collection) == items and len(collection) == len(items)
    assert list(collection.ids()) == [item.id for item in items]
    info = collection.info()
    assert info.items == len(items) and info.train == sum(i.split == "train" for i in items)
    assert info.bytes == sum(len(i.text.encode()) + sum(f.size_bytes for f in i.files) for i in items)
    assert info.media == {m: sum(i.media == m for i in items) for m in {i.media for i in items}}
    assert sum(info.licenses.values()) == len(items)
    assert stored(blobs, items).id == collection.id and blobs.check(collection.id)


def test_views_choose_by_split_and_media(blobs: Blobs) -> None:
    items = [
        Item(media="text" if n % 3 else "image", text=str(n), split="train" if n % 2 else "heldout") for n in range(50)
    ]
    collection = stored(blobs, items)
    assert isinstance(collection, Dataset) and isinstance(collection.split("train"), Dataset)
    views = {
        ("train", None): collection.split("train"),
        (None, ("image",)): collection.of("image"),
        ("heldout", ("text",)): collection.split("heldout").of("text"),
        ("train", ("text", "image")): collection.of("text", "image").split("train"),
        ("none", None): collection.split("none"),
        ("both", None): collection.split("train").split("heldout"),
        ("train", ()): collection.of("text").of("image").split("train"),
    }
    for (split, media), view in views.items():
        wanted = [i for i in items if (split in (None, i.split)) and (media is None or i.media in media)]
        assert list(view) == wanted and len(view) == len(wanted)
        assert list(pickle.loads(pickle.dumps(view))) == wanted


def test_union_is_one_after_the_other(blobs: Blobs) -> None:
    one, two = stored(blobs, map(text, range(9))), stored(blobs, map(text, range(5, 12)))
    both = union([one, two.split("train")])
    assert [i.text for i in both] == [i.text for i in one] + [i.text for i in two] and len(both) == 16
    assert len(both.split("heldout")) == 0 and len(both.of("text").split("train")) == 16
    assert union([one]) is one and list(union([])) == [] and len(union([])) == 0


def test_pages_walk_through_everything_once(blobs: Blobs) -> None:
    items = [text(n) for n in range(40)]
    collection = stored(blobs, items)
    seen: list[Item] = []
    after = None
    while page := collection.page(after, 6):
        seen += page
        after = page[-1].id
    assert seen == items
    with pytest.raises(UserError, match="no item"):
        collection.page("f" * 64, 5)
    with pytest.raises(UserError, match="no item"):
        collection.page("short", 5)


def test_an_item_that_comes_twice_is_shown_once(blobs: Blobs) -> None:
    numbers = [0, 1, 2, 1, 3, 3, 0, 4, 0, 0, 1, 2, 3, 4, 5, 5, 0, 0]
    collection = stored(blobs, map(text, numbers))
    assert len(collection) == len(numbers)
    for limit in (1, 2, 3, 5, 50):
        seen: list[str] = []
        after = None
        while page := collection.page(after, limit):
            seen += [item.text for item in page]
            after = page[-1].id
        assert seen == [f"text {n}" for n in range(6)]


def test_get_and_find_by_a_beginning(blobs: Blobs) -> None:
    items = [text(n) for n in range(600)]
    collection = stored(blobs, items)
    for item in items[::97]:
        assert collection.get(item.id) == item
        for length in (8, 9, 64):
            assert collection.find(item.id[:length]) == [item]
    assert len(collection.find(items[0].id[:1])) == 3 and len(collection.find("")) == 3
    for nothing in ("f" * 64, "zz", "x", "f" * 65, "é"):
        assert collection.find(nothing) == [] and collection.get(nothing) is None


def test_items_of_one_origin(blobs: Blobs) -> None:
    items = [Item(media="text", text=str(n), origin=f"{n % 5}.txt") for n in range(40)]
    collection = stored(blobs, items)
    assert collection.from_origin("3.txt") == items[3::5] and collection.from_origin("3") == []
    lines = [Item(media="text", text=str(n), origin=f"{name}#{n}") for n, name in enumerate(("a.jsonl", "a.jsonl2"))]
    assert stored(blobs, lines).from_origin("a.jsonl") == lines[:1]


def test_an_exception_leaves_nothing(blobs: Blobs) -> None:
    with pytest.raises(ZeroDivisionError), CollectionWriter(blobs, blobs.root / "scratch") as writer:
        for number in range(100):
            writer.add(text(number))
        raise ZeroDivisionError
    assert list(blobs.ids()) == [] and list((blobs.root / "scratch").iterdir()) == []

    def rows() -> Any:
        yield {"a": 1}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_rows(blobs, blobs.root / "scratch", rows())
    assert list(blobs.ids()) == [] and list((blobs.root / "scratch").iterdir()) == []


def test_text_that_is_no_unicode_is_refused_by_name_and_the_rest_goes_on(blobs: Blobs) -> None:
    with CollectionWriter(blobs, blobs.root / "scratch") as writer:
        writer.add(text(1))
        for bad in (
            Item(media="text", text="half \ud83d", origin="poem.jsonl#3"),
            Item(media="text", text="whole", origin="poem.jsonl#3", parents=("\ud83d",)),
            Item(media="text", files=(FileRef("\udc80", "a", 1, "b"),), origin="poem.jsonl#3"),
            Item(media="text", parts=("\udc80",), origin="poem.jsonl#3"),
        ):
            with pytest.raises(UserError, match="poem.jsonl#3.*not valid Unicode"):
                writer.add(bad)
        writer.add(Item(media="text", text="nul \0 is fine", meta={"broken": "\ud83d"}))
    again = list(Collection(blobs, writer.close().id))
    assert [i.text for i in again] == ["text 1", "nul \0 is fine"] and again[1].meta == {"broken": "\ud83d"}


def test_groups_are_bounded_by_bytes_too(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_parquet, "GROUP_ROWS", 8192)
    monkeypatch.setattr(_parquet, "GROUP_BYTES", 100_000)
    collection = stored(blobs, (Item(media="text", text=f"{n}" * 10_000) for n in range(30)))
    assert collection._file.file.metadata.num_row_groups >= 4 and len(list(collection)) == 30


def test_damage_is_told_and_other_blobs_are_no_collections(blobs: Blobs) -> None:
    collection = stored(blobs, map(text, range(30)))
    data = blobs.read(collection.id)
    rows = write_rows(blobs, blobs.root / "scratch", [{"a": 1}])
    for wrong in (b"", b"PAR1", data[:-9], b"text", b'{"tree":[]}'):
        with pytest.raises(Damaged):
            len(Collection(blobs, blobs.put_bytes(wrong)))
    with pytest.raises(Damaged):
        Collection(blobs, rows).info()
    with pytest.raises(Damaged):
        len(Rows(blobs, collection.id))
    with pytest.raises(Damaged):
        list(Collection(blobs, "0" * 64))
    middle = blobs.put_bytes(data[:100] + bytes(60) + data[160:])
    with pytest.raises(Damaged):
        list(Collection(blobs, middle))


def test_the_bytes_are_the_same_in_another_process(blobs: Blobs, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from intaglio.core.contracts import Item\n"
        "from intaglio.store import _parquet; _parquet.GROUP_ROWS = 7\n"
        "from intaglio.store.blobs import Blobs; from intaglio.store.collections import CollectionWriter\n"
        "with CollectionWriter(Blobs(Path(sys.argv[1])), Path(sys.argv[1]) / 's') as w:\n"
        "    for n in range(50):\n"
        "        w.add(Item(media='text', text=f'text {n}', origin=f'{n}.txt', meta={'b': n, 'a': n}))\n"
        "print(w.close().id)\n"
    )
    here = stored(blobs, [text(n, meta={"a": n, "b": n}) for n in range(50)])
    for seed in ("0", "1"):
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        answer = subprocess.run(
            command, env={**environment(), "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        assert answer.stdout.strip() == here.id


def test_rows_come_back_by_pages(blobs: Blobs) -> None:
    rows = [{"n": n, "text": "\ud83d" if n == 3 else "é", "deep": {"a": [1, None, True]}} for n in range(40)]
    name = write_rows(blobs, blobs.root / "scratch", iter(rows))
    assert list(read_rows(blobs, name)) == rows == list(Rows(blobs, name)) and len(Rows(blobs, name)) == 40
    assert list(read_rows(blobs, name, after=5, limit=20)) == rows[5:25]
    assert list(read_rows(blobs, name, after=38, limit=20)) == rows[38:]
    assert list(read_rows(blobs, name, after=40)) == [] == list(read_rows(blobs, name, limit=0))
    assert write_rows(blobs, blobs.root / "scratch", rows) == name
    empty = write_rows(blobs, blobs.root / "scratch", [])
    assert list(read_rows(blobs, empty)) == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_texts(tmp_path: Path) -> None:
    """It is that of a row group: 300,000 texts take no more than 30,000."""
    bench = Path(__file__).parents[2] / "bench" / "ledger.py"
    peaks = []
    for count in (30_000, 300_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        command = [sys.executable, bench, "--part", "collection", "--items", str(count), "--folder", folder]
        answer = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
        peaks.append(json.loads(answer.stdout)["peak_bytes"])
    assert peaks[1] < peaks[0] + 40_000_000 and peaks[1] < 400_000_000
    assert os.listdir(tmp_path / "300000" / ".intaglio" / "scratch") == []
