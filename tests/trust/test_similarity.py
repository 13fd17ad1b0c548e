"""Verbatim runs against difflib and a brute force, and near pictures."""

from __future__ import annotations

import difflib
import io
import random

import numpy as np
import pytest
from PIL import Image

from intaglio.trust import similarity
from intaglio.trust.similarity import letters, longest_runs, mostly_han, nearest, picture_features


def longest_common(a: str, b: str) -> int:
    """Independent reference."""
    return difflib.SequenceMatcher(None, a, b, autojunk=False).find_longest_match().size


@pytest.mark.parametrize(("alphabet", "floor"), [("春花秋月何时了往事", 5), ("abcde ,.", 13)])
def test_runs_are_exact_from_the_floor_on(alphabet: str, floor: int) -> None:
    rng = random.Random(1)
    archive = ["".join(rng.choices(alphabet, k=rng.randint(0, 300))) for _ in range(40)]
    texts = []
    for _ in range(30):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 80)))
        cut = rng.choice([t for t in archive if len(t) > 100])
        start, length = rng.randint(0, 50), rng.randint(0, 60)
        texts.append(text + cut[start : start + length] + text[::-1])
    runs = longest_runs(texts, [(str(i), t) for i, t in enumerate(archive)])
    for text, run in zip(texts, runs, strict=True):
        bare = letters(text)
        wanted = max(longest_common(bare, letters(t)) for t in archive)
        assert run.floor == floor
        assert run.chars == (wanted if wanted >= floor else 0)
        assert run.letters == len(bare)
        if run.chars:
            assert letters(run.excerpt) in letters(archive[int(run.item)])
            assert len(letters(run.excerpt)) == run.chars
            assert run.share == pytest.approx(run.chars / len(bare))
            assert run.covered >= run.share


def test_case_punctuation_width_and_line_breaks_do_not_hide_a_copy() -> None:
    run = longest_runs(["The  QUICK brown\nfox -- jumps?"], [("x", "see the quick, brown fox jumps over")])[0]
    assert run.chars == len("thequickbrownfoxjumps")
    assert run.share == 1.0 and run.item == "x"
    assert longest_runs(["白日依山尽\n黄河入海流"], [("y", "白日依山尽，黄河入海流。")])[0].share == 1.0
    assert longest_runs(["ＡＢＣＤＥＦＧＨＩＪＫＬＭＮ"], [("z", "abcdefghijklmn")])[0].share == 1.0


def test_a_run_never_crosses_the_end_of_a_text() -> None:
    runs = longest_runs(["春眠不觉晓处处"], [("a", "春眠不"), ("b", "觉晓处处")])
    assert runs[0].chars == 0 and runs[0].item == ""
    runs = longest_runs(["春眠不", "觉晓处处"], [("a", "春眠不觉晓处处闻啼鸟")])
    assert [run.chars for run in runs] == [0, 0]  # each is shorter than the floor


def test_a_patchwork_of_copies_is_covered_though_no_run_is_long() -> None:
    archive = [("a", "床前明月光疑是地上霜"), ("b", "白日依山尽黄河入海流"), ("c", "空山不见人但闻人语响")]
    run = longest_runs(["床前明月光，黄河入海流。\n但闻人语响，一二三四五。"], archive)[0]
    assert run.chars == 5
    assert run.covered == pytest.approx(15 / 20)


def test_nothing_to_compare() -> None:
    assert longest_runs([], [("a", "text")]) == []
    run = longest_runs(["", "some text of its own", "。，！"], [])
    assert [each.chars for each in run] == [0, 0, 0]
    assert run[0].share == 0.0 and run[0].covered == 0.0
    assert longest_runs(["words and words and words"], [("a", ""), ("b", "\x00\x01")])[0].chars == 0


def test_repetition_and_hostile_characters_stay_linear_and_right() -> None:
    text = "a" * 20_000
    run = longest_runs([text, "x\ud800y" * 10], [("a", "a" * 15_000), ("b", "\ud800" * 5)])[0]
    assert run.chars == 15_000


def test_batches_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    archive = [(str(i), "".join(rng.choices("春花秋月何时了", k=40))) for i in range(200)]
    texts = ["".join(rng.choices("春花秋月何时了", k=30)) for _ in range(20)]
    whole = longest_runs(texts, archive)
    monkeypatch.setattr(similarity, "BATCH_CHARS", 257)
    assert [r.chars for r in longest_runs(texts, archive)] == [r.chars for r in whole]
    assert [r.covered for r in longest_runs(texts, archive)] == [r.covered for r in whole]


def test_mostly_han() -> None:
    assert (
        mostly_han("白日依山尽，ok")
        and not mostly_han("a poem called 静夜思")
        and not mostly_han("123 !!")
        and not mostly_han("")
    )


def noise(seed: int, size: int = 48) -> Image.Image:
    grid = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)


def test_pictures_near_after_compression_and_noise_and_far_otherwise() -> None:
    picture = noise(0)
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=40)
    jpeg.seek(0)
    same = np.linalg.norm(picture_features(picture) - picture_features(jpeg))
    other = np.linalg.norm(picture_features(picture) - picture_features(noise(1)))
    assert same < 0.04 < 0.1 < other
    black, white = (picture_features(Image.new("L", (9, 9), value)) for value in (0, 255))
    assert np.linalg.norm(black - white) == pytest.approx(1.0, abs=1e-5)
    clear = Image.new("RGBA", (9, 9), (0, 0, 0, 0))
    assert np.allclose(picture_features(clear), white)


def test_nearest_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    queries, others = rng.random((7, 12), dtype=np.float32), rng.random((3000, 12), dtype=np.float32)
    others[2500] = queries[3]
    distance, place = nearest(queries, iter(others))
    full = np.linalg.norm(queries[:, None] - others[None], axis=2)
    assert (place == full.argmin(1)).all()
    assert np.allclose(distance, full.min(1), atol=1e-6)
    assert place[3] == 2500 and distance[3] == 0.0
    none, where = nearest(queries, iter([]))
    assert np.isinf(none).all() and (where == -1).all()


def test_a_broken_picture_is_an_error_of_the_file() -> None:
    with pytest.raises((OSError, ValueError)):
        picture_features(io.BytesIO(b"not a picture"))
