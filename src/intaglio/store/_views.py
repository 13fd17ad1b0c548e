"""Datasets that are part of another or several in a row; nothing is read before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from intaglio.core.contracts import Dataset, Item


class Streamed:
    """What all datasets of the store share: views by split and media kind, built on ``_select``."""

    def __len__(self) -> int:
        return self._count(None, None)

    def __iter__(self) -> Iterator[Item]:
        return self._select(None, None)

    def split(self, name: str) -> Dataset:
        """Only the items of ``train`` or ``heldout``."""
        return _View(self, name, None)

    def of(self, *media: str) -> Dataset:
        """Only the items of these media kinds."""
        return _View(self, None, media)

    def _select(self, split: str | None, media: tuple[str, ...] | None) -> Iterator[Item]:
        raise NotImplementedError

    def _count(self, split: str | None, media: tuple[str, ...] | None) -> int:
        raise NotImplementedError


class _View(Streamed):
    """Part of a dataset, chosen while it streams."""

    def __init__(self, base: Streamed, split: str | None, media: tuple[str, ...] | None) -> None:
        self._base, self._split, self._media = base, split, media

    def _both(self, split: str | None, media: tuple[str, ...] | None) -> tuple[str | None, tuple[str, ...] | None]:
        if split is None or self._split is None or split == self._split:
            split = self._split if split is None else split
        else:
            split = ""  # two different splits have nothing in common
        if media is None or self._media is None:
            return split, self._media if media is None else media
        return split, tuple(kind for kind in media if kind in self._media)

    def _select(self, split: str | None, media: tuple[str, ...] | None) -> Iterator[Item]:
        return self._base._select(*self._both(split, media))

    def _count(self, split: str | None, media: tuple[str, ...] | None) -> int:
        return self._base._count(*self._both(split, media))


class _Union(Streamed):
    """Several datasets one after the other."""

    def __init__(self, parts: Sequence[Streamed]) -> None:
        self.parts = tuple(parts)

    def _select(self, split: str | None, media: tuple[str, ...] | None) -> Iterator[Item]:
        for part in self.parts:
            yield from part._select(split, media)

    def _count(self, split: str | None, media: tuple[str, ...] | None) -> int:
        return sum(part._count(split, media) for part in self.parts)


class _Foreign(Streamed):
    """A dataset that is not of this store (a list in a notebook), read through its protocol only."""

    def __init__(self, base: Dataset) -> None:
        self._base = base

    def _chosen(self, split: str | None, media: tuple[str, ...] | None) -> Dataset:
        chosen = self._base if split is None else self._base.split(split)
        return chosen if media is None else chosen.of(*media)

    def _select(self, split: str | None, media: tuple[str, ...] | None) -> Iterator[Item]:
        return iter(self._chosen(split, media))

    def _count(self, split: str | None, media: tuple[str, ...] | None) -> int:
        return len(self._chosen(split, media))


def union(datasets: Sequence[Dataset]) -> Dataset:
    """The items of all datasets, one dataset after the other; an item in two of them comes twice."""
    if len(datasets) == 1:
        return datasets[0]
    return _Union([d if isinstance(d, Streamed) else _Foreign(d) for d in datasets])
