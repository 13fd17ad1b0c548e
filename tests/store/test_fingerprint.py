"""Fingerprints: every change is noticed, nothing unchanged is read again, and bad files stop nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from intaglio.core.errors import UserError
from intaglio.store import fingerprint as module
from intaglio.store.fingerprint import Fingerprint, fingerprint
from tests.store.support import environment

Look = Callable[[], Fingerprint]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "deep/c.txt", "deep/er/画.txt", "deep/new\nline"):
        (folder / name).write_text(f"text of {name}")
    return folder


@pytest.fixture
def look(archive: Path, tmp_path: Path) -> Look:
    return lambda: fingerprint(archive, tmp_path / "cache")


def settle() -> None:
    """Wait until what was written is older than the racy window."""
    time.sleep(0.12)


def settled(look: Look) -> Fingerprint:
    """A look whose every line is trusted."""
    settle()
    look()
    first = look()
    assert first.hashed == 0
    return first


def test_nothing_changed_and_nothing_is_read(look: Look, archive: Path, tmp_path: Path) -> None:
    settle()
    first = look()
    assert (first.files, first.hashed) == (5, 5)
    assert first.bytes == sum(p.stat().st_size for p in archive.rglob("*") if p.is_file())
    second = look()
    assert second.hashed == 0 and second.sha256 == first.sha256 and second.files == 5
    cache = (tmp_path / "cache").stat()
    look()
    assert (tmp_path / "cache").stat().st_ino == cache.st_ino  # not even written again


CHANGES: dict[str, Callable[[Path], object]] = {
    "changed": lambda a: (a / "a.txt").write_text("another text, longer"),
    "same size": lambda a: (a / "a.txt").write_text("TEXT of a.txt"),
    "added": lambda a: (a / "deep/er/new.txt").write_text("new"),
    "added empty": lambda a: (a / "empty").touch(),
    "removed": lambda a: (a / "deep/c.txt").unlink(),
    "renamed": lambda a: (a / "a.txt").rename(a / "z.txt"),
    "moved": lambda a: (a / "a.txt").rename(a / "deep/a.txt"),
    "folder renamed": lambda a: (a / "deep/er").rename(a / "deep/re"),
    "link added": lambda a: (a / "link").symlink_to("a.txt"),
    "pipe added": lambda a: os.mkfifo(a / "pipe"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_is_noticed_and_only_it_is_read(
    look: Look, archive: Path, change: Callable[[Path], object]
) -> None:
    before = settled(look)
    change(archive)
    after = look()
    assert after.sha256 != before.sha256 and after.hashed <= 1
    settle()
    assert look().sha256 == after.sha256 and look() == Fingerprint(after.sha256, after.files, after.bytes, 0)


def test_two_files_that_swap_names_are_noticed(look: Look, archive: Path) -> None:
    before = settled(look)
    (archive / "a.txt").rename(archive / "x")
    (archive / "b.txt").rename(archive / "a.txt")
    (archive / "x").rename(archive / "b.txt")
    assert look().sha256 != before.sha256


def test_an_edit_of_the_same_size_with_its_time_put_back_is_noticed(look: Look, archive: Path) -> None:
    before = settled(look)
    old = (archive / "a.txt").stat()
    with (archive / "a.txt").open("r+") as file:
        file.write("TEXT")
    os.utime(archive / "a.txt", ns=(old.st_atime_ns, old.st_mtime_ns))
    assert look().sha256 != before.sha256


def test_a_touch_reads_the_file_and_changes_nothing(look: Look, archive: Path) -> None:
    before = settled(look)
    os.utime(archive / "a.txt")
    after = look()
    assert (after.sha256, after.hashed) == (before.sha256, 1)


def test_an_edit_right_after_the_look_is_noticed(look: Look, archive: Path) -> None:
    """Written, looked at and edited within one clock tick: the times do not tell, so the file is read again."""
    for number in range(60):
        (archive / "a.txt").write_text(f"{number:08d}")
        first = look()
        (archive / "a.txt").write_text(f"{number:08x}x"[-8:])
        second = look()
        same = (archive / "a.txt").read_text() == f"{number:08d}"
        assert (first.sha256 == second.sha256) == same


def test_a_coarse_clock_is_mistrusted_for_longer(archive: Path, tmp_path: Path) -> None:
    scan = module._Scan(str(archive), {}, racy_after_ns=10_000_000_000)
    for ctime_ns, trusted in {
        9_000_000_000: False,  # a full second, as FAT writes them: suspect for three more
        6_999_999_999: True,
        6_000_000_000: True,
        9_999_999_999: True,
        10_000_000_001: False,
    }.items():
        assert scan.is_settled(ctime_ns) == trusted, ctime_ns


def test_the_result_depends_on_names_and_bytes_only(archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(archive, copy)
    os.utime(copy / "a.txt", (1, 1))
    (copy / "empty folder").mkdir()
    (copy / ".intaglio").mkdir()
    (copy / ".intaglio" / "ledger.sqlite").write_text("ours")
    one, two = fingerprint(archive, tmp_path / "c1"), fingerprint(copy, tmp_path / "c2")
    assert one.sha256 == two.sha256 and one.files == two.files
    assert fingerprint(copy, tmp_path / "c3", ignore=frozenset()).files == one.files + 1
    (tmp_path / "link").symlink_to(archive)
    assert fingerprint(tmp_path / "link", tmp_path / "c4").sha256 == one.sha256
    assert fingerprint(Path(os.path.relpath(archive)), tmp_path / "c5").sha256 == one.sha256


def test_links_are_not_followed(look: Look, archive: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("1")
    (archive / "out").symlink_to(outside)
    (archive / "file").symlink_to(outside / "secret")
    (archive / "loop").symlink_to(archive)
    (archive / "dangling").symlink_to("nowhere")
    before = settled(look)
    assert before.files == 5
    (outside / "secret").write_text("2")
    (outside / "more").write_text("2")
    assert look() == before
    (archive / "dangling").unlink()
    (archive / "dangling").symlink_to("elsewhere")
    assert look().sha256 != before.sha256


def test_one_file_is_hashed_as_its_bytes(archive: Path, tmp_path: Path) -> None:
    file, cache = archive / "a.txt", tmp_path / "cache"
    settle()
    first = fingerprint(file, cache)
    assert first == Fingerprint(hashlib.sha256(file.read_bytes()).hexdigest(), 1, file.stat().st_size, 1)
    assert fingerprint(file, cache).hashed == 0
    file.write_text("TEXT of a.txt")
    assert fingerprint(file, cache).sha256 == hashlib.sha256(b"TEXT of a.txt").hexdigest()


def test_a_damaged_or_foreign_cache_costs_time_only(look: Look, tmp_path: Path) -> None:
    first = settled(look)
    cache = tmp_path / "cache"
    data = cache.read_bytes()
    head = data.index(b"\n", data.index(b"\n") + 1) + 1
    damaged = [b"", b"x", data[:10], data[: head + 5], data[:30] + b"}" + data[31:], os.urandom(300), b"\n\n\n"]
    damaged.append(data.replace(b'"listing": "', b'"listing": "0', 1)[:-5])  # listing unknown, lines cut short
    for wrong in damaged:
        cache.write_bytes(wrong)
        again = look()
        assert again.sha256 == first.sha256 and again.hashed in (0, 5)
        assert look().hashed == 0
    cache.unlink()
    cache.mkdir()
    with pytest.raises(OSError):
        look()


def test_nothing_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        fingerprint(tmp_path / "none", tmp_path / "cache")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        fingerprint(tmp_path / "pipe", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_names_that_are_no_unicode_are_taken_as_they_are(look: Look, archive: Path) -> None:
    before = settled(look)
    with open(os.fsencode(archive) + b"/\xff\xfe", "w") as file:
        file.write("x")
    after = look()
    assert after.sha256 != before.sha256 and after.files == 6
    settle()
    look()
    assert look().hashed == 0


@pytest.mark.skipif(os.name != "posix", reason="rights work differently there")
def test_what_cannot_be_read_enters_by_name_and_error(archive: Path, tmp_path: Path) -> None:
    """As another user than root, who may read everything."""
    code = (
        "import os, sys; from pathlib import Path; from intaglio.store.fingerprint import fingerprint\n"
        "folder, cache = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "r = [fingerprint(folder, cache) for _ in range(3)]\n"
        "print(r[0].sha256, r[0].files, r[2].hashed)\n"
    )
    base = Path(tempfile.mkdtemp())  # others may enter it, unlike pytest's own folder
    try:
        base.chmod(0o777)
        place = base / "archive"
        shutil.copytree(archive, place)
        command = [sys.executable, "-c", code, str(place), str(base / "cache")]

        def ask() -> list[str]:
            settle()
            answer = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
            return answer.stdout.split()

        readable = ask()
        (place / "a.txt").chmod(0)
        hidden = ask()
        (place / "deep" / "er").chmod(0)
        more = ask()
        assert len({readable[0], hidden[0], more[0]}) == 3
        assert [readable[1], hidden[1], more[1]] == ["5", "5", "4"] and {readable[2], hidden[2], more[2]} == {"0"}
        (place / "deep" / "er").chmod(0o755)
        (place / "a.txt").chmod(0o644)
        assert ask()[0] == readable[0]
    finally:
        shutil.rmtree(base)


def test_files_that_come_and_go_meanwhile_stop_nothing(look: Look, archive: Path) -> None:
    end = threading.Event()

    def churn() -> None:
        number = 0
        while not end.is_set():
            number += 1
            path = archive / "deep" / f"n{number % 50}"
            path.write_text(str(number))
            (archive / "deep" / f"n{(number + 25) % 50}").unlink(missing_ok=True)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(50):
            assert look().files >= 5
    finally:
        end.set()
        thread.join()
    settle()
    final = look()
    assert look().sha256 == final.sha256 and look().hashed == 0


def test_the_walk_without_folder_descriptors_gives_the_same(
    look: Look, monkeypatch: pytest.MonkeyPatch, archive: Path, tmp_path: Path
) -> None:
    (archive / "link").symlink_to("a.txt")
    first = look()
    monkeypatch.setattr(module, "_HAS_DIR_FD", False)
    assert fingerprint(archive, tmp_path / "other").sha256 == first.sha256


def test_it_imports_neither_sqlalchemy_nor_pyarrow() -> None:
    code = (
        "import sys, intaglio.store, intaglio.store.fingerprint\n"
        "print([m for m in ('sqlalchemy', 'pyarrow', 'numpy', 'torch', 'pydantic') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
