"""One training of every component with its TINY, for all tests of contracts together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contracts import _material as material
from tests.support import RunContext

Fitted = Callable[[str], tuple[RunContext, dict[str, Any]]]


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """``fitted(name)``: the context and figures of one training of each component, made once; never written to."""
    kept: dict[str, tuple[RunContext, dict[str, Any]]] = {}

    def once(name: str) -> tuple[RunContext, dict[str, Any]]:
        if name not in kept:
            kept[name] = material.fit(name, tmp_path_factory.mktemp(name))
        return kept[name]

    return once
