"""The machine as a plan sees it: its speed is measured, and measured again when that was long ago."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from intaglio.core.folders import cache_folder
from intaglio.project import machine


def test_a_speed_is_measured_for_real_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAGLIO_HOME", str(tmp_path))
    first = machine.measured("cpu", 1)
    assert first.gflops > 1 and first.bf16_gflops > 1 and first.memory_bytes > 2**28
    assert machine.measured("cpu", 1) == first, "two measurements are never equal to the last digit"
    (cache_folder("machine") / "speed.json").write_text("{broken", "utf-8")
    assert machine.measured("cpu", 1) != first


def test_an_hour_later_it_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAGLIO_HOME", str(tmp_path))
    speeds, now = iter([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), 1000.0
    monkeypatch.setattr(machine, "_measure", lambda device, threads: next(speeds))
    monkeypatch.setattr(machine.time, "time", lambda: now)
    assert machine.measured("cpu", 1).gflops == 1.0
    now += machine.KEPT_S - 1
    assert machine.measured("cpu", 1).gflops == 1.0
    now += 2
    assert machine.measured("cpu", 1).gflops == 3.0
    now -= 10_000  # a clock put back
    assert machine.measured("cpu", 1).gflops == 5.0


def test_a_file_edited_into_another_form_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAGLIO_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "_measure", lambda device, threads: [1.0, 2.0])
    machine.measured("cpu", 1)
    path = cache_folder("machine") / "speed.json"
    (name,) = json.loads(path.read_text())
    for other in ([], {name: 3}, {name: [1.0]}, {name: ["fast", 2.0, 1e12]}):
        path.write_text(json.dumps(other))
        assert machine.measured("cpu", 1).gflops == 1.0


def test_where_nothing_can_be_kept_it_is_measured_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INTAGLIO_HOME", str(tmp_path / "file"))
    speeds = iter([[1.0, 2.0], [3.0, 4.0]])
    monkeypatch.setattr(machine, "_measure", lambda device, threads: next(speeds))
    assert [machine.measured("cpu", 1).gflops for _ in range(2)] == [1.0, 3.0]
