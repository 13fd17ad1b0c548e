"""Writing token by token: many sequences at once, each with its own generator.

What a sequence gets depends on its prompt, its seed and the settings, not on which others run beside it (up to the last
bits of float arithmetic, which decide a draw about once in a million). Past the context it goes on from the newer half.
Papers:  Holtzman et al. (2020), arXiv:1904.09751 (top-p); Nguyen et al. (2024), arXiv:2407.01082 (min-p);
         Keskar et al. (2019), arXiv:1909.05858 (repetition penalty).
Shapes:  B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from intaglio.nn.decoder import Decoder

CANDIDATES = 128  # likeliest tokens that top-p looks at first
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


@torch.inference_mode()
def write(decoder: Decoder, lines: Sequence[Line], settings: Settings, *, end: int) -> None:
    """Write every line to its end, ``decoder.slots`` at a time; the result is in the lines. end: the token that ends a
    text."""
    for start in range(0, len(lines), decoder.slots):
        together = list(lines[start : start + decoder.slots])
        with _threads(decoder.operations * len(together)):
            for _ in _write_together(decoder, together, settings, end):
                pass


def steps(decoder: Decoder, lines: Sequence[Line], settings: Settings, *, end: int) -> Generator[bool, None, None]:
    """As ``write``, stopping after each token to be looked at; yields True. At most ``decoder.slots`` lines.

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
