"""A small publication with everything that has gone wrong on somebody's site before."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw

from intaglio.core.contracts import Item, PublishedFile, SourceInfo, Trace
from intaglio.media.image import dump
from intaglio.publish.site import Component, Config
from tests.support import ItemList, RunContext

EVIL = '<script>alert("x")</script>'
MODELS = (
    {
        "step": "writer",
        "use": "gpt",
        "checkpoint": "5f" * 32,
        "metrics": {"heldout_bits_per_char": 4.8213, "baseline_bits_per_char": 6.9, "steps": 600, "tokenizer": "char"},
    },
    {"step": "engraver", "use": "vae", "checkpoint": "a1" * 32, "metrics": {}},
)
STEPS = (
    {"name": "texts", "stage": "data", "use": "folder", "key": "1" * 64},
    {"name": "writer", "stage": "models", "use": "gpt", "key": "2" * 64},
    {"name": "drafts", "stage": "generate", "use": "verse", "key": "3" * 64},
    {"name": "best", "stage": "optimize", "use": "pick", "key": "4" * 64},
)
COLLECTIONS = ({"step": "texts", "items": 57_000, "licenses": {"CC0-1.0": 56_000, "CC-BY-4.0": 1_000}, "id": "7" * 64},)

SONNET = (
    "The garden keeps its counsel in the rain,\nand every leaf has learned a little speech;\n"
    "the gate that will not close, the weather vane\nspeak only of the thing they cannot reach.\n\n"
    "I set the type for what the wind has said\nand pull the sheet before the ink is dry:\n"
    "a crooked proof, a margin touched with red,\na plate that holds the scratching of the sky."
)
QUATRAIN = "空山新雨后，\n石上听泉流。\n一夜秋声起，\n满庭明月秋。"
ARTICLE = (
    "# On keeping an almanac\n\nAn almanac is a promise to look. Each morning the sky is written down, whether or "
    "not it deserves it, and by winter there is a book.\n\n## What the frost knows\n\nFrost arrives before it is "
    "announced. The beans know, and the gate, which sticks; the almanac hears of it last and sets it in the smallest "
    "type.\n\nNothing in these pages is a forecast. They are what was seen."
)


def picture(index: int, size: int) -> bytes:
    image = Image.new("L", (size * 4, size * 4), 240)
    draw = ImageDraw.Draw(image)
    for step in range(0, size * 4, 6):
        wave = int(size * 0.6 * math.sin(step / 17 + index))
        draw.line(
            [(0, step), (size * 2 + wave, step + wave // 2), (size * 4, step - wave)],
            fill=60 + 20 * (index % 5),
            width=2,
        )
    draw.ellipse([size, size // 2 + index * 4, size * 3, size * 2.5 + index * 4], outline=20, width=5)
    return dump(image.resize((size, size)).convert("RGB"))


def items(ctx: RunContext, *, pictures: int = 4) -> list[Item]:
    """Verse in two languages, prose, hostile text, right-to-left text, pictures of three sizes."""
    meta = {
        "seed": 11,
        "created": "2026-11-23T20:15:00Z",
        "scores": {"bits_per_char": 4.9, "rhyme": None, "novelty": 1.0},
    }
    made = [
        Item(
            media="text",
            text=QUATRAIN,
            language="zh",
            license="CC0-1.0",
            meta={**meta, "title": "秋夜"},
            parents=("9" * 64,),
        ),
        Item(media="text", text=SONNET, language="en", license="CC-BY-4.0", meta=meta),
        Item(media="text", text=ARTICLE, language="en", license="CC-BY-4.0 AND CC0-1.0", meta={**meta, "seed": 12}),
        Item(
            media="text",
            text=f"{EVIL}\n\nA line with \x00 and \x0b and {{{{ 7 * 7 }}}} and &amp; and <img src=x onerror=alert(1)>.",
            language='en" onload="alert(1)',
            license=EVIL,
            meta={"title": EVIL, "created": "not a date", "seed": "x", "scores": {EVIL: 1}},
        ),
        Item(media="text", text="في البدء كان الحبر\nوكان الورق صامتا", language="ar", license="CC0-1.0", meta=meta),
    ]
    for index in range(pictures):
        size = (28, 64, 300)[index % 3]
        file = ctx.put(picture(index, size), name=f"../{EVIL}.png", mime="image/png")
        caption = 'A moon over water, "engraved"' if index == 1 else ""
        made.append(
            Item(
                media="image",
                text=caption,
                language="en",
                files=(file,),
                license="CC0-1.0",
                meta={**meta, "seed": index},
            )
        )
    return made


def traced(made: list[Item]) -> dict[str, Trace]:
    indirect = tuple(SourceInfo(f"{n:064x}", f"archive/texts/{n:05d}.txt", "CC0-1.0", "") for n in range(400))
    traces = {}
    for item in made:
        direct = (
            SourceInfo("9" * 64, "https://example.org/poems?a=1&b=2", "CC0-1.0", "given by the poet", direct=True),
            SourceInfo("8" * 64, f"javascript:alert(1) {EVIL}", EVIL, EVIL, direct=True),
        )
        traces[item.id] = Trace((*(direct if item.parents else ()), *indirect), MODELS, STEPS, COLLECTIONS)
    return traces


def build(
    root: Path, *, made: list[Item] | None = None, languages: tuple[str, ...] = ("en", "zh"), **config: object
) -> tuple[RunContext, list[PublishedFile]]:
    """Publish into ``root/out``."""
    ctx = RunContext(root, step="site", languages=languages)
    made = items(ctx) if made is None else made
    ctx.traces = traced(made)
    settings = {
        "title": "The Garden Almanac",
        "subtitle": "Proofs pulled from one small archive",
        "author": "Anna Hüttner 小印社",
    }
    files = list(Component(Config(**{"items": "best", **settings, **config})).export(ItemList(made), ctx))
    return ctx, files
