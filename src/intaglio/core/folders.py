"""Where things lie that belong to a person rather than to a project, and can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """``$INTAGLIO_HOME/cache/kind``, else below the user's cache folder of the system; it need not exist yet."""
    home = os.environ.get("INTAGLIO_HOME", "")
    if home:
        return Path(home) / "cache" / kind
    from platformdirs import user_cache_path

    return user_cache_path("intaglio") / kind
