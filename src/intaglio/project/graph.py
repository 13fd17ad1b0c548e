"""The step graph with its keys: what each step's result depends on, folded into one hash."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from intaglio.core.hashing import digest
from intaglio.project.file import LAST, ProjectFile
from intaglio.project.machine import cores
from intaglio.project.resolve import Resolved
from intaglio.store.fingerprint import Fingerprint, fingerprint


@dataclass(frozen=True)
class Node:
    """A step with its key. inputs: (role, step name, key); ``@last`` inputs carry the pinned key.

    paths: config field to content hash of what it names. depth: longest way from a source. threads: of the CPU.
    """

    step: Resolved
    key: str
    seed: int
    inputs: tuple[tuple[str, str, str], ...]
    paths: Mapping[str, str]
    sizes: Mapping[str, Fingerprint] = field(default_factory=dict)
    depth: int = 0
    threads: int = 1
    blocked_items: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The step's name."""
        return self.step.name

    def needs(self) -> list[str]:
        """Names of the steps above that must be made first."""
        return [name for _, name, _ in self.inputs if not name.endswith(LAST)]


def build(
    file: ProjectFile,
    steps: Sequence[Resolved],
    *,
    cache: Path,
    pins: Mapping[str, str],
    blocks: Mapping[str, Sequence[str]],
    allow_unknown: bool = False,
) -> list[Node]:
    """Nodes in file order.

    Args:
        pins:   step name to the key that ``name@last`` means in this round.
        blocks: data step name to the ids of forgotten items it must leave out.
    """
    nodes: dict[str, Node] = {}
    seen: dict[str, Fingerprint] = {}
    for step in steps:
        inputs = _inputs(step, nodes, pins)
        sizes = _paths(step, file.folder, cache, seen)
        seed = step.config.get("seed")
        seed = seed if seed is not None else int(digest([file.settings.seed, step.name])[:12], 16)
        blocked = tuple(sorted(blocks.get(step.name, ())))
        parts = {
            "stage": step.stage,
            "use": step.spec.use,
            "name": step.name,
            "code": step.code,
            "config": _meaning(step.config),
            "seed": seed,
            "inputs": [[role, name, key] for role, name, key in inputs],
            "paths": {name: print_.sha256 for name, print_ in sizes.items()},
            "languages": list(file.settings.languages),
            "blocked": list(blocked),
        }
        if step.stage == "publish":
            parts["project"] = [file.settings.name, file.settings.title, file.settings.author, allow_unknown]
        nodes[step.name] = Node(
            step,
            digest(json.loads(json.dumps(parts))),
            seed,
            tuple(inputs),
            {name: print_.sha256 for name, print_ in sizes.items()},
            sizes,
            1 + max((nodes[name].depth for _, name, _ in inputs if name in nodes), default=-1),
            1,
            blocked,
        )
    return _with_threads(list(nodes.values()))


def _meaning(config: Mapping[str, object]) -> dict[str, object]:
    """The config without what is in the key elsewhere: seed, and paths whose content counts rather than their name."""
    return {name: value for name, value in config.items() if name != "seed"}


def _inputs(step: Resolved, nodes: Mapping[str, Node], pins: Mapping[str, str]) -> list[tuple[str, str, str]]:
    found = []
    for role, name in step.named():
        if name.endswith(LAST):
            key = pins.get(name.removesuffix(LAST))
            if key:  # in the first round there is no last one: the role is simply shorter
                found.append((role, name, key))
        else:
            found.append((role, name, nodes[name].key))
    return found


def _paths(step: Resolved, folder: Path, cache: Path, seen: dict[str, Fingerprint]) -> dict[str, Fingerprint]:
    found = {}
    for name in step.paths:
        value = step.config.get(name)
        if value:
            if value not in seen:
                seen[value] = fingerprint(folder / value, cache / f"files-{digest(value)[:16]}")
            found[name] = seen[value]
    return found


def _with_threads(nodes: list[Node]) -> list[Node]:
    """Threads follow from the graph alone, never from what happens to be made already: bits depend on them.

    Models of one depth train side by side and share the cores; every other step has one thread.
    """
    width: dict[int, int] = {}
    for node in nodes:
        if node.step.stage == "models":
            width[node.depth] = width.get(node.depth, 0) + 1
    result = []
    for node in nodes:
        threads = max(1, cores() // width[node.depth]) if node.step.stage == "models" else 1
        result.append(Node(**{**node.__dict__, "threads": threads}))
    return result


def downstream(nodes: Sequence[Node], names: Sequence[str]) -> list[Node]:
    """The nodes of these names and everything that reads from them."""
    hit = set(names)
    for node in nodes:
        if hit & set(node.needs()):
            hit.add(node.name)
    return [node for node in nodes if node.name in hit]


def upstream(nodes: Sequence[Node], names: Sequence[str]) -> list[Node]:
    """The nodes of these names and everything they need."""
    hit = set(names)
    for node in reversed(nodes):
        if node.name in hit:
            hit |= set(node.needs())
    return [node for node in nodes if node.name in hit]
