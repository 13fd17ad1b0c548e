"""Checkpoints: whole or absent, equal bytes for equal content, optimizers put back exactly, nothing unpickled."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from intaglio.nn.checkpoint import (
    Pickled,
    load_tensors,
    pack_optimizers,
    read_meta,
    save_tensors,
    unpack_optimizers,
    write_atomic,
)
from intaglio.nn.ema import Ema
from intaglio.nn.optim import muon_and_adamw


def test_round_trip_and_equal_bytes(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    tensors = {"b": shared, "a": shared, "view": shared[:, 1:], "half": torch.ones(2, dtype=torch.bfloat16)}
    for name in ("one", "two"):
        save_tensors(tmp_path / name, tensors, {"step": 3, "text": "詩"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded, meta = load_tensors(tmp_path / "one")
    assert meta == {"step": 3, "text": "詩"} == read_meta(tmp_path / "one")
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"], "no parts are left"


@pytest.mark.parametrize("damage", [b"", b"\x00" * 9, b"GIF89a" * 9])
def test_damaged_files_are_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "bad").write_bytes(damage)
    with pytest.raises(ValueError, match="bad is no readable safetensors file"):
        load_tensors(tmp_path / "bad")


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "cut", {"a": torch.zeros(100)}, {})
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-8])
    with pytest.raises(ValueError, match="cut"):
        load_tensors(tmp_path / "cut")


def test_write_atomic_replaces(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep" / "file", b"1")
    write_atomic(tmp_path / "deep" / "file", b"2")
    assert (tmp_path / "deep" / "file").read_bytes() == b"2"


def _steps(model: nn.Module, optimizers: list[torch.optim.Optimizer], count: int) -> None:
    for number in range(count):
        gen = torch.Generator().manual_seed(number)
        model(torch.randn(4, 6, generator=gen)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_optimizers_go_on_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one = nn.Linear(6, 6)
    first = muon_and_adamw(one)
    _steps(one, first, 3)
    tensors, numbers = pack_optimizers(first)
    save_tensors(tmp_path / "state", {**tensors, **{f"model.{k}": v for k, v in one.state_dict().items()}}, numbers)
    two = nn.Linear(6, 6)
    second = muon_and_adamw(two)
    loaded, meta = load_tensors(tmp_path / "state")
    two.load_state_dict({k.removeprefix("model."): v for k, v in loaded.items() if k.startswith("model.")})
    unpack_optimizers(second, loaded, meta)
    _steps(one, first, 2)
    _steps(two, second, 2)
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)


def test_ema_is_the_closed_form_and_gives_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = Ema(model, decay=0.5)
    expected = float(model.weight.detach())
    for number in range(1, 6):
        with torch.no_grad():
            model.weight.fill_(float(number))
        average.update()
        keep = min(0.5, (1 + number) / (10 + number))
        expected = keep * expected + (1 - keep) * number
    with average.applied():
        assert float(model.weight.detach()) == pytest.approx(expected)
    assert float(model.weight.detach()) == 5.0
    with pytest.raises(ValueError, match=r"decay=1\.0"):
        Ema(model, decay=1.0)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare", "suffix"])
def test_a_pickle_is_refused_by_name_and_the_way_to_convert_it_works(tmp_path: Path, form: str) -> None:
    """The line in the message is run as it stands; the tensors come through."""
    weight = torch.arange(6.0).view(2, 3)
    path = tmp_path / ("given.pt" if form == "suffix" else "given.safetensors")
    if form == "bare":
        path.write_bytes(pickle.dumps({"a": 1}))
    else:
        torch.save({"state_dict": {"w": weight}}, path, _use_new_zipfile_serialization=form != "legacy")
    for read in (load_tensors, read_meta):
        with pytest.raises(Pickled, match=f"{path.name} is a pickle") as caught:
            read(path)
    if form == "bare":
        return  # holds no tensors
    target = "given.safetensors" if form == "suffix" else "converted.safetensors"
    assert caught.value.convert.endswith(f" {path.name} {target}")
    line = caught.value.convert.replace("python", sys.executable, 1)
    subprocess.run(line, shell=True, check=True, cwd=tmp_path)
    assert torch.equal(load_tensors(tmp_path / target)[0]["w"], weight)


def test_a_header_whose_length_begins_as_a_pickle_does_is_no_pickle(tmp_path: Path) -> None:
    for width in range(2000):
        save_tensors(tmp_path / "x", {}, {"fill": "x" * width})
        if (tmp_path / "x").read_bytes()[:2] == b"\x80\x04":
            break
    else:
        raise AssertionError("no such header was met")
    assert len(read_meta(tmp_path / "x")["fill"]) == width


def test_optimizers_go_on_alike_whatever_the_layout_of_weights(tmp_path: Path) -> None:
    """Weights that lie channels last: fused AdamW walks weight and state in the order they lie in memory."""

    def made() -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)).to(memory_format=torch.channels_last)
        return model, [torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)]

    def update(model: nn.Module, optimizers: list[torch.optim.Optimizer], seed: int) -> None:
        model(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    one, first = made()
    update(one, first, 1)
    tensors, numbers = pack_optimizers(first)
    save_tensors(tmp_path / "state", {**tensors, **{f"model.{k}": v for k, v in one.state_dict().items()}})
    two, second = made()
    loaded = load_tensors(tmp_path / "state")[0]
    two.load_state_dict({name[6:]: value for name, value in loaded.items() if name.startswith("model.")})
    unpack_optimizers(second, loaded, numbers)
    update(one, first, 2)
    update(two, second, 2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_pickle_never_runs(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"w": Trap()}, tmp_path / "x.ckpt")
    with pytest.raises(Pickled):
        load_tensors(tmp_path / "x.ckpt")
    assert not (tmp_path / "sprung").exists()


def test_a_file_too_large_leaves_the_old_one_and_says_how_much_is_needed(tmp_path: Path) -> None:
    """A real limit of the system on the size of files, in a process of its own."""
    save_tensors(tmp_path / "state", {"w": torch.zeros(8)})
    code = f"""
import resource, torch
from pathlib import Path
from intaglio.nn.checkpoint import DiskFull, save_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_tensors(Path({str(tmp_path / "state")!r}), {{"w": torch.ones(100_000)}})
except DiskFull as error:
    print(error.strerror, error.need > 400_000)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "no room for state: 400," in done.stdout and done.stdout.strip().endswith("True")
    assert torch.equal(load_tensors(tmp_path / "state")[0]["w"], torch.zeros(8))
    assert [each.name for each in tmp_path.iterdir()] == ["state"], "no part is left"
