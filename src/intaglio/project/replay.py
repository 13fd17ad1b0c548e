"""``intaglio replay``: make a published file again from what the ledger recorded, and compare byte for byte."""

from __future__ import annotations

import dataclasses
import queue
import shutil
from pathlib import Path
from typing import Any

from intaglio.core.errors import StepFailed, UserError
from intaglio.core.i18n import t
from intaglio.project import machine
from intaglio.project.call import StepCall
from intaglio.project.executors import Event, local_process
from intaglio.project.file import ProjectFile
from intaglio.project.lineage import Lineage
from intaglio.project.progress import Progress
from intaglio.project.queries import published_row, publisher
from intaglio.project.run import step_input
from intaglio.store import Store
from intaglio.store.records import StepRecord

FROM_CHECKPOINTS = ("generate", "optimize", "publish")


def replay(file: ProjectFile, store: Store, target: Path, *, deep: bool, progress: Progress) -> dict[str, Any]:
    """Make the steps behind ``target`` again and compare each with the record.

    Args:
        deep: also read the archive and train again, not only generate from the recorded checkpoints.
    Returns:
        ``same`` and ``differs`` (step names and the file), ``environment`` (versions that differ from the record).
    """
    row = published_row(store, target)
    last = publisher(store, row)
    lineage = Lineage(store)
    chain = [record for record in lineage.chain(last.key) if deep or record.stage in FROM_CHECKPOINTS]
    same: list[str] = []
    differs: list[str] = []
    again: dict[str, StepRecord] = {}
    for record in chain:
        result = _again(file, store, lineage, record, again, progress)
        outputs: dict[str, str] = result["outputs"]
        again[record.key] = dataclasses.replace(record, outputs=outputs)
        if record.stage == "publish":
            continue
        roles = [role for role in ("items", "verdicts", "files") if role in record.outputs]
        (same if all(outputs.get(role) == record.outputs[role] for role in roles) else differs).append(record.name)
    unsigned = {each["path"]: each["unsigned_sha256"] for each in result["published"]}
    (same if unsigned.get(row.path) == row.unsigned_sha256 else differs).append(row.path)
    return {"file": str(target), "same": same, "differs": differs, "environment": _drift(last)}


def _again(
    file: ProjectFile,
    store: Store,
    lineage: Lineage,
    record: StepRecord,
    again: dict[str, StepRecord],
    progress: Progress,
) -> Event:
    inputs = []
    for entry in record.inputs:
        made = again.get(entry["key"]) or lineage.record(entry["key"])
        if made is None:
            raise UserError(t("step {name} is not in the ledger any more", name=entry["name"]))
        inputs.append(step_input(entry["role"], entry["name"], made))
    archive = [r.outputs["items"] for entry in record.inputs for r, _ in lineage.collections(entry["key"])]
    work = store.root / "work" / f"replay-{record.key[:24]}"
    shutil.rmtree(work, ignore_errors=True)
    call = StepCall(
        project=str(file.folder.resolve()),
        store=str(store.root.resolve()),
        ledger=file.settings.ledger,
        work=str(work.resolve()),
        name=record.name,
        stage=record.stage,
        use=record.use,
        key=record.key,
        config=record.config,
        seed=record.seed,
        device=record.device,
        threads=record.threads,
        offline=file.settings.offline,
        languages=list(file.settings.languages),
        inputs=inputs,
        archive=list(dict.fromkeys(archive)) if record.stage == "optimize" else [],
        blocked=[row.item for row in store.ledger.blocks()],
        allow_unknown=True,
        settings={name: getattr(file.settings, name) for name in ("name", "title", "author")},
    )
    progress.started(record.name, t("made again"))
    try:
        return _wait(call, progress)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _wait(call: StepCall, progress: Progress) -> Event:
    events: queue.Queue[tuple[str, Event]] = queue.Queue()
    running = local_process(call, events)
    try:
        while True:
            _, event = events.get()
            if event["event"] == "progress":
                progress.update(call.name, event["done"], event["total"], event["numbers"])
            elif event["event"] == "failed":
                raise StepFailed(call.name, event["error"], trace=event["trace"])
            elif event["event"] == "done":
                progress.finished(call.name, "made", 0.0)
                return event
    except KeyboardInterrupt:
        running.kill()
        raise


def _drift(record: StepRecord) -> list[str]:
    """What differs between the recorded environment and this one; empty on the same build and machine class."""
    now = machine.environment()
    found = []
    for key in ("python", "system", "machine", "processor"):
        if record.environment.get(key) != now.get(key):
            found.append(f"{key}: {record.environment.get(key)} -> {now.get(key)}")
    before = record.environment.get("packages", {})
    for name in sorted({*before, *now["packages"]}):
        if before.get(name) != now["packages"].get(name):
            found.append(f"{name}: {before.get(name)} -> {now['packages'].get(name)}")
    return found
