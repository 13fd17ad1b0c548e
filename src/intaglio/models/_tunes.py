"""Tunes and performances as texts to learn from: each read once, and the training line in several keys.

``Notation`` is what the two notations of ``models/music.py`` differ in before the training.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from intaglio.core.contracts import Context, Dataset, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable
from intaglio.models._corpus import Corpus, texts_of
from intaglio.models._tokenizers import TextTokenizer
from intaglio.models._writer import Writer
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.order import derive

SCORED_TOKENS = 40_000  # of the held-out texts


@dataclass(frozen=True)
class Notation:
    """What one notation does with items, texts and tokens.

    read:      the text of an item, or Unreadable. same: what of a text makes it this piece and no other.
    tokenizer: from training texts. note: True where a token begins a note.
    ranges:    the pitches of each instrument in training texts. moved: a text so many semitones higher, None where it
               would leave those ranges or cannot be written.
    fix:       what to do where there is nothing to learn from.
    """

    read: Callable[[Item, Context], str]
    same: Callable[[str], str]
    tokenizer: Callable[[Iterable[str]], TextTokenizer]
    ranges: Callable[[Iterable[str]], Any]
    moved: Callable[[str, int, Any], str | None]
    note: Callable[[str], bool]
    fix: Callable[[], str]


# ------------------------------------------------------------------------------------------------------------ the texts
class Tunes:
    """``core.contracts.Dataset`` over the plain texts of tunes, one a line, read from a file a split."""

    def __init__(self, folder: Path, splits: Sequence[str], counts: Mapping[str, int]) -> None:
        self.folder, self.splits, self.counts = folder, tuple(splits), counts
        self.left_out = counts["left_out"]

    @classmethod
    def gathered(cls, data: Dataset, ctx: Context, notation: Notation) -> Tunes:
        """Every tune of ``data`` read, each once, into ``ctx.work``; what is none is left out and said.

        Errors: UserError where no tune for training is left.
        """
        folder = ctx.work / "tunes"
        if not (folder / "counts.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            counts = _gather(data, folder, ctx, notation)
            write_atomic(folder / "counts.json", json.dumps(counts).encode())
        counts = json.loads((folder / "counts.json").read_text("utf-8"))
        if not counts["train"]:
            raise UserError(
                t("there is no tune to learn from in its data"), where=f"[models.{ctx.step}]", fix=notation.fix()
            )
        return cls(folder, ("train", "heldout"), counts)

    def __len__(self) -> int:
        return sum(self.counts[split] for split in self.splits)

    def __iter__(self) -> Iterator[Item]:
        for split in self.splits:
            with (self.folder / f"{split}.jsonl").open("r", encoding="utf-8") as file:
                yield from (Item(media="text", text=json.loads(line), split=split) for line in file)

    def some(self, count: int) -> list[str]:
        """At most so many training tunes, from all over their file: books stand one behind the other in it."""
        with (self.folder / "train.jsonl").open("r", encoding="utf-8") as file:
            return [json.loads(line) for line in itertools.islice(file, 0, None, -(-self.counts["train"] // count))]

    def split(self, name: str) -> Tunes:
        return Tunes(self.folder, [each for each in self.splits if each == name], self.counts)

    def of(self, *media: str) -> Tunes:
        return self if "text" in media else Tunes(self.folder, (), self.counts)


def _gather(data: Dataset, folder: Path, ctx: Context, notation: Notation) -> dict[str, int]:
    counts, reason = {"train": 0, "heldout": 0, "left_out": 0}, ""
    seen: set[int] = set()  # training comes first: no held-out tune is one of it
    for split in ("train", "heldout"):
        with (folder / f"{split}.part").open("w", encoding="utf-8") as file:
            for item in data.split(split):
                try:
                    text = notation.read(item, ctx)
                except (Unreadable, FileNotFoundError) as error:
                    counts["left_out"] += 1
                    reason = reason or f"{item.origin}: {error}"
                    continue
                number = derive(0, notation.same(text))
                if number not in seen:
                    seen.add(number)
                    file.write(json.dumps(text) + "\n")
                    counts[split] += 1
        os.replace(folder / f"{split}.part", folder / f"{split}.jsonl")
    if counts["left_out"]:
        ctx.warn(t("{count} items were left out; the first: {reason}", count=counts["left_out"], reason=reason))
    return counts


def refuse_seconds(seconds: float | None, ctx: Context) -> None:
    """Errors: UserError where seconds are asked for: music is as long as its bars."""
    if seconds is not None:
        raise UserError(
            t("a tune is as long as its bars, not so many seconds"),
            where=f"[generate.{ctx.step}]",
            fix=t("leave seconds out, and set bars in the model's step"),
        )


# -------------------------------------------------------------------------------------------------------- in other keys
def shifts(reach: int) -> list[int]:
    """0 first, then by how far: 1, -1, 2, -2 .. so that the nearer one is always known before the farther."""
    return [0, *itertools.chain.from_iterable((n, -n) for n in range(1, reach + 1))]


class Keys:
    """Training texts in every key within reach, each text as high as it may be."""

    def __init__(self, tunes: Tunes, notation: Notation, reach: int) -> None:
        self.tunes, self.notation, self.reach = tunes, notation, reach
        self.ranges = notation.ranges(texts_of(tunes, "train")) if reach else None

    def versions(self, text: str) -> dict[int, str]:
        """The text by semitones; those that it may not be moved by are missing."""
        moved = {by: self.notation.moved(text, by, self.ranges) for by in shifts(self.reach)[1:]}
        return {0: text, **{by: each for by, each in moved.items() if each is not None}}

    def texts(self) -> Iterator[str]:
        """All of them, text by text."""
        for text in texts_of(self.tunes, "train"):
            yield from self.versions(text).values() if self.reach else (text,)

    def corpus(self, corpus: Corpus, ctx: Context) -> Corpus:
        """The corpus whose training line is read in another key at every window; the held-out line stays as it is."""
        if not self.reach:
            return corpus
        path = ctx.work / "corpus" / "keys.bin"
        shape = (2 * self.reach + 1, len(corpus.train))
        if not path.exists():
            part = path.with_suffix(".part")
            lines = np.memmap(part, dtype=corpus.train.dtype, mode="w+", shape=shape)
            self._write(lines, corpus)
            lines.flush()
            del lines
            os.replace(part, path)
        lines = np.memmap(path, dtype=corpus.train.dtype, mode="r", shape=shape)
        line = cast(np.ndarray, Line(lines, seed=ctx.seed))
        return dataclasses.replace(corpus, train=line, digest=f"{corpus.digest}:keys{self.reach}")

    def _write(self, lines: np.ndarray, corpus: Corpus) -> None:
        lines[:] = corpus.train[None]
        row = {by: number for number, by in enumerate(shifts(self.reach))}
        at = 0
        for text in texts_of(self.tunes, "train"):
            versions = self.versions(text)
            known = dict(zip(versions, corpus.tokenizer.encode_all(list(versions.values())), strict=True))
            end = at + len(known[0])
            for by in shifts(self.reach)[1:]:
                nearer = row[by - 1 if by > 0 else by + 1]
                ids = known.get(by)
                lines[row[by], at:end] = ids if ids is not None and len(ids) == end - at else lines[nearer, at:end]
            at = end + 1


class Line:
    """A line of tokens in several keys, all equally long; each window is cut from one of them.

    Which one is a pure function of the seed and of where the window begins, and that is one of seed, step and row
    (``models/_pretrain.py``, ``windows``). It stands in the place of the one line of a ``Corpus``.
    """

    def __init__(self, lines_KN: np.ndarray, *, seed: int) -> None:
        self.lines, self.seed = lines_KN, seed

    def __len__(self) -> int:
        return self.lines.shape[1]

    def __getitem__(self, index_BT: np.ndarray) -> np.ndarray:
        """The tokens at these places, int of the line's own size, (B, T): a row is of one key."""
        keys = [derive(self.seed, "key", int(place)) % len(self.lines) for place in index_BT[:, 0]]
        return self.lines[np.array(keys)[:, None], index_BT]


# -------------------------------------------------------------------------------------------------------------- figures
def per_note(writer: Writer, corpus: Corpus, tunes: Tunes, notation: Notation) -> dict[str, Any]:
    """Nats a note of held-out texts as they are written, every token of theirs counted, beside the frequencies of
    tokens in training (add-one). None where nothing was held out."""
    names = ("heldout_nats_per_note", "baseline_unigram_nats_per_note", "heldout_bits_per_event",
             "baseline_unigram_bits_per_event")  # fmt: skip
    texts, tokens = [], 0
    for text in texts_of(tunes, "heldout"):
        texts.append(text)
        tokens += writer.count_tokens(text)
        if tokens >= SCORED_TOKENS:
            break
    if not texts:
        return {**dict.fromkeys(names), "heldout_notes": 0}
    counts = np.bincount(np.asarray(corpus.train), minlength=corpus.tokenizer.size)[1:] + 1
    nats = -np.log(counts / counts.sum())
    ids = np.concatenate(corpus.tokenizer.encode_all(texts))
    begins = np.array([notation.note(name) for name in corpus.tokenizer.strings])
    notes, unigram = int(begins[ids].sum()), float(nats[ids - 1].sum())
    own = sum(writer.nats(texts))
    values = (own / notes, unigram / notes, own / tokens / math.log(2), unigram / tokens / math.log(2))
    return {**{n: round(v, 4) for n, v in zip(names, values, strict=True)}, "heldout_notes": notes}
