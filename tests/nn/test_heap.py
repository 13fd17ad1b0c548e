"""Freed memory is kept inside and given back afterwards."""

from __future__ import annotations

import platform

import pytest
import torch

from intaglio.nn.heap import kept

resource = pytest.importorskip("resource")
GLIBC = platform.libc_ver()[0] == "glibc"


def _faults(times: int) -> int:
    """Pages that the system gave anew while a pass through some layers was made and forgotten so many times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        x = torch.ones(1 << 20)
        for _ in range(6):
            x = torch.cat([x + 1.0, x])[: 1 << 20]
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt) - before


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_freed_memory_is_not_cleared_anew() -> None:
    with kept(), kept():
        _faults(8)
        inside = _faults(8)
    pages = 8 * 7 * (4 << 20) // resource.getpagesize()  # of the sums alone
    assert inside < pages / 4


def test_an_error_inside_comes_out() -> None:
    with pytest.raises(ValueError, match="inside"), kept():
        raise ValueError("inside")
