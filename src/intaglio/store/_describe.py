"""What a stored blob is, told by its content."""

from __future__ import annotations

from intaglio.store._parquet import TableFile
from intaglio.store.blobs import Blobs
from intaglio.store.records import Artifact


def describe(blobs: Blobs, id: str) -> Artifact:
    """Kind, media, size and summary of the blob ``id``. Damaged: there is none."""
    size = blobs.size(id)
    with blobs.path(id).open("rb") as file:
        head = file.read(9)
    if head[:4] == b"PAR1":
        summary = dict(TableFile(blobs, id).summary)
        kind = str(summary.pop("kind", "file"))
        media = summary.get("media", {})
        return Artifact(id, kind, media=",".join(sorted(media)), bytes=size, meta=summary)
    if head == b'{"tree":[':
        files = blobs.tree(id)
        return Artifact(id, "tree", bytes=sum(f.size_bytes for f in files), meta={"files": len(files)})
    return Artifact(id, "file", bytes=size)
