"""The plan: for every step what state it is in, why, and what it is expected to take - before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from intaglio.core import config as config_
from intaglio.core import registry
from intaglio.core.contracts import Estimate, Size
from intaglio.core.errors import MissingExtra
from intaglio.core.i18n import t
from intaglio.project import foretold, machine
from intaglio.project.file import LAST, with_secrets
from intaglio.project.graph import Node
from intaglio.project.lineage import UNKNOWN
from intaglio.store import Store
from intaglio.store.records import StepRecord

DEFAULT_SECONDS = {"data": 1.0, "models": 90.0, "knowledge": 3.0, "generate": 10.0, "optimize": 3.0, "publish": 3.0}
DEFAULT_BYTES = 400 << 20


@dataclass(frozen=True)
class PlanStep:
    """One line of a plan. state: ``made``, ``changed``, ``new`` or ``blocked``; seconds and bytes are expectations."""

    name: str
    stage: str
    use: str
    state: str
    reason: str
    seconds: float
    bytes: int
    key: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def make(
    nodes: Sequence[Node],
    store: Store,
    *,
    device: str,
    allow_unknown: bool = False,
    estimate: bool = True,
) -> list[PlanStep]:
    """The state of every node, in order; steps that wait for a changed one are changed too."""
    records = store.ledger.made([node.key for node in nodes])
    by_name: dict[str, Node] = {node.name: node for node in nodes}
    states: dict[str, PlanStep] = {}
    for node in nodes:
        if node.key in records:
            state, reason, seconds, size = "made", "", 0.0, 0
        else:
            state, reason = _why(node, store, states)
            seconds, size = 0.0, 0
            problem = _blocked(node, nodes, states, allow_unknown)
            if problem:
                state, reason = "blocked", problem
            elif estimate:
                seconds, size = _expect(node, by_name, records, store, device=device)
        states[node.name] = PlanStep(
            node.name,
            node.step.stage,
            node.step.spec.use,
            state,
            reason,
            round(seconds, 1),
            size,
            node.key,
            node.threads,
        )
    return [states[node.name] for node in nodes]


def _why(node: Node, store: Store, states: Mapping[str, PlanStep]) -> tuple[str, str]:
    """New or changed, and the first few differences to what was made before under this name."""
    before = store.ledger.last(node.name)
    waiting = [name for name in node.needs() if states[name].state in ("changed", "new", "blocked")]
    if before is None or before.use != node.step.spec.use:
        if before is not None:
            return "changed", t("the component is now {use}, was {before}", use=node.step.spec.use, before=before.use)
        return "new", t("never made")
    reasons = _config_changes(before.config, node)
    if before.seed != node.seed:
        reasons.append(t("the seed changed"))
    if before.code != node.step.code:
        reasons.append(t("the code of {use} changed", use=node.step.spec.use))
    if waiting:
        reasons.append(t("made from {names}, which will be made again", names=", ".join(waiting)))
    elif [[i["role"], i["name"], i["key"]] for i in before.inputs] != [list(each) for each in node.inputs]:
        reasons.append(t("its inputs changed"))
    if node.paths and not reasons:
        reasons.append(t("files changed in {paths}", paths=", ".join(str(node.step.config[p]) for p in node.paths)))
    if node.blocked_items and not reasons:
        reasons.append(t("an item was forgotten"))
    return "changed", "; ".join(reasons) or t("the project's settings changed")


def _config_changes(before: Mapping[str, Any], node: Node) -> list[str]:
    now = node.step.config
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key) and key != "seed"]
    return [
        t("{key} is now {new}, was {old}", key=key, new=_short(now.get(key)), old=_short(before.get(key)))
        for key in changed[:3]
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _blocked(node: Node, nodes: Sequence[Node], states: Mapping[str, PlanStep], allow_unknown: bool) -> str:
    """Why this step cannot run now; empty where it can."""
    for name in node.needs():
        if states[name].state == "blocked":
            return t("needs {name}, which is blocked", name=name)
    role_names = [role for role in node.step.roles if role not in node.step.optional_roles]
    filled = {role for role, _, _ in node.inputs}
    for role in role_names:
        if role not in filled and any(name.endswith(LAST) for _, name in node.step.named()):
            return t("'{role}' names only what the last round made, and this is the first", role=role)
    if node.step.stage == "publish" and not allow_unknown:
        for each in _above(node, nodes):
            if each.step.stage == "data" and each.step.config.get("license") == UNKNOWN:
                return t(
                    "the license of [data.{name}] is unknown; --allow-unknown publishes all the same", name=each.name
                )
    return ""


def _above(node: Node, nodes: Sequence[Node]) -> list[Node]:
    hit = set(node.needs())
    for each in reversed(nodes):
        if each.name in hit:
            hit |= set(each.needs())
    return [each for each in nodes if each.name in hit]


def _expect(
    node: Node,
    by_name: Mapping[str, Node],
    records: Mapping[str, StepRecord],
    store: Store,
    *,
    device: str,
) -> tuple[float, int]:
    """Seconds and bytes: from the step's last run where there is one, else the component, else a usual value."""
    history = store.ledger.history(node.step.stage, node.step.spec.use, node.name)
    before = store.ledger.last(node.name)
    if history and before is not None and not _config_changes(before.config, node):
        seconds, peak, _ = history[0]
        return seconds, peak or DEFAULT_BYTES
    if node.step.stage != "models":
        return DEFAULT_SECONDS[node.step.stage], DEFAULT_BYTES
    guess = guessed(node, by_name, records, store, device=device)
    if guess is None:
        return DEFAULT_SECONDS["models"], DEFAULT_BYTES
    seconds = foretold.corrected(node.step.spec.use, guess.seconds, device=device, threads=node.threads)
    return seconds, guess.bytes


def guessed(
    node: Node, by_name: Mapping[str, Node], records: Mapping[str, StepRecord], store: Store, *, device: str
) -> Estimate | None:
    """What the component of a model step foretells; None where it foretells nothing."""
    try:
        module = registry.load("models", node.step.spec.use)
        config = config_.parse(module.Config, with_secrets(dict(node.step.config)), where=node.step.spec.where)
        size = _size(node, by_name, records, store)
        found: Estimate = module.Component(config).estimate(size, machine.measured(device, node.threads))
        return found
    except MissingExtra:
        raise
    except (AttributeError, ImportError):
        return None


def _size(node: Node, by_name: Mapping[str, Node], records: Mapping[str, StepRecord], store: Store) -> Size:
    """What is known of the training data: counted now or last time, else the size of its files, else nothing."""
    items: int | None = 0
    total: int | None = 0
    for name in node.needs():
        record = records.get(by_name[name].key) or store.ledger.last(name)
        files = sum(print_.bytes for print_ in by_name[name].sizes.values())
        if record is not None:
            items = None if items is None else items + record.counts.get("items", 0)
            total = None if total is None else total + int(record.metrics.get("bytes", 0) or 0)
        else:
            items = None
            total = total + files if total is not None and files else None
    return Size(items, total)
