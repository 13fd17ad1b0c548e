"""One token of one sequence through a transformer, as one compiled call: as fast as memory hands over the weights.

A token asks one multiplication of each weight, so its time is that of reading all weights once; calls of a tensor
library, some hundreds a token, would come on top of it. Compiled by Numba at first use (some five seconds; later
processes read the result from its cache in less than one), so for whoever writes thousands of tokens alone.
Shapes:  D width, N query heads, K key and value heads, H head size, F hidden of the MLP, V vocabulary, Y layers,
         L columns of the cache.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange
from numba.extending import overload
from torch import Tensor

from intaglio.nn.transformer import QK_GAIN, Transformer

ORDER_FREE = {"reassoc", "contract", "nsz", "arcp"}  # sums in any order; what is not a number stays none


class Alone:
    """The weights row by row. dtype: float32, or bfloat16 for half the reading.

    Sums are in float32 and do not depend on the number of threads. Safe to use from several threads.
    Errors: RuntimeError where this machine has no threads Numba can use (OpenMP).
    """

    def __init__(self, model: Transformer, *, dtype: torch.dtype = torch.float32) -> None:
        shape = self.shape = model.shape
        with torch.no_grad():
            gate, up = (
                torch.stack([block.gate_up.weight.chunk(2)[half] for block in model.blocks]) for half in range(2)
            )
            stacked = (
                torch.stack([block.qkv.weight for block in model.blocks]),
                torch.stack([block.out.weight for block in model.blocks]),
                torch.stack([gate, up], 2).flatten(1, 2),  # a gate, its input, the next gate: read in one stream
                torch.stack([block.down.weight for block in model.blocks]),
                model.embedding.weight * model.gain,
            )
            self.weights = tuple(_numbers(each, dtype) for each in stacked)
        self.embedding = model.embedding.weight.detach().float().numpy()
        self.turn = torch.view_as_real(model.turn_TH * QK_GAIN).numpy()  # (T, H/2, 2)
        self.rows, self.seen = (shape.heads + 2 * shape.kv_heads) * shape.head_dim, shape.heads * shape.head_dim
        _check_threads()

    def advance(self, token: int, keys: Tensor, values: Tensor, *, first: int, column: int, threads: int) -> Tensor:
        """Read ``token`` at ``column`` of the cache (Y, K, L, H); it sees the columns from ``first`` on. Logits (V)."""
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        shape = self.shape
        space = [np.empty(size, np.float32) for size in (self.rows, self.seen, shape.hidden, (shape.heads, column + 1))]
        logits = np.empty(shape.vocab, np.float32)
        x, turn = self.embedding[token].copy(), self.turn[min(column - first, shape.context - 1)]
        cache, eps = (keys.numpy(), values.numpy()), np.float32(shape.eps)
        _advance(x, *self.weights, *cache, turn, first, column, eps, *space, logits)
        return torch.from_numpy(logits)


def _numbers(weight: Tensor, dtype: torch.dtype) -> np.ndarray:
    """As NumPy has it: bfloat16 as its 16 bits."""
    weight = weight.detach().to(dtype).contiguous()
    return weight.view(torch.uint16).numpy() if dtype == torch.bfloat16 else weight.numpy()


def _check_threads() -> None:
    """Numba's own threads (its layer "workqueue") take three times as long as none: OpenMP or nothing."""
    numba.config.THREADING_LAYER = "omp"
    try:
        _fill(np.empty(2, np.float32))
    except ValueError as error:
        raise RuntimeError(f"Numba finds no OpenMP here: {error}") from error


# ------------------------------------------------------------------------------------------------- what is compiled
def _dot(row: np.ndarray, x: np.ndarray) -> Any:
    """Sum of the products of two rows; ``row`` may hold bfloat16."""
    raise NotImplementedError  # only within compiled code


@overload(_dot, jit_options={"fastmath": ORDER_FREE})
def _dot_of(row: Any, x: Any) -> Any:
    if row.dtype == numba.uint16:

        def halves(row: Any, x: Any) -> Any:
            total = np.float32(0.0)
            for i in range(x.shape[0]):
                total += np.uint32(np.uint32(row[i]) << np.uint32(16)).view(np.float32) * x[i]
            return total

        return halves

    def whole(row: Any, x: Any) -> Any:
        total = np.float32(0.0)
        for i in range(x.shape[0]):
            total += row[i] * x[i]
        return total

    return whole


@njit(cache=True, fastmath=ORDER_FREE, inline="always")
def _exp(x: Any) -> Any:
    """exp(x), for x above -87 within (3 + 2 abs(x)) 2^-24 of its size: 2^whole by the bits of a float, 2^rest by a
    polynomial. No call, so that several are computed at once."""
    power = max(x, np.float32(-87.0)) * np.float32(1.4426950408889634)
    whole = np.floor(power + np.float32(0.5))
    rest = power - whole
    p = np.float32(1.5403530e-4)
    p = p * rest + np.float32(1.3333558e-3)
    p = p * rest + np.float32(9.6181291e-3)
    p = p * rest + np.float32(5.5504109e-2)
    p = p * rest + np.float32(2.4022651e-1)
    p = p * rest + np.float32(6.9314718e-1)
    p = p * rest + np.float32(1.0)
    return p * np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(cache=True, fastmath=ORDER_FREE, inline="always")
def _over_rms(x: Any, eps: Any) -> Any:
    return np.float32(1.0) / np.sqrt(_dot(x, x) / np.float32(x.shape[0]) + eps)


@njit(cache=True, fastmath=ORDER_FREE, inline="always")
def _turned(head: Any, turn: Any, scale: Any, to: Any) -> None:
    """Neighboring pairs of a head times ``scale``, turned."""
    for i in range(turn.shape[0]):
        a, b = head[2 * i] * scale, head[2 * i + 1] * scale
        to[2 * i] = a * turn[i, 0] - b * turn[i, 1]
        to[2 * i + 1] = a * turn[i, 1] + b * turn[i, 0]


@njit(cache=True, fastmath=ORDER_FREE, inline="always")
def _attend(q: Any, keys: Any, values: Any, first: int, end: int, chances: Any, seen: Any) -> None:
    """What a query (H) sees in the columns of one head (L, H)."""
    most = np.float32(-np.inf)
    for at in range(first, end):
        chances[at] = _dot(keys[at], q)
        most = max(most, chances[at])
    total = np.float32(0.0)
    for at in range(first, end):
        chances[at] = _exp(chances[at] - most)
        total += chances[at]
    seen[:] = np.float32(0.0)
    for at in range(first, end):
        share = chances[at] / total
        for i in range(seen.shape[0]):
            seen[i] += share * values[at, i]


@njit(cache=True, parallel=True)
def _fill(x: Any) -> None:
    for i in prange(x.shape[0]):
        x[i] = 1.0


@njit(cache=True, parallel=True, fastmath=ORDER_FREE, error_model="numpy")
def _advance(  # type: ignore[no-untyped-def]
    x, qkv, out, gate_up, down, vocabulary, keys, values, turn, first, column, eps, heads, seen, hidden, chances, logits
):
    """x (D) becomes the stream behind the last layer, logits (V) what follows from it; keys and values get a column."""
    k, h, n = keys.shape[1], keys.shape[3], chances.shape[0]
    group, scale = n // k, np.float32(1.0) / np.sqrt(np.float32(h))
    for layer in range(qkv.shape[0]):
        norm = _over_rms(x, eps)
        for i in prange(heads.shape[0]):
            heads[i] = norm * _dot(qkv[layer, i], x)
        for i in prange(k):
            key = heads[(n + i) * h : (n + i + 1) * h]
            _turned(key, turn, _over_rms(key, eps), keys[layer, i, column])
            values[layer, i, column] = heads[(n + k + i) * h : (n + k + i + 1) * h]
            for j in range(i * group, (i + 1) * group):
                q = heads[j * h : (j + 1) * h]
                _turned(q, turn, _over_rms(q, eps) * scale, q)
                _attend(q, keys[layer, i], values[layer, i], first, column + 1, chances[j], seen[j * h : (j + 1) * h])
        for i in prange(x.shape[0]):
            x[i] += _dot(out[layer, i], seen)
        norm = _over_rms(x, eps)
        for i in prange(hidden.shape[0]):
            gate = norm * _dot(gate_up[layer, 2 * i], x)
            hidden[i] = norm * _dot(gate_up[layer, 2 * i + 1], x) * gate / (np.float32(1.0) + _exp(-gate))
        for i in prange(x.shape[0]):
            x[i] += _dot(down[layer, i], hidden)
    norm = _over_rms(x, eps)
    for i in prange(logits.shape[0]):
        logits[i] = norm * _dot(vocabulary[i], x)
