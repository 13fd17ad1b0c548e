"""What every test stands on: its own signing authority, English messages, and golden files."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what it puts in the background deaf to Ctrl-C,
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and so would be every process that a test interrupts


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test touches the authority or the caches of the person who runs it; worker processes inherit this."""
    patch = pytest.MonkeyPatch()
    patch.setenv("INTAGLIO_HOME", str(tmp_path_factory.mktemp("home")))
    patch.setenv("INTAGLIO_LANG", "en")
    yield
    patch.undo()


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """``golden(name, text)``: the text equals ``tests/golden/<name>``; ``make golden`` writes it instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("INTAGLIO_GOLDEN"):
            path.write_text(text, "utf-8")
        assert path.is_file(), f"{path.name} is missing: run `make golden` and read the diff"
        assert text == path.read_text("utf-8"), f"{name} changed: if that is right, `make golden`, and read the diff"

    return compare


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` say why they did not run where there is no GPU; torch is imported only if there are any."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
