"""Figures of the store: a no-op fingerprint of 100,000 files, and one million short texts written and read.

Usage: python bench/ledger.py [--files 100000] [--items 1000000] [--folder FOLDER] [--quick]
Each part runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _common as common

RUNS = 5
WORDS = "plate ink press paper proof edition burr acid copper ground wax needle line tone margin print".split()


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_bytes() -> int:
    """Greatest resident memory of this process so far; getrusage would count the parent's at the fork."""
    status = Path("/proc/self/status").read_text("ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def bench_fingerprint(folder: Path, count: int) -> dict[str, Any]:
    """First, no-op and one-change fingerprint of ``count`` files in folders of 1,000."""
    from intaglio.store.fingerprint import fingerprint

    archive = folder / "archive"
    for number in range(count):
        if number % 1000 == 0:
            (archive / f"{number // 1000:04d}").mkdir(parents=True)
        (archive / f"{number // 1000:04d}" / f"{number % 1000:04d}.txt").write_text(f"text number {number}\n" * 3)
    time.sleep(0.2)  # files younger than a clock tick are never trusted
    cache = folder / "cache"
    first = seconds(lambda: fingerprint(archive, cache))
    noop = [seconds(lambda: fingerprint(archive, cache)) for _ in range(RUNS)]
    cpu = time.process_time()
    fingerprint(archive, cache)
    cpu = time.process_time() - cpu
    (archive / "0000" / "0000.txt").write_text("another text\n")
    time.sleep(0.2)
    changed = seconds(lambda: fingerprint(archive, cache))
    return {
        "files": count,
        "first_seconds": round(first, 3),
        "noop_seconds": common.spread(noop),
        "noop_cpu_seconds": round(cpu, 3),
        "one_changed_seconds": round(changed, 3),
        "peak_bytes": peak_bytes(),
    }


def bench_collection(folder: Path, count: int) -> dict[str, Any]:
    """Write ``count`` short texts into a collection, read them all, find one, take pages."""
    from intaglio.core.contracts import Item
    from intaglio.store import Store
    from intaglio.store.collections import Collection, CollectionWriter

    with Store.open(folder / ".intaglio") as store:
        marks: list[float] = []
        start = time.perf_counter()
        with CollectionWriter(store.blobs, store.scratch) as writer:
            for number in range(count):
                words = " ".join(WORDS[(number * 7 + k * k) % len(WORDS)] for k in range(12))
                writer.add(Item(media="text", text=f"{number} {words}", origin=f"a/{number}.txt", license="CC0-1.0"))
                if (number + 1) % max(count // 10, 1) == 0:
                    marks.append(time.perf_counter() - start)
            info = writer.close()
        written = peak_bytes()
        collection = Collection(store.blobs, info.id)
        read = seconds(lambda: sum(1 for _ in collection))
        middle = collection._between(count // 2, count // 2 + 1)[0].id
        get = [seconds(lambda: collection.get(middle)) for _ in range(RUNS)]
        page = [seconds(lambda: collection.page(middle, 50)) for _ in range(RUNS)]
        size = store.blobs.size(info.id)
    tenths = [round(b - a, 3) for a, b in zip([0.0, *marks], marks, strict=False)]
    return {
        "items": count,
        "write_seconds": round(marks[-1], 2),
        "write_seconds_by_tenth": tenths,
        "write_peak_bytes": written,
        "read_seconds": round(read, 2),
        "peak_bytes": peak_bytes(),
        "get_seconds": common.spread(get),
        "page_seconds": common.spread(page),
        "file_bytes": size,
    }


PARTS = {"fingerprint": bench_fingerprint, "collection": bench_collection}


def main() -> None:
    """Run every part in its own process and print one JSON line."""
    parser = common.parser(__doc__, files=100_000, items=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: a temporary folder)")
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.files, options.items = 5_000, 50_000
    counts = {"fingerprint": options.files, "collection": options.items}
    if options.part:
        print(json.dumps(PARTS[options.part](options.folder, counts[options.part])))
        return
    result = common.surroundings(options, ("files", "items"))
    for part, count in counts.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            size = ["--files" if part == "fingerprint" else "--items", str(count)]
            command = [sys.executable, __file__, "--part", part, "--folder", folder, *size]
            result[part] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    common.keep(result, options)


if __name__ == "__main__":
    main()
