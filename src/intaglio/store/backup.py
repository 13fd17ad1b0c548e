"""Backup and restore of a store while it is in use: first the ledger as of one moment, then the blobs.

In that order every blob that a copied row names was there before the row, so the backup is whole although the store
goes on working. A backup folder can be brought up to date: new blobs are added, then the ledger is replaced in one
step, so that it is whole at every moment. The ledger in it is always SQLite, also when the store's is PostgreSQL.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, select, text

from intaglio.core.errors import UserError
from intaglio.core.hashing import CHUNK_BYTES
from intaglio.core.i18n import t
from intaglio.store import _tables as tables
from intaglio.store._database import BUSY_SECONDS, LOCAL_NAME, Database
from intaglio.store._files import TempFile, disk_full, scratch_folder, sweep, temp_folder, writing
from intaglio.store._network import refuse_network
from intaglio.store.blobs import Blobs, Damaged
from intaglio.store.collections import Collection
from intaglio.store.ledger import Ledger

if TYPE_CHECKING:
    from intaglio.store import Store

MARK = "intaglio-backup.json"


def backup(store: Store, to: Path) -> dict[str, Any]:
    """Copy ``store`` into the folder ``to``: a new or empty one, or an earlier backup, which is brought up to date.

    Returns ``blobs`` (how many it holds), ``copied``, ``bytes`` (copied), ``damaged`` (ids whose content in the store
    is not what it should be, not copied) and ``missing`` (ids the ledger names and the backup has not).
    UserError: the folder holds something else, or is full.
    """
    with writing(to):
        to.mkdir(parents=True, exist_ok=True)
        sweep(to)
        if any(to.iterdir()) and not (to / MARK).is_file():
            raise UserError(
                t("this folder is not empty and holds no backup"), where=str(to), fix=t("name a new or empty folder")
            )
        target = Blobs(to / "blobs", lazy=True)
        target.sweep()
        with TempFile(to) as mark:
            mark.file.write(b'{"format": 1}\n')
            mark.commit(to / MARK, mode=0o644)
        with TempFile(to) as ledger:
            _snapshot(store.ledger.database, ledger.path, to)
            report = _copy_blobs(store.blobs, target)
            target.sync()
            named = _named(ledger.path, target)
            ledger.commit(to / LOCAL_NAME, mode=0o644)
    return {**report, "missing": sorted(id_ for id_ in named if not target.has(id_))}


def restore(source: Path, root: Path, *, url: str = "") -> dict[str, Any]:
    """Make a store in ``root`` from the backup ``source``, whole or not at all; steps that ran become interrupted.

    url: a PostgreSQL URL for the ledger, which must hold no steps yet. Returns ``blobs``, ``copied``, ``bytes``,
    ``damaged`` (ids not copied, their content is not what it should be), ``missing`` and ``steps``.
    UserError: ``root`` is not empty, ``source`` is no backup or its ledger is damaged, or the disk is full.
    """
    if not (source / MARK).is_file() or not (source / LOCAL_NAME).is_file():
        raise UserError(t("this is not a backup"), where=str(source))
    if os.path.lexists(root) and (not root.is_dir() or any(root.iterdir())):
        raise UserError(
            t("this folder is not empty; a restore would mix two stores"), where=str(root), fix=t("move it away first")
        )
    refuse_network(root)
    with writing(root.parent), temp_folder(root) as building:
        target = Blobs(building / "blobs", lazy=True)
        report = _copy_blobs(Blobs(source / "blobs"), target)
        with TempFile(building) as copy:
            _copy_sqlite(source / LOCAL_NAME, copy.path)
            named = _named(copy.path, target)
            copy.commit(building / LOCAL_NAME, mode=0o644)
        with contextlib.closing(Database(building)) as local:
            Ledger(local).sweep(all=True)
            with local.read() as connection:
                steps = int(connection.execute(select(func.count()).select_from(tables.steps)).scalar_one())
            if url:
                with contextlib.closing(Database(building, url=url)) as remote:
                    _copy_rows(local, remote)
        if url:
            (building / LOCAL_NAME).unlink()
        target.sync()
    return {**report, "missing": sorted(id_ for id_ in named if not (Blobs(root / "blobs").has(id_))), "steps": steps}


# ------------------------------------------------------------------------------------------------------------- ledger
def _snapshot(database: Database, to: Path, folder: Path) -> None:
    """Write the ledger as of one moment into the SQLite file ``to``."""
    if database.local is not None:
        _copy_sqlite(database.local, to)
        return
    with scratch_folder(folder) as building:
        with contextlib.closing(Database(building)) as local:
            _copy_rows(database, local)
        _copy_sqlite(building / LOCAL_NAME, to)


def _copy_sqlite(source: Path, to: Path) -> None:
    """SQLite's online backup: one consistent state, writers go on; the copy is checked before it counts."""
    try:
        with contextlib.closing(sqlite3.connect(source, timeout=BUSY_SECONDS)) as old:
            with contextlib.closing(sqlite3.connect(to)) as new:
                new.execute("PRAGMA journal_mode = OFF")
                old.backup(new)
                fine = new.execute("PRAGMA quick_check").fetchone()[0] == "ok"
    except sqlite3.OperationalError as error:
        if "full" in str(error) or "disk I/O" in str(error):
            raise disk_full(to.parent) from error
        raise
    except sqlite3.DatabaseError:
        fine = False
    if not fine:
        raise UserError(t("the ledger is damaged"), where=str(source))


def _copy_rows(source: Database, target: Database) -> None:
    """Every row of every table, in one transaction on each side; UserError if the target holds steps already."""
    with source.read() as old, target.write(lock="intaglio migrations") as new:
        if new.execute(select(func.count()).select_from(tables.steps)).scalar_one():
            raise UserError(t("this ledger holds steps already; a restore would mix two"), where=target.where)
        for name in _ORDER:
            table = tables.metadata.tables[name]
            rows = old.execute(select(table).order_by(*table.primary_key.columns))
            while part := rows.fetchmany(500):
                new.execute(insert(table), [dict(row._mapping) for row in part])
        if target.local is None:
            sequence = "SELECT setval(pg_get_serial_sequence('steps', 'id'), COALESCE(MAX(id), 1)) FROM steps"
            new.execute(text(sequence))


_ORDER = ("steps", "artifacts", "outputs", "inputs", "published", "blocks", "rounds", "settings")


_KINDS = """
    SELECT id, kind FROM artifacts WHERE kind IN ('collection', 'tree', 'rows', 'file') AND (
        id NOT IN (SELECT artifact_id FROM outputs)
        OR id IN (SELECT artifact_id FROM outputs JOIN steps ON steps.id = outputs.step_id WHERE steps.blocked = 0))
"""
_SHOWN = """
    SELECT sha256, sidecar_sha256 FROM published JOIN steps ON steps.id = published.step_id WHERE steps.blocked = 0
"""


def _named(ledger: Path, blobs: Blobs) -> set[str]:
    """Every blob that the ledger file counts on: artifacts, what is in their trees and collections, published files.

    What only withdrawn steps made is not asked for: ``forget`` erases it on purpose.
    """
    address = f"{ledger.resolve().as_uri()}?immutable=1"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
        try:
            things = connection.execute(_KINDS).fetchall()
            shown = connection.execute(_SHOWN).fetchall()
        except sqlite3.DatabaseError as error:  # SQLite, but no ledger of ours
            raise UserError(t("the ledger is damaged"), where=str(ledger.parent)) from error
    named = {id_ for row in shown for id_ in row if id_}
    for id_, kind in things:
        named.add(id_)
        if kind == "tree" and blobs.has(id_):
            named.update(file.sha256 for file in blobs.tree(id_))
        elif kind == "collection" and blobs.has(id_):
            named.update(Collection(blobs, id_).files())
    return named


# -------------------------------------------------------------------------------------------------------------- blobs
def _copy_blobs(source: Blobs, target: Blobs) -> dict[str, Any]:
    """Blobs the target lacks, each read, checked against its name and stored; damaged ones are told, not copied."""
    held = copied = size = 0
    damaged: list[str] = []
    for id_ in source.ids():
        try:
            if not target.holds(id_, source.size(id_)):
                length = _copy_one(source, target, id_)
                if length is None:
                    damaged.append(id_)
                    continue
                copied += 1
                size += length
        except (FileNotFoundError, Damaged):
            continue  # removed while we copied: whoever still names it is told under "missing"
        held += 1
    return {"blobs": held, "copied": copied, "bytes": size, "damaged": damaged}


def _copy_one(source: Blobs, target: Blobs, id_: str) -> int | None:
    hasher = hashlib.sha256()
    size = 0
    with source.path(id_).open("rb") as file, target.temporary() as temp:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
            temp.file.write(chunk)
        if hasher.hexdigest() != id_:
            return None
        target.adopt(temp, id_)
    return size
