"""What the ledger keeps beside its steps: published files, forgotten items, rounds and settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from intaglio.store._database import Database
from intaglio.store._tables import blocks, published, rounds, settings, steps
from intaglio.store.records import BlockRow, PublishedRow, plain, to_json, utc_now


class Annals:
    """Base of ``Ledger`` with its smaller tables."""

    database: Database
    _before_commit: Callable[[], None]

    # ---------------------------------------------------------------------------------------------------- publications
    def publish(self, step_id: int, files: Sequence[PublishedRow]) -> None:
        """Keep the published files of a step, in place of what was kept for it before."""
        self._before_commit()
        with self.database.write(lock=f"publish {step_id}") as connection:
            self._publish(connection, step_id, files)

    def published(self, sha256: str) -> list[PublishedRow]:
        """Published files with this content (signed, before signing, or as a sidecar), newest first."""
        where = or_(
            published.c.sha256 == sha256,
            published.c.unsigned_sha256 == sha256,
            published.c.sidecar_sha256 == sha256,
        )
        return self._published(where if sha256 else published.c.sha256 == "")

    def published_path(self, path: str) -> list[PublishedRow]:
        """Files published under this path (relative to the publication's folder), newest first."""
        return self._published(published.c.path == path)

    def publication(self, step_id: int) -> list[PublishedRow]:
        """All files a publish step made, in the order of their paths."""
        return sorted(self._published(published.c.step_id == step_id), key=lambda row: row.path)

    def _published(self, where: Any) -> list[PublishedRow]:
        query = select(published).join(steps, steps.c.id == published.c.step_id)
        query = query.where(where, steps.c.state != "failed").order_by(published.c.step_id.desc(), published.c.path)
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        return [PublishedRow(**{**row._mapping, "pieces": json.loads(row.pieces)}) for row in rows]

    # --------------------------------------------------------------------------------------- blocks, rounds, settings
    def block(self, item: str, *, origin: str, reason: str, steps: list[str]) -> None:
        """Forget an item for good; said again, the reason is replaced and the steps are joined."""
        with self.database.write(lock=f"block {item}") as connection:
            row = connection.execute(select(blocks).where(blocks.c.item == item)).first()
            names = sorted({*steps, *(json.loads(row.steps) if row else ())})
            values = {"origin": plain(origin), "reason": plain(reason), "steps": to_json(names)}
            if row:
                connection.execute(update(blocks).where(blocks.c.item == item).values(values))
            else:
                connection.execute(insert(blocks).values(item=item, created=utc_now(), **values))

    def blocks(self) -> list[BlockRow]:
        """All forgotten items, in the order of their ids."""
        with self.database.read() as connection:
            rows = connection.execute(select(blocks).order_by(blocks.c.item)).all()
        return [BlockRow(**{**row._mapping, "steps": json.loads(row.steps)}) for row in rows]

    def round(self) -> int:
        """The number of the current round; 1 at first."""
        with self.database.read() as connection:
            return _round(connection)

    def next_round(self, pins: Mapping[str, str]) -> int:
        """Start the next round; ``pins`` says which key ``name@last`` means in it. Returns its number."""
        with self.database.write(lock="rounds") as connection:
            number = _round(connection) + 1
            connection.execute(insert(rounds).values(number=number, pins=to_json(pins), created=utc_now()))
            return number

    def pins(self) -> dict[str, str]:
        """Step name to the key that ``name@last`` means in the current round."""
        with self.database.read() as connection:
            row = connection.execute(select(rounds.c.pins).order_by(rounds.c.number.desc()).limit(1)).first()
        return dict(json.loads(row.pins)) if row else {}

    def get_setting(self, name: str) -> str | None:
        """A kept value, or None."""
        with self.database.read() as connection:
            row = connection.execute(select(settings.c.value).where(settings.c.name == name)).first()
        return str(row.value) if row else None

    def set_setting(self, name: str, value: str) -> None:
        """Keep a value under a name."""
        query = self.database.insert(settings).values(name=name, value=plain(value))
        query = query.on_conflict_do_update(index_elements=["name"], set_={"value": plain(value)})
        with self.database.write() as connection:
            connection.execute(query)

    def _publish(self, connection: Connection, step_id: int, files: Sequence[PublishedRow]) -> None:
        created = utc_now()
        connection.execute(delete(published).where(published.c.step_id == step_id))
        if files:
            rows = [
                {
                    "step_id": step_id,
                    "path": file.path,
                    "sha256": file.sha256,
                    "unsigned_sha256": file.unsigned_sha256,
                    "sidecar_sha256": file.sidecar_sha256,
                    "produce_id": file.produce_id,
                    "pieces": to_json(file.pieces),
                    "mime": file.mime,
                    "title": plain(file.title),
                    "created": file.created or created,
                }
                for file in files
            ]
            connection.execute(insert(published), rows)


def _round(connection: Connection) -> int:
    return int(connection.execute(select(func.coalesce(func.max(rounds.c.number), 1))).scalar_one())
