"""Who holds a lease: a name for this very process, and whether a named process is certainly gone."""

from __future__ import annotations

import os
import platform
import sys

_LINUX = sys.platform == "linux"


def identity() -> str:
    """Boot, process namespace, pid and start time of this process; it holds no name of a person or machine on Linux."""
    return "|".join((_boot(), _namespace(), str(os.getpid()), _start(os.getpid())))


def is_gone(name: str) -> bool:
    """True only if the process ``name`` (from ``identity``) ran on this boot of this machine and has ended.

    An ended process whose parent has not collected it yet (a zombie) is gone, and so is one whose pid was given anew.
    """
    parts = name.split("|")
    if len(parts) != 4 or parts[0] != _boot() or parts[1] != _namespace() or not parts[2].isdigit():
        return False
    pid = int(parts[2])
    if _LINUX:
        start = _start(pid)
        return start == "" or start != parts[3]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it lives and belongs to someone else
    return False


def _boot() -> str:
    if _LINUX:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    return platform.node()


def _namespace() -> str:
    return os.readlink("/proc/self/ns/pid") if _LINUX else ""


def _start(pid: int) -> str:
    """Start time of a running process in clock ticks since boot; empty when there is none or it is a zombie."""
    if not _LINUX:
        return ""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before ")" may hold anything
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in (b"Z", b"X", b"x") else fields[19].decode("ascii")
