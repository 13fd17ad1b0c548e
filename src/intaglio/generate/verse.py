"""Verse: poems from a text model, held to a form by masks while it writes, with a title each.

Forms:    Chinese ``quatrain`` (four lines of 5 or 7 characters, rhyme in lines 2 and 4, line 1 free to join, line 3
          kept away, no rhyming character twice) and ``couplet`` (two lines); English ``quatrain`` (xAxA), ``couplet``,
          ``haiku``, ``limerick``, ``sonnet`` with syllables and rhyme estimated by rules (``media/verse.py``);
          ``free``: as the model likes. ``auto`` looks at what the model writes by itself, and else at passages of the
          archive: regular Chinese verse becomes quatrains of its own line lengths, other lines become English
                   quatrains, prose stays free.
Masks:    a GPT of 1.3 M parameters rhymed in 2 of 54 free quatrains where the Tang poems it learned from rhyme in four
          places of five, and in all of 40 under the mask: length and rhyme are held token by token, and the model
          chooses among what is left. A model that takes instructions is told the form instead. Either way the finished
          poem is checked, redrawn where it fails, and its form is kept in ``meta`` for the critic.
Theme:    a model of one's own begins with a word of the theme, or with a word that the items found for it share; a
          model that takes instructions gets theme and found passages in its prompt. Items whose material was used are
          parents.
Titles:   the brief's; else the model's own where it writes titles; else the opening of the poem.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from intaglio.core.config import Names, ProjectFile, Role, StepConfig
from intaglio.core.contracts import Constraint, Context, Hit, Inputs, Item, Sampling, TextModel
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.core.registry import import_or_explain
from intaglio.generate._asking import ask_for_poem, poem_in
from intaglio.generate._briefs import Brief, briefs, seed_of
from intaglio.generate._drafts import Draft, Drawing, follows_instructions, knowledge_of, search_all, text_model
from intaglio.generate._han import HanForm
from intaglio.generate._latin import LatinForm, Lexicon
from intaglio.generate._layout import Layout, of_archive, probe
from intaglio.generate._titles import opening_title, split_title
from intaglio.media.verse import FORMS, Form, check, is_han, lines_of
from intaglio.media.words import content_words, sentences

FORM_NAMES = ("auto", "free", "quatrain", "couplet", "haiku", "limerick", "sonnet")
TINY: dict[str, Any] = {"count": 2, "length": 60}


class Config(StepConfig):
    """What to write.

    count:       candidates a brief. briefs: CSV inside the project with columns title, theme, form, count, language.
    form:        see the module. line: characters a line of Chinese forms; left out, as the model writes by itself.
    length:      most tokens of a free poem.
    temperature: 0 is greedy; lower is tamer. top_p: share of likely tokens to draw from. attempts: draws until the form
                 is kept.
    """

    model: Annotated[Names, Role(stages=("models",), media=("text",), many=False)]
    knowledge: Annotated[Names, Role(stages=("knowledge",))] = ()
    briefs: ProjectFile | None = None
    count: int = Field(default=6, ge=1, le=100_000)
    form: Literal["auto", "free", "quatrain", "couplet", "haiku", "limerick", "sonnet"] = "auto"
    line: Literal[5, 7] | None = None
    length: int = Field(default=200, ge=8, le=8_192)
    temperature: float = Field(default=0.8, ge=0.0, le=5.0)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    attempts: int = Field(default=4, ge=1, le=64)


@dataclass(frozen=True)
class _Desk:
    """Everything the poems of one step share."""

    model: TextModel
    knowledge: Sequence[Any]
    layout: Layout
    lexicon: Lexicon
    ctx: Context


class Component:
    """``core.contracts.Generator``."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def generate(self, inputs: Inputs, ctx: Context) -> Iterator[Item]:
        """Poems with their title in ``meta["title"]`` and their form in ``meta["form"]`` (None where free).

        Errors: UserError for briefs that cannot be read or a form that the language has not; MissingExtra without
                pypinyin.
        """
        config = self.config
        model = text_model(inputs)
        wanted = briefs(ctx.project, config.briefs, count=config.count, forms=FORM_NAMES)
        asked = follows_instructions(model)
        knowledge = knowledge_of(inputs)
        layout = Layout(_script(ctx.languages), verse=True) if asked else probe(model, ctx)
        if not layout.verse:  # a weak model does not show what it learned from: the archive does
            layout = next((found for found in [of_archive(knowledge, ctx)] if found.verse), layout)
        lexicon = Lexicon(layout.words if layout.script == "en" else ())
        desk = _Desk(model, knowledge, layout, lexicon, ctx)
        for brief in wanted:
            self._form(brief, desk, 0)  # a form that cannot be had is refused before any work
        sampling = Sampling(temperature=config.temperature, top_p=config.top_p)
        total = sum(brief.count for brief in wanted)
        judge = _judge_answer if asked else _judge_written
        drawing = Drawing(model, sampling, ctx, total, config.attempts, judge)
        taken: set[str] = set()
        made = failed = 0
        for drawn in drawing.draw(draft for brief in wanted for draft in self._drafts(brief, desk, asked)):
            title, text = split_title(drawn.text) if asked else ("", drawn.text)
            title = drawn.draft.brief.title or drawn.draft.title or title or opening_title(text, taken=taken)
            taken.add(title)
            made += 1
            failed += bool(drawn.faults)
            meta = {"kind": "verse", "title": title, **drawn.meta(sampling), "faults": list(drawn.faults)}
            language = drawn.draft.brief.language or ("zh" if any(map(is_han, text)) else "en")
            yield Item(media="text", text=text, language=language, parents=drawn.draft.parents, meta=meta)
        ctx.metric(candidates=made, form_kept=made - failed, line_lengths={str(k): n for k, n in layout.lengths})

    def _form(self, brief: Brief, desk: _Desk, candidate: int) -> Form | None:
        name = brief.form or self.config.form
        script = brief.language[:2] if brief.language[:2] in ("zh", "en") else desk.layout.script
        if name == "auto":
            name = "quatrain" if desk.layout.verse else "free"
        if name == "free":
            return None
        line = 0 if script == "en" else self.config.line or self._line(desk, brief, candidate)
        form = FORMS.get((name, script, line))
        if form is None:
            known = ", ".join(sorted({each for each, of, _ in FORMS if of == script}))
            raise UserError(
                t(
                    "there is no {form} in this language ({script}). Forms here: {known}",
                    form=name,
                    script=script,
                    known=known,
                ),
                where=f"intaglio.toml [generate.{desk.ctx.step}] form",
            )
        if script == "zh":
            import_or_explain("pypinyin", t("rhyme in Chinese verse"))
        return form

    def _line(self, desk: _Desk, brief: Brief, candidate: int) -> int:
        """Five or seven, in the shares in which the model writes them by itself."""
        counts = dict(desk.layout.lengths) or {5: 1, 7: 1}
        drawn = seed_of(desk.ctx.seed, brief.number, candidate, 1_000_000) % sum(counts.values())
        return 5 if drawn < counts.get(5, 0) else 7

    def _drafts(self, brief: Brief, desk: _Desk, asked: bool) -> Iterator[Draft]:
        hits = search_all(desk.knowledge, brief.theme, 6)
        if asked:
            yield from self._asked(brief, desk, hits)
            return
        openings = _openings(brief, hits, desk.layout.script)
        if brief.theme and openings == [("", ())]:
            desk.ctx.warn(
                t("the theme '{theme}' holds no word this model could begin with: it is left out", theme=brief.theme)
            )
        forms = [self._form(brief, desk, number) for number in range(brief.count)]
        titles = self._titles(brief, desk)
        for number, form in enumerate(forms):
            opening, parents = openings[number % len(openings)]
            if form is not None and form.script == "zh" and len(opening) > form.lines[0][0] - 1:
                opening, parents = "", ()
            head = titles[number] + desk.layout.gap if desk.layout.titled else ""
            yield Draft(
                brief,
                number,
                prompt=head + opening,
                opening=opening,
                title=titles[number],
                constraint=_constraint(form, desk.lexicon, opening),
                max_tokens=_most_tokens(form) or self.config.length,
                parents=parents,
                notes={"form": form.as_meta() if form else None},
            )

    def _asked(self, brief: Brief, desk: _Desk, hits: list[Hit]) -> Iterator[Draft]:
        for number in range(brief.count):
            form = self._form(brief, desk, number)
            prompt = ask_for_poem(brief, form, hits, desk.ctx.languages)
            parents = tuple(hit.item for hit in hits if hit.item)
            notes = {"form": form.as_meta() if form else None}
            yield Draft(brief, number, prompt, max_tokens=max(self.config.length, 400), parents=parents, notes=notes)

    def _titles(self, brief: Brief, desk: _Desk) -> list[str]:
        """The title that each poem's prompt begins with: the brief's, or of the model's own making."""
        if brief.title or not desk.layout.titled:
            return [brief.title] * brief.count
        titles: list[str] = []
        sampling = Sampling(max_tokens=32, temperature=self.config.temperature, top_p=self.config.top_p, stop=("\n",))
        for first in range(0, brief.count, 32):
            numbers = range(first, min(first + 32, brief.count))
            seeds = [seed_of(desk.ctx.seed, brief.number, number, 2_000_000) for number in numbers]
            made = desk.model.complete([""] * len(seeds), seeds=seeds, sampling=sampling)
            titles += [each.text.strip().strip("#").strip()[:40] for each in made]
        return titles


def _script(languages: Sequence[str]) -> str:
    return next((each[:2] for each in languages if each[:2] in ("zh", "en")), "en")


def _constraint(form: Form | None, lexicon: Lexicon, opening: str) -> Constraint | None:
    if form is None:
        return None
    return HanForm(form, opening) if form.script == "zh" else LatinForm(form, lexicon, opening)


def _most_tokens(form: Form | None) -> int:
    """Room for every line at its longest, one token a character (a rare Chinese one may need three)."""
    if form is None:
        return 0
    return (
        sum(high + 3 for _, high in form.lines) * 2 if form.script == "zh" else sum(9 * high for _, high in form.lines)
    )


def _openings(brief: Brief, hits: Sequence[Hit], script: str) -> list[tuple[str, tuple[str, ...]]]:
    """First words for poems on a theme, each with the items it was taken from; one empty opening where there is no
    theme."""
    if not brief.theme:
        return [("", ())]
    own = [word for word in content_words(brief.theme) if (script == "zh") == all(map(is_han, word))]
    if not own and script == "zh" and len(brief.theme) <= 3 and all(map(is_han, brief.theme)):
        own = [brief.theme]
    found: list[tuple[str, tuple[str, ...]]] = [(word, ()) for word in dict.fromkeys(own) if len(word) <= 12]
    shared = Counter(
        word for hit in hits for word in set(content_words(hit.text)) if len(word) <= (3 if script == "zh" else 12)
    )
    for word, count in sorted(shared.items(), key=lambda pair: (-pair[1], pair[0])):
        if count > 1 and word not in own and len(found) < 6:
            found.append((word, tuple(hit.item for hit in hits if hit.item and word in content_words(hit.text))))
    if script == "en":
        found = [(word[:1].upper() + word[1:], parents) for word, parents in found]
    return found or [("", ())]


def _judge_written(draft: Draft, text: str) -> tuple[str, tuple[str, ...]]:
    """The poem of a completion, tidied, and what is wrong with its form."""
    form = draft.notes["form"]
    text = "\n".join(line.rstrip() for line in text.strip().splitlines())
    if form is None:
        return _whole(text), ()
    kept = Form.from_meta(form)
    text = _stanzas(text) if kept.script == "zh" else _capital("\n".join(lines_of(text, "en")))
    return text, check(text, kept).faults


def _judge_answer(draft: Draft, text: str) -> tuple[str, tuple[str, ...]]:
    """The poem in a model's answer, its title kept as a first line, and what is wrong with its form."""
    title, body = poem_in(text)
    form = draft.notes["form"]
    faults = check(body, Form.from_meta(form)).faults if form and body else ()
    return (f"# {title}\n\n{body}" if title and body else body), faults


def _whole(text: str) -> str:
    """Without the last sentence or line where that broke off, unless nothing else is there."""
    if not text or text[-1] in "。！？!?.…”\"'":
        return text
    ends = [end for _, end in sentences(text)]
    return text[: ends[-2]].rstrip() if len(ends) > 2 else text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _stanzas(text: str) -> str:
    """Two lines of a Chinese poem on one line of text, as such poems are printed; one each where no mark parts them."""
    found = ""
    for number, line in enumerate(re.findall(r"(\w+)(\W*)", text)):
        words, marks = line[0], "".join(line[1].split())[:1]
        found += words + marks + ("\n" if number % 2 or not marks else "")
    return found.strip()
