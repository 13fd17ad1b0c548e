"""Seconds foretold are corrected by what the last trainings took, kind by kind."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from intaglio.project import foretold


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAGLIO_HOME", str(tmp_path))


HERE = {"device": "cpu", "threads": 2}


def test_nothing_trained_yet_changes_nothing() -> None:
    assert foretold.corrected("gpt", 40.0, **HERE) == 40.0


def test_the_middle_of_the_last_ones_counts_and_each_component_for_itself() -> None:
    for took in (20.0, 21.0, 300.0):
        foretold.learn("gpt", 10.0, took, **HERE)
    foretold.learn("vae", 10.0, 5.0, **HERE)
    assert foretold.corrected("gpt", 40.0, **HERE) == pytest.approx(84.0)
    assert foretold.corrected("vae", 40.0, **HERE) == pytest.approx(20.0)
    assert foretold.corrected("flow", 40.0, **HERE) == pytest.approx(40.0 * (2.1 + 0.5) / 2), (
        "of all, where none is its own"
    )
    assert foretold.corrected("gpt", 40.0, device="cpu", threads=1) == 40.0, "another number of threads"


def test_old_ones_are_forgotten_and_no_single_one_counts_beyond_measure() -> None:
    foretold.learn("gpt", 1.0, 1_000.0, **HERE)
    assert foretold.corrected("gpt", 10.0, **HERE) == 10.0 * foretold.MOST
    for _ in range(foretold.KEPT):
        foretold.learn("gpt", 10.0, 10.0, **HERE)
    assert foretold.corrected("gpt", 10.0, **HERE) == 10.0
    foretold.learn("gpt", 0.0, 10.0, **HERE)
    assert foretold.corrected("gpt", 10.0, **HERE) == 10.0


def test_a_file_edited_into_another_form_counts_as_none() -> None:
    foretold.learn("gpt", 10.0, 20.0, **HERE)
    whole = json.loads(foretold._path().read_text())
    (here,) = whole
    for other in ([], {here: []}, {here: {"gpt": 3}}, {here: {"gpt": ["2.0"]}}, {here: {"gpt": [math.nan, 10**400]}}):
        foretold._path().write_text(json.dumps(other))
        assert foretold.corrected("gpt", 40.0, **HERE) == 40.0
        foretold.learn("gpt", 10.0, 20.0, **HERE)
        assert foretold.corrected("gpt", 40.0, **HERE) == 80.0
