"""Writing and scoring with a given language model: the same draws, filters and constraints as for our own.

``nn/sampling.write`` asks a decoder for logits; here transformers gives them, with its key-value cache.
Shapes: B sequences, T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intaglio.core.contracts import Completion, Constraint, Context, Item, Sampling
from intaglio.models._pieces import Growing
from intaglio.nn.decoder import SLOTS
from intaglio.nn.device import machine
from intaglio.nn.sampling import Line, steps, write

SCORED_TOGETHER = 4_096  # tokens of one forward pass when scoring


@dataclass(frozen=True)
class _Window:
    """What ``nn/sampling.write`` asks of a model's shape."""

    context: int


class GivenDecoder:
    """A model of transformers as ``nn/sampling.write`` uses one: left-padded rows, each counted from its own start."""

    operations = float("inf")  # all threads: given models are large
    slots = SLOTS

    def __init__(self, model: Any, *, context: int) -> None:
        self.model, self.device, self.shape = model, model.device, _Window(context)
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    def read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Start over with these prompts: logits (B, V) of what follows."""
        from transformers import DynamicCache

        self._cache = DynamicCache()
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.long, device=self.device)
        self._mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            self._mask[row, longest - len(prompt) :] = 1
        return self._forward(ids)

    def advance(self, ids_BT: Tensor) -> Tensor:
        """Read these tokens after all before them: logits (B, V) of what follows."""
        self._mask = torch.cat([self._mask, torch.ones_like(ids_BT)], dim=1)
        return self._forward(ids_BT)

    @torch.inference_mode()
    def _forward(self, ids_BT: Tensor) -> Tensor:
        place = (self._mask.cumsum(1) - 1).clamp_(min=0)[:, -ids_BT.shape[1] :]
        made = self.model(
            input_ids=ids_BT,
            attention_mask=self._mask,
            position_ids=place,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return made.logits[:, -1].float()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the batch only."""
        chosen = torch.tensor(rows, device=self.device)
        self._cache.batch_select_indices(chosen)
        self._mask = self._mask[chosen]

    def full(self) -> list[int]:
        """The rows that hold as much as the model can see: a further token would have no place."""
        return [row for row, length in enumerate(self._mask.sum(1).tolist()) if length >= self.shape.context]

    def read_again(self, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """Put these texts in the place of what ``rows`` held: logits (rows, V) of what follows."""
        side = GivenDecoder(self.model, context=self.shape.context)
        logits = side.read(texts)
        chosen, begin = torch.tensor(rows, device=self.device), self._mask.shape[1] - side._mask.shape[1]
        for layer, other in zip(self._cache.layers, side._cache.layers, strict=True):
            layer.keys[chosen, :, begin:] = other.keys
            layer.values[chosen, :, begin:] = other.values
        self._mask[chosen, :begin] = 0
        self._mask[chosen, begin:] = side._mask
        return logits


class GivenWriter:
    """A given or fine-tuned model as a ``core.contracts.TextModel``."""

    makes = "text"

    def __init__(
        self, model: Any, tokenizer: Any, *, context: int, threads: int, usual_tokens: int, chat: bool = False
    ) -> None:
        self.model, self.tokenizer, self.threads, self.usual_tokens = model, tokenizer, threads, usual_tokens
        self.context_tokens = context
        self.follows_instructions = chat
        self.start, self.end, self.ends = special_ids(model, tokenizer)
        self._strings: list[str] | None = None

    def count_tokens(self, text: str) -> int:
        """How many tokens ``text`` has."""
        return len(encode(self.tokenizer, text))

    def sample(self, seeds: Sequence[int], ctx: Context) -> Iterator[Item]:
        """A new text a seed, at temperature 0.8; ``meta`` holds seed, settings, finish and nats."""
        sampling = Sampling(max_tokens=self.usual_tokens, temperature=0.8)
        for first in range(0, len(seeds), SLOTS):
            some = seeds[first : first + SLOTS]
            for seed, made in zip(some, self.complete([""] * len(some), seeds=some, sampling=sampling), strict=True):
                meta = {"seed": seed, "temperature": 0.8, "finish": made.finish, "nats": round(made.nats or 0.0, 4)}
                yield Item(media="text", text=made.text, meta=meta)
            ctx.progress(min(len(seeds), first + SLOTS), len(seeds))

    def complete(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        constraints: Sequence[Constraint | None] = (),
    ) -> list[Completion]:
        """Continue each prompt, or answer it where the model was tuned on answers (``core.contracts.TextModel``).

        Errors: ValueError where seeds or constraints are not one a prompt.
        """
        forms = list(constraints) or [None] * len(prompts)
        if not len(prompts) == len(seeds) == len(forms):
            raise ValueError(f"one seed and constraint a prompt: {len(prompts)}, {len(seeds)}, {len(forms)}")
        drafts = [
            _Draft(self, self._prompt(prompt), seed, form, sampling.stop)
            for prompt, seed, form in zip(prompts, seeds, forms, strict=True)
        ]
        decoder: Any = GivenDecoder(self.model, context=self.context_tokens)
        with machine(device=str(self.model.device), threads=self.threads, own=False):
            write(decoder, [draft.line for draft in drafts], sampling, end=self.end)
        return [draft.completion() for draft in drafts]

    def stream(
        self, prompt: str, *, seed: int, sampling: Sampling, constraint: Constraint | None = None
    ) -> Generator[str, None, Completion]:
        """Continue or answer a prompt piece by piece (``core.contracts.TextModel``)."""
        draft = _Draft(self, self._prompt(prompt), seed, constraint, sampling.stop)
        decoder: Any = GivenDecoder(self.model, context=self.context_tokens)
        with closing(steps(decoder, [draft.line], sampling, end=self.end)) as work:
            going = True
            while going:
                with machine(device=str(self.model.device), threads=self.threads, own=False):
                    going = next(work, False)
                if piece := draft.growing.piece(last=not going):
                    yield piece
        return draft.completion()

    def _prompt(self, prompt: str) -> list[int]:
        if not (self.follows_instructions and prompt):
            return [self.start, *encode(self.tokenizer, prompt)]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        return encode(self.tokenizer, text, special=True)

    def nats(self, texts: Sequence[str]) -> list[float]:
        """Negative log-likelihood in nats of each whole text, from its beginning, its end not counted."""
        lines = [np.array([self.start, *encode(self.tokenizer, text)]) for text in texts]
        with machine(device=str(self.model.device), threads=self.threads, own=False):
            return [float(each.sum()) for each in token_nats(self.model, lines, context=self.context_tokens)]

    def strings(self) -> list[str]:
        """The text of each token as it stands inside a text; "" for those that end one."""
        if self._strings is None:
            size = self.model.config.get_text_config().vocab_size
            anchor = encode(self.tokenizer, "a")[-1]
            head = len(self.tokenizer.decode([anchor]))
            known = min(size, len(self.tokenizer))
            found = [_decode(self.tokenizer, [anchor, index])[head:] for index in range(known)]
            self._strings = [*found, *[""] * (size - known)]
            for index in self.ends:
                self._strings[index] = ""
        return self._strings

    def silent(self) -> Tensor:
        """Flags of tokens that stand for nothing in a text and do not end it either: never drawn under a constraint."""
        ends = set(self.ends)
        return torch.tensor([not text and index not in ends for index, text in enumerate(self.strings())])


class _Draft:
    """One text being written. Tokens may hold parts of characters, so a little more is decoded than is new."""

    def __init__(
        self, writer: GivenWriter, prompt: list[int], seed: int, form: Constraint | None, stop: tuple[str, ...]
    ) -> None:
        self.writer, self.form, self.growing = writer, form, Growing(stop)
        self.ids = list(prompt[-8:])
        self.fixed, self.read = 0, len(self.ids)  # ids[fixed:read] are text already; they give the rest its spacing
        self.silent = writer.silent() if form is not None else torch.zeros(0)
        self.line = Line(
            prompt=prompt, seed=seed, accept=self.accept, allowed=self.allowed if form is not None else None
        )

    def accept(self, token: int) -> str:
        """Take in a token; ``stop`` where it ends the text or a stop word came, which is cut off."""
        if token in self.writer.ends:
            return "stop"
        self.ids.append(token)
        before = _decode(self.writer.tokenizer, self.ids[self.fixed : self.read])
        now = _decode(self.writer.tokenizer, self.ids[self.fixed :])
        if len(now) <= len(before) or now.endswith("\ufffd"):
            return ""
        self.fixed, self.read = self.read, len(self.ids)
        return "stop" if self.growing.add(now[len(before) :]) else ""

    def allowed(self) -> Tensor | None:
        if self.form is None:
            return None
        return torch.tensor(self.form.allow(self.growing.text, self.writer.strings())) & ~self.silent

    def completion(self) -> Completion:
        return Completion(
            text=self.growing.text,
            tokens=len(self.line.drawn),
            finish=self.line.finish or "length",
            nats=self.line.nats,
        )


def special_ids(model: Any, tokenizer: Any) -> tuple[int, int, tuple[int, ...]]:
    """The token that begins a text, the one that ends it, and all that may end one."""
    told = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = [tokenizer.eos_token_id, *(told if isinstance(told, list) else [told]), tokenizer.bos_token_id]
    known = [index for index in ends if index is not None]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else known[0]
    return start, known[0], tuple(dict.fromkeys(index for index in known if index != start or index == known[0]))


def encode(tokenizer: Any, text: str, *, special: bool = False) -> list[int]:
    """Token ids of ``text``; what looks like a special token is text unless ``special``."""
    text = text.encode("utf-8", "replace").decode()
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=not special)["input_ids"])


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@torch.inference_mode()
def token_nats(model: Any, lines: Sequence[np.ndarray], *, context: int) -> list[np.ndarray]:
    """Negative log-likelihood in nats of each token of each line after its first, float64.

    Past the context a window slides by half of it, so that every token has at least half a context before it.
    """
    totals = [np.zeros(max(0, len(line) - 1)) for line in lines]
    parts = [(n, *span) for n, line in enumerate(lines) for span in _spans(len(line), context)]
    parts.sort(key=lambda part: part[2] - part[1], reverse=True)
    first = 0
    while first < len(parts):
        longest = parts[first][2] - parts[first][1]
        together = parts[first : first + max(1, SCORED_TOGETHER // longest)]
        ids = torch.zeros(len(together), longest, dtype=torch.long)
        for row, (n, begin, stop, _) in enumerate(together):
            ids[row, : stop - begin] = torch.from_numpy(np.asarray(lines[n][begin:stop], dtype=np.int64))
        ids = ids.to(model.device)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        nats = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").double().cpu().numpy()
        for row, (n, begin, stop, new) in enumerate(together):
            totals[n][new - 1 : stop - 1] = nats[row, new - begin - 1 : stop - begin - 1]
        first += len(together)
    return totals


def _spans(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Windows over tokens 0..length-1 as (begin, stop, first token scored there): at most context + 1 tokens each."""
    scored, half = 1, max(1, context // 2)
    while scored < length:
        begin = 0 if scored == 1 else max(0, scored - (context - half))
        stop = min(length, begin + context + 1)
        yield begin, stop, scored
        scored = stop
