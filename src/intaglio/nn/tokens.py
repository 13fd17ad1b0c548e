"""Writing on a GPU: the next token of many sequences by one launch (``nn/graphs.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio.nn.decoder import Weights, attended, normalized
from intaglio.nn.graphs import record

LEAST_REACH = 64  # columns; what is recorded reaches over powers of two of them


class Token:
    """The next token of each of ``rows`` sequences by one launch, and the caches of what they read.

    keys, values: (layers, rows, K, 2 * context, H), as a ``Decoder`` keeps them; rows not in use cost little.
    """

    def __init__(self, weights: Weights, rows: int) -> None:
        shape = weights.shape
        size = (shape.layers, rows, shape.kv_heads, 2 * shape.context, shape.head_dim)
        # zeros, since what is hidden counts nothing times what lies there, and that must be a number
        self.keys = torch.zeros(size, dtype=weights.dtype, device=weights.device)
        self.values = torch.zeros_like(self.keys)
        self.weights, self.rows = weights, rows
        self._ids = torch.zeros(rows, dtype=torch.long, device=weights.device)
        self._place = torch.zeros(rows + 1, dtype=torch.long, device=weights.device)  # the column, then each one's pads
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool: Any = None

    def advance(self, ids_B: Tensor, *, pads: Sequence[int], column: int) -> Tensor:
        """Read a token of each sequence into ``column``: logits (B, V), float32, good until the next call."""
        self._place_at(ids_B, pads, column)
        reach = LEAST_REACH
        while reach <= column:
            reach *= 2
        reach = min(reach, 2 * self.weights.shape.context)
        if reach not in self._recorded:
            self._recorded[reach] = self._record(reach)
        graph, logits = self._recorded[reach]
        graph.replay()
        return logits[: len(pads)]

    def _place_at(self, ids_B: Tensor, pads: Sequence[int], column: int) -> None:
        self._ids[: len(pads)].copy_(ids_B)
        self._place.copy_(torch.tensor([column, *pads, *[column] * (self.rows - len(pads))]))

    def _record(self, reach: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        before = torch.get_deterministic_debug_mode()
        torch.set_deterministic_debug_mode("default")  # one column, written once: index_copy_ repeats by itself
        try:
            return record(lambda: self._run(reach), device=self.weights.device, pool=self._pool)
        finally:
            torch.set_deterministic_debug_mode(before)

    def _run(self, reach: int) -> Tensor:
        weights, shape, b = self.weights, self.weights.shape, self.rows
        n, k, h = shape.heads, shape.kv_heads, shape.head_dim
        column, pads = self._place[:1], self._place[1:]
        turn = weights.turn_TH[(column - pads).clamp(max=shape.context - 1)][:, None]
        places = torch.arange(reach, device=weights.device)
        hidden = (places > column) | (places < pads[:, None])
        mask = torch.zeros(hidden.shape, dtype=self.keys.dtype, device=weights.device)
        mask = mask.masked_fill_(hidden, -torch.inf)[:, None, None]
        x, times = F.embedding(self._ids, weights.embedding), weights.times
        for keys, values, (qkv, out, gate_up, down) in zip(self.keys, self.values, weights.layers, strict=True):
            y = times(normalized(x, shape.eps), qkv).view(b, n + 2 * k, h)
            qk = torch.view_as_complex(normalized(y[:, : n + k], shape.eps).view(b, n + k, h // 2, 2)) * turn
            qk = torch.view_as_real(qk).flatten(-2).to(keys.dtype)[:, :, None]
            keys.index_copy_(2, column, qk[:, n:])
            values.index_copy_(2, column, y[:, n + k :, None].to(values.dtype))
            seen = attended(qk[:, :n], keys[:, :, :reach], values[:, :, :reach], mask)
            x = x + times(seen.reshape(b, n * h), out)
            gate, up = times(normalized(x, shape.eps), gate_up).chunk(2, -1)
            x = x + times(F.silu(gate).mul_(up), down)
        return times(normalized(x, shape.eps), weights.vocabulary)
