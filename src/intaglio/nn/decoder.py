"""A transformer laid out for writing: its weights as the machine multiplies them fastest, and a key-value cache.

Shapes:  B sequences, T time, L columns of the cache, N query heads, K key and value heads, H head size, V vocabulary.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio.nn.transformer import QK_GAIN, Shape, Transformer

if TYPE_CHECKING:
    from intaglio.nn.jit import Alone, Between  # takes in Numba, so only where it is asked for
    from intaglio.nn.tokens import Token

SLOTS = 32  # sequences written at once on a CPU; on a GPU as many more, by a power of two, as the next two allow
SLOTS_GPU, CACHE_BYTES = 256, 4e9
SMALL = 1 << 17  # numbers of a matrix that one row, and one thread, takes faster as it is than packed


class Weights:
    """A transformer's weights as this machine multiplies them fastest: made once, then shared by decoders and threads.

    dtype: precision of the matrix products; float32 gives the model's own logits up to the order of sums, bfloat16 is
    a choice that moves them by about a hundredth of their spread. Later changes of the model do not show here.
    alone, together: one sequence, or many of them, go through the compiled calls of ``nn/jit.py``, at the cost of
    compiling them and (alone) of the weights once more; without effect where Numba or its threads are missing, and on
    a GPU.
    """

    def __init__(
        self, model: Transformer, *, dtype: torch.dtype = torch.float32, alone: bool = False, together: bool = False
    ) -> None:
        self.shape, self.dtype, self.device = model.shape, dtype, model.embedding.weight.device
        self.packed = self.device.type == "cpu" and _packs(dtype)
        self._multiply: Any = torch.ops.mkldnn._linear_pointwise.default if self.packed else None
        with torch.inference_mode():
            self.embedding = model.embedding.weight.detach().float()
            self.vocabulary = self._lay_out(model.embedding.weight * model.gain)  # the last gain goes into it
            self.layers = [
                tuple(self._lay_out(m.weight) for m in (block.qkv, block.out, block.gate_up, block.down))
                for block in model.blocks
            ]
            self.turn_TH = model.turn_TH * QK_GAIN
        self.slots = slots_of(self.shape, str(self.device), dtype)
        self._idle: list[Token] = []  # on a GPU: those that no decoder holds
        self._idling = threading.RLock()  # taken again where one is given back while memory is cleared away
        self.alone: Alone | None = None
        self.between: Between | None = None
        if (alone or together) and self.device.type == "cpu":
            with suppress(ImportError, RuntimeError):
                from intaglio.nn.jit import Alone, Between

                self.alone = Alone(model, dtype=dtype) if alone else None
                self.between = Between(model) if together else None

    def take(self, rows: int) -> Token:
        """On a GPU: caches for so many sequences, or up to twice as many, and the call that writes on in them; whoever
        needs them no more gives them to ``give``."""
        from intaglio.nn.tokens import Token

        wanted = 1 << (rows - 1).bit_length()
        with self._idling:
            for token in self._idle:
                if token.rows == wanted:
                    self._idle.remove(token)
                    return token
        return Token(self, wanted)

    def give(self, token: Token) -> None:
        """The last two given are kept."""
        with self._idling:
            self._idle = [*self._idle, token][-2:]

    def _lay_out(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """For many rows, and for one where that is not the same."""
        weight = weight.detach().to(self.dtype)
        if not self.packed:
            return weight, weight
        small = weight.numel() < SMALL and self.dtype == torch.float32
        return torch.ops.mkldnn._reorder_linear_weight(weight, SLOTS), weight if small else None

    def times(self, x: Tensor, weight: tuple[Tensor, Tensor | None]) -> Tensor:
        """x (M, in), float32, times a weight of these: (M, out), float32."""
        many, one = weight
        if x.dtype != self.dtype:
            x = x.to(self.dtype)
        if one is not None and (len(x) == 1 or not self.packed):
            return F.linear(x, one).float()
        return self._multiply(x, many, None, "none", (), "").float()


def _packs(dtype: torch.dtype) -> bool:
    """True where oneDNN multiplies by weights it laid out in blocks beforehand, up to three times as fast."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Decoder:
    """One use of a transformer's weights for writing: the cache of what was read. No autograd, no modules.

    model: the transformer, or its ``Weights``, which are then in the precision they were made in.
    columns: room for so many tokens and no more; left out, two contexts, and what is older is dropped.
    """

    def __init__(
        self, model: Transformer | Weights, *, dtype: torch.dtype = torch.float32, columns: int | None = None
    ) -> None:
        self.weights = model if isinstance(model, Weights) else Weights(model, dtype=dtype)
        shape = self.shape = self.weights.shape
        self.dtype, self.device = self.weights.dtype, self.weights.device
        self.group = shape.heads // shape.kv_heads
        size = shape.width * shape.hidden
        self.operations = 4.0 * size if size < SMALL else math.inf  # of the largest product in a layer, a row
        self.slots, self._columns = self.weights.slots, columns or 2 * shape.context
        self._token: Token | None = None
        self._replays = False  # not before it is known how many sequences there will be
        self.reset(1)
        self._replays = self.device.type == "cuda" and columns is None

    def __del__(self) -> None:
        self._give_back()

    def _give_back(self) -> None:
        token, self._token = getattr(self, "_token", None), None
        if token is not None:
            self.weights.give(token)

    def reset(self, batch: int) -> None:
        """An empty cache for ``batch`` sequences: two contexts wide, so that it seldom has to be moved up.

        Memory is taken from the system as columns are written; none is read before.
        """
        self._make_caches(batch)
        self.column = 0
        self.pads = [0] * batch  # the column at which each sequence begins

    def _make_caches(self, batch: int) -> None:
        self._give_back()
        if self._replays:
            token = self._token = self.weights.take(batch)
            self.keys, self.values = token.keys[:, :batch], token.values[:, :batch]
            return
        shape = self.shape
        size = (shape.layers, batch, shape.kv_heads, self._columns, shape.head_dim)
        kept = torch.float32 if self.device.type == "cpu" else self.dtype  # a CPU's short products are best in float32
        self.keys = torch.empty(size, dtype=kept, device=self.device)
        self.values = torch.empty(size, dtype=kept, device=self.device)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the batch only."""
        chosen = torch.tensor(rows, device=self.device)
        if self._token is None:
            self.keys, self.values = self.keys[:, chosen], self.values[:, chosen]
        else:
            read = [cache[:, chosen, :, : self.column] for cache in (self.keys, self.values)]
            self._make_caches(len(rows))
            for cache, held in zip((self.keys, self.values), read, strict=True):
                cache[:, :, :, : self.column] = held
        self.pads = [self.pads[row] for row in rows]

    def full(self) -> list[int]:
        """The rows that hold more than a context."""
        return [row for row, pad in enumerate(self.pads) if self.column - pad > self.shape.context]

    def read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Start over with these prompts (each at most the context long): logits (B, V) of what follows."""
        longest = max(len(prompt) for prompt in prompts)
        self.reset(len(prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        self.pads = [longest - len(prompt) for prompt in prompts]
        return self.advance(ids.to(self.device))

    def read_again(self, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """Put these texts in the place of what ``rows`` held: logits (rows, V) of what follows."""
        side = Decoder(self.weights, columns=max(len(text) for text in texts))
        logits = side.read(texts)
        chosen, begin = torch.tensor(rows, device=self.device), self.column - side.column
        self.keys[:, chosen, :, begin : self.column] = side.keys[:, :, :, : side.column]
        self.values[:, chosen, :, begin : self.column] = side.values[:, :, :, : side.column]
        for row, pad in zip(rows, side.pads, strict=True):
            self.pads[row] = begin + pad
        return logits

    def _move_up(self) -> None:
        """Make room at the end of the cache: drop the columns that no sequence needs any more."""
        drop = self.column - self.shape.context
        for cache in (self.keys, self.values):
            cache[:, :, :, : self.shape.context] = cache[:, :, :, drop : self.column].clone()
        self.column -= drop
        self.pads = [max(0, pad - drop) for pad in self.pads]

    @torch.inference_mode()
    def advance(self, ids_BT: Tensor) -> Tensor:
        """Read these tokens after all before them: logits (B, V), float32, of what follows."""
        b, t = ids_BT.shape
        if b == t == 1 and self.device.type == "cpu":
            if self.column == 2 * self.shape.context:
                self._move_up()
            alone = self.weights.alone
            return self._advance_alone(int(ids_BT)) if alone is None else self._advance_compiled(int(ids_BT), alone)
        if self.column + t > 2 * self.shape.context:
            self._move_up()
        if t == 1 and self.weights.between is not None:
            return self._advance_together(ids_BT[:, 0], self.weights.between)
        if t == 1 and self._token is not None:
            self.column += 1
            return self._token.advance(ids_BT[:, 0], pads=self.pads, column=self.column - 1)
        shape, start, end = self.shape, self.column, self.column + t
        n, k, h = shape.heads, shape.kv_heads, shape.head_dim
        first = min(self.pads)
        mask, turn = self._mask(first, start, end), self._turn(start, end)
        x, times = F.embedding(ids_BT, self.weights.embedding).flatten(0, 1), self.weights.times
        for index, (qkv, out, gate_up, down) in enumerate(self.weights.layers):
            y = times(normalized(x, shape.eps), qkv).view(b, t, n + 2 * k, h)
            qk, v = y[:, :, : n + k], y[:, :, n + k :]
            qk = torch.view_as_complex(normalized(qk, shape.eps).view(b, t, n + k, h // 2, 2)) * turn
            keys, values = self.keys[index], self.values[index]
            qk = torch.view_as_real(qk).flatten(-2).to(keys.dtype).transpose(1, 2)
            keys[:, :, start:end] = qk[:, n:]
            values[:, :, start:end] = v.transpose(1, 2)
            seen = attended(qk[:, :n], keys[:, :, first:end], values[:, :, first:end], mask)
            x = x + times(seen.reshape(b * t, n * h), out)
            gate, up = times(normalized(x, shape.eps), gate_up).chunk(2, -1)
            x = x + times(F.silu(gate).mul_(up), down)
        self.column = end
        return times(normalized(x.view(b, t, -1)[:, -1], shape.eps), self.weights.vocabulary)

    def _advance_compiled(self, token: int, alone: Alone) -> Tensor:
        """``advance`` by one token of one sequence, in one call."""
        keys, values, threads = self.keys[:, 0], self.values[:, 0], torch.get_num_threads()
        logits = alone.advance(token, keys, values, first=self.pads[0], column=self.column, threads=threads)
        self.column += 1
        return logits[None]

    def _advance_together(self, ids_B: Tensor, between: Between) -> Tensor:
        """``advance`` by one token of each sequence, with compiled calls between the products."""
        weights, pads = self.weights, np.array(self.pads)
        between.begin(torch.get_num_threads())
        x, more = F.embedding(ids_B, weights.embedding), None
        for index, (qkv, out, gate_up, down) in enumerate(weights.layers):
            y = weights.times(between.normalized(x, more), qkv)
            seen = between.seen(y, self.keys[index], self.values[index], pads=pads, column=self.column)
            y = between.normalized(x, weights.times(seen, out))
            more = weights.times(between.gated(weights.times(y, gate_up)), down)
        self.column += 1
        return weights.times(between.normalized(x, more), weights.vocabulary)

    def _advance_alone(self, token: int) -> Tensor:
        """``advance`` by one token of one sequence. What is small goes through numpy: a call of torch's costs more than
        the work in it."""
        weights, shape, start = self.weights, self.shape, self.column
        n, k, h, first, end = shape.heads, shape.kv_heads, shape.head_dim, self.pads[0], start + 1
        turn = weights.turn_TH[min(start - first, shape.context - 1)].numpy()
        x = weights.embedding[token].numpy()
        for index, (qkv, out, gate_up, down) in enumerate(weights.layers):
            keys, values = self.keys[index, 0], self.values[index, 0]
            y = weights.times(_row(x, shape.eps), qkv).numpy()
            qk = y[0, : (n + k) * h].reshape(n + k, h)
            qk = qk / np.sqrt(np.einsum("gh,gh->g", qk, qk) / np.float32(h) + np.float32(shape.eps))[:, None]
            qk = (qk.view(np.complex64) * turn).view(np.float32)
            keys.numpy()[:, start] = qk[n:]
            values.numpy()[:, start] = y[0, (n + k) * h :].reshape(k, h)
            q = torch.from_numpy(qk[:n].reshape(k, self.group, h) * np.float32(h**-0.5))
            chances = torch.bmm(q, keys[:, first:end].mT).softmax(-1)
            x = x + weights.times(torch.bmm(chances, values[:, first:end]).view(1, n * h), out).numpy()[0]
            gate, up = weights.times(_row(x, shape.eps), gate_up).chunk(2, -1)
            x = x + weights.times(F.silu(gate).mul_(up), down).numpy()[0]
        self.column = end
        return weights.times(_row(x, shape.eps), weights.vocabulary)

    def _mask(self, first: int, start: int, end: int) -> Tensor | None:
        """0 where a column may be seen, minus infinity where it may not: (B or 1, 1, T, L)."""
        ragged = max(self.pads) > first
        if end - start == 1 and not ragged:
            return None
        column = torch.arange(first, end, device=self.device)
        own = column[start - first :, None]
        hidden = (column[None] > own)[None]
        if ragged:
            pads = torch.tensor(self.pads, device=self.device)[:, None, None]
            hidden = hidden | ((column < pads) & (column != own))
        blank = torch.zeros(hidden.shape, dtype=self.keys.dtype, device=self.device)
        return blank.masked_fill_(hidden, -torch.inf)[:, None]

    def _turn(self, start: int, end: int) -> Tensor:
        """The turns of the rotary positions, counted from each sequence's own start: (B or 1, T, 1, H/2)."""
        first, last = min(self.pads), self.shape.context - 1
        if max(self.pads) == first and end - first <= last + 1:
            return self.weights.turn_TH[None, start - first : end - first, None]
        position = torch.arange(start, end, device=self.device) - torch.tensor(self.pads, device=self.device)[:, None]
        return self.weights.turn_TH[position.clamp_(0, last)][:, :, None]


def _row(x: np.ndarray, eps: float) -> Tensor:
    """x (D) normalized, as (1, D)."""
    return torch.from_numpy(x * np.float32(1.0 / math.sqrt(float(np.dot(x, x)) / len(x) + eps)))[None]


def normalized(x: Tensor, eps: float) -> Tensor:
    """RMSNorm without gain over the last dimension."""
    return F.rms_norm(x, x.shape[-1:], None, eps)


def attended(q_BNTH: Tensor, k_BKLH: Tensor, v_BKLH: Tensor, mask: Tensor | None) -> Tensor:
    """Attention to cached keys and values: (B, T, N, H); N is a multiple of K. mask: added to (B, N, T, L)."""
    b, n, t, h = q_BNTH.shape
    k, v = k_BKLH.flatten(0, 1), v_BKLH.flatten(0, 1)
    q = q_BNTH.reshape(len(k), n * t // k_BKLH.shape[1], h)
    scores = torch.bmm(q, k.mT).mul_(h**-0.5)
    if mask is not None:
        scores = (scores.view(b, n, t, -1) + mask).view(scores.shape)
    return torch.bmm(scores.softmax(-1), v).view(b, n, t, h).transpose(1, 2)


def cache_bytes(shape: Shape, dtype: torch.dtype = torch.float32) -> int:
    """Of the keys and values of one sequence."""
    return 2 * shape.layers * shape.kv_heads * 2 * shape.context * shape.head_dim * dtype.itemsize


def slots_of(shape: Shape, device: str, dtype: torch.dtype = torch.float32) -> int:
    """How many sequences are written at once: by device and shape alone, so that the same ones always go together."""
    if torch.device(device).type == "cpu":
        return SLOTS
    fitting = int(CACHE_BYTES / cache_bytes(shape, dtype))
    return min(SLOTS_GPU, max(SLOTS, 1 << max(0, fitting.bit_length() - 1)))
