"""``intaglio forget``: what an item touched, blocking it, and the proof that it is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.project.file import ProjectFile
from intaglio.project.lineage import Touched, describe, find_items, touched
from intaglio.store import Store
from intaglio.store.collections import Collection
from intaglio.store.records import StepRecord

ALL = 1_000_000


@dataclass(frozen=True)
class Report:
    """What an item touched, ready to be said or acted on."""

    touched: Touched
    item: str

    def to_json(self) -> dict[str, Any]:
        """The answer of ``forget``, lists by kind."""
        hit = self.touched
        return {
            "items": [{"id": item.id, "origin": item.origin, "license": item.license} for item in hit.items],
            "datasets": [describe(record) for record in hit.datasets],
            "models": [describe(record) for record in (*hit.of("models"), *hit.of("knowledge"))],
            "pieces": [{**describe(r), "pieces": r.counts.get("items", 0)} for r in hit.of("generate")],
            "choices": [describe(record) for record in hit.of("optimize")],
            "publications": [{**describe(r), "files": r.counts.get("files", 0)} for r in hit.of("publish")],
            "posts": [],
        }


def report(store: Store, file: ProjectFile, item: str) -> Report:
    """Find the item and all it touched. UserError where no dataset holds it, or where the beginning is not unique."""
    records = [record for record in store.ledger.steps(state="made", limit=ALL) if not record.blocked]
    wanted = _origin(file, item)
    found = touched(store, wanted, records)
    if not found.items:
        raise UserError(
            t("no dataset of this project holds it"),
            where=item,
            fix=t("give an id (8 characters or more) or the path it came from; intaglio show STEP lists both"),
        )
    by_origin = any(each.origin == wanted or each.origin.startswith(f"{wanted}#") for each in found.items)
    if len(found.items) > 1 and not by_origin:
        raise UserError(
            t("the beginning of an id is not unique: {ids}", ids=", ".join(each.id[:16] for each in found.items)),
            where=item,
        )
    return Report(found, item)


def _origin(file: ProjectFile, item: str) -> str:
    """A path as a person types it becomes the origin the ledger knows (relative to the project)."""
    path = (file.folder / item).resolve()
    folder = file.folder.resolve()
    return path.relative_to(folder).as_posix() if path.exists() and path.is_relative_to(folder) else item


def block(store: Store, found: Report) -> None:
    """Block the item for the data steps that held it and everything made from them.

    Errors: UserError while another process runs steps here; what it makes could still hold the item.
    """
    running = store.ledger.running()
    if running:
        raise UserError(
            t("{names} is running in another process", names=", ".join(record.name for record in running)),
            where=found.item,
            fix=t("wait for it or stop it, then forget"),
        )
    hit = found.touched
    for item in hit.items:
        store.ledger.block(
            item.id,
            origin=item.origin,
            reason="forgotten on request",
            steps=sorted({record.name for record in hit.datasets}),
        )
    store.ledger.block_steps([record.key for record in (*hit.datasets, *hit.others)])


def proof(store: Store, found: Report, published: Callable[[Store, str], list[str]]) -> dict[str, Any]:
    """After the rebuild: no dataset in force holds the item, its content is erased, and what was erased."""
    records = [record for record in store.ledger.steps(state="made", limit=ALL) if not record.blocked]
    still = [
        record.name
        for record in records
        if record.stage == "data"
        for item in found.touched.items
        if find_items(Collection(store.blobs, record.outputs["items"]), item.id)
    ]
    erased = [] if still else _erase(store, found, records)
    return {
        "still_in": still,
        "erased_blobs": len(erased),
        "blocked_steps": len(found.touched.datasets) + len(found.touched.others),
    }


def _erase(store: Store, found: Report, in_force: list[StepRecord]) -> list[str]:
    """Delete the blobs that only blocked steps hold: old collections, checkpoints, pieces, publications."""
    wanted: set[str] = set()
    for record in in_force:
        wanted |= _blobs_of(store, record)
    gone = []
    for record in (*found.touched.datasets, *found.touched.others):
        for sha in sorted(_blobs_of(store, record) - wanted):
            if store.blobs.has(sha):
                store.blobs.delete(sha)
                gone.append(sha)
    return gone


def _blobs_of(store: Store, record: StepRecord) -> set[str]:
    """Every blob a step's outputs hold, files of items and of trees included."""
    found: set[str] = set()
    for role, artifact in record.outputs.items():
        if not store.blobs.has(artifact):
            continue
        found.add(artifact)
        if role == "files":
            found |= {each.sha256 for each in store.blobs.tree(artifact)}
        elif role == "items":
            for item in Collection(store.blobs, artifact):
                found |= {file.sha256 for file in item.files}
    for row in store.ledger.publication(record.id):
        found |= {sha for sha in (row.sha256, row.sidecar_sha256) if sha}
    return found
