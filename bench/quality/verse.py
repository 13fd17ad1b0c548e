"""What the language model writes: Tang poems under a form, and plays, beside frequencies of characters.

Usage: python bench/quality/verse.py [--only poems,plays] [--seed 7] [--threads N] [--quick]
Poems: the four-line units of the Tang poems of npm's chinese-poetry (public domain; the collection is MIT), read as the
       demo reads them (npm and OpenCC are needed), a tenth held out.
Plays: the 1.1 MB of Shakespeare (public domain) that nanoGPT takes, in 40 parts cut between speeches, every sixth of
       them held out; fetched from GitHub into the user's cache folder.
``size = "tiny"`` and nothing else set, one seed. The first pieces are kept, nothing is picked: they and the figures, in
the order of the page's table, go to bench/results/verse_quality_<machine>_<YYYYMM>.json and to stdout as one JSON line
a part; there are no pictures.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterable
from functools import partial
from typing import Any

from vae import common, parts, place, tell

from intaglio.core.contracts import Item, Sampling
from intaglio.core.errors import UserError
from intaglio.data import package, split
from intaglio.generate import verse
from intaglio.media.verse import FORMS, check
from intaglio.models import gpt
from tests.support import ItemList, RunContext, kept

POEMS, SHOWN, LINES, KNOWN = 64, 8, 15, 500
PLAYS, EVERY = 40, 6
KEPT = ("parameters", "steps", "passes", "train_documents", "train_chars", "heldout_bits_per_char",
        "baseline_unigram_bits_per_char", "seconds")  # fmt: skip
MEMORY = ("samples", "longest_run_chars", "heldout_longest_run_chars", "membership_auc", "known", "heldout")


def learned(data: ItemList, ctx: RunContext, options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The writer of one training, and its column of the table."""
    component = gpt.Component(gpt.Config(data="texts", size="tiny", steps=12 if options.quick else None))
    metrics = dict(component.fit(data, ctx))
    table = {"units": len(data), **{key: metrics[key] for key in KEPT}}
    memory = {key: metrics["memorization"][key] for key in MEMORY}
    return component.load(ctx.out, device="cpu", threads=options.threads), {**table, "memory": memory}


def units(ctx: RunContext) -> list[Item]:
    """The poems of the demo, split as a data step splits them, each once. Errors: NotFetched."""
    wanted = tomllib.loads(common.DEMO.read_text("utf-8"))["data"]["poems"]
    config = package.Config(**{key: value for key, value in wanted.items() if key != "use"})
    try:
        found = kept(split.Component(split.Config()).apply(package.Component(config).read(ctx), ctx))
    except UserError as error:
        raise common.NotFetched(str(error)) from error
    return list({item.id: item for item in found}.values())


def poems(options: argparse.Namespace) -> dict[str, Any]:
    """Poems: bits, memory, how many keep the form under the mask and without it, and the first of them."""
    ctx = place(options)
    data = ItemList(units(ctx))
    writer, table = learned(data, ctx, options)
    config = verse.Config(model="poet", form="quatrain", count=POEMS)
    masked = [item.text for item in verse.Component(config).generate({"model": [writer]}, ctx)]
    sampling = Sampling(max_tokens=writer.usual_tokens, temperature=config.temperature, top_p=config.top_p)
    free = [each.text for each in writer.complete([""] * POEMS, seeds=range(POEMS), sampling=sampling)]
    known = [item.text for item in data.split("train").items[:: max(1, len(data) // KNOWN)]]
    sides = (("under the mask", masked), ("without it", free), ("training poems", known))
    forms = [{"what": what, "texts": len(texts), "form_kept": in_form(texts)} for what, texts in sides]
    return tell("poems", {"table": table, "forms": forms, "first": masked[:SHOWN], "first_without": free[:SHOWN]})


def in_form(texts: Iterable[str]) -> int:
    """How many are quatrains of five or of seven characters a line, with their rhymes."""
    forms = [FORMS["quatrain", "zh", line] for line in (5, 7)]
    return sum(any(not check(text.strip(), form).faults for form in forms) for text in texts)


def plays(options: argparse.Namespace) -> dict[str, Any]:
    """Plays: bits, memory, and how the first piece begins."""
    from gpt import TEXT  # of bench/, where imports look once ``vae`` is there

    speeches = common.download(TEXT, "tinyshakespeare.txt").read_text("utf-8").split("\n\n")
    size, at = sum(map(len, speeches)) + 1, 0
    texts: list[list[str]] = [[] for _ in range(PLAYS)]
    for speech in speeches:
        texts[at * PLAYS // size].append(speech)
        at += len(speech)
    splits = ["train" if number % EVERY else "heldout" for number in range(PLAYS)]
    pairs = zip(texts, splits, strict=True)
    data = ItemList(Item(media="text", text="\n\n".join(part), split=side) for part, side in pairs)
    ctx = place(options)
    writer, table = learned(data, ctx, options)
    (first,) = writer.sample([0], ctx)
    return tell("plays", {"table": table, "first": first.text.splitlines()[:LINES]})


def main() -> None:
    options = common.parser(__doc__, only="poems,plays", seed=7).parse_args()
    parts(options, "verse", {"poems": partial(poems, options), "plays": partial(plays, options)})


if __name__ == "__main__":
    main()
