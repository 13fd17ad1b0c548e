"""What a trained model is asked about its memory and its likeness: canaries put in, samples drawn, figures told.

The figures are those of ``nn/memorization.py`` and ``nn/measures.py``; here stands how much material goes into them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from intaglio.core.contracts import Completion, Dataset, Item, Sampling
from intaglio.models._corpus import texts_of
from intaglio.nn import features, measures, memorization
from intaglio.nn.order import derive

SAMPLES, SAMPLE_TOKENS = 64, 256
KNOWN = 256
LOOKED_CHARS = 30_000_000  # of the training texts, for verbatim runs
LETTERS_CHARS, LETTERS = 200_000, 64
DRAWN, JUDGED, NEAREST = 512, 1_024, 4_096
LEAST = 16  # pictures a side, below which a distance of sets says nothing


class TextWriter(Protocol):
    """What of a loaded model is needed here; ``core.contracts.TextModel`` has it."""

    def complete(
        self, prompts: Sequence[str], *, seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]: ...  # pragma: no cover
    def nats(self, texts: Sequence[str]) -> list[float]: ...  # pragma: no cover


class WithCanaries:
    """A dataset with some random texts more for training, each once: what a model repeats of them it has by heart."""

    def __init__(self, data: Dataset, count: int, *, seed: int) -> None:
        self.data, self.seed = data, seed
        self.letters = letters_of(data)
        self.canaries = memorization.canaries(count, self.letters, seed=seed) if self.letters else []

    def __len__(self) -> int:
        return len(self.data) + len(self.canaries)

    def __iter__(self) -> Iterator[Item]:
        yield from self.data
        yield from (Item(media="text", text=text, origin=f"canary#{n}") for n, text in enumerate(self.canaries, 1))

    def split(self, name: str) -> Dataset:
        """The canaries are all of the training part."""
        return _Chosen(self, self.data.split(name)) if name == "train" else self.data.split(name)

    def of(self, *media: str) -> Dataset:
        """The canaries are texts."""
        return _Chosen(self, self.data.of(*media)) if "text" in media else self.data.of(*media)


class _Chosen(WithCanaries):
    """A view of a dataset that still holds its canaries."""

    def __init__(self, whole: WithCanaries, data: Dataset) -> None:
        self.data, self.seed, self.letters, self.canaries = data, whole.seed, whole.letters, whole.canaries


def letters_of(data: Dataset) -> str:
    """The characters that training texts hold most often, in a fixed order: what canaries are made of."""
    found: dict[str, int] = {}
    left = LETTERS_CHARS
    for text in texts_of(data, "train"):
        for char in text[:left]:
            if char.isalnum():
                found[char] = found.get(char, 0) + 1
        left -= len(text)
        if left <= 0:
            break
    return "".join(sorted(sorted(found, key=lambda char: (-found[char], char))[:LETTERS]))


class _Training:
    """The training texts, as often as they are asked for, up to ``LOOKED_CHARS`` characters."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __iter__(self) -> Iterator[str]:
        left = LOOKED_CHARS
        for text in texts_of(self.data, "train"):
            if left <= 0:
                return
            yield text[:left]
            left -= len(text)


def of_texts(
    writer: TextWriter, data: Dataset, *, seed: int, tokens: int, samples: int = SAMPLES, known: int = KNOWN
) -> dict[str, Any]:
    """Memorization figures of a text model: verbatim runs of its samples, membership by loss, exposure of canaries.

    data: what it learned from; ``WithCanaries`` where some were put in. tokens: of a sample, at most. samples, known:
    how many are drawn, and how many training and held-out texts are scored; fewer for a slow model.
    """
    sampling = Sampling(max_tokens=max(1, min(tokens, SAMPLE_TOKENS)), temperature=1.0)
    seeds = [derive(seed, "memorization", number) for number in range(samples)]
    made = [each.text for each in writer.complete([""] * samples, seeds=seeds, sampling=sampling)]
    training = _Training(data)
    scored = [_spread(data.split(name), name, known) for name in ("train", "heldout")]
    report = memorization.text_report(writer.nats, made, training, known=scored[0], heldout=scored[1])
    if isinstance(data, WithCanaries) and data.canaries:
        report |= memorization.canary_report(writer.nats, data.canaries, data.letters, seed=seed)
    return report


def _spread(data: Dataset, split: str, most: int) -> list[str]:
    """Up to ``most`` texts of a split, evenly spread over it."""
    stride = max(1, len(data) // most)
    return list(itertools.islice(texts_of(data, split), 0, most * stride, stride))


def of_pictures(
    made: Callable[[int], Tensor],
    train: Any,
    heldout: Any,
    *,
    losses: Callable[[Any], Tensor] | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Likeness and memorization of a model of pictures; empty where fewer than 16 stand on a side.

    made: draws that many pictures. train, heldout: arrays; all are uint8 (N, C, H, W) of one side. losses: of each of
    such pictures, (N,). Figures ending in ``_of_training`` are those of training pictures in the place of made ones:
    the mark to reach, not to pass.
    """
    if len(train) < LEAST or len(heldout) < LEAST:
        return {}
    net = features.load(device=device)
    drawn = made(DRAWN)
    near, judged = (
        torch.tensor(each[:: -(-len(each) // most)]) for each, most in ((train, NEAREST), (heldout, JUDGED))
    )
    few = min(len(judged), len(drawn), len(near))  # coverage and recall mean something between equal numbers only
    sets = {"": net(drawn[:few]), "_of_training": net(near[:few])}
    real = net(judged[:few])
    found: dict[str, Any] = {"features": net.name, "compared": few}
    for name, vectors in sets.items():
        found[f"kid_like{name}"] = measures.kid(vectors, real).plain()
        found[f"fid_like{name}"] = round(measures.frechet(vectors, real), 4)
        covered = measures.prdc(real, vectors)
        for key in ("precision", "recall", "density", "coverage"):
            found[f"{key}{name}"] = round(getattr(covered, key), 4)
    report: dict[str, Any] = dict(memorization.picture_report(net, drawn, near, judged))
    if losses is not None:
        values = losses(
            torch.cat([near[-len(judged) :], judged]).numpy()
        )  # at once: under one variance, if it fits one
        report |= memorization.membership(values[: -len(judged)].tolist(), values[-len(judged) :].tolist())
    return found | {"memorization": report}
