"""Backup while the store is in use, and restore: whole, checked, and on either database."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from intaglio.core.contracts import FileRef, Item
from intaglio.core.errors import UserError
from intaglio.store import Store
from intaglio.store.collections import Collection, CollectionWriter
from intaglio.store.ledger import PublishedRow
from tests.store.support import done, step, worker


def fill(store: Store, key: str, data: bytes) -> str:
    """A step with a collection whose item has a file; returns the file's blob."""
    blob = store.blobs.put_bytes(data)
    with CollectionWriter(store.blobs, store.scratch) as writer:
        writer.add(Item(media="image", files=(FileRef("a.png", blob, len(data), "image/png"),)))
        info = writer.close()
    record = store.ledger.begin(**step(key))
    assert record is not None
    store.ledger.finish(record.id, "one", **done(outputs={"items": info.id}))
    return blob


def test_everything_comes_back(store: Store, tmp_path: Path, other_postgres_url: str) -> None:
    for number in range(5):
        fill(store, f"k{number}", bytes([number]) * 1000)
    running = store.ledger.begin(**step("running"))
    ledger = store.ledger
    ledger.block("i", origin="o", reason="r", steps=["s"])
    ledger.next_round({"a": "k1"})
    ledger.set_setting("name", "值")
    shown = PublishedRow(1, "a.html", store.blobs.put_bytes(b"html"), "u", "", "P", ["p"], "text/html", "T")
    ledger.publish(1, [shown])
    report = store.backup(tmp_path / "backup")
    assert report["blobs"] == report["copied"] == len(list(store.blobs.ids())) == 11
    assert report["damaged"] == report["missing"] == []
    names = {path.name for path in (tmp_path / "backup").iterdir()}
    assert names == {"blobs", "ledger.sqlite", "intaglio-backup.json"}
    for target, url in ((tmp_path / "back" / ".intaglio", ""), (tmp_path / "pg" / ".intaglio", other_postgres_url)):
        told = Store.restore(tmp_path / "backup", target, url=url)
        assert told["steps"] == 6 and told["blobs"] == 11 and told["missing"] == [] == told["damaged"]
        with Store.open(target, url=url, create=False) as again:
            assert again.ledger.made(f"k{n}" for n in range(5)) == ledger.made(f"k{n}" for n in range(5))
            assert again.ledger.blocks() == ledger.blocks() and again.ledger.pins() == {"a": "k1"}
            assert again.ledger.get_setting("name") == "值" and again.ledger.publication(1) == ledger.publication(1)
            assert set(again.blobs.ids()) == set(store.blobs.ids()) and all(map(again.blobs.check, again.blobs.ids()))
            stopped = again.ledger.step(6)
            assert stopped is not None and (stopped.state, stopped.error) == ("failed", "interrupted")
            record = again.ledger.begin(**step("running"))  # its owner works in the other store
            assert record is not None and record.id == 7
    assert running is not None and ledger.renew(running.id, "one")
    with pytest.raises(UserError, match="holds steps already"):
        Store.restore(tmp_path / "backup", tmp_path / "third", url=other_postgres_url)
    assert not (tmp_path / "third").exists()


def test_a_backup_is_brought_up_to_date(local: Store, tmp_path: Path) -> None:
    fill(local, "k1", b"one")
    to = tmp_path / "backup"
    assert local.backup(to)["copied"] == 2
    fill(local, "k2", b"two")
    report = local.backup(to)
    assert (report["blobs"], report["copied"]) == (4, 2) and report["bytes"] > 0
    Store.restore(to, tmp_path / "back")
    with Store.open(tmp_path / "back") as again:
        assert set(again.ledger.made(["k1", "k2"])) == {"k1", "k2"}


def test_a_backup_while_a_writer_runs_is_whole(tmp_path: Path, url: str) -> None:
    """Taken again and again while another process writes: no row of any backup points to a missing blob."""
    root = tmp_path / ".intaglio"
    Store.open(root, url=url).close()
    writer = worker("write", root, url)
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "1\n"
        with Store.open(root, url=url) as store:
            reports = []
            for number in range(4):
                reports.append(store.backup(tmp_path / f"backup-{number}"))
                time.sleep(0.05)
            reports.append(store.backup(tmp_path / "backup-0"))
            before = len(store.ledger.steps(state="made", limit=10_000))
            time.sleep(0.2)
            assert len(store.ledger.steps(state="made", limit=10_000)) > before  # it never had to stop
    finally:
        writer.kill()
        writer.communicate()
    assert all(report["missing"] == [] == report["damaged"] for report in reports)
    for number in range(4):
        target = tmp_path / f"back-{number}"
        assert Store.restore(tmp_path / f"backup-{number}", target)["missing"] == []
        with Store.open(target) as again:
            rows = again.ledger.steps(state="made", limit=10_000)
            assert rows and again.ledger.running() == []
            for row in rows:
                assert again.blobs.check(row.outputs["file"])
                assert len(list(Collection(again.blobs, row.outputs["items"]))) == 20


def test_damaged_and_missing_blobs_are_told_and_not_copied(local: Store, tmp_path: Path) -> None:
    good, bad, gone = (fill(local, name, name.encode()) for name in ("good", "bad", "gone"))
    os.chmod(local.blobs.path(bad), 0o644)
    local.blobs.path(bad).write_bytes(b"BAD")
    local.blobs.delete(gone)
    report = local.backup(tmp_path / "backup")
    assert report["damaged"] == [bad] and set(report["missing"]) == {bad, gone}
    again = Store.restore(tmp_path / "backup", tmp_path / "back")
    assert set(again["missing"]) == {bad, gone} and again["damaged"] == []
    with Store.open(tmp_path / "back") as store:
        assert store.blobs.check(good) and not store.blobs.has(bad)


def test_what_was_forgotten_on_purpose_is_not_missed(local: Store, tmp_path: Path) -> None:
    """``forget`` withdraws the steps and erases their blobs; what a step in force shares with them is still missed."""
    erased, shared = fill(local, "old", b"erased"), fill(local, "new", b"shared")
    fill(local, "old too", b"shared")
    local.ledger.block_steps(["old", "old too"])
    local.blobs.delete(erased)
    assert local.backup(tmp_path / "one")["missing"] == []
    local.blobs.delete(shared)
    assert local.backup(tmp_path / "two")["missing"] == [shared]


def test_a_persons_folder_is_never_mixed_up_with_ours(local: Store, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds no backup"):
        local.backup(mine)
    local.backup(tmp_path / "backup")
    for target in (mine, local.root, mine / "letter.txt"):
        with pytest.raises(UserError, match="not empty"):
            Store.restore(tmp_path / "backup", target)
    for source in (mine, tmp_path / "none", local.root):
        with pytest.raises(UserError, match="not a backup"):
            Store.restore(source, tmp_path / "new")
    assert [p.name for p in mine.iterdir()] == ["letter.txt"] and not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    Store.restore(tmp_path / "backup", tmp_path / "empty")


def test_a_damaged_backup_is_refused_and_leaves_nothing(local: Store, tmp_path: Path) -> None:
    fill(local, "k", b"data")
    local.backup(tmp_path / "backup")
    ledger = tmp_path / "backup" / "ledger.sqlite"
    data = ledger.read_bytes()
    for wrong in (b"", data[:5000], data[:4096] + os.urandom(len(data) - 4096), b"no database at all" * 500):
        ledger.write_bytes(wrong)
        with pytest.raises(UserError, match="damaged|not a backup"):
            Store.restore(tmp_path / "backup", tmp_path / "new")
        assert not (tmp_path / "new").exists()
    assert {p.name for p in tmp_path.iterdir()} == {".intaglio", "backup"}


def test_a_backup_on_a_full_disk_is_told_and_the_earlier_one_stays(local: Store, tiny_disk: Path) -> None:
    fill(local, "k1", b"small")
    to = tiny_disk / "backup"
    local.backup(to)
    fill(local, "k2", os.urandom(4_000_000))
    with pytest.raises(UserError, match="no room left"):
        local.backup(to)
    Store.restore(to, local.root.parent / "back")
    with Store.open(local.root.parent / "back") as again:
        assert set(again.ledger.made(["k1", "k2"])) == {"k1"}
