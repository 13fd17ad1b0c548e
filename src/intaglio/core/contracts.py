"""What the parts of Intaglio hand each other: items, datasets, models, verdicts, publications - and the protocols.

A component is a module with three names: ``Config`` (a ``core.config.StepConfig``), ``Component`` (a class built as
``Component(config)``) and ``TINY`` (a dict of config values small enough for a test). Its methods are those of its
stage's protocol below. Components never meet each other: the runner hands them what lies in the store.
"""

from __future__ import annotations

import math
from collections import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from intaglio.core.errors import UserError
from intaglio.core.hashing import digest
from intaglio.core.i18n import t

MEDIA = ("text", "image", "audio", "video", "scene", "fact")


# --------------------------------------------------------------------------------------------------------- things made
@dataclass(frozen=True, slots=True)
class FileRef:
    """One file of an item: its content address in the blob store, and what it is.

    name: file name for people, no folders. mime: such as ``image/png``, told by content.
    """

    name: str
    sha256: str
    size_bytes: int
    mime: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing of the archive or one piece made: a media kind, a text, files, and its rights.

    text:    the text itself (media ``text``), the caption (other media), the statement (media ``fact``).
    origin:  where it came from, relative to the project or a URL; never an absolute path of a machine.
    license: SPDX expression or ``unknown``; empty: the runner fills in the step's. consent: in a person's words.
    split:   ``train`` or ``heldout``. meta: plain JSON values.
    parents: ids of the items this one was made from directly. parts: ids of the pieces it contains.
    """

    media: str
    text: str = ""
    files: tuple[FileRef, ...] = ()
    origin: str = ""
    license: str = ""
    consent: str = ""
    language: str = ""
    split: str = "train"
    meta: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Content address: SHA-256 over media kind, text, file contents and parts (64 hex digits)."""
        return item_id(self.media, self.text, tuple(f.sha256 for f in self.files), self.parts)


def item_id(media: str, text: str, files: Sequence[str], parts: Sequence[str] = ()) -> str:
    """The id of an item with this content; rights, origin and meta do not change it."""
    return digest(["item", media, text, list(files), list(parts)])


@dataclass(frozen=True, slots=True)
class Skip:
    """Something that could not become an item, with the reason a person reads; kind ``skipped`` or ``duplicate``.

    of: for a duplicate, the id of the item it repeats.
    """

    origin: str
    reason: str
    kind: str = "skipped"
    of: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found in an item that a person should know: personal data, for instance. Never the value itself.

    kind: such as ``email`` or ``credit_card``. start, end: character offsets in ``Item.text``.
    """

    item: str
    origin: str
    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a critic says of one item: kept or not, its scores, and why.

    scores:  metric name to value; a value of None means "not assessed".
    reasons: why it was not kept, for people; empty when kept. rank: 0 is best.
    """

    item: str
    kept: bool
    scores: Mapping[str, float | None] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file an exporter wrote below ``ctx.out``.

    path:   relative to ``ctx.out``, with ``/``. pieces: ids of the items whose content it shows.
    mime:   media type. ai: True where its content was generated, so that it gets labels and credentials that say so.
    title:  for people.
    """

    path: str
    mime: str
    pieces: tuple[str, ...] = ()
    ai: bool = True
    title: str = ""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """One source item at the end of a trace. direct: named as a parent, not only part of a training set."""

    id: str
    origin: str
    license: str
    consent: str
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a piece came from: its source items, the models it passed through, the steps that made it.

    models: dicts with ``step``, ``use``, ``checkpoint`` (id), ``metrics``.
    steps:  dicts with ``name``, ``stage``, ``use``, ``key``.
    collections: dicts with ``step``, ``items`` (count), ``licenses`` (license to count), ``id``.
    """

    sources: tuple[SourceInfo, ...]
    models: tuple[Mapping[str, Any], ...]
    steps: tuple[Mapping[str, Any], ...]
    collections: tuple[Mapping[str, Any], ...] = ()


# ------------------------------------------------------------------------------------------------- what a step is given
@runtime_checkable
class Dataset(Protocol):
    """Items in a fixed order, read as a stream; nothing holds them all in memory."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Item]: ...
    def split(self, name: str) -> Dataset:
        """Only the items of ``train`` or ``heldout``."""
        ...

    def of(self, *media: str) -> Dataset:
        """Only the items of these media kinds."""
        ...


class Context(Protocol):
    """What a running step may use besides its inputs.

    seed:    the only source of randomness. device: ``cpu`` or ``cuda[:n]``. threads: CPU threads to use.
    out:     folder for files this step makes (checkpoint, index, publication); its whole content becomes the output.
    work:    scratch folder that survives a kill and is handed again to the same step with the same key.
    project: the project folder, for reading what the config names. offline: nothing may leave the machine.
    inputs:  of a model's training: what the steps named by its roles other than ``data`` made, by role (a model
             to start from, one whose codes to learn); empty in other stages, whose methods are handed their inputs.
    settings: name, title and author of the project.
    """

    step: str
    seed: int
    device: str
    threads: int
    offline: bool
    out: Path
    work: Path
    project: Path
    languages: tuple[str, ...]
    inputs: Inputs
    settings: Mapping[str, Any]

    def progress(self, done: float, total: float, **numbers: float | str) -> None:
        """Say how far it is (``total`` 0: not known); ``numbers`` are shown (loss, img/s). Cheap: throttled."""
        ...

    def warn(self, message: str) -> None:
        """Tell the person once, and keep it with the step."""
        ...

    def find(self, finding: Finding) -> None:
        """Report something found in an item (personal data); counted and kept with the step."""
        ...

    def metric(self, **values: Any) -> None:
        """Keep a figure with the step; the last value of a name stays. Plain JSON values."""
        ...

    def curve(self, step: int, **values: float) -> None:
        """A point of a curve at update ``step`` (from 1): losses, rates. For people to look at while it trains, in
        TensorBoard for instance; no part of what the step makes."""
        ...

    def preview(self, name: str, data: bytes) -> None:
        """Keep a live sample (``step-00100.png``, ``step-00100.txt``) for people to look at while it trains."""
        ...

    def put(self, data: bytes | Path, *, name: str, mime: str) -> FileRef:
        """Store bytes or a file by content; equal content is stored once."""
        ...

    def path(self, file: FileRef) -> Path:
        """A readable file with this content; never to be written."""
        ...

    def trace(self, item: Item) -> Trace:
        """Where this item came from."""
        ...


Inputs = Mapping[str, Sequence[Any]]
"""Role name to what the named steps made: Dataset (data, items), LoadedModel (model), LoadedKnowledge (knowledge)."""


@dataclass(frozen=True, slots=True)
class Size:
    """What is known of a step's input before it runs; ``items`` is None when nothing was counted yet."""

    items: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan is made for; ``gflops`` is the measured speed of a small training in float32, ``bf16_gflops`` in
    bfloat16."""

    device: str
    threads: int
    gflops: float
    bf16_gflops: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a step is expected to take: wall seconds and peak memory in bytes."""

    seconds: float
    bytes: int


# ------------------------------------------------------------------------------------------------ protocols
class Source(Protocol):
    """Stage ``data``: reads from outside into items, as a stream; the Config is a ``SourceConfig``."""

    def read(self, ctx: Context) -> Iterator[Item | Skip]:
        """Items in a fixed order. License, origin and consent defaults are filled in by the runner where left empty."""
        ...


class Transform(Protocol):
    """Stage ``data``: items in, items out, as a stream. As a step of its own its Config has the role ``items``."""

    def apply(self, items: Iterable[Item | Skip], ctx: Context) -> Iterator[Item | Skip]: ...


class Constraint(Protocol):
    """Says which tokens may follow (verse forms, schemas)."""

    def allow(self, text: str, vocabulary: Sequence[str]) -> Sequence[bool]:
        """For the text generated so far (without the prompt): one flag a token of ``vocabulary`` (its decoded string).
        An all-False answer ends the text. The vocabulary is the same object at every call, so results can be cached."""
        ...


@dataclass(frozen=True, slots=True)
class Completion:
    """A generated text. nats: negative log-likelihood of its tokens in nats, None where the engine does not tell.
    finish: ``stop``, ``length`` or ``constraint``."""

    text: str
    tokens: int
    finish: str
    nats: float | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw tokens. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 switch those filters off.

    repetition_penalty: above 0; logits of tokens in the prompt or drawn are divided by it (multiplied where negative).
    frequency_penalty, presence_penalty: in [-2, 2], as OpenAI has them: of a token drawn n times already (the prompt
    does not count) n * frequency_penalty + presence_penalty is taken off its logit, before the temperature.
    Errors: UserError where a penalty is outside of that.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        for name in ("frequency_penalty", "presence_penalty"):
            value = getattr(self, name)
            if not -2.0 <= value <= 2.0:
                raise UserError(
                    t("{name} must be from -2 to 2; got {got}", name=name, got=value),
                    fix=t("0 switches it off; 0.2 to 1 makes repetition rarer"),
                )
        if not 0.0 < self.repetition_penalty < math.inf:
            raise UserError(
                t("repetition_penalty must be above 0; got {got}", got=self.repetition_penalty),
                fix=t("1 switches it off; 1.05 to 1.3 makes repetition rarer"),
            )


class LoadedModel(Protocol):
    """A model ready to make things. ``makes`` is a media kind."""

    makes: str

    def sample(self, seeds: Sequence[int], ctx: Context) -> Iterator[Item]:
        """One item a seed, unconditioned; the same seed gives the same item on the same machine class."""
        ...


class TextModel(LoadedModel, Protocol):
    """A loaded model that writes (``makes == "text"``)."""

    context_tokens: int

    def count_tokens(self, text: str) -> int: ...

    def complete(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        constraints: Sequence[Constraint | None] = (),
    ) -> list[Completion]:
        """Continue each prompt; ``""`` starts a new document. One seed (and optionally one constraint) a prompt.
        Errors: UserError where the engine cannot honour a constraint."""
        ...

    def stream(
        self, prompt: str, *, seed: int, sampling: Sampling, constraint: Constraint | None = None
    ) -> abc.Generator[str, None, Completion]:
        """Continue one prompt, piece by piece as it is written; the generator returns the completion.

        The pieces together are ``complete``'s text for the same arguments (on a server: as far as it honours seeds).
        What may become a stop word, and half a character, are held back until that is decided. Closing the generator
        ends the work. Errors: as ``complete``'s."""
        ...

    def nats(self, texts: Sequence[str]) -> list[float]:
        """Negative log-likelihood of each text in nats, whole texts (sliding window past the context)."""
        ...


class PictureModel(LoadedModel, Protocol):
    """A loaded model that draws (``makes == "image"``); samples have one file and ``meta`` width_px, height_px."""

    def reconstruct(self, items: Iterable[Item], ctx: Context) -> Iterator[tuple[Item, bytes, float]]:
        """For each picture: the item, its reconstruction as PNG bytes, and the mean squared error in [0, 1] units."""
        ...

    def encode(self, items: Iterable[Item], ctx: Context) -> Iterator[Sequence[float]]:
        """The posterior mean of each picture, for distances."""
        ...


class Model(Protocol):
    """Stage ``models``: trained on the role ``data``; ``takes`` and ``makes`` are class attributes (media kinds)."""

    takes: tuple[str, ...]
    makes: str

    def estimate(self, size: Size, machine: Machine) -> Estimate: ...

    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Train; write the finished checkpoint (safetensors, JSON) into ``ctx.out``, resumable state into ``ctx.work``.
        Returns metrics: plain JSON, with held-out figures beside a trivial baseline."""
        ...

    def load(self, folder: Path, *, device: str, threads: int) -> LoadedModel:
        """The checkpoint written by ``fit``."""
        ...

    def export(self, folder: Path, to: Path) -> list[Path]:
        """Write the checkpoint in the layout others load; returns the files. UserError where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result: the source item, its text (or caption), and a score where more is nearer."""

    item: str
    text: str
    score: float
    origin: str = ""


class LoadedKnowledge(Protocol):
    """What an extractor made, ready to be asked."""

    def search(self, query: str, k: int = 5) -> list[Hit]: ...
    def facts(self) -> Iterable[Item]: ...


class Extractor(Protocol):
    """Stage ``knowledge``: from the role ``items`` to facts (media ``fact``, parents are source items)."""

    def extract(self, items: Dataset, ctx: Context) -> Iterator[Item]:
        """Write files (index, vectors) into ``ctx.out`` and yield the facts."""
        ...

    def load(self, folder: Path, facts: Dataset, *, threads: int) -> LoadedKnowledge: ...


class Generator(Protocol):
    """Stage ``generate``: candidates. ``meta`` of each item records seed, prompt or brief and sampling settings."""

    def generate(self, inputs: Inputs, ctx: Context) -> Iterator[Item]:
        """Items with ``parents`` set to the archive items put into the prompt; license and origin are the runner's."""
        ...


class Critic(Protocol):
    """Stage ``optimize``: judges the role ``items``."""

    def judge(self, items: Dataset, archive: Dataset, ctx: Context) -> Iterator[Verdict]:
        """One verdict an item, whatever the order. ``archive`` is everything the items' makers learned from."""
        ...


class Exporter(Protocol):
    """Stage ``publish``: pieces to files below ``ctx.out``. Marks and signatures are the runner's, after this."""

    def export(self, pieces: Dataset, ctx: Context) -> Iterator[PublishedFile]: ...


@dataclass(frozen=True, slots=True)
class Rights:
    """What the finishing function writes into a file besides the fact that it was generated.

    produce_id: unique number of the file (ASCII). title, license, creator: for people. sources: how many source items.
    details:    plain JSON kept in the signed manifest (model ids, seed, piece ids, ledger key);
                no prompts, no names of people.
    """

    produce_id: str
    title: str
    license: str
    creator: str
    software: str
    details: Mapping[str, Any] = field(default_factory=dict)
