"""Sets of pictures in the layouts people have: ImageFolder, MNIST idx, CIFAR-10 binary."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.core.contracts import Item, Skip
from intaglio.core.errors import UserError
from intaglio.media import image
from tests.data.reading import picture, read, write
from tests.support import RunContext, kept, skips


@pytest.fixture
def ctx(tmp_path: Path) -> RunContext:
    return RunContext(tmp_path)


# ---------------------------------------------------------------------------------------------------------- imagefolder
def folder(ctx: RunContext, files: dict[str, bytes | str], **values: Any) -> list[Item | Skip]:
    write(ctx.project / "set", files)
    return read("imagefolder", ctx, path="set", **values)


def test_class_folders_give_labels_and_parts(ctx: RunContext) -> None:
    names = ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "validation/dog/4.png")
    found = kept(folder(ctx, {name: picture(color=(index, 9, 9)) for index, name in enumerate(names)}))
    assert [(i.origin.removeprefix("set/"), i.text, i.meta["label"], i.meta["part"], i.split) for i in found] == [
        ("test/cat/3.png", "cat", "cat", "test", "heldout"),
        ("train/cat/1.png", "cat", "cat", "train", "train"),
        ("train/dog/2.png", "dog", "dog", "train", "train"),
        ("validation/dog/4.png", "dog", "dog", "validation", "heldout"),
    ]


def test_metadata_gives_captions_rights_and_any_column(ctx: RunContext) -> None:
    rows = [
        {"file_name": "a.png", "text": "A fox.", "license": "CC-BY-4.0", "author": "Ada", "score": 0.5, "box": [1, 2]},
        {"file_name": "sub/b.png", "text": "An owl."},
    ]
    metadata = "\n".join(map(json.dumps, rows))
    found = kept(
        folder(ctx, {"a.png": picture(), "sub/b.png": picture(), "c.png": picture(), "metadata.jsonl": metadata})
    )
    assert [(item.origin, item.text) for item in found] == [
        ("set/a.png", "A fox."),
        ("set/c.png", ""),
        ("set/sub/b.png", "An owl."),
    ]
    assert found[0].license == "CC-BY-4.0" and found[1].license == "CC0-1.0"
    assert {key: found[0].meta[key] for key in ("author", "score", "box")} == {
        "author": "Ada",
        "score": 0.5,
        "box": [1, 2],
    }


def test_metadata_csv_and_another_column(ctx: RunContext) -> None:
    table = "file_name,caption,zh\na.png,A fox.,一只狐狸\n"
    assert [item.text for item in kept(folder(ctx, {"a.png": picture(), "metadata.csv": table}))] == ["A fox."]
    assert [item.text for item in kept(folder(ctx, {"a.png": picture(), "metadata.csv": table}, text="zh"))] == [
        "一只狐狸"
    ]


def test_hostile_metadata(ctx: RunContext) -> None:
    names = ["../../secret.png", "/etc/passwd", "C:\\x.png", "a\0.png", "", None, "gone.png"]
    metadata = "\n".join([*(json.dumps({"file_name": name, "text": "x"}) for name in names), "{broken", "[1]"])
    results = folder(
        ctx, {"a.png": picture(), "metadata.jsonl": metadata, "broken.png": picture()[:40], "note.png": "text"}
    )
    assert [(item.origin, item.text) for item in kept(results)] == [("set/a.png", "")]
    said = {skip.origin: skip.reason for skip in skips(results)}
    assert [said[f"set/metadata.jsonl#{n}"] for n in (1, 2, 3, 4, 5)] == [
        "the name '../../secret.png' leaves its folder",
        "the name '/etc/passwd' leaves its folder",
        "the name 'C:\\x.png' leaves its folder",
        "the name 'a\ufffd.png' leaves its folder",
        "the name '' leaves its folder",
    ]
    assert said["set/gone.png"] == "the metadata names it, but it is not there"
    assert said["set/note.png"] == "it is a text, not a picture"
    assert {f"set/metadata.jsonl#{n}" for n in (6, 8, 9)} < said.keys() and "damaged" in said["set/broken.png"]


# ---------------------------------------------------------------------------------------------------------------- mnist
def idx(ctx: RunContext, count: int, part: str = "train", pack: Any = bytes) -> np.ndarray[Any, Any]:
    pixels = np.random.default_rng(count).integers(0, 256, (count, 5, 4), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    ending = ".gz" if pack is gzip.compress else ""
    pictures = struct.pack(">IIII", 0x803, count, 5, 4) + pixels.tobytes()
    names = struct.pack(">II", 0x801, count) + labels.tobytes()
    files = {f"{part}-images-idx3-ubyte{ending}": pack(pictures), f"{part}-labels-idx1-ubyte{ending}": pack(names)}
    write(ctx.project / "mnist", files)
    return pixels


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_mnist_pixels_and_labels(ctx: RunContext, pack: Any) -> None:
    train, test = idx(ctx, 12, pack=pack), idx(ctx, 3, "t10k", pack=pack)
    found = kept(read("mnist", ctx, path="mnist"))
    assert [item.meta["label"] for item in found] == [*range(10), 0, 1, 0, 1, 2]
    assert [item.split for item in found] == ["train"] * 12 + ["heldout"] * 3
    for item, pixels in zip(found, (*train, *test), strict=True):
        stored = np.asarray(image.load(ctx.path(item.files[0]), mode="L"))
        assert np.array_equal(stored, pixels)
        assert (item.meta["width_px"], item.meta["height_px"], item.files[0].mime) == (4, 5, "image/png")


def test_mnist_options(ctx: RunContext) -> None:
    idx(ctx, 5)
    found = kept(read("mnist", ctx, path="mnist", part="train", limit=2, names=("shirt", "coat")))
    assert [item.text for item in found] == ["shirt", "coat"]


def test_mnist_truncated_or_lying(ctx: RunContext) -> None:
    idx(ctx, 5)
    path = ctx.project / "mnist" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    results = read("mnist", ctx, path="mnist")
    assert len(kept(results)) == 3 and "truncated: 10 of 20 bytes" in skips(results)[0].reason
    path.write_bytes(struct.pack(">IIII", 0x803, 5, 1 << 30, 1 << 30))
    assert "its header claims" in skips(read("mnist", ctx, path="mnist"))[0].reason
    path.write_bytes(struct.pack(">IIII", 0x803, 4, 5, 4) + whole[16:])
    assert skips(read("mnist", ctx, path="mnist"))[0].reason == "5 labels for 4 pictures"


def test_mnist_without_files(ctx: RunContext) -> None:
    (ctx.project / "mnist").mkdir()
    with pytest.raises(UserError, match="no idx file") as caught:
        read("mnist", ctx, path="mnist")
    assert "train-images-idx3-ubyte" in caught.value.fix


# ---------------------------------------------------------------------------------------------------------------- cifar
def record(label: int, seed: int) -> tuple[bytes, np.ndarray[Any, Any]]:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return bytes([label]) + pixels.transpose(2, 0, 1).tobytes(), pixels


def test_cifar_pixels_and_labels(ctx: RunContext) -> None:
    (one, first), (two, second) = record(6, 1), record(9, 2)
    write(ctx.project / "cifar", {"data_batch_1.bin": one, "test_batch.bin": two})
    found = kept(read("cifar10", ctx, path="cifar"))
    assert [(item.text, item.split, item.meta["label"]) for item in found] == [
        ("frog", "train", 6),
        ("truck", "heldout", 9),
    ]
    for item, pixels in zip(found, (first, second), strict=True):
        assert np.array_equal(np.asarray(image.load(ctx.path(item.files[0]))), pixels)
    assert len(kept(read("cifar10", ctx, path="cifar", part="test"))) == 1


def test_cifar_pickles_are_refused_with_the_way_out(ctx: RunContext) -> None:
    write(ctx.project / "cifar", {"data_batch_1": pickle.dumps({b"data": b"x"}), "batches.meta": b"x"})
    with pytest.raises(UserError, match="pickles, which run code") as caught:
        read("cifar10", ctx, path="cifar")
    assert "cifar-10-binary.tar.gz" in caught.value.fix


def test_cifar_truncated_or_another_thing(ctx: RunContext) -> None:
    write(
        ctx.project / "cifar", {"data_batch_1.bin": record(1, 1)[0] * 2 + b"xyz", "data_batch_2.bin": record(77, 1)[0]}
    )
    results = read("cifar10", ctx, path="cifar")
    assert len(kept(results)) == 2
    assert [skip.reason for skip in skips(results)] == [
        "truncated: 3 of 3073 bytes", "label 77 where only 10 exist: not CIFAR-10",
    ]  # fmt: skip
