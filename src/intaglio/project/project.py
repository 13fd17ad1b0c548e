"""What every door (command line, HTTP, notebook) does with a project; each answer is plain JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intaglio.core.errors import StepFailed, UserError
from intaglio.core.i18n import t
from intaglio.project import forget, graph, machine, plan, publication, queries, ranks, replay, verify
from intaglio.project.executors import Executor, local_process
from intaglio.project.file import STORE_FOLDER, ProjectFile, read_project
from intaglio.project.graph import Node
from intaglio.project.progress import Progress, Silent
from intaglio.project.resolve import Resolver
from intaglio.project.run import Outcome, Runner, clean_work
from intaglio.store import Store

Answer = dict[str, Any]


def open_project(folder: Path, *, executor: Executor = local_process) -> Project:
    """The project in ``folder``; checks its file, opens or makes its ledger. UserError on a mistake."""
    return Project(read_project(folder), executor=executor)


class Project:
    """A project with its store open; use as a context manager or call ``close``."""

    def __init__(self, file: ProjectFile, *, executor: Executor = local_process) -> None:
        self.file = file
        self.folder = file.folder
        self._root = file.folder / STORE_FOLDER
        self._cache = self._root / "cache"
        self.steps = Resolver(self._cache).project(file)
        self.store = Store.open(self._root, url=file.settings.ledger)
        self._executor = executor

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledger."""
        self.store.close()

    # ------------------------------------------------------------------------------------------------------------ graph
    def nodes(self, targets: Sequence[str] = (), *, allow_unknown: bool = False) -> list[Node]:
        """The steps with their keys; with ``targets`` only these and what they need."""
        for name in targets:
            self.file.step(name)
        blocks: dict[str, list[str]] = {}
        for row in self.store.ledger.blocks():
            for step in row.steps:
                blocks.setdefault(step, []).append(row.item)
        nodes = graph.build(
            self.file,
            self.steps,
            cache=self._cache,
            pins=self.store.ledger.pins(),
            blocks=blocks,
            allow_unknown=allow_unknown,
        )
        return graph.upstream(nodes, targets) if targets else nodes

    # --------------------------------------------------------------------------------------------------------- commands
    def plan(self, targets: Sequence[str] = (), *, device: str | None = None, allow_unknown: bool = False) -> Answer:
        """``steps``: name, stage, use, state (made, changed, new, blocked), reason, seconds, bytes, key, threads."""
        nodes = self.nodes(targets, allow_unknown=allow_unknown)
        chosen, why = machine.choose_device(device)
        steps = plan.make(nodes, self.store, device=chosen, allow_unknown=allow_unknown)
        return {
            "project": self.file.settings.name,
            "round": self.store.ledger.round(),
            "device": chosen,
            "device_reason": why,
            "seconds": round(sum(step.seconds for step in steps), 1),
            "steps": [step.to_json() for step in steps],
        }

    def run(
        self,
        targets: Sequence[str] = (),
        *,
        progress: Progress | None = None,
        jobs: int | None = None,
        device: str | None = None,
        next_round: bool = False,
        allow_unknown: bool = False,
        processes: int = 1,
    ) -> Answer:
        """``ran``, ``kept``, ``failed``, ``seconds``, ``steps``; steps already made are kept.

        processes: how many share each training; no part of a step's key.
        next_round: what ``name@last`` means becomes what is made now, and steps that use it run again.
        """
        start = time.perf_counter()
        ranks.check(processes, device=machine.choose_device(device)[0], threads=machine.cores())
        if next_round:
            self.store.ledger.next_round(self._pins())
        nodes = self.nodes(targets, allow_unknown=allow_unknown)
        chosen, why = machine.choose_device(device)
        steps = plan.make(nodes, self.store, device=chosen, allow_unknown=allow_unknown)
        watcher = progress or Silent()
        watcher.plan([step.to_json() for step in steps], chosen, why)
        runner = Runner(
            self.file,
            self.store,
            nodes,
            device=chosen,
            progress=watcher,
            executor=self._executor,
            slots=jobs,
            allow_unknown=allow_unknown,
            processes=processes,
        )
        outcomes = runner.run({step.name: step.reason for step in steps if step.state == "blocked"})
        if not targets and all(outcome.state in ("made", "kept") for outcome in outcomes):
            clean_work(self.store, [])
        return _summary(outcomes, time.perf_counter() - start, self.store.ledger.round())

    def _pins(self) -> dict[str, str]:
        """What each step made in the round that ends now."""
        records = ((step.name, self.store.ledger.last(step.name)) for step in self.steps)
        return {name: record.key for name, record in records if record is not None}

    def show(self, step: str, *, limit: int = 20, after: str | None = None) -> Answer:
        """``items`` by pages, ``skipped``, ``metrics`` and more of what a step made."""
        return queries.show(self.store, self.file.step(step), limit=limit, after=after)

    def models(self) -> Answer:
        """``models``: checkpoints of this project with their figures."""
        return queries.models(self.store, self.file)

    def train(
        self, step: str, *, progress: Progress | None = None, device: str | None = None, processes: int = 1
    ) -> Answer:
        """``checkpoint`` and ``metrics`` of one model, trained where it is not yet."""
        self._must_be(step, "models")
        self._or_raise(self.run([step], progress=progress, device=device, processes=processes))
        record = self._made(step)
        return {
            "step": step,
            "checkpoint": record.outputs["files"],
            "metrics": record.metrics,
            "seconds": record.seconds,
        }

    def sample(self, step: str, *, count: int, seed: int, out: Path, device: str | None = None) -> Answer:
        """``files``: ``count`` samples of a trained model, written into ``out``; seeds are seed, seed + 1, ..."""
        self._must_be(step, "models")
        return queries.sample(
            self.store, self._made(step), count=count, seed=seed, out=out, device=machine.choose_device(device)[0]
        )

    def export(self, step: str, folder: Path) -> Answer:
        """``files``: the model in the layout others load."""
        self._must_be(step, "models")
        return queries.export(self.store, self._made(step), folder, lang=self.file.settings.languages[0])

    def publish(self, step: str, *, progress: Progress | None = None, allow_unknown: bool = False) -> Answer:
        """``publication`` (folder), ``pieces``, ``refused``."""
        self._must_be(step, "publish")
        self._or_raise(self.run([step], progress=progress, allow_unknown=allow_unknown))
        key = self.nodes([step], allow_unknown=allow_unknown)[-1].key
        record = self.store.ledger.made([key])[key]
        return {
            "publication": str(self.folder / "public" / step),
            "pieces": record.counts["pieces"],
            "files": record.counts["files"],
            "refused": queries.rows(self.store, record, "refused"),
        }

    def verify(self, file: Path) -> Answer:
        """``valid``, ``credentials``, ``labels``, ``ledger``."""
        return verify.verify_in(self.store, file)

    def trace(self, file: Path, *, limit: int | None = None) -> Answer:
        """``sources``, ``models``, ``steps`` of a published file."""
        return queries.trace(self.store, file, limit=limit)

    def replay(self, file: Path, *, deep: bool = False, progress: Progress | None = None) -> Answer:
        """``same``, ``differs``: the file made again from the checkpoints (``deep``: from the archive) and compared."""
        return replay.replay(self.file, self.store, file, deep=deep, progress=progress or Silent())

    def forget(self, item: str, *, dry_run: bool = False, progress: Progress | None = None) -> Answer:
        """``datasets``, ``models``, ``pieces``, ``posts`` it touched; without ``dry_run`` blocked and remade."""
        found = forget.report(self.store, self.file, item)
        if dry_run:
            return found.to_json()
        forget.block(self.store, found)
        rebuilt = self.run(progress=progress)
        return {
            **found.to_json(),
            "rebuilt": rebuilt,
            "proof": forget.proof(self.store, found, publication.laid_out_paths),
        }

    def backup(self, to: Path) -> Answer:
        """A copy of the whole store, taken while it is in use."""
        return {"backup": str(to), **self.store.backup(to)}

    # ---------------------------------------------------------------------------------------------------------- helpers
    def _must_be(self, step: str, stage: str) -> None:
        spec = self.file.step(step)
        if spec.stage != stage:
            names = ", ".join(each.name for each in self.file.steps if each.stage == stage)
            raise UserError(
                t("'{name}' is a step of stage {stage}, not {wanted}", name=step, stage=spec.stage, wanted=stage),
                where="intaglio.toml",
                fix=t("name a step of {wanted}: {names}", wanted=stage, names=names or "-"),
            )

    def _made(self, step: str) -> Any:
        return queries.made(self.store, self.file.step(step))

    def _or_raise(self, answer: Mapping[str, Any]) -> None:
        for step in answer["steps"]:
            error = step.get("error")
            if error and error.get("kind") in ("user", None):
                raise UserError(error["error"], where=error.get("where", "") or step["name"], fix=error.get("fix", ""))
            if error:
                raise StepFailed(step["name"], error["error"], trace=error.get("trace", ""))


def _summary(outcomes: Sequence[Outcome], seconds: float, round_: int) -> Answer:
    return {
        "ran": sum(outcome.state == "made" for outcome in outcomes),
        "kept": sum(outcome.state == "kept" for outcome in outcomes),
        "failed": sum(outcome.state in ("failed", "blocked") for outcome in outcomes),
        "seconds": round(seconds, 3),
        "round": round_,
        "steps": [outcome.to_json() for outcome in outcomes],
    }
