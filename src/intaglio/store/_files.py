"""Atomic files and folders: built under a locked temporary name, synced, renamed; leftovers of a kill are swept.

A temporary file or folder carries an advisory lock (``flock``) as long as its writer lives. The kernel drops the lock
when the process dies, so a sweeper can tell a leftover from work in progress, across containers and restarts alike.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from intaglio.core.errors import UserError
from intaglio.core.i18n import t

try:
    import fcntl as _fcntl

    fcntl: Any = _fcntl
except ImportError:  # Windows: an open file cannot be removed there, which protects live writers as well
    fcntl = None

MARK = ".tmp-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(UserError):
    """There is no room to write; what was stored before is whole."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk, a quota and missing rights below ``folder`` into words a person understands."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(folder) from error
        if error.errno == errno.EROFS:
            raise UserError(
                t("the disk can only be read, not written"),
                where=str(folder),
                fix=t("choose a folder on a disk that can be written"),
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UserError(
                t("you have no right to write here"),
                where=str(folder),
                fix=t("check the rights of this folder"),
            ) from error
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            raise UserError(t("there is something here that is not a folder"), where=str(folder)) from error
        raise


def disk_full(folder: Path) -> DiskFull:
    """The error for a full disk (or a file-size or quota limit) below ``folder``."""
    return DiskFull(
        t("there is no room left on the disk; nothing stored before was lost"),
        where=str(folder),
        fix=t("free some space (or raise the quota), then run again: it goes on where it stopped"),
    )


def fsync_folder(folder: Path) -> None:
    """Make renames and removals in ``folder`` durable; a no-op where folders cannot be opened."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def can_sync_all() -> bool:
    """True where one call makes everything written so far durable, by whichever process (Linux ``syncfs``)."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "syncfs")


def sync_all(folder: Path) -> None:
    """Make every earlier write to the file system of ``folder`` durable; OSError where the disk refused one."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(fd)


def _lock(fd: int, *, wait: bool) -> bool:
    """Take the exclusive lock; False when another holds it, or when the file system knows no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if wait and error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return True  # this file system has no locks: nothing will be swept here either
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return False
        raise
    return True


class TempFile:
    """A locked temporary file that becomes ``target`` by ``commit``, or nothing at all.

    Use as a context manager: leaving it without ``commit`` removes the file.
    """

    def __init__(self, folder: Path, *, prefix: str = "") -> None:
        self.file, self.path = _create(folder, prefix)
        self._done = False

    def commit(self, target: Path, *, mode: int = 0o444, durable: bool = True) -> None:
        """Rename to ``target``, replacing what is there; a reader sees the old or the new, never a part."""
        self.file.flush()
        if os.name != "nt":
            os.fchmod(self.file.fileno(), mode)
        if durable:
            os.fsync(self.file.fileno())
        if os.name == "nt":
            self.file.close()
        try:
            os.replace(self.path, target)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.path, target)
            if durable:
                fsync_folder(target.parent.parent)
        self._done = True
        self.file.close()
        if durable:
            fsync_folder(target.parent)

    def discard(self) -> None:
        """Remove the temporary file; safe to call at any time, also after ``commit``."""
        if not self._done:
            self._done = True
            with contextlib.suppress(OSError):  # a full disk may refuse the flush; the file goes away anyway
                self.file.close()
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> TempFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()


def _create(folder: Path, prefix: str) -> tuple[IO[bytes], Path]:
    while True:
        path = folder / f"{prefix}{MARK}{secrets.token_hex(8)}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
        except FileNotFoundError:
            folder.mkdir(parents=True, exist_ok=True)
            continue
        _lock(fd, wait=True)
        if os.fstat(fd).st_nlink:
            return os.fdopen(fd, "wb"), path
        os.close(fd)  # a sweeper was faster than our lock: take another name


@contextlib.contextmanager
def scratch_folder(parent: Path, *, prefix: str = "") -> Iterator[Path]:
    """A locked, empty folder in ``parent`` that is removed when the block ends, or swept if its writer is killed."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        path = parent / f"{prefix}{MARK}{secrets.token_hex(8)}"
        path.mkdir()
        try:
            fd = os.open(path, os.O_RDONLY) if fcntl is not None else -1
        except FileNotFoundError:
            continue  # a sweeper was faster than our lock: take another name
        if fd < 0 or (_lock(fd, wait=True) and os.fstat(fd).st_nlink):
            break
        os.close(fd)
    try:
        yield path
    finally:
        if path.exists():
            remove_folder(path)
        if fd >= 0:
            os.close(fd)


@contextlib.contextmanager
def temp_folder(target: Path) -> Iterator[Path]:
    """A scratch folder beside ``target`` that takes its place when the block ends well.

    An existing ``target`` is exchanged in one step where the system can (Linux), and then removed.
    """
    prefix = f".{target.name}"
    sweep(target.parent, prefix=prefix)
    with scratch_folder(target.parent, prefix=prefix) as path:
        yield path
        _take_place(path, target)
        fsync_folder(target.parent)


def _take_place(path: Path, target: Path) -> None:
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir()):
        raise UserError(t("there is something here that is not a folder"), where=str(target))
    try:
        os.rename(path, target)  # onto nothing, or onto an empty folder
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if not _exchange(path, target):  # two renames: a reader may find nothing for a moment, never a half
        aside = path.with_name(path.name + "-old")
        os.rename(target, aside)
        os.rename(path, target)
        remove_folder(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step (Linux ``renameat2`` with RENAME_EXCHANGE); False where that is not to be had."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here = -100  # AT_FDCWD
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), 2) == 0


def sweep(folder: Path, *, prefix: str = "") -> int:
    """Remove temporary files and folders whose writers are dead; returns how many. Live writers keep theirs."""
    removed = 0
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return 0
    for entry in entries:
        if entry.name.startswith(prefix + MARK) and not entry.is_symlink():
            removed += _sweep_one(Path(entry.path), is_folder=entry.is_dir(follow_symlinks=False))
    return removed


def _sweep_one(path: Path, *, is_folder: bool) -> int:
    if fcntl is None:
        try:
            remove_folder(path) if is_folder else path.unlink()
        except OSError:
            return 0  # in use
        return 1
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return 0  # finished or removed meanwhile, or not ours to read
    try:
        if not _lock(fd, wait=False):
            return 0
        remove_folder(path) if is_folder else path.unlink(missing_ok=True)
        return 1
    finally:
        os.close(fd)


def remove_folder(folder: Path) -> None:
    """Remove a folder of our own with everything in it, read-only files and folders included."""
    unlocked = False
    while os.path.lexists(folder):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue  # another process is removing it as well
        except PermissionError:
            if unlocked:
                raise
            unlocked = True
            _unlock(folder)


def _unlock(folder: Path) -> None:
    os.chmod(folder, stat.S_IRWXU)
    for place, folders, files in os.walk(folder):  # top down: each is opened before it is entered
        for name in (*folders, *files):
            path = os.path.join(place, name)
            if not os.path.islink(path):
                os.chmod(path, stat.S_IRWXU)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (made when missing) between processes; waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(fd, wait=True)
        yield
    finally:
        os.close(fd)
