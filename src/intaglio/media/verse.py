"""Verse as a kind of text: its lines, their measure and rhyme, and whether a poem keeps a form, in Chinese and English.

Chinese: the measure is characters; rhyme is the final of today's standard reading (pypinyin) in the fourteen classes of
         the New Rhymes (Zhonghua xin yun, 2005), level and oblique tones apart. A character with several readings
         counts with its commonest, so of the older poets' rhymes those that still sound today are found: 80 % of the
         places in 15,000 regular Tang poems, 11 % when their line ends are shuffled.
English: the measure is syllables, by counting vowel groups; rhyme is told from spelling by rules, without a dictionary.
         Beside the CMU Pronouncing Dictionary, on the 2,820 commonest words of Shakespeare: syllables right for 96 %,
         75 % of its rhyming pairs found; 75 % of those found are its own, or 54 % with words in -y, where verse
         rhymes "liberty" with "me" and the dictionary does not.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intaglio.core.i18n import t
from intaglio.core.registry import import_or_explain
from intaglio.media._english import rhyme_sound, syllables

HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN_LINE = re.compile(rf"[{HAN}]+")
_BREAKS = re.compile(r"[，。？！；：、,.?!;:\s「」『』“”‘’《》]+")
_FINALS = {  # final in pypinyin's strict spelling -> class of the New Rhymes
    "a": ("a", "ia", "ua"),
    "o": ("o", "e", "uo"),
    "ie": ("ie", "ve"),
    "ai": ("ai", "uai"),
    "ei": ("ei", "uei"),
    "ao": ("ao", "iao"),
    "ou": ("ou", "iou"),
    "an": ("an", "ian", "uan", "van"),
    "en": ("en", "in", "uen", "vn"),
    "ang": ("ang", "iang", "uang"),
    "eng": ("eng", "ing", "ueng", "ong", "iong"),
    "i": ("i", "er", "v"),
    "u": ("u",),
}
_CLASS_OF = {final: name for name, finals in _FINALS.items() for final in finals}
_BUZZED = ("zh", "ch", "sh", "r", "z", "c", "s")  # after these, "i" is the class of "zhi"
_AT_LINE_END = {  # characters that poets rhyme with their level reading: 还 is huan there, not hai
    "还": "an-", "看": "an-", "长": "ang-", "重": "eng-", "斜": "a-", "干": "an-", "沈": "en-",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """What a poem has to keep: how long each line may be, and which lines rhyme.

    script: ``zh`` (lines measured in characters) or ``en`` (in syllables). lines: least and most of each line.
    rhyme:  one sign a line: equal capitals rhyme, ``x`` is free, ``?`` may rhyme with ``A`` or not.
    """

    name: str
    script: str
    lines: tuple[tuple[int, int], ...]
    rhyme: str

    def as_meta(self) -> dict[str, Any]:
        """Plain JSON, for ``Item.meta["form"]``."""
        return {
            "name": self.name,
            "script": self.script,
            "lines": [list(each) for each in self.lines],
            "rhyme": self.rhyme,
        }

    @classmethod
    def from_meta(cls, value: Mapping[str, Any]) -> Form:
        """The inverse of ``as_meta``. Errors: KeyError, TypeError or ValueError where it is none."""
        lines = tuple((int(low), int(high)) for low, high in value["lines"])
        return cls(str(value["name"]), str(value["script"]), lines, str(value["rhyme"]))


def _even(name: str, script: str, count: int, low: int, high: int, rhyme: str) -> Form:
    return Form(name, script, ((low, high),) * count, rhyme)


FORMS: Mapping[tuple[str, str, int], Form] = {  # (name, script, characters a line) -> form
    ("quatrain", "zh", 5): _even("quatrain", "zh", 4, 5, 5, "?AxA"),
    ("quatrain", "zh", 7): _even("quatrain", "zh", 4, 7, 7, "?AxA"),
    ("couplet", "zh", 5): _even("couplet", "zh", 2, 5, 5, "xx"),
    ("couplet", "zh", 7): _even("couplet", "zh", 2, 7, 7, "xx"),
    ("quatrain", "en", 0): _even("quatrain", "en", 4, 6, 11, "xAxA"),
    ("couplet", "en", 0): _even("couplet", "en", 2, 6, 11, "AA"),
    ("haiku", "en", 0): Form("haiku", "en", ((4, 5), (6, 7), (4, 5)), "xxx"),
    ("limerick", "en", 0): Form("limerick", "en", ((7, 10), (7, 10), (4, 7), (4, 7), (7, 10)), "AABBA"),
    ("sonnet", "en", 0): _even("sonnet", "en", 14, 8, 11, "ABABCDCDEFEFGG"),
}


@dataclass(frozen=True, slots=True)
class FormCheck:
    """How well a poem keeps a form. measured: lines of the right length; rhymed: rhyming lines that do rhyme.

    faults: what is wrong, for people; empty when the form is kept.
    """

    lines: int
    measured: int
    rhymes: int
    rhymed: int
    faults: tuple[str, ...]


def is_han(char: str) -> bool:
    """Whether this one character is a Chinese character."""
    return bool(_HAN_LINE.fullmatch(char))


def lines_of(text: str, script: str) -> list[str]:
    """The lines of a poem: in Chinese every phrase between punctuation marks, in English every line that is not
    blank."""
    if script == "zh":
        return [part for part in _BREAKS.split(text) if part]
    return [line.strip() for line in text.splitlines() if line.strip()]


def measure(line: str, script: str) -> int:
    """Length of a line: characters in Chinese, syllables in English."""
    return len(line) if script == "zh" else sum(syllables(word) for word in words_of(line))


def words_of(line: str) -> list[str]:
    """Words of a line in Latin script, lower case, apostrophes kept inside."""
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", line.lower())


# ------------------------------------------------------------------------------------------------------------- Chinese
@functools.cache
def _reading(char: str) -> tuple[str, str, str]:
    pypinyin = import_or_explain("pypinyin", "rhyme in Chinese verse")
    style = pypinyin.Style
    final = pypinyin.lazy_pinyin(char, style=style.FINALS_TONE3, strict=True, errors="ignore")
    initial = pypinyin.lazy_pinyin(char, style=style.INITIALS, strict=True, errors="ignore")
    if not final or not final[0]:
        return "", "", ""
    tone = final[0][-1] if final[0][-1].isdigit() else ""
    return (initial[0] if initial else ""), final[0].rstrip("012345"), tone


@functools.cache
def rhyme_class(char: str) -> str:
    """Rhyme class of a Chinese character such as ``an-`` (level) or ``an/`` (oblique); empty where it has no reading.

    Of several readings the commonest counts, but for seven characters that end lines in their level one.

    Errors: MissingExtra without pypinyin.
    """
    initial, final, tone = _reading(char)
    if char in _AT_LINE_END and final:
        return _AT_LINE_END[char]
    name = "zhi" if final == "i" and initial in _BUZZED else _CLASS_OF.get(final, "")
    return name + ("-" if tone in ("1", "2") else "/") if name else ""


def line_rhyme(line: str, script: str) -> str:
    """What the end of a line rhymes on; two lines rhyme where this is equal and not empty."""
    if script == "zh":
        return rhyme_class(line[-1]) if line else ""
    words = words_of(line)
    return rhyme_sound(words[-1]) if words else ""


def _last(line: str, script: str) -> str:
    return line[-1:] if script == "zh" else (words_of(line) or [""])[-1]


def rhymes(first: str, second: str, script: str) -> bool:
    """Whether two lines rhyme: equal sounds, not the same word (in Chinese: character)."""
    sound = line_rhyme(first, script)
    return bool(sound) and sound == line_rhyme(second, script) and _last(first, script) != _last(second, script)


def check(text: str, form: Form) -> FormCheck:
    """Whether a poem keeps a form: number of lines, their measure, and rhyme at the places the form names.

    Errors: MissingExtra where Chinese rhyme is asked for and pypinyin is missing.
    """
    lines = lines_of(text, form.script)
    faults: list[str] = []
    if len(lines) != len(form.lines):
        faults.append(t("{got} lines instead of {wanted}", got=len(lines), wanted=len(form.lines)))
    measured = 0
    for number, (line, (low, high)) in enumerate(zip(lines, form.lines, strict=False), 1):
        length = measure(line, form.script)
        right = low <= length <= high and (form.script != "zh" or bool(_HAN_LINE.fullmatch(line)))
        measured += right
        if not right:
            wanted = str(low) if low == high else f"{low}-{high}"
            unit = t("characters") if form.script == "zh" else t("syllables")
            faults.append(
                t(
                    "line {number} has {got} {unit} instead of {wanted}",
                    number=number,
                    got=length,
                    unit=unit,
                    wanted=wanted,
                )
            )
    wanted_rhymes, rhymed = 0, 0
    for letter in sorted(set(form.rhyme) - {"x", "?"}):
        places = [i for i, sign in enumerate(form.rhyme) if sign == letter and i < len(lines)]
        wanted_rhymes += max(form.rhyme.count(letter) - 1, 0)
        for earlier, later in zip(places, places[1:], strict=False):
            if rhymes(lines[earlier], lines[later], form.script):
                rhymed += 1
            else:
                faults.append(t("lines {first} and {second} do not rhyme", first=earlier + 1, second=later + 1))
    return FormCheck(len(form.lines), measured, wanted_rhymes, rhymed, tuple(faults))
