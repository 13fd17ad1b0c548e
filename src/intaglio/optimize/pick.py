"""Pick the best candidates by written metrics; what copies the archive or fails its form is refused with the reason.

Texts     bits_per_char          under a character n-gram judge of held-out texts; less is more like the archive
          bits_per_char_unigram  the same with no context: the trivial baseline
          distinct_4             distinct groups of four letters; below 0.5 it is refused as repetition
          longest_repeat_chars   the longest run that stands twice in it
          longest_copy_chars     the longest run that stands in the archive word for word (letters only)
          copied_share           share of it in such runs. It is refused where this share, or the longest run's, is
                                 above 0.5, or that run is longer than 80 letters (24 in Chinese) - or 1.25 times what
                                 nine in ten held-out texts have in common with the training texts, if that is more
          form                   share of lines and rhymes in order; refused below 1
Pictures  nearest_train          root mean square difference at 16 x 16; refused below half of held-out's median
          nearest_heldout, train_to_heldout_ratio (well below 1: it leans on training pictures)
          sharpness              beside the archive's median; nearest_other: to another candidate
          round_trip_mse         how well its model rebuilds it, as measured when it was made
Ranking   texts by bits_per_char + 2 copied_share + 4 (1 - distinct_4); pictures by sharpness, nearness to the archive's
          and difference from those chosen. ``keep`` is shared by media in proportion, at least one each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Item, Verdict
from intaglio.core.errors import UserError
from intaglio.core.i18n import t

TINY: dict[str, Any] = {"keep": 2}


class Config(StepConfig):
    """items: the candidates. keep: how many go on, at most; 0 keeps all that pass."""

    items: Annotated[Names, Role(stages=("generate", "optimize"))]
    keep: int = Field(default=12, ge=0, le=1_000_000)


class Component:
    """``core.contracts.Critic``."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def judge(self, items: Dataset, archive: Dataset, ctx: Context) -> Iterator[Verdict]:
        """A verdict for every item; media without metrics of ours are kept in their order and scored "not assessed".

        Errors: UserError where there is no candidate.
        """
        by_media: dict[str, list[Item]] = {}
        for item in dict((item.id, item) for item in items).values():
            by_media.setdefault(item.media, []).append(item)
        if not by_media:
            raise UserError(
                t("there are no candidates to pick from"), where=f"intaglio.toml [optimize.{ctx.step}] items"
            )
        shares = _shares({media: len(found) for media, found in by_media.items()}, self.config.keep)
        verdicts: list[Verdict] = []
        for media, found in by_media.items():
            judged = {"text": _judge_text, "image": _judge_image}.get(media, _judge_other)
            verdicts += judged(found, archive, shares[media], ctx)
            ctx.progress(len(verdicts), sum(map(len, by_media.values())))
        kept = sum(verdict.kept for verdict in verdicts)
        ctx.metric(candidates=len(verdicts), kept=kept)
        if not kept:
            ctx.warn(t("no candidate passed the gate; intaglio show {step} gives the reasons", step=ctx.step))
        yield from _ranked(verdicts)


def _shares(counts: dict[str, int], keep: int) -> dict[str, int]:
    """How many of each medium are kept: in proportion by largest remainder, one each at least where ``keep`` allows."""
    total = sum(counts.values())
    if keep == 0 or keep >= total:
        return dict(counts)
    exact = {media: keep * count / total for media, count in counts.items()}
    shares = {media: int(value) for media, value in exact.items()}
    order = sorted(counts, key=lambda media: (shares[media] > 0, -(exact[media] - shares[media]), media))
    for media in order:
        if sum(shares.values()) < keep:
            shares[media] += 1
    while len(counts) <= keep and min(shares.values()) == 0:
        shares[min(shares, key=lambda m: (shares[m], m))] += 1
        shares[max(shares, key=lambda m: (shares[m], m))] -= 1
    return shares


def _ranked(verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    """One order over all media: the first of each, then the second of each."""
    order = sorted(verdicts, key=lambda v: (not v.kept, v.rank))
    for rank, verdict in enumerate(order):
        yield Verdict(verdict.item, verdict.kept, verdict.scores, verdict.reasons, rank)


def _judge_text(items: Sequence[Item], archive: Dataset, keep: int, ctx: Context) -> list[Verdict]:
    from intaglio.optimize import _texts

    bounds = _texts.scale(archive)
    if bounds.source != "heldout":
        ctx.warn(
            t("the archive has too few held-out texts: the judge of texts learned from {source}", source=bounds.source)
        )
    found = _texts.judge_texts(items, archive, bounds)
    order = sorted(range(len(items)), key=lambda i: (bool(found[i].faults), _texts.rank_key(found[i]), items[i].id))
    passed = [i for i in order if not found[i].faults]
    kept = set(passed[:keep])
    bits = [value for each in found if (value := each.scores["bits_per_char"]) is not None]
    ctx.metric(
        text={
            "judge": bounds.source,
            "judge_chars": bounds.judge.chars,
            "heldout_bits_per_char": bounds.bits,
            "heldout_bits_per_char_unigram": bounds.unigram_bits,
            "candidates_bits_per_char": sum(bits) / len(bits) if bits else None,
            "heldout_copied_share": bounds.covered,
            "heldout_longest_copy_share": bounds.run_share,
            "heldout_longest_copy_chars": bounds.run_chars,
            "passed": len(passed),
            "candidates": len(items),
        }
    )
    return [
        Verdict(
            items[i].id, i in kept, found[i].scores, () if i in kept else found[i].faults or (_not_best(keep),), rank
        )
        for rank, i in enumerate(order)
    ]


def _judge_image(items: Sequence[Item], archive: Dataset, keep: int, ctx: Context) -> list[Verdict]:
    from intaglio.optimize import _pictures

    found, bounds = _pictures.judge_pictures(items, archive, ctx.path)
    passed = [i for i in range(len(items)) if not found[i].faults]
    chosen, alike = _pictures.choose(found, passed, keep, bounds)
    ctx.metric(
        image={
            "copy_bound": bounds.copy,
            "heldout_to_train": bounds.heldout_to_train,
            "diversity": _pictures.diversity(found, range(len(items))),
            "diversity_kept": _pictures.diversity(found, chosen),
            "passed": len(passed),
            "candidates": len(items),
        }
    )
    order = chosen + [i for i in range(len(items)) if i not in set(chosen)]
    verdicts = []
    for rank, i in enumerate(order):
        reasons = found[i].faults or ((t("too like another candidate"),) if i in alike else (_not_best(keep),))
        verdicts.append(
            Verdict(items[i].id, rank < len(chosen), found[i].scores, () if rank < len(chosen) else reasons, rank)
        )
    return verdicts


def _judge_other(items: Sequence[Item], archive: Dataset, keep: int, ctx: Context) -> list[Verdict]:
    return [
        Verdict(item.id, rank < keep, {"assessed": None}, () if rank < keep else (_not_best(keep),), rank)
        for rank, item in enumerate(items)
    ]


def _not_best(keep: int) -> str:
    return t("passed, but not among the best {keep}", keep=keep)
