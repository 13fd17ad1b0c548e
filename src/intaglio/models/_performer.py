"""A model of MIDI events at work: performances drawn, put down as MIDI, sound and piano roll, and judged.

Figures: Yang and Lerch (2020), "On the evaluation of generative models in music", Neural Computing and Applications 32:
         density of onsets, histogram of pitch classes and its overlap with that of training; no figure of beauty.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from intaglio.core.contracts import Context, Item, Sampling
from intaglio.core.i18n import t
from intaglio.media import Unreadable, _midi, _midi_events, _midi_roll, _midi_sound
from intaglio.media._midi import DRUMS, STEPS, Performance
from intaglio.models import _events
from intaglio.models._tunes import Notation, Tunes, refuse_seconds
from intaglio.models._writer import Writer
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.decoder import SLOTS
from intaglio.nn.order import derive

TEMPERATURE, MIN_P = 0.9, 0.05
JUDGED, JUDGED_BARS, LOOKED_AT = 24, 16, 500
SHOWN = 3
LEAST_TOKENS_OF_A_BAR = 16
_SIZES = {1: "Solo", 2: "Duo", 3: "Trio", 4: "Quartet", 5: "Quintet"}


def text_of(item: Item, ctx: Context) -> str:
    """The events of an item's MIDI file. Errors: Unreadable where it has none, or one that is damaged."""
    for file in item.files:
        if file.mime == "audio/midi":
            return _midi_events.dump(_midi.read(ctx.path(file).read_bytes()))
    if item.media == "text" or item.meta.get("abc"):
        raise Unreadable(t("a text, not a MIDI file; tunes in ABC are read with notation = {name}", name='"abc"'))
    raise Unreadable(t("a recording, not a MIDI file"))


MIDI = Notation(
    read=text_of,
    same=lambda text: text,
    tokenizer=_events.tokenizer_of,
    ranges=_events.ranges_of,
    moved=_events.moved,
    note=lambda name: name.startswith((" Pitch_", " PitchDrum_")),
    fix=lambda: t("name a data step that reads MIDI files (.mid), or set notation = {name}", name='"abc"'),
)


class Performer:
    """A trained model ready to make performances (``core.contracts.LoadedModel``).

    tokens_of_a_bar: of nearly every bar learned from; so much room a piece has.
    """

    makes = "audio"

    def __init__(self, writer: Writer, *, bars: int, tokens_of_a_bar: int) -> None:
        self.writer, self.bars, self.tokens_of_a_bar = writer, bars, tokens_of_a_bar

    @property
    def facts(self) -> dict[str, Any]:
        """What ``intaglio.json`` has to hold to load it again."""
        return {"notation": "midi", "bars": self.bars, "tokens_of_a_bar": self.tokens_of_a_bar}

    def texts(self, seeds: Sequence[int], *, start: str = "", ruled: bool = True, bars: int = 0) -> list[str]:
        """Events of a performance a seed, each ending with a whole note; ``start`` is how each begins.

        ruled: False lets the events come as they will, to see what the rules are good for. bars: at most; 0: as set.
        """
        bars = bars or self.bars
        grammar = _events.Grammar(self.writer.tokenizer, bars=bars)
        sampling = Sampling(max_tokens=bars * self.tokens_of_a_bar, temperature=TEMPERATURE, min_p=MIN_P)
        found: list[str] = []
        for first in range(0, len(seeds), SLOTS):
            some = seeds[first : first + SLOTS]
            rules = [_events.Events(grammar, start) if ruled else None for _ in some]
            made = self.writer.complete([start] * len(some), seeds=some, sampling=sampling, constraints=rules)
            found += [_events.whole(start + each.text) for each in made]
        return found

    def sample(self, seeds: Sequence[int], ctx: Context, seconds: float | None = None) -> Iterator[Item]:
        """A performance a seed: ``piece.wav``, ``piece.mid`` and ``roll.png``.

        Errors: UserError where ``seconds`` are asked for, as of a model of sounds.
        """
        refuse_seconds(seconds, ctx)
        for first in range(0, len(seeds), SLOTS):
            some = seeds[first : first + SLOTS]
            for seed, text in zip(some, self.texts(some), strict=True):
                yield _item(_titled(text), seed, ctx)
            ctx.progress(min(len(seeds), first + SLOTS), len(seeds))

    # -- figures
    def figures(self, tunes: Tunes, seed: int) -> dict[str, Any]:
        """How performances drawn with the rules and without are put together, beside those learned from."""
        seeds = [derive(seed, "judged", number) for number in range(JUDGED)]
        found: dict[str, Any] = {"judged_pieces": JUDGED}
        known = {split: list(_performances(tunes, split)) for split in ("train", "heldout")}
        classes = _pitch_classes(known["train"])
        for name, ruled in (("", True), ("_without_rules", False)):
            texts = self.texts(seeds, ruled=ruled, bars=min(self.bars, JUDGED_BARS))
            made = list(_readable(texts))
            found[f"well_formed{name}"] = round(len(made) / len(texts), 4)
            if ruled:
                found |= _put_together(made, classes)
        found |= {f"{key}_of_training": value for key, value in _put_together(known["train"]).items()}
        if known["heldout"]:
            found |= {f"{key}_of_heldout": value for key, value in _put_together(known["heldout"], classes).items()}
        return found

    def show(self, out: Path, ctx: Context) -> None:
        """A few performances beside the checkpoint: piano rolls, MIDI, sound."""
        texts = self.texts([derive(ctx.seed, "shown", number) for number in range(SHOWN)])
        for number, text in enumerate(texts, 1):
            piece = _titled(text)
            picture = _midi_roll.png(piece)
            write_atomic(out / f"sample-{number}.png", picture)
            write_atomic(out / f"sample-{number}.mid", _midi.write(piece))
            ctx.preview(f"sample-{number}.png", picture)
            if number == 1:
                write_atomic(out / "sample-1.wav", _midi_sound.wav(piece))


def room_of(tunes: Tunes) -> int:
    """Tokens that 95 of 100 bars learned from do not exceed."""
    texts = (item.text for item in itertools.islice(tunes.split("train"), LOOKED_AT))
    lengths = sorted(bar.count(" ") + 1 for text in texts for bar in text.split("\n")[1:])
    return max(LEAST_TOKENS_OF_A_BAR, lengths[int(0.95 * (len(lengths) - 1))])


def _titled(text: str) -> Performance:
    piece = _midi_events.parse(text)
    players = [program for program in piece.programs if program != DRUMS]
    name = _SIZES.get(len(players), "Ensemble" if players else "Drums")
    above, below = piece.bars[0].meter
    return Performance(piece.notes, piece.bars, f"{name} in {above}/{below}")


def _item(piece: Performance, seed: int, ctx: Context) -> Item:
    files = (
        ctx.put(_midi_sound.wav(piece), name="piece.wav", mime="audio/wav"),
        ctx.put(_midi.write(piece), name="piece.mid", mime="audio/midi"),
        ctx.put(_midi_roll.png(piece), name="roll.png", mime="image/png"),
    )
    meta: dict[str, Any] = {"seed": seed, "temperature": TEMPERATURE, "min_p": MIN_P, "title": piece.title}
    meta |= {"seconds": round(piece.seconds, 2), "meter": "{}/{}".format(*piece.bars[0].meter)}
    meta |= {"tempo": piece.bars[0].tempo, "bars": len(piece.bars), "notes": len(piece.notes)}
    meta |= {"instruments": [_midi.part_name(program) for program in piece.programs]}
    return Item(media="audio", text=piece.title, files=files, meta=meta)


# ------------------------------------------------------------------------------------------------------------- figures
def _performances(tunes: Tunes, split: str) -> Iterator[Performance]:
    return _readable(item.text for item in itertools.islice(tunes.split(split), LOOKED_AT))


def _readable(texts: Iterable[str]) -> Iterator[Performance]:
    for text in texts:
        try:
            yield _midi_events.parse(text)
        except Unreadable:
            continue


def _pitch_classes(pieces: Iterable[Performance]) -> np.ndarray:
    """Shares of C, C# .. B among all notes but those of drums, (12,); zeros where there is none."""
    pitches = [note.pitch % 12 for piece in pieces for note in piece.notes if note.program != DRUMS]
    return np.bincount(pitches, minlength=12) / max(1, len(pitches))


def _entropy(shares: np.ndarray) -> float:
    return float(-sum(share * math.log2(share) for share in shares if share > 0))


def _put_together(pieces: Sequence[Performance], classes: np.ndarray | None = None) -> dict[str, float]:
    """Notes a beat, how many sound at once, bits of the pitch classes within a piece (1 key: few); with the ``classes``
    of training also the overlap with them, 0 to 1."""
    beats = sum(piece.bar_starts()[-1] for piece in pieces) / STEPS
    notes = [note for piece in pieces for note in piece.notes]
    own = [_pitch_classes([piece]) for piece in pieces]
    found = {
        "notes_per_beat": len(notes) / max(1.0, beats),
        "sounding_at_once": sum(note.duration for note in notes) / STEPS / max(1.0, beats),
        "pitch_class_bits": sum(_entropy(each) for each in own) / max(1, len(own)),
    }
    if classes is not None:
        found["pitch_class_overlap"] = float(np.minimum(classes, _pitch_classes(pieces)).sum())
    return {key: round(value, 4) for key, value in found.items()}
