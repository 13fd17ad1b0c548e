"""Whether a training fits into memory, asked before it starts."""

from __future__ import annotations

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


def check_room(need_bytes: int, ctx: Context, *, fix: str) -> None:
    """Refuse what would not fit. Errors: UserError with ``fix`` where less than ``need_bytes`` are free."""
    free = free_bytes(ctx.device)
    if free is not None and need_bytes > free:
        what = t(
            "this training needs about {need:.1f} GB of memory; {free:.1f} GB are free",
            need=need_bytes / 1e9,
            free=free / 1e9,
        )
        raise UserError(what, where=f"[models.{ctx.step}]", fix=fix)
