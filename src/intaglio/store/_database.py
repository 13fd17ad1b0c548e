"""The connection to the ledger: SQLite in WAL mode or PostgreSQL, transactions, and errors in plain words."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DatabaseError

from intaglio.core.errors import MissingExtra, UserError
from intaglio.core.i18n import t
from intaglio.store._files import disk_full, file_lock
from intaglio.store.migrations import NEWEST, migrate, refuse_newer, version

LOCAL_NAME = "ledger.sqlite"
BUSY_SECONDS = 60.0
_WRITE = "intaglio_write"
_BARE = "intaglio_bare"
_ABANDONED: list[Any] = []  # pools of a parent process; a forked child must neither use nor close their connections


class Database:
    """A ledger database, up to date.

    root: folder of the store (SQLite lies in it). url: PostgreSQL URL; empty means SQLite.
    create: make the database when there is none.
    """

    def __init__(self, root: Path, *, url: str = "", create: bool = True) -> None:
        self.url = url
        self.local: Path | None = None if url else root / LOCAL_NAME
        self.where = str(self.local) if self.local else make_url_or_error(url).render_as_string(hide_password=True)
        if self.local is not None and not create and not self.local.is_file():
            raise UserError(t("there is no ledger here"), where=str(root), fix="intaglio run")
        self.engine = self._postgres(url) if url else self._sqlite(self.local)
        event.listen(self.engine, "handle_error", self._explain)
        if hasattr(os, "register_at_fork"):
            _watch_forks(self.engine)
        try:
            self._bring_up_to_date(root)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection of this process."""
        self.engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view; never waits for a writer."""
        options = {"isolation_level": "REPEATABLE READ"} if self.local is None else {}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self, lock: str = "") -> Iterator[Connection]:
        """One transaction: all of it or nothing. SQLite: the only writer (BEGIN IMMEDIATE waits its turn, so that no
        reader's snapshot is ever upgraded). PostgreSQL: alone among those that name the same ``lock``."""
        with self.engine.connect().execution_options(**{_WRITE: True}) as connection, connection.begin():
            if lock and self.local is None:
                number = int.from_bytes(hashlib.sha256(lock.encode()).digest()[:8], "big", signed=True)
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
            yield connection

    def now(self, connection: Connection) -> float:
        """Seconds since 1970 by the one clock that all who share the database share."""
        if self.local is not None:
            return time.time()
        return float(connection.execute(text("SELECT EXTRACT(EPOCH FROM clock_timestamp())")).scalar_one())

    def insert(self, table: Any) -> Any:
        """An INSERT that knows ON CONFLICT, in the dialect of this database."""
        if self.local is not None:
            from sqlalchemy.dialects.sqlite import insert as sqlite_insert

            return sqlite_insert(table)
        from sqlalchemy.dialects.postgresql import insert as postgres_insert

        return postgres_insert(table)

    # ------------------------------------------------------------------------------------------------------- set-up
    def _sqlite(self, path: Path | None) -> Engine:
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS})

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _: object) -> None:
            connection.isolation_level = None  # we say BEGIN ourselves
            for pragma in (
                "synchronous = FULL",
                "fullfsync = ON",
                "foreign_keys = ON",
                "journal_size_limit = 67108864",
            ):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            options = connection.get_execution_options()
            if not options.get(_BARE):
                connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get(_WRITE) else "BEGIN")

        return engine

    def _postgres(self, url: str) -> Engine:
        parsed = make_url_or_error(url)
        try:
            return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
        except ModuleNotFoundError as error:
            raise MissingExtra("psycopg", extra="postgres", needed_for=t("a ledger on PostgreSQL")) from error

    def _bring_up_to_date(self, root: Path) -> None:
        if self.local is not None and not self.local.exists():
            number = 0
        else:
            with self.read() as connection:
                number = version(connection)
        refuse_newer(number, self.where)
        if number == NEWEST:
            return
        if self.local is None:
            with self.write(lock="intaglio migrations") as connection:
                migrate(connection)
            return
        with file_lock(root / "ledger.lock"):  # changing to WAL does not wait its turn, so only one may try
            with self.engine.connect().execution_options(**{_BARE: True}) as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            with self.write() as connection:
                migrate(connection)

    def _explain(self, context: ExceptionContext) -> None:
        """Put the database's own words for common troubles into ours."""
        words = str(context.original_exception).lower()
        where = self.where
        if "disk is full" in words or "disk full" in words or "no space left" in words or "file too large" in words:
            raise disk_full(Path(where) if self.local else Path()) from context.original_exception
        if "disk i/o error" in words:
            raise UserError(
                t("the disk refused a read or a write: there is no room left, or it is failing"),
                where=where,
                fix=t("check the disk; what was finished before is kept"),
            ) from context.original_exception
        if "database is locked" in words or "database table is locked" in words:
            raise UserError(
                t("another program has held the ledger for {seconds} seconds", seconds=int(BUSY_SECONDS)),
                where=where,
                fix=t("close what else has it open (a database browser, a backup), then run again"),
            ) from context.original_exception
        if "not a database" in words or "malformed" in words:
            raise UserError(
                t("the ledger is damaged"), where=where, fix=t("restore a backup; the blobs beside it are not touched")
            ) from context.original_exception
        if "readonly" in words or "unable to open database" in words:
            raise UserError(
                t("the ledger cannot be opened for writing"), where=where, fix=t("check the rights of this folder")
            ) from context.original_exception
        if self.local is None and "connection" in words and ("refused" in words or "failed" in words):
            raise UserError(
                t("the PostgreSQL server does not answer: {words}", words=str(context.original_exception).strip()),
                where=where,
                fix=t("start the server, or correct the address"),
            ) from context.original_exception


def make_url_or_error(url: str) -> Any:
    """The parsed PostgreSQL URL. UserError: it is something else."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise UserError(
            t("a ledger lies in SQLite (no URL) or in PostgreSQL"), fix="postgresql://user:password@host/database"
        )
    return parsed


def _watch_forks(engine: Engine) -> None:
    import weakref

    reference = weakref.ref(engine)

    def forget() -> None:
        own = reference()
        if own is not None:
            _ABANDONED.append(own.pool)
            own.dispose(close=False)

    os.register_at_fork(after_in_child=forget)


__all__ = ["BUSY_SECONDS", "LOCAL_NAME", "Database", "DatabaseError"]
