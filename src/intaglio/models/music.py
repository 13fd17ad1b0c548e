"""Music: a small GPT over tunes (ABC) or performances (MIDI), whose bars come out whole; as sound, MIDI and score.

Papers:  Sturm et al. (2016), "Music transcription modelling and composition using deep learning", arXiv:1604.08723
         (tunes in ABC as tokens); Radford et al. (2019), as ``models/gpt.py``, whose network and training these are.
         MIDI events: ``media/_midi_events.py``. Transposing what is learned from: Oore et al. (2018), arXiv:1808.03715.
Code:    ours. In ABC, of a MIDI file the upper voice is taken; with ``notation = "midi"`` all its instruments and drums
         are, a token an event.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Estimate, Item, Machine, Sampling, Size
from intaglio.core.i18n import t
from intaglio.media import Unreadable, music
from intaglio.media._abc import LETTERS, SEMITONES, pitches, signature
from intaglio.models._corpus import Corpus, prepare
from intaglio.models._memory import of_texts
from intaglio.models._notes import Form, Habits, Rules, plain, tokenizer_over, tune_from
from intaglio.models._performer import MIDI, Performer, room_of
from intaglio.models._pretrain import EXPORTED, begin, estimate_of, metrics_of, read, save, train_on
from intaglio.models._qwen import Written
from intaglio.models._tunes import Keys, Notation, Tunes, per_note, refuse_seconds, shifts
from intaglio.models._writer import Writer
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.decoder import SLOTS
from intaglio.nn.device import machine, peak_memory_bytes
from intaglio.nn.order import derive

TEMPERATURE, MIN_P = 0.85, 0.05
JUDGED = 24  # tunes drawn for the figures, with and without the rules
SHOWN = 3
TRIES = 8  # of a tune that shall end on the note of its key, before it may end elsewhere
HABIT, LOOKED_AT = 0.75, 500  # what this share of so many tunes does, those made do as well (models/_notes.py, Habits)
COVERED = 0.9  # sections are as long as this share of them is, and as many as this share of tunes has
TOKENS_OF_A_BAR = 20  # at most, nearly always
ENGRAVING = 3.0  # seconds of the tunes shown: scores and sound


class Config(StepConfig):
    """The dial is ``size``; the rest follows from it and from the tunes.

    size:    ``tiny`` (a minute or two on 2 cores), ``small`` (a quarter of an hour), ``base`` (an evening, or a GPU).
    context: tokens the model sees at once; left out, it follows from the length of the tunes.
    steps:   updates of the weights; left out, from size and tunes.
    bars:    a tune that has so many is brought to its end.
    notation: ``abc``, tunes of one voice with repeats and upbeats, from ABC and MIDI; ``midi``, performances of several
              instruments and drums, from MIDI files.
    transpose: training tunes are heard up to so many semitones higher and lower as well, as far as the range of each
              instrument in them allows; drums and held-out tunes stay as they are.
    """

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("text", "audio"))]
    size: Literal["tiny", "small", "base"] = "small"
    context: int | None = Field(default=None, ge=8, le=32_768)
    steps: int | None = Field(default=None, ge=1, le=10_000_000)
    bars: int = Field(default=48, ge=2, le=400)
    notation: Literal["abc", "midi"] = "abc"
    transpose: int = Field(default=0, ge=0, le=12)


TINY: dict[str, Any] = {"size": "tiny", "context": 16, "steps": 20, "bars": 4}


class _Facts(Written):
    component: Literal["models/music"]
    notation: Literal["abc", "midi"] = "abc"  # a checkpoint older than the second notation names none
    bars: int = Field(ge=2, le=400)
    square: int | None = Field(default=None, ge=0, le=4_096)
    sections: int = Field(default=1, ge=1, le=100)  # a checkpoint older than this habit has none, nor the next
    home: bool = False
    tokens_of_a_bar: int | None = Field(default=None, ge=1, le=100_000)

    @model_validator(mode="after")
    def _of_one_notation(self) -> Self:
        name, value = ("square", self.square) if self.notation == "abc" else ("tokens_of_a_bar", self.tokens_of_a_bar)
        if value is None:
            raise ValueError(t("key '{key}' is missing", key=name))
        return self


class Component:
    """Stage ``models``: trains on tunes, makes tunes as sound, MIDI, ABC and score."""

    takes = ("text", "audio")
    makes = "audio"

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """As a GPT of the same size: a token is about two bytes of ABC, three of a MIDI file."""
        events = self.config.notation == "midi"
        tokens = max(1_000, (size.bytes or 1_000_000) // (3 if events else 2))
        read = {"tokens": tokens, "vocab": 1_024 if events else 512, "documents": size.items or 1}
        longest = min(2 * tokens // read["documents"], (self.config.bars + 8) * TOKENS_OF_A_BAR)
        rounds = 3 if events else 8  # of drawing: with the rules, without, shown; tunes again until they end at home
        read |= {"keys": len(shifts(self.config.transpose)), "drawn": rounds * longest}
        found = estimate_of(self.config, machine, **read)
        keys = 2e-5 * self.config.transpose * tokens  # every tune read and written again in each
        return Estimate(found.seconds + ENGRAVING + keys, found.bytes)

    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Train on the tunes of ``data``; the checkpoint in ``ctx.out`` is one that ``transformers`` loads.

        Returns figures: held-out nats a note and bits a token beside unigram; in ABC the share of whole bars, of MIDI
        events that of well-formed pieces, with and without the rules, and how they are put together; memorization.
        Errors: UserError where there is no tune of this notation.
        """
        notation = ABC if self.config.notation == "abc" else MIDI
        with machine(device=ctx.device, threads=ctx.threads):
            tunes = Tunes.gathered(data, ctx, notation)
            keys = Keys(tunes, notation, self.config.transpose)
            corpus = prepare(tunes, ctx, kind=lambda _: notation.tokenizer(keys.texts()))
            run, writer = begin(self.config, corpus, ctx, keys=len(shifts(self.config.transpose)))
            trained = train_on(writer, keys.corpus(corpus, ctx), run, ctx)
            ctx.progress(run.steps, run.steps, doing=t("measuring on held-out tunes"))
            metrics = {**metrics_of(writer, corpus, run, trained, tunes), "left_out": tunes.left_out}
            metrics |= per_note(writer, corpus, tunes, notation)
            player = self._player(writer, tunes)
            if isinstance(player, Player):
                metrics |= per_token(corpus, metrics["heldout_bits_per_char"])
            else:  # a character of an event's name says nothing
                metrics = {key: value for key, value in metrics.items() if not key.endswith(("_per_char", "_per_byte"))}
            metrics |= player.figures(tunes, ctx.seed)
            metrics["memorization"] = of_texts(writer, tunes, seed=ctx.seed, tokens=writer.usual_tokens)
            save(ctx.out, writer, metrics, trained, component="models/music", **player.facts)
            player.show(ctx.out, ctx)
        return {**metrics, "seconds": round(trained.seconds, 2), "peak_bytes": peak_memory_bytes(ctx.device)}

    def _player(self, writer: Writer, tunes: Tunes) -> Player | Performer:
        if self.config.notation == "midi":
            return Performer(writer, bars=self.config.bars, tokens_of_a_bar=room_of(tunes))
        return Player(writer, bars=self.config.bars, habits=habits_of(tunes.some(LOOKED_AT)))

    def load(self, folder: Path, *, device: str, threads: int) -> Player | Performer:
        """The checkpoint written by ``fit``. Errors: UserError where a file is missing or damaged."""
        facts, writer = read(folder, _Facts, device=device, threads=threads)
        if facts.get("notation") == "midi":
            return Performer(writer, bars=facts["bars"], tokens_of_a_bar=facts["tokens_of_a_bar"])
        habits = Habits(**{each.name: facts[each.name] for each in dataclasses.fields(Habits) if each.name in facts})
        return Player(writer, bars=facts["bars"], habits=habits)

    def export(self, folder: Path, to: Path) -> list[Path]:
        """A folder for ``transformers.AutoModelForCausalLM.from_pretrained``; it writes the plain ABC of the tunes."""
        to.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copyfile(folder / name, to / name)) for name in EXPORTED]


# ------------------------------------------------------------------------------------------------------------ the tunes
def _tune_of(item: Item, ctx: Context) -> music.Tune:
    """The tune of an item: its ABC, or the upper voice of its MIDI file. Errors: Unreadable."""
    if item.media == "text" or item.meta.get("abc"):
        text = item.text if item.media == "text" else str(item.meta["abc"])
        if not music.looks_like_abc(text):
            raise Unreadable(t("no tune in ABC"))
        return music.parse(text)
    for file in item.files:
        if file.mime == "audio/midi":
            piece = music.read_midi(ctx.path(file).read_bytes())
            if not piece.notes:
                raise Unreadable(t("there are only drums in it"))
            return music.tune_of(piece)
    raise Unreadable(t("a recording, not a MIDI file"))


@functools.lru_cache(maxsize=2)
def _read(text: str) -> music.Tune:
    return tune_from(text)


def _sounding(tune: music.Tune) -> Iterator[int]:
    return (pitch for bar in pitches(tune) for chord in bar for pitch in chord)


def _range(texts: Iterable[str]) -> tuple[int, int]:
    """The lowest and highest pitch of all: what the instrument has."""
    low, high = 127, 0
    for text in texts:
        heard = list(_sounding(_read(text)))
        low, high = min([low, *heard]), max([high, *heard])
    return low, high


def _moved(text: str, semitones: int, within: tuple[int, int]) -> str | None:
    tune = _read(text)
    if any(not within[0] <= pitch + semitones <= within[1] for pitch in _sounding(tune)):
        return None
    other = music.transposed(tune, semitones)
    return plain(other) if other is not None else None


ABC = Notation(
    read=lambda item, ctx: plain(_tune_of(item, ctx)),
    same=lambda text: text.partition("K:")[2],
    tokenizer=tokenizer_over,
    ranges=_range,
    moved=_moved,
    note=lambda name: bool(re.fullmatch(r"[_^=]{0,2}[A-Ga-g][,']*", name)),
    fix=lambda: t("name a data step that reads tunes in ABC (.abc) or MIDI files (.mid)"),
)


# ------------------------------------------------------------------------------------------------------------ playing
class Player:
    """A trained model ready to make tunes (``core.contracts.LoadedModel``)."""

    makes = "audio"

    def __init__(self, writer: Writer, *, bars: int, habits: Habits) -> None:
        self.writer, self.bars = writer, bars
        self.rules = Rules(writer.tokenizer, bars=bars, habits=habits)

    @property
    def facts(self) -> dict[str, Any]:
        """What ``intaglio.json`` has to hold to load it again."""
        return {"notation": "abc", "bars": self.bars, **dataclasses.asdict(self.rules.habits)}

    def figures(self, tunes: Tunes, seed: int) -> dict[str, Any]:
        """How the bars and sections of some tunes come out, beside those learned from."""
        learned = shares_of(tunes.some(LOOKED_AT))
        return {**{f"{name}_of_training": share for name, share in learned.items()}, **judge(self, seed)}

    def show(self, out: Path, ctx: Context) -> None:
        """A few tunes beside the checkpoint: ABC, scores, sound."""
        texts = self.texts([derive(ctx.seed, "shown", number) for number in range(SHOWN)])
        tunes = [tune_from(text) for text in texts]
        for number, tune in enumerate(tunes, 1):
            tune.number, tune.title = str(number), _title(tune)
            picture = music.score(tune, title=tune.title)
            write_atomic(out / f"sample-{number}.png", picture)
            ctx.preview(f"sample-{number}.png", picture)
        write_atomic(out / "samples.abc", "\n".join(music.dump(tune) for tune in tunes).encode())
        write_atomic(out / "sample-1.wav", music.wav(music.piece_of(tunes[0])))

    def texts(self, seeds: Sequence[int], *, start: str = "", ruled: bool = True) -> list[str]:
        """A tune a seed in plain ABC, whole and ended; ``start`` is how each begins, such as ``M:6/8``, a line each.

        ruled: False lets the bars come out as they will, to see what the rules are good for.
        """
        found: list[str] = []
        for first in range(0, len(seeds), SLOTS):
            some = seeds[first : first + SLOTS]
            made = self._drawn(some, start, ruled)
            for number in range(1, TRIES if ruled and self.rules.habits.home else 1):
                away = [place for place, text in enumerate(made) if not _ends_on_its_key(_read(text))]
                if not away:
                    break
                again = self._drawn([derive(some[place], "again", number) for place in away], start, ruled)
                for place, text in zip(away, again, strict=True):
                    made[place] = text
            found += made
        return found

    def _drawn(self, seeds: Sequence[int], start: str, ruled: bool) -> list[str]:
        most = max(64, (self.bars + 8) * TOKENS_OF_A_BAR)
        sampling = Sampling(max_tokens=most, temperature=TEMPERATURE, min_p=MIN_P)
        forms = [Form(self.rules, start) if ruled else None for _ in seeds]
        made = self.writer.complete([start] * len(seeds), seeds=seeds, sampling=sampling, constraints=forms)
        return [_ended(start + each.text) if ruled else start + each.text for each in made]

    def sample(self, seeds: Sequence[int], ctx: Context, seconds: float | None = None) -> Iterator[Item]:
        """A tune a seed: ``tune.wav``, ``tune.mid``, ``tune.abc`` and ``score.png``.

        Errors: UserError where ``seconds`` are asked for, as of a model of sounds.
        """
        refuse_seconds(seconds, ctx)
        for first in range(0, len(seeds), SLOTS):
            some = seeds[first : first + SLOTS]
            for seed, text in zip(some, self.texts(some), strict=True):
                yield _item(text, seed, ctx)
            ctx.progress(min(len(seeds), first + SLOTS), len(seeds))


def _ended(text: str) -> str:
    """A tune cut at its last whole bar, with its last sign, where there was no room to end it."""
    if text.endswith(("|]", ":|")) or text.count("|") < 2:
        return text if text.endswith(("|]", ":|")) else f"{text}|]"
    return text[: text.rindex("|")].rstrip("|:") + "|]"


def _title(tune: music.Tune) -> str:
    return f"{(tune.rhythm or 'tune').capitalize()} in {tune.key}"


def _item(text: str, seed: int, ctx: Context) -> Item:
    tune = tune_from(text)
    tune.title = title = _title(tune)
    piece, abc = music.piece_of(tune), music.dump(tune)
    whole, bars = music.complete_bars(tune)
    files = (
        ctx.put(music.wav(piece), name="tune.wav", mime="audio/wav"),
        ctx.put(music.midi(piece), name="tune.mid", mime="audio/midi"),
        ctx.put(abc.encode(), name="tune.abc", mime="text/vnd.abc"),
        ctx.put(music.score(tune, title=title), name="score.png", mime="image/png"),
    )
    meta: dict[str, Any] = {"seed": seed, "temperature": TEMPERATURE, "min_p": MIN_P, "title": title, "abc": abc}
    meta |= {"seconds": round(piece.seconds, 2), "key": tune.key, "meter": _meter(tune), "rhythm": tune.rhythm}
    meta |= {"bars": bars, "whole_bars": whole}
    return Item(media="audio", text=title, files=files, meta=meta)


def _meter(tune: music.Tune) -> str:
    return f"{tune.meter[0]}/{tune.meter[1]}" if tune.meter else ""


# ------------------------------------------------------------------------------------------------------------ figures
def per_token(corpus: Corpus, bits_per_char: float | None) -> dict[str, Any]:
    """Bits a token of the held-out tunes, from those a character, beside token frequencies of the training tunes
    (add-one), ends left out."""
    if corpus.heldout is None:
        return {"baseline_unigram_bits_per_token": None}
    size = corpus.tokenizer.size
    train, heldout = (np.bincount(np.asarray(each), minlength=size)[1:] for each in (corpus.train, corpus.heldout))
    nats = -np.log((train + 1) / (train.sum() + size - 1))
    bits = float((nats * heldout).sum() / max(1, heldout.sum()) / math.log(2))
    found = {"baseline_unigram_bits_per_token": round(bits, 4)}
    if bits_per_char is not None:
        heard = corpus.heldout_counts
        of_tokens = bits_per_char * heard.characters / (heard.tokens - heard.documents)
        found["heldout_bits_per_token"] = round(of_tokens, 4)
    return found


def judge(player: Player, seed: int) -> dict[str, Any]:
    """How some tunes come out that are drawn with the rules and without: the share of whole bars, and ``shares_of``."""
    seeds = [derive(seed, "judged", number) for number in range(JUDGED)]
    found: dict[str, Any] = {"judged_tunes": JUDGED}
    for name, ruled in (("", True), ("_without_rules", False)):
        texts = player.texts(seeds, ruled=ruled)
        whole, bars = 0, 0
        for text in texts:
            try:
                good, count = music.complete_bars(tune_from(text))
            except Unreadable:
                good, count = 0, 1  # a text that is no tune counts as one bar that is not whole
            whole, bars = whole + good, bars + count
        shares = {"whole_bars": round(whole / max(1, bars), 4), **shares_of(texts)}
        found |= {f"{key}{name}": share for key, share in shares.items()}
    return found


def shares_of(texts: Sequence[str]) -> dict[str, float]:
    """square_sections: the share of sections whose bars four divides. several_sections, ends_on_its_key: of tunes."""
    return _shares(_readable(texts), len(texts))


def _shares(tunes: Sequence[music.Tune], count: int) -> dict[str, float]:
    """count: of texts, readable or not."""
    lengths = [sections_of(tune) for tune in tunes]
    flat = [*itertools.chain.from_iterable(lengths)]
    shares = {
        "square_sections": sum(n % 4 == 0 for n in flat) / max(1, len(flat)),
        "several_sections": sum(len(each) > 1 for each in lengths) / max(1, count),
        "ends_on_its_key": sum(map(_ends_on_its_key, tunes)) / max(1, count),
    }
    return {name: round(share, 4) for name, share in shares.items()}


def habits_of(texts: Sequence[str]) -> Habits:
    """What most of these tunes have in common; nothing where there are none."""
    tunes = _readable(texts)
    lengths = [found for found in map(sections_of, tunes) if found]
    if not lengths:
        return Habits()
    shares, flat = _shares(tunes, len(texts)), sorted(itertools.chain.from_iterable(lengths))
    longest = flat[int(COVERED * (len(flat) - 1))]
    return Habits(
        square=4 * math.ceil(longest / 4) if shares["square_sections"] >= HABIT else 0,
        sections=sorted(map(len, lengths), reverse=True)[math.ceil(COVERED * len(lengths)) - 1],
        home=shares["ends_on_its_key"] >= HABIT,
    )


def _readable(texts: Iterable[str]) -> list[music.Tune]:
    found = []
    for text in texts:
        with contextlib.suppress(Unreadable):
            found.append(tune_from(text))
    return found


def _ends_on_its_key(tune: music.Tune) -> bool:
    """Whether its last note is the one its key is named after, in any octave."""
    letter, heard = LETTERS.find(tune.key[:1] or "?"), [*_sounding(tune)]
    if letter < 0 or not heard:
        return False
    return (heard[-1] - SEMITONES[letter] - signature(tune.key).get(letter, 0)) % 12 == 0


def sections_of(tune: music.Tune) -> list[int]:
    """Bars of each section as played once: an upbeat is none, a second ending takes the place of the first."""
    lengths: list[int] = []
    count = 0
    for measure in tune.measures:
        if measure.left and count:
            lengths, count = [*lengths, count], 0
        if not measure.ending.startswith("2"):
            count += measure.beats > tune.full / 2
        if measure.right in ("||", "|]", ":|") and count:
            lengths, count = [*lengths, count], 0
    return [*lengths, count] if count else lengths
