"""What the tune model makes of dance tunes (ABC) and chorales (MIDI), beside frequencies of tokens, and of other keys.

Usage: python bench/quality/tunes.py [--only tunes,chorales,keys] [--seed 7] [--threads N] [--quick]
Tunes:    the 4,248 of O'Neill's, Aird's and Ryan's collections that music21's wheel carries in ABC (the
          tunes are in the public domain), read without importing it; every sixteenth is held out.
Chorales: 101 of Bach's in four parts that the wheel carries in MusicXML, written as MIDI for flute, clarinet, horn and
          bassoon, upbeats behind rests: 60 to learn from, 41 held out; as they are and in other keys.
Keys:     250 of O'Neill's tunes, 200 to learn from, as they are and in other keys.
One seed. Scores go to docs/quality/, those of the first draw, not picked; figures, in the order of the page's tables,
and the ABC to bench/results/tunes_quality_<machine>_<YYYYMM>.json and to stdout as one JSON line a part.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from vae import common, parts, place, show, tell

from intaglio.core.contracts import Item
from intaglio.media import music as notes
from intaglio.models import music
from tests.support import ItemList, RunContext, kept

BOOKS = ("oneills1850", "airdsAirs", "ryansMammoth")
EVERY, SHOWN, BARS = 16, 8, 16
ONEILLS, CHORALES = (200, 50), (60, 41)  # to learn from, held out
STEPS = {"tunes": 450, "chorales": 260, "keys": 160}
PUT_TOGETHER = ("notes_per_beat", "sounding_at_once", "pitch_class_bits", "pitch_class_overlap")
KEPT = ("parameters", "left_out", "train_documents", "passes", "steps", "best_step", "seconds")


def learned(
    material: Callable[[RunContext], list[Item]], part: str, options: argparse.Namespace, **config: Any
) -> tuple[RunContext, Any, dict[str, Any]]:
    """The place of one training, its player and its figures."""
    ctx = place(options)
    config = {"steps": STEPS[part], **config}
    if options.quick:
        config |= {"steps": 12, "bars": 8}
    component = music.Component(music.Config(data="tunes", size="tiny", **config))
    metrics = dict(component.fit(ItemList(material(ctx)), ctx))
    return ctx, component.load(ctx.out, device="cpu", threads=options.threads), metrics


def in_abc(texts: Sequence[str], splits: Sequence[str]) -> Callable[[RunContext], list[Item]]:
    pairs = list(zip(texts, splits, strict=True))
    return lambda ctx: [Item(media="text", text=text, split=split) for text, split in pairs]


def in_midi(ctx: RunContext) -> list[Item]:
    """The chorales. Errors: NotFetched."""
    found = []
    for number, data in enumerate(common.chorales(sum(CHORALES))):
        file = ctx.put(data, name=f"{number}.mid", mime="audio/midi")
        found.append(Item(media="audio", files=(file,), split="train" if number < CHORALES[0] else "heldout"))
    return found


def tunes(options: argparse.Namespace) -> dict[str, Any]:
    """All tunes: bits, what the rules bring, memory, and the first reel and jig."""
    texts = common.tunes(*BOOKS)
    splits = ["heldout" if number % EVERY == EVERY - 1 else "train" for number in range(len(texts))]
    _, player, found = learned(in_abc(texts, splits), "tunes", options)
    table = [
        {"what": what, **{f"bits_per_{unit}": found[f"{of}_bits_per_{unit}"] for unit in ("token", "char")}}
        for what, of in (("the model", "heldout"), ("frequencies", "baseline_unigram"))
    ]
    rules = [
        {"what": what, "with_rules": found[what], "without": found[f"{what}_without_rules"]}
        | {"training": found.get(f"{what}_of_training")}
        for what in ("whole_bars", "square_sections", "several_sections", "ends_on_its_key")
    ]
    abc = {kind: player.texts(range(1, SHOWN + 1), start=f"R:{kind}\n") for kind in ("reel", "jig")}
    for kind, made in abc.items():
        tune = music.tune_from(made[0])
        show(f"tunes-{kind}", notes.score(tune, title=f"{kind.capitalize()} in {tune.key}"), options)
    habits = [{"of": of, **music.shares_of(made)} for of, made in abc.items()]
    facts = {"habits": habits, "memory": found["memorization"]}
    return tell("tunes", {"table": table, "rules": rules, "abc": abc, **facts, **brief(found)})


def brief(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in KEPT}


def moved(what: str, plain: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Held-out nats a note of one training as it is and of one in other keys."""
    row = {"what": what, "as_it_is": plain["heldout_nats_per_note"], "in_other_keys": other["heldout_nats_per_note"]}
    row |= {"unigram": plain["baseline_unigram_nats_per_note"]}
    return {**row, "plain": brief(plain), "moved": brief(other)}


def chorales(options: argparse.Namespace) -> dict[str, Any]:
    """MIDI: nats a note as it is and in other keys, how pieces are put together, and the first one drawn."""
    config = {"notation": "midi", "context": 384, "bars": BARS}
    (ctx, player, plain), (_, _, other) = (
        learned(in_midi, "chorales", options, transpose=reach, **config) for reach in (0, 5)
    )
    (piece,) = kept(player.sample([1], ctx))
    roll = next(file for file in piece.files if file.name == "roll.png")
    show("tunes-chorale", ctx.path(roll).read_bytes(), options)
    sides = (("drawn", ""), ("training", "_of_training"), ("held out", "_of_heldout"))
    forms = [{"what": what, **{key: plain.get(f"{key}{of}") for key in PUT_TOGETHER}} for what, of in sides]
    rules = [{"what": "well_formed", "with_rules": plain["well_formed"], "without": plain["well_formed_without_rules"]}]
    table = [moved("60 chorales (MIDI), transpose = 5", plain, other)]
    return tell("chorales", {"table": table, "rules": rules, "put_together": forms})


def keys(options: argparse.Namespace) -> dict[str, Any]:
    """ABC: nats a note as it is and in other keys."""
    texts = common.tunes(BOOKS[0])[: sum(ONEILLS)]
    splits = ["train"] * ONEILLS[0] + ["heldout"] * ONEILLS[1]
    found = [learned(in_abc(texts, splits), "keys", options, transpose=reach)[2] for reach in (0, 6)]
    return tell("keys", {"table": [moved("tunes of O'Neill's, transpose = 6", *found)]})


def main() -> None:
    options = common.parser(__doc__, only="tunes,chorales,keys", seed=7).parse_args()
    makers = {"tunes": tunes, "chorales": chorales, "keys": keys}
    parts(options, "tunes", {name: partial(make, options) for name, make in makers.items()})


if __name__ == "__main__":
    main()
