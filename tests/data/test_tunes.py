"""Tune books and MIDI files in a folder: an item a tune, rights as for texts, what cannot be read is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from intaglio.core import config
from intaglio.core.contracts import Item, Skip
from intaglio.data import folder
from intaglio.media import music
from tests.support import RunContext, kept, skips


def read(ctx: RunContext) -> Iterator[Item | Skip]:
    parsed = config.parse(folder.Config, {"path": ".", "license": "CC0-1.0"}, where="test")
    return folder.Component(parsed).read(ctx)


JIG = "X:1\nT:One\nM:6/8\nL:1/8\nK:G\nGAB cde|d3 G3|]\n"


def test_each_tune_of_a_book_is_a_text_and_prose_with_a_tune_in_it_stays_one(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    book = f"% collected\n\n{JIG}\nX:2\nT:Two\nM:6/8\nK:D\nz3|\n\n{JIG.replace('T:One', 'T:Three')}"
    (ctx.project / "book.abc").write_text(book, "utf-8")
    (ctx.project / "letter.txt").write_text(f"Dear friend, here is the tune:\n\n{JIG}\nYours", "utf-8")
    found = list(read(ctx))
    tunes = [item for item in kept(found) if item.meta.get("format") == "abc"]
    assert [(item.media, item.origin, item.meta["title"], item.license) for item in tunes] == [
        ("text", "book.abc#1", "One", "CC0-1.0"),
        ("text", "book.abc#3", "Three", "CC0-1.0"),
    ]
    assert tunes[0].text.startswith("X:1\nT:One") and tunes[0].text.endswith("|]\n")
    assert [skip.origin for skip in skips(found)] == ["book.abc#2"]
    letter = next(item for item in kept(found) if item.origin == "letter.txt")
    assert letter.text.startswith("Dear friend") and "format" not in letter.meta


def test_a_midi_file_is_a_recording_with_its_notes_counted(tmp_path: Path) -> None:
    pytest.importorskip("mido")
    ctx = RunContext(tmp_path)
    (ctx.project / "tune.mid").write_bytes(music.midi(music.piece_of(music.parse(JIG))))
    (ctx.project / "tune.txt").write_text("played once", "utf-8")
    (ctx.project / "broken.mid").write_bytes(b"MThd\0\0\0\x06\0\1")
    found = list(read(ctx))
    (item,) = kept(found)
    assert (item.media, item.text, item.files[0].mime) == ("audio", "played once", "audio/midi")
    assert item.meta["notes"] == 8 and item.meta["seconds"] == 2.4  # six beats, at the 150 a minute of compound time
    assert [skip.origin for skip in skips(found)] == ["broken.mid"]
