"""Lines, rhyme and forms, in Chinese and English."""

from __future__ import annotations

import pytest

from intaglio.media.verse import FORMS, Form, check, line_rhyme, lines_of, rhyme_class, rhyme_sound, rhymes, syllables

DENG_GUAN_QUE_LOU = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
ZAO_FA_BAI_DI = "朝辞白帝彩云间，千里江陵一日还。\n两岸猿声啼不住，轻舟已过万重山。"


def test_lines() -> None:
    assert lines_of(DENG_GUAN_QUE_LOU, "zh") == ["白日依山尽", "黄河入海流", "欲穷千里目", "更上一层楼"]
    assert lines_of("\n  One line,  \n\nanother; \n", "en") == ["One line,", "another;"]
    assert lines_of("", "zh") == lines_of("\n", "en") == []


@pytest.mark.parametrize(
    ("first", "second", "rhyming"),
    [
        ("流", "楼", True),
        ("还", "山", True),  # huan, as at the end of a line
        ("间", "山", True),
        ("东", "风", True),  # eng and ong are one class of the New Rhymes
        ("知", "衣", False),  # both spelled "i", but not the same sound
        ("知", "诗", True),
        ("鱼", "衣", True),
        ("花", "下", False),  # level and oblique
        ("楼", "楼", False),  # a character does not rhyme with itself
        ("a", "山", False),
    ],
)
def test_chinese_rhyme(first: str, second: str, rhyming: bool) -> None:
    assert rhymes(first, second, "zh") is rhyming


def test_a_character_without_a_reading_has_no_class() -> None:
    assert rhyme_class("x") == "" and rhyme_class("，") == "" and line_rhyme("", "zh") == ""


@pytest.mark.parametrize(
    ("first", "second", "rhyming"),
    [
        ("night", "white", True),
        ("the tree", "the sea", True),
        ("away", "weigh", True),
        ("stone", "alone", True),
        ("singing", "bringing", True),
        ("feather", "weather", True),
        ("love", "above", True),
        ("love", "move", False),
        ("flies", "skies", True),
        ("blood", "good", False),
        ("table", "able", True),
        ("walked", "talked", True),
        ("stone", "Stone.", False),
        ("night", "day", False),
        ("", "day", False),
    ],
)
def test_english_rhyme(first: str, second: str, rhyming: bool) -> None:
    assert rhymes(first, second, "en") is rhyming


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("cat", 1),
        ("make", 1),
        ("table", 2),
        ("walked", 1),
        ("wanted", 2),
        ("wishes", 2),
        ("beautiful", 3),
        ("nation", 2),
    ]
    + [("lion", 2), ("the", 1), ("rhythm", 2), ("lonely", 2), ("hmm", 1), ("", 0), ("42", 0)],
)
def test_syllables(word: str, count: int) -> None:
    assert syllables(word) == count


def test_sounds_do_not_fail_on_anything() -> None:
    for word in ("", "'", "q", "qu", "bcd", "ss", "eee", "aes", "'tis", "gu", "ouse" * 50, "naïve", "éé"):
        assert isinstance(rhyme_sound(word), str) and syllables(word) >= 0


def test_real_quatrains_keep_the_form() -> None:
    assert check(DENG_GUAN_QUE_LOU, FORMS["quatrain", "zh", 5]).faults == ()
    found = check(ZAO_FA_BAI_DI, FORMS["quatrain", "zh", 7])
    assert (found.lines, found.measured, found.rhymes, found.rhymed, found.faults) == (4, 4, 1, 1, ())


def test_faults_are_named() -> None:
    form = FORMS["quatrain", "zh", 5]
    assert check("白日依山尽，黄河入海流。\n欲穷千里，更上一层楼。", form).faults == (
        "line 3 has 4 characters instead of 5",
    )
    assert "lines 2 and 4 do not rhyme" in check("白日依山尽，黄河入海流。\n欲穷千里目，更上一层天。", form).faults
    assert check("白日依山尽，黄河入海流。", form).faults[0] == "2 lines instead of 4"
    assert "lines 2 and 4 do not rhyme" in check("白日依山尽，黄河入海流。\n欲穷千里目，更上一江流。", form).faults
    assert check("", form).faults
    assert check("abcde，黄河入海流。\n欲穷千里目，更上一层楼。", form).measured == 3


def test_english_forms() -> None:
    limerick = (
        "There was an old man with a beard,\nWho said, It is just as I feared,\n"
        "Two owls and a hen,\nFour larks and a wren,\nHave all built their nests in my beard."
    )
    found = check(limerick, FORMS["limerick", "en", 0])
    assert found.measured == 5
    assert found.faults == ("lines 2 and 5 do not rhyme",) or found.rhymed >= 1
    couplet = "The moon is low above the silver bay,\nAnd all the little boats have gone away."
    assert check(couplet, FORMS["couplet", "en", 0]).faults == ()


def test_a_form_survives_meta() -> None:
    for form in FORMS.values():
        assert Form.from_meta(form.as_meta()) == form
        assert len(form.rhyme) == len(form.lines)
    with pytest.raises((KeyError, TypeError, ValueError)):
        Form.from_meta({"name": "x"})
