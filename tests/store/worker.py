"""A worker process for the tests: ``python worker.py JOB ARGUMENTS...``; it is killed at random moments."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from intaglio.core.contracts import Item
from intaglio.core.errors import UserError
from intaglio.store import Store
from intaglio.store.collections import CollectionWriter
from intaglio.store.records import LeaseLost


def begin(store: Store, key: str, owner: str) -> Any:
    """Take the lease on a key."""
    return store.ledger.begin(
        key=key,
        round=1,
        name=key,
        stage="data",
        use="folder",
        config={},
        seed=0,
        code="",
        inputs=[],
        environment={},
        device="cpu",
        threads=1,
        owner=owner,
    )


def make(store: Store, key: str, owner: str, step_id: int, pause: float = 0.0) -> None:
    """The work of a job: a collection and a blob; the collection is the output."""
    with CollectionWriter(store.blobs, store.scratch) as writer:
        for number in range(20):
            writer.add(Item(media="text", text=f"{key} {number}"))
        info = writer.close()
    blob = store.blobs.put_bytes(key.encode() * 1000)
    time.sleep(pause)
    store.ledger.finish(
        step_id,
        owner,
        outputs={"items": info.id, "file": blob},
        counts={},
        metrics={},
        seconds=0.0,
        peak_bytes=0,
    )


def jobs(root: str, url: str, count: str, pause: str) -> None:
    """Do all jobs that nobody else does, until all are made."""
    owner = f"worker {os.getpid()}"
    keys = [f"job-{number:04d}" for number in range(int(count))]
    with Store.open(Path(root), url=url) as store:
        (store.root / f"working-{os.getpid()}").touch()
        while len(store.ledger.made(keys)) < len(keys):
            for key in keys:
                record = begin(store, key, owner)
                if record is not None and record.state == "running":
                    make(store, key, owner, record.id, float(pause))


def hold(root: str, url: str, key: str, lease: str) -> None:
    """Take one lease, say so, and finish when a line comes in."""
    with Store.open(Path(root), url=url) as store:
        store.ledger.lease_seconds = float(lease)
        record = begin(store, key, "holder")
        sys.stdout.write(f"{record.id}\n")
        sys.stdout.flush()
        sys.stdin.readline()
        try:
            make(store, key, "holder", record.id)
            sys.stdout.write("finished\n")
        except LeaseLost:
            sys.stdout.write("lost\n")


def write(root: str, url: str) -> None:
    """Make one job after the other until killed."""
    with Store.open(Path(root), url=url) as store:
        number = 0
        while True:
            number += 1
            record = begin(store, f"write-{number}", "writer")
            make(store, f"write-{number}", "writer", record.id)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()


def half(root: str, kind: str) -> None:
    """Begin to write, say so, and wait to be killed in the middle."""
    with Store.open(Path(root)) as store:
        if kind == "collection":
            writer = CollectionWriter(store.blobs, store.scratch)
            for number in range(10_000):
                writer.add(Item(media="text", text=f"half {number}"))
        else:
            temp = store.blobs.temporary()
            temp.file.write(b"half" * 1000)
            temp.file.flush()
        sys.stdout.write("half\n")
        sys.stdout.flush()
        time.sleep(60)


def limited(root: str, limit_bytes: str) -> None:
    """Meet a file-size limit in the blobs, in a collection and in the ledger; tell what came of it."""
    import resource

    answers: dict[str, str] = {}
    with Store.open(Path(root)) as store:
        first = store.blobs.put_bytes(b"before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit_bytes), int(limit_bytes)))

        def collection() -> None:
            with CollectionWriter(store.blobs, store.scratch) as writer:
                for _ in range(3000):
                    writer.add(Item(media="text", text=os.urandom(400).hex()))

        def ledger() -> None:
            for number in range(2000):
                store.ledger.set_setting(f"name {number}", os.urandom(2000).hex())

        for name, work in {
            "blob": lambda: store.blobs.put_bytes(os.urandom(2_000_000)),
            "collection": collection,
            "ledger": ledger,
        }.items():
            try:
                work()
                answers[name] = "no error"
            except UserError as error:
                answers[name] = error.what
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit_bytes), int(limit_bytes)))
        answers["kept"] = str(store.blobs.check(first))
    sys.stdout.write(json.dumps(answers) + "\n")


if __name__ == "__main__":
    {"jobs": jobs, "hold": hold, "write": write, "half": half, "limited": limited}[sys.argv[1]](*sys.argv[2:])
