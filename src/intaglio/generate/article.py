"""Article: prose from a text model, a title and a body, with material found in the archive where the model can use it.

Own models: a small GPT continues. With knowledge it begins with the first few words of a passage found for the theme
            (without a theme, of
          one about a topic drawn by the seed): too few words to be a copy, enough to set the subject; that item is a
          parent. Where ``material`` passages fit twice over into what the model sees at once, they stand before the
          opening and are parents, too. Without knowledge the model opens by itself.
Engines:  a model that takes instructions is asked for an article on the theme, with the passages found and the
          archive's style.
Text:     ends with its last whole sentence. Title: the brief's, else one that the text brings itself, else its opening.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from intaglio.core.config import Names, ProjectFile, Role, StepConfig
from intaglio.core.contracts import Context, Hit, Inputs, Item, LoadedKnowledge, Sampling, TextModel
from intaglio.core.i18n import t
from intaglio.generate._asking import ask_for_article, poem_in
from intaglio.generate._briefs import Brief, briefs, seed_of
from intaglio.generate._drafts import (
    Draft,
    Drawing,
    follows_instructions,
    knowledge_of,
    search_all,
    text_model,
    told_by,
)
from intaglio.generate._titles import opening_title, split_title
from intaglio.media.verse import is_han
from intaglio.media.words import sentences

OPENING_WORDS = 4
OPENING_HAN = 4
TINY: dict[str, Any] = {"count": 2, "length": 40}


class Config(StepConfig):
    """What to write.

    count:       candidates a brief. briefs: CSV inside the project with columns title, theme, count, language.
    length:      most tokens of a piece. material: passages of the archive to look up for each piece.
    temperature: 0 is greedy; lower is tamer. top_p: share of likely tokens to draw from. attempts: draws until there is
                 a text.
    """

    model: Annotated[Names, Role(stages=("models",), media=("text",), many=False)]
    knowledge: Annotated[Names, Role(stages=("knowledge",))] = ()
    briefs: ProjectFile | None = None
    count: int = Field(default=6, ge=1, le=100_000)
    length: int = Field(default=500, ge=8, le=32_768)
    material: int = Field(default=3, ge=1, le=20)
    temperature: float = Field(default=0.8, ge=0.0, le=5.0)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    attempts: int = Field(default=3, ge=1, le=64)


@dataclass(frozen=True)
class _Archive:
    """What knowledge holds for one step: to search in, the themes it names, and its style in sentences."""

    knowledge: Sequence[LoadedKnowledge]
    themes: tuple[str, ...]
    style: tuple[str, ...]


class Component:
    """``core.contracts.Generator``."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def generate(self, inputs: Inputs, ctx: Context) -> Iterator[Item]:
        """Articles with their title in ``meta["title"]``. Errors: UserError for briefs that cannot be read."""
        config = self.config
        model = text_model(inputs)
        wanted = briefs(ctx.project, config.briefs, count=config.count)
        knowledge = knowledge_of(inputs)
        told = told_by(knowledge, ctx)
        if knowledge and not told.themes:
            ctx.warn(t("this knowledge names no topics or keywords: without a theme in a brief nothing is looked up"))
        archive = _Archive(knowledge, told.themes, told.style)
        asked = follows_instructions(model)
        sampling = Sampling(temperature=config.temperature, top_p=config.top_p)
        drawing = Drawing(
            model,
            sampling,
            ctx,
            sum(brief.count for brief in wanted),
            config.attempts,
            _judge_answer if asked else _judge,
        )
        write = self._asked if asked else self._opened
        taken: set[str] = set()
        made = with_material = 0
        for drawn in drawing.draw(draft for brief in wanted for draft in write(brief, model, archive, ctx)):
            title, text = split_title(drawn.text)
            title = drawn.draft.brief.title or title or opening_title(text, taken=taken)
            taken.add(title)
            made += 1
            with_material += bool(drawn.draft.parents)
            language = drawn.draft.brief.language or ("zh" if _mostly_han(text) else "en")
            meta = {"kind": "article", "title": title, **drawn.meta(sampling)}
            yield Item(media="text", text=text, language=language, parents=drawn.draft.parents, meta=meta)
        ctx.metric(candidates=made, with_material=with_material)

    def _found(self, brief: Brief, number: int, archive: _Archive, ctx: Context) -> tuple[str, list[Hit]]:
        """The theme of one candidate and the passages for it; another topic for each candidate where the brief names
        none."""
        theme = brief.theme or brief.title
        if not theme and archive.themes:
            theme = archive.themes[seed_of(ctx.seed, brief.number, number, 1_000_000) % len(archive.themes)]
        return theme, search_all(archive.knowledge, theme, self.config.material + 3)

    def _opened(self, brief: Brief, model: TextModel, archive: _Archive, ctx: Context) -> Iterator[Draft]:
        """Prompts for a model that continues."""
        for number in range(brief.count):
            theme, hits = self._found(brief, number, archive, ctx)
            drawn = (seed_of(ctx.seed, brief.number, 0, 2_000_000) + number) % len(hits) if hits else 0
            source = hits[drawn] if hits else None
            opening = _opening(source.text) if source else ""
            # the passage whose opening is borrowed stays out: before its own beginning it would only be recited
            material = self._material([hit for hit in hits if hit is not source], model) if opening else []
            prompt = "\n\n".join([*(hit.text.strip() for hit in material), opening])
            used = [source, *material] if source and opening else material
            yield Draft(
                brief,
                number,
                prompt=prompt,
                opening=opening,
                max_tokens=self.config.length,
                parents=tuple(dict.fromkeys(hit.item for hit in used if hit and hit.item)),
                notes={"theme": theme} if theme else {},
            )

    def _material(self, hits: Sequence[Hit], model: TextModel) -> list[Hit]:
        """The passages that together fill at most half of what the model sees at once; none where that holds no whole
        passage."""
        room = model.context_tokens // 2
        chosen: list[Hit] = []
        for hit in hits[: self.config.material]:
            room -= model.count_tokens(hit.text) + 2
            if room < 0:
                break
            chosen.append(hit)
        return chosen

    def _asked(self, brief: Brief, model: TextModel, archive: _Archive, ctx: Context) -> Iterator[Draft]:
        """Prompts for a model that takes instructions."""
        for number in range(brief.count):
            theme, hits = self._found(brief, number, archive, ctx)
            hits = hits[: self.config.material]
            told = Brief(brief.number, brief.count, brief.title, theme, brief.form, brief.language)
            prompt = ask_for_article(told, int(self.config.length * 0.6), hits, archive.style, ctx.languages)
            parents = tuple(hit.item for hit in hits if hit.item)
            notes = {"theme": theme} if theme else {}
            yield Draft(brief, number, prompt, max_tokens=self.config.length, parents=parents, notes=notes)


def _mostly_han(text: str) -> bool:
    letters = [char for char in text[:400] if char.isalpha()]
    return 2 * sum(map(is_han, letters)) > len(letters)


def _opening(text: str) -> str:
    """The first words of a passage: four, or four Chinese characters, and never half of its first sentence."""
    first = next((text[a:b] for a, b in sentences(text)), "")
    if _mostly_han(first):
        head = first[: min(OPENING_HAN, len(first) // 2)]
        return head if all(map(is_han, head)) else ""
    words = first.split()
    return " ".join(words[: min(OPENING_WORDS, len(words) // 2)])


def _judge(draft: Draft, text: str) -> tuple[str, tuple[str, ...]]:
    """The text up to its last whole sentence; empty where it says nothing of its own."""
    text = _tidy(text)
    own = len(text) - len(draft.opening)
    return (text, ()) if own >= 2 and any(char.isalnum() for char in text[len(draft.opening) :]) else ("", ())


def _judge_answer(draft: Draft, text: str) -> tuple[str, tuple[str, ...]]:
    title, body = poem_in(text)
    body = _tidy(body)
    return (f"# {title}\n\n{body}" if title and body else body), ()


def _tidy(text: str) -> str:
    lines = [line.rstrip() for line in text.strip().replace("\ufffd", "").splitlines()]
    text = "\n".join(line for i, line in enumerate(lines) if line or (i and lines[i - 1]))
    if not text or text[-1] in "。！？!?.…”’\"'）)」』":
        return text
    whole = max(text.rfind(mark) for mark in "。！？!?.…") + 1
    if whole > 0.5 * len(text):
        return text[:whole]
    ends = [end for _, end in sentences(text)]
    return text[: ends[-2]].rstrip() if len(ends) > 1 and ends[-2] > 0.4 * len(text) else text
