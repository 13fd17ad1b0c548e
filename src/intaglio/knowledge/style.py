"""Style: a profile of how the archive is written, in figures: lengths, rhyme, words, punctuation, turns of phrase.

Figures (unit): ``text_length`` (characters), ``sentence_length`` and ``line_length`` (words, or characters where a text
is mostly Chinese),
         ``verse_form`` (lines x length), ``rhyme_rate`` (share of rhyming places that rhyme, of the poems that have a
         known form), ``vocabulary`` (moving-average type-token ratio over 100 words, Covington & McFall 2010; share of
         words that come once), ``punctuation`` (marks a hundred characters), ``phrases`` (most frequent runs of 4
         Chinese characters or 3 English words, by the number of texts), ``openings`` (first words), ``languages``
         (share of texts).
Sample:  lengths and languages count every item; the rest is measured on a sample of at most 20,000 items, chosen by id
         and therefore always the same; ``sampled`` says how many.
Facts:   one a figure and script; parents are up to five items that show it best.
"""

from __future__ import annotations

import heapq
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Item
from intaglio.core.errors import MissingExtra
from intaglio.core.i18n import t
from intaglio.knowledge._facts import FactKnowledge, fact, fact_language, nothing_to_read
from intaglio.knowledge._passages import in_sample, with_text
from intaglio.media import verse
from intaglio.media.words import content_words, sentences, words

SAMPLE = 20_000
CHARS_OF_ONE = 50_000
WINDOW = 100
TINY: dict[str, Any] = {}


class Config(StepConfig):
    """Nothing to set but the items."""

    items: Annotated[Names, Role(stages=("data", "optimize"))]


@dataclass
class Examples:
    """The few items that show a figure best: those nearest to its middle come last into the heap and stay."""

    most: int = 5
    heap: list[tuple[float, str]] = field(default_factory=list)

    def offer(self, closeness: float, item: str) -> None:
        """Keep ``item`` if it is among the ``most`` closest; ties by id."""
        (heapq.heappush if len(self.heap) < self.most else heapq.heappushpop)(self.heap, (closeness, item))

    def ids(self) -> tuple[str, ...]:
        """Best first."""
        return tuple(item for _, item in sorted(self.heap, reverse=True))


@dataclass
class Profile:
    """What is counted of the texts of one script (``zh`` or ``en``, the latter standing for all scripts with
    letters)."""

    texts: int = 0
    sentence_lengths: Counter[int] = field(default_factory=Counter)
    line_lengths: Counter[int] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    form_of: dict[str, Examples] = field(default_factory=dict)
    rhyme_places: int = 0
    rhymed: int = 0
    rhyming: Examples = field(default_factory=Examples)
    vocabulary: Counter[str] = field(default_factory=Counter)
    ratios: list[float] = field(default_factory=list)
    richest: Examples = field(default_factory=Examples)
    marks: Counter[str] = field(default_factory=Counter)
    most_marked: Examples = field(default_factory=Examples)
    characters: int = 0
    phrases: Counter[str] = field(default_factory=Counter)
    phrase_of: dict[str, list[str]] = field(default_factory=dict)
    openings: Counter[str] = field(default_factory=Counter)
    opening_of: dict[str, list[str]] = field(default_factory=dict)
    typical: list[tuple[float, str]] = field(default_factory=list)


class Component:
    """``core.contracts.Extractor``."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def extract(self, items: Dataset, ctx: Context) -> Iterator[Item]:
        """Yield the figures as facts; the same numbers are kept with the step. Writes no files."""
        total = len(items)
        lengths: Counter[int] = Counter()
        languages: Counter[str] = Counter()
        language_of: dict[str, list[str]] = {}
        profiles: dict[str, Profile] = {}
        sampled = 0
        for number, item in enumerate(with_text(items), 1):
            if number % 200 == 0:
                ctx.progress(number, total, items=number)
            lengths[len(item.text)] += 1
            languages[item.language or "und"] += 1
            _keep(language_of, item.language or "und", item.id)
            if in_sample(item.id, total, SAMPLE):
                sampled += 1
                script = "zh" if _mostly_han(item.text) else "en"
                _measure(item, script, profiles.setdefault(script, Profile()), ctx)
        count = sum(lengths.values())
        if not count:
            raise nothing_to_read(ctx, t("a style profile"))
        if sampled < count:
            ctx.warn(
                t("style is measured on {sampled} of {count} items, chosen by their ids", sampled=sampled, count=count)
            )
        ctx.metric(items=count, sampled=sampled, without_text=total - count, text_length_median=_median(lengths))
        lang = fact_language(ctx)
        shares = {name: round(n / count, 4) for name, n in languages.most_common(8)}
        text = t("Languages: {shares}", lang, shares=_list(f"{name} {share:.0%}" for name, share in shares.items()))
        examples = tuple(dict.fromkeys(id_ for name in shares for id_ in language_of[name]))[:5]
        yield fact(
            text, parents=examples, language=lang, meta={"kind": "style", "figure": "languages", "values": shares}
        )
        for script, profile in sorted(profiles.items()):
            for found in _facts(script, profile, lang):
                ctx.metric(**{f"{script}_{found.meta['figure']}": found.meta["values"]})
                yield found

    def load(self, folder: Path, facts: Dataset, *, threads: int) -> FactKnowledge:
        """The facts, to be asked by their words."""
        return FactKnowledge(facts)


def _mostly_han(text: str) -> bool:
    head = text[:2000]
    letters = [char for char in head if char.isalpha()]
    return 2 * sum(map(verse.is_han, letters)) >= max(len(letters), 1)


def _keep(table: dict[str, list[str]], key: str, item: str, most: int = 5) -> None:
    kept = table.setdefault(key, [])
    if len(kept) < most and item not in kept:
        kept.append(item)


def _measure(item: Item, script: str, profile: Profile, ctx: Context) -> None:
    text = item.text[:CHARS_OF_ONE]
    profile.texts += 1
    found = words(text)
    lengths = [
        len(content) if script == "zh" else len(words(content)) for a, b in sentences(text) if (content := text[a:b])
    ]
    profile.sentence_lengths.update(lengths)
    if lengths:
        profile.typical.append((statistics.fmean(lengths), item.id))
    _measure_verse(text, item.id, script, profile, ctx)
    profile.vocabulary.update(found)
    if len(found) >= WINDOW // 2:
        ratio = _moving_ratio(found)
        profile.ratios.append(ratio)
        profile.richest.offer(ratio, item.id)
    marks = Counter(char for char in text if not char.isalnum() and not char.isspace())
    profile.marks.update(marks)
    profile.characters += len(text)
    profile.most_marked.offer(sum(marks.values()) / len(text), item.id)
    for phrase in set(_phrases(text, found, script)):
        profile.phrases[phrase] += 1
        _keep(profile.phrase_of, phrase, item.id, 3)
    if len(profile.phrases) > 400_000:
        profile.phrases = Counter({phrase: n for phrase, n in profile.phrases.items() if n > 1})
        profile.phrase_of = {phrase: profile.phrase_of[phrase] for phrase in profile.phrases}
    opening = (
        verse.lines_of(text[:200], "zh")[0][:2]
        if script == "zh" and verse.lines_of(text[:200], "zh")
        else " ".join(found[:2])
    )
    if opening:
        profile.openings[opening] += 1
        _keep(profile.opening_of, opening, item.id, 3)


def _measure_verse(text: str, item: str, script: str, profile: Profile, ctx: Context) -> None:
    lines = verse.lines_of(text[:4000], script)
    if not 2 <= len(lines) <= 64:
        return
    sizes = [verse.measure(line, script) for line in lines]
    even = len(set(sizes)) == 1 if script == "zh" else len(lines) <= 40 and max(sizes) <= 14 and len(lines) >= 4
    if not even:
        return
    profile.line_lengths.update(sizes)
    name = f"{len(lines)} x {sizes[0]}" if script == "zh" else f"{len(lines)} x {round(statistics.fmean(sizes))}"
    profile.forms[name] += 1
    profile.form_of.setdefault(name, Examples()).offer(0.0, item)
    try:
        ends = [verse.line_rhyme(line, script) for line in lines[:40]]
    except MissingExtra:
        ctx.warn(t("pypinyin is not installed: rhyme in Chinese is not assessed (pip install 'intaglio[text]')"))
        return
    # in Chinese every second line rhymes with the last such; in English any with a partner within three lines counts
    if script == "zh":
        places = list(range(3, len(ends), 2))
        rhymed = sum(bool(ends[i]) and ends[i] == ends[i - 2] for i in places)
    else:
        places = list(range(1, len(ends)))
        rhymed = sum(bool(ends[i]) and ends[i] in ends[max(0, i - 3) : i] for i in places)
    profile.rhyme_places += len(places)
    profile.rhymed += rhymed
    if places:
        profile.rhyming.offer(rhymed / len(places), item)


def _moving_ratio(found: list[str]) -> float:
    size = min(WINDOW, len(found))
    counts = Counter(found[:size])
    ratios = [len(counts) / size]
    for old, new in zip(found, found[size:], strict=False):
        counts[new] += 1
        counts[old] -= 1
        if not counts[old]:
            del counts[old]
        ratios.append(len(counts) / size)
    return statistics.fmean(ratios)


def _phrases(text: str, found: list[str], script: str) -> Iterator[str]:
    if script == "zh":
        for line in verse.lines_of(text, "zh"):
            yield from (line[i : i + 4] for i in range(len(line) - 3))
    else:
        for i in range(len(found) - 2):
            phrase = " ".join(found[i : i + 3])
            if content_words(phrase):
                yield phrase


def _median(counts: Counter[int]) -> int:
    half, seen = sum(counts.values()) / 2, 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= half:
            return value
    return 0


def _list(parts: Any) -> str:
    return ", ".join(parts)


def _facts(script: str, profile: Profile, lang: str) -> Iterator[Item]:
    def made(figure: str, text: str, values: Any, parents: tuple[str, ...]) -> Item:
        meta = {"kind": "style", "figure": figure, "script": script, "values": values, "texts": profile.texts}
        return fact(text, parents=parents, language=lang, meta=meta)

    unit = t("characters", lang) if script == "zh" else t("words", lang)
    if profile.sentence_lengths:
        middle = _median(profile.sentence_lengths)
        near = sorted(profile.typical, key=lambda pair: (abs(pair[0] - middle), pair[1]))[:5]
        text = t(
            "A sentence has {median} {unit} (median of {count})",
            lang,
            median=middle,
            unit=unit,
            count=profile.sentence_lengths.total(),
        )
        yield made("sentence_length", text, {"median": middle}, tuple(id_ for _, id_ in near))
    if profile.forms:
        yield from _verse_facts(script, profile, lang, made)
    if profile.ratios:
        ratio = round(statistics.fmean(profile.ratios), 4)
        once = round(sum(n == 1 for n in profile.vocabulary.values()) / len(profile.vocabulary), 4)
        text = t("Of {window} words, {percent} are different ones", lang, window=WINDOW, percent=f"{ratio:.0%}")
        values = {"type_token_ratio": ratio, "once": once, "different": len(profile.vocabulary)}
        yield made("vocabulary", text, values, profile.richest.ids())
    if profile.marks:
        rates = {mark: round(100 * n / profile.characters, 2) for mark, n in profile.marks.most_common(8)}
        text = t(
            "Punctuation in a hundred characters: {marks}",
            lang,
            marks=_list(f"{mark} {rate:g}" for mark, rate in rates.items()),
        )
        yield made("punctuation", text, rates, profile.most_marked.ids())
    phrases, openings = _top(profile.phrases), _top(profile.openings)
    if phrases:
        text = t("Frequent phrases: {list}", lang, list=_list(phrases))
        yield made("phrases", text, phrases, _shown(phrases, profile.phrase_of))
    if openings:
        text = t("Frequent openings: {list}", lang, list=_list(openings))
        yield made("openings", text, openings, _shown(openings, profile.opening_of))


def _top(counts: Counter[str]) -> dict[str, int]:
    """The ten most frequent that come more than once."""
    ranked = sorted(((n, each) for each, n in counts.items() if n > 1), key=lambda pair: (-pair[0], pair[1]))
    return {each: n for n, each in ranked[:10]}


def _shown(top: dict[str, int], where: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(id_ for each in top for id_ in where[each][:1]))[:5]


def _verse_facts(script: str, profile: Profile, lang: str, made: Any) -> Iterator[Item]:
    poems = profile.forms.total()
    name, count = sorted(profile.forms.items(), key=lambda pair: (-pair[1], pair[0]))[0]
    shares = {each: round(n / profile.texts, 4) for each, n in profile.forms.most_common(6)}
    text = t(
        "{percent} of the texts are verse, most of them {form} (lines x length)",
        lang,
        percent=f"{poems / profile.texts:.0%}",
        form=name,
    )
    yield made("verse_form", text, shares, profile.form_of[name].ids())
    top = {str(size): round(n / profile.line_lengths.total(), 4) for size, n in profile.line_lengths.most_common(4)}
    unit = t("characters", lang) if script == "zh" else t("syllables", lang)
    text = t(
        "A line of verse has {sizes} {unit}",
        lang,
        sizes=_list(f"{size} ({share:.0%})" for size, share in top.items()),
        unit=unit,
    )
    yield made("line_length", text, top, profile.form_of[name].ids())
    if profile.rhyme_places:
        rate = round(profile.rhymed / profile.rhyme_places, 4)
        text = t("{percent} of {places} rhyming places rhyme", lang, percent=f"{rate:.0%}", places=profile.rhyme_places)
        yield made("rhyme_rate", text, rate, profile.rhyming.ids())
