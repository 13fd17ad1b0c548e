"""Reading a foreign tar.gz or zip as a stream of files: regular ones only, names, counts and bytes checked.

Traps closed here: ``..`` and absolute names, links, devices, sparse members, encrypted members, headers that claim
more than there is, compression bombs (bytes that come out are counted, not believed), and oversized central
directories.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from intaglio.core.i18n import t
from intaglio.data._files import safe_name
from intaglio.media import Unreadable

MAX_FILES = 1_000_000
MAX_FILE_BYTES = 256 << 20
MAX_TOTAL_BYTES = 8 << 30
MAX_DIRECTORY_BYTES = 64 << 20

Member = tuple[str, bytes | Unreadable]
"""The name of a member and its content, or why it was refused."""


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[Member]:
    """The wanted files of an archive, in the archive's order; only one is in memory at a time.

    Errors: Unreadable where the archive as a whole is damaged, a bomb, or neither tar.gz nor zip.
    """
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        if head[:2] == b"\x1f\x8b":
            yield from _tar(file, wanted)
        elif head[:2] == b"PK":
            yield from _zip(file, wanted)
        else:
            raise Unreadable(t("neither a .tgz nor a .whl or .zip archive"))


def _admit(name: str, wanted: Callable[[str], bool]) -> str | Unreadable | None:
    """The checked name of a wanted member, the refusal of a hostile one, None for one nobody asked for."""
    try:
        checked = safe_name(name)
    except Unreadable as reason:
        return reason
    return checked if wanted(checked) else None


# ------------------------------------------------------------------------------------------------------------------ tar
class _Counted(io.RawIOBase):
    """A gzip stream that counts what comes out and refuses single reads no honest archive makes."""

    def __init__(self, file: BinaryIO) -> None:
        self._stream = gzip.GzipFile(fileobj=file, mode="rb")
        self._done = 0

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > MAX_FILE_BYTES + (1 << 20):
            raise Unreadable(t("its headers claim {size} bytes at once", size=f"{size:,}"))
        data = self._stream.read(size)
        self._done += len(data)
        if self._done > MAX_TOTAL_BYTES:
            raise Unreadable(t("it unpacks to more than {limit} MB: a compression bomb", limit=MAX_TOTAL_BYTES >> 20))
        return data


def _tar(file: BinaryIO, wanted: Callable[[str], bool]) -> Iterator[Member]:
    try:
        with tarfile.open(fileobj=_Counted(file), mode="r|", errorlevel=2, encoding="utf-8") as archive:
            for count, info in enumerate(archive, 1):
                archive.members = []  # type: ignore[attr-defined]  # else a list of all headers grows
                if count > MAX_FILES:
                    raise Unreadable(t("more than {limit} files in it", limit=f"{MAX_FILES:,}"))
                if info.isdir():
                    continue
                name = _admit(info.name, wanted)
                if isinstance(name, Unreadable):
                    yield info.name, name
                elif name is not None:
                    yield name, _tar_content(archive, info)
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, MemoryError) as error:
        raise Unreadable(t("the archive is damaged or truncated ({error})", error=str(error)[:120])) from None


def _tar_content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes | Unreadable:
    if not info.isreg() or info.issparse():
        return Unreadable(t("a link or special file; only regular files are read"))
    if info.size > MAX_FILE_BYTES:
        return Unreadable(t("larger than {limit} MB", limit=MAX_FILE_BYTES >> 20))
    stream = archive.extractfile(info)
    data = stream.read() if stream is not None else b""
    return (
        data
        if len(data) == info.size
        else Unreadable(t("truncated: {got} of {wanted} bytes", got=len(data), wanted=info.size))
    )


# ------------------------------------------------------------------------------------------------------------------ zip
def _zip(file: BinaryIO, wanted: Callable[[str], bool]) -> Iterator[Member]:
    _check_directory(file)
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            if len(infos) > MAX_FILES:
                raise Unreadable(t("more than {limit} files in it", limit=f"{MAX_FILES:,}"))
            total = 0
            for info in infos:
                if info.is_dir():
                    continue
                name = _admit(info.filename, wanted)
                if isinstance(name, Unreadable):
                    yield info.filename, name
                elif name is not None:
                    content = _zip_content(archive, info)
                    total += len(content) if isinstance(content, bytes) else 0
                    if total > MAX_TOTAL_BYTES:
                        raise Unreadable(
                            t("it unpacks to more than {limit} MB: a compression bomb", limit=MAX_TOTAL_BYTES >> 20)
                        )
                    yield name, content
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, ValueError, NotImplementedError, MemoryError) as error:
        raise Unreadable(t("the archive is damaged or truncated ({error})", error=str(error)[:120])) from None


def _check_directory(file: BinaryIO) -> None:
    """Refuse a central directory that would fill the memory before one name is seen."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 66_000))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    claimed = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    if claimed != 0xFFFFFFFF and claimed > MAX_DIRECTORY_BYTES or b"PK\x06\x06" in tail and size > 1 << 32:
        raise Unreadable(t("its list of files is too long"))


def _zip_content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | Unreadable:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return Unreadable(t("a link or special file; only regular files are read"))
    if info.flag_bits & 1:
        return Unreadable(t("encrypted"))
    try:
        with archive.open(info) as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return Unreadable(t("damaged ({error})", error=str(error)[:80]))
    return Unreadable(t("larger than {limit} MB", limit=MAX_FILE_BYTES >> 20)) if len(data) > MAX_FILE_BYTES else data
