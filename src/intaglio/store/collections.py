"""Collections of items, and plain rows, as Parquet blobs that are written and read as a stream.

Shapes: one row an item; column ``id`` is its id as 32 bytes, ``meta`` is JSON, the rest as in ``core.contracts``.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intaglio.core.contracts import FileRef, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.store._parquet import TableFile, TableWriter, dump
from intaglio.store._views import Streamed, union
from intaglio.store.blobs import Blobs
from intaglio.store.rows import Rows, read_rows, write_rows

__all__ = ["Collection", "CollectionInfo", "CollectionWriter", "Rows", "read_rows", "union", "write_rows"]

_DICTIONARY = ("media", "license", "consent", "language", "split")


@functools.cache
def _schema() -> Any:
    import pyarrow as pa

    file = pa.struct(
        [("name", pa.string()), ("sha256", pa.string()), ("size_bytes", pa.int64()), ("mime", pa.string())]
    )
    texts = pa.list_(pa.string())
    columns = {name: pa.string() for name in ("media", "text", "origin", "license", "consent", "language", "split")}
    return pa.schema(
        {"id": pa.binary(32), **columns, "meta": pa.string(), "files": pa.list_(file), "parents": texts, "parts": texts}
    )


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What is in a collection: rows, content bytes (texts in UTF-8 and files), counts by media kind, license, split."""

    id: str
    items: int
    bytes: int
    media: dict[str, int] = field(default_factory=dict)
    licenses: dict[str, int] = field(default_factory=dict)
    train: int = 0
    heldout: int = 0


class CollectionWriter:
    """Writes items as they come; memory is that of one row group. A context manager: an exception leaves nothing.

    blobs: where the collection is stored. scratch: folder for the unfinished file.
    """

    def __init__(self, blobs: Blobs, scratch: Path) -> None:
        self._table = TableWriter(blobs, Path(scratch), schema=_schema(), dictionary=_DICTIONARY)
        self._info = CollectionInfo("", 0, 0)
        self._media: dict[str, int] = {}
        self._licenses: dict[str, int] = {}
        self._bytes = self._items = self._heldout = 0
        self._closed: CollectionInfo | None = None

    def add(self, item: Item) -> None:
        """Append one item. UserError: a text in it is not valid Unicode (lone surrogates), or the disk is full."""
        try:
            size = len(item.text.encode("utf-8"))
            identity = item.id
            row = _row(item, identity)
        except UnicodeEncodeError as error:
            raise UserError(
                t("the text is not valid Unicode at character {at}", at=error.start),
                where=item.origin.encode("utf-8", "replace").decode("utf-8"),
            ) from None
        self._table.add(row, size + len(row[8]) + 400 + 200 * len(item.files) + 70 * len(item.parents))
        self._items += 1
        self._bytes += size + sum(file.size_bytes for file in item.files)
        self._media[item.media] = self._media.get(item.media, 0) + 1
        self._licenses[item.license] = self._licenses.get(item.license, 0) + 1
        self._heldout += item.split == "heldout"

    def close(self) -> CollectionInfo:
        """Finish and store; a second call returns the same. UserError: the disk is full."""
        if self._closed is None:
            summary = {
                "items": self._items,
                "bytes": self._bytes,
                "media": self._media,
                "licenses": self._licenses,
                "train": self._items - self._heldout,
                "heldout": self._heldout,
            }
            identity = self._table.close({"kind": "collection", **summary})
            self._closed = CollectionInfo(identity, **summary)  # type: ignore[arg-type]
        return self._closed

    def __enter__(self) -> CollectionWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self._table.discard()  # nothing is left unless it was stored


def _row(item: Item, identity: str) -> tuple[Any, ...]:
    rest = (item.media, item.origin, item.license, item.consent, item.language, item.split, *item.parents, *item.parts)
    for text in (*rest, *(word for file in item.files for word in (file.name, file.sha256, file.mime))):
        if not text.isascii():
            text.encode("utf-8")  # told here, for this one item; Arrow would refuse a whole row group later
    return (
        bytes.fromhex(identity),
        item.media,
        item.text,
        item.origin,
        item.license,
        item.consent,
        item.language,
        item.split,
        dump(dict(item.meta)) if item.meta else "{}",
        [_file(file) for file in item.files],
        item.parents,
        item.parts,
    )


def _file(file: FileRef) -> dict[str, Any]:
    return {"name": file.name, "sha256": file.sha256, "size_bytes": file.size_bytes, "mime": file.mime}


def _items(table: Any) -> Iterator[Item]:
    columns = {name: table.column(name).to_pylist() for name in table.schema.names if name != "id"}
    for media, text, origin, license_, consent, language, split, meta, files, parents, parts in zip(
        *(columns[name] for name in _schema().names[1:]), strict=True
    ):
        yield Item(
            media=media,
            text=text,
            files=tuple(FileRef(**file) for file in files) if files else (),
            origin=origin,
            license=license_,
            consent=consent,
            language=language,
            split=split,
            meta=json.loads(meta) if meta != "{}" else {},
            parents=tuple(parents) if parents else (),
            parts=tuple(parts) if parts else (),
        )


class Collection(Streamed):
    """A stored collection. Nothing is read before it is asked for; it can be pickled and opened in other processes."""

    def __init__(self, blobs: Blobs, id: str) -> None:
        self.blobs = blobs
        self.id = id
        self._opened: TableFile | None = None
        self._counts: dict[Any, int] = {}

    def __getstate__(self) -> tuple[Blobs, str]:
        return (self.blobs, self.id)

    def __setstate__(self, state: tuple[Blobs, str]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    @property
    def _file(self) -> TableFile:
        if self._opened is None:
            self._opened = TableFile(self.blobs, self.id)
            if self._opened.summary.get("kind") != "collection":
                raise self.blobs.missing(self.id)
        return self._opened

    def info(self) -> CollectionInfo:
        """Counts from the footer; no row is read. Damaged: the blob is missing or no collection."""
        return CollectionInfo(id=self.id, **{k: v for k, v in self._file.summary.items() if k != "kind"})

    def ids(self) -> Iterator[str]:
        """The ids in order; only that column is read."""
        for number, _ in self._file.groups():
            for value in self._file.read(number, ["id"]).column("id").to_pylist():
                yield value.hex()

    def files(self) -> Iterator[str]:
        """The SHA-256 of every file of every item, as often as it comes; only that column is read."""
        for number, _ in self._file.groups():
            for files in self._file.read(number, ["files"]).column("files").to_pylist():
                yield from (file["sha256"] for file in files)

    def get(self, id: str) -> Item | None:
        """The item with this full id, or None."""
        try:
            found = self._rows_of([bytes.fromhex(id)]) if len(id) == 64 else {}
        except ValueError:
            return None
        return next((self._at(row) for row in found.values()), None)

    def find(self, prefix: str) -> list[Item]:
        """Items whose id begins with ``prefix`` (hex digits), at most 3: one is an answer, more is an ambiguity."""
        import pyarrow.compute as pc

        whole = prefix[: len(prefix) // 2 * 2]
        try:
            start = bytes.fromhex(whole)
        except ValueError:
            return []
        found: dict[str, int] = {}
        for number, first in self._file.groups():
            values = self._file.read(number, ["id"]).column("id").combine_chunks()
            mask = pc.equal(pc.binary_slice(values, 0, len(start)), start)
            for row in pc.indices_nonzero(mask).to_pylist():
                identity = values[row].as_py().hex()
                if identity.startswith(prefix):
                    found.setdefault(identity, first + row)
            if len(found) >= 3:
                break
        return [self._at(row) for row in list(found.values())[:3]]

    def from_origin(self, origin: str) -> list[Item]:
        """The items that came from this origin (a path relative to the project, a URL) or a part of it (``path#3``)."""
        import pyarrow.compute as pc

        items: list[Item] = []
        for number, _ in self._file.groups():
            origins = self._file.read(number, ["origin"]).column("origin")
            mask = pc.or_(pc.equal(origins, origin), pc.starts_with(origins, f"{origin}#"))
            if pc.any(mask).as_py():
                items += _items(self._file.read(number).filter(mask))
        return items

    def page(self, after: str | None = None, limit: int = 50) -> list[Item]:
        """Up to ``limit`` items that follow the item ``after`` (None: from the beginning); each id is shown once.

        UserError: ``after`` is not in this collection.
        """
        row = 0
        if after is not None:
            place = self._rows_of([bytes.fromhex(after)]) if _is_id(after) else {}
            if not place:
                raise UserError(t("there is no item {id} here", id=after))
            row = 1 + next(iter(place.values()))
        items: list[Item] = []
        while len(items) < limit and row < self._file.rows:
            rows = self._between(row, row + limit - len(items))
            first = self._rows_of([bytes.fromhex(item.id) for item in rows], until=row + len(rows))
            items += [item for n, item in enumerate(rows) if first[bytes.fromhex(item.id)] == row + n]
            row += len(rows)
        return items

    def _rows_of(self, ids: Sequence[bytes], until: int | None = None) -> dict[bytes, int]:
        """Row of the first occurrence of each id; rows from ``until`` on are not looked at."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array(ids, pa.binary(32))
        found: dict[bytes, int] = {}
        for number, first in self._file.groups():
            if len(found) == len(set(ids)) or (until is not None and first >= until):
                break
            values = self._file.read(number, ["id"]).column("id").combine_chunks()
            for row in pc.indices_nonzero(pc.is_in(values, value_set=wanted)).to_pylist():
                found.setdefault(values[row].as_py(), first + row)
        return found

    def _at(self, row: int) -> Item:
        return self._between(row, row + 1)[0]

    def _between(self, start: int, end: int) -> list[Item]:
        items: list[Item] = []
        for number, first in self._file.groups(start):
            if first >= end:
                break
            offset = max(start - first, 0)
            items += _items(self._file.read(number).slice(offset, end - max(start, first)))
        return items

    def _mask(self, table: Any, split: str | None, media: tuple[str, ...] | None) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        mask = None
        if split is not None:
            mask = pc.equal(table.column("split"), split)
        if media is not None:
            kinds = pc.is_in(table.column("media"), value_set=pa.array(media, pa.string()))
            mask = kinds if mask is None else pc.and_(mask, kinds)
        return mask

    def _select(self, split: str | None, media: tuple[str, ...] | None) -> Iterator[Item]:
        for number, _ in self._file.groups():
            table = self._file.read(number)
            mask = self._mask(table, split, media)
            yield from _items(table if mask is None else table.filter(mask))

    def _count(self, split: str | None, media: tuple[str, ...] | None) -> int:
        if split is None and media is None:
            return self._file.rows
        key = (split, media)
        if key not in self._counts:
            import pyarrow.compute as pc

            total = 0
            for number, _ in self._file.groups():
                table = self._file.read(number, ["split", "media"])
                total += pc.sum(self._mask(table, split, media)).as_py() or 0
            self._counts[key] = total
        return self._counts[key]


def _is_id(text: str) -> bool:
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)
