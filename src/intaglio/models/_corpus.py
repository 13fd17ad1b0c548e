"""Texts as one long line of token ids on disk: streamed once to count and once to write, then memory-mapped."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from intaglio.core.contracts import Context, Dataset
from intaglio.core.errors import UserError
from intaglio.core.hashing import sha256_file
from intaglio.core.i18n import t
from intaglio.models._tokenizers import (
    TextTokenizer,
    bpe_tokenizer,
    byte_tokenizer,
    character_tokenizer,
    choose_kind,
    count_characters,
)

BPE_SAMPLE_CHARACTERS = 50_000_000  # tokens are learned from the first this many characters
_TOGETHER = 1_000


@dataclass(frozen=True)
class Counts:
    """What was counted of one split."""

    documents: int
    characters: int
    bytes: int
    tokens: int


@dataclass(frozen=True)
class Corpus:
    """Token ids of both splits; every document is followed by the end token.

    train, heldout: 1 dimension, uint16 or uint32, on disk; heldout is None where nothing was held out.
    unigram_nats:   nats a character of the held-out text under character frequencies of the training text (add-one).
    digest:         content address of both lines and the tokenizer.
    """

    tokenizer: TextTokenizer
    train: np.ndarray
    heldout: np.ndarray | None
    train_counts: Counts
    heldout_counts: Counts
    unigram_nats: float | None
    digest: str


def texts_of(data: Dataset, split: str) -> Iterator[str]:
    """The texts of a split that hold anything but white space."""
    for item in data.of("text").split(split):
        if item.text.strip():
            yield item.text


def warn_of_sameness(data: Dataset, ctx: Context) -> None:
    """Say where all texts to learn from are one: figures on held-out text mean nothing then."""
    texts = texts_of(data, "train")
    first, count = next(texts, ""), 1
    for text in texts:
        if text != first:
            return
        count += 1
    if count > 1:
        ctx.warn(t("the texts are all the same"))


def prepare(data: Dataset, ctx: Context, *, kind: str | Callable[[Dataset], TextTokenizer]) -> Corpus:
    """Count, choose and train the tokenizer (``auto`` or one of ``KINDS``, or made by a function of the data), write
    both splits below ``ctx.work``.

    What an earlier, killed call finished is used again. Errors: UserError where there is no text to learn from.
    """
    folder = ctx.work / "corpus"
    if not (folder / "corpus.json").exists():
        _write(data, ctx, folder, kind)
    warn_of_sameness(data, ctx)
    facts = json.loads((folder / "corpus.json").read_text("utf-8"))
    tokenizer = TextTokenizer.load(folder)
    train_counts, heldout_counts = Counts(**facts["train"]), Counts(**facts["heldout"])
    return Corpus(
        tokenizer=tokenizer,
        train=np.memmap(folder / "train.bin", dtype=facts["dtype"], mode="r"),
        heldout=np.memmap(folder / "heldout.bin", dtype=facts["dtype"], mode="r") if heldout_counts.tokens else None,
        train_counts=train_counts,
        heldout_counts=heldout_counts,
        unigram_nats=facts["unigram_nats"],
        digest=facts["digest"],
    )


def _write(data: Dataset, ctx: Context, folder: Path, kind: str | Callable[[Dataset], TextTokenizer]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ctx.progress(0, 1, doing=t("counting"))
    counts = count_characters(texts_of(data, "train"))
    if not counts:
        raise UserError(
            t("there is no text to learn from in its data: no item of the training part holds text"),
            where=ctx.step,
            fix=t("name a data step with texts in `data`, and see what it skipped: intaglio show"),
        )
    if isinstance(kind, str):
        tokenizer = _tokenizer(data, counts, choose_kind(counts) if kind == "auto" else kind)
    else:
        tokenizer = kind(data)
    tokenizer.save(folder, context=0)
    dtype = "uint16" if tokenizer.size <= 0x10000 else "uint32"
    facts: dict[str, object] = {"dtype": dtype}
    for split in ("train", "heldout"):
        facts[split] = asdict(_write_split(data, split, tokenizer, folder / f"{split}.bin", dtype, ctx))
    facts["unigram_nats"] = _unigram_nats(counts, count_characters(texts_of(data, "heldout")))
    names = ("train.bin", "heldout.bin", "tokenizer.json")
    facts["digest"] = ":".join(sha256_file(folder / name)[:16] for name in names)
    part = folder / "corpus.part"
    part.write_text(json.dumps(facts), "utf-8")
    os.replace(part, folder / "corpus.json")


def _tokenizer(data: Dataset, counts: Counter[str], kind: str) -> TextTokenizer:
    if kind == "char":
        return character_tokenizer(counts)
    if kind == "byte":
        return byte_tokenizer()
    characters = sum(counts.values())
    size = min(32_768, max(512, 1 << round(math.log2(max(2.0, characters**0.5 * 3)))))
    return bpe_tokenizer(_first(texts_of(data, "train"), BPE_SAMPLE_CHARACTERS), size=size)


def _first(texts: Iterator[str], characters: int) -> Iterator[str]:
    for text in texts:
        if characters <= 0:
            return
        characters -= len(text)
        yield text.encode("utf-8", "replace").decode()


def _write_split(data: Dataset, split: str, tokenizer: TextTokenizer, path: Path, dtype: str, ctx: Context) -> Counts:
    documents = characters = size_bytes = tokens = 0
    total = len(data)
    with path.open("wb") as file:
        for together in _batches(texts_of(data, split)):
            lines = [np.append(ids, tokenizer.end) for ids in tokenizer.encode_all(together)]
            line = np.concatenate(lines).astype(dtype)
            file.write(line.tobytes())
            tokens += len(line)
            documents += len(together)
            characters += sum(len(text) for text in together)
            size_bytes += sum(len(text.encode("utf-8", "replace")) for text in together)
            ctx.progress(0, 1, doing=t("tokens of {done}/{total} texts", done=documents, total=total))
    return Counts(documents, characters, size_bytes, tokens)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    together: list[str] = []
    characters = 0
    for text in texts:
        together.append(text)
        characters += len(text)
        if len(together) >= _TOGETHER or characters >= 4_000_000:
            yield together
            together, characters = [], 0
    if together:
        yield together


def _unigram_nats(train: Counter[str], heldout: Counter[str]) -> float | None:
    characters = sum(heldout.values())
    if not characters:
        return None
    total = sum(train.values()) + len(train) + 1  # add one to each known character and to "any other"
    return sum(n * -math.log((train[c] + 1) / total) for c, n in sorted(heldout.items())) / characters
