"""The order of the data as a pure function of the step: any step's batch is known without running those before it.

Method: a Feistel network over the smallest domain of an even number of bits that holds the rows, walked until it lands
        on a row (Black and Rogaway (2002), "Ciphers with arbitrary finite domains"); each pass has its own keys.
"""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 4


def derive(*parts: object) -> int:
    """A 63-bit seed from any plain values; equal parts, equal seed."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rows(step: int, *, batch: int, count: int, seed: int) -> np.ndarray:
    """The ``batch`` row numbers of ``step``: int64, in [0, count). Every row comes once in each pass over the data.

    Errors: ValueError where there is no row.
    """
    return places(step, batch=batch, count=count, seed=seed)[1]


def places(step: int, *, batch: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Like ``rows``, with the number of the pass (epoch) of each row before it."""
    if count < 1:
        raise ValueError(f"count must be positive. Received: count={count}")
    position = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
    epoch, index = np.divmod(position, count)
    found = np.empty_like(index)
    for number in np.unique(epoch):
        here = epoch == number
        found[here] = _permute(index[here], count=count, key=derive("order", seed, int(number)))
    return epoch, found


def _permute(index: np.ndarray, *, count: int, key: int) -> np.ndarray:
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = [np.uint64(derive(key, number)) for number in range(_ROUNDS)]
    value = index.astype(np.uint64)
    outside = np.ones(len(value), dtype=bool)
    while outside.any():
        value[outside] = _feistel(value[outside], half=half, mask=mask, keys=keys)
        outside = value >= np.uint64(count)
    return value.astype(np.int64)


def _feistel(value: np.ndarray, *, half: int, mask: np.uint64, keys: list[np.uint64]) -> np.ndarray:
    left, right = value >> np.uint64(half), value & mask
    for key in keys:
        left, right = right, left ^ (_scramble(right ^ key) & mask)
    return (left << np.uint64(half)) | right


def _scramble(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)  # splitmix64; wraps on purpose
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
