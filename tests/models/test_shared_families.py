"""Every family trained in two processes over torchrun: the updates of one process, and gone on from a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from intaglio.nn.checkpoint import load_tensors
from tests import forked
from tests.contracts import _material as material
from tests.support import on_cpu

pytestmark = [pytest.mark.slow, on_cpu]  # two processes take two GPUs
SETTINGS: dict[str, dict[str, Any]] = {
    "flow": {"images": 128, "batch": 16, "flip": True, "condition": "label"},
    "video": {"clips": 32, "batch": 4, "flip": True, "loop": True, "size_px": 8, "frames": 4, "steps": 2},
    "gan": {"images": 128, "batch": 16, "flip": True},
    "finetune": {"steps": 8},
    "codes": {"images": 128, "batch": 16, "flip": True},
    "sound": {"steps": 8, "batch": 4, "adversarial": 0.25},
}
DOUBLE = ("video",)  # warping is bent at every whole pixel: float32's rounding grows sevenfold an update
SAME_NOISE = ("flow", "video", "finetune", "codes", "sound")  # the same numbers drawn, however many processes


def run(name: str, folder: Path, *arguments: str, processes: int = 2, check: bool = True) -> list[dict[str, Any]]:
    material.context(name, folder / "base")
    words = [name, str(folder), "--set", json.dumps(SETTINGS[name]), *arguments, *["--double"] * (name in DOUBLE)]
    done = forked.run("tests.models.shared_family", words, processes=processes, timeout=600)
    assert (done.returncode == 0) is check, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return sorted(told, key=lambda each: each["rank"])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = sorted((folder / "out").glob("*.safetensors"))
    assert len(found) == 1
    return load_tensors(found[0])[0]


def same(left: Path, right: Path) -> bool:
    one, two = weights(left), weights(right)
    return sorted(one) == sorted(two) and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """A family, the folder of its unbroken training in two processes, and what process 0 said."""
    if request.param == "finetune":
        pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp(request.param)
    told = run(request.param, folder)
    assert same(folder / "rank0", folder / "rank1"), "all processes end with the same weights"
    assert not [text for text in told[0]["warnings"] if "trains alone" in text]
    return request.param, folder, told[0]


def test_two_processes_make_the_updates_of_one(tmp_path: Path, shared: tuple[str, Path, Any]) -> None:
    name, folder, told = shared
    alone = run(name, tmp_path, processes=1)[0]
    assert len(alone["losses"]) == len(told["losses"]) >= 8
    close = 1e-3 if name in SAME_NOISE else 0.2  # players of a gan draw noise of their own in each process
    close = 1e-9 if name in DOUBLE else close
    assert told["losses"] == pytest.approx(alone["losses"], rel=close)
    assert told["augmented"] == alone["augmented"], "the same moves of the chance of augmentation"
    if name in SAME_NOISE:
        one, two = weights(tmp_path / "rank0"), weights(folder / "rank0")
        wrong = sum(float((one[each] - two[each]).double().square().sum()) for each in one)
        assert wrong <= 1e-4 * sum(float(one[each].double().square().sum()) for each in one)


def test_killed_and_gone_on_to_the_same_bits(tmp_path: Path, shared: tuple[str, Path, Any]) -> None:
    """One process is killed, the other ends with it; both go on."""
    name, folder, _ = shared
    run(name, tmp_path, "--kill", "1:5", check=False)
    told = run(name, tmp_path)
    assert not [text for text in told[0]["warnings"] if "set-up" in text]
    assert same(tmp_path / "rank0", folder / "rank0") and same(tmp_path / "rank0", tmp_path / "rank1")
