"""Several processes on one store, killed at random: each job is made exactly once, and nothing is left behind."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from intaglio.core.contracts import Item
from intaglio.store import Store
from intaglio.store._files import MARK
from intaglio.store.collections import Collection, CollectionWriter
from tests.store.support import done, environment, step, worker


def stop(process: subprocess.Popen[str]) -> None:
    """End one process of ours and close its pipes."""
    process.kill()
    process.communicate()


def kill_at_random(root: Path, url: str, *, jobs: int, kills: int) -> int:
    """Three workers do ``jobs``; up to ``kills`` times one at work is killed by ``kill -9`` and replaced."""
    chance = random.Random(kills)
    start = functools.partial(worker, "jobs", root, url, jobs, 0.06)
    workers = [start() for _ in range(3)]
    killed = 0
    deadline = time.monotonic() + 300
    try:
        while any(each.poll() is None for each in workers) and time.monotonic() < deadline:
            time.sleep(chance.uniform(0.02, 0.3))
            place = chance.randrange(3)
            working = (root / f"working-{workers[place].pid}").exists()
            if working and workers[place].poll() is None and killed < kills:
                stop(workers[place])
                killed += 1
                workers[place] = start()
        return killed
    finally:
        for each in workers:
            stop(each)


def check_exactly_once(store: Store, jobs: int) -> None:
    """Each key is made once, every blob it names is whole, and every kill left at most a failed row."""
    keys = {f"job-{number:04d}" for number in range(jobs)}
    rows = store.ledger.steps(limit=10_000)
    made = [row for row in rows if row.state == "made"]
    assert sorted(row.key for row in made) == sorted(keys)
    assert {row.error for row in rows if row.state == "failed"} <= {"interrupted"}
    for row in made:
        assert store.blobs.check(row.outputs["items"]) and store.blobs.check(row.outputs["file"])
        assert [i.text for i in Collection(store.blobs, row.outputs["items"])] == [f"{row.key} {n}" for n in range(20)]


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if MARK in path.name]


def test_killed_workers_make_each_job_exactly_once(tmp_path: Path) -> None:
    root = tmp_path / ".intaglio"
    Store.open(root).close()
    killed = kill_at_random(root, "", jobs=60, kills=3)
    with Store.open(root) as store:
        assert killed == 3
        store.ledger.sweep()
        check_exactly_once(store, 60)
        assert store.ledger.running() == []
    assert leftovers(root) == []
    connection = sqlite3.connect(root / "ledger.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.slow
def test_three_hundred_jobs_under_many_kills(tmp_path: Path, url: str) -> None:
    root = tmp_path / ".intaglio"
    Store.open(root, url=url).close()
    killed = kill_at_random(root, url, jobs=300, kills=20)
    with Store.open(root, url=url) as store:
        assert killed >= 10
        check_exactly_once(store, 300)
    assert leftovers(root) == []


def test_a_stopped_owner_is_fenced_off_when_it_wakes(tmp_path: Path, url: str) -> None:
    """A process that was put to sleep past its lease comes back and must not overwrite what another made."""
    root = tmp_path / ".intaglio"
    with Store.open(root, url=url) as store:
        sleeper = worker("hold", root, url, "k", 1.0)
        assert sleeper.stdin is not None and sleeper.stdout is not None
        first = int(sleeper.stdout.readline())
        assert store.ledger.begin(**step("k", owner="two")) is None
        sleeper.send_signal(signal.SIGSTOP)
        try:
            second = None
            while second is None:
                time.sleep(0.1)
                second = store.ledger.begin(**step("k", owner="two"))
            assert second.id > first
            store.ledger.finish(second.id, "two", **done(outputs={"items": store.blobs.put_bytes(b"second")}))
        finally:
            sleeper.send_signal(signal.SIGCONT)
        answer, _ = sleeper.communicate("go on\n", timeout=60)
        assert answer == "lost\n"
        assert store.ledger.made(["k"])["k"].id == second.id


def test_a_killed_owner_is_taken_over_without_waiting_for_its_lease(tmp_path: Path, url: str) -> None:
    root = tmp_path / ".intaglio"
    with Store.open(root, url=url) as store:
        holder = worker("hold", root, url, "k", 3600)
        assert holder.stdout is not None
        holder.stdout.readline()
        assert store.ledger.begin(**step("k", owner="two")) is None
        holder.kill()
        record = None
        for _ in range(100):  # until the kernel has ended it
            record = store.ledger.begin(**step("k", owner="two"))
            if record is not None:
                break
            time.sleep(0.05)
        holder.communicate()
        assert record is not None and record.state == "running"


@pytest.mark.parametrize("kind", ["collection", "blob"])
def test_what_a_kill_left_is_swept_and_live_writers_keep_theirs(tmp_path: Path, kind: str) -> None:
    root = tmp_path / ".intaglio"
    dead, alive = worker("half", root, kind), worker("half", root, kind)
    try:
        for process in (dead, alive):
            assert process.stdout is not None and process.stdout.readline() == "half\n"
        assert len(leftovers(root)) == 2
        stop(dead)
        with Store.open(root) as store:
            assert len(leftovers(root)) == 1  # the dead one's went, the live one's stayed
            with CollectionWriter(store.blobs, store.scratch) as writer:
                Store.open(root).close()
                writer.add(Item(media="text", text="mine"))
                info = writer.close()
            assert store.blobs.check(info.id)
            assert len(leftovers(root)) == 1
    finally:
        stop(dead)
        stop(alive)
    Store.open(root).close()
    assert leftovers(root) == [] and len(list((root / "blobs").rglob("*/*"))) == 1


def test_a_reader_never_sees_half_a_folder(tmp_path: Path) -> None:
    """Checkouts replace a folder again and again while others read it: every look finds one whole version."""
    with Store.open(tmp_path / ".intaglio") as store:
        trees = []
        for version in range(2):
            folder = tmp_path / f"v{version}"
            folder.mkdir()
            for name in "abcdef":
                (folder / name).write_text(str(version))
            trees.append(store.blobs.put_tree(folder))
        target = tmp_path / "public"
        store.blobs.checkout(trees[0], target)
        reader = (
            "import os, sys\n"
            "print('ready', flush=True)\n"
            "looks = set()\n"
            "while not os.path.exists(sys.argv[2]):\n"
            "    fd = os.open(sys.argv[1], os.O_RDONLY)\n"
            "    names = sorted(os.listdir(fd))\n"
            "    if len(names) < 6 and os.fstat(fd).st_ino != os.stat(sys.argv[1]).st_ino:\n"
            "        os.close(fd); continue  # the version we hold was replaced and is being removed\n"
            "    looks.add(''.join(names)); os.close(fd)\n"
            "print(looks)\n"
        )
        end = tmp_path / "end"
        command = [sys.executable, "-c", reader, str(target), str(end)]
        looker = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        assert looker.stdout is not None
        looker.stdout.readline()
        for number in range(40):
            store.blobs.checkout(trees[number % 2], target)
        end.touch()
        answer, _ = looker.communicate(timeout=60)
        assert answer.strip() == "{'abcdef'}" and looker.returncode == 0
        assert [p.name for p in tmp_path.iterdir() if MARK in p.name] == []


def test_a_kill_in_a_checkout_leaves_the_old_folder_and_is_cleaned_up_later(tmp_path: Path) -> None:
    root, target = tmp_path / ".intaglio", tmp_path / "public"
    with Store.open(root) as store:
        folder = tmp_path / "made"
        folder.mkdir()
        (folder / "a").write_text("old")
        store.blobs.checkout(store.blobs.put_tree(folder), target)
        for number in range(300):
            (folder / f"f{number}").write_text(str(number))
        tree = store.blobs.put_tree(folder)
        code = (
            "import sys; from pathlib import Path; from intaglio.store.blobs import Blobs\n"
            "while True: Blobs(Path(sys.argv[1]), lazy=True).checkout(sys.argv[2], Path(sys.argv[3]))\n"
        )
        command = [sys.executable, "-c", code, str(root / "blobs"), tree, str(target)]
        seen = 0
        for delay in (0.3, 0.35, 0.4, 0.45, 0.5):
            process = subprocess.Popen(command, env=environment())
            time.sleep(delay)
            process.kill()
            process.wait()
            count = len(list(target.iterdir()))
            assert count in (1, 301)
            seen += any(MARK in path.name for path in tmp_path.iterdir())
        store.blobs.checkout(tree, target)
        assert len(list(target.iterdir())) == 301
        assert [path.name for path in tmp_path.iterdir() if MARK in path.name] == []


def test_a_full_disk_is_told_and_nothing_is_lost(tiny_disk: Path) -> None:
    root = tiny_disk / ".intaglio"
    from intaglio.core.errors import UserError

    with Store.open(root) as store:
        kept = store.blobs.put_bytes(b"kept")
        record = store.ledger.begin(**step("before"))
        assert record is not None
        store.ledger.finish(record.id, "one", **done(outputs={"file": kept}))
        with pytest.raises(UserError, match="no room left"):
            store.blobs.put_bytes(os.urandom(4_000_000))
        big = tiny_disk / "big"
        with pytest.raises(UserError, match="no room left"), CollectionWriter(store.blobs, store.scratch) as writer:
            for _ in range(9000):
                writer.add(Item(media="text", text=os.urandom(400).hex()))
        assert leftovers(root) == [] and store.blobs.check(kept)
        with contextlib.suppress(OSError), big.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(UserError, match="no room left"):
            for number in range(2000):
                store.ledger.set_setting(f"s{number}", os.urandom(1000).hex())
        with pytest.raises(UserError, match="no room left"):
            store.blobs.checkout(store.blobs.put_tree(root.parent), tiny_disk / "out")
        assert store.ledger.made(["before"]) and store.blobs.check(kept)
    with Store.open(root) as store:  # opening and reading work on a full disk
        assert store.ledger.made(["before"])["before"].outputs == {"file": kept}
        big.unlink()
        assert store.blobs.check(store.blobs.put_bytes(os.urandom(200_000)))
        store.ledger.set_setting("after", "x")
        with store.ledger.database.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def test_a_file_size_limit_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    root = tmp_path / ".intaglio"
    process = worker("limited", root, 1_000_000)
    answer, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    told = json.loads(answer)
    assert told.pop("kept") == "True" and len(told) == 3
    assert all("no room left" in words for words in told.values()), told
    assert leftovers(root) == []
    with Store.open(root) as store, store.ledger.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
