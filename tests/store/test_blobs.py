"""Blobs: stored once, whole or not at all, and given back as they were."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from intaglio.core.errors import UserError
from intaglio.store import Store
from intaglio.store.blobs import Blobs, Damaged, TreeFile


@pytest.fixture(params=[False, True], ids=["durable", "lazy"])
def blobs(tmp_path: Path, request: pytest.FixtureRequest) -> Blobs:
    return Blobs(tmp_path / "blobs", lazy=request.param)


def test_bytes_are_stored_once_under_their_sha256(blobs: Blobs) -> None:
    name = blobs.put_bytes(b"ink")
    assert name == hashlib.sha256(b"ink").hexdigest()
    path = blobs.path(name)
    assert path.relative_to(blobs.root).as_posix() == f"{name[:2]}/{name[2:]}"
    inode = path.stat().st_ino
    assert blobs.put_bytes(b"ink") == name and path.stat().st_ino == inode
    assert blobs.read(name) == b"ink" and blobs.size(name) == 3 and blobs.has(name) and blobs.check(name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert list(blobs.ids()) == [name] and not list((blobs.root / "tmp").iterdir())
    blobs.sync()


def test_a_file_is_copied_and_left_alone(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "plate.bin"
    source.write_bytes(os.urandom(3_000_000))
    before = source.stat()
    name = blobs.put_file(source)
    assert name == hashlib.sha256(source.read_bytes()).hexdigest() and blobs.check(name)
    assert (source.stat().st_mtime_ns, source.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    with pytest.raises(FileNotFoundError):
        blobs.put_file(tmp_path / "none")
    assert blobs.put_bytes(b"") == hashlib.sha256(b"").hexdigest()


def test_what_is_gone_or_changed_is_told(blobs: Blobs) -> None:
    name = blobs.put_bytes(b"ink")
    os.chmod(blobs.path(name), 0o644)
    blobs.path(name).write_bytes(b"oil")
    assert blobs.has(name) and not blobs.check(name)
    blobs.path(name).write_bytes(b"in")  # cut short: stored again when it comes again
    assert blobs.put_bytes(b"ink") == name and blobs.check(name)
    blobs.delete(name)
    blobs.delete(name)
    assert not blobs.has(name) and not blobs.check(name)
    for ask in (blobs.size, blobs.read, blobs.tree):
        with pytest.raises(Damaged, match="missing or damaged"):
            ask(name)
    with pytest.raises(ValueError, match="not a SHA-256"):
        blobs.path("../../etc/passwd")


def test_a_tree_comes_back_as_it_was(blobs: Blobs, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    for name, data in {"b.txt": b"b", "a/é 画.txt": b"a", "a/deep/er/x": b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    tree = blobs.put_tree(folder)
    assert tree == blobs.put_tree(folder)
    files = blobs.tree(tree)
    assert [file.path for file in files] == ["a/deep/er/x", "a/é 画.txt", "b.txt"]
    assert files[2] == TreeFile("b.txt", hashlib.sha256(b"b").hexdigest(), 1)
    out = tmp_path / "out" / "here"
    blobs.checkout(tree, out)
    assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()} == {
        "b.txt": b"b",
        "a/é 画.txt": b"a",
        "a/deep/er/x": b"",
    }
    (out / "b.txt").write_bytes(b"edited by a person")  # a copy, never the blob itself
    assert blobs.check(files[2].sha256)
    (folder / "b.txt").write_bytes(b"new")
    (folder / "a/deep/er/x").unlink()
    blobs.checkout(blobs.put_tree(folder), out)
    assert (out / "b.txt").read_bytes() == b"new" and not (out / "a/deep").exists()
    assert [p.name for p in out.parent.iterdir()] == ["here"]


def test_a_checkout_that_fails_leaves_what_was_there(blobs: Blobs, tmp_path: Path) -> None:
    folder, out = tmp_path / "made", tmp_path / "out"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    (folder / "b").write_bytes(b"2")
    old = blobs.put_tree(folder)
    blobs.checkout(old, out)
    (folder / "b").write_bytes(b"3")
    new = blobs.put_tree(folder)
    blobs.delete(hashlib.sha256(b"3").hexdigest())
    with pytest.raises(Damaged):
        blobs.checkout(new, out)
    assert (out / "b").read_bytes() == b"2"
    assert {p.name for p in tmp_path.iterdir()} == {"made", "out", "blobs"}
    file = tmp_path / "file"
    file.write_text("a person's file")
    with pytest.raises(UserError, match="not a folder"):
        blobs.checkout(old, file)
    assert file.read_text() == "a person's file"


def test_links_and_devices_are_refused(blobs: Blobs, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "out").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="link or a device"):
        blobs.put_tree(folder)
    (folder / "out").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(UserError, match="link or a device"):
        blobs.put_tree(folder)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "a\\..\\x", "x\0y"])
def test_a_hostile_tree_is_refused(blobs: Blobs, tmp_path: Path, name: str) -> None:
    import json

    tree = blobs.put_bytes(json.dumps({"tree": [[name, blobs.put_bytes(b"x"), 1]]}).encode())
    with pytest.raises(Damaged):
        blobs.checkout(tree, tmp_path / "out")
    for text in (b"[]", b'{"tree": 3}', b'{"tree": [[1]]}', b"\xff", b"{}", b'{"tree": [["a", "zz", 1]]}'):
        with pytest.raises(Damaged):
            blobs.tree(blobs.put_bytes(text))


def test_a_store_can_be_pickled_and_is_opened_again(local: Store) -> None:
    import pickle

    name = local.blobs.put_bytes(b"ink")
    with pickle.loads(pickle.dumps(local)) as again:
        assert again.blobs.read(name) == b"ink" and again.ledger.round() == 1
