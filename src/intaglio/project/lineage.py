"""Where things came from and where they went: traces, rights and everything an item touched, read from the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from intaglio.core.contracts import Item, SourceInfo, Trace
from intaglio.store import Store
from intaglio.store.collections import Collection
from intaglio.store.records import StepRecord

UNKNOWN = "unknown"


class Lineage:
    """Answers from the ledger, records cached; ``extra`` holds records that are not in it (replay)."""

    def __init__(self, store: Store, extra: dict[str, StepRecord] | None = None) -> None:
        self._store = store
        self._records: dict[str, StepRecord | None] = dict(extra or {})
        self._chains: dict[str, list[StepRecord]] = {}

    def record(self, key: str) -> StepRecord | None:
        """The made step behind a key; a blocked one too."""
        if key not in self._records:
            self._records[key] = self._store.ledger.made([key]).get(key) or self._store.ledger.by_key(key)
        return self._records[key]

    def chain(self, key: str) -> list[StepRecord]:
        """The step of this key and all above it, sources first, each once."""
        if key in self._chains:
            return self._chains[key]
        order: list[StepRecord] = []
        seen: set[str] = set()

        def visit(each: str) -> None:
            if each in seen:
                return
            seen.add(each)
            record = self.record(each)
            if record is None:
                return
            for entry in record.inputs:
                visit(entry["key"])
            order.append(record)

        visit(key)
        self._chains[key] = order
        return order

    def collections(self, key: str) -> list[tuple[StepRecord, Collection]]:
        """The data collections at or above a step."""
        return [
            (record, Collection(self._store.blobs, record.outputs["items"]))
            for record in self.chain(key)
            if record.stage == "data" and "items" in record.outputs
        ]

    def licenses(self, key: str) -> dict[str, int]:
        """License to number of source items, over all data at or above a step."""
        found: dict[str, int] = {}
        for _, collection in self.collections(key):
            for license_, count in collection.info().licenses.items():
                found[license_ or UNKNOWN] = found.get(license_ or UNKNOWN, 0) + count
        return found

    def trace(self, item: Item, key: str, *, limit: int | None = None) -> Trace:
        """Back from an item made by step ``key`` to sources, models, steps; ``limit`` bounds indirect sources."""
        chain = self.chain(key)
        collections = self.collections(key)
        return Trace(
            tuple(self._sources(item, collections, limit)),
            tuple(
                {"step": r.name, "use": r.use, "checkpoint": r.outputs.get("files", ""), "metrics": r.metrics}
                for r in chain
                if r.stage == "models"
            ),
            tuple({"name": r.name, "stage": r.stage, "use": r.use, "key": r.key} for r in chain),
            tuple(
                {"step": r.name, "items": len(c), "licenses": c.info().licenses, "id": r.outputs["items"]}
                for r, c in collections
            ),
        )

    def _sources(
        self, item: Item, collections: Sequence[tuple[StepRecord, Collection]], limit: int | None
    ) -> Iterator[SourceInfo]:
        direct: dict[str, Item] = {}
        for parent in dict.fromkeys((*item.parents, *((item.id,) if not item.parents else ()))):
            for _, collection in collections:
                found = collection.get(parent)
                if found is not None:
                    direct.setdefault(parent, found)
                    break
        for each in direct.values():
            yield SourceInfo(each.id, each.origin, each.license, each.consent, direct=True)
        given = 0
        seen = set(direct)
        for _, collection in collections:
            for each in collection:
                if each.id in seen:
                    continue
                if limit is not None and given >= limit:
                    return
                seen.add(each.id)
                given += 1
                yield SourceInfo(each.id, each.origin, each.license, each.consent)


def combined_license(licenses: Iterable[str]) -> str:
    """One SPDX expression for something made from all of these; ``unknown`` wins."""
    found = sorted(set(licenses))
    if not found or UNKNOWN in found or "" in found:
        return UNKNOWN
    if len(found) == 1:
        return found[0]
    return " AND ".join(f"({each})" if " OR " in each else each for each in found)


@dataclass(frozen=True)
class Touched:
    """What an item touched: data steps that hold it and every made step that read from them, as ledger records."""

    items: tuple[Item, ...]
    datasets: tuple[StepRecord, ...]
    others: tuple[StepRecord, ...]

    def of(self, stage: str) -> list[StepRecord]:
        """The touched steps of one stage."""
        return [record for record in self.others if record.stage == stage]


def touched(store: Store, item: str, records: Sequence[StepRecord]) -> Touched:
    """Everything of ``records`` (made steps, any order) that an item reached.

    Args:
        item: an id, a unique beginning of one (8 characters or more), or the origin of an item.
    """
    items: dict[str, Item] = {}
    holding: list[StepRecord] = []
    for record in records:
        if record.stage != "data" or "items" not in record.outputs:
            continue
        found = find_items(Collection(store.blobs, record.outputs["items"]), item)
        if found:
            holding.append(record)
            items.update({each.id: each for each in found})
    hit = {record.key for record in holding}
    grew = True
    while grew:
        grew = False
        for record in records:
            if record.key not in hit and any(entry["key"] in hit for entry in record.inputs):
                hit.add(record.key)
                grew = True
    held = {record.key for record in holding}
    return Touched(
        tuple(items.values()), tuple(holding), tuple(r for r in records if r.key in hit and r.key not in held)
    )


def find_items(collection: Collection, item: str) -> list[Item]:
    """Items of a collection by id, by a beginning of one, or by origin."""
    lowered = item.lower()
    if len(lowered) >= 8 and all(c in "0123456789abcdef" for c in lowered):
        found = collection.find(lowered)
        if found:
            return found
    return list(collection.from_origin(item))


def describe(record: StepRecord) -> dict[str, Any]:
    """A made step for an answer in JSON."""
    return {"name": record.name, "use": record.use, "key": record.key, "made": record.ended, "id": record.outputs}
