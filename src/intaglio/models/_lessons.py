"""Texts and conversations as token ids for a given model, with a note which tokens are to be learned; kept on disk.

Of a conversation only the answers are learned, laid out by the model's own chat template; of a text, all of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intaglio.core.contracts import Context, Dataset, Item
from intaglio.core.errors import UserError
from intaglio.core.hashing import sha256_file
from intaglio.core.i18n import t
from intaglio.models._given_writer import encode
from intaglio.nn.order import derive, places

LEARNED, ENDING = 1, 2  # marks: counted in figures and learned; learned only (what ends a text or an answer)
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ message['content'] }}{{ eos_token }}\n"
    "{% elif message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% else %}### Question\n{{ message['content'] }}\n\n### Answer\n{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Split:
    """One split on disk. ids: token ids; marks: what is learned of them; table: (documents, 4) int64 with first and
    last place in ids, characters and bytes counted."""

    ids: np.ndarray
    marks: np.ndarray
    table: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    def document(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and marks of one document."""
        first, last = self.table[number, :2]
        return self.ids[first:last], self.marks[first:last]


@dataclass(frozen=True)
class Lessons:
    """Both splits. chats: how many training documents are conversations. digest: content address."""

    train: Split
    heldout: Split
    chats: int
    left_out: int
    digest: str


def conversation(item: Item) -> list[dict[str, str]] | None:
    """The messages of an item (``messages``, ``conversations``, or alpaca's fields in its meta), or None for a text."""
    for name in ("messages", "conversations"):
        said = item.meta.get(name)
        if isinstance(said, Sequence) and not isinstance(said, str) and said:
            return _messages(said)
    asked, answer = item.meta.get("instruction"), item.meta.get("output") or item.meta.get("response")
    if isinstance(asked, str) and isinstance(answer, str) and answer.strip():
        more = item.meta.get("input")
        question = f"{asked}\n\n{more}" if isinstance(more, str) and more.strip() else asked
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return None


def _messages(said: Sequence[Any]) -> list[dict[str, str]] | None:
    found = []
    for each in said:
        if not isinstance(each, Mapping):
            return None
        role = str(each.get("role") or each.get("from") or "")
        words = each.get("content") if "content" in each else each.get("value")
        if isinstance(words, list):
            words = "\n".join(str(part.get("text", "")) for part in words if isinstance(part, Mapping))
        if not isinstance(words, str):
            return None
        found.append({"role": _ROLES.get(role, role), "content": words})
    return found if any(each["role"] == "assistant" for each in found) else None


@dataclass(frozen=True)
class Document:
    """Token ids, marks, and how many characters and bytes the marked tokens stand for."""

    ids: list[int]
    marks: list[int]
    characters: int
    size_bytes: int


def plain_document(text: str, tokenizer: Any, *, start: int, end: int) -> Document:
    """A text, all of it learned, and its end."""
    ids = encode(tokenizer, text)
    size = len(text.encode("utf-8", "replace"))
    return Document([start, *ids, end], [0, *[LEARNED] * len(ids), ENDING], len(text), size)


def chat_document(messages: list[dict[str, str]], tokenizer: Any) -> Document | None:
    """A conversation in the model's template with its answers marked; None where the template rewrites what was said.

    The parts are encoded one by one, as they are when the model is asked: a token never spans question and answer.
    """
    ids: list[int] = []
    marks: list[int] = []
    done, characters, size = "", 0, 0

    def add(text: str, mark: int) -> None:
        new = encode(tokenizer, text, special=True) if text else []
        ids.extend(new)
        marks.extend([mark] * len(new))

    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked = _laid_out(messages[:number], tokenizer, asking=True)
        whole = _laid_out(messages[: number + 1], tokenizer, asking=False)
        answer = message["content"].strip()
        at = whole.find(answer, len(asked))
        if not asked.startswith(done) or not whole.startswith(asked) or at < 0:
            return None
        add(asked[len(done) :] + whole[len(asked) : at], 0)
        add(answer, LEARNED)
        add(whole[at + len(answer) :], ENDING)
        done = whole
        characters += len(answer)
        size += len(answer.encode("utf-8", "replace"))
    return Document(ids, marks, characters, size) if characters else None


def _laid_out(messages: list[dict[str, str]], tokenizer: Any, *, asking: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asking))


def prepare(data: Dataset, ctx: Context, tokenizer: Any, *, start: int, end: int) -> Lessons:
    """Token ids of both splits below ``ctx.work``; what an earlier, killed call finished is used again.

    Errors: UserError where there is nothing to learn from.
    """
    folder = ctx.work / "lessons"
    note = folder / "lessons.json"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        counts = {s: _write(data, s, folder, ctx, _Maker(tokenizer, start, end)) for s in ("train", "heldout")}
        names = [f"{s}.{part}" for s in counts for part in ("ids", "marks", "table")]
        facts = {**counts, "digest": ":".join(sha256_file(folder / name)[:16] for name in names)}
        part = folder / "lessons.part"
        part.write_text(json.dumps(facts), "utf-8")
        os.replace(part, note)
    facts = json.loads(note.read_text("utf-8"))
    train, heldout = (_split(folder, name) for name in ("train", "heldout"))
    if not len(train):
        raise UserError(
            t("there is no text to learn from in its data: no item of the training part holds text"),
            where=ctx.step,
            fix=t("name a data step with texts in `data`, and see what it skipped: intaglio show"),
        )
    left_out = facts["train"]["left_out"] + facts["heldout"]["left_out"]
    return Lessons(train, heldout, facts["train"]["chats"], left_out, facts["digest"])


@dataclass
class _Maker:
    tokenizer: Any
    start: int
    end: int

    def documents(self, data: Dataset, split: str) -> Iterator[tuple[bool, Document | None]]:
        for item in data.of("text").split(split):
            messages = conversation(item)
            if messages is not None:
                yield True, chat_document(messages, self.tokenizer)
            elif item.text.strip():
                yield False, plain_document(item.text, self.tokenizer, start=self.start, end=self.end)


def _write(data: Dataset, split: str, folder: Path, ctx: Context, maker: _Maker) -> dict[str, int]:
    counts = {"chats": 0, "left_out": 0, "documents": 0}
    place, total = 0, len(data)
    with (
        (folder / f"{split}.ids").open("wb") as ids,
        (folder / f"{split}.marks").open("wb") as marks,
        (folder / f"{split}.table").open("wb") as table,
    ):
        for chat, made in maker.documents(data, split):
            if made is None:
                counts["left_out"] += 1
                continue
            counts["chats"] += chat
            counts["documents"] += 1
            ids.write(np.array(made.ids, dtype=np.uint32).tobytes())
            marks.write(np.array(made.marks, dtype=np.uint8).tobytes())
            row = (place, place + len(made.ids), made.characters, made.size_bytes)
            table.write(np.array(row, dtype=np.int64).tobytes())
            place += len(made.ids)
            if counts["documents"] % 256 == 0:
                ctx.progress(0, 1, doing=t("tokens of {done}/{total} texts", done=counts["documents"], total=total))
    return counts


def _split(folder: Path, name: str) -> Split:
    def read(part: str, dtype: str) -> np.ndarray:
        path = folder / f"{name}.{part}"
        return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype=dtype)

    return Split(read("ids", "uint32"), read("marks", "uint8"), read("table", "int64").reshape(-1, 4))


def batch(split: Split, step: int, *, count: int, context: int, seed: int, packed: bool) -> tuple[Tensor, Tensor]:
    """Token ids and marks of one step: (count, T + 1) int64 and bool, T at most ``context``.

    packed: the line of all documents is taken as a ring and cut anew in each pass; else each row is one document, a
    long one cut at a place that changes with the pass, short ones filled up with unmarked zeros.
    """
    if packed:
        epoch, row = places(step, batch=count, count=max(1, len(split.ids) // context), seed=seed)
        shift = np.array([derive(seed, "shift", int(number)) % context for number in epoch], dtype=np.int64)
        index = ((row * context + shift)[:, None] + np.arange(context + 1)) % len(split.ids)
        return torch.from_numpy(split.ids[index].astype(np.int64)), torch.from_numpy(split.marks[index] > 0)
    epoch, row = places(step, batch=count, count=len(split), seed=seed)
    found = []
    for number, which in zip(epoch.tolist(), row.tolist(), strict=True):
        ids, marks = split.document(which)
        over = max(0, len(ids) - context - 1)
        cut = derive(seed, "cut", number, which) % (over + 1) if number else 0
        found.append((ids[cut : cut + context + 1], marks[cut : cut + context + 1]))
    width = max(2, max(len(ids) for ids, _ in found))
    ids_BT, marks_BT = torch.zeros(count, width, dtype=torch.long), torch.zeros(count, width, dtype=torch.bool)
    for place, (ids, marks) in enumerate(found):
        ids_BT[place, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
        marks_BT[place, : len(marks)] = torch.from_numpy(marks > 0)
    return ids_BT, marks_BT
