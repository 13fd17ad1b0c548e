"""One driver a stage: build the component, hand it what lies in the store, store what it makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from intaglio.core import config as config_
from intaglio.core import registry
from intaglio.core.contracts import Dataset, Item, Skip, Trace, Verdict
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.project import cards, publication
from intaglio.project.call import StepCall, StepInput, StepResult
from intaglio.project.context import Say, StepContext, plain
from intaglio.project.file import with_secrets
from intaglio.project.lineage import Lineage, combined_license
from intaglio.store import Store
from intaglio.store.collections import Collection, CollectionWriter, union, write_rows
from intaglio.store.records import StepRecord

TRACE_SOURCES = 200  # indirect sources handed to an exporter with each piece; the counts are always whole


def execute(call: StepCall, say: Say, *, extra: dict[str, StepRecord] | None = None) -> StepResult:
    """Run one step to its end. A pure function of ``call`` and the store; commits nothing to the ledger."""
    store = Store.open(Path(call.store), url=call.ledger)
    try:
        lineage = Lineage(store, extra)

        def tracer(item: Item) -> Trace:
            return lineage.trace(item, maker_of(item, call), limit=TRACE_SOURCES)

        ctx = StepContext(call=call, store=store, say=say, tracer=tracer)
        run = Run(call, store, ctx, lineage)
        result: StepResult = DRIVERS[call.stage](run)
        return result
    finally:
        store.close()


def maker_of(item: Item, call: StepCall) -> str:
    """The key of the step an item came from: told by the item, else the first input."""
    made_by = item.meta.get("made_by")
    return str(made_by) if made_by else (call.inputs[0].key if call.inputs else call.key)


@dataclasses.dataclass
class Run:
    call: StepCall
    store: Store
    ctx: StepContext
    lineage: Lineage

    def component(self) -> Any:
        where = f"intaglio.toml [{self.call.stage}.{self.call.name}]"
        module = registry.load(self.call.stage, self.call.use, where=where)
        return module.Component(config_.parse(module.Config, with_secrets(dict(self.call.config)), where=where))

    def inputs(self, role: str) -> list[StepInput]:
        return [each for each in self.call.inputs if each.role == role]

    def dataset(self, *roles: str) -> Dataset:
        found = [each for role in roles for each in self.inputs(role)]
        return union([Collection(self.store.blobs, each.outputs["items"]) for each in found if "items" in each.outputs])

    def result(
        self, outputs: dict[str, str], counts: dict[str, int], metrics: dict[str, Any], **more: Any
    ) -> StepResult:
        merged = plain({**self.ctx.metrics, **metrics})
        if self.ctx.findings:
            rows = [dataclasses.asdict(each) for each in self.ctx.findings]
            outputs["findings"] = write_rows(self.store.blobs, self.store.scratch, rows)
            counts["findings"] = len(rows)
        if self.ctx.warnings:
            merged["warnings"] = list(self.ctx.warnings)
        return StepResult(outputs, counts, merged, warnings=list(self.ctx.warnings), **more)


def _data(run: Run) -> StepResult:
    component = run.component()
    if hasattr(component, "apply"):
        stream = component.apply(_with_skips(run), run.ctx)
    else:
        stream = _chain(component, run)
    counts = {"items": 0, "skipped": 0, "duplicates": 0}
    notes: list[dict[str, Any]] = []
    blocked = set(run.call.blocked)
    refuse = run.call.config.get("on_error") == "refuse"
    with CollectionWriter(run.store.blobs, run.store.scratch) as writer:
        for each in stream:
            if isinstance(each, Item) and blocked and each.id in blocked:
                each = Skip(each.origin, t("forgotten on request"))
            if isinstance(each, Item):
                writer.add(each)
                counts["items"] += 1
                run.ctx.progress(counts["items"], 0, items=counts["items"])
                continue
            if refuse and each.kind == "skipped":
                raise UserError(
                    each.reason, where=each.origin, fix=t('mend or remove it, or set on_error = "skip" for this step')
                )
            counts["duplicates" if each.kind == "duplicate" else "skipped"] += 1
            notes.append(dataclasses.asdict(each))
        if counts["items"] == 0:
            raise UserError(
                t(
                    "nothing could be read: {skipped} skipped, {duplicates} duplicates",
                    skipped=counts["skipped"],
                    duplicates=counts["duplicates"],
                )
                + (f" ({notes[0]['origin']}: {notes[0]['reason']})" if notes else ""),
                where=f"intaglio.toml [data.{run.call.name}]",
            )
        info = writer.close()
    outputs = {"items": info.id}
    if notes:
        outputs["skipped"] = write_rows(run.store.blobs, run.store.scratch, notes)
    return run.result(
        outputs,
        counts,
        {
            "media": info.media,
            "licenses": info.licenses,
            "train": info.train,
            "heldout": info.heldout,
            "bytes": info.bytes,
        },
    )


def _with_skips(run: Run) -> Iterator[Item | Skip]:
    """A transform as a step sees the items and what was skipped above stays counted there."""
    yield from run.dataset("items")


def _chain(component: Any, run: Run) -> Iterator[Item | Skip]:
    """A source's items with its rights filled in, through the transforms it names."""
    call = run.call
    rights = {name: str(call.config.get(name) or "") for name in ("license", "consent")}

    def filled() -> Iterator[Item | Skip]:
        for each in component.read(run.ctx):
            if isinstance(each, Item):
                changes: dict[str, Any] = {}
                if rights["license"] and not each.license:
                    changes["license"] = rights["license"]
                if rights["consent"] and not each.consent:
                    changes["consent"] = rights["consent"]
                if call.config.get("origin") and "source" not in each.meta:
                    changes["meta"] = {**each.meta, "source": call.config["origin"]}
                if changes:
                    each = dataclasses.replace(each, **changes)
            yield each

    stream: Iterable[Item | Skip] = filled()
    for name in call.config.get("transforms", ()):
        where = f"intaglio.toml [data.{call.name}] transforms"
        module = registry.load("data", name, where=where)
        if not hasattr(module.Component, "apply"):
            raise UserError(t("'{name}' is not a transform", name=name), where=where)
        values = {"heldout": call.config["heldout"]} if "heldout" in module.Config.model_fields else {}
        stream = module.Component(config_.parse(module.Config, values, where=where)).apply(stream, run.ctx)
    return iter(stream)


def _models(run: Run) -> StepResult:
    component = run.component()
    data = run.dataset("data").of(*component.takes) if getattr(component, "takes", ()) else run.dataset("data")
    run.ctx.inputs = _handles(run, [each for each in run.call.inputs if each.role != "data"])
    metrics = dict(component.fit(data, run.ctx))
    run.ctx.keep_previews()
    cards.write(run, data, plain({**run.ctx.metrics, **metrics}))
    tree = run.store.blobs.put_tree(run.ctx.out)
    return run.result({"files": tree}, {"items": len(data)}, metrics)


def _knowledge(run: Run) -> StepResult:
    component = run.component()
    items = run.dataset(*_data_roles(run))
    with CollectionWriter(run.store.blobs, run.store.scratch) as writer:
        facts = 0
        for fact in component.extract(items, run.ctx):
            writer.add(fact)
            facts += 1
        info = writer.close()
    tree = run.store.blobs.put_tree(run.ctx.out)
    return run.result({"items": info.id, "files": tree}, {"items": len(items), "facts": facts}, {})


def _data_roles(run: Run) -> list[str]:
    return list(dict.fromkeys(each.role for each in run.call.inputs if "items" in each.outputs))


def load_handle(each: StepInput, run_store: Store, work: Path, *, device: str, threads: int) -> Any:
    """A loaded model or index from its stored tree, or the dataset of any other step."""
    if each.stage in ("models", "knowledge"):
        module = registry.load(each.stage, each.use)
        component = module.Component(
            config_.parse(
                module.Config, with_secrets(dict(each.config)), where=f"intaglio.toml [{each.stage}.{each.name}]"
            )
        )
        folder = work / "inputs" / each.outputs["files"][:32]
        if not folder.is_dir():
            run_store.blobs.checkout(each.outputs["files"], folder)
        if each.stage == "models":
            return component.load(folder, device=device, threads=threads)
        return component.load(folder, Collection(run_store.blobs, each.outputs["items"]), threads=threads)
    return Collection(run_store.blobs, each.outputs["items"])


def _handles(run: Run, inputs: Iterable[StepInput]) -> dict[str, list[Any]]:
    """What the steps of these inputs made, ready to use, by role."""
    call = run.call
    handles: dict[str, list[Any]] = {}
    for each in inputs:
        handle = load_handle(each, run.store, Path(call.work), device=call.device, threads=call.threads)
        handles.setdefault(each.role, []).append(handle)
    return handles


def _generate(run: Run) -> StepResult:
    component = run.component()
    call = run.call
    handles = _handles(run, call.inputs)
    license_ = combined_license(_licenses(run))
    made = 0
    with CollectionWriter(run.store.blobs, run.store.scratch) as writer:
        for item in component.generate(handles, run.ctx):
            made += 1
            writer.add(
                dataclasses.replace(
                    item,
                    license=license_,
                    origin=f"{call.name}#{made}",
                    meta={**item.meta, "made_by": call.key, "step": call.name},
                )
            )
        if made == 0:
            raise UserError(t("no candidate was made"), where=f"intaglio.toml [generate.{call.name}]")
        info = writer.close()
    return run.result({"items": info.id}, {"items": made}, {"media": info.media, "license": license_})


def _licenses(run: Run) -> set[str]:
    return {license_ for each in run.call.inputs for license_ in run.lineage.licenses(each.key)}


def _optimize(run: Run) -> StepResult:
    component = run.component()
    items = run.dataset("items")
    archive = union([Collection(run.store.blobs, each) for each in run.call.archive])
    verdicts: list[Verdict] = []
    handles = {
        each.role: load_handle(each, run.store, Path(run.call.work), device=run.call.device, threads=run.call.threads)
        for each in run.call.inputs
        if each.stage in ("models", "knowledge")
    }
    extra = {"handles": handles} if handles else {}
    for verdict in component.judge(items, archive, run.ctx, **extra):
        verdicts.append(verdict)
    by_id = {verdict.item: verdict for verdict in verdicts}
    kept = {v.item: v for v in verdicts if v.kept}
    ranked: list[tuple[int, Item]] = []
    for item in items:
        verdict = kept.pop(item.id, None)
        if verdict is not None:
            meta = {**item.meta, "scores": plain(verdict.scores), "rank": verdict.rank}
            ranked.append((verdict.rank, dataclasses.replace(item, meta=meta)))
    with CollectionWriter(run.store.blobs, run.store.scratch) as writer:
        for _, item in sorted(ranked, key=lambda pair: pair[0]):
            writer.add(item)
        info = writer.close()
    rows = [
        {"item": v.item, "kept": v.kept, "scores": plain(v.scores), "reasons": list(v.reasons), "rank": v.rank}
        for v in sorted(by_id.values(), key=lambda v: (not v.kept, v.rank, v.item))
    ]
    outputs = {"items": info.id, "verdicts": write_rows(run.store.blobs, run.store.scratch, rows)}
    return run.result(outputs, {"items": len(items), "kept": len(ranked), "refused": len(rows) - len(ranked)}, {})


def _publish(run: Run) -> StepResult:
    return publication.make(run)


DRIVERS: dict[str, Callable[[Run], StepResult]] = {
    "data": _data,
    "models": _models,
    "knowledge": _knowledge,
    "generate": _generate,
    "optimize": _optimize,
    "publish": _publish,
}
