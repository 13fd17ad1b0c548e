"""The content hash of a file or folder, fast when nothing changed: one walk with ``stat``, nothing read.

The listing (name, size, mtime, ctime, inode of every file) is hashed; if it equals the one of the last time, so does
the content. Otherwise only files whose line changed are read. The trap, known from git as "racy": a file edited within
the clock tick of the walk keeps its times, so a file that changed just before the walk is read again the next time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.store._files import TempFile, writing
from intaglio.store._network import NETWORK, file_system

_MAGIC = b"intaglio fingerprint 1\n"
_RACY_NS = 100_000_000
_RACY_COARSE_NS = 3_000_000_000  # FAT keeps times to 2 s, ext3 to 1 s: a time on the full second is suspect for longer
_RACY_NETWORK_NS = 60_000_000_000  # the server's clock is not ours
_HAS_DIR_FD = os.stat in os.supports_dir_fd and os.listdir in os.supports_fd
IGNORE = frozenset({".intaglio"})


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """sha256: of the content. files: plain files in it. bytes: their size. hashed: how many were read this time."""

    sha256: str
    files: int
    bytes: int
    hashed: int


@dataclass(frozen=True, slots=True)
class _Known:
    """Head of the cache: what the last walk found. listing is empty when a line of it is not to be trusted."""

    listing: str = ""
    sha256: str = ""
    files: int = 0
    bytes: int = 0
    body_sha256: str = ""


@dataclass(frozen=True, slots=True)
class _Folder:
    """One folder of the walk: its name below the root (with ``/`` at the end) and a line ``name NUL stat`` a file."""

    name: str
    lines: list[str]


def fingerprint(path: Path, cache: Path, *, ignore: frozenset[str] = IGNORE) -> Fingerprint:
    """Hash of a file's content, or of a folder's names and contents; what did not change is taken from ``cache``.

    Times do not enter the result. Links inside a folder enter by their text and are never followed (``path`` itself
    may be one); files and folders that cannot be read enter by name and error, devices and pipes by name.

    Args:
        path:   the file or folder; never written to.
        cache:  file for what is known of ``path``, replaced atomically; losing it costs time only.
        ignore: names of folders that are left out wherever they lie.
    Errors:
        UserError: nothing there, a single file that cannot be read, or no room for the cache.
    """
    root = os.path.realpath(path)
    started_ns = time.time_ns()
    try:
        mode = os.stat(root).st_mode
    except OSError as error:
        raise UserError(t("there is no such file or folder"), where=str(path)) from error
    folders = list(_walk(root, ignore)) if stat.S_ISDIR(mode) else [_single(root, path)]
    hasher = hashlib.sha256(f"{_user()}\0".encode())
    for folder in folders:
        hasher.update(os.fsencode("\0".join((folder.name, *folder.lines, "\0"))))
    listing = hasher.hexdigest()
    known = _load(cache)
    if known.listing == listing:
        return Fingerprint(known.sha256, known.files, known.bytes, 0)
    base = root if stat.S_ISDIR(mode) else os.path.dirname(root)
    scan = _Scan(base, _load_lines(cache, known), started_ns - _window(root))
    for folder in folders:
        for line in folder.lines:
            name, _, figures = line.partition("\0")
            scan.add(folder.name + name, figures)
    sha256 = scan.sha256() if stat.S_ISDIR(mode) else scan.only(path)
    found = _Known(listing if scan.trusted else "", sha256, scan.files, scan.bytes)
    _save(cache, found, scan.rows)
    return Fingerprint(sha256, scan.files, scan.bytes, scan.hashed)


# ------------------------------------------------------------------------------------------------------------ walking
def _figures(info: os.stat_result) -> str:
    return f"{info.st_size} {info.st_mtime_ns} {info.st_ctime_ns} {info.st_ino}"


def _walk(root: str, ignore: frozenset[str]) -> Iterator[_Folder]:
    """Every folder below ``root`` in a fixed order. What is no plain file has a letter before its figures."""
    waiting = [""]
    while waiting:
        name = waiting.pop()
        lines: list[str] = []
        folders: list[str] = []
        try:
            with _opened(f"{root}/{name}", below=bool(name)) as place:
                for entry in sorted(os.listdir(place)):
                    _look(place, entry, lines, folders)
        except FileNotFoundError:
            continue  # removed while we walked: it is not there
        except OSError as error:
            lines.append(f"\0E{error.errno}")
        waiting.extend(f"{name}{entry}/" for entry in reversed(folders) if entry not in ignore)
        yield _Folder(name, lines)


@contextlib.contextmanager
def _opened(folder: str, *, below: bool) -> Iterator[int | str]:
    """A folder to list: a descriptor where the system can (faster, and a link put in its place is not followed)."""
    if not _HAS_DIR_FD:
        yield folder
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | (os.O_NOFOLLOW if below else 0))
    try:
        yield fd
    finally:
        os.close(fd)


def _look(place: int | str, entry: str, lines: list[str], folders: list[str]) -> None:
    try:
        if isinstance(place, int):
            info = os.stat(entry, dir_fd=place, follow_symlinks=False)
        else:
            info = os.lstat(f"{place}{entry}")
    except FileNotFoundError:
        return
    except OSError as error:
        lines.append(f"{entry}\0E{error.errno}")
        return
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFREG:
        lines.append(f"{entry}\0{info.st_size} {info.st_mtime_ns} {info.st_ctime_ns} {info.st_ino}")
    elif kind == stat.S_IFDIR:
        folders.append(entry)
    else:
        lines.append(f"{entry}\0{'L' if kind == stat.S_IFLNK else 'X'}{_figures(info)}")


def _single(root: str, path: Path) -> _Folder:
    info = os.stat(root)
    if not stat.S_ISREG(info.st_mode):
        raise UserError(t("this is neither a file nor a folder"), where=str(path))
    return _Folder("", [f"{os.path.basename(root)}\0{_figures(info)}"])


# ------------------------------------------------------------------------------------------------------------ hashing
class _Scan:
    """Goes through the listing, takes hashes from the last time where the line is the same, reads the other files."""

    def __init__(self, base: str, known: dict[str, tuple[str, str]], racy_after_ns: int) -> None:
        self.base = base
        self.known = known
        self.racy_after_ns = racy_after_ns
        self.rows: list[tuple[str, str, str]] = []  # name, line (with "?" before it when not to be trusted), hash
        self.files = self.bytes = self.hashed = 0
        self.trusted = True

    def add(self, name: str, figures: str) -> None:
        kind = figures[:1]
        if kind in "LXE":
            self._add_odd(name, figures, kind)
            return
        self.files += 1
        self.bytes += int(figures.partition(" ")[0])
        before = self.known.get(name)
        if before is not None and before[0] == figures:
            self.rows.append((name, *before))
            return
        self.hashed += 1
        value, trusted = self._hash(name, figures)
        self.trusted &= trusted
        self.rows.append((name, figures if trusted else "?" + figures, value))

    def _add_odd(self, name: str, figures: str, kind: str) -> None:
        value = kind if kind == "X" else figures
        if kind == "L":
            try:
                value = "L" + hashlib.sha256(os.fsencode(os.readlink(f"{self.base}/{name}"))).hexdigest()
            except OSError:
                self.trusted = False
        elif kind == "E":
            self.trusted &= int(figures[1:]) in _RIGHTS
        self.rows.append((name, figures, value))

    def _hash(self, name: str, figures: str) -> tuple[str, bool]:
        """The content's hash, and whether the line may be trusted to tell the next change."""
        try:
            with open(os.open(f"{self.base}/{name}", os.O_RDONLY | _FLAGS), "rb", buffering=0) as file:
                before = os.fstat(file.fileno())
                value = hashlib.file_digest(file, "sha256").hexdigest()
                after = os.fstat(file.fileno())
        except OSError as error:
            return f"E{error.errno}", error.errno in _RIGHTS
        quiet = _figures(before) == _figures(after) == figures
        changed_ns = after.st_ctime_ns if os.name == "posix" else after.st_mtime_ns
        return value, quiet and self.is_settled(changed_ns)

    def is_settled(self, changed_ns: int) -> bool:
        """Did the last change happen so long before the walk that a later one shows in the time?"""
        coarse = changed_ns % 1_000_000_000 == 0
        return changed_ns < self.racy_after_ns - (_RACY_COARSE_NS if coarse else 0)

    def sha256(self) -> str:
        hasher = hashlib.sha256(b"intaglio folder 1\0")
        for name, _, value in sorted(self.rows):
            hasher.update(os.fsencode(f"{name}\0{value}\0"))
        return hasher.hexdigest()

    def only(self, path: Path) -> str:
        value = self.rows[0][2]
        if value.startswith("E"):
            raise UserError(t("this file cannot be read: {why}", why=os.strerror(int(value[1:]))), where=str(path))
        return value


_RIGHTS = (errno.EACCES, errno.EPERM)  # changed rights show in the listing; any other error may pass without a trace
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _user() -> int:
    """Another user may read other files."""
    return os.geteuid() if os.name == "posix" else 0


def _window(root: str) -> int:
    return _RACY_NETWORK_NS if file_system(Path(root)).removeprefix("fuse.") in NETWORK else _RACY_NS


# -------------------------------------------------------------------------------------------------------------- cache
def _load(cache: Path) -> _Known:
    """The head of the cache; an unknown or damaged one counts as empty."""
    try:
        with cache.open("rb") as file:
            if file.readline(100) == _MAGIC:
                return _Known(**json.loads(file.readline(4096)))
    except (OSError, ValueError, TypeError):
        return _Known()  # worth nothing to people: everything is read again
    return _Known()


def _load_lines(cache: Path, known: _Known) -> dict[str, tuple[str, str]]:
    """Name to line and hash; empty if the body is not the one its head was written with."""
    if not known.body_sha256:
        return {}
    try:
        body = cache.read_bytes().split(b"\n", 2)[2]
    except (OSError, IndexError):
        return {}
    if hashlib.sha256(body).hexdigest() != known.body_sha256:
        return {}
    parts = os.fsdecode(body).split("\0")
    return dict(zip(parts[0::3], zip(parts[1::3], parts[2::3], strict=False), strict=False))


def _save(cache: Path, known: _Known, rows: list[tuple[str, str, str]]) -> None:
    body = os.fsencode("\0".join(part for row in rows for part in row))
    head = replace(known, body_sha256=hashlib.sha256(body).hexdigest())
    with writing(cache.parent), TempFile(cache.parent) as temp:
        temp.file.write(_MAGIC + json.dumps(asdict(head)).encode("ascii") + b"\n" + body)
        temp.commit(cache, mode=0o644, durable=False)
