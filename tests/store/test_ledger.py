"""The ledger: leases with a fence, records, artifacts, publications, rounds - on SQLite and on PostgreSQL."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from intaglio.core.contracts import FileRef, Item
from intaglio.core.errors import UserError
from intaglio.store import Store, _process, migrations
from intaglio.store._tables import metadata
from intaglio.store.collections import CollectionWriter
from intaglio.store.ledger import Artifact, LeaseLost, PublishedRow
from tests.store.support import done, step

FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of threads


def made(store: Store, key: str, **changes: object) -> int:
    """A finished step; returns its id."""
    record = store.ledger.begin(**step(key, **changes))
    assert record is not None and record.state == "running"
    store.ledger.finish(record.id, record.owner, **done())
    return record.id


def expire(store: Store, step_id: int) -> None:
    """Let the lease of a step run out."""
    with store.ledger.database.write() as connection:
        connection.execute(text(f"UPDATE steps SET lease_until = 1 WHERE id = {step_id}"))


def test_a_step_from_begin_to_made(store: Store) -> None:
    used = [{"role": "data", "name": "texts", "key": "k0"}, {"role": "data", "name": "more", "key": "k9"}]
    record = store.ledger.begin(**step("k1", inputs=used, seed=2**62, config={"画": ["é", None]}))
    assert record is not None and record.state == "running" and record.inputs == used and record.seed == 2**62
    assert record.config == {"画": ["é", None]} and record.ended is None and not record.blocked
    assert [r.id for r in store.ledger.running()] == [record.id]
    blob = store.blobs.put_bytes(b"made")
    store.ledger.finish(
        record.id,
        "one",
        outputs={"report": blob},
        counts={"items": 3},
        metrics={"loss": 1.5, "bad": math.nan, "worse": [math.inf]},
        seconds=2.5,
        peak_bytes=2**40,
    )
    last = store.ledger.last("essays")
    assert last is not None and last == store.ledger.step(record.id) == store.ledger.made(["k1", "k2"])["k1"]
    assert (last.state, last.outputs, last.counts) == ("made", {"report": blob}, {"items": 3})
    assert last.metrics == {"loss": 1.5, "bad": None, "worse": [None]} and last.peak_bytes == 2**40
    assert last.ended is not None and last.ended >= last.started and last.ended.endswith("Z")
    again = store.ledger.begin(**step("k1", owner="two"))
    assert again == last and store.ledger.running() == []
    assert store.ledger.history("data", "folder", "essays") == [(2.5, 2**40, {"items": 3})]
    assert [r.id for r in store.ledger.followers(["k9"])] == [record.id]
    assert [r.id for r in store.ledger.makers(blob)] == [record.id]
    thing = store.ledger.artifact(blob)
    assert thing is not None and (thing.kind, thing.bytes) == ("file", 4)
    assert store.ledger.step(99) is None and store.ledger.last("none") is None and store.ledger.artifact("x") is None


def test_a_live_owner_keeps_others_out_and_the_same_owner_too(store: Store) -> None:
    assert store.ledger.begin(**step("k", owner="one")) is not None
    assert store.ledger.begin(**step("k", owner="two")) is None
    assert store.ledger.begin(**step("k", owner="one")) is None
    assert store.ledger.begin(**step("other", owner="two")) is not None


def test_a_lease_that_ran_out_is_taken_over_and_the_first_owner_is_fenced_off(store: Store) -> None:
    first = store.ledger.begin(**step("k", owner="one"))
    assert first is not None
    expire(store, first.id)
    assert store.ledger.running() == []
    second = store.ledger.begin(**step("k", owner="two"))
    assert second is not None and second.id > first.id and second.state == "running"
    assert not store.ledger.renew(first.id, "one")
    with pytest.raises(LeaseLost):
        store.ledger.finish(first.id, "one", **done(artifacts=[Artifact("lost")]))
    assert store.ledger.artifact("lost") is None  # nothing of the late one was written
    store.ledger.fail(first.id, "one", "too late to say so")
    old = store.ledger.step(first.id)
    assert old is not None and (old.state, old.error) == ("failed", "interrupted")
    assert not store.ledger.renew(second.id, "one")
    with pytest.raises(LeaseLost):
        store.ledger.finish(second.id, "one", **done())
    assert store.ledger.renew(second.id, "two")
    store.ledger.finish(second.id, "two", **done())
    with pytest.raises(LeaseLost):
        store.ledger.finish(second.id, "two", **done())
    assert not store.ledger.renew(second.id, "two")


def test_a_lease_that_ran_out_unnoticed_goes_on(store: Store) -> None:
    """A laptop that slept: nobody took the step over, so nothing was lost."""
    record = store.ledger.begin(**step("k"))
    assert record is not None
    expire(store, record.id)
    assert store.ledger.renew(record.id, "one") and store.ledger.begin(**step("k", owner="two")) is None
    expire(store, record.id)
    store.ledger.finish(record.id, "one", **done())


@FORKS
def test_a_process_that_is_gone_is_taken_over_at_once(store: Store) -> None:
    first = store.ledger.begin(**step("k", owner="one"))
    assert first is not None
    child = os.fork()
    if child == 0:
        os._exit(0)
    boot, namespace, *_ = _process.identity().split("|")
    os.waitpid(child, 0)
    for gone in (f"{boot}|{namespace}|{child}|1", f"{boot}|{namespace}|{os.getpid()}|1"):
        with store.ledger.database.write() as connection:
            connection.execute(text("UPDATE steps SET process = :gone WHERE state = 'running'"), {"gone": gone})
        assert store.ledger.begin(**step("k", owner="two")) is not None
    assert [r.error for r in store.ledger.steps(state="failed")] == ["interrupted", "interrupted"]
    for unknown in (f"other boot|{namespace}|{child}|1", f"{boot}|other|{child}|1", "", "a|b", "|||", None):
        with store.ledger.database.write() as connection:
            connection.execute(text("UPDATE steps SET process = :p WHERE state = 'running'"), {"p": unknown})
        assert store.ledger.begin(**step("k", owner="three")) is None  # only its lease can tell


@FORKS
def test_a_zombie_is_gone() -> None:
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    boot, namespace, *_ = _process.identity().split("|")
    name = f"{boot}|{namespace}|{child}|{_process._start(child)}"
    assert not _process.is_gone(name) and not _process.is_gone(_process.identity())
    os.kill(child, 9)
    for _ in range(1000):
        if _process.is_gone(name):
            break
        time.sleep(0.01)
    assert _process.is_gone(name)
    os.waitpid(child, 0)
    assert _process.is_gone(name)


def test_sweep_marks_the_dead_and_on_a_copy_all(store: Store) -> None:
    dead, alive = store.ledger.begin(**step("dead")), store.ledger.begin(**step("alive"))
    assert dead is not None and alive is not None
    expire(store, dead.id)
    assert [r.id for r in store.ledger.sweep()] == [dead.id]
    assert [r.id for r in store.ledger.running()] == [alive.id]
    assert [r.id for r in store.ledger.sweep(all=True)] == [alive.id] and store.ledger.running() == []


def test_a_failed_step_can_be_begun_again(store: Store) -> None:
    record = store.ledger.begin(**step("k"))
    assert record is not None
    store.ledger.fail(record.id, "two", "not the owner")
    assert store.ledger.running()
    store.ledger.fail(record.id, "one", "out of \0 ink \ud800")
    failed = store.ledger.step(record.id)
    assert failed is not None and failed.state == "failed" and failed.error == "out of \ufffd ink ?"
    assert store.ledger.made(["k"]) == {} and store.ledger.last("essays") is None
    assert made(store, "k") > record.id


def test_threads_that_want_one_key_get_it_once(store: Store) -> None:
    got: list[object] = []

    def take(number: int) -> None:
        got.append(store.ledger.begin(**step("k", owner=f"thread {number}")))

    threads = [threading.Thread(target=take, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8 and sum(record is not None for record in got) == 1


def test_the_database_itself_holds_one_running_and_one_made(store: Store) -> None:
    made(store, "k")
    copy = (
        "INSERT INTO steps (key, round, name, stage, use, state, config, seed, code, inputs, environment, device,"
        " threads, started, owner) SELECT key, round, name, stage, use, state, config, seed, code, inputs,"
        " environment, device, threads, started, owner FROM steps"
    )
    with pytest.raises(IntegrityError), store.ledger.database.write() as connection:
        connection.execute(text(copy))
    store.ledger.begin(**step("other"))
    with pytest.raises(IntegrityError), store.ledger.database.write() as connection:
        connection.execute(text(copy + " WHERE key = 'other'"))
    assert len(store.ledger.steps()) == 2


def test_blocked_steps_no_longer_count_and_are_made_anew(store: Store) -> None:
    old = made(store, "k")
    running = store.ledger.begin(**step("r"))
    assert running is not None
    store.ledger.block_steps(["k", "r", "unknown"])
    assert store.ledger.made(["k"]) == {} and store.ledger.last("essays") is None
    with pytest.raises(LeaseLost):
        store.ledger.finish(running.id, "one", **done())
    record = store.ledger.step(old)
    assert record is not None and record.blocked and record.state == "made"
    new = made(store, "k")
    store.ledger.block_steps(["k"])
    newest = store.ledger.by_key("k")
    assert newest is not None and newest.id == new and store.ledger.by_key("r") is None
    assert new > old and store.ledger.made(["k"]) == {}
    assert made(store, "k") > new


def test_lists_and_history_are_newest_first(store: Store) -> None:
    ids = [made(store, f"k{n}", name="a" if n % 2 else "b") for n in range(6)]
    ledger = store.ledger
    assert [r.id for r in ledger.steps()] == ids[::-1] and [r.id for r in ledger.steps(limit=2)] == ids[:3:-1]
    assert [r.id for r in ledger.steps(name="a")] == ids[5::-2] and ledger.steps(state="failed") == []
    assert len(ledger.history("data", "folder", "a")) == 6 and ledger.history("data", "csv", "a") == []
    assert set(ledger.made(f"k{n}" for n in range(3000))) == {f"k{n}" for n in range(6)}


def test_what_was_made_is_described_from_the_store(store: Store, tmp_path: Path) -> None:
    with CollectionWriter(store.blobs, store.scratch) as writer:
        writer.add(Item(media="text", text="a", license="CC0-1.0"))
        writer.add(Item(media="image", text="b", license="unknown"))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x").write_text("1234")
    info, tree = writer.close(), store.blobs.put_tree(tmp_path / "t")
    record = store.ledger.begin(**step("k"))
    assert record is not None
    outputs = {"items": info.id, "files": tree, "told": "p" * 64}
    told = [Artifact("p" * 64, "piece", "text", 5, {"a": 1})]
    store.ledger.finish(record.id, "one", **done(outputs=outputs, artifacts=told))
    things = {role: store.ledger.artifact(id_) for role, id_ in outputs.items()}
    assert {role: thing and thing.kind for role, thing in things.items()} == {
        "items": "collection",
        "files": "tree",
        "told": "piece",
    }
    items = things["items"]
    assert items is not None and items.media == "image,text" and items.meta["licenses"] == {"CC0-1.0": 1, "unknown": 1}
    store.ledger.add_artifacts([Artifact("p" * 64, "post"), Artifact("r" * 64, "rating", meta={"by": "me"})])
    piece, rating = store.ledger.artifact("p" * 64), store.ledger.artifact("r" * 64)
    assert piece is not None and piece.kind == "piece" and rating is not None and rating.meta == {"by": "me"}


def test_an_output_that_is_nowhere_is_an_error_and_nothing_is_written(store: Store) -> None:
    record = store.ledger.begin(**step("k"))
    assert record is not None
    with pytest.raises(UserError, match="missing"):
        store.ledger.finish(record.id, "one", **done(outputs={"items": "0" * 64}))
    again = store.ledger.step(record.id)
    assert again is not None and again.state == "running"


def test_a_file_that_was_never_put_or_was_erased_is_noticed_at_the_end(store: Store, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x").write_text("1234")
    tree, erased = store.blobs.put_tree(tmp_path / "t"), store.blobs.put_bytes(b"erased")
    outputs = [tree]
    for sha256 in ("0" * 64, "not even a hash", erased):
        with CollectionWriter(store.blobs, store.scratch) as writer:
            writer.add(Item(media="image", files=(FileRef("a.png", sha256, 6, "image/png"),)))
        outputs.append(writer.close().id)
    store.blobs.delete(erased)
    store.blobs.delete(store.blobs.tree(tree)[0].sha256)
    record = store.ledger.begin(**step("k"))
    assert record is not None
    for output in outputs:
        with pytest.raises(UserError, match="missing"):
            store.ledger.finish(record.id, "one", **done(outputs={"items": output}))
    assert store.ledger.renew(record.id, "one")


def row(step_id: int, path: str, sha256: str, **changes: object) -> PublishedRow:
    values: dict[str, object] = {
        "unsigned_sha256": f"u{sha256}",
        "sidecar_sha256": "",
        "produce_id": "P1",
        "pieces": ["a", "b"],
        "mime": "text/html",
        "title": "标题",
    }
    return PublishedRow(step_id, path, sha256, **{**values, **changes})  # type: ignore[arg-type]


def test_publications_are_found_by_content_path_and_step(store: Store) -> None:
    one, two = made(store, "k1"), made(store, "k2")
    store.ledger.publish(one, [row(one, "b.html", "s1"), row(one, "a.png", "s2", sidecar_sha256="c2")])
    store.ledger.publish(two, [row(two, "b.html", "s1")])
    assert [f.step_id for f in store.ledger.published("s1")] == [two, one]
    assert (
        [f.path for f in store.ledger.published("us2")] == ["a.png"] == [f.path for f in store.ledger.published("c2")]
    )
    assert store.ledger.published("") == [] == store.ledger.published("x")
    assert [f.step_id for f in store.ledger.published_path("b.html")] == [two, one]
    files = store.ledger.publication(one)
    assert [f.path for f in files] == ["a.png", "b.html"] and files[0].pieces == ["a", "b"] and files[0].created
    store.ledger.publish(one, [row(one, "b.html", "s9")])
    assert [f.sha256 for f in store.ledger.publication(one)] == ["s9"]
    store.ledger.block_steps(["k1"])
    assert store.ledger.publication(one)  # what was published stays known when it is forgotten
    record = store.ledger.begin(**step("k3"))
    assert record is not None
    store.ledger.publish(record.id, [row(record.id, "c.html", "s3")])
    store.ledger.fail(record.id, "one", "stopped")
    assert store.ledger.published("s3") == []  # it never became a publication
    again = store.ledger.begin(**step("k3"))
    assert again is not None
    store.ledger.finish(again.id, "one", **done(published=[row(again.id, "c.html", "s3")]))
    assert [f.step_id for f in store.ledger.published("s3")] == [again.id]


def test_blocks_rounds_and_settings(store: Store) -> None:
    ledger = store.ledger
    ledger.block("i1", origin="poem.txt", reason="asked", steps=["a", "b"])
    ledger.block("i1", origin="poem.txt", reason="asked again", steps=["c"])
    ledger.block("i0", origin="x\0y", reason="", steps=[])
    assert [(b.item, b.reason, b.steps) for b in ledger.blocks()] == [
        ("i0", "", []),
        ("i1", "asked again", list("abc")),
    ]
    assert ledger.round() == 1 and ledger.pins() == {}
    assert ledger.next_round({"best": "k1"}) == 2 and ledger.next_round({"best": "k2"}) == 3
    assert ledger.round() == 3 and ledger.pins() == {"best": "k2"}
    assert ledger.get_setting("a") is None
    ledger.set_setting("a", "b")
    ledger.set_setting("a", "ç")
    assert ledger.get_setting("a") == "ç"


def test_the_tables_are_those_the_migrations_make(store: Store) -> None:
    found = inspect(store.ledger.database.engine)
    for table in metadata.tables.values():
        columns = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
        assert columns.keys() == {column.name for column in table.columns}, table.name
        keys = set(found.get_pk_constraint(table.name)["constrained_columns"])
        assert keys == {column.name for column in table.primary_key.columns}, table.name
        for column in table.columns:
            assert columns[column.name] == column.nullable or column.primary_key, (table.name, column.name)
    with store.ledger.database.read() as connection:
        assert migrations.version(connection) == migrations.NEWEST


def test_migrations_only_add(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made(store, "k")
    more = (
        *migrations.MIGRATIONS,
        ("ALTER TABLE steps ADD COLUMN note TEXT", "CREATE TABLE notes (id {serial}, w {real})"),
    )
    monkeypatch.setattr(migrations, "MIGRATIONS", more)
    for _ in range(2):
        with store.ledger.database.write() as connection:
            migrations.migrate(connection)
            assert migrations.version(connection) == 2
    assert store.ledger.made(["k"])
    with pytest.raises(UserError, match=r"newer Intaglio.*schema 2"):
        Store.open(store.root, url=store.url)


def test_two_stores_opened_at_once_are_made_once(tmp_path: Path, url: str) -> None:
    errors: list[BaseException] = []

    def start() -> None:
        try:
            with Store.open(tmp_path / ".intaglio", url=url) as opened:
                opened.ledger.set_setting("a", "b")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ledger here"):
        Store.open(tmp_path / "none", create=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no ledger here"):
        Store.open(tmp_path / "empty", create=False)
    (tmp_path / "file").write_text("a person's file")
    with pytest.raises(UserError, match="not a folder"):
        Store.open(tmp_path / "file")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "ledger.sqlite").write_bytes(b"this is no database, it is a person's text " * 100)
    with pytest.raises(UserError, match="damaged"):
        Store.open(broken)
    for url in ("mysql://a/b", "nonsense"):
        with pytest.raises(UserError, match="SQLite.*PostgreSQL"):
            Store.open(tmp_path / "x", url=url)
    pytest.importorskip("psycopg")
    with pytest.raises(UserError, match="does not answer") as told:
        Store.open(tmp_path / "x", url="postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(told.value)


def test_a_ledger_held_by_another_program_is_told(
    local: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sqlite3

    from intaglio.store import _database

    monkeypatch.setattr(_database, "BUSY_SECONDS", 0.2)
    with Store.open(local.root) as impatient:
        other = sqlite3.connect(local.root / "ledger.sqlite")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="another program"):
            impatient.ledger.set_setting("a", "b")
        assert impatient.ledger.get_setting("a") is None  # reading goes on meanwhile
        other.rollback()
        other.close()
        impatient.ledger.set_setting("a", "b")


def test_sqlite_is_set_up_to_survive_a_power_cut(local: Store) -> None:
    with local.ledger.database.read() as connection:
        pragmas = {p: connection.execute(text(f"PRAGMA {p}")).scalar() for p in ("journal_mode", "synchronous")}
        busy = connection.execute(text("PRAGMA busy_timeout")).scalar_one()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2} and busy >= 30_000


def test_blobs_are_durable_before_a_row_names_them(store: Store) -> None:
    seen: list[object] = []

    def before_commit() -> None:
        seen.append(store.ledger.made(["k"]))
        store.blobs.sync()

    store.ledger._before_commit = before_commit
    made(store, "k")
    assert seen == [{}] and store.ledger.made(["k"])


@FORKS
def test_a_forked_child_has_its_own_connections(store: Store) -> None:
    made(store, "k")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if store.ledger.made(["k"]) and made(store, "child") else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.ledger.made(["child"]) and made(store, "after")


def test_a_plain_engine_reads_the_ledger(local: Store) -> None:
    """Other tools may look in: the file is plain SQLite."""
    made(local, "k")
    engine = create_engine(f"sqlite:///{local.root / 'ledger.sqlite'}")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name, state FROM steps")).all() == [("essays", "made")]
    engine.dispose()
