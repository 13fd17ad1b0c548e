"""Writing token by token: a key-value cache, many sequences at once, each with its own generator.

What a sequence gets depends on its prompt, its seed and the settings, not on which others run beside it (up to the last
bits of float arithmetic, which decide a draw about once in a million). Past the context it goes on from the newer half.
Papers:  Holtzman et al. (2020), arXiv:1904.09751 (top-p); Nguyen et al. (2024), arXiv:2407.01082 (min-p);
         Keskar et al. (2019), arXiv:1909.05858 (repetition penalty).
Shapes:  B sequences, T time, L columns of the cache, N query heads, K key and value heads, H head size, V vocabulary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio.nn.transformer import QK_GAIN, Transformer

if TYPE_CHECKING:
    from intaglio.nn.jit import Alone, Between  # takes in Numba, so only where it is asked for

SLOTS = 32  # sequences written at once
CANDIDATES = 128  # likeliest tokens that top-p looks at first
SMALL = (
    1 << 17
)  # numbers of a matrix; one row takes it faster as it is (packed ones take 10 us to begin), by one thread
ALONE_BELOW = 3e7  # operations of a product: below it a second thread costs more than it brings


class Settings(Protocol):
    """How to draw a token; ``core.contracts.Sampling`` is one."""

    @property
    def max_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...
    @property
    def repetition_penalty(self) -> float: ...
    @property
    def frequency_penalty(self) -> float: ...
    @property
    def presence_penalty(self) -> float: ...


@dataclass(eq=False)
class Line:
    """One sequence being written.

    prompt: token ids, at least one. accept: told each drawn token; a non-empty answer ends the sequence with that word
    (such as ``stop``). allowed: flags (V) of the tokens that may follow, None for all; asked before each token only if
    given; all False ends the sequence with ``constraint``.
    drawn, nats, finish: the result; nats is the negative log-likelihood of ``drawn`` under the bare model.
    """

    prompt: list[int]
    seed: int
    accept: Callable[[int], str]
    allowed: Callable[[], Tensor | None] | None = None
    drawn: list[int] = field(default_factory=list)
    nats: float = 0.0
    finish: str = ""


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
        self.alone: Alone | None = None
        self.between: Between | None = None
        if (alone or together) and self.device.type == "cpu":
            with suppress(ImportError, RuntimeError):
                from intaglio.nn.jit import Alone, Between

                self.alone = Alone(model, dtype=dtype) if alone else None
                self.between = Between(model) if together else None

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
    """

    def __init__(self, model: Transformer | Weights, *, dtype: torch.dtype = torch.float32) -> None:
        self.weights = model if isinstance(model, Weights) else Weights(model, dtype=dtype)
        shape = self.shape = self.weights.shape
        self.dtype, self.device = self.weights.dtype, self.weights.device
        self.group = shape.heads // shape.kv_heads
        size = shape.width * shape.hidden
        self.operations = 4.0 * size if size < SMALL else math.inf  # of the largest product in a layer, a row
        self.reset(1)

    def reset(self, batch: int) -> None:
        """An empty cache for ``batch`` sequences: two contexts wide, so that it seldom has to be moved up.

        Memory is taken from the system as columns are written; none is read before.
        """
        shape = self.shape
        size = (shape.layers, batch, shape.kv_heads, 2 * shape.context, shape.head_dim)
        kept = torch.float32 if self.device.type == "cpu" else self.dtype  # a CPU's short products are best in float32
        self.keys = torch.empty(size, dtype=kept, device=self.device)
        self.values = torch.empty(size, dtype=kept, device=self.device)
        self.column = 0
        self.pads = [0] * batch  # the column at which each sequence begins

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the batch only."""
        chosen = torch.tensor(rows, device=self.device)
        self.keys, self.values = self.keys[:, chosen], self.values[:, chosen]
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
        side = copy.copy(self)
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
        shape, start, end = self.shape, self.column, self.column + t
        n, k, h = shape.heads, shape.kv_heads, shape.head_dim
        first = min(self.pads)
        mask, turn = self._mask(first, start, end), self._turn(start, end)
        x, times = F.embedding(ids_BT, self.weights.embedding).flatten(0, 1), self.weights.times
        for index, (qkv, out, gate_up, down) in enumerate(self.weights.layers):
            y = times(_normalize(x, shape.eps), qkv).view(b, t, n + 2 * k, h)
            qk, v = y[:, :, : n + k], y[:, :, n + k :]
            qk = torch.view_as_complex(_normalize(qk, shape.eps).view(b, t, n + k, h // 2, 2)) * turn
            keys, values = self.keys[index], self.values[index]
            qk = torch.view_as_real(qk).flatten(-2).to(keys.dtype).transpose(1, 2)
            keys[:, :, start:end] = qk[:, n:]
            values[:, :, start:end] = v.transpose(1, 2)
            seen = self._attend(qk[:, :n], keys[:, :, first:end], values[:, :, first:end], mask)
            x = x + times(seen.reshape(b * t, n * h), out)
            gate, up = times(_normalize(x, shape.eps), gate_up).chunk(2, -1)
            x = x + times(F.silu(gate).mul_(up), down)
        self.column = end
        return times(_normalize(x.view(b, t, -1)[:, -1], shape.eps), self.weights.vocabulary)

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

    def _attend(self, q_BNTH: Tensor, k_BKLH: Tensor, v_BKLH: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, N, H)."""
        b, n, t, h = q_BNTH.shape
        q = q_BNTH.reshape(b * n // self.group, self.group * t, h)
        k, v = k_BKLH.flatten(0, 1), v_BKLH.flatten(0, 1)
        scores = torch.bmm(q, k.mT).mul_(h**-0.5)
        if mask is not None:
            scores = (scores.view(b, n, t, -1) + mask).view(scores.shape)
        return torch.bmm(scores.softmax(-1), v).view(b, n, t, h).transpose(1, 2)

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


def _normalize(x: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], None, eps)


@torch.inference_mode()
def write(decoder: Decoder, lines: Sequence[Line], settings: Settings, *, end: int) -> None:
    """Write every line to its end, ``SLOTS`` at a time; the result is in the lines. end: the token that ends a text."""
    for start in range(0, len(lines), SLOTS):
        together = list(lines[start : start + SLOTS])
        with _threads(decoder.operations * len(together)):
            for _ in _write_together(decoder, together, settings, end):
                pass


def steps(decoder: Decoder, lines: Sequence[Line], settings: Settings, *, end: int) -> Generator[bool, None, None]:
    """As ``write``, stopping after each token to be looked at; yields True. At most ``SLOTS`` lines.

    Between two steps torch's threads and modes are the caller's own. Closing it ends the work.
    """
    work = _write_together(decoder, list(lines), settings, end)
    while True:
        with torch.inference_mode(), _threads(decoder.operations * len(lines)):
            if not next(work, False):
                return
        yield True


@contextmanager
def _threads(operations: float) -> Iterator[None]:
    """One thread for products of so few operations, as many as there were for others."""
    before = torch.get_num_threads()
    if operations < ALONE_BELOW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_together(decoder: Decoder, lines: list[Line], settings: Settings, end: int) -> Iterator[bool]:
    """Yields True after each token of all lines."""
    context = decoder.shape.context
    room = max(1, context // 4)
    uniform = [_draws(line.seed, settings.max_tokens) for line in lines]
    rows = list(range(len(lines)))  # the line of each row of the decoder's batch; finished ones stay until half are
    logits = decoder.read([line.prompt[-(context - room) :] for line in lines])
    memory = _Memory(settings, [line.prompt for line in lines], like=logits)
    for count in range(settings.max_tokens):
        here = [lines[row] for row in rows]
        tokens = _draw(memory.penalized(logits), here, settings, [uniform[row][count] for row in rows])
        _take(logits, tokens, here, end)
        memory.add(tokens)
        yield True
        going = [place for place, row in enumerate(rows) if not lines[row].finish]
        if not going:
            return
        if 4 * len(going) <= 3 * len(rows):
            rows, tokens = [rows[place] for place in going], tokens[going]
            decoder.keep(going)
            memory.keep(going)
        if count + 1 == settings.max_tokens:
            break
        logits = decoder.advance(tokens[:, None])
        if full := decoder.full():  # read the newer half again, as the model saw texts in training
            texts = [(lines[rows[row]].prompt + lines[rows[row]].drawn)[-(context // 2) :] for row in full]
            logits[full] = decoder.read_again(full, texts)
    for line in lines:
        line.finish = line.finish or "length"


class _Memory:
    """What each line has written already, as far as a penalty asks for it: seen (B, V), counts and their price (B, V).

    The tables are kept up by one write a line and token; what is switched off costs nothing.
    """

    def __init__(self, settings: Settings, prompts: Sequence[Sequence[int]], *, like: Tensor) -> None:
        self.divide, self.each, self.once = (
            settings.repetition_penalty,
            settings.frequency_penalty,
            settings.presence_penalty,
        )
        self.seen = torch.zeros_like(like, dtype=torch.bool) if self.divide != 1.0 else None
        self.counts = torch.zeros_like(like) if self.each or self.once else None
        self.price = torch.zeros_like(like) if self.each or self.once else None
        if self.seen is not None:
            for row, prompt in enumerate(prompts):
                self.seen[row, torch.tensor(prompt, device=like.device)] = True

    def penalized(self, scores: Tensor) -> Tensor:
        """Logits (B, V) after the penalties; the same object where there is none."""
        if self.seen is not None:
            scores = torch.where(self.seen, torch.where(scores > 0, scores / self.divide, scores * self.divide), scores)
        return scores if self.price is None else scores - self.price

    def add(self, tokens: Tensor) -> None:
        """Remember the token (B) drawn in each line."""
        place = tokens[:, None]
        if self.seen is not None:
            self.seen.scatter_(1, place, True)
        if self.counts is not None and self.price is not None:
            count = self.counts.gather(1, place) + 1.0
            self.counts.scatter_(1, place, count)
            self.price.scatter_(1, place, count * self.each + self.once)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these lines only."""
        for name in ("seen", "counts", "price"):
            table = getattr(self, name)
            if table is not None:
                setattr(self, name, table[rows])


def _draws(seed: int, count: int) -> list[float]:
    gen = torch.Generator().manual_seed(seed % 2**63)
    return torch.rand(count, generator=gen).tolist()


def _draw(scores: Tensor, lines: list[Line], settings: Settings, uniform: list[float]) -> Tensor:
    if any(line.allowed is not None and not line.finish for line in lines):
        scores = _constrain(scores, lines)
    if settings.temperature <= 0.0:
        return scores.argmax(-1)
    chances = filtered(scores / settings.temperature, settings)
    total = chances.cumsum(-1, dtype=torch.float64)
    aim = torch.tensor(uniform, dtype=torch.float64, device=scores.device)[:, None] * total[:, -1:]
    return torch.searchsorted(total, aim, right=True).clamp_(max=scores.shape[-1] - 1).squeeze(1)


def filtered(scores_BV: Tensor, settings: Settings) -> Tensor:
    """Probabilities after top-k, then top-p, then min-p (as Settings say); rows need not sum to one."""
    if 0 < settings.top_k < scores_BV.shape[-1]:
        least = scores_BV.topk(settings.top_k, dim=-1).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < least, -torch.inf)
    chances = scores_BV.softmax(-1)
    if settings.top_p < 1.0:
        chances = _likeliest(chances, settings.top_p)
    if settings.min_p > 0.0:
        chances = chances.masked_fill(chances < settings.min_p * chances.amax(-1, keepdim=True), 0.0)
    return chances


def _likeliest(chances_BV: Tensor, share: float) -> Tensor:
    """The fewest tokens that reach ``share`` together, 0 elsewhere; ordered only as far down as that takes."""
    size = chances_BV.shape[-1]
    for count in (CANDIDATES, 8 * CANDIDATES, size):
        if count < size // 2:
            ordered, index = chances_BV.topk(count, dim=-1)
        else:
            ordered, index = chances_BV.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        if ordered.shape[-1] == size or bool((before[:, -1] >= share).all()):
            break
    ordered = ordered.masked_fill(before >= share, 0.0)
    return torch.zeros_like(chances_BV).scatter_(-1, index, ordered)


def _constrain(scores: Tensor, lines: list[Line]) -> Tensor:
    scores = scores.clone()
    for row, line in enumerate(lines):
        flags = line.allowed() if line.allowed is not None and not line.finish else None
        if flags is None:
            continue
        if bool(flags.any()):
            scores[row].masked_fill_(~flags.to(scores.device), -torch.inf)
        else:
            line.finish = "constraint"
    return scores


def _take(logits: Tensor, tokens: Tensor, lines: list[Line], end: int) -> None:
    lost = logits.logsumexp(-1) - logits.gather(-1, tokens[:, None]).squeeze(1)
    for line, token, nats in zip(lines, tokens.tolist(), lost.tolist(), strict=True):
        if line.finish:
            continue
        if token == end:
            line.finish = "stop"
            continue
        line.drawn.append(token)
        line.nats += nats
        line.finish = line.accept(token)
