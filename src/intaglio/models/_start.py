"""Training that goes on from a finished model: what is taken over, what is refused, and whether it helped.

The peak learning rate is ``SHARE`` of that of a training from nothing, and the warm-up is the same: the weights lie
where a training at full rate ended after its rate had fallen to zero; at the full peak they would be thrown out of
there, and at the falling end of it nothing new would be learned. Ibrahim et al. (2024), "Simple and scalable
strategies to continually pre-train large language models", arXiv:2403.08763: warm up again, to less where less should
be forgotten.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Any

import torch

from intaglio.core.contracts import Context, Dataset
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.models._corpus import texts_of
from intaglio.models._tokenizers import TextTokenizer, count_characters
from intaglio.models._writer import Writer
from intaglio.nn.measures import bootstrap_interval
from intaglio.nn.order import derive

SHARE = 0.3  # of the peak learning rate of a training from nothing
MOST_UNKNOWN = 0.5  # of the characters of the text; above it the tokenizer is of another script
SAID_FROM = 0.001
JUDGED_CHARACTERS = 100_000


def taken_over(ctx: Context, *, kind: str) -> Writer | None:
    """The model to start from, None where none is named. kind: the tokenizer asked for, ``auto`` for any.

    Errors: UserError for a model that is no ``gpt``, or where a tokenizer of another kind is asked for.
    """
    found = ctx.inputs.get("start") or ()
    if not found:
        return None
    where, writer = f"intaglio.toml [models.{ctx.step}]", found[0]
    if not isinstance(writer, Writer):
        raise UserError(
            t("start names a model that gpt cannot go on from"),
            where=where,
            fix=t('name a gpt step as start; a model made elsewhere is tuned by use = "finetune"'),
        )
    if kind not in ("auto", writer.tokenizer.kind):
        raise UserError(
            t("tokenizer is {asked}, but the model to start from has {kind}", asked=kind, kind=writer.tokenizer.kind),
            where=where,
            fix=t("leave tokenizer out: it comes with the model"),
        )
    return writer


def check_characters(tokenizer: TextTokenizer, data: Dataset, ctx: Context) -> float:
    """Share of the characters of the training text that ``tokenizer`` has no token for; said where it matters.

    Errors: UserError where it is most of the text.
    """
    if tokenizer.kind != "char":
        return 0.0
    counts: Counter[str] = count_characters(texts_of(data, "train"))
    known = {token for token in tokenizer.strings if len(token) == 1}
    unknown = {char: number for char, number in counts.items() if char not in known}
    share = sum(unknown.values()) / max(1, counts.total())
    if share > MOST_UNKNOWN:
        raise UserError(
            t("the model to start from has no token for {share} of the characters", share=f"{share:.0%}"),
            where=f"intaglio.toml [models.{ctx.step}]",
            fix=t("train a new model (leave start out), or start from one with tokenizer byte or bpe"),
        )
    if share > SAID_FROM:
        common = " ".join(sorted(unknown, key=lambda char: (-unknown[char], char))[:8])
        ctx.warn(
            t(
                "the model to start from has no token for {count} characters ({share} of the text: {common}): they "
                "are read and written as bytes",
                count=len(unknown),
                share=f"{share:.1%}",
                common=common,
            )
        )
    return share


def digest(writer: Writer) -> str:
    """Content address of the weights that are started from, so that a state of another start is not gone on with."""
    found = hashlib.sha256()
    for name, tensor in sorted(writer.model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


class GoingOn:
    """The starting model against what it became, on the same held-out texts, whole and text by text."""

    def __init__(self, start: Writer, data: Dataset, ctx: Context) -> None:
        self.unknown, self.digest = check_characters(start.tokenizer, data, ctx), digest(start)
        self.seed, self.ctx, self.texts = derive(ctx.seed, "start"), ctx, list[str]()
        characters = 0
        for text in texts_of(data, "heldout"):
            if characters >= JUDGED_CHARACTERS:
                break
            self.texts.append(text[: JUDGED_CHARACTERS - characters])
            characters += len(self.texts[-1])
        self.characters = characters
        self.before = torch.tensor(start.nats(self.texts), dtype=torch.float64)

    def figures(self, writer: Writer) -> dict[str, Any]:
        """Bits a character of both, their difference with its 95 % interval over texts, and the verdict."""
        started = {"unknown_to_start": round(self.unknown, 4), "start": self.digest}
        names = ("baseline_start_bits_per_char", "change_bits_per_char")
        if not self.characters:
            return {**dict.fromkeys(names), "verdict": "unknown", **started}
        bits = self.characters * math.log(2)
        after = torch.tensor(writer.nats(self.texts), dtype=torch.float64)
        scale = len(self.texts) / bits  # from the mean over texts to bits a character
        change = bootstrap_interval((after - self.before) * scale, seed=self.seed)
        sure = len(self.texts) > 1 and (change.high < 0 or change.low > 0)
        verdict = "unknown" if not sure else "better" if change.high < 0 else "worse"
        if verdict == "worse":
            self.ctx.warn(t("on held-out text it is worse than the model it started from: fewer steps, or more text"))
        figures = {names[0]: round(float(self.before.sum()) / bits, 4), names[1]: change.plain(4)}
        return {**figures, "verdict": verdict, **started}
