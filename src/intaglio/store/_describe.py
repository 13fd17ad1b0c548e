"""What a stored blob is, told by its content."""

from __future__ import annotations

from collections.abc import Iterable

from intaglio.store._parquet import TableFile
from intaglio.store.blobs import Blobs
from intaglio.store.collections import Collection
from intaglio.store.records import Artifact


def describe(blobs: Blobs, id: str) -> Artifact:
    """Kind, media, size and summary of the blob ``id``. Damaged: it, or a file that it names, is missing."""
    size = blobs.size(id)
    with blobs.path(id).open("rb") as file:
        head = file.read(9)
    if head[:4] == b"PAR1":
        summary = dict(TableFile(blobs, id).summary)
        kind = str(summary.pop("kind", "file"))
        if kind == "collection":
            _require(blobs, Collection(blobs, id).files())
        media = summary.get("media", {})
        return Artifact(id, kind, media=",".join(sorted(media)), bytes=size, meta=summary)
    if head == b'{"tree":[':
        files = blobs.tree(id)
        _require(blobs, (file.sha256 for file in files))
        return Artifact(id, "tree", bytes=sum(f.size_bytes for f in files), meta={"files": len(files)})
    return Artifact(id, "file", bytes=size)


def _require(blobs: Blobs, ids: Iterable[str]) -> None:
    """No row names what is not there: a file that was never put, or one that was erased meanwhile."""
    for id_ in ids:
        try:
            there = blobs.has(id_)
        except ValueError:  # a name that is no content address at all
            there = False
        if not there:
            raise blobs.missing(id_)
