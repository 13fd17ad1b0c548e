"""Figures of reading: short texts from one JSONL file through all default transforms into a stored collection.

Usage: python bench/ingest.py [--items 1000000] [--folder FOLDER] [--quick]
Items a second, peak memory, and the same for a quarter of the items: the rate of the whole as a share of the quarter's
is near 1 where time is linear. Half of the texts are English, a third Chinese, the rest German; 1 in 200 repeats an
earlier one, 1 in 1,000 has an e-mail address.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _common as common

sys.path.insert(0, str(common.ROOT))  # tests.support: the Context the tests use

CHAIN = ("normalize", "language", "duplicates", "personal", "split")
ENGLISH = "the plate and press of an old garden with light that falls on paper when you print it in spring".split()
GERMAN = "der Drucker und die Platte liegen im Garten wo das Papier über Nacht trocknet weil es kühler ist".split()
CHINESE = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少山水云月江南东西相思君归清明时节雨纷纷"


def write_texts(path: Path, count: int) -> None:
    """``count`` lines of 60 to 90 characters, the same for the same count."""
    rng = random.Random(7)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            if number % 200 == 199:
                number -= 100
                rng.seed(number)
            else:
                rng.seed(number)
            if number % 6 < 3:
                text = " ".join(rng.choices(ENGLISH, k=16))
            elif number % 6 < 5:
                text = "，".join("".join(rng.choices(CHINESE, k=7)) for _ in range(4)) + "。"
            else:
                text = " ".join(rng.choices(GERMAN, k=14))
            if number % 1000 == 500:
                text += f" reader{number}@example.org"
            file.write(json.dumps({"text": f"{text} {number}", "title": f"no {number}"}, ensure_ascii=False) + "\n")


def ingest(folder: Path, count: int) -> dict[str, Any]:
    """Read, clean and store; seconds exclude writing the JSONL file and imports."""
    from intaglio.core import config, registry
    from intaglio.core.contracts import Item
    from intaglio.store.blobs import Blobs
    from intaglio.store.collections import CollectionWriter
    from tests.support import RunContext

    ctx = RunContext(folder / "run")
    write_texts(ctx.project / "texts.jsonl", count)
    modules = {name: registry.load("data", name) for name in ("jsonl", *CHAIN)}
    values = {"path": "texts.jsonl", "license": "CC0-1.0"}
    started, cpu = time.perf_counter(), time.process_time()
    stream = modules["jsonl"].Component(config.parse(modules["jsonl"].Config, values, where="bench")).read(ctx)
    for name in CHAIN:
        stream = modules[name].Component(modules[name].Config()).apply(stream, ctx)
    left_out = 0
    with CollectionWriter(Blobs(folder / "blobs"), folder) as writer:
        for each in stream:
            if isinstance(each, Item):
                writer.add(each)
            else:
                left_out += 1
        info = writer.close()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "items": info.items,
        "left_out": left_out,
        "findings": len(ctx.findings),
        "heldout": info.heldout,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "items_per_s": round(count / seconds),
        "peak_bytes": peak,
    }


def main() -> None:
    """Measure in processes of their own, so that each peak is its own."""
    parser = common.parser(__doc__, items=1_000_000)
    parser.add_argument("--folder", type=Path)
    common.hidden(parser, part=0)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(ingest(options.folder, options.part)))
        return
    if options.quick:
        options.items = 40_000
    result, found = common.surroundings(options, ("items",)), []
    for count in (options.items // 4, options.items):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            command = [sys.executable, __file__, "--part", str(count), "--folder", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found.append(json.loads(done.stdout))
    quarter, whole = found
    linear = common.spread([100 * whole["items_per_s"] / quarter["items_per_s"]], 1)
    work = f"{options.items:,} short texts read, cleaned, stored: rate of the whole"
    rows = [common.row(work, "rate of a quarter of them (linear time)", linear, 80.0, "%")]
    common.keep({**result, **whole, "quarter": quarter}, options, rows=rows)


if __name__ == "__main__":
    main()
