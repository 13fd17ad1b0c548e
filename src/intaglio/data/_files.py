"""Reading foreign files safely: inside the project, no links, regular files only, sizes capped, reasons for people."""

from __future__ import annotations

import codecs
import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from intaglio.core.contracts import Context
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable

CHUNK_BYTES = 1 << 20
MAX_PICTURE_BYTES = 256 << 20
MAX_UNPACKED_BYTES = 16 << 30
MAX_UNPACKED_RATIO = 200
_IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx", "icon\r"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a folder: an absolute path to open, its path for people, and why it cannot be read (or ``""``)."""

    path: str
    origin: str
    size_bytes: int
    refused: str = ""

    @property
    def name(self) -> str:
        return self.origin.rsplit("/", 1)[-1]


# ------------------------------------------------------------------------------------------------------- where to read
def place(value: str, ctx: Context, *, folder: bool | None = None) -> Path:
    """The absolute path of what the config names, checked to lie inside the project.

    folder: True where only a folder will do, False where only a file.
    Errors: UserError where it is missing, of the wrong kind, unreadable, or outside the project.
    """
    where = f"intaglio.toml [data.{ctx.step}]"
    if not value.strip() or "\0" in value:
        raise UserError(t("no path is given"), where=where, fix=t('path = "archive/..."'))
    root = ctx.project.resolve()
    path = root / value
    try:
        inside = path.resolve().is_relative_to(root)
        found = path.exists()
    except (OSError, RuntimeError) as error:
        raise UserError(t("{path} cannot be read: {error}", path=value, error=error), where=where) from None
    if not inside:
        raise UserError(
            t("{path} lies outside the project folder", path=value),
            where=where,
            fix=t("move or copy it into the project, so that the project can be moved and made again"),
        )
    if not found:
        raise UserError(t("{path} does not exist", path=value), where=where, fix=_near(path))
    if folder is not None and path.is_dir() != folder:
        wanted, got = (t("a folder"), t("a file")) if folder else (t("a file"), t("a folder"))
        raise UserError(t("{path} is {got}; {wanted} is needed", path=value, got=got, wanted=wanted), where=where)
    return path


def _near(path: Path) -> str:
    import difflib

    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return t("make it, or correct the path")
    close = difflib.get_close_matches(path.name, names, n=1)
    return t("did you mean '{name}'?", name=close[0]) if close else t("make it, or correct the path")


def origin_of(path: Path, ctx: Context) -> str:
    """The path relative to the project, with ``/``, fit to be stored (undecodable names are spelled with U+FFFD)."""
    return printable(path.relative_to(ctx.project.resolve()).as_posix())


def printable(name: str) -> str:
    """A file name that can be stored and shown: undecodable bytes and control characters become U+FFFD."""
    clean = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return clean if clean.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in clean)


def walk(root: Path, ctx: Context) -> Iterator[list[Entry]]:
    """The files below ``root``, one list a folder, all sorted; hidden ones left out, links never followed."""
    pending: list[tuple[str, str]] = [(str(root), origin_of(root, ctx))]
    while pending:
        folder, origin = pending.pop()
        files, folders = _list(folder, "" if origin == "." else f"{origin}/")
        if files:
            yield files
        pending.extend(reversed(folders))


def _list(folder: str, prefix: str) -> tuple[list[Entry], list[tuple[str, str]]]:
    files: list[Entry] = []
    folders: list[tuple[str, str]] = []
    try:
        with os.scandir(folder) as scan:
            found = sorted(scan, key=lambda each: each.name)
    except OSError as error:
        return [Entry(folder, prefix.rstrip("/"), 0, os_reason(error))], []
    for each in found:
        if each.name.startswith(".") or each.name.lower() in _IGNORED:
            continue
        origin = prefix + printable(each.name)
        if each.is_symlink():
            files.append(Entry(each.path, origin, 0, _link_reason(each.path, folder)))
        elif each.is_dir(follow_symlinks=False):
            folders.append((each.path, origin))
        else:
            files.append(_entry(each, origin))
    return files, folders


def _entry(each: os.DirEntry[str], origin: str) -> Entry:
    try:
        info = each.stat(follow_symlinks=False)
    except OSError as error:
        return Entry(each.path, origin, 0, os_reason(error))
    refused = "" if stat.S_ISREG(info.st_mode) else t("not a regular file")
    return Entry(each.path, origin, info.st_size, refused)


def _link_reason(path: str, folder: str) -> str:
    try:
        inside = Path(path).resolve(strict=True).is_relative_to(Path(folder).resolve())
    except (OSError, RuntimeError):
        return t("a link that leads nowhere")
    return t("a link; the file it names is read where it lies") if inside else t("a link that leaves the folder")


def os_reason(error: OSError) -> str:
    """Why the system refused a file, for people."""
    if isinstance(error, PermissionError):
        return t("permission denied")
    if isinstance(error, FileNotFoundError):
        return t("it vanished while it was read")
    return t("it cannot be read: {error}", error=error.strerror or type(error).__name__)


# ---------------------------------------------------------------------------------------------------------- how to read
def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; never follows a link in the last place, never waits for a pipe.

    Errors: Unreadable with the reason.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise Unreadable(os_reason(error)) from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise Unreadable(t("not a regular file"))
    return os.fdopen(number, "rb")


def read_bytes(path: str | Path, limit: int) -> bytes:
    """The whole file. Errors: Unreadable where it is longer than ``limit`` bytes or cannot be read."""
    with open_regular(path) as file:
        try:
            data = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)
        except OSError as error:
            raise Unreadable(os_reason(error)) from None
    if len(data) > limit:
        raise Unreadable(t("larger than {limit} MB", limit=limit >> 20))
    return data


def read_head(path: str | Path, size: int) -> bytes:
    """The first ``size`` bytes. Errors: Unreadable."""
    with open_regular(path) as file:
        try:
            return file.read(size)
        except OSError as error:
            raise Unreadable(os_reason(error)) from None


class Unpacked:
    """A gzip stream as a readable file that refuses to grow past its limits (a bomb); not seekable.

    max_bytes: of what comes out. ratio: of what comes out to what went in, beyond the first 64 MiB.
    """

    def __init__(self, file: BinaryIO, *, max_bytes: int = MAX_UNPACKED_BYTES, ratio: int = MAX_UNPACKED_RATIO) -> None:
        packed = os.fstat(file.fileno()).st_size
        self._limit = min(max_bytes, max(64 << 20, packed * ratio))
        self._file = file
        self._stream = gzip.GzipFile(fileobj=file, mode="rb")
        self._done = 0

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes. Errors: Unreadable for a damaged or oversized stream."""
        left = self._limit - self._done
        try:
            data = self._stream.read(left + 1 if size < 0 else min(size, left + 1))
        except (OSError, EOFError, zlib.error) as error:
            raise Unreadable(t("the gzip stream is damaged or truncated ({error})", error=str(error)[:80])) from None
        return self._count(data)

    def readline(self, size: int = -1) -> bytes:
        """One line, at most ``size`` bytes. Errors: as for ``read``."""
        left = self._limit - self._done
        try:
            data = self._stream.readline(left + 1 if size < 0 else min(size, left + 1))
        except (OSError, EOFError, zlib.error) as error:
            raise Unreadable(t("the gzip stream is damaged or truncated ({error})", error=str(error)[:80])) from None
        return self._count(data)

    def _count(self, data: bytes) -> bytes:
        self._done += len(data)
        if self._done > self._limit:
            raise Unreadable(t("it unpacks to more than {limit} MB: a compression bomb", limit=self._limit >> 20))
        return data

    def close(self) -> None:
        self._stream.close()
        self._file.close()

    def __enter__(self) -> Unpacked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_unpacked(path: str | Path) -> BinaryIO:
    """A regular file, unpacked where its content is gzip. Errors: Unreadable."""
    file = open_regular(path)
    head = file.read(2)
    file.seek(0)
    return cast(BinaryIO, Unpacked(file)) if head == b"\x1f\x8b" else file


def text_chunks(file: BinaryIO, encoding: str) -> Iterator[str]:
    """A file's text in pieces of about 1 MiB. Errors: Unreadable where the encoding breaks, naming the byte."""
    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0
    while True:
        data = file.read(CHUNK_BYTES)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            at = done + error.start
            raise Unreadable(t("not valid {encoding} at byte {byte}", encoding=encoding, byte=at)) from None
        if text:
            yield text
        if not data:
            return
        done += len(data)


def shards(path: Path, suffixes: tuple[str, ...], ctx: Context) -> Iterator[Entry]:
    """The file itself, or every file below the folder whose name ends in one of ``suffixes``."""
    if path.is_file():
        yield Entry(str(path), origin_of(path, ctx), path.stat().st_size)
        return
    for folder in walk(path, ctx):
        for entry in folder:
            if entry.refused or entry.name.lower().endswith(suffixes):
                yield entry


def safe_name(name: str) -> str:
    """A relative path that stays below its folder, with ``/``. Errors: Unreadable for ``..``, absolute or odd names."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if not name or pure.is_absolute() or ".." in pure.parts or "\0" in name or (pure.parts and ":" in pure.parts[0]):
        raise Unreadable(t("the name '{name}' leaves its folder", name=printable(name)[:80]))
    return pure.as_posix()
