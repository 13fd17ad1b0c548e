"""The runner over a plug-in's components: incremental, resumable, side by side, interrupted, in rounds."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from intaglio.core.errors import UserError
from intaglio.project import Project, open_project, worker
from intaglio.project.executors import in_process
from tests.project import plugin


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The plug-in on the path of this process and of the workers it starts."""
    with plugin.installed(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return plugin.project(tmp_path / "p")


def run(folder: Path, *targets: str, **options: object) -> dict[str, object]:
    with open_project(folder) as project:
        return project.run(targets, **options)  # type: ignore[arg-type]


def states(answer: dict[str, object]) -> dict[str, str]:
    return {step["name"]: step["state"] for step in answer["steps"]}  # type: ignore[attr-defined, index]


def published(folder: Path) -> dict[str, bytes]:
    """Published files without credentials: text files are signed beside, so their own bytes compare."""
    site = folder / "public" / "site"
    return {p.name: p.read_bytes() for p in sorted(site.iterdir()) if p.suffix != ".c2pa"}


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "intaglio.toml"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def test_everything_once_then_nothing(folder: Path) -> None:
    first = run(folder)
    assert (first["ran"], first["kept"], first["failed"]) == (6, 0, 0), first
    lines = next(step for step in first["steps"] if step["name"] == "lines")  # type: ignore[attr-defined]
    assert lines["counts"] == {"items": 9, "skipped": 1, "duplicates": 1}
    again = run(folder)
    assert (again["ran"], again["kept"], again["failed"]) == (0, 6, 0)
    assert len(published(folder)) >= 1


def test_in_process_makes_the_same(folder: Path, tmp_path: Path) -> None:
    run(folder)
    other = plugin.project(tmp_path / "q")
    with open_project(other, executor=in_process) as project:
        assert project.run()["failed"] == 0
    assert published(other) == published(folder)


@pytest.mark.parametrize(
    ("old", "new", "rerun"),
    [
        ("rounds = 20", "rounds = 21", {"chain", "drafts", "best", "site"}),
        ("count = 8", "count = 9", {"drafts", "best", "site"}),
        ("seed = 11", "seed = 12", {"lines", "chain", "words", "drafts", "best", "site"}),
    ],
)
def test_a_changed_key_reruns_its_followers_only(folder: Path, old: str, new: str, rerun: set[str]) -> None:
    run(folder)
    change(folder, old, new)
    with open_project(folder) as project:
        planned = project.plan()["steps"]
    assert {step["name"] for step in planned if step["state"] == "changed"} == rerun
    assert all(step["reason"] for step in planned if step["state"] == "changed")
    answer = states(run(folder))
    assert {name for name, state in answer.items() if state == "made"} == rerun


def test_a_changed_file_is_noticed_and_named(folder: Path) -> None:
    run(folder)
    path = folder / "lines.txt"
    path.write_text(path.read_text("utf-8") + "one more line\n", "utf-8")
    with open_project(folder) as project:
        plan = {step["name"]: step for step in project.plan()["steps"]}
    assert "lines.txt" in plan["lines"]["reason"]
    assert "lines" in plan["chain"]["reason"]
    assert run(folder)["ran"] == 6


def test_code_counts_and_a_comment_does_not(folder: Path, installed: Path) -> None:
    run(folder)
    path = installed / "intaglio_markov" / "mk_draw.py"
    text = path.read_text("utf-8")
    try:
        path.write_text(text + "\n# a comment\n", "utf-8")
        assert run(folder)["ran"] == 0
        path.write_text(text.replace("% 1000", "% 999"), "utf-8")
        with open_project(folder) as project:
            reason = next(s["reason"] for s in project.plan()["steps"] if s["name"] == "drafts")
        assert "code of mk_draw" in reason
        assert states(run(folder))["drafts"] == "made"
    finally:
        path.write_text(text, "utf-8")


def test_targets_run_only_what_they_need(folder: Path) -> None:
    assert set(states(run(folder, "chain"))) == {"lines", "chain"}
    with pytest.raises(UserError, match="no step 'chian'"):
        run(folder, "chian")


def test_a_step_that_fails_blocks_its_followers_and_no_one_else(folder: Path) -> None:
    change(folder, 'use = "mk_markov"', 'use = "mk_markov"\nseed = 3')
    (folder / "lines.txt").write_text("\n\n", "utf-8")
    answer = run(folder)
    assert states(answer) == dict.fromkeys(["chain", "words", "drafts", "best", "site"], "blocked") | {
        "lines": "failed"
    }
    assert "2 skipped" in answer["steps"][0]["error"]["error"]  # type: ignore[index]
    plugin.project(folder)
    assert run(folder)["failed"] == 0


def test_what_was_published_is_put_back(folder: Path) -> None:
    run(folder)
    before = published(folder)
    site = folder / "public" / "site"
    victim = next(p for p in site.iterdir() if p.suffix == ".txt")
    victim.write_text("changed by someone", "utf-8")
    (site / "mine.html").write_text("a file of the person's own", "utf-8")
    assert run(folder)["ran"] == 0
    assert (site / "mine.html").exists()
    (site / "mine.html").unlink()
    assert published(folder) == before


def test_an_unknown_license_blocks_publishing_until_allowed(folder: Path) -> None:
    change(folder, 'license = "CC0-1.0"', 'license = "unknown"')
    with open_project(folder) as project:
        assert project.plan()["steps"][-1]["state"] == "blocked"
    answer = run(folder)
    assert (answer["ran"], answer["failed"]) == (5, 1)
    assert not (folder / "public").exists()
    assert run(folder, allow_unknown=True)["failed"] == 0
    assert len(published(folder)) >= 1


def test_rounds_feed_back_once(folder: Path) -> None:
    change(folder, 'data = "lines"', 'data = ["lines", "best@last"]')
    assert run(folder)["failed"] == 0
    assert run(folder)["ran"] == 0  # the same round: nothing to do
    second = run(folder, next_round=True)
    assert second["round"] == 2
    assert {name for name, state in states(second).items() if state == "made"} == {"chain", "drafts", "best", "site"}
    assert run(folder)["ran"] == 0


def test_two_runs_at_once_make_each_step_once(folder: Path) -> None:
    change(folder, "pause_s = 0.0", "pause_s = 0.05")
    code = "import sys,json;from pathlib import Path;from intaglio.project import open_project\n"
    code += "with open_project(Path(sys.argv[1])) as p: print(json.dumps(p.run()))"
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    answers = [json.loads(each.communicate(timeout=120)[0].splitlines()[-1]) for each in both]
    assert [answer["failed"] for answer in answers] == [0, 0]
    assert sum(answer["ran"] for answer in answers) == 6
    with open_project(folder) as project:
        assert len(project.store.ledger.steps(state="made")) == 6


RUN = """
import sys
from pathlib import Path
from intaglio.project import open_project
with open_project(Path(sys.argv[1])) as project:
    answer = project.run()
sys.exit(0 if answer["failed"] == 0 else 1)
"""


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_nothing(folder: Path, tmp_path: Path) -> None:
    change(folder, "pause_s = 0.0", "pause_s = 0.1")
    calm = plugin.project(tmp_path / "calm", (folder / "intaglio.toml").read_text("utf-8"))
    run(calm)
    rng, kills = random.Random(5), 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", RUN, str(folder)], stderr=subprocess.DEVNULL)
        try:
            code = process.wait(timeout=rng.uniform(0.2, 1.6) if kills < 15 else 120)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        assert code == 0
        break
    assert kills >= 3
    assert published(folder) == published(calm)
    with open_project(folder) as one, open_project(calm) as other:
        assert _trees(one) == _trees(other)
        assert not any((one.store.root / "work").iterdir())
    assert run(folder)["ran"] == 0


def _trees(project: Project) -> dict[str, str]:
    return {r.name: r.outputs["files"] for r in project.store.ledger.steps(state="made") if r.stage == "models"}


def test_ctrl_c_leaves_a_clean_state(folder: Path) -> None:
    change(folder, "pause_s = 0.0", "pause_s = 0.2")
    process = subprocess.Popen([sys.executable, "-c", RUN, str(folder)], stderr=subprocess.DEVNULL)
    work = folder / ".intaglio" / "work"
    deadline = time.monotonic() + 30
    while not list(work.glob("*/work/state.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) != 0
    with open_project(folder) as project:
        assert project.store.ledger.running() == []
        assert {r.name for r in project.store.ledger.steps(state="made")} >= {"lines"}
        answer = project.run()
    assert answer["failed"] == 0 and answer["kept"] >= 1


def test_a_worker_out_of_memory_or_killed_is_said(folder: Path) -> None:
    change(folder, "pause_s = 0.0", "pause_s = 0.3")
    process = subprocess.Popen([sys.executable, "-c", RUN, str(folder)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        workers = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        if workers and list((folder / ".intaglio" / "work").glob("*/work/state.json")):
            os.kill(int(workers[0]), signal.SIGKILL)
            break
        time.sleep(0.05)
    assert process.wait(timeout=60) == 1
    with open_project(folder) as project:
        failed = project.store.ledger.steps(state="failed")
    assert any("signal 9" in (record.error or "") for record in failed)
    assert run(folder)["failed"] == 0


def test_memory_that_ran_out_is_told_apart_from_a_bug() -> None:
    """Of torch it is a bare RuntimeError, of NumPy a MemoryError."""
    torch, numpy = pytest.importorskip("torch"), pytest.importorskip("numpy")
    for call in (lambda: torch.empty(1 << 50), lambda: numpy.empty(1 << 60, dtype="uint8")):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            call()
        assert worker.is_out_of_memory(caught.value)
    assert not worker.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
