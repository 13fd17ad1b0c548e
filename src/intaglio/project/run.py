"""Run a plan: steps as soon as what they need is made, side by side where independent, committed whole."""

from __future__ import annotations

import os
import platform
import queue
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intaglio.core.errors import IntaglioError
from intaglio.core.i18n import t
from intaglio.project import foretold, machine, plan, publication
from intaglio.project.call import StepCall, StepInput
from intaglio.project.executors import Event, Executor, Running, local_process
from intaglio.project.file import ProjectFile
from intaglio.project.graph import Node
from intaglio.project.progress import Progress
from intaglio.store import Store
from intaglio.store.records import PublishedRow, StepRecord

HEARTBEAT_S = 5.0
WAIT_FOR_OTHER_S = 0.5


@dataclass
class Outcome:
    """What became of one step in this run; state ``made``, ``kept``, ``failed`` or ``blocked``."""

    name: str
    stage: str
    state: str
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``error`` only where there is one."""
        values = dict(self.__dict__)
        if not self.error:
            values.pop("error")
        return values


@dataclass
class _Job:
    node: Node
    record: StepRecord
    running: Running
    started: float
    work: Path
    foretold: float = 0.0  # seconds, by the component; 0 where its time would say nothing of that


class Runner:
    """Runs nodes of one project file on one store; use once."""

    def __init__(
        self,
        file: ProjectFile,
        store: Store,
        nodes: Sequence[Node],
        *,
        device: str,
        progress: Progress,
        executor: Executor = local_process,
        slots: int | None = None,
        allow_unknown: bool = False,
        processes: int = 1,
    ) -> None:
        self._file = file
        self._store = store
        self._nodes = list(nodes)
        self._by_name = {node.name: node for node in nodes}
        self._device = device
        self._progress = progress
        self._executor = executor
        self._slots = slots or machine.cores()
        self._allow_unknown = allow_unknown
        self._processes = processes
        self._owner = f"{platform.node()}:{os.getpid()}:{time.time_ns()}"
        self._events: queue.Queue[tuple[str, Event]] = queue.Queue()
        self._jobs: dict[str, _Job] = {}
        self._made: dict[str, StepRecord] = store.ledger.made([node.key for node in nodes])
        self.outcomes: dict[str, Outcome] = {}
        self._environment = machine.environment()
        self._heart = threading.Event()

    def run(self, blocked: Mapping[str, str]) -> list[Outcome]:
        """Run everything not made yet. ``blocked``: step name to reason, from the plan.

        Errors: KeyboardInterrupt is passed on once running steps have stopped; what was finished is kept.
        """
        beat = threading.Thread(target=self._beat, daemon=True)
        beat.start()
        try:
            self._loop(blocked)
        except BaseException:
            self._stop_all()
            raise
        finally:
            self._heart.set()
            beat.join()
        return [self.outcomes[node.name] for node in self._nodes]

    def _loop(self, blocked: Mapping[str, str]) -> None:
        while len(self.outcomes) < len(self._nodes):
            waiting = False
            for node in self._ready():
                if node.name in blocked:
                    self._finish(Outcome(node.name, node.step.stage, "blocked", error={"error": blocked[node.name]}))
                elif node.key in self._made:
                    self._keep(node)
                elif self._free() >= min(node.threads, self._slots):
                    waiting |= not self._start(node)
            if not self._jobs and not waiting:
                continue
            try:
                name, event = self._events.get(timeout=WAIT_FOR_OTHER_S if waiting else 1.0)
            except queue.Empty:
                continue
            self._handle(name, event)

    def _ready(self) -> list[Node]:
        """Nodes whose inputs are there; those below a failed one are settled as blocked. Longest threads first."""
        found = []
        for node in self._nodes:
            if node.name in self.outcomes or node.name in self._jobs:
                continue
            above = [self.outcomes.get(name) for name in node.needs()]
            bad = [each for each in above if each is not None and each.state in ("failed", "blocked")]
            if bad and node.key not in self._made:
                reason = t("needs {name}, which {state}", name=bad[0].name, state=t(bad[0].state))
                self._finish(Outcome(node.name, node.step.stage, "blocked", error={"error": reason}))
            elif all(each is not None for each in above):
                found.append(node)
        return sorted(found, key=lambda node: node.step.stage != "models")

    def _free(self) -> int:
        return self._slots - sum(min(job.node.threads, self._slots) for job in self._jobs.values())

    def _keep(self, node: Node) -> None:
        record = self._made[node.key]
        if node.step.stage == "publish":
            self._lay_out(node, record)
        self._finish(
            Outcome(
                node.name, node.step.stage, "kept", record.seconds or 0.0, dict(record.counts), dict(record.metrics)
            )
        )

    def _start(self, node: Node) -> bool:
        """Take the lease and start; False where another process is making this very step."""
        processes = self._processes if node.step.stage == "models" else 1
        if self._device == "cpu":
            processes = min(processes, node.threads)
        record = self._store.ledger.begin(
            key=node.key,
            round=self._store.ledger.round(),
            name=node.name,
            stage=node.step.stage,
            use=node.step.spec.use,
            config=node.step.config,
            seed=node.seed,
            code=node.step.code,
            inputs=[{"role": role, "name": name, "key": key} for role, name, key in node.inputs],
            environment=self._environment | ({"processes": processes} if processes > 1 else {}),
            device=self._device,
            threads=node.threads,
            owner=self._owner,
        )
        if record is None:
            return False
        if record.state == "made":
            self._made[node.key] = record
            return True
        work = self._store.root / "work" / node.key[:32]
        work.mkdir(parents=True, exist_ok=True)
        resumed = any((work / "work").glob("*")) if (work / "work").is_dir() else False
        self._progress.started(node.name, t("goes on where it stopped") if resumed else "")
        call = step_call(
            self._file,
            self._store,
            node,
            self._inputs(node),
            device=self._device,
            work=work,
            allow_unknown=self._allow_unknown,
            processes=processes,
        )
        whole = node.step.stage == "models" and processes == 1 and not resumed
        expected = self._foretold(node) if whole else 0.0
        self._jobs[node.name] = _Job(node, record, self._executor(call, self._events), time.monotonic(), work, expected)
        return True

    def _foretold(self, node: Node) -> float:
        """Only where the plan before has taken torch in: what was made like this before is not foretold."""
        if "torch" not in sys.modules:
            return 0.0
        found = plan.guessed(node, self._by_name, self._made, self._store, device=self._device)
        return found.seconds if found else 0.0

    def _inputs(self, node: Node) -> list[StepInput]:
        return [step_input(role, name, self._record(key)) for role, name, key in node.inputs]

    def _record(self, key: str) -> StepRecord:
        record = self._made.get(key) or self._store.ledger.made([key]).get(key)
        if record is None:
            raise IntaglioError(f"step {key[:12]} is not in the ledger any more")
        return record

    def _handle(self, name: str, event: Event) -> None:
        job = self._jobs.get(name)
        if job is None:
            return
        kind = event["event"]
        if kind == "progress":
            numbers = {**event["numbers"], "seconds": time.monotonic() - job.started}
            self._progress.update(name, event["done"], event["total"], numbers)
        elif kind == "warning":
            self._progress.warned(name, event["message"])
        elif kind == "done":
            self._commit(job, event)
        elif kind == "failed":
            self._failed(job, event)

    def _commit(self, job: _Job, event: Event) -> None:
        node, seconds = job.node, time.monotonic() - job.started
        rows = event["published"]
        self._store.ledger.finish(
            job.record.id,
            self._owner,
            outputs=event["outputs"],
            counts=event["counts"],
            metrics=event["metrics"],
            seconds=seconds,
            peak_bytes=event["peak_bytes"],
            published=[PublishedRow(step_id=job.record.id, created="", **row) for row in rows],
        )
        foretold.learn(node.step.spec.use, job.foretold, seconds, device=self._device, threads=node.threads)
        del self._jobs[node.name]
        self._made[node.key] = self._store.ledger.made([node.key])[node.key]
        if node.step.stage == "publish":
            self._lay_out(node, self._made[node.key])
        shutil.rmtree(job.work, ignore_errors=True)
        self._finish(Outcome(node.name, node.step.stage, "made", seconds, event["counts"], event["metrics"]))

    def _lay_out(self, node: Node, record: StepRecord) -> None:
        rows = self._store.ledger.publication(record.id)
        if not publication.is_laid_out(self._file.folder, node.name, rows, self._store.blobs):
            before = publication.laid_out_paths(self._store, node.name)
            publication.lay_out(self._file.folder, node.name, rows, self._store.blobs, before=before)

    def _failed(self, job: _Job, event: Event) -> None:
        error = {key: event[key] for key in ("error", "where", "fix", "trace", "kind")}
        self._store.ledger.fail(job.record.id, self._owner, error["error"])
        del self._jobs[job.node.name]
        self._finish(Outcome(job.node.name, job.node.step.stage, "failed", time.monotonic() - job.started, error=error))

    def _finish(self, outcome: Outcome) -> None:
        self.outcomes[outcome.name] = outcome
        self._progress.finished(outcome.name, outcome.state, outcome.seconds)

    def _beat(self) -> None:
        while not self._heart.wait(HEARTBEAT_S):
            for job in list(self._jobs.values()):
                if not self._store.ledger.renew(job.record.id, self._owner):
                    job.running.kill()  # another process took the step over: what is made here would not count

    def _stop_all(self) -> None:
        """Ask every running step to stop, give each ten seconds to save, then end it."""
        for job in self._jobs.values():
            job.running.stop()
        deadline = time.monotonic() + 10.0
        while self._jobs and time.monotonic() < deadline:
            try:
                name, event = self._events.get(timeout=0.2)
            except queue.Empty:
                continue
            if event["event"] in ("done", "failed"):
                self._handle(name, event)
        for job in list(self._jobs.values()):
            job.running.kill()
            self._store.ledger.fail(job.record.id, self._owner, "interrupted")


def step_input(role: str, name: str, record: StepRecord) -> StepInput:
    """A made step as another step's input."""
    return StepInput(role, name, record.key, record.stage, record.use, record.config, record.outputs)


def step_call(
    file: ProjectFile,
    store: Store,
    node: Node,
    inputs: Sequence[StepInput],
    *,
    device: str,
    work: Path,
    allow_unknown: bool,
    archive: Sequence[str] | None = None,
    processes: int = 1,
) -> StepCall:
    """Everything the worker needs for one node."""
    from intaglio.project.lineage import Lineage

    if archive is None and node.step.stage == "optimize":
        lineage = Lineage(store)
        archive = list(dict.fromkeys(r.outputs["items"] for each in inputs for r, _ in lineage.collections(each.key)))
    blocked = [row.item for row in store.ledger.blocks()] if node.step.stage == "publish" else list(node.blocked_items)
    settings = file.settings.model_dump(mode="json")
    return StepCall(
        project=str(file.folder.resolve()),
        store=str(store.root.resolve()),
        ledger=file.settings.ledger,
        work=str(work.resolve()),
        name=node.name,
        stage=node.step.stage,
        use=node.step.spec.use,
        key=node.key,
        config=node.step.config,
        seed=node.seed,
        device=device,
        threads=node.threads,
        offline=file.settings.offline,
        languages=list(file.settings.languages),
        inputs=list(inputs),
        archive=list(archive or ()),
        blocked=blocked,
        allow_unknown=allow_unknown,
        settings={name: settings[name] for name in ("name", "title", "author")},
        processes=processes,
    )


def clean_work(store: Store, keep: Sequence[str]) -> None:
    """Remove scratch folders; those of the keys in ``keep`` and of running steps stay."""
    wanted = {key[:32] for key in (*keep, *(record.key for record in store.ledger.running()))}
    folder = store.root / "work"
    for each in folder.iterdir() if folder.is_dir() else ():
        if each.name not in wanted:
            shutil.rmtree(each, ignore_errors=True)
