"""The order of the data: each row once a pass, any step known at once, seeds independent."""

from __future__ import annotations

import numpy as np
import pytest

from intaglio.nn.order import derive, places, rows


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 999, 4096])
def test_each_row_comes_once_a_pass(count: int) -> None:
    steps = -(-3 * count // 7)
    order = np.concatenate([rows(step, batch=7, count=count, seed=3) for step in range(steps)])[: 3 * count]
    for number in range(3):
        assert sorted(order[number * count : (number + 1) * count]) == list(range(count))
    if count > 60:
        assert not np.array_equal(order[:count], order[count : 2 * count])


def test_epoch_comes_with_the_row() -> None:
    epoch, row = places(1, batch=4, count=6, seed=0)
    assert epoch.tolist() == [0, 0, 1, 1] and row.dtype == np.int64


def test_order_looks_random() -> None:
    order = np.concatenate([rows(step, batch=100, count=10_000, seed=1) for step in range(100)])
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert not np.array_equal(order[:100], rows(0, batch=100, count=10_000, seed=2))


def test_billions_of_rows_need_no_memory() -> None:
    assert rows(123_456_789, batch=8, count=3_000_000_000, seed=5).max() < 3_000_000_000


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="count=0"):
        rows(0, batch=1, count=0, seed=0)


def test_derive_tells_parts_apart() -> None:
    assert derive("a", 1) == derive("a", 1) != derive("a1") and 0 <= derive("x") < 2**63
