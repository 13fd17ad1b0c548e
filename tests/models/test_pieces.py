"""A growing text told in pieces: whatever the cuts and stop words, they are the text, and nothing is taken back."""

from __future__ import annotations

import random

import pytest

from intaglio.models._pieces import Growing


def told(parts: list[str], stop: tuple[str, ...]) -> tuple[list[str], Growing]:
    growing, pieces = Growing(stop), []
    for part in parts:
        stopped = growing.add(part)
        pieces.append(growing.piece())
        if stopped:
            break
    return [*pieces, growing.piece(last=True)], growing


@pytest.mark.parametrize(
    ("parts", "stop", "expected"),
    [
        (["ab", "c", "d"], (), ["ab", "c", "d", ""]),
        (["a\n", "\n", "b"], ("\n\n",), ["a", "", ""]),
        (["a\n", "b\n"], ("\n\n",), ["a", "\nb", "\n"]),
        (["one en", "d"], ("", "end"), ["one ", "", ""]),
        (["aab", "aac"], ("aabaac",), ["", "", ""]),
        (["xab", "c"], ("b", "abc"), ["xa", ""]),
    ],
)
def test_what_may_become_a_stop_word_is_held_back(parts: list[str], stop: tuple[str, ...], expected: list[str]) -> None:
    assert told(parts, stop)[0] == expected


def test_pieces_are_the_text_cut_at_the_first_stop_word() -> None:
    draw = random.Random(3)
    for _ in range(3_000):
        whole = "".join(draw.choices("ab.", k=draw.randrange(14)))
        stop = tuple("".join(draw.choices("ab.", k=draw.randrange(5))) for _ in range(draw.randrange(4)))
        parts, place = [], 0
        while place < len(whole):
            size = draw.randrange(1, 4)
            parts.append(whole[place : place + size])
            place += size
        pieces, growing = told(parts, stop)
        assert "".join(pieces) == growing.text and whole.startswith(growing.text)
        assert not any(word and word in growing.text for word in stop)
        assert growing.stopped == any(word and word in whole for word in stop)
