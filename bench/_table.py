"""The figures in ``bench/results`` as one table, ``bench/README.md``; run by ``make bench``.

Of each bench and machine the newest month counts; a bench that could not run keeps what it had.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent
HEAD = """# Figures

`make bench` measures them, here as on your machine, beside peers that it installs in environments of their own, and
rewrites this page from the files in [results](results/). Median of the rounds, least and most in brackets; the sides
take turns in one run and do the same work. What each bench does and leaves out stands at the head of its file. Behind
a commit, + says that files differed from it.
`make bench BENCH_ARGS=--quick` only tries them out.
"""


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def line(row: dict[str, Any], file: str, result: dict[str, Any]) -> str:
    got, goal, unit = row["got"], row["at_least"], row["unit"]
    end = "%" if unit == "%" else "x" if unit == "times" else f" {unit}"
    said = "not to be had" if got is None else f"{number(got['median'])}{end}"
    if got is not None and got["least"] != got["most"]:
        said += f" ({number(got['least'])}-{number(got['most'])})"
    reached = "" if got is None else "yes" if got["median"] >= goal else "**no**"
    at = f"[{result['commit'][:7]}{'+' * result['commit'].endswith('+')}](results/{file})"
    return f"| {row['work']} | {row['against']} | {number(goal)}{end} | {said} | {reached} | {at} |"


def main() -> None:
    newest: dict[str, tuple[str, dict[str, Any]]] = {}
    for path in sorted((BENCH / "results").glob("*.json")):  # the month ends the name: later ones come later
        result = json.loads(path.read_text("utf-8"))
        if result.get("rows"):
            newest[path.stem.rpartition("_")[0]] = (path.name, result)
    machines: dict[str, list[str]] = {}
    for name, (file, result) in newest.items():
        machine = f"{name.partition('_')[2]}: {result['device']}; torch {result['versions']['torch']}"
        machines.setdefault(machine, []).extend(line(row, file, result) for row in result["rows"])
    text = HEAD
    for machine, lines in machines.items():
        text += f"\n## {machine}\n\n| work | against | at least | got | reached | code |\n|---|---|---|---|---|---|\n"
        text += "\n".join(lines) + "\n"
    (BENCH / "README.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
