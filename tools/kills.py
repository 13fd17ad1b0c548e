"""Kill the demo at random moments, run it on each time, compare with a calm run: ``python -m tools.kills``.

Checkpoints have to be the same trees, published files the same bytes, time stamps and signatures aside. Prints one JSON
line; exits with 1 where anything differs. Takes as long as two demos and the restarts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TIMES = re.compile(rb"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00))?")
SVG_MANIFEST = re.compile(rb"<c2pa:manifest>[^<]*</c2pa:manifest>")


def intaglio(*words: str) -> list[str]:
    """The command line of a command of ours."""
    return [sys.executable, "-c", "import sys; from intaglio.cli.main import main; sys.exit(main())", *words]


def unsigned(path: Path) -> bytes:
    """A published file without its signature and time stamps; PNG and SVG carry it inside, texts beside them."""
    data = path.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return TIMES.sub(b"TIME", SVG_MANIFEST.sub(b"", data))
    out, at = [data[:8]], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] != b"caBX":
            out.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join(out)


def made(folder: Path) -> dict[str, Any]:
    """What a project folder holds in the end: checkpoints by step, published files by path."""
    answer = subprocess.run(intaglio("-C", str(folder), "models", "--json"), capture_output=True, text=True, check=True)
    models = json.loads(answer.stdout.splitlines()[-1])["models"]
    site = folder / "public" / "site"
    files = {
        p.relative_to(site).as_posix(): unsigned(p) for p in site.rglob("*") if p.is_file() and p.suffix != ".c2pa"
    }
    return {"checkpoints": {each["step"]: each["checkpoint"] for each in models}, "files": files}


def run_with_kills(folder: Path, kills: int, rng: random.Random, seconds: float) -> int:
    """Run the demo, then ``run`` again and again, each killed after a random time, until one ends by itself."""
    words = ["demo", str(folder)]
    done = 0
    while True:
        process = subprocess.Popen(intaglio(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # exponential: many kills while steps start, some so late that a training has saved its state
            code = process.wait(timeout=0.1 + rng.expovariate(kills / (1.5 * seconds)) if done < kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            if (folder / "intaglio.toml").exists():
                words = ["-C", str(folder), "run"]
            continue
        if code != 0:
            raise SystemExit(f"a run after {done} kills ended with {code}")
        if done >= kills:
            return done
        shutil.rmtree(folder)  # it got through before the kills were used up: once more from the start
        words = ["demo", str(folder)]


def main() -> int:
    """Compare a killed demo with a calm one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calm", type=Path, help="a finished demo to compare with; left out: made now")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        calm = options.calm or Path(temp) / "calm"
        start = time.perf_counter()
        subprocess.run(intaglio("demo", str(calm)), check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        if options.calm:
            seconds = 150.0
        killed = Path(temp) / "killed"
        kills = run_with_kills(killed, options.kills, random.Random(options.seed), seconds)
        one, other = made(calm), made(killed)
    differs = [step for step in one["checkpoints"] if one["checkpoints"][step] != other["checkpoints"].get(step)]
    differs += sorted(set(one["files"]) ^ set(other["files"]))
    differs += [path for path, data in one["files"].items() if other["files"].get(path, data) != data]
    print(json.dumps({"kills": kills, "files": len(one["files"]), "differs": differs, "cores": os.cpu_count()}))
    return 1 if differs else 0


if __name__ == "__main__":
    sys.exit(main())
