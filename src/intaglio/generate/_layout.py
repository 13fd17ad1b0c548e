"""How a model's texts are laid out, told from a few it writes freely: language, verse or prose, line length, titles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from intaglio.core.contracts import Context, LoadedKnowledge, Sampling, TextModel
from intaglio.generate._briefs import seed_of
from intaglio.generate._drafts import search_all, told_by
from intaglio.generate._titles import split_title
from intaglio.media.verse import is_han, lines_of, measure, words_of

PROBES = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model's own texts look like.

    script: ``zh`` or ``en``. verse: it writes lines, not prose. lengths: line lengths (5, 7) of its Chinese verse with
            their
    counts. titled: its texts begin with a title, ``gap`` is what stands between title and text. words: the words it
    knows.
    """

    script: str
    verse: bool
    lengths: tuple[tuple[int, int], ...] = ()
    titled: bool = False
    gap: str = "\n"
    words: tuple[str, ...] = ()


def probe(model: TextModel, ctx: Context) -> Layout:
    """Read the layout off some free texts; the same model and seed give the same answer."""
    seeds = [seed_of(ctx.seed, 0, number) for number in range(PROBES)]
    made = model.complete([""] * PROBES, seeds=seeds, sampling=Sampling(max_tokens=160, temperature=0.8))
    return read_layout([each.text for each in made])


def of_archive(knowledge: Sequence[LoadedKnowledge], ctx: Context) -> Layout:
    """Read the layout off passages of the archive, found by the themes that knowledge names; prose where there are
    few."""
    texts: dict[str, str] = {}
    for theme in told_by(knowledge, ctx).themes[:PROBES]:
        texts.update((hit.item, hit.text) for hit in search_all(knowledge, theme, 4))
    return read_layout(list(texts.values())) if len(texts) >= 4 else Layout("en", False)


def read_layout(texts: Sequence[str]) -> Layout:
    """The layout that most of ``texts`` share."""
    texts = [text.strip("\n") for text in texts if text.strip()]
    letters = [char for text in texts for char in text if char.isalpha()]
    if letters and 2 * sum(map(is_han, letters)) >= len(letters):
        return _han_layout(texts)
    lines = [line for text in texts for line in lines_of(text, "en")[:-1]]
    sizes = [measure(line, "en") for line in lines]
    verse = len(lines) >= 2 * max(len(texts), 1) and sum(2 <= size <= 16 for size in sizes) >= 0.7 * len(sizes)
    words = Counter(word for text in texts for word in words_of(text)[:-1])
    return Layout("en", verse, words=tuple(sorted(words)))


def _han_layout(texts: Sequence[str]) -> Layout:
    lengths: Counter[int] = Counter()
    titled, gaps = 0, Counter[str]()
    for text in texts:
        head, _, rest = text.partition("\n")
        sizes = Counter(len(line) for line in lines_of(rest or head, "zh"))
        size, count = sizes.most_common(1)[0] if sizes else (0, 0)
        if size in (5, 7) and 2 * count >= sum(sizes.values()):
            lengths[size] += 1
        first = lines_of(head, "zh")
        if rest.strip() and (
            split_title(text)[0] or (len(first) == 1 and head.strip()[-1:].isalnum() and len(first[0]) != size)
        ):
            titled += 1
            gaps["\n" + "\n" * (len(rest) - len(rest.lstrip("\n")))] += 1
    verse = 2 * sum(lengths.values()) >= max(len(texts), 1)
    has_title = 2 * titled > len(texts)
    gap = gaps.most_common(1)[0][0] if has_title else "\n"
    return Layout("zh", verse, tuple(sorted(lengths.items())) if verse else (), has_title, gap)
