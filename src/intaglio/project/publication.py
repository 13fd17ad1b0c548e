"""From pieces to a publication: rights checked, files made, marked and signed, laid out in ``public/``."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import intaglio
from intaglio.core import registry
from intaglio.core.contracts import Item, PublishedFile, Rights
from intaglio.core.errors import UserError
from intaglio.core.hashing import digest, sha256_file
from intaglio.core.i18n import t
from intaglio.project.call import StepResult
from intaglio.project.file import PUBLIC_FOLDER
from intaglio.project.lineage import UNKNOWN, Lineage, combined_license
from intaglio.store import Store
from intaglio.store.blobs import Blobs
from intaglio.store.collections import Collection, CollectionWriter, write_rows
from intaglio.store.records import PublishedRow

if TYPE_CHECKING:
    from intaglio.project.stages import Run

CHECKED_BY_HASH_BYTES = 64 << 20


def make(run: Run) -> StepResult:
    """Run an exporter and the finishing function; outputs are ``items`` (pieces), ``refused`` and ``files``."""
    call, store, ctx = run.call, run.store, run.ctx
    refused: list[dict[str, Any]] = []
    with CollectionWriter(store.blobs, store.scratch) as writer:
        allowed = 0
        for item in _allowed(run, refused):
            writer.add(item)
            allowed += 1
        info = writer.close()
    if not allowed:
        raise UserError(
            t("nothing can be published: {reason}", reason=refused[0]["reason"] if refused else t("no piece was kept")),
            where=f"intaglio.toml [publish.{call.name}]",
            fix=t("say the license in the project file, or run with --allow-unknown")
            if any(UNKNOWN in row["reason"] for row in refused)
            else t("intaglio show STEP says why pieces were refused"),
        )
    files = list(run.component().export(Collection(store.blobs, info.id), ctx))
    _check_declared(files, ctx.out)
    pieces = {item.id: item for item in Collection(store.blobs, info.id)}
    rows = list(_finished(run, files, pieces))
    outputs = {"items": info.id, "files": store.blobs.put_tree(ctx.out)}
    if refused:
        outputs["refused"] = write_rows(store.blobs, store.scratch, refused)
    counts = {"pieces": allowed, "refused": len(refused), "files": len(files)}
    return run.result(outputs, counts, {"media": info.media}, published=rows)


def _allowed(run: Run, refused: list[dict[str, Any]]) -> Iterator[Item]:
    """The pieces whose every source may be published; the others go to ``refused`` with the reason."""
    blocked = set(run.call.blocked)
    for item in run.dataset("items"):
        maker = str(item.meta.get("made_by") or "")
        licenses = run.lineage.licenses(maker) if maker else {item.license: 1}
        unknown = licenses.get(UNKNOWN, 0)
        reason = ""
        if unknown and not run.call.allow_unknown:
            reason = t("made from {count} source items whose license is unknown", count=unknown)
        elif blocked & {item.id, *item.parents}:
            reason = t("made from an item that was forgotten on request")
        if reason:
            refused.append({"piece": item.id, "origin": item.origin, "reason": reason})
            continue
        yield dataclasses.replace(
            item,
            license=combined_license(licenses),
            meta={**item.meta, "created": _created(run.lineage, maker, run.call.key)},
        )


def _created(lineage: Lineage, maker: str, fallback: str) -> str:
    record = lineage.record(maker) if maker else lineage.record(fallback)
    return (record.ended or record.started) if record is not None else "1970-01-01T00:00:00Z"


def _check_declared(files: Sequence[PublishedFile], out: Path) -> None:
    said = {file.path for file in files}
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    if said != there:
        raise RuntimeError(
            f"exporter declared {sorted(said - there)} it did not write, or wrote {sorted(there - said)} undeclared"
        )


def _finished(run: Run, files: Sequence[PublishedFile], pieces: Mapping[str, Item]) -> Iterator[dict[str, Any]]:
    finish = registry.import_or_explain("intaglio.trust.finish", "signing").finish
    signer = registry.import_or_explain("intaglio.trust.authority", "signing").authority()
    call = run.call
    for done, file in enumerate(files):
        shown = [pieces[each] for each in file.pieces if each in pieces]
        rights = Rights(
            produce_id=digest([call.key, file.path])[:32],
            title=file.title or str(call.settings.get("title") or call.settings.get("name") or ""),
            license=combined_license(item.license for item in shown) if shown else "",
            creator=str(call.settings.get("author") or ""),
            software=f"Intaglio {intaglio.__version__}",
            details=_details(run, shown),
        )
        path = run.ctx.out / file.path
        result = finish(path, file.mime, rights, ai=file.ai, signer=signer)
        run.ctx.progress(done + 1, len(files), files=done + 1)
        yield {
            "path": file.path,
            "sha256": result.sha256,
            "unsigned_sha256": result.unsigned_sha256,
            "sidecar_sha256": run.store.blobs.put_file(result.sidecar) if result.sidecar else "",
            "produce_id": rights.produce_id,
            "pieces": list(file.pieces),
            "mime": file.mime,
            "title": rights.title,
        }


def _details(run: Run, shown: Sequence[Item]) -> dict[str, Any]:
    """What the signed manifest says of a file: no prompts, no names of people (reference: EU code 1.1.1)."""
    makers = dict.fromkeys(str(item.meta.get("made_by") or "") for item in shown)
    models: dict[str, dict[str, str]] = {}
    for maker in makers:
        for record in run.lineage.chain(maker) if maker else ():
            if record.stage == "models":
                models[record.key] = {"use": record.use, "checkpoint": record.outputs.get("files", "")}
    return {
        "key": run.call.key,
        "pieces": [item.id for item in shown],
        "models": list(models.values()),
        "seeds": [seed for item in shown if isinstance(seed := item.meta.get("seed"), int)],
    }


# ------------------------------------------------------------------------------------------- the folder public/<step>/
def lay_out(project: Path, step: str, rows: Sequence[PublishedRow], blobs: Blobs, *, before: Sequence[str]) -> Path:
    """Make ``public/<step>/`` hold exactly these files; each appears whole or not at all.

    Args:
        before: paths earlier publications of this step wrote; those no longer published are taken away. Files that
                are not ours are left alone.
    """
    folder = project / PUBLIC_FOLDER / step
    folder.mkdir(parents=True, exist_ok=True)
    wanted = dict(_files(rows))
    for path, sha in wanted.items():
        target = folder / path
        if not target.is_file() or sha256_file(target) != sha:
            target.parent.mkdir(parents=True, exist_ok=True)
            temp = target.with_name(f".{target.name}.{os.getpid()}.part")
            shutil.copyfile(blobs.path(sha), temp)
            temp.replace(target)
    for path in set(before) - set(wanted):
        (folder / path).unlink(missing_ok=True)
    for leftover in folder.rglob(".*.part"):
        leftover.unlink(missing_ok=True)
    for sub in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        if not any(sub.iterdir()):
            sub.rmdir()
    return folder


def _files(rows: Sequence[PublishedRow]) -> Iterator[tuple[str, str]]:
    for row in rows:
        yield row.path, row.sha256
        if row.sidecar_sha256:
            yield f"{row.path}.c2pa", row.sidecar_sha256


def is_laid_out(project: Path, step: str, rows: Sequence[PublishedRow], blobs: Blobs) -> bool:
    """Whether ``public/<step>/`` holds what the ledger says: by hash up to 64 MiB in all, by size beyond."""
    folder = project / PUBLIC_FOLDER / step
    wanted = dict(_files(rows))
    total = 0
    for path, sha in wanted.items():
        try:
            size = (folder / path).stat().st_size
        except OSError:
            return False
        if size != blobs.size(sha):
            return False
        total += size
    return total > CHECKED_BY_HASH_BYTES or all(sha256_file(folder / path) == sha for path, sha in wanted.items())


def laid_out_paths(store: Store, step: str) -> list[str]:
    """Every path a publication of this step has written so far."""
    paths = []
    for record in store.ledger.steps(name=step, limit=1000):
        if record.stage == "publish":
            paths += [path for path, _ in _files(store.ledger.publication(record.id))]
    return paths
