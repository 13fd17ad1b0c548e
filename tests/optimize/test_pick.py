"""Picking: copies and broken forms are refused with the reason, the rest is ranked by written metrics."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intaglio.core.contracts import Dataset, Item, Verdict
from intaglio.core.errors import UserError
from intaglio.optimize import pick
from intaglio.optimize._judge import Judge
from intaglio.optimize._texts import distinct_share, longest_repeat
from intaglio.store.blobs import Blobs
from intaglio.store.collections import Collection, CollectionWriter
from tests.support import RunContext

WORDS = "river stone lamp winter copper orchard window letter harbour field morning paper silver garden".split()


def sentence(rng: random.Random, n: int = 9) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(n)) + "."


def dataset(folder: Path, items: Sequence[Item]) -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    blobs = Blobs(folder / "blobs")
    with CollectionWriter(blobs, folder) as writer:
        for item in items:
            writer.add(item)
        return Collection(blobs, writer.close().id)


@pytest.fixture
def archive_items() -> list[Item]:
    rng = random.Random(1)
    return [
        Item(
            media="text",
            text=" ".join(sentence(rng) for _ in range(6)),
            license="CC0-1.0",
            split="heldout" if n % 5 == 0 else "train",
        )
        for n in range(60)
    ]


def judge(tmp_path: Path, items: Sequence[Item], archive: Sequence[Item], **config: object) -> dict[str, Verdict]:
    ctx = RunContext(tmp_path / "ctx")
    found = pick.Component(pick.Config(items=("x",), **config)).judge(  # type: ignore[arg-type]
        dataset(tmp_path / "items", items), dataset(tmp_path / "archive", archive), ctx
    )
    verdicts = list(found)
    assert sorted(v.rank for v in verdicts) == list(range(len(verdicts)))
    return {v.item: v for v in verdicts}


def test_a_copy_is_refused_and_a_new_text_is_kept(tmp_path: Path, archive_items: list[Item]) -> None:
    rng = random.Random(99)
    copy = Item(media="text", text="Well. " + archive_items[7].text[:200])
    fresh = Item(media="text", text=" ".join(sentence(rng) for _ in range(3)))
    found = judge(tmp_path, [copy, fresh], archive_items)
    assert not found[copy.id].kept and "word for word" in found[copy.id].reasons[0]
    assert found[copy.id].scores["longest_copy_chars"] > 150  # type: ignore[operator]
    assert found[copy.id].scores["copied_share"] > 0.9  # type: ignore[operator]
    assert found[fresh.id].kept and found[fresh.id].rank == 0


def test_noise_ranks_behind_text_of_the_archives_kind_and_repetition_is_refused(
    tmp_path: Path, archive_items: list[Item]
) -> None:
    rng = random.Random(5)
    noise = Item(media="text", text="".join(rng.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(200)))
    loop = Item(media="text", text="the lamp and the lamp and the lamp and " * 12)
    good = Item(media="text", text=" ".join(sentence(rng) for _ in range(3)))
    found = judge(tmp_path, [noise, loop, good], archive_items, keep=1)
    assert [v.kept for v in (found[noise.id], found[loop.id], found[good.id])] == [False, False, True]
    assert "repeats itself" in found[loop.id].reasons[0]
    assert "not among the best" in found[noise.id].reasons[0]
    bits = {name: found[item.id].scores["bits_per_char"] for name, item in {"noise": noise, "good": good}.items()}
    assert bits["good"] < bits["noise"] / 2  # type: ignore[operator]


def test_a_broken_form_is_refused(tmp_path: Path, archive_items: list[Item]) -> None:
    form = {"name": "quatrain", "script": "zh", "lines": [[5, 5]] * 4, "rhyme": "?AxA"}
    right = Item(media="text", text="秋灯照短墙，虫语夜初凉。\n欲寄平安字，北风先到乡。", meta={"form": form})
    short = Item(media="text", text="秋灯照短墙，虫语夜凉。\n欲寄平安字，北风先到乡。", meta={"form": form})
    plain = Item(media="text", text="秋灯照短墙，虫语夜初凉。\n欲寄平安字，北风先到城。", meta={"form": form})
    found = judge(tmp_path, [right, short, plain], archive_items)
    assert found[right.id].kept and found[right.id].scores["form"] == 1.0
    assert not found[short.id].kept and not found[plain.id].kept


def picture(ctx: RunContext, pixels: np.ndarray, split: str = "train") -> Item:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    file = ctx.put(buffer.getvalue(), name="p.png", mime="image/png")
    return Item(media="image", files=(file,), split=split)


def disc(rng: random.Random) -> np.ndarray:
    y, x = np.mgrid[0:32, 0:32]
    cx, cy, r = rng.uniform(8, 24), rng.uniform(8, 24), rng.uniform(4, 9)
    inside = (x - cx) ** 2 + (y - cy) ** 2 < r * r
    out = np.full((32, 32, 3), 235, np.float32)
    out[inside] = [rng.uniform(40, 220) for _ in range(3)]
    return out


def test_pictures_near_to_training_pictures_or_to_each_other_are_refused(tmp_path: Path) -> None:
    rng, ctx = random.Random(3), RunContext(tmp_path / "ctx")
    archive = [picture(ctx, disc(rng), "heldout" if n % 5 == 0 else "train") for n in range(60)]
    shown = disc(rng)
    archive.append(picture(ctx, shown))
    copy = picture(ctx, np.clip(shown + np.random.default_rng(0).normal(0, 3, shown.shape), 0, 255))
    fresh = disc(rng)
    one, twin, other = picture(ctx, fresh), picture(ctx, fresh + 1), picture(ctx, disc(rng))
    found = {
        v.item: v
        for v in pick.Component(pick.Config(items=("x",))).judge(
            dataset(tmp_path / "items", [copy, one, twin, other]), dataset(tmp_path / "archive", archive), ctx
        )
    }
    assert not found[copy.id].kept and "training picture" in found[copy.id].reasons[0]
    assert found[one.id].kept != found[twin.id].kept
    assert found[other.id].kept
    assert found[other.id].scores["nearest_train"] > found[copy.id].scores["nearest_train"]  # type: ignore[operator]


def test_no_candidates_is_said(tmp_path: Path, archive_items: list[Item]) -> None:
    with pytest.raises(UserError, match="no candidates"):
        judge(tmp_path, [], archive_items)


def test_an_empty_archive_assesses_what_it_can(tmp_path: Path) -> None:
    found = judge(tmp_path, [Item(media="text", text="a lamp in the window of the harbour")], [])
    (verdict,) = found.values()
    assert verdict.scores["bits_per_char"] is None and verdict.scores["distinct_4"] is not None


@pytest.mark.parametrize(
    ("counts", "keep", "shares"),
    [
        ({"text": 6, "image": 12}, 6, {"text": 2, "image": 4}),
        ({"text": 1, "image": 99}, 5, {"text": 1, "image": 4}),
        ({"text": 3, "image": 3}, 0, {"text": 3, "image": 3}),
        ({"text": 3, "image": 3}, 1, {"text": 0, "image": 1}),
        ({"text": 2}, 9, {"text": 2}),
    ],
)
def test_keep_is_shared_by_media(counts: dict[str, int], keep: int, shares: dict[str, int]) -> None:
    assert pick._shares(counts, keep) == shares


def test_the_judge_is_a_distribution_and_follows_witten_bell() -> None:
    seen = Judge(["abracadabra", "abba"])
    for context in ("", "a", "ab", "abrac", "zz"):
        padded = "\x02" * seen.order + context
        total = sum(
            2 ** -seen._bits(padded + char, len(padded), seen.order) for char in ["a", "b", "r", "c", "d", "\x03", "?"]
        )
        assert total == pytest.approx(1.0)
    # order 0 by hand: 15 letters and 2 ends, 6 kinds, an alphabet of 7: p(a) = (7 + 6/7) / (17 + 6)
    bits = seen.bits_per_char("a", order=0)
    expected = -(math.log2((7 + 6 / 7) / 23) + math.log2((2 + 6 / 7) / 23)) / 2
    assert bits == pytest.approx(expected)


def test_repetition_figures_by_hand() -> None:
    assert distinct_share("abcdabcd") == pytest.approx(4 / 5)
    assert distinct_share("abc") is None
    assert longest_repeat("abcXabcY") == 3
    assert longest_repeat("aaaa") == 3
    assert longest_repeat("abcd") == 0


def test_a_long_text_is_not_repetition_by_its_length_and_a_strange_form_is_not_assessed(tmp_path: Path) -> None:
    rng = random.Random(4)
    names = ["".join(rng.choice("aeioukmnprstvlz") for _ in range(rng.randint(3, 9))) for _ in range(3000)]
    long = " ".join(rng.choice(names) for _ in range(8000))
    assert distinct_share(long) > 0.7  # type: ignore[operator]
    found = judge(tmp_path, [Item(media="text", text=long[:400], meta={"form": {"kind": "sestina"}})], [])
    assert next(iter(found.values())).scores["form"] is None


def test_choosing_among_many_pictures_is_quick_work(tmp_path: Path) -> None:
    rng, ctx = random.Random(8), RunContext(tmp_path / "ctx")
    archive = [picture(ctx, disc(rng), "heldout" if n % 4 == 0 else "train") for n in range(20)]
    items = [picture(ctx, disc(rng)) for _ in range(300)]
    found = list(
        pick.Component(pick.Config(items=("x",), keep=150)).judge(
            dataset(tmp_path / "items", items), dataset(tmp_path / "archive", archive), ctx
        )
    )
    assert 0 < sum(v.kept for v in found) <= 150
