"""Tunes as tokens: one plain text a tune, a token a pitch, length or bar line, and the rules that keep bars whole.

The plain text is ABC of one voice: the lines ``R:``, ``M:`` with ``L:1/8``, and ``K:``, then the notes without spaces.
``Form`` is a ``core.contracts.Constraint``: it counts the eighths left in the bar and allows what fits into them.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from intaglio.core.contracts import Dataset
from intaglio.core.i18n import t
from intaglio.media import Unreadable, _abc, music
from intaglio.models._corpus import texts_of
from intaglio.models._tokenizers import END, TextTokenizer, _with_end

PATTERN = (
    r"R:[^\n]*\n|M:[^\n]*\nL:1/8\n|K:[^\n]*\n|[_^=]{0,2}[A-Ga-g][,']*|z|[0-9]+/[0-9]+|/[0-9]*|[0-9]+"
    r"|\([0-9]|:?\|[|:\]]*[12]?|[\s\S]"
)
_TOKEN = re.compile(PATTERN)
RHYTHMS = ("slip jig", "jig", "reel", "hornpipe", "waltz", "march", "polka", "strathspey", "air")
LENGTHS = {"/": Fraction(1, 2), "3/2": Fraction(3, 2), "2": Fraction(2), "3": Fraction(3), "4": Fraction(4)}
LENGTHS |= {"6": Fraction(6), "8": Fraction(8)}
TUPLETS = {"(2": (2, 3), "(3": (3, 2), "(4": (4, 3)}  # notes, and the time of how many they take
BARS = ("|", "|:", ":|", ":||:", "||", "|]", "|1", ":|2")
_PITCHES = ("G,", "A,", "B,", *"CDEFGABcdefgab", "c'", "d'", "e'", "f'")
ALWAYS = (*_PITCHES, "z", *LENGTHS, *TUPLETS, *BARS, ">", "<", "-", "M:4/4\nL:1/8\n", "M:6/8\nL:1/8\n", "K:G\n")
MOST_NAMES = 2_000
_SHORT = (Fraction(1, 2), Fraction(1), Fraction(2))  # what ``>`` may stand between


# ------------------------------------------------------------------------------------------------------ the plain text
def plain(tune: music.Tune) -> str:
    """The tune as the model reads it: the upper note of a chord, repeats and endings as they are, no words.

    Errors: Unreadable where the key changes on the way or there is no meter: its bars could not be counted.
    """
    if any(measure.key for measure in tune.measures):
        raise Unreadable(t("its key changes on the way"))
    if tune.meter is None:
        raise Unreadable(t("it has no meter"))
    copied = dataclasses.replace(tune, measures=[_simple(measure) for measure in tune.measures])
    _drop_slurs(copied)
    for measure, after in itertools.pairwise(copied.measures):
        if after.left and measure.right != ":|":
            measure.right = "|"
        elif measure.right == "|]":
            measure.right = "||"
    last = copied.measures[-1]
    last.right = ":|" if last.right == ":|" else "|]"
    rhythm = next((name for name in RHYTHMS if name.replace(" ", "") in tune.rhythm.replace(" ", "")), "")
    head = (f"R:{rhythm}\n" if rhythm else "") + f"M:{tune.meter[0]}/{tune.meter[1]}\nL:1/8\nK:{tune.key}\n"
    return head + music.body(copied).replace("\n", "")


def _simple(measure: _abc.Measure) -> _abc.Measure:
    signs = [dataclasses.replace(sign, steps=(max(sign.steps),) if sign.steps else ()) for sign in measure.signs]
    return dataclasses.replace(measure, signs=signs)


def _drop_slurs(tune: music.Tune) -> None:
    """A tie between two different pitches is a slur in disguise: it says nothing here."""
    places = [(measure, n) for measure in tune.measures for n in range(len(measure.signs))]
    for number, (measure, n) in enumerate(places):
        sign, after = measure.signs[n], places[number + 1] if number + 1 < len(places) else None
        follows = after[0].signs[after[1]].steps if after else ()
        if sign.tie and [step for step, _ in sign.steps] != [step for step, _ in follows]:
            measure.signs[n] = dataclasses.replace(sign, tie=False)


def tune_from(text: str, *, title: str = "") -> music.Tune:
    """A plain text read back. Errors: Unreadable where there is no note in it."""
    tune = music.parse(f"X:1\n{text}\n")
    tune.title = title
    return tune


def tokenizer_of(data: Dataset) -> TextTokenizer:
    """The tokens of the training tunes of ``data``, see ``tokenizer_over``."""
    return tokenizer_over(texts_of(data, "train"))


def tokenizer_over(texts: Iterable[str]) -> TextTokenizer:
    """A token for each name that these tunes hold more than once, and for all that ``Form`` needs; bytes below."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_TOKEN.findall(text))
    known = [name for name, n in counts.items() if name not in ALWAYS and (n > 1 or name[1:2] == ":")]
    known = sorted(known, key=lambda name: (-counts[name], name))[:MOST_NAMES]
    names = [END, *(f"<0x{byte:02X}>" for byte in range(256)), *ALWAYS, *known]
    vocab = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return TextTokenizer(_with_end(tokenizer), "notes")


# ----------------------------------------------------------------------------------------------------------- the rules
@dataclasses.dataclass(frozen=True)
class Habits:
    """What nearly all tunes learned from do, and those made shall do as well.

    square: their sections have 4, 8 .. bars, at most so many; 0 where they are of any length. sections: they have at
    least so many. home: their last note is that of their key, in any octave; no rule of ``Form``, since nobody knows
    which note will be the last: whoever draws tries again.
    """

    square: int = 0
    sections: int = 1
    home: bool = False


class Rules:
    """The tokens of one vocabulary by what they are, and the answers already given; shared by many ``Form``."""

    def __init__(self, tokenizer: TextTokenizer, *, bars: int, habits: Habits | None = None) -> None:
        self.bars, self.habits = bars, habits or Habits()
        self.size = tokenizer.size
        self.index = {name: number for number, name in enumerate(tokenizer.strings) if number == 0 or number > 256}
        self.pitches = [name for name in self.index if re.fullmatch(r"[_^=]{0,2}[A-Ga-g][,']*", name)]
        self.rhythms, self.meters, self.keys = (
            [name for name in self.index if name.startswith(start)] for start in ("R:", "M:", "K:")
        )
        self.meters = [name for name in self.meters if _eighths(name)]
        self._answers: dict[frozenset[str], tuple[bool, ...]] = {}

    def flags(self, names: frozenset[str]) -> tuple[bool, ...]:
        """True at the tokens of these names; "" is the end of the tune."""
        if names not in self._answers:
            chosen = {self.index[name] for name in names if name in self.index}
            self._answers[names] = tuple(number in chosen for number in range(self.size))
        return self._answers[names]


def _eighths(meter: str) -> Fraction:
    found = re.match(r"M:(\d+)/(\d+)\n", meter)
    return Fraction(8 * int(found[1]), int(found[2])) if found and int(found[2]) else Fraction(0)


class Form:
    """What may follow in one tune (``core.contracts.Constraint``); ``prompt`` is what its text goes on from.

    A bar line stands only where the bar is full; a section may begin with an upbeat of up to half a bar and then end
    that much short; ``>`` and ``(3`` need room for all their notes; a tie goes on with its own pitch; the tune ends
    after ``|]`` or ``:|``, and from ``rules.bars`` bars on it must. Before that it keeps to ``rules.habits``.
    """

    def __init__(self, rules: Rules, prompt: str = "") -> None:
        self.rules, self.read = rules, 0
        self.state = _State(most=rules.bars, habits=rules.habits)
        for token in _TOKEN.findall(prompt):
            self.state.take(token)

    def allow(self, text: str, vocabulary: Sequence[str]) -> Sequence[bool]:
        """One flag a token, ``text`` being all that was written so far. It grows from call to call."""
        for token in _TOKEN.findall(text[self.read :]):
            self.state.take(token)
        self.read = len(text)
        return self.rules.flags(frozenset(self.state.allowed(self.rules)))


@dataclasses.dataclass
class _State:
    """A place in a tune, in eighths.

    room: left in the bar. upbeat: what its section began with. note: the pitch just written, length: its own, cost: how
    much of the bar its unit takes, sized: whether its length stands there. forced, left: the length of so many notes
    to come, paid for already; leads: the note decides their length. plain: in no group. tie: the pitch that must
    follow. ending: 1 or 2 within one. bars, section: whole bars of the tune and of the section or
    ending; before: of the section before its first ending. sections: ended.
    """

    most: int
    habits: Habits = Habits()
    head: str = ""
    full: Fraction = Fraction(0)
    room: Fraction = Fraction(0)
    fresh: bool = True
    upbeat: Fraction = Fraction(0)
    note: str = ""
    length: Fraction = Fraction(1)
    cost: Fraction = Fraction(1)
    sized: bool = False
    group: int = 0
    forced: Fraction = Fraction(0)
    left: int = 0
    leads: bool = False
    plain: bool = False
    tie: str = ""
    ending: int = 0
    repeat: bool = False
    bars: int = 0
    section: int = 0
    before: int = 0
    sections: int = 0
    after: str = ""

    # -- reading
    def take(self, token: str) -> None:
        """Go past one token."""
        if token[1:2] == ":" and token[0] in "RMK":
            self.head = token[0]
            if token[0] == "M":
                self.full = self.room = _eighths(token)
        elif "|" in token:
            self._bar(token)
        elif token in TUPLETS:
            notes, time = TUPLETS[token]
            self.group, self.cost, self.note, self.after = notes, Fraction(time), "", ""
        elif token in LENGTHS:
            self._sized(LENGTHS[token])
        elif token in "><":
            self.forced, self.left, self.room = self.length, 1, self.room - self.length
            self.note = ""
        elif token == "-":
            self.tie, self.note = self.note.lstrip("^_="), ""
        else:
            self._pitch(token)

    def _pitch(self, token: str) -> None:
        self.note, self.sized, self.tie, self.after = token, False, "", ""
        if self.left:
            self.left, self.length, self.cost = self.left - 1, self.forced, Fraction(0)
            self.plain = self.leads = False
            return
        self.plain, self.leads = not self.group, bool(self.group)
        self.cost = self.cost if self.group else Fraction(1)
        self.length, self.room = Fraction(1), self.room - self.cost
        if self.leads:
            self.left, self.forced, self.group = self.group - 1, self.length, 0

    def _sized(self, length: Fraction) -> None:
        self.room += self.cost * (self.length - length)
        self.length, self.sized = length, True
        if self.leads:
            self.forced = length

    def _bar(self, token: str) -> None:
        begins = not self.note and self.room == self.full  # the sign before the first note
        if not begins and self.fresh and self.room > 0:
            self.upbeat, self.fresh = self.full - self.room, False
        elif not begins:
            self.fresh, self.bars, self.section = False, self.bars + 1, self.section + 1
        self.room, self.note, self.left, self.group = self.full, "", 0, 0
        self.after = token
        self.sections += token in (":||:", ":|", "||", "|]") or (token == "|:" and not begins)
        if token in ("|:", ":||:", ":|", "||"):
            self.fresh, self.upbeat, self.ending, self.section = True, Fraction(0), 0, 0
            self.before = 0
            self.repeat = token.endswith(":")
        elif token[-1] in "12":
            self.before = self.before if token[-1] == "2" else self.section
            self.ending, self.fresh, self.section = int(token[-1]), False, 0

    # -- what may follow
    def allowed(self, rules: Rules) -> Iterator[str]:
        """The names of the tokens that may follow."""
        if self.head != "K":
            yield from rules.keys if self.head == "M" else rules.meters
            yield from () if self.head else rules.rhythms
        elif self.after == "|]" or (self.after == ":|" and self.bars >= self.most):
            yield ""
        elif self.note:
            yield from self._after_note(rules)
        elif self.tie:
            yield from self._tied(rules)
        else:
            yield from self._pitches(rules)
            if not self.left and not self.group:
                yield from self._tuplets()
            if self.bars == 0 and self.room == self.full and not self.after:
                yield "|:"
            if self.after == ":|" and self.sections >= self.habits.sections:
                yield ""

    def _pitches(self, rules: Rules) -> Iterator[str]:
        yield from rules.pitches
        yield "z"

    def _tuplets(self) -> Iterator[str]:
        yield from (name for name, (_, time) in TUPLETS.items() if Fraction(time, 2) <= self.room)

    def _tied(self, rules: Rules) -> Iterator[str]:
        if self.room == 0:
            yield "|"
        else:
            yield self.tie

    def _after_note(self, rules: Rules) -> Iterator[str]:
        if self.cost == 0 and self.forced != 1 and not self.sized:  # the length is settled, and must be said
            yield from (name for name, length in LENGTHS.items() if length == self.forced)
            return
        if not self.sized and self.cost:
            before = self.room + self.cost
            yield from (name for name, length in LENGTHS.items() if self.cost * length <= before)
            if self.room < 0:
                return
        if self.left:
            yield from self._pitches(rules)
            return
        if self.room > 0:
            yield from self._pitches(rules)
            yield from self._tuplets()
        if self.plain and self.length in _SHORT and self.room >= self.length:
            yield from "><"
        if self.plain and self.note != "z" and (self.room > 0 or self._goes_on()):
            yield "-"
        yield from self._bars()

    def _aligned(self) -> bool:
        return not self.habits.square or (self.before + self.section + 1) % 4 == 0

    def _goes_on(self) -> bool:
        if not self._aligned():
            return True
        long = self.habits.square and self.before + self.section + 1 >= self.habits.square
        return self.bars + 1 < self.most and not long and not (self.ending and self.section >= 1)

    def _bars(self) -> Iterator[str]:
        if self.room == 0:
            if self._goes_on():
                yield "|"
                if self.ending == 0 and (self.section % 4 == 2 if self.habits.square else self.section >= 1):
                    yield "|1"
            yield from self._ends()
        elif self.fresh and self.full - self.room <= self.full / 2:
            yield "|"
        elif not self.fresh and self.room == self.upbeat:
            yield from (name for name in self._ends() if name != "|:")  # after a plain line a bar is whole

    def _ends(self) -> Iterator[str]:
        """The signs that may end this section."""
        if not self._aligned():
            return
        over = self.bars + 1 >= self.most
        last = ("|]",) if over or self.sections + 1 >= self.habits.sections else ()
        if self.ending == 1:
            yield ":|2"
        elif self.ending == 2:
            yield from last if over else (*last, "||", "|:")
        elif self.section >= 1 or over:
            yield from (":|",) if over else (":|", ":||:")
            if not self.repeat:
                yield from last if over else (*last, "||", "|:")
