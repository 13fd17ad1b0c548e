"""Memorization figures: nothing learned gives their expected value, a copy of the data their extreme."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from intaglio.nn import features, memorization
from intaglio.nn.memorization import (
    canaries,
    canary_report,
    data_copying,
    exposure,
    longest_run,
    membership,
    picture_report,
    shared_windows,
    text_report,
)


def draw(count: int, *, seed: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def test_data_copying_tells_a_learner_from_a_copier() -> None:
    train, heldout = draw(400, seed=0), draw(200, seed=1)
    fair = [data_copying(draw(200, seed=n), train, heldout) for n in range(10, 40)]
    assert abs(np.mean([each.z for each in fair])) < 1.5
    assert np.mean([each.train_share for each in fair]) == pytest.approx(0.5, abs=0.03)
    copier = data_copying(train[:200] + draw(200, seed=2, spread=0.01), train, heldout)
    assert copier.z < -10 and copier.copies > 0.95
    assert copier.train_share > 0.65  # half of its sources are not among the equally many that it is compared with
    stranger = data_copying(draw(200, seed=3, spread=4), train, heldout)
    assert stranger.z > 5 and stranger.copies == 0


def test_z_is_that_of_mann_and_whitney() -> None:
    """Against counting pairs and against the spread of z over many fair samples."""
    train, heldout, made = draw(30, seed=0), draw(7, seed=1), draw(9, seed=2)
    a, b = (torch.cdist(x.double(), train.double()).min(1).values for x in (made, heldout))
    pairs = sum(float(x > y) + 0.5 * float(x == y) for x in a for y in b)
    expected = (pairs - 31.5) / math.sqrt(63 * 17 / 12)
    assert data_copying(made, train, heldout).z == pytest.approx(expected)
    fair = [data_copying(draw(40, seed=3 * n), draw(60, seed=3 * n + 1), draw(40, seed=3 * n + 2)).z for n in range(99)]
    assert np.std(fair) == pytest.approx(1, abs=0.25)


def test_pictures_end_to_end() -> None:
    net = features.load()
    noise = features.natural_noise(180).byte()
    train, heldout, made = noise[:100], noise[100:140], noise[140:]
    fair, copier = picture_report(net, made, train, heldout), picture_report(net, train[:40], train, heldout)
    assert abs(float(fair["copying_z"])) < 3 and fair["features"] == "random-v1" and fair["train"] == 100
    assert float(copier["copying_z"]) < -5 and copier["copies"] == 1
    assert picture_report(net, made, train, heldout[:0]) == {}


# ---------------------------------------------------------------------------------------------------------------- texts
def brute_run(texts: Sequence[str], train: Sequence[str]) -> int:
    best = 0
    for text in texts:
        for start in range(len(text)):
            while any(text[start : start + best + 1] in each for each in train) and start + best < len(text):
                best += 1
    return best


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("batch", [50, 1 << 21])
def test_longest_run_by_brute_force(seed: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memorization, "BATCH_CHARS", batch)
    chance = random.Random(seed)
    train = ["".join(chance.choices("abc 春", k=chance.choice([0, 9, 30, 300]))) for _ in range(20)]
    texts = ["".join(chance.choices("abc 春", k=chance.randrange(1, 30))) for _ in range(5)]
    length, run = longest_run(texts, train)
    assert length == len(run) == brute_run(texts, train)
    assert any(run in each for each in train) and any(run in each for each in texts)


def test_runs_do_not_cross_the_end_of_a_text() -> None:
    assert longest_run(["abcdef"], ["abc", "def"])[0] == 3
    assert longest_run(["same text"], ["what", "the same text here"]) == (9, "same text")
    long = "".join(random.Random(1).choices("abcdefgh", k=5_000))
    assert longest_run([long[100:700], "x" * 900], [long]) == (600, long[100:700])
    assert longest_run([long[:33]], [long])[0] == 33 == longest_run([long[:33] + "xx"], [long])[0]
    assert longest_run(["xyz"], ["abc"]) == (0, "") == longest_run([], ["abc"]) == longest_run(["abc"], [])


def test_shared_windows_are_counted() -> None:
    train = ["the quick brown fox jumps", "over the lazy dog"]
    found = shared_windows(["quick brown", "quick brxwn", "", "dog over"], train, 5)
    # "quick", "uick ", "ick b", "ck br" of the 7 windows of "quick brxwn"
    assert found == [1.0, pytest.approx(4 / 7), 0.0, 0.0]


# ------------------------------------------------------------------------------------------------- canaries, membership
def test_exposure_of_what_was_never_seen_is_that_of_chance() -> None:
    rng = np.random.default_rng(0)
    found = exposure(rng.random(20_000), rng.random(1023))
    assert np.mean(found) == pytest.approx(1 / math.log(2), abs=0.05)
    assert exposure([-1.0], [0.0] * 1023) == [10.0]
    assert exposure([2.0], [0.0, 1.0, 3.0]) == [math.log2(4 / 3)]


def test_canaries_are_random_and_repeatable() -> None:
    made = canaries(50, "abcdef春", seed=3)
    assert made == canaries(50, "abcdef春", seed=3) != canaries(50, "abcdef春", seed=4)
    assert len(set(made)) == 50 and {len(each) for each in made} == {16} and set("".join(made)) <= set("abcdef春")


def test_a_memory_is_exposed_by_its_canaries() -> None:
    inserted = canaries(8, "abcdef", seed=1)

    def parrot(texts: list[str]) -> list[float]:
        return [1.0 if text in inserted else 28.0 + hash_like(text) for text in texts]

    def hash_like(text: str) -> float:
        return sum(ord(c) * n for n, c in enumerate(text, 1)) % 97 / 97

    found = canary_report(parrot, inserted, "abcdef", seed=1)
    assert found["exposure_bits"] == found["exposure_limit"] == found["exposure_highest"] == 10
    assert found["exposure_not_inserted"] < 5 and found["canaries"] == 8


def test_membership_by_loss() -> None:
    rng = np.random.default_rng(0)
    same = membership(rng.normal(size=300), rng.normal(size=300))
    assert same["membership_auc"][1] < 0.5 < same["membership_auc"][2] and same["found_at_1_percent"] < 0.04
    leaky = membership(rng.normal(-3, size=300), rng.normal(size=300))
    assert leaky["membership_auc"][0] > 0.97 and leaky["found_at_1_percent"] > 0.5
    assert "found_at_1_percent" not in membership([1.0], [2.0])


def test_text_report_of_a_copier_and_of_a_writer() -> None:
    chance = random.Random(0)
    texts = ["".join(chance.choices("abcdefgh ", k=120)) for _ in range(90)]
    train, heldout, made = texts[:40], texts[40:70], texts[70:]

    def memory(asked: list[str]) -> list[float]:
        return [1.0 * len(text) if any(text in each for each in train) else 3.0 * len(text) for text in asked]

    copier = text_report(memory, [text[10:100] for text in train[:20]], train, known=train, heldout=heldout)
    assert copier["longest_run_chars"] == 90 and copier["shared_windows"] == 1
    assert copier["heldout_longest_run_chars"] < 12 and copier["heldout_shared_windows"] == 0
    assert copier["membership_auc"] == [1, 1, 1]
    writer = text_report(lambda asked: [2.0 * len(text) for text in asked], made, train, known=train, heldout=heldout)
    assert writer["longest_run_chars"] < 12 and writer["membership_auc"] == [0.5, 0.5, 0.5]
    assert text_report(memory, [], train, known=train, heldout=[]) == {"samples": 0, "known": 40, "heldout": 0}
