"""One training in two processes over torchrun: the update of one with as many micro-batches, and every way to stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from intaglio.nn import parallel
from intaglio.nn.checkpoint import load_tensors
from intaglio.nn.order import derive
from tests import forked

pytestmark = pytest.mark.slow


def run(folder: Path, *arguments: str, processes: int = 2, check: bool = True) -> tuple[list[dict[str, Any]], str]:
    """What each process says, process 0 first, and what stands on standard error."""
    folder.mkdir(exist_ok=True)
    done = forked.run("tests.nn.shared_training", [str(folder), *arguments], processes=processes)
    assert not check or done.returncode == 0, done.stderr
    assert check or done.returncode != 0
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return sorted(told, key=lambda each: each["rank"]), done.stderr


def weights(folder: Path) -> tuple[torch.Tensor, list[Any]]:
    tensors, meta = load_tensors(folder / "weights.safetensors")
    return torch.cat([value.flatten() for name, value in tensors.items() if "mean" not in name]), meta["curve"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unbroken training of two processes that the others are compared with."""
    folder = tmp_path_factory.mktemp("whole")
    told, _ = run(folder)
    assert told[0]["digest"] == told[1]["digest"], "all processes end with the same weights, running figures included"
    assert told[0]["previews"] == 2 and told[0]["progress"] > 20
    assert told[1]["previews"] == told[1]["progress"] == 0, "only process 0 shows and tells"
    return folder


def test_two_processes_make_the_updates_of_one(tmp_path: Path, whole: Path) -> None:
    run(tmp_path / "alone", "--accumulate", "2", processes=1)
    one, one_curve = weights(tmp_path / "alone")
    two, two_curve = weights(whole)
    assert torch.allclose(one, two, rtol=1e-4, atol=1e-5)
    for left, right in zip(one_curve, two_curve, strict=True):
        assert [value is None for value in left] == [value is None for value in right]
        told = [[value for value in point if value is not None] for point in (left, right)]
        assert told[0] == pytest.approx(told[1], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("who", ["all", "0", "1"])
def test_killed_and_resumed_to_the_same_bits(tmp_path: Path, whole: Path, who: str) -> None:
    """Also where one process alone dies: the other ends too, and does not wait for it."""
    told, _ = run(tmp_path, "--kill", f"{who}:13", check=False)
    assert told == []
    told, _ = run(tmp_path)
    assert told[0]["resumed"] == told[1]["resumed"] == 13 and not told[0]["warnings"]
    assert (tmp_path / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


def test_resumed_by_another_number_of_processes_and_said(tmp_path: Path, whole: Path) -> None:
    run(tmp_path, "--kill", "all:13", check=False)
    told, _ = run(tmp_path, processes=1)
    assert told[0]["resumed"] == 13 and "processes 2 -> None" in told[0]["warnings"][0]
    assert weights(tmp_path)[1][-1][2] == pytest.approx(weights(whole)[1][-1][2], rel=0.2)


def test_divergence_in_one_process_takes_all_back(tmp_path: Path) -> None:
    told, _ = run(tmp_path, "--spoil", "14")
    assert told[0]["digest"] == told[1]["digest"]
    assert told[0]["warnings"] == ["training diverged at step 15; went back to step 12 with half the learning rate"]


def test_an_update_that_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    _, errors = run(tmp_path, "--accumulate", "3", check=False)
    assert "cannot be cut into 2 equal parts" in errors


def test_parts_follow_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parallel.parts(7) == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (parallel.parts(8), parallel.parts(6)) == (4, 1)


def test_parts_of_an_update_draw_the_chance_of_the_whole() -> None:
    drawn: list[list[float]] = []
    for count in (1, 2, 4):
        share = parallel.Share(8, seed=3, count=count)
        found = torch.zeros(8)
        for micro in range(5 * count, 6 * count):
            generator = torch.Generator().manual_seed(derive(3, "step", micro))  # as the loop does
            step, own = share(micro, generator)
            assert step == 5
            found[own] = torch.randn(8, generator=generator)[own]
        drawn.append(found.tolist())
    assert drawn[0] == drawn[1] == drawn[2]
    with pytest.raises(ValueError, match="divide"):
        parallel.Share(8, seed=3, count=3)


def test_buffers_that_the_first_process_wrote_alone_reach_the_others(tmp_path: Path) -> None:
    """As a judge does that keeps its best figures in the model."""
    told, _ = run(tmp_path, "--judge")
    assert told[0]["digest"] == told[1]["digest"] and told[0]["judged"] == told[1]["judged"] == 5.0


def test_gradients_lie_as_their_weights_do(tmp_path: Path) -> None:
    """The fused optimizer does not look: weights in channels last got another's gradient."""
    run(tmp_path / "alone", "--accumulate", "2", "--channels-last", processes=1)
    run(tmp_path / "two", "--channels-last")
    assert torch.allclose(weights(tmp_path / "alone")[0], weights(tmp_path / "two")[0], rtol=1e-3, atol=1e-4)
