"""Memory that a training frees and wants again at once stays with the process.

glibc gives large blocks back to the system when they are freed, and the system clears each page anew when they are
wanted again, some thousand pages a step: a sixth of a small GPT's time. See mallopt(3).
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h
_GIVING = ((_TRIM_THRESHOLD, 64 << 20), (_TOP_PAD, 128 << 10), (_MMAP_MAX, 65_536))  # what it comes to by itself
_KEEPING = ((_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, 64 << 20), (_MMAP_MAX, 0))
_depth = 0


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Inside: freed memory is kept for the next to ask; afterwards it goes back to the system. Does nothing where the C
    library is not glibc. May be nested; concerns the whole process.
    """
    global _depth
    library = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    _depth += 1
    _set(library, _KEEPING)
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _set(library, _GIVING)
            if library is not None:
                library.malloc_trim(0)


def _set(library: ctypes.CDLL | None, options: tuple[tuple[int, int], ...]) -> None:
    for option, value in options if library is not None else ():
        library.mallopt(option, value)  # type: ignore[union-attr]
