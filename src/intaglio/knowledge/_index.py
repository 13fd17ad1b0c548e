"""A vector index in files: vectors as a memory-mapped float16 array, passages as one text file, searched exactly in
chunks.

Files:  ``vectors.npy`` [n, d] float16 unit rows; ``passages.txt`` all passages in UTF-8 and ``ends.npy`` [n] where each
        ends, in bytes; ``owners.npy`` [n] which item each belongs to; ``places.npy`` [n, 2] its offsets in that item's
        text, in characters; ``ids.npy`` [items, 32] raw SHA-256; ``origins.txt`` one JSON string a line.
Size:   exact search reads every vector: 17 ms for 100,000 of 384 values; past some 200,000 an inverted file (IVF) is
        worth its loss.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from intaglio.core.contracts import Hit, Item
from intaglio.knowledge._passages import Passage

CHUNK_ROWS = 16_384


class IndexWriter:
    """Passages are added one by one; memory grows by some 60 bytes a passage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._texts: BinaryIO = (folder / "passages.txt").open("wb")
        self._origins: BinaryIO = (folder / "origins.txt").open("wb")
        self._ids = bytearray()
        self._ends: list[int] = []
        self._owners: list[int] = []
        self._places: list[tuple[int, int]] = []
        self.items = 0
        self.rows = 0
        self._bytes = 0

    def item(self, item: Item) -> None:
        """The item that the passages added next belong to."""
        self._ids += bytes.fromhex(item.id)
        self._origins.write(json.dumps(item.origin, ensure_ascii=True).encode() + b"\n")
        self.items += 1

    def passage(self, passage: Passage) -> None:
        """One passage of the item told last."""
        self._bytes += self._texts.write(passage.text.encode("utf-8", "replace"))
        self._ends.append(self._bytes)
        self._owners.append(self.items - 1)
        self._places.append((passage.start, passage.end))
        self.rows += 1

    def close(self) -> None:
        """Finish everything but the vectors."""
        self._texts.close()
        self._origins.close()
        np.save(self.folder / "ends.npy", np.array(self._ends, dtype=np.int64))
        np.save(self.folder / "owners.npy", np.array(self._owners, dtype=np.int32))
        np.save(self.folder / "places.npy", np.array(self._places, dtype=np.int32).reshape(-1, 2))
        np.save(self.folder / "ids.npy", np.frombuffer(bytes(self._ids), dtype=np.uint8).reshape(-1, 32))


@dataclass
class Index:
    """The files of ``IndexWriter`` and ``vectors.npy``, opened without reading them whole."""

    folder: Path

    def __post_init__(self) -> None:
        def mapped(name: str) -> NDArray:
            path = self.folder / name
            return np.load(path, mmap_mode="r", allow_pickle=False)

        self.vectors, self.ends, self.owners = mapped("vectors.npy"), mapped("ends.npy"), mapped("owners.npy")
        self.ids, self.places = mapped("ids.npy"), mapped("places.npy")
        self._origins: list[int] | None = None

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    def text(self, row: int) -> str:
        """The passage of a row."""
        start = int(self.ends[row - 1]) if row else 0
        with (self.folder / "passages.txt").open("rb") as file:
            file.seek(start)
            return file.read(int(self.ends[row]) - start).decode("utf-8")

    def item(self, row: int) -> str:
        """Id of the item a row belongs to."""
        return bytes(self.ids[int(self.owners[row])]).hex()

    def origin(self, row: int) -> str:
        """Origin of the item a row belongs to."""
        if self._origins is None:
            self._origins = [0]
            with (self.folder / "origins.txt").open("rb") as file:
                for line in file:
                    self._origins.append(self._origins[-1] + len(line))
        owner = int(self.owners[row])
        with (self.folder / "origins.txt").open("rb") as file:
            file.seek(self._origins[owner])
            return str(json.loads(file.readline()))

    def search(self, query: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
        """The ``k`` nearest items by their best passage: (row, cosine), nearest first; equal scores by row."""
        if not len(self) or k < 1 or not np.any(query):
            return []
        wanted = min(len(self), max(4 * k, 64))
        while True:
            rows, scores = self._nearest(query, wanted)
            best: dict[int, tuple[int, float]] = {}
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
                best.setdefault(int(self.owners[row]), (row, score))
            if len(best) >= k or wanted == len(self):
                return list(best.values())[:k]
            wanted = min(len(self), wanted * 8)

    def _nearest(self, query: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows, scores = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        for first in range(0, len(self), CHUNK_ROWS):
            block = np.asarray(self.vectors[first : first + CHUNK_ROWS], dtype=np.float32) @ query
            least = np.partition(block, len(block) - k)[len(block) - k] if len(block) > k else -np.inf
            near = np.flatnonzero(block >= least)  # with all that equal the last, so that the order of rows decides
            rows = np.concatenate((rows, near + first))
            scores = np.concatenate((scores, block[near]))
            order = np.lexsort((rows, -scores))[:k]
            rows, scores = rows[order], scores[order]
        return rows, scores

    def hit(self, row: int, score: float) -> Hit:
        """A row as a search result."""
        return Hit(item=self.item(row), text=self.text(row), score=score, origin=self.origin(row))
