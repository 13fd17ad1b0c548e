"""A real training from the command line: shared by two processes, killed in every way, its curve as event files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from intaglio.project import open_project
from intaglio.project.curves import Curves

TOML = """
[project]
name = "shared"
seed = 7

[data.texts]
use = "folder"
path = "archive"
license = "CC0-1.0"

[models.writer]
use = "gpt"
data = "texts"
size = "tiny"
context = 16
steps = 40
"""


def project(folder: Path) -> Path:
    chance = random.Random(3)
    words = (
        "the sea wind moon river stone night bird over under falls slow quiet light of a in we sing walk old".split()
    )
    (folder / "archive").mkdir(parents=True)
    for number in range(12):
        text = "\n".join(" ".join(chance.choice(words) for _ in range(6)) for _ in range(6))
        (folder / "archive" / f"{number:02}.txt").write_text(text + "\n")
    (folder / "intaglio.toml").write_text(TOML)
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "intaglio", "-C", str(folder), "train", "writer", "--json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    out, errors = process.communicate(timeout=300)
    return process.returncode, json.loads(out.splitlines()[-1]) if out.strip() else {}, errors


def below(pid: int) -> list[int]:
    """Pids of all processes below this one."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *below(child)]
    return found


def ranks(folder: Path) -> dict[int, int]:
    """Rank to pid of the processes that share a training of this project."""
    found = (folder / ".intaglio" / "work").glob("*/processes/started-*")
    return {int(path.name.rpartition("-")[2]): int(path.read_text()) for path in found}


def in_the_middle(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a state in the middle of the training is written."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for path in (folder / ".intaglio" / "work").glob("*/work/best.safetensors"):
            if path.exists():
                return
        time.sleep(0.02)
    raise AssertionError("no state was written: " + process.communicate()[1])


def made(folder: Path) -> tuple[str, dict[str, Any]]:
    with open_project(folder) as opened:
        record = opened.store.ledger.last("writer")
        assert record is not None
        return record.outputs["files"], record.metrics


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = project(tmp_path_factory.mktemp("whole"))
    code, _, errors = finish(start(folder, "--processes", "2"))
    assert code == 0, errors
    return folder


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard's own reader finds of the training."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (run,) = (folder / ".intaglio" / "tensorboard" / "writer").iterdir()
    found = reader.EventAccumulator(str(run))
    found.Reload()
    return {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("who", ["0", "1", "worker", "all"])
def test_killed_and_gone_on_to_the_same_bits(tmp_path: Path, whole: Path, who: str) -> None:
    """One process killed: the step fails and says so. The worker or all killed: nothing lives on. Then to the end."""
    folder = project(tmp_path / "p")
    process = start(folder, "--processes", "2")
    in_the_middle(folder, process)
    everyone, of_ranks = below(process.pid), ranks(folder)
    assert sorted(of_ranks) == [0, 1] and set(of_ranks.values()) < set(everyone)
    if who == "all":
        for pid in (process.pid, *everyone):
            os.kill(pid, signal.SIGKILL)
    else:
        os.kill(everyone[0] if who == "worker" else of_ranks[int(who)], signal.SIGKILL)
    code, _, errors = finish(process)
    assert code != 0
    if who in "01":
        assert "one of the 2 processes of the training ended" in errors and "Traceback" not in errors
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/exe").exists() and alive(pid) for pid in everyone):
        assert time.monotonic() < deadline, "processes live on"
        time.sleep(0.1)
    code, _, errors = finish(start(folder, "--processes", "2"))
    assert code == 0 and "goes on where it stopped" in errors, errors
    assert made(folder)[0] == made(whole)[0], "the checkpoint is the same, byte for byte"
    _the_curve_is_whole(folder)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _the_curve_is_whole(folder: Path) -> None:
    found, curve = points(folder), made(folder)[1]["curve"]
    steps = [step for step, _ in found["loss"]]
    assert steps == sorted(set(steps)) == [point[0] for point in curve], "no step twice, none missing"
    assert [value for _, value in found["loss"]] == pytest.approx([point[1] for point in curve], abs=1e-5)
    heldout = [(point[0], point[2]) for point in curve if point[2] is not None]
    assert [step for step, _ in found["heldout"]] == [step for step, _ in heldout]
    assert {"rate", "pace"} <= set(found)


@pytest.mark.slow
def test_shared_and_alone_come_to_the_same(tmp_path: Path, whole: Path) -> None:
    _the_curve_is_whole(whole)
    folder = project(tmp_path / "p")
    assert finish(start(folder))[0] == 0
    _, alone = made(folder)
    _, shared = made(whole)
    first = [(point[0], point[1]) for point in alone["curve"][:5]]
    # parts of an update are added up in another order, and a loss that falls by half a step makes more of that
    close = [1e-2, 1e-2, 1e-2, 0.1, 0.1]
    points = zip(shared["curve"], close, strict=False)
    assert first == [(step, pytest.approx(value, rel=near)) for (step, value, _), near in points]
    assert alone["heldout_bits_per_char"] == pytest.approx(shared["heldout_bits_per_char"], rel=0.2)
    with open_project(folder) as one, open_project(whole) as two:
        left, right = one.store.ledger.last("writer"), two.store.ledger.last("writer")
        assert left is not None and right is not None
        assert (left.key == right.key) == (left.code == right.code), "no part of the key"
        assert right.environment["processes"] == 2 and "processes" not in left.environment


@pytest.mark.slow
def test_interrupted_by_the_person(tmp_path: Path, whole: Path) -> None:
    folder = project(tmp_path / "p")
    process = start(folder, "--processes", "2")
    in_the_middle(folder, process)
    everyone = below(process.pid)
    process.send_signal(signal.SIGINT)
    code, _, errors = finish(process)
    assert code == 130 and "Traceback" not in errors, errors
    assert not any(alive(pid) for pid in everyone)


def test_more_processes_than_cores_are_refused_before_work(tmp_path: Path) -> None:
    folder = project(tmp_path / "p")
    code, _, errors = finish(start(folder, "--processes", "4096"))
    assert code == 2 and "4096 processes were asked for" in errors and "fix: --processes" in errors


def test_curves_written_twice_are_read_once(tmp_path: Path) -> None:
    """The bytes stand the test of TensorBoard's reader, its checksums included."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = Curves(tmp_path)
    for step in range(1, 6):
        first.add(step, {"loss": 1.0 / step, "a name in 中文": float(step)})
    first.close()
    second = Curves(tmp_path)
    for step in range(4, 9):
        second.add(step, {"loss": 1.0 / step})
    second.close()
    found = reader.EventAccumulator(str(tmp_path))
    found.Reload()
    assert [each.step for each in found.Scalars("loss")] == list(range(1, 9))
    assert [each.value for each in found.Scalars("loss")] == pytest.approx([1 / n for n in range(1, 9)])
    assert [each.step for each in found.Scalars("a name in 中文")] == [1, 2, 3]
