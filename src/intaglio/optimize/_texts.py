"""What is measured of texts: likelihood under a held-out judge, repetition, copies of the archive, form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from intaglio.core.contracts import Dataset, Item
from intaglio.core.i18n import t
from intaglio.media.verse import Form, check
from intaglio.optimize._judge import Judge
from intaglio.trust.similarity import Run, letters, longest_runs, mostly_han

MIN_SHARE = 0.5  # of a text may always stand in the archive: sayings, refrains, names
MIN_CHARS = {True: 24, False: 80}  # so long may one run always be, in Chinese and in other letters
SLACK = 1.25  # beyond what nine in ten held-out texts have in common with the training texts
SAMPLE = 400  # held-out texts that set the bound and the baselines
MIN_DISTINCT = 0.5  # share of distinct 4-grams below which a text repeats itself
DISTINCT_N = 4
WINDOW = 600  # letters
MOST_HELDOUT = 4_000  # held-out texts that are looked at, evenly over all of them


@dataclass(frozen=True)
class TextScale:
    """What the archive's own held-out texts score, so that a candidate's figures have something beside them.

    judge:  learned from half of the held-out texts. bits: the other half's mean.
    source: what the judge learned from: ``heldout``, ``train`` (no held-out texts there) or ``none``.
    covered, run_share, run_chars: what nine in ten held-out texts have in common with the training texts (share in
            runs of any length, share and letters of the longest run); None without held-out texts.
    """

    judge: Judge
    source: str
    bits: float | None
    unigram_bits: float | None
    covered: float | None
    run_share: float | None
    run_chars: float | None

    def copied(self, run: Run, *, han: bool) -> bool:
        """Whether this much of a text in the archive is more than texts of this archive have in common anyway."""
        return (
            run.covered > max(MIN_SHARE, SLACK * (self.covered or 0.0))
            or run.share > max(MIN_SHARE, SLACK * (self.run_share or 0.0))
            or run.chars > max(MIN_CHARS[han], SLACK * (self.run_chars or 0.0))
        )


def scale(archive: Dataset) -> TextScale:
    """Learn the judge and the bounds from an archive; one pass over its training texts for the bounds."""
    kept_out = archive.split("heldout").of("text")
    every = max(1, len(kept_out) // MOST_HELDOUT)
    heldout = [item.text for item in islice(_texts(kept_out), 0, None, every)]
    if len(heldout) >= 2:
        judge, rest, source = Judge(heldout[0::2]), heldout[1::2], "heldout"
    else:
        judge, rest, source = Judge(item.text for item in _texts(archive.split("train"))), heldout, "train"
    if not judge.chars:
        source = "none"
    sample = rest[:: max(1, len(rest) // SAMPLE)][:SAMPLE]
    runs = longest_runs(sample, ((item.id, item.text) for item in _texts(archive.split("train")))) if sample else []
    return TextScale(
        judge,
        source,
        _mean([judge.bits_per_char(text) for text in sample]),
        _mean([judge.bits_per_char(text, order=0) for text in sample]),
        _nine_in_ten([run.covered for run in runs]),
        _nine_in_ten([run.share for run in runs]),
        _nine_in_ten([float(run.chars) for run in runs]),
    )


def _texts(items: Dataset) -> Iterator[Item]:
    return (item for item in items.of("text") if item.text.strip())


def _nine_in_ten(values: Sequence[float]) -> float | None:
    """The value that nine in ten stay below; None of none."""
    return sorted(values)[min(len(values) - 1, int(0.9 * len(values)))] if values else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class TextScores:
    """The figures of one text and what speaks against it."""

    scores: dict[str, float | None]
    faults: tuple[str, ...]


def judge_texts(items: Sequence[Item], archive: Dataset, bounds: TextScale) -> list[TextScores]:
    """Scores and faults of each item, in order; the whole archive (held-out texts too) flows past once."""
    runs = longest_runs([item.text for item in items], ((item.id, item.text) for item in _texts(archive)))
    return [_one(item, run, bounds) for item, run in zip(items, runs, strict=True)]


def _one(item: Item, run: Run, bounds: TextScale) -> TextScores:
    distinct = distinct_share(item.text)
    form, form_faults = _form(item)
    faults = list(form_faults)
    if not letters(item.text):
        faults.append(t("it has no words"))
    if bounds.copied(run, han=mostly_han(item.text)):
        share = max(run.covered, run.share)
        faults.append(
            t(
                "{share:.0%} of it stands in the archive word for word: “{excerpt}”",
                share=share,
                excerpt=_short(run.excerpt),
            )
        )
    if distinct is not None and distinct < MIN_DISTINCT:
        faults.append(
            t("it repeats itself: only {share:.0%} of its four-character groups are distinct", share=distinct)
        )
    scores: dict[str, float | None] = {
        "bits_per_char": _round(bounds.judge.bits_per_char(item.text)),
        "bits_per_char_unigram": _round(bounds.judge.bits_per_char(item.text, order=0)),
        "distinct_4": _round(distinct),
        "longest_repeat_chars": float(longest_repeat(item.text)),
        "longest_copy_chars": float(run.chars),
        "copied_share": _round(run.covered),
        "form": form,
    }
    return TextScores(scores, tuple(faults))


def _form(item: Item) -> tuple[float | None, tuple[str, ...]]:
    """Share of lines and rhymes in order, and the faults; None where the piece has no form to keep."""
    meta = item.meta.get("form")
    if not isinstance(meta, dict):
        return None, ()
    try:
        form = Form.from_meta(meta)
    except (KeyError, TypeError, ValueError):
        return None, ()  # a form of another maker's: not assessed
    found = check(item.text, form)
    return _round((found.measured + found.rhymed) / max(1, found.lines + found.rhymes)), found.faults


def distinct_share(text: str, n: int = DISTINCT_N) -> float | None:
    """Distinct groups of ``n`` letters over all of them (Li et al. 2016, distinct-n), the least of any window of 600
    letters, since the share falls with the length of a text; None below 2n letters."""
    bare = letters(text)
    if len(bare) < 2 * n:
        return None
    starts = range(0, max(1, len(bare) - WINDOW // 2), WINDOW // 2)
    return min(_distinct(bare[start : start + WINDOW], n) for start in starts)


def _distinct(bare: str, n: int) -> float:
    groups = [bare[i : i + n] for i in range(max(1, len(bare) - n + 1))]
    return len(set(groups)) / len(groups)


def longest_repeat(text: str) -> int:
    """Length in letters of the longest run that stands twice in the text (overlaps count), by doubling and halving."""
    bare = letters(text)

    def repeats(size: int) -> bool:
        seen: set[str] = set()
        for place in range(len(bare) - size + 1):
            group = bare[place : place + size]
            if group in seen:
                return True
            seen.add(group)
        return False

    low, high = 0, max(len(bare) - 1, 0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if repeats(middle) else (low, middle - 1)
    return low


def rank_key(scores: TextScores) -> float:
    """Less is better: bits per character, with what was copied and what is repeated counted against a text."""
    bits = scores.scores["bits_per_char"] or 0.0
    distinct = scores.scores["distinct_4"]
    return bits + 2.0 * (scores.scores["copied_share"] or 0.0) + 4.0 * (1.0 - (1.0 if distinct is None else distinct))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:39] + "…"


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
