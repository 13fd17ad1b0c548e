"""One page with all pieces on it."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Annotated, Any

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, PublishedFile


class Config(StepConfig):
    """items: the pieces on the page. heading: above them."""

    items: Annotated[Names, Role(stages=("optimize", "generate", "data"), media=("text",))]
    heading: str = "Leaflet"


class Component:
    """Writes ``index.html``; marks and signature are put on by the runner, not here."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def export(self, pieces: Dataset, ctx: Context) -> Iterator[PublishedFile]:
        """One file."""
        found = list(pieces)
        shown = "\n".join(f"<pre>{html.escape(item.text)}</pre>" for item in found)
        heading = html.escape(self.config.heading)
        page = (
            '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
            f"<title>{heading}</title></head>\n<body>\n<h1>{heading}</h1>\n{shown}\n</body>\n</html>\n"
        )
        (ctx.out / "index.html").write_text(page, "utf-8")
        yield PublishedFile(
            "index.html", "text/html", tuple(item.id for item in found), ai=True, title=self.config.heading
        )


TINY: dict[str, Any] = {"heading": "Tiny"}
