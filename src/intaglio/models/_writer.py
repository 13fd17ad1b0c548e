"""A trained GPT ready to write and to score texts (``core.contracts.TextModel``)."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intaglio.core.contracts import Completion, Constraint, Context, Item, Sampling
from intaglio.models._pieces import Growing
from intaglio.models._tokenizers import TextTokenizer
from intaglio.nn.decoder import Decoder, Weights, slots_of
from intaglio.nn.device import machine
from intaglio.nn.sampling import Line, steps, write
from intaglio.nn.transformer import Transformer

SCORED_TOGETHER = 8_192  # tokens of one forward pass when scoring
WORTH_COMPILING = 10_000  # tokens of one text, or steps of many, from which on such calls are compiled (``nn/jit.py``)


class Writer:
    """Writes and scores with a transformer and its tokenizer; loads nothing. Safe to use from several threads.

    Between calls it keeps one more copy of the weights, laid out for writing, and makes it anew where they changed; a
    third one for whoever has written so much one text at a time that a compiled call pays. Who has written much many
    texts at a time gets compiled calls too, without another copy.
    """

    makes = "text"

    def __init__(
        self, model: Transformer, tokenizer: TextTokenizer, *, device: str, threads: int, usual_tokens: int
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.device, self.threads, self.usual_tokens = device, threads, usual_tokens
        self.context_tokens, self.slots = model.shape.context, slots_of(model.shape, device)
        self._flags: dict[int, tuple[Any, Tensor]] = {}
        self._lock = threading.Lock()
        self._laid_out: Weights | None = None
        self._state: tuple[Any, ...] = ()  # of the parameters that were laid out, and how
        self._steps = {"alone": 0, "together": 0}  # tokens of single texts; steps of several texts, one token each

    def count_tokens(self, text: str) -> int:
        """How many tokens ``text`` has."""
        return len(self.tokenizer.encode(text))

    def sample(self, seeds: Sequence[int], ctx: Context) -> Iterator[Item]:
        """A new text a seed, at temperature 0.8; ``meta`` holds seed, settings, finish and nats."""
        sampling = Sampling(max_tokens=self.usual_tokens, temperature=0.8)
        for start in range(0, len(seeds), self.slots):
            some = seeds[start : start + self.slots]
            for seed, made in zip(some, self.complete([""] * len(some), seeds=some, sampling=sampling), strict=True):
                meta = {"seed": seed, "temperature": 0.8, "finish": made.finish, "nats": round(made.nats or 0.0, 4)}
                yield Item(media="text", text=made.text, meta=meta)
            ctx.progress(min(len(seeds), start + self.slots), len(seeds))

    def complete(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        constraints: Sequence[Constraint | None] = (),
    ) -> list[Completion]:
        """Continue each prompt (``core.contracts.TextModel``). In a constraint's vocabulary the end of the text is "".

        Errors: ValueError where seeds or constraints are not one a prompt.
        """
        forms = list(constraints) or [None] * len(prompts)
        if not len(prompts) == len(seeds) == len(forms):
            raise ValueError(f"one seed and constraint a prompt: {len(prompts)}, {len(seeds)}, {len(forms)}")
        drafts = [
            _Draft(self, prompt, seed, form, sampling.stop)
            for prompt, seed, form in zip(prompts, seeds, forms, strict=True)
        ]
        with machine(device=self.device, threads=self.threads):
            write(self._decoder(), [draft.line for draft in drafts], sampling, end=self.tokenizer.end)
        for start in range(0, len(drafts), self.slots):
            some = drafts[start : start + self.slots]
            self._steps["alone" if len(some) == 1 else "together"] += max(len(draft.line.drawn) for draft in some)
        return [draft.completion() for draft in drafts]

    def stream(
        self, prompt: str, *, seed: int, sampling: Sampling, constraint: Constraint | None = None
    ) -> Generator[str, None, Completion]:
        """Continue a prompt piece by piece (``core.contracts.TextModel``)."""
        draft = _Draft(self, prompt, seed, constraint, sampling.stop)
        with machine(device=self.device, threads=self.threads):
            decoder = self._decoder()
        with closing(steps(decoder, [draft.line], sampling, end=self.tokenizer.end)) as work:
            going = True
            while going:
                with machine(device=self.device, threads=self.threads):  # between two tokens torch is the caller's
                    going = next(work, False)
                self._steps["alone"] += going
                if piece := draft.growing.piece(last=not going):
                    yield piece
        return draft.completion()

    def _decoder(self) -> Decoder:
        """A cache of its own over the weights laid out before, unless the model was trained or moved since."""
        alone, together = (self._steps[way] >= WORTH_COMPILING for way in ("alone", "together"))
        weights = ((p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.model.parameters())
        state = (alone, together, *weights)
        with self._lock:
            if self._laid_out is None or self._state != state:
                self._laid_out = None  # first, so that there are never two
                self._laid_out, self._state = Weights(self.model, alone=alone, together=together), state
            return Decoder(self._laid_out)

    def flags(self, answer: Sequence[bool]) -> Tensor:
        """A constraint's answer as a tensor; the same object is turned into one only once."""
        known = self._flags.get(id(answer))
        if known is None or known[0] is not answer:
            if len(self._flags) >= 4096:
                self._flags.clear()
            known = self._flags[id(answer)] = (answer, torch.from_numpy(np.array(answer, dtype=bool)))
        return known[1]

    def nats(self, texts: Sequence[str]) -> list[float]:
        """Negative log-likelihood in nats of each whole text, from its beginning, its end not counted."""
        lines = [np.concatenate([[self.tokenizer.end], ids]) for ids in self.tokenizer.encode_all(texts)]
        with machine(device=self.device, threads=self.threads):
            return document_nats(self.model, lines)


class _Draft:
    """One text being written: bytes so far, and where it must stop."""

    def __init__(self, writer: Writer, prompt: str, seed: int, form: Constraint | None, stop: tuple[str, ...]) -> None:
        self.writer, self.form, self.growing = writer, form, Growing(stop)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.line = Line(
            prompt=[writer.tokenizer.end, *writer.tokenizer.encode(prompt)],
            seed=seed,
            accept=self.accept,
            allowed=self.allowed if form is not None else None,
        )

    def accept(self, token: int) -> str:
        """Take in a token; ``stop`` where a stop word came, which is cut off with all behind it."""
        return "stop" if self.growing.add(self.decoder.decode(self.writer.tokenizer.bytes[token])) else ""

    def allowed(self) -> Tensor | None:
        if self.form is None:
            return None
        return self.writer.flags(self.form.allow(self.growing.text, self.writer.tokenizer.strings))

    def completion(self) -> Completion:
        return Completion(
            text=self.growing.text,
            tokens=len(self.line.drawn),
            finish=self.line.finish or "length",
            nats=self.line.nats,
        )


@torch.inference_mode()
def document_nats(model: Transformer, lines: Sequence[np.ndarray]) -> list[float]:
    """Negative log-likelihood in nats of each line of tokens after its first, float32, whatever their lengths.

    Past the context a window slides by half of it, so that every token has at least half a context before it.
    """
    context, device = model.shape.context, model.embedding.weight.device
    windows = [(number, *span) for number, line in enumerate(lines) for span in _spans(len(line), context)]
    windows.sort(key=lambda window: (window[2] - window[1], window[0], window[1]), reverse=True)
    totals = [0.0] * len(lines)
    start = 0
    while start < len(windows):
        longest = windows[start][2] - windows[start][1]
        together = windows[start : start + max(1, SCORED_TOGETHER // longest)]
        ids = torch.zeros(len(together), longest, dtype=torch.long)
        for row, (number, begin, stop, _) in enumerate(together):
            ids[row, : stop - begin] = torch.from_numpy(lines[number][begin:stop].astype(np.int64))
        nats = model.nats(ids.to(device)).double().cpu()
        for row, (number, begin, stop, new) in enumerate(together):
            totals[number] += float(nats[row, new - begin - 1 : stop - begin - 1].sum())
        start += len(together)
    return totals


def _spans(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Windows over tokens 0..length-1 as (begin, stop, first token scored there): at most context + 1 tokens each."""
    scored, half = 1, max(1, context // 2)
    while scored < length:
        begin = 0 if scored == 1 else max(0, scored - (context - half))
        stop = min(length, begin + context + 1)
        yield begin, stop, scored
        scored = stop
