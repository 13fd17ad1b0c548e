"""What is measured of pictures: nearness to training and held-out pictures, sharpness, difference among themselves.

Source: Meehan, Chaudhuri, Dasgupta (2020), "A Non-Parametric Test to Detect Data-Copying in Generative Models",
        arXiv:2004.05675: samples nearer to the training set than held-out data are copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intaglio.core.contracts import Dataset, FileRef, Item
from intaglio.core.i18n import t
from intaglio.media import image
from intaglio.trust.similarity import nearest, picture_features

Feature = NDArray[np.float32]
Open = Callable[[FileRef], Path]
HELDOUT_SAMPLE = 500
COPY_FRACTION = 0.5  # of the median distance from held-out to training pictures
COPY_FALLBACK = 0.02  # root mean square difference, where there is nothing to measure it from
SHARPNESS_SIDE = 64
DIFFERENT = 0.15  # weight of difference from those chosen; more of it brings the odd ones to the front


@dataclass(frozen=True)
class PictureScale:
    """The archive's own distances.

    copy: a candidate nearer than this to a training picture, or to another candidate, is a copy of it.
    heldout_to_train: median distance, None where there are no held-out pictures. sharpness: median of the archive.
    """

    copy: float
    heldout_to_train: float | None
    sharpness: float | None


@dataclass(frozen=True)
class PictureScores:
    """The figures of one picture and what speaks against it; feature: for distances among candidates."""

    scores: dict[str, float | None]
    faults: tuple[str, ...]
    feature: Feature


def judge_pictures(items: Sequence[Item], archive: Dataset, path: Open) -> tuple[list[PictureScores], PictureScale]:
    """Scores of each item, in order, and the scale; the archive flows past twice, 3 kB a picture of a block held."""
    features = np.stack([_feature(item, path) for item in items])
    heldout = [f for f, _ in zip(_features(archive.split("heldout"), path), range(HELDOUT_SAMPLE), strict=False)]
    ids: list[str] = []

    def train() -> Iterator[Feature]:
        for item, feature in _with_items(archive.split("train"), path):
            ids.append(item.id)
            yield feature

    asked = np.concatenate([features, np.stack(heldout)]) if heldout else features
    distances, places = nearest(asked, train())
    bounds = _scale(distances[len(items) :], archive, path)
    to_heldout, _ = nearest(features, iter(heldout))
    found = []
    for i, item in enumerate(items):
        near, far = _finite(distances[i]), _finite(to_heldout[i])
        sharp = _sharpness(item, path)
        faults: list[str] = []
        if near is not None and near < bounds.copy:
            of = ids[int(places[i])]
            faults.append(
                t(
                    "it is a copy of a training picture ({item}): distance {got:.3f}, bound {bound:.3f}",
                    item=of[:12],
                    got=near,
                    bound=bounds.copy,
                )
            )
        scores: dict[str, float | None] = {
            "nearest_train": near,
            "nearest_heldout": far,
            "train_to_heldout_ratio": round(near / far, 4) if near is not None and far else None,
            "sharpness": round(sharp / bounds.sharpness, 4) if bounds.sharpness else None,
            "nearest_other": _nearest_other(features, i),
            "round_trip_mse": item.meta.get("round_trip_mse"),
        }
        found.append(PictureScores(scores, tuple(faults), features[i]))
    return found, bounds


def _scale(heldout_to_train: Feature, archive: Dataset, path: Open) -> PictureScale:
    known = heldout_to_train[np.isfinite(heldout_to_train)]
    median = float(np.median(known)) if len(known) else None
    sharp = [_sharpness(item, path) for item, _ in zip(_pictures(archive), range(64), strict=False)]
    copy = COPY_FRACTION * median if median else COPY_FALLBACK
    return PictureScale(round(copy, 5), _finite(median), float(np.median(sharp)) if sharp else None)


def choose(
    scores: Sequence[PictureScores], allowed: Sequence[int], keep: int, bounds: PictureScale
) -> tuple[list[int], dict[int, int]]:
    """Indexes of the pictures to keep, best first, and those left out as too like one chosen (index to that one).

    Greedy: sharpness and nearness to the archive (outside the bound of a copy) speak for a picture, nearness to one
    chosen already against it (maximal marginal relevance, Carbonell and Goldstein 1998). Time: candidates times kept.
    """
    chosen: list[int] = []
    alike: dict[int, int] = {}
    features = np.stack([each.feature for each in scores])
    worth = np.array([_worth(each) for each in scores])
    apart = np.full(len(scores), np.inf)  # distance to the nearest one chosen
    nearest_chosen = np.full(len(scores), -1)
    left = np.zeros(len(scores), dtype=bool)
    left[list(allowed)] = True
    while left.any() and len(chosen) < keep:
        gain = worth + DIFFERENT * np.where(np.isfinite(apart), apart, 0.0)
        best = int(np.where(left, gain, -np.inf).argmax())
        left[best] = False
        if apart[best] < bounds.copy:
            alike[best] = int(nearest_chosen[best])
            continue
        chosen.append(best)
        distance = np.linalg.norm(features - features[best], axis=1)
        nearest_chosen = np.where(distance < apart, best, nearest_chosen)
        apart = np.minimum(apart, distance)
    return chosen, alike


def _worth(scores: PictureScores) -> float:
    sharp = scores.scores["sharpness"]
    near = [value for name in ("nearest_heldout", "nearest_train") if (value := scores.scores[name]) is not None]
    return 0.1 * min(1.0, sharp if sharp is not None else 1.0) - (sum(near) / len(near) if near else 0.0)


def diversity(scores: Sequence[PictureScores], among: Sequence[int]) -> float | None:
    """Mean distance between two of the pictures (of the first 500); None below two."""
    features = np.stack([scores[i].feature for i in among[:500]]) if among else np.empty((0, 1), np.float32)
    if len(features) < 2:
        return None
    total = sum(float(np.linalg.norm(features[n + 1 :] - features[n], axis=1).sum()) for n in range(len(features) - 1))
    return round(total / (len(features) * (len(features) - 1) / 2), 5)


def _nearest_other(features: Feature, i: int) -> float | None:
    others = np.delete(features, i, axis=0)
    return round(float(np.linalg.norm(others - features[i], axis=1).min()), 5) if len(others) else None


def _pictures(items: Dataset) -> Iterator[Item]:
    return (item for item in items.of("image") if item.files)


def _with_items(items: Dataset, path: Open) -> Iterator[tuple[Item, Feature]]:
    return ((item, _feature(item, path)) for item in _pictures(items))


def _features(items: Dataset, path: Open) -> Iterator[Feature]:
    return (feature for _, feature in _with_items(items, path))


def _feature(item: Item, path: Open) -> Feature:
    feature: Feature = picture_features(path(item.files[0]))
    return feature


def _sharpness(item: Item, path: Open) -> float:
    """Mean absolute Laplacian of the grey picture at 64 px: mush has little of it, noise too much."""
    grey = image.load(path(item.files[0]), mode="L").resize((SHARPNESS_SIDE, SHARPNESS_SIDE), Image.Resampling.BOX)
    x = np.asarray(grey, dtype=np.float32) / 255.0
    laplacian = 4 * x[1:-1, 1:-1] - x[:-2, 1:-1] - x[2:, 1:-1] - x[1:-1, :-2] - x[1:-1, 2:]
    return float(np.abs(laplacian).mean())


def _finite(value: float | np.floating | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 5)
