"""The store of a project: the ledger (SQL), blobs (content-addressed files) and collections (Parquet).

Importing this is cheap: SQLAlchemy is loaded when a store is opened, pyarrow when a collection is touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.store._files import sweep, writing
from intaglio.store._network import refuse_network
from intaglio.store.blobs import Blobs

if TYPE_CHECKING:
    from intaglio.store.ledger import Ledger
    from intaglio.store.records import Artifact


class Store:
    """An open store. Made by ``Store.open``; a context manager; pickled, it is opened again where it is unpickled.

    blobs, ledger: its parts. root: its folder. scratch: folder for unfinished files, on the same disk as the blobs.
    """

    def __init__(self, root: Path, *, url: str = "", create: bool = True) -> None:
        from intaglio.store._database import Database
        from intaglio.store.ledger import Ledger

        self.root = Path(root)
        self.url = url
        if not url:
            refuse_network(self.root)
        if not create and not self.root.is_dir():
            raise UserError(t("there is no ledger here"), where=str(root), fix="intaglio run")
        self.scratch = self.root / "scratch"
        with writing(self.root):
            self.scratch.mkdir(parents=True, exist_ok=True)
        self.blobs = Blobs(self.root / "blobs", lazy=True)
        self.ledger: Ledger = Ledger(
            Database(self.root, url=url, create=create), before_commit=self.blobs.sync, describe=self.describe
        )
        self.blobs.sweep()
        sweep(self.scratch)

    @classmethod
    def open(cls, root: Path, *, url: str = "", create: bool = True) -> Store:
        """Open the store in the folder ``root``, and make it there if ``create``; what killed writers left is removed.

        url: a PostgreSQL URL for the ledger; empty means SQLite in ``root``.
        UserError: a network file system (with SQLite), a newer version's ledger, a damaged one, no store here.
        """
        return cls(root, url=url, create=create)

    def close(self) -> None:
        """Close the connections of this process."""
        self.ledger.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self.root, self.url))

    def describe(self, id: str) -> Artifact:
        """What a stored blob is: a collection, rows, a tree or a plain file; with its size and summary."""
        from intaglio.store._describe import describe

        return describe(self.blobs, id)

    def backup(self, to: Path) -> dict[str, Any]:
        """Copy the store into the folder ``to`` while it is in use; see ``store.backup``."""
        from intaglio.store.backup import backup

        return backup(self, Path(to))

    @staticmethod
    def restore(source: Path, root: Path, *, url: str = "") -> dict[str, Any]:
        """Make a store in ``root`` from a backup; a folder that is not empty is refused. See ``store.backup``."""
        from intaglio.store.backup import restore

        return restore(Path(source), Path(root), url=url)


def _reopen(root: Path, url: str) -> Store:
    return Store.open(root, url=url)
