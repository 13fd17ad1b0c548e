"""Atomic files and folders in the corners: locks, sweeping, replacing, removing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from intaglio.core.errors import UserError
from intaglio.store import _files
from intaglio.store._files import MARK, DiskFull, TempFile, remove_folder, scratch_folder, sweep, temp_folder, writing


def test_a_temporary_file_is_named_at_last_or_gone(tmp_path: Path) -> None:
    with TempFile(tmp_path) as temp:
        temp.file.write(b"whole")
        temp.commit(tmp_path / "new" / "name", mode=0o600)
    assert (tmp_path / "new" / "name").read_bytes() == b"whole"
    assert (tmp_path / "new" / "name").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ZeroDivisionError), TempFile(tmp_path) as temp:
        temp.file.write(b"half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    temp.discard()


def test_sweep_takes_what_nobody_holds_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f"{MARK}dead").write_bytes(b"x")
    (tmp_path / f"{MARK}folder" / "in").mkdir(parents=True)
    (tmp_path / f"{MARK}folder" / "in" / "file").write_bytes(b"x")
    (tmp_path / "mine.tmp-1").write_bytes(b"a person's")
    (tmp_path / "target").mkdir()
    (tmp_path / f"{MARK}link").symlink_to(tmp_path / "target")
    with TempFile(tmp_path) as live, scratch_folder(tmp_path) as folder:
        assert sweep(tmp_path) == 2
        assert live.path.exists() and folder.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"mine.tmp-1", "target", f"{MARK}link"}
    assert sweep(tmp_path / "none") == 0 == sweep(tmp_path / "mine.tmp-1")


def test_a_name_taken_by_a_sweeper_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making a temporary file and locking it, a sweeper may take it for a leftover."""
    lock, taken = _files._lock, []

    def slow(fd: int, *, wait: bool) -> bool:
        if wait and len(taken) < 2:
            taken.extend(path for path in tmp_path.iterdir() if path not in taken)
            sweep(tmp_path)
        return lock(fd, wait=wait)

    monkeypatch.setattr(_files, "_lock", slow)
    with TempFile(tmp_path) as temp:
        temp.file.write(b"whole")
        temp.commit(tmp_path / "a")
    with temp_folder(tmp_path / "b") as folder:
        (folder / "x").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"} and len(taken) == 2


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(_files, "_exchange", lambda one, other: False)
    target = tmp_path / "target"
    for text in ("one", "two", "three"):
        with temp_folder(target) as folder:
            (folder / "file").write_text(text)
            (folder / text).mkdir()
        assert (target / "file").read_text() == text and {p.name for p in target.iterdir()} == {"file", text}
    with pytest.raises(ZeroDivisionError), temp_folder(target) as folder:
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UserError, match="not a folder"), temp_folder(tmp_path / "link"):
        pass
    assert (target / "file").read_text() == "three"


def test_locked_folders_are_removed_too(tmp_path: Path) -> None:
    folder = tmp_path / "ours"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_bytes(b"x")
    (folder / "deep" / "link").symlink_to("/etc")
    (folder / "deep" / "file").chmod(0o400)
    (folder / "deep").chmod(0o500)
    _files._unlock(folder)  # as another user than root would need it
    remove_folder(folder)
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind"), [(28, DiskFull), (122, DiskFull), (27, DiskFull), (30, UserError), (13, UserError)]
)
def test_errors_of_the_disk_are_told_in_words(tmp_path: Path, number: int, kind: type[UserError]) -> None:
    with pytest.raises(kind), writing(tmp_path):
        raise OSError(number, os.strerror(number))
    with pytest.raises(InterruptedError), writing(tmp_path):  # what a person can do nothing about stays as it is
        raise InterruptedError(4, "interrupted")
