"""Where things lie that belong to a person rather than to a project, and can be made again."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def cache_folder(kind: str) -> Path:
    """``$INTAGLIO_HOME/cache/kind``, else below the user's cache folder of the system; it need not exist yet."""
    home = os.environ.get("INTAGLIO_HOME", "")
    if home:
        return Path(home) / "cache" / kind
    from platformdirs import user_cache_path

    return user_cache_path("intaglio") / kind


def remembered(path: Path) -> dict[str, Any]:
    """What ``remember`` wrote there; empty where nothing can be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def numbers(value: Any) -> list[float]:
    """A remembered row of finite numbers; empty where it is anything else, as in a file edited by hand."""
    row = value if isinstance(value, list) else []
    return [float(each) for each in row] if all(_finite(each) for each in row) else []


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def remember(path: Path, values: Mapping[str, Any]) -> None:
    """Whole or not at all; failing to write it costs time only."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.with_suffix(f".{os.getpid()}")
        temp.write_text(json.dumps(values), "utf-8")
        temp.replace(path)
