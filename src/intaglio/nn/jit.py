"""A transformer's next token by compiled calls: one for a sequence alone, a few a layer for many together.

A token of one sequence asks one multiplication of each weight, so its time is that of reading all weights once; calls
of a tensor library, some hundreds a token, would come on top of it. ``Alone`` does it all in one. Of many sequences the
matrix products are best left to the tensor library; ``Between`` does what stands between them, on the same threads.
Compiled by Numba at first use (some five seconds each; later processes read the result from its cache in less than
one), so for whoever writes thousands of tokens.
Shapes:  B sequences, D width, N query heads, K key and value heads, H head size, F hidden of the MLP, V vocabulary,
         Y layers, L columns of the cache.
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


class Between:
    """What a token of many sequences asks for between the matrix products: norms, turns, attention, gates; in float32.

    Sums do not depend on the number of threads. Safe to use from several threads.
    Errors: RuntimeError where this machine has no threads Numba can use (OpenMP).
    """

    def __init__(self, model: Transformer) -> None:
        shape = self.shape = model.shape
        self.eps, self.turn = np.float32(shape.eps), torch.view_as_real(model.turn_TH * QK_GAIN).numpy()  # (T, H/2, 2)
        _check_threads()

    def begin(self, threads: int) -> None:
        """Before the calls for a token: on so many threads."""
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))

    def normalized(self, x_BD: Tensor, more_BD: Tensor | None = None) -> Tensor:
        """``more_BD`` is added to x where it is given, in place; x over its root mean square."""
        found = torch.empty_like(x_BD)
        x = x_BD.numpy()
        _normalize(x, x if more_BD is None else more_BD.numpy(), more_BD is not None, self.eps, found.numpy())
        return found

    def seen(self, qkv_BR: Tensor, keys: Tensor, values: Tensor, *, pads: np.ndarray, column: int) -> Tensor:
        """What each sequence sees (B, N H) in its columns of a layer's cache (B, K, L, H), from ``pads`` (B) on.

        qkv_BR: queries, keys and values of the tokens at ``column``; the latter two are put there first.
        """
        shape = self.shape
        found = torch.empty(len(qkv_BR), shape.heads * shape.head_dim)
        chances = np.empty((len(qkv_BR), shape.kv_heads, column + 1), np.float32)
        cache = (keys.numpy(), values.numpy())
        _see(qkv_BR.numpy(), *cache, self.turn, pads, column, self.eps, chances, found.numpy())
        return found

    def gated(self, gate_up_B2F: Tensor) -> Tensor:
        """silu of the first half, times the other half: (B, F)."""
        found = torch.empty(len(gate_up_B2F), gate_up_B2F.shape[1] // 2)
        _gate(gate_up_B2F.numpy(), found.numpy())
        return found


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
    """What a query (H) sees in the columns of one head (L, H); four at a time, as they share the query and the sum."""
    zero, fours = np.float32(0.0), end - (end - first) % 4
    most = np.float32(-np.inf)
    for at in range(first, fours, 4):
        a, b, c, d = zero, zero, zero, zero
        for i in range(q.shape[0]):
            a += keys[at, i] * q[i]
            b += keys[at + 1, i] * q[i]
            c += keys[at + 2, i] * q[i]
            d += keys[at + 3, i] * q[i]
        chances[at], chances[at + 1], chances[at + 2], chances[at + 3] = a, b, c, d
        most = max(most, max(max(a, b), max(c, d)))
    for at in range(fours, end):
        chances[at] = _dot(keys[at], q)
        most = max(most, chances[at])
    total = zero
    for at in range(first, end):
        chances[at] = _exp(chances[at] - most)
        total += chances[at]
    seen[:] = zero
    for at in range(first, fours, 4):
        a, b, c, d = chances[at], chances[at + 1], chances[at + 2], chances[at + 3]
        for i in range(seen.shape[0]):
            seen[i] += a * values[at, i] + b * values[at + 1, i] + c * values[at + 2, i] + d * values[at + 3, i]
    for at in range(fours, end):
        for i in range(seen.shape[0]):
            seen[i] += chances[at] * values[at, i]
    for i in range(seen.shape[0]):
        seen[i] /= total


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


@njit(cache=True, parallel=True, fastmath=ORDER_FREE, error_model="numpy")
def _normalize(x, more, adds, eps, to):  # type: ignore[no-untyped-def]
    for b in prange(x.shape[0]):
        if adds:
            for i in range(x.shape[1]):
                x[b, i] += more[b, i]
        norm = _over_rms(x[b], eps)
        for i in range(x.shape[1]):
            to[b, i] = norm * x[b, i]


@njit(cache=True, parallel=True, fastmath=ORDER_FREE, error_model="numpy")
def _see(qkv, keys, values, turns, pads, column, eps, chances, seen):  # type: ignore[no-untyped-def]
    k, h = keys.shape[1], keys.shape[3]
    n = seen.shape[1] // h
    group, scale = n // k, np.float32(1.0) / np.sqrt(np.float32(h))
    for each in prange(keys.shape[0] * k):
        b, i = each // k, each % k
        y, turn = qkv[b], turns[min(column - pads[b], turns.shape[0] - 1)]
        key = y[(n + i) * h : (n + i + 1) * h]
        _turned(key, turn, _over_rms(key, eps), keys[b, i, column])
        values[b, i, column] = y[(n + k + i) * h : (n + k + i + 1) * h]
        for j in range(i * group, (i + 1) * group):
            q = y[j * h : (j + 1) * h]
            _turned(q, turn, _over_rms(q, eps) * scale, q)
            _attend(q, keys[b, i], values[b, i], pads[b], column + 1, chances[b, i], seen[b, j * h : (j + 1) * h])


@njit(cache=True, parallel=True, fastmath=ORDER_FREE, error_model="numpy")
def _gate(gate_up, to):  # type: ignore[no-untyped-def]
    size = to.shape[1]
    for b in prange(to.shape[0]):
        for i in range(size):
            gate = gate_up[b, i]
            to[b, i] = gate_up[b, size + i] * gate / (np.float32(1.0) + _exp(-gate))
