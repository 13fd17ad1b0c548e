"""Writes constraints.txt: the installed versions of all that Intaglio and its extras need, after an upgrade."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def canonical(name: str) -> str:
    """PEP 503: one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def roots() -> list[Requirement]:
    """What pyproject.toml names: the base and all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(text) for group in groups for text in group if not text.startswith("intaglio")]


def needed() -> dict[str, str]:
    """Name to version of every distribution that is reached from the roots."""
    found: dict[str, str] = {}
    queue = [(each, frozenset(each.extras)) for each in roots()]
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        wanted, extras = queue.pop()
        key = (canonical(wanted.name), extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            dist = importlib.metadata.distribution(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit(f"error: {wanted} is not installed here; run `make setup` first") from None
        found[dist.name] = dist.version.split("+")[0]
        for text in dist.requires or ():
            each = Requirement(text)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                queue.append((each, frozenset(each.extras)))
    return found


def main() -> int:
    """Keep the head of the file, replace the versions; ``+cpu`` and the like are dropped."""
    path = ROOT / "constraints.txt"
    head = [line for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
    pins = sorted((f"{name}=={version}" for name, version in needed().items()), key=str.lower)
    path.write_text("\n".join([*head, *pins]) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
