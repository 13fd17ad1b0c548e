"""Drawing texts from a model: what a generator plans, drawn in batches, redrawn where it failed, and told with each
piece."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from intaglio.core.contracts import Completion, Constraint, Context, Hit, Inputs, LoadedKnowledge, Sampling, TextModel
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.generate._briefs import Brief, seed_of

BATCH = 32
MOST_THEMES = 256


@dataclass(frozen=True)
class Draft:
    """One candidate before it is drawn. opening: the piece's first words, which stand at the end of ``prompt``."""

    brief: Brief
    candidate: int
    prompt: str
    opening: str = ""
    title: str = ""
    constraint: Constraint | None = None
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """A candidate drawn: the whole text with its opening, and how it was drawn."""

    draft: Draft
    text: str
    seed: int
    attempt: int
    completion: Completion
    faults: tuple[str, ...] = ()

    def meta(self, sampling: Sampling) -> dict[str, Any]:
        """What makes the draw repeatable, as plain JSON."""
        draft = self.draft
        told = {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
        }
        nats = self.completion.nats
        return {
            "seed": self.seed,
            "brief": draft.brief.as_meta(),
            "candidate": draft.candidate,
            "attempt": self.attempt,
            "prompt": draft.prompt,
            "sampling": {**told, "max_tokens": draft.max_tokens},
            "finish": self.completion.finish,
            "tokens": self.completion.tokens,
            **({} if nats is None else {"nats": round(nats, 4)}),
            **draft.notes,
        }


def follows_instructions(model: TextModel) -> bool:
    """Whether a prompt is something to be answered, not something to be continued."""
    return bool(getattr(model, "follows_instructions", False))


def text_model(inputs: Inputs) -> TextModel:
    """The model of the role ``model``. Errors: UserError where it makes something else."""
    model: TextModel = inputs["model"][0]
    if model.makes != "text":
        raise UserError(t("this model makes {makes}, not text", makes=model.makes), fix=t("name a text model as model"))
    return model


def knowledge_of(inputs: Inputs) -> Sequence[LoadedKnowledge]:
    """What stands in the role ``knowledge``, possibly nothing."""
    return list(inputs.get("knowledge", ()))


def search_all(knowledge: Sequence[LoadedKnowledge], query: str, k: int) -> list[Hit]:
    """The best passages of all, one an item, in turns: the scores of different indexes cannot be compared.

    What finds facts and no passages (keywords, style) is left out.
    """
    indexes = [each for each in knowledge if not getattr(each, "of_facts", False)]
    columns = [each.search(query, k) for each in indexes] if query.strip() else []
    found: dict[str, Hit] = {}
    for rank in range(k):
        for column in columns:
            if rank < len(column):
                found.setdefault(column[rank].item, column[rank])
    return list(found.values())[:k]


@dataclass(frozen=True)
class Told:
    """What the facts of all knowledge tell: themes (the words of topics and keywords), a fixed sample, and style."""

    themes: tuple[str, ...]
    style: tuple[str, ...]


def told_by(knowledge: Sequence[LoadedKnowledge], ctx: Context) -> Told:
    """Read the facts, of which there may be as many as items."""
    themes: list[tuple[int, str]] = []
    style: list[str] = []
    for each in knowledge:
        for place, fact in enumerate(each.facts()):
            kind = fact.meta.get("kind")
            if kind == "style":
                style.append(fact.text)
            elif kind in ("topic", "keyword"):
                words = fact.meta.get("terms") or [fact.text]
                themes.append((seed_of(ctx.seed, 0, place), " ".join(str(word) for word in words[:3])))
    chosen = heapq.nsmallest(MOST_THEMES, themes)
    return Told(tuple(dict.fromkeys(text for _, text in chosen)), tuple(style[:12]))


@dataclass(frozen=True)
class Drawing:
    """How drafts are drawn. judge: the finished text of a completion, or "" where it cannot be used, and what is wrong
    with it."""

    model: TextModel
    sampling: Sampling
    ctx: Context
    total: int
    attempts: int
    judge: Callable[[Draft, str], tuple[str, tuple[str, ...]]]

    def draw(self, drafts: Iterator[Draft]) -> Iterator[Drawn]:
        """The drafts in order, each at its best of up to ``attempts`` draws; one that stays empty is left out and
        said."""
        done, lost = 0, 0
        texts: set[str] = set()
        batch: list[Draft] = []
        for draft in drafts:
            batch.append(draft)
            if len(batch) == BATCH or _fresh_settings(batch):
                held = batch[-1:] if _fresh_settings(batch) else []
                for drawn in self._batch(batch[: len(batch) - len(held)], texts):
                    lost += drawn is None
                    if drawn is not None:
                        yield drawn
                done += len(batch) - len(held)
                self.ctx.progress(done, self.total, pieces=done)
                batch = held
        for drawn in self._batch(batch, texts):
            lost += drawn is None
            if drawn is not None:
                yield drawn
        self.ctx.progress(self.total, self.total, pieces=self.total)
        if lost:
            self.ctx.warn(
                t(
                    "{lost} of {total} candidates stayed empty or repeated others and were left out",
                    lost=lost,
                    total=self.total,
                )
            )

    def _batch(self, drafts: Sequence[Draft], texts: set[str]) -> list[Drawn | None]:
        best: list[Drawn | None] = [None] * len(drafts)
        open_ = list(range(len(drafts)))
        for attempt in range(self.attempts):
            if not open_:
                break
            seeds = [seed_of(self.ctx.seed, drafts[i].brief.number, drafts[i].candidate, attempt) for i in open_]
            sampling = replace(self.sampling, max_tokens=drafts[0].max_tokens, stop=drafts[0].stop)
            constraints = [drafts[i].constraint for i in open_]
            if not any(constraints):
                constraints = []
            made = self.model.complete(
                [drafts[i].prompt for i in open_], seeds=seeds, sampling=sampling, constraints=constraints
            )
            again = []
            for i, seed, completion in zip(open_, seeds, made, strict=True):
                text, faults = self.judge(drafts[i], drafts[i].opening + completion.text)
                known = best[i]
                if text and text not in texts and (known is None or len(faults) < len(known.faults)):
                    best[i] = Drawn(drafts[i], text, seed, attempt, completion, faults)
                    if not faults:
                        texts.add(text)
                        continue
                again.append(i)
            open_ = again
        texts.update(each.text for each in best if each is not None)
        return _once(best)


def _once(drawn: list[Drawn | None]) -> list[Drawn | None]:
    """The same text twice in a batch counts once."""
    seen: set[str] = set()
    found: list[Drawn | None] = []
    for each in drawn:
        repeated = each is not None and each.text in seen
        found.append(None if repeated else each)
        if each is not None:
            seen.add(each.text)
    return found


def _fresh_settings(batch: Sequence[Draft]) -> bool:
    """Whether the last draft cannot be drawn together with the first: other limits or stop words."""
    return (batch[-1].max_tokens, batch[-1].stop) != (batch[0].max_tokens, batch[0].stop)
