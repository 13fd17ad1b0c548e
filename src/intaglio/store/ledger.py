"""The ledger: every step a row with its key, inputs, outputs and figures, under a lease that one process holds.

Leases: ``begin`` takes the lease of a key, ``renew`` holds it, ``finish`` and ``fail`` give it back. A holder that died
is taken over. The step's id is the fencing token: whoever was taken over finds its row no longer running and is
refused, so each key is made once whatever is killed, stopped or put to sleep. The database holds that by itself as
well, with a unique index over running and over made keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, or_, select, update

from intaglio.store._annals import Annals
from intaglio.store._database import Database
from intaglio.store._process import identity, is_gone
from intaglio.store._tables import artifacts, inputs, outputs, steps
from intaglio.store.records import Artifact, BlockRow, LeaseLost, PublishedRow, StepRecord, plain, to_json, utc_now

__all__ = ["Artifact", "BlockRow", "Ledger", "LeaseLost", "PublishedRow", "StepRecord"]

LEASE_SECONDS = 60.0
INTERRUPTED = "interrupted"
_JSON = ("config", "inputs", "outputs", "counts", "metrics", "environment")
_FIELDS = tuple(StepRecord.__dataclass_fields__)
_COUNTS = and_(steps.c.state == "made", steps.c.blocked == 0)


class Ledger(Annals):
    """The ledger of one store; safe for any number of threads and processes at once.

    database:      where it lies. lease_seconds: how long a lease holds without ``renew`` (renew at a third of it).
    before_commit: called before a row that names blobs is committed; the store makes them durable there.
    describe:      tells what an artifact id is, for ids that ``finish`` is not told about.
    """

    def __init__(
        self,
        database: Database,
        *,
        lease_seconds: float = LEASE_SECONDS,
        before_commit: Callable[[], None] = lambda: None,
        describe: Callable[[str], Artifact] = Artifact,
    ) -> None:
        self.database = database
        self.lease_seconds = lease_seconds
        self._before_commit = before_commit
        self._describe = describe

    # -------------------------------------------------------------------------------------------------------- leases
    def begin(
        self,
        *,
        key: str,
        round: int,
        name: str,
        stage: str,
        use: str,
        config: Mapping[str, Any],
        seed: int,
        code: str,
        inputs: Sequence[Mapping[str, Any]],
        environment: Mapping[str, Any],
        device: str,
        threads: int,
        owner: str,
    ) -> StepRecord | None:
        """Take the lease on ``key`` for ``owner``; None if a live owner holds it.

        Returns the new running record; or, if the key is made already, that record (``state == "made"``). The row of
        an owner that died (lease run out, or its process on this boot of this machine gone) becomes failed.
        """
        with self.database.write(lock=f"step {key}") as connection:
            rows = connection.execute(
                select(steps).where(steps.c.key == key, or_(_COUNTS, steps.c.state == "running"))
            ).all()
            for row in rows:
                if row.state == "made":
                    return _record(row)
            now = self.database.now(connection)
            for row in rows:
                if _lives(row, now):
                    return None
                self._interrupt(connection, row.id)
            values = {
                "key": key,
                "round": round,
                "name": name,
                "stage": stage,
                "use": use,
                "state": "running",
                "blocked": 0,
                "config": to_json(config),
                "seed": seed,
                "code": code,
                "inputs": to_json(inputs),
                "outputs": "{}",
                "counts": "{}",
                "metrics": "{}",
                "environment": to_json(environment),
                "device": device,
                "threads": threads,
                "started": utc_now(),
                "owner": owner,
                "process": identity(),
                "lease_until": now + self.lease_seconds,
            }
            step_id = connection.execute(insert(steps).values(values).returning(steps.c.id)).scalar_one()
            self._add_inputs(connection, step_id, inputs)
            return _record(connection.execute(select(steps).where(steps.c.id == step_id)).one())

    def renew(self, step_id: int, owner: str) -> bool:
        """Hold the lease on; False if it was lost, and then all work on the step is to be dropped."""
        with self.database.write() as connection:
            now = self.database.now(connection)
            return self._mine(
                connection, step_id, owner, {"lease_until": now + self.lease_seconds, "process": identity()}
            )

    def finish(
        self,
        step_id: int,
        owner: str,
        *,
        outputs: Mapping[str, str],
        counts: Mapping[str, Any],
        metrics: Mapping[str, Any],
        seconds: float,
        peak_bytes: int | None,
        artifacts: Sequence[Artifact] = (),
        published: Sequence[PublishedRow] | None = None,
    ) -> None:
        """Say what the step made, in one transaction with its artifacts and edges (and, if given, published files).

        outputs:   role to artifact id. artifacts: what they are; ids not told of are looked at in the store.
        Errors:    LeaseLost if another process took the step over; nothing is written then.
        """
        told = {artifact.id: artifact for artifact in artifacts}
        things = [*told.values(), *(self._describe(i) for i in sorted(set(outputs.values()) - told.keys()))]
        self._before_commit()
        with self.database.write() as connection:
            values = {
                "state": "made",
                "outputs": to_json(outputs),
                "counts": to_json(counts),
                "metrics": to_json(metrics),
                "seconds": seconds,
                "peak_bytes": peak_bytes,
                **_ended(),
            }
            if not self._mine(connection, step_id, owner, values):
                raise LeaseLost(f"step {step_id} was taken over by another process; its result here does not count")
            self._add_artifacts(connection, things)
            self._add_outputs(connection, step_id, outputs)
            if published is not None:
                self._publish(connection, step_id, published)

    def fail(self, step_id: int, owner: str, error: str) -> None:
        """Say that the step failed; nothing happens if the lease was lost meanwhile."""
        with self.database.write() as connection:
            self._mine(connection, step_id, owner, {"state": "failed", "error": plain(error), **_ended()})

    def running(self) -> list[StepRecord]:
        """Steps whose owner lives, oldest first."""
        with self.database.read() as connection:
            now = self.database.now(connection)
            rows = connection.execute(select(steps).where(steps.c.state == "running").order_by(steps.c.id)).all()
        return [_record(row) for row in rows if _lives(row, now)]

    def sweep(self, *, all: bool = False) -> list[StepRecord]:
        """Mark the rows of dead owners as failed ("interrupted") and return them; with ``all`` those of live ones too
        (for a restored copy, whose owners work elsewhere)."""
        with self.database.write() as connection:
            now = self.database.now(connection)
            rows = connection.execute(select(steps).where(steps.c.state == "running").order_by(steps.c.id)).all()
            dead = [row for row in rows if all or not _lives(row, now)]
            return [_record(row) for row in dead if self._interrupt(connection, row.id)]

    # ---------------------------------------------------------------------------------------------------------- steps
    def made(self, keys: Iterable[str]) -> dict[str, StepRecord]:
        """What counts as made (not blocked), by key; keys not made are left out."""
        found: dict[str, StepRecord] = {}
        with self.database.read() as connection:
            for part in _chunks(keys):
                rows = connection.execute(select(steps).where(steps.c.key.in_(part), _COUNTS).order_by(steps.c.id))
                found.update((row.key, _record(row)) for row in rows)
        return found

    def by_key(self, key: str) -> StepRecord | None:
        """The newest made record of a key, a blocked one too: lineage outlives a withdrawal."""
        query = select(steps).where(steps.c.key == key, steps.c.state == "made").order_by(steps.c.id.desc()).limit(1)
        with self.database.read() as connection:
            row = connection.execute(query).first()
        return _record(row) if row else None

    def last(self, name: str) -> StepRecord | None:
        """The newest made record of a step's name that is not blocked."""
        query = select(steps).where(steps.c.name == name, _COUNTS).order_by(steps.c.id.desc()).limit(1)
        with self.database.read() as connection:
            row = connection.execute(query).first()
        return _record(row) if row else None

    def step(self, id: int) -> StepRecord | None:
        """The record with this id."""
        with self.database.read() as connection:
            row = connection.execute(select(steps).where(steps.c.id == id)).first()
        return _record(row) if row else None

    def steps(self, name: str | None = None, state: str | None = None, limit: int = 100) -> list[StepRecord]:
        """Records, newest first."""
        query = select(steps).order_by(steps.c.id.desc()).limit(limit)
        if name is not None:
            query = query.where(steps.c.name == name)
        if state is not None:
            query = query.where(steps.c.state == state)
        with self.database.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def history(self, stage: str, use: str, name: str) -> list[tuple[float, int | None, dict[str, Any]]]:
        """(seconds, peak bytes, counts) of earlier runs of this component, for estimates: those of the step ``name``
        first, then others, each newest first; at most 20."""
        query = (
            select(steps.c.seconds, steps.c.peak_bytes, steps.c.counts)
            .where(steps.c.stage == stage, steps.c.use == use, steps.c.state == "made", steps.c.seconds.is_not(None))
            .order_by((steps.c.name != name), steps.c.id.desc())
            .limit(20)
        )
        with self.database.read() as connection:
            return [(row.seconds, row.peak_bytes, json.loads(row.counts)) for row in connection.execute(query)]

    def followers(self, keys: Iterable[str]) -> list[StepRecord]:
        """Made records that used one of these keys as an input, oldest first, blocked ones included."""
        found: dict[int, StepRecord] = {}
        with self.database.read() as connection:
            for part in _chunks(keys):
                query = (
                    select(steps)
                    .join(inputs, inputs.c.step_id == steps.c.id)
                    .where(inputs.c.key.in_(part), steps.c.state == "made")
                )
                found.update((row.id, _record(row)) for row in connection.execute(query))
        return [found[number] for number in sorted(found)]

    def block_steps(self, keys: Iterable[str]) -> None:
        """What was made under these keys no longer counts; running ones are made to lose their lease."""
        with self.database.write() as connection:
            for part in _chunks(keys):
                made = steps.c.state == "made"
                connection.execute(update(steps).where(steps.c.key.in_(part), made).values(blocked=1))
                values = {"state": "failed", "error": "blocked", **_ended()}
                running = steps.c.state == "running"
                connection.execute(update(steps).where(steps.c.key.in_(part), running).values(values))

    # ------------------------------------------------------------------------------------------------------ artifacts
    def artifact(self, id: str) -> Artifact | None:
        """What the ledger knows of an artifact."""
        with self.database.read() as connection:
            row = connection.execute(select(artifacts).where(artifacts.c.id == id)).first()
        return Artifact(**{**row._mapping, "meta": json.loads(row.meta)}) if row else None

    def makers(self, artifact_id: str) -> list[StepRecord]:
        """The made records that have this artifact among their outputs, oldest first."""
        query = (
            select(steps)
            .join(outputs, outputs.c.step_id == steps.c.id)
            .where(outputs.c.artifact_id == artifact_id)
            .order_by(steps.c.id)
        )
        with self.database.read() as connection:
            return list({row.id: _record(row) for row in connection.execute(query)}.values())

    def add_artifacts(self, things: Sequence[Artifact]) -> None:
        """Keep what these are (ratings, posts); one that is known already stays as it is."""
        self._before_commit()
        with self.database.write() as connection:
            self._add_artifacts(connection, things)

    # -------------------------------------------------------------------------------------------------------- private
    def _mine(self, connection: Connection, step_id: int, owner: str, values: Mapping[str, Any]) -> bool:
        """Change the row only while its lease is the owner's: the fence."""
        query = update(steps).where(steps.c.id == step_id, steps.c.owner == owner, steps.c.state == "running")
        return connection.execute(query.values(values)).rowcount == 1

    def _interrupt(self, connection: Connection, step_id: int) -> bool:
        values = {"state": "failed", "error": INTERRUPTED, **_ended()}
        query = update(steps).where(steps.c.id == step_id, steps.c.state == "running")
        return connection.execute(query.values(values)).rowcount == 1

    def _add_inputs(self, connection: Connection, step_id: int, used: Sequence[Mapping[str, Any]]) -> None:
        if used:
            rows = [
                {"step_id": step_id, "position": n, **{k: str(each.get(k, "")) for k in ("role", "name", "key")}}
                for n, each in enumerate(used)
            ]
            connection.execute(insert(inputs), rows)

    def _add_outputs(self, connection: Connection, step_id: int, made: Mapping[str, str]) -> None:
        if made:
            rows = [{"step_id": step_id, "role": role, "artifact_id": id_} for role, id_ in made.items()]
            connection.execute(insert(outputs), rows)

    def _add_artifacts(self, connection: Connection, things: Sequence[Artifact]) -> None:
        created = utc_now()
        for thing in sorted(things, key=lambda each: each.id):  # one order for all, so that no two wait for each other
            values = {
                "id": thing.id,
                "kind": thing.kind,
                "media": thing.media,
                "bytes": thing.bytes,
                "meta": to_json(thing.meta),
                "created": thing.created or created,
            }
            query = self.database.insert(artifacts).values(values)
            connection.execute(query.on_conflict_do_nothing(index_elements=["id"]))


def _ended() -> dict[str, Any]:
    return {"ended": utc_now(), "process": None, "lease_until": None}


def _lives(row: Row[Any], now: float) -> bool:
    return row.lease_until is not None and row.lease_until > now and not is_gone(row.process or "")


def _record(row: Row[Any]) -> StepRecord:
    values = {name: row._mapping[name] for name in _FIELDS}
    values.update((name, json.loads(values[name])) for name in _JSON)
    values["blocked"] = bool(values["blocked"])
    return StepRecord(**values)


def _chunks(values: Iterable[str], size: int = 500) -> Iterator[list[str]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
