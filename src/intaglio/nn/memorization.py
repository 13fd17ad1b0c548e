"""How much of its training data a model gives back: nearest neighbours, verbatim runs, canaries, membership.

Papers:  Meehan et al. (2020), "A Non-Parametric Test to Detect Data-Copying", arXiv:2004.05675, sec. 3 (one cell);
         Carlini et al. (2019), "The Secret Sharer", arXiv:1802.08232, def. 2 and sec. 4.3 (exposure by sampling);
         Yeom et al. (2018), "Privacy Risk in Machine Learning", arXiv:1709.01604, sec. 3.2 (membership by loss);
         Carlini et al. (2022), arXiv:2112.03570 (why the rate at few false alarms is told beside the area).
Licence: ours; written from the papers.
Shapes:  N vectors, D features.

Every figure stands beside what held-out material of the same size gives: a phrase or a blank corner that everyone uses
is no copy. Texts are compared as they are given; normalize them before if spacing must not hide a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from intaglio.nn.measures import auc, bits, nearest
from intaglio.nn.order import derive

ITEMS = 256  # of each kind that a report looks at
BATCH_CHARS = 1 << 21
SCORED_CHARS = 400  # of a text whose loss is compared
WINDOW = 32  # characters; shared windows of this length are counted
CANARY_CHARS = 16
REFERENCES = 1023  # random texts like a canary that it is ranked among: exposure ends at log2 of one more
_BASE = np.uint64(0x9E3779B97F4A7C15)
_TABLE = 1 << 22
_LOW = np.uint64(_TABLE - 1)
_END = "\x00"


# ------------------------------------------------------------------------------------------------------ pictures, codes
@dataclass(frozen=True)
class Copying:
    """Made pictures beside held-out ones, by the distance to the nearest training picture.

    z:           of Mann and Whitney's test; far below 0 (the paper: -5) the made ones lie nearer than held-out ones do:
                 copies. Far above 0 they lie farther off: the model has not learned the data well.
    copies:      share of made pictures nearer to a training picture than any held-out one is.
    train_share: share of made pictures nearer to a training picture than to a held-out one, of equally many of each;
                 about 0.5 without memorization.
    """

    z: float
    copies: float
    train_share: float


def data_copying(made_ND: Tensor, train_ND: Tensor, heldout_ND: Tensor) -> Copying:
    """The data-copying test over feature vectors; ties count half.

    Errors: ValueError: one of the three sets is empty.
    """
    if not (len(made_ND) and len(train_ND) and len(heldout_ND)):
        raise ValueError("made, training and held-out vectors are all needed")
    made, heldout = nearest(made_ND, train_ND)[0], nearest(heldout_ND, train_ND)[0]
    n, m = len(made), len(heldout)
    above = _pairs_above(made, heldout)
    z = (above - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    equal = train_ND[torch.linspace(0, len(train_ND) - 1, min(m, len(train_ND))).long()]
    to_train, to_heldout = nearest(made_ND, equal)[0], nearest(made_ND, heldout_ND[: len(equal)])[0]
    nearer = (to_train < to_heldout).double() + 0.5 * (to_train == to_heldout).double()
    return Copying(z, float((made < heldout.min()).double().mean()), float(nearer.mean()))


def _pairs_above(x: Tensor, y: Tensor) -> float:
    ordered = y.sort().values
    below = torch.searchsorted(ordered, x)
    return float(below.sum()) + 0.5 * float((torch.searchsorted(ordered, x, right=True) - below).sum())


def picture_report(
    features: Callable[[Tensor], Tensor], made: Tensor, train: Tensor, heldout: Tensor
) -> dict[str, float | int | str]:
    """The data-copying figures of made pictures, ready for a step's metrics; empty where nothing is held out.

    features: such as ``nn.features.load()``; the rest are uint8 pictures (N, C, H, W) of one side. Of the made and
    held-out ones some are looked at, the training ones count all: give as many as memory holds.
    """
    if not (len(made) and len(train) and len(heldout)):
        return {}
    made, heldout = _some(made, 4 * ITEMS), _some(heldout, 4 * ITEMS)
    found = data_copying(features(made), features(train), features(heldout))
    report: dict[str, float | int | str] = {"copying_z": round(found.z, 3), "copies": round(found.copies, 4)}
    report |= {"nearer_train": round(found.train_share, 4), "made": len(made), "heldout": len(heldout)}
    return report | {"train": len(train), "features": str(getattr(features, "name", ""))}


def _some(x: Any, most: int) -> Any:
    """``most`` of a sequence or tensor, evenly spread."""
    if len(x) <= most:
        return x
    places = [index * len(x) // most for index in range(most)]
    return x[torch.tensor(places)] if isinstance(x, Tensor) else [x[place] for place in places]


# ---------------------------------------------------------------------------------------------------------------- texts
def shared_windows(texts: Sequence[str], train: Iterable[str], length: int) -> list[float]:
    """Of each text the share of its windows of ``length`` characters that stand in a training text."""
    wanted = [_hashes(_codes(text), length) for text in texts]
    known = np.unique(np.concatenate([*wanted, np.empty(0, dtype=np.uint64)]))
    seen, likely = np.zeros(len(known), dtype=bool), np.zeros(_TABLE, dtype=bool)
    likely[known & _LOW] = True
    for codes in _batches(train, length):
        hashes = _hashes(codes, length)
        seen |= np.isin(known, hashes[likely[hashes & _LOW]])
    return [float(seen[np.searchsorted(known, each)].mean()) if len(each) else 0.0 for each in wanted]


def longest_run(texts: Sequence[str], train: Iterable[str]) -> tuple[int, str]:
    """The longest run of characters that any text shares with a training text, and the run itself; (0, "") if none.

    A search over lengths by hashes modulo 2^64, the winner compared character by character. Memory is linear in the
    texts plus one batch of the training set; time is linear in both, some ten passes.
    """
    low, high = 0, max((len(text) for text in texts), default=0)
    middle, found = min(WINDOW, high), ""  # most runs are shorter than some dozen characters: from there it doubles
    while low < high:
        run = _run_of(texts, train, middle)
        if run:
            low, found = middle, run
        else:
            high = middle - 1
        middle = min(2 * low, high) if run and 2 * low < high else (low + high + 1) // 2
    return low, found


def _run_of(texts: Sequence[str], train: Iterable[str], length: int) -> str:
    """A run of ``length`` characters of ``texts`` that stands in ``train``, or nothing."""
    known: dict[int, str] = {}
    for text in texts:
        for place, value in enumerate(_hashes(_codes(text), length).tolist()):
            known.setdefault(value, text[place : place + length])
    if not known:
        return ""
    values = np.array(sorted(known), dtype=np.uint64)
    likely = np.zeros(_TABLE, dtype=bool)  # one look tells most windows that are unknown
    likely[values & _LOW] = True
    for codes in _batches(train, length):
        hashes = _hashes(codes, length)
        for place in np.flatnonzero(likely[hashes & _LOW]).tolist():
            run = known.get(int(hashes[place]), "")
            if run and np.array_equal(codes[place : place + length], _codes(run)):
                return run
    return ""


def _batches(texts: Iterable[str], length: int) -> Iterator[np.ndarray]:
    """Character codes, some millions at a time; no window of ``length`` crosses the end of a text, and none is lost."""
    parts: list[str] = []
    held = 0
    for text in texts:
        for start in range(0, len(text), BATCH_CHARS):  # an enormous text comes in pieces that overlap
            parts.append(text[start : start + BATCH_CHARS + length - 1])
            held += len(parts[-1]) + 1
            if held >= BATCH_CHARS:
                yield _codes(_END.join(parts))
                parts, held = [], 0
    if parts:
        yield _codes(_END.join(parts))


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _hashes(codes: np.ndarray, length: int) -> np.ndarray:
    """A polynomial hash of each window of ``length`` codes, by doubling: log2(length) passes."""
    count = len(codes) - length + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    total, covered = np.zeros(len(codes) + 1, dtype=np.uint64), 0
    power, block, size = _BASE, _mix(codes.astype(np.uint64)), 1
    with np.errstate(over="ignore"):
        while size <= length:
            if length & size:  # the hash of a block of this size goes behind what is covered so far
                shifted = block[covered:]
                total = total[: len(shifted)] * power + shifted
                covered += size
            block = block[: len(block) - size] * power + block[size:] if 2 * size <= length else block
            power, size = power * power, 2 * size
        return _mix(total[:count])


def _mix(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        return x ^ (x >> np.uint64(31))


# ------------------------------------------------------------------------------------------------- canaries, membership
def canaries(count: int, letters: str, *, seed: int, kind: str = "canary") -> list[str]:
    """``count`` random texts of 16 of the given characters: what nobody would write, and only a memory can know."""
    chosen = np.random.default_rng(derive(kind, seed)).integers(len(letters), size=(count, CANARY_CHARS))
    return ["".join(letters[place] for place in row) for row in chosen]


def exposure(canary_nats: Sequence[float], reference_nats: Sequence[float]) -> list[float]:
    """Of each canary log2((R + 1) / rank) among R references, in bits; 1.44 on average where nothing was learned."""
    ordered = np.sort(np.asarray(reference_nats, dtype=np.float64))
    ranks = 1 + np.searchsorted(ordered, np.asarray(canary_nats, dtype=np.float64))
    return [math.log2((len(ordered) + 1) / rank) for rank in ranks.tolist()]


def canary_report(
    nats: Callable[[list[str]], Sequence[float]], inserted: Sequence[str], letters: str, *, seed: int
) -> dict[str, float | int]:
    """Exposure of canaries that stood in the training texts, beside others that did not.

    nats: the model's negative log-likelihoods of texts.
    """
    references = list(nats(canaries(REFERENCES, letters, seed=seed, kind="reference")))
    found = exposure(list(nats(list(inserted))), references)
    others = exposure(list(nats(canaries(len(inserted), letters, seed=seed, kind="never inserted"))), references)
    report: dict[str, float | int] = {"canaries": len(inserted), "exposure_bits": round(sum(found) / len(found), 3)}
    report |= {"exposure_highest": round(max(found), 3), "exposure_limit": round(math.log2(REFERENCES + 1), 3)}
    return report | {"exposure_not_inserted": round(sum(others) / len(others), 3)}


def membership(train_losses: Sequence[float], heldout_losses: Sequence[float]) -> dict[str, Any]:
    """How well the loss of an item tells whether it was trained on: area under the curve with interval; 0.5 is a guess.

    ``found_at_1_percent``, with 100 held-out losses or more: share of training items found at 1 % false alarms.
    Errors: ValueError: a side is empty.
    """
    train, heldout = (torch.tensor(list(x), dtype=torch.float64) for x in (train_losses, heldout_losses))
    found: dict[str, Any] = {"membership_auc": auc(train, heldout).plain(4)}
    if len(heldout) >= 100:
        bound = torch.quantile(heldout, 0.01)
        found["found_at_1_percent"] = round(float((train < bound).double().mean()), 4)
    return found


def text_report(
    nats: Callable[[list[str]], Sequence[float]],
    samples: Sequence[str],
    train: Iterable[str],
    *,
    known: Sequence[str],
    heldout: Sequence[str],
) -> dict[str, Any]:
    """Verbatim runs of samples and membership by loss, ready for a step's metrics; held-out texts stand beside.

    nats:  the model's negative log-likelihoods of texts, compared per character. train: all training texts, or as many
           as there is time for; gone through some ten times. known: some of them, for the losses.
    """
    report: dict[str, Any] = {"samples": len(samples), "known": len(known), "heldout": len(heldout)}
    for name, texts in (("", _some(samples, ITEMS)), ("heldout_", _like(heldout, samples))):
        if texts:
            windows = shared_windows(texts, train, WINDOW)
            report[f"{name}longest_run_chars"] = longest_run(texts, train)[0]
            report[f"{name}shared_windows"] = round(sum(windows) / len(windows), 4)
    scored = [[text[:SCORED_CHARS] for text in _some(texts, ITEMS) if text] for texts in (known, heldout)]
    if all(scored):
        losses = [[bits(v, len(s)) for v, s in zip(nats(texts), texts, strict=True)] for texts in scored]
        report |= membership(*losses)
    return report


def _like(heldout: Sequence[str], samples: Sequence[str]) -> list[str]:
    """Held-out texts cut to as many and as long as the samples are: longer texts share longer runs."""
    chosen = _some(heldout, min(ITEMS, len(samples))) if samples else []
    return [text[: len(sample)] for text, sample in zip(chosen, _some(samples, len(chosen)), strict=True)]
