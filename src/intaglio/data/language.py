"""The language of each text: by script where the script tells, else by py3langid on the text's beginning.

Short Chinese is told by its characters (py3langid and fastText both take lines of five for Japanese); kana means
Japanese, hangul Korean, and so on for scripts of one language. Texts of fewer than ``LEAST_LETTERS`` letters, and
short ones that could be in several languages, stay without one.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Item, Skip
from intaglio.core.i18n import t
from intaglio.core.registry import import_or_explain

LOOK_CHARS = 240
LEAST_LETTERS = 3
SHORT_CHARS = 80  # a shorter text needs a clear answer: py3langid takes "chipmunk" for Quechua, by 0.6 nats
SURE_NATS = 5.0
# Words that only English has: two of them in an ASCII text tell it in 2 us where py3langid takes 40.
_ENGLISH = frozenset(
    "the and with that this from have which they were there would their been what when she you your".split()
)
_LATIN_ONLY = re.compile(r"[A-Za-z]")
_SCRIPTS = (  # script, language of a text written in it; kana before Han, because Japanese has both
    (re.compile("[\u3041-\u30fa]"), "ja"),
    (re.compile("[\uac00-\ud7a3\u1100-\u11ff]"), "ko"),
    (re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"), "zh"),
    (re.compile("[\u0e01-\u0e3a]"), "th"),
    (re.compile("[\u05d0-\u05ea]"), "he"),
    (re.compile("[\u0370-\u03ff]"), "el"),
)


class Config(StepConfig):
    """only: keep items of these languages (and those without one); empty keeps all. items: only as an own step."""

    items: Annotated[Names, Role(stages=("data", "optimize"))] = ()
    only: tuple[str, ...] = Field(default=())


class Component:
    """Tells languages."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def apply(self, items: Iterable[Item | Skip], ctx: Context) -> Iterator[Item | Skip]:
        """The items with ``language`` filled where it was empty and could be told."""
        only = frozenset(self.config.only)
        for item in items:
            if isinstance(item, Item) and not item.language and item.text:
                found = language_of(item.text)
                if found:
                    item = dataclasses.replace(item, language=found)
            if only and isinstance(item, Item) and item.language and item.language not in only:
                yield Skip(item.origin, t("its language is {language}", language=item.language))
                continue
            yield item


def language_of(text: str) -> str:
    """ISO 639-1 code of the language of ``text``, ``""`` where it has too few letters to tell."""
    head = text[:LOOK_CHARS]
    if head.isascii():
        if len(_ENGLISH.intersection(head.lower().split())) >= 2:
            return "en"
    elif found := _by_script(head):
        return found
    if len(_LATIN_ONLY.findall(head)) < LEAST_LETTERS and not any(char.isalpha() and ord(char) > 0x7F for char in head):
        return ""
    model = _model()
    if len(head) >= SHORT_CHARS:
        return str(model.classify(head)[0])
    best, second = model.rank(head)[:2]
    return str(best[0]) if best[1] - second[1] >= SURE_NATS else ""


def _by_script(head: str) -> str:
    """The language whose script has the most weight; a Han character says about as much as three letters."""
    letters = len(_LATIN_ONLY.findall(head)) / 3
    for script, language in _SCRIPTS:
        count = len(script.findall(head))
        if count and count >= letters and (language != "ja" or count * 8 >= len(head)):
            return language
    return ""


@functools.cache
def _model() -> ModuleType:
    return import_or_explain("py3langid", "data/language")


TINY: dict[str, Any] = {}
