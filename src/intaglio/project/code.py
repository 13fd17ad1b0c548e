"""The code hash of a component: its file and all of its package it imports, comments and docstrings left out.

``core``, ``store``, ``project`` and ``cli`` are not part of it: they carry results, they do not shape them. The hash of
each file is cached by its size and time, so that a plan over made steps parses nothing.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from intaglio.core import registry
from intaglio.core.folders import remember, remembered
from intaglio.core.hashing import digest

NEUTRAL = ("core", "store", "project", "cli", "studio", "locale")


class CodeHashes:
    """Hashes of components, with a cache file for all projects of this user; a damaged cache is ignored."""

    def __init__(self, cache: Path) -> None:
        self._path = cache
        self._changed = False
        self._files: dict[str, list[object]] = remembered(cache)

    def component(self, stage: str, name: str, *, also: tuple[str, ...] = ()) -> str:
        """Hash of ``stage/name`` and of the modules in ``also``, with all they import from their package."""
        start = [registry.source_path(stage, name), *(_module_file(each) for each in also)]
        seen: dict[str, str] = {}
        queue = [path for path in start if path is not None]
        while queue:
            path = queue.pop()
            if str(path) in seen:
                continue
            sha, imports = self._file(path)
            seen[str(path)] = sha
            queue += [found for found in map(_module_file, imports) if found is not None]
        return digest(sorted(seen.values()))

    def save(self) -> None:
        """Write the cache where something was parsed; failing to write it costs time only."""
        if self._changed:
            remember(self._path, self._files)

    def _file(self, path: Path) -> tuple[str, list[str]]:
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        known = self._files.get(str(path))
        if known and known[:2] == stamp:
            return str(known[2]), [str(each) for each in known[3]]  # type: ignore[attr-defined]
        tree = ast.parse(path.read_bytes())
        imports = sorted(_bare(tree, path))
        sha = digest(ast.dump(tree))
        self._files[str(path)] = [*stamp, sha, imports]
        self._changed = True
        return sha, imports


def _module_file(module: str) -> Path | None:
    """The file of a module of ours or of a plug-in; None for neutral parts and packages' ``__init__``."""
    parts = module.split(".")
    if parts[0] == "intaglio":
        if len(parts) < 2 or parts[1] in NEUTRAL:
            return None
        path = Path(__file__).parent.parent.joinpath(*parts[1:])
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _bare(tree: ast.AST, path: Path) -> set[str]:
    """Absolute names of modules imported from the same top-level package; docstrings leave the tree."""
    here = Path(__file__).parent.parent
    root = "intaglio" if path.is_relative_to(here) else path.parent.name
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                if isinstance(first.value.value, str):
                    node.body = node.body[1:] or [ast.Pass()]
    return {name for name in found if name.split(".")[0] == root}
