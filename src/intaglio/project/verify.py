"""``intaglio verify``: is a file whole, was it made here, do its marks agree - offline, by reading only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from intaglio.core import registry
from intaglio.core.errors import UserError
from intaglio.core.hashing import sha256_file
from intaglio.core.i18n import t
from intaglio.project.file import STORE_FOLDER, find_project, read_project
from intaglio.store import Store


def verify_file(file: Path, project: Path | None = None) -> dict[str, Any]:
    """Verify with the ledger of ``project``, of the project the file lies in, or none (``ledger`` is ``unknown``)."""
    folder = project or find_project(file.resolve().parent)
    if folder is None or not (folder / STORE_FOLDER).is_dir():
        return verify_in(None, file)
    store = Store.open(folder / STORE_FOLDER, url=read_project(folder).settings.ledger, create=False)
    try:
        return verify_in(store, file)
    finally:
        store.close()


def verify_in(store: Store | None, file: Path) -> dict[str, Any]:
    """``valid`` is True only if credentials and labels are valid and the ledger does not contradict.

    ``credentials``, ``labels``, ``ledger``: ``valid``, ``missing``, ``invalid`` or ``unknown``; ``reasons`` say why.
    """
    if not file.is_file():
        raise UserError(t("no such file"), where=str(file))
    target = file.with_suffix("") if file.suffix == ".c2pa" and file.with_suffix("").is_file() else file
    inspect = registry.import_or_explain("intaglio.trust.inspect", "verifying").inspect
    ours = registry.import_or_explain("intaglio.trust.authority", "verifying").existing()
    found = inspect(file, anchors_pem=ours.root_pem if ours is not None else "")
    ledger, reasons = _ledger(store, target)
    return {
        "file": str(file),
        "valid": found.credentials == "valid" and found.labels == "valid" and ledger in ("valid", "unknown"),
        "credentials": found.credentials,
        "labels": found.labels,
        "ledger": ledger,
        "reasons": [*found.reasons, *reasons],
        "produce_id": found.produce_id,
    }


def _ledger(store: Store | None, file: Path) -> tuple[str, list[str]]:
    if store is None:
        return "unknown", [t("no project here to look the file up in")]
    rows = store.ledger.published(sha256_file(file))
    if not rows:
        return "missing", [t("the ledger of this project has no published file with this content")]
    steps = [store.ledger.step(row.step_id) for row in rows]
    if all(step is None or step.blocked for step in steps):
        return "invalid", [t("this publication was withdrawn: it touched an item that was forgotten")]
    return "valid", []
