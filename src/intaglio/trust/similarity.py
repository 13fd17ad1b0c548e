"""Copies of the archive: the longest verbatim run of a text, and pictures that lie too near to one of the archive.

Texts:    the candidates are few and the archive is long, so the candidates are indexed and the archive flows past once:
          every n-gram of the archive is hashed (polynomial, modulo 2^64, vectorised), looked up among the candidates'
          and each hit is extended by hashes, the longest then compared character by character: runs of n or more are
          found whole, and a hash collision cannot make one up. Memory is linear in the candidates plus one batch,
          whatever the size of the archive.
          n is 5 for texts mostly in Chinese characters and 13 for others (shorter runs say nothing there).
Letters:  only letters and digits count, after NFKC and case folding: other punctuation or line breaks do not hide a
          copy.
Pictures: 16 x 16 means of sRGB over white, L2 distance per value in [0, 1]: what is left after small shifts, noise,
          other compression and a slight blur. Not invariant to mirroring or cropping by more than a tenth.
Licence:  ours; written from the definitions.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HAN_N, OTHER_N = 5, 13
BATCH_CHARS = 1 << 21
MAX_PLACES = 64  # of one n-gram among the candidates: "aaaa..." must not become quadratic
PICTURE_SIDE = 16
_BASE = np.uint64(0x9E3779B97F4A7C15)
_NOT_LETTERS = re.compile(r"[\W_]+")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True, slots=True)
class Run:
    """The longest run of letters that a text shares with one text of the archive.

    chars:   letters and digits in it; 0 where it is shorter than ``floor``, the shortest run that is looked for.
    share:   chars / letters of the whole text, in [0, 1].
    covered: share of the text's letters that lie in any shared run of ``floor`` or more (a patchwork of copies), in [0,
             1].
    item:    id of the archive item that holds it; the first one where several do. excerpt: the run as the text spells
             it.
    """

    chars: int
    share: float
    covered: float
    item: str
    excerpt: str
    letters: int
    floor: int


def letters(text: str) -> str:
    """Only the letters and digits of ``text``, NFKC-normalized and case-folded."""
    return _NOT_LETTERS.sub("", unicodedata.normalize("NFKC", text).casefold())


def mostly_han(text: str) -> bool:
    """Whether at least half of the letters are Chinese characters."""
    bare = letters(text)
    return 2 * len(_HAN.findall(bare)) >= len(bare) > 0


def longest_runs(texts: Sequence[str], archive: Iterable[tuple[str, str]]) -> list[Run]:
    """For each text, its longest verbatim run in an archive of ``(id, text)`` pairs; one pass, the archive may be any
    size.

    An n-gram that stands more than 64 times in the texts themselves is followed from its first 64 places only.
    """
    han = [mostly_han(text) for text in texts]
    groups = [
        (n, [i for i, is_han in enumerate(han) if is_han == flag]) for n, flag in ((HAN_N, True), (OTHER_N, False))
    ]
    trackers = [_Tracker(n, [letters(texts[i]) for i in places]) for n, places in groups]
    for batch in _batches(archive):
        for tracker in trackers:
            tracker.feed(batch)
    runs: dict[int, Run] = {}
    for tracker, (_, places) in zip(trackers, groups, strict=True):
        for place, run in zip(places, tracker.runs([texts[i] for i in places]), strict=True):
            runs[place] = run
    return [runs[i] for i in range(len(texts))]


def _batches(archive: Iterable[tuple[str, str]]) -> Iterator[_Batch]:
    """Texts joined with a separator that no text holds, some millions of characters at a time."""
    ids: list[str] = []
    parts: list[str] = []
    held = 0
    for id_, text in archive:
        bare = letters(text)
        for start in range(0, max(len(bare), 1), BATCH_CHARS):  # an enormous text comes in overlapping pieces
            piece = bare[start : start + BATCH_CHARS + 4096]
            ids.append(id_)
            parts.append(piece)
            held += len(piece) + 1
            if held >= BATCH_CHARS:
                yield _Batch(ids, parts)
                ids, parts, held = [], [], 0
    if parts:
        yield _Batch(ids, parts)


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _hashes(codes: NDArray[np.uint32], n: int) -> NDArray[np.uint64]:
    """Polynomial hash of each n-gram, uint64; the last n - 1 places have none."""
    count = len(codes) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    total = np.zeros(count, dtype=np.uint64)
    for offset in range(n):
        total *= _BASE
        total += codes[offset : offset + count]
    return total ^ (total >> np.uint64(29))


class _Tracker:
    """The longest runs found so far for texts that share one n."""

    def __init__(self, n: int, texts: list[str]) -> None:
        self.n = n
        self.sizes = np.array([len(text) for text in texts], dtype=np.int64)
        # \x01 against the archive's \x00: no run crosses the end of a text, on either side.
        self.codes = _codes("\x01" + "".join(text + "\x01" for text in texts) + "\x01" * n)
        self.starts = np.concatenate(([1], 1 + np.cumsum(self.sizes + 1)))[: len(texts)].astype(np.int64)
        self.best = np.zeros(len(texts), dtype=np.int64)
        self.place = np.zeros(len(texts), dtype=np.int64)
        self.item = [""] * len(texts)
        self.marks = np.zeros(len(self.codes) + 1, dtype=np.int64)
        self.sums = _Sums(self.codes)
        self._index()

    def _index(self) -> None:
        places = [
            np.arange(s, s + size - self.n + 1)
            for s, size in zip(self.starts, self.sizes, strict=True)
            if size >= self.n
        ]
        where = np.concatenate(places) if places else np.empty(0, dtype=np.int64)
        hashes = _hashes(self.codes, self.n)[where] if len(where) else np.empty(0, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        self.sorted, self.where = hashes[order], where[order]
        self.filter = np.zeros(1 << 22, dtype=bool)
        self.filter[self.sorted & np.uint64(len(self.filter) - 1)] = True

    def feed(self, batch: _Batch) -> None:
        """Compare one batch of the archive."""
        if not len(self.sorted):
            return
        hashes = _hashes(batch.codes, self.n)
        maybe = np.flatnonzero(self.filter[hashes & np.uint64(len(self.filter) - 1)])
        low = np.searchsorted(self.sorted, hashes[maybe], "left")
        high = np.searchsorted(self.sorted, hashes[maybe], "right")
        hit = high > low
        maybe, low, high = maybe[hit], low[hit], np.minimum(high[hit], low[hit] + MAX_PLACES)
        for first in range(0, len(maybe), 1 << 14):
            part = slice(first, first + (1 << 14))
            self._extend(batch, maybe[part], low[part], high[part])

    def _extend(
        self, batch: _Batch, places: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]
    ) -> None:
        counts = high - low
        here = np.repeat(places, counts)  # in the archive's batch
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        there = self.where[np.repeat(low, counts) + within]  # in the texts
        fresh = (here == 0) | (batch.codes[np.maximum(here - 1, 0)] != self.codes[there - 1])  # a run is followed once
        here, there = here[fresh], there[fresh]
        lengths = _common(batch, here, self.sums, there)
        real = lengths >= self.n
        here, there, lengths = here[real], there[real], lengths[real]
        np.add.at(self.marks, there, 1)
        np.add.at(self.marks, there + lengths, -1)
        owner = np.searchsorted(self.starts, there, "right") - 1
        order = np.lexsort((there, here, -lengths))
        for text, first in zip(*np.unique(owner[order], return_index=True), strict=True):
            at = order[first]
            length = _exactly(batch.codes, int(here[at]), self.codes, int(there[at]), int(lengths[at]))
            if length >= max(self.n, self.best[text] + 1):
                self.best[text], self.place[text] = length, there[at]
                self.item[text] = batch.ids[int(np.searchsorted(batch.starts, here[at], "right")) - 1]

    def runs(self, originals: list[str]) -> list[Run]:
        """The result for each text, in order."""
        inside = np.cumsum(self.marks) > 0
        found = []
        for i, original in enumerate(originals):
            start, size = int(self.starts[i]), int(self.sizes[i])
            chars = int(self.best[i])
            covered = float(inside[start : start + size].mean()) if size else 0.0
            offset = int(self.place[i]) - start
            excerpt = _spelled(original, offset, chars) if chars else ""
            found.append(Run(chars, chars / size if size else 0.0, covered, self.item[i], excerpt, size, self.n))
        return found


def _common(a: _Sums, at_a: NDArray[np.int64], b: _Sums, at_b: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many code points are equal from each pair of places on, by hashes: binary search on all pairs at once."""
    low = np.zeros(len(at_a), dtype=np.int64)
    high = np.minimum(len(a.codes) - at_a, len(b.codes) - at_b)
    powers = _powers(int(max(len(a.codes), len(b.codes))))
    while (low < high).any():
        middle = (low + high + 1) // 2
        left = (a.sums[at_a + middle] - a.sums[at_a]) * powers[at_b]
        right = (b.sums[at_b + middle] - b.sums[at_b]) * powers[at_a]
        same = left == right
        low, high = np.where(same, middle, low), np.where(same, high, middle - 1)
    return low


def _exactly(a: NDArray[np.uint32], at_a: int, b: NDArray[np.uint32], at_b: int, length: int) -> int:
    """``length`` itself, or less where the hashes were equal and the characters are not."""
    differs = np.flatnonzero(a[at_a : at_a + length] != b[at_b : at_b + length])
    return int(differs[0]) if len(differs) else length


@functools.lru_cache(maxsize=2)
def _powers(count: int) -> NDArray[np.uint64]:
    powers = np.full(count + 1, _BASE, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


class _Sums:
    """Code points with the running sums of their polynomial, so that any two stretches are compared in one step."""

    def __init__(self, codes: NDArray[np.uint32]) -> None:
        self.codes = codes

    @functools.cached_property
    def sums(self) -> NDArray[np.uint64]:
        terms = (self.codes.astype(np.uint64) + np.uint64(1)) * _powers(len(self.codes))[:-1]
        return np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(terms, dtype=np.uint64)))


class _Batch(_Sums):
    """A stretch of the archive: ids of its texts and where each begins."""

    def __init__(self, ids: list[str], parts: list[str]) -> None:
        super().__init__(_codes("\x00".join(parts) + "\x00"))
        self.ids = ids
        lengths = np.array([len(part) + 1 for part in parts], dtype=np.int64)
        self.starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))


def _spelled(original: str, offset: int, length: int) -> str:
    """The part of ``original`` whose letters are ``length`` letters from letter ``offset`` on."""
    seen, start = 0, -1
    for place, char in enumerate(original):
        count = len(letters(char))
        if count and start < 0 and seen + count > offset:
            start = place
        seen += count
        if start >= 0 and seen >= offset + length:
            return original[start : place + 1]
    return original[max(start, 0) :]


# ------------------------------------------------------------------------------------------------------------- pictures
def picture_features(source: Path | BinaryIO | Image.Image) -> NDArray[np.float32]:
    """A picture as 16 x 16 area means of sRGB over white: float32 of 768 values in [0, 1], divided by sqrt(768).

    The Euclidean distance of two of them is therefore the root mean square difference per value, in [0, 1].
    Errors: OSError or ValueError where it cannot be read as a picture (Pillow's own limits on size hold).
    """
    if isinstance(source, Image.Image):
        return _features(source)
    with Image.open(source) as picture:
        picture.draft("RGB", (PICTURE_SIDE * 4, PICTURE_SIDE * 4))
        return _features(picture)


def _features(picture: Image.Image) -> NDArray[np.float32]:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    small = picture.convert("RGB").resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float32).reshape(-1) / 255.0
    return values / np.float32(np.sqrt(values.size))


def nearest(
    queries: NDArray[np.float32], others: Iterable[NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """For each row of ``queries`` [Q, D] the distance to its nearest among ``others`` (rows of D, streamed) and its
    place.

    Distances float32 [Q], inf where there are no others; places int64 [Q], -1 there; the first of equals wins.
    """
    best = np.full(len(queries), np.inf, dtype=np.float32)
    place = np.full(len(queries), -1, dtype=np.int64)
    first, rows = 0, list[NDArray[np.float32]]()

    def compare() -> None:
        block = np.stack(rows)
        squares = (queries**2).sum(1)[:, None] + (block**2).sum(1)[None, :] - 2.0 * queries @ block.T
        at = squares.argmin(1)
        # the expanded square loses digits near zero, where it matters: the winner's distance is computed again
        distance = np.sqrt(((queries - block[at]) ** 2).sum(1))
        nearer = distance < best
        best[nearer], place[nearer] = distance[nearer], first + at[nearer]

    for row in others:
        rows.append(row)
        if len(rows) == 1024:
            compare()
            first, rows = first + len(rows), []
    if rows and len(queries):
        compare()
    return best, place
