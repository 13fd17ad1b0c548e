"""Whether a training fits into memory, asked before it starts."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from intaglio.core.contracts import Context
from intaglio.core.errors import UserError
from intaglio.core.i18n import t


def free_bytes(device: str, *, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Memory that can still be had on the device, in bytes; None where the system does not tell."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text("utf-8").splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def own_bytes(*, statm: Path = Path("/proc/self/statm")) -> int:
    """Memory this process has already, in bytes; 0 where the system does not tell."""
    try:
        return int(statm.read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def check_room(need_bytes: int, ctx: Context, *, fix: str) -> None:
    """Refuse what would not fit. Errors: UserError with ``fix`` where ``need_bytes``, of the whole process, are more
    than those that are free and, on a CPU, those it has already: Python and torch alone are some 0.4 GB."""
    free = free_bytes(ctx.device)
    if free is not None and torch.device(ctx.device).type == "cpu":
        free += own_bytes()
    if free is not None and need_bytes > free:
        what = t(
            "this training needs about {need:.1f} GB of memory; {free:.1f} GB are free",
            need=need_bytes / 1e9,
            free=free / 1e9,
        )
        raise UserError(what, where=f"[models.{ctx.step}]", fix=fix)
