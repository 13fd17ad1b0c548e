"""How a card is laid out: YAML front matter, Markdown tables, and which figures and settings stand in it."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from intaglio.core.i18n import t

# Figures of one run on one machine; everything else is the same wherever the model is trained again.
_OF_THE_RUN = re.compile(r"second|_per_s$|peak|_bytes$|flops|mfu|real_?time|speed|resumed|device|threads|^curve")


def flat(metrics: Mapping[str, Any], *, of_the_run: bool = False) -> Iterator[tuple[str, Any]]:
    """Figures with their dotted names; lists of numbers stay whole, curves and what only a run knows are left out."""
    for key, value in metrics.items():
        if bool(_OF_THE_RUN.search(str(key))) != of_the_run or key == "curve":
            continue
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", each) for name, each in flat(value) if not of_the_run)
        elif not isinstance(value, list) or all(isinstance(each, int | float | str) for each in value):
            yield str(key), value


def shown(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings that say something: no empty ones, no paths of a machine, no secrets."""
    found = []
    for key, value in sorted(config.items()):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        hidden = "${" in text or os.path.isabs(text) or re.match(r"[A-Za-z]:[\\/]|~", text) or "key" in key.split("_")
        if value not in (None, "", [], (), {}, False) and not hidden:
            found.append((key, text))
    return found


def front_matter(values: Mapping[str, Any]) -> str:
    """YAML between ``---`` lines, every scalar in JSON's quotes; empty values are left out."""
    lines = [line for key, value in values.items() if value not in ("", [], {}) for line in _yaml(key, value, "")]
    return "\n".join(["---", *lines, "---", "", ""])


def _yaml(key: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield f"{indent}{key}:"
        for name, each in value.items():
            yield from _yaml(name, each, indent + "  ")
    elif isinstance(value, list):
        yield f"{indent}{key}:"
        for each in value:
            if isinstance(each, Mapping):
                lines = [line for name, one in each.items() for line in _yaml(name, one, indent + "    ")]
                yield f"{indent}  - {lines[0].strip()}"
                yield from lines[1:]
            else:
                yield f"{indent}  - {json.dumps(each, ensure_ascii=False)}"
    else:
        yield f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}"


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    made = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [names, ["---"] * len(names), *made]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if made else ""


def counted(name: str, found: Counter[str], lang: str) -> str:
    ordered = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    return table([name, t("items", lang)], [[key, str(value)] for key, value in ordered])


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def written(value: Any) -> str:
    if isinstance(value, list) and len(value) == 3 and all(isinstance(each, int | float) for each in value):
        return f"{value[0]} ({value[1]} … {value[2]})"
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
