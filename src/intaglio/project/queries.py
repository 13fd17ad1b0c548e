"""Answers about what is there: what a step made, models, samples, exports, traces."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from intaglio.core import config as config_
from intaglio.core import registry
from intaglio.core.contracts import FileRef, Finding, Item, Trace
from intaglio.core.errors import IntaglioError, UserError
from intaglio.core.hashing import sha256_file
from intaglio.core.i18n import t
from intaglio.project import cards, machine
from intaglio.project.file import ProjectFile, StepSpec, with_secrets
from intaglio.project.lineage import Lineage
from intaglio.store import Store
from intaglio.store.collections import Collection, read_rows
from intaglio.store.records import PublishedRow, StepRecord

Answer = dict[str, Any]


def made(store: Store, spec: StepSpec) -> StepRecord:
    """The newest made record of a step; UserError where there is none yet."""
    record = store.ledger.last(spec.name)
    if record is None:
        raise UserError(
            t("'{name}' was not made yet", name=spec.name), where=spec.where, fix=f"intaglio run {spec.name}"
        )
    return record


def rows(store: Store, record: StepRecord, role: str) -> list[dict[str, Any]]:
    """Stored rows (skipped, findings, verdicts, refused) of a step; empty where it has none."""
    return list(read_rows(store.blobs, record.outputs[role])) if role in record.outputs else []


def item_json(item: Item) -> Answer:
    """An item for an answer."""
    values = dataclasses.asdict(item)
    return {"id": item.id, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


def show(store: Store, spec: StepSpec, *, limit: int, after: str | None) -> Answer:
    """What a step made, by pages; ``next`` is the value of ``--after`` for the next page, or None."""
    record = made(store, spec)
    answer: Answer = {
        "step": record.name,
        "stage": record.stage,
        "use": record.use,
        "key": record.key,
        "made": record.ended,
        "seconds": record.seconds,
        "config": record.config,
        "seed": record.seed,
        "device": record.device,
        "threads": record.threads,
        "counts": record.counts,
        "metrics": record.metrics,
        "outputs": record.outputs,
        "items": [],
        "next": None,
    }
    if "items" in record.outputs:
        page = Collection(store.blobs, record.outputs["items"]).page(after, limit)
        answer["items"] = [item_json(item) for item in page]
        answer["next"] = page[-1].id if len(page) == limit else None
    if "files" in record.outputs:
        answer["files"] = [dataclasses.asdict(each) for each in store.blobs.tree(record.outputs["files"])]
    for role in ("skipped", "findings", "verdicts", "refused"):
        found = read_rows(store.blobs, record.outputs[role], limit=limit) if role in record.outputs else iter(())
        answer[role] = list(found)
    return answer


def models(store: Store, file: ProjectFile) -> Answer:
    """Every model step with its newest checkpoint."""
    found = []
    for spec in file.steps:
        if spec.stage != "models":
            continue
        record = store.ledger.last(spec.name)
        found.append(
            {
                "step": spec.name,
                "use": spec.use,
                "checkpoint": record.outputs.get("files") if record else None,
                "made": record.ended if record else None,
                "seconds": record.seconds if record else None,
                "metrics": record.metrics if record else {},
            }
        )
    return {"models": found}


def component(record: StepRecord) -> Any:
    """The component of a made step, built from its recorded config."""
    module = registry.load(record.stage, record.use)
    where = f"intaglio.toml [{record.stage}.{record.name}]"
    return module.Component(config_.parse(module.Config, with_secrets(dict(record.config)), where=where))


def export(store: Store, record: StepRecord, folder: Path, *, lang: str) -> Answer:
    """Write the checkpoint in the layout others load, with its cards; refuses a folder that holds something."""
    if folder.exists() and any(folder.iterdir()):
        raise UserError(t("the folder is not empty"), where=str(folder), fix=t("name a new folder"))
    with tempfile.TemporaryDirectory(dir=store.scratch) as temp:
        checkpoint = Path(temp) / "checkpoint"
        store.blobs.checkout(record.outputs["files"], checkpoint)
        made_in = Path(temp) / "export" / record.name  # what is made knows the model by the folder's name
        made_in.mkdir(parents=True)
        try:
            component(record).export(checkpoint, made_in)
        except UserError as error:
            error.where = error.where or f"intaglio.toml [models.{record.name}]"
            raise
        cards.export(store, record, checkpoint, made_in, lang=lang)
        _copy(made_in, folder)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {"step": record.name, "folder": str(folder), "files": files}


def _copy(made: Path, folder: Path) -> None:
    """Errors: UserError where the folder cannot be written, or there is no room for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, folder, dirs_exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)[:200]
        fix = t("name a folder that you may write to, on a disk with room")
        raise UserError(t("the folder cannot be written: {why}", why=why), where=str(folder), fix=fix) from error


class _FolderContext:
    """A Context for samples outside a run: files go straight into a folder."""

    def __init__(self, store: Store, step: str, out: Path, *, seed: int, device: str, threads: int) -> None:
        self.step, self.seed, self.device, self.threads = step, seed, device, threads
        self.offline = True
        self.out = self.work = self.project = out
        self.languages: tuple[str, ...] = ("en",)
        self.warnings: list[str] = []
        self._store = store

    def progress(self, done: float, total: float, **numbers: float | str) -> None: ...
    def find(self, finding: Finding) -> None: ...
    def metric(self, **values: Any) -> None: ...
    def preview(self, name: str, data: bytes) -> None: ...

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def put(self, data: bytes | Path, *, name: str, mime: str) -> FileRef:
        blobs = self._store.blobs
        sha = blobs.put_file(data) if isinstance(data, Path) else blobs.put_bytes(data)
        return FileRef(Path(name).name, sha, blobs.size(sha), mime)

    def path(self, file: FileRef) -> Path:
        return self._store.blobs.path(file.sha256)

    def trace(self, item: Item) -> Trace:
        return Trace((), (), ())


def sample(store: Store, record: StepRecord, *, count: int, seed: int, out: Path, device: str) -> Answer:
    """Samples of a trained model as files: unmarked drafts for the maker's own eyes, and the answer says so."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.scratch) as temp:
        folder = Path(temp) / "checkpoint"
        store.blobs.checkout(record.outputs["files"], folder)
        model = component(record).load(folder, device=device, threads=machine.cores())
        ctx = _FolderContext(store, record.name, out, seed=seed, device=device, threads=machine.cores())
        seeds = list(range(seed, seed + count))
        files = []
        for number, item in zip(seeds, model.sample(seeds, ctx), strict=True):
            files += [path.name for path in _write(item, store, out, f"{record.name}-{number}")]
    return {
        "step": record.name,
        "folder": str(out),
        "files": files,
        "seeds": seeds,
        "warnings": ctx.warnings,
        "marked": False,
    }


def _write(item: Item, store: Store, out: Path, stem: str) -> Iterator[Path]:
    if not item.files:
        path = out / f"{stem}.txt"
        path.write_text(item.text, "utf-8")
        yield path
    for file in item.files:
        path = out / f"{stem}{Path(file.name).suffix}"
        shutil.copyfile(store.blobs.path(file.sha256), path)
        yield path


# -------------------------------------------------------------------------------------------------- traces
def published_row(store: Store, file: Path) -> PublishedRow:
    """The ledger's row of a published file, by content; a ``.c2pa`` sidecar stands for its file."""
    if not file.is_file():
        raise UserError(t("no such file"), where=str(file))
    if file.suffix == ".c2pa":
        file = file.with_suffix("")
    found = store.ledger.published(sha256_file(file))
    if not found:
        raise UserError(
            t("this ledger did not publish this file, or it was changed since"),
            where=str(file),
            fix=t("intaglio verify says whether its marks are whole; -C names another project"),
        )
    return found[-1]


def publisher(store: Store, row: PublishedRow) -> StepRecord:
    """The step that published a file."""
    record = store.ledger.step(row.step_id)
    if record is None:
        raise IntaglioError(f"the ledger has a published file of step {row.step_id} but not the step")
    return record


def trace(store: Store, file: Path, *, limit: int | None) -> Answer:
    """From a published file back to every source item, license and consent."""
    row = published_row(store, file)
    record = publisher(store, row)
    lineage = Lineage(store)
    pieces = {item.id: item for item in Collection(store.blobs, record.outputs["items"])}
    shown = [pieces[each] for each in row.pieces if each in pieces]
    traces = [lineage.trace(item, str(item.meta.get("made_by") or record.key), limit=limit) for item in shown]
    return {
        "file": str(file),
        "sha256": row.sha256,
        "published": row.created,
        "publication": record.name,
        "pieces": [
            {
                "id": item.id,
                "media": item.media,
                "origin": item.origin,
                "seed": item.meta.get("seed"),
                "license": item.license,
            }
            for item in shown
        ],
        "sources": _unique(source for each in traces for source in each.sources),
        "collections": _distinct(each for one in traces for each in one.collections),
        "models": _distinct(model for each in traces for model in each.models),
        "steps": _distinct(step for each in traces for step in each.steps)
        + [
            {"name": each.name, "stage": each.stage, "use": each.use, "key": each.key}
            for each in lineage.chain(record.key)
            if each.stage in ("optimize", "publish")
        ],
    }


def _unique(sources: Iterator[Any]) -> list[Answer]:
    best: dict[str, Any] = {}
    for source in sources:
        if source.id not in best or (source.direct and not best[source.id].direct):
            best[source.id] = source
    return [dataclasses.asdict(each) for each in sorted(best.values(), key=lambda s: not s.direct)]


def _distinct(values: Iterator[Any]) -> list[Answer]:
    seen: dict[str, Answer] = {}
    for value in values:
        seen.setdefault(str(sorted((k, str(v)) for k, v in value.items())), dict(value))
    return list(islice(seen.values(), 10_000))
