"""A folder of foreign files: kinds by content, captions, front matter, and every bad input the archive can hold."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from intaglio.core.contracts import Item, Skip
from intaglio.core.errors import UserError
from intaglio.media import text
from tests.data.reading import picture, read, write
from tests.support import RunContext, kept, skips


@pytest.fixture
def ctx(tmp_path: Path) -> RunContext:
    context = RunContext(tmp_path)
    (context.project / "archive").mkdir()
    return context


def reasons(results: list[Item | Skip]) -> dict[str, str]:
    return {skip.origin: skip.reason for skip in skips(results)}


def folder(ctx: RunContext, files: dict[str, bytes | str], **values: object) -> list[Item | Skip]:
    write(ctx.project / "archive", files)
    return read("folder", ctx, path="archive", **values)


def test_kinds_are_told_by_content_not_by_name(ctx: RunContext) -> None:
    found = kept(
        folder(ctx, {"a.txt": picture("PNG"), "b.png": "a text", "c": picture("JPEG"), "d.md": "# Title\n\nBody."})
    )
    assert [(item.media, item.origin) for item in found] == [
        ("image", "archive/a.txt"), ("text", "archive/b.png"), ("image", "archive/c"), ("text", "archive/d.md"),
    ]  # fmt: skip
    assert found[0].files[0].mime == "image/png" and found[2].files[0].mime == "image/jpeg"
    assert found[3].meta["title"] == "Title"


def test_pictures_keep_their_bytes_and_take_captions(ctx: RunContext) -> None:
    data = picture("JPEG", (20, 10))
    found = kept(folder(ctx, {"fox.jpg": data, "fox.txt": " A fox.\n", "owl.png": picture(), "owl.png.txt": "An owl."}))
    assert [(item.media, item.text) for item in found] == [("image", "A fox."), ("image", "An owl.")]
    assert ctx.path(found[0].files[0]).read_bytes() == data
    assert found[0].meta == {"width_px": 20, "height_px": 10, "mode": "RGB"}
    assert found[0].license == "CC0-1.0"


def test_a_broken_caption_costs_the_caption_only(ctx: RunContext) -> None:
    results = folder(ctx, {"fox.png": picture(), "fox.txt": bytes(range(200)) * 9})
    assert [item.text for item in kept(results)] == [""]
    assert reasons(results) == {"archive/fox.txt": "caption: binary data, not text"}


def test_front_matter_is_honoured(ctx: RunContext) -> None:
    head = "title: T\nauthor: A\nlicense: cc-by-4.0\nlang: zh-CN\nconsent: by letter\nsource: a book\nmood: calm"
    source = f"---\n{head}\n---\nText."
    item = kept(folder(ctx, {"a.md": source, "b.md": "---\nlicence: MIT OR Apache-2.0\n---\nText."}, consent="ours"))
    assert (item[0].license, item[0].language, item[0].consent, item[0].text) == (
        "CC-BY-4.0",
        "zh",
        "by letter",
        "Text.",
    )
    assert item[0].meta == {"title": "T", "author": "A", "source": "a book", "front": {"mood": "calm"}}
    assert (item[1].license, item[1].consent) == ("MIT OR Apache-2.0", "ours")


def test_a_license_nobody_knows_is_not_guessed(ctx: RunContext) -> None:
    results = folder(ctx, {"a.md": "---\nlicense: all rights reserved\n---\nText."})
    assert not kept(results)
    assert "no SPDX expression" in reasons(results)["archive/a.md"]


def test_units(ctx: RunContext) -> None:
    files: dict[str, bytes | str] = {"a.md": "---\ntitle: T\n---\none\ntwo\n\nthree\n"}
    by_paragraph = kept(folder(ctx, files, unit="paragraph"))
    assert [(item.text, item.origin) for item in by_paragraph] == [
        ("one\ntwo", "archive/a.md#1"),
        ("three", "archive/a.md#2"),
    ]
    assert by_paragraph[1].meta["title"] == "T"
    assert [item.text for item in kept(folder(ctx, files, unit="line"))] == ["one", "two", "three"]


def test_a_text_too_long_is_refused_whole_and_read_in_parts(ctx: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_BYTES", 1000)
    files: dict[str, bytes | str] = {"long.txt": "".join(f"Absatz {n} für alle.\n\n" for n in range(200))}
    assert 'read it with unit = "paragraph"' in reasons(folder(ctx, files))["archive/long.txt"]
    assert len(kept(folder(ctx, files, unit="paragraph"))) == 200


def test_bad_files_are_skipped_with_their_reason(ctx: RunContext) -> None:
    jpeg = picture("JPEG", (256, 256))
    results = folder(
        ctx,
        {
            "good.txt": "good",
            "empty.txt": b"",
            "blank.txt": "\n \n",
            "program.txt": b"\x7fELF" + bytes(1000),
            "data.txt": bytes(range(256)) * 40,
            "archive.txt": b"PK\x03\x04" + bytes(100),
            "page.txt": "<!DOCTYPE html><html></html>",
            "cut.jpg": jpeg[: len(jpeg) // 2],
            "cut.png": picture("PNG", (64, 64))[:-80],
            "torn.txt": "被截断的文字总是可惜的".encode()[:-1],
            "song.mp3": b"ID3\x04" + bytes(100),
        },
    )
    assert [item.text for item in kept(results)] == ["good"]
    found = reasons(results)
    assert found == {
        "archive/archive.txt": "it is a ZIP archive or an office document, which is not read here",
        "archive/blank.txt": "nothing in it but white space",
        "archive/cut.jpg": "the picture is truncated",
        "archive/cut.png": "the picture is truncated",
        "archive/torn.txt": "truncated or damaged: not valid UTF-8 at byte 30",
        "archive/data.txt": "binary data, not text",
        "archive/empty.txt": "the file is empty",
        "archive/page.txt": "it is an HTML page, which is not read here",
        "archive/program.txt": "it is a program, which is not read here",
        "archive/song.mp3": "the recording is damaged (no sound in it)",
    }


def test_links_pipes_and_loops(ctx: RunContext, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("not ours")
    root = write(ctx.project / "archive", {"in/a.txt": "ours"})
    (root / "out.txt").symlink_to(secret)
    (root / "up").symlink_to(root.parent)
    (root / "same.txt").symlink_to(root / "in" / "a.txt")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe.txt")
    results = read("folder", ctx, path="archive")
    assert [item.origin for item in kept(results)] == ["archive/in/a.txt"]
    assert reasons(results) == {
        "archive/out.txt": "a link that leaves the folder",
        "archive/up": "a link that leaves the folder",
        "archive/same.txt": "a link; the file it names is read where it lies",
        "archive/loop": "a link that leads nowhere",
        "archive/pipe.txt": "not a regular file",
    }


def test_permission_denied() -> None:
    """Run as nobody where the tests run as root, because root may read everything."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            ctx = RunContext(Path(place) / "run")
            archive = write(ctx.project / "archive", {"a.txt": "a", "closed/b.txt": "b", "good.txt": "good"})
            (archive / "a.txt").chmod(0)
            (archive / "closed").chmod(0)
            results = read("folder", ctx, path="archive")
            (archive / "closed").chmod(0o700)
        finally:
            if root:
                os.seteuid(0)
    assert [item.text for item in kept(results)] == ["good"]
    assert reasons(results) == {"archive/a.txt": "permission denied", "archive/closed": "permission denied"}


def test_names_no_text_can_hold(ctx: RunContext) -> None:
    folder_ = os.fsencode(ctx.project / "archive")
    Path(os.fsdecode(folder_ + b"/\xff\xfe.txt")).write_text("odd name")
    (ctx.project / "archive" / "line\nbreak.txt").write_text("odder name")
    found = kept(read("folder", ctx, path="archive"))
    assert sorted(item.origin for item in found) == ["archive/line\ufffdbreak.txt", "archive/\ufffd\ufffd.txt"]


def test_hidden_files_are_left_out(ctx: RunContext) -> None:
    assert not folder(ctx, {".DS_Store": b"\0\0", "Thumbs.db": b"\0", ".git/config": "x", "sub/.hidden.txt": "x"})


def test_the_order_is_that_of_sorted_paths(ctx: RunContext) -> None:
    names = ["b.txt", "a/2.txt", "a/10.txt", "c/a.txt", "a.txt"]
    found = kept(folder(ctx, dict.fromkeys(names, "x")))
    assert [item.origin.removeprefix("archive/") for item in found] == [
        "a.txt",
        "b.txt",
        "a/10.txt",
        "a/2.txt",
        "c/a.txt",
    ]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("archiv", "archiv does not exist"),
        ("../outside", "outside the project"),
        ("archive/../../outside", "outside the project"),
        ("/etc", "outside the project"),
        ("file.txt", "is a file; a folder is needed"),
        ("", "no path is given"),
    ],
)
def test_a_wrong_path_is_refused_before_work(ctx: RunContext, path: str, said: str) -> None:
    (ctx.project / "file.txt").write_text("x")
    (ctx.root / "outside").mkdir()
    with pytest.raises(UserError, match=said) as caught:
        read("folder", ctx, path=path)
    assert caught.value.where == "intaglio.toml [data.step]"
    if path == "archiv":
        assert caught.value.fix == "did you mean 'archive'?"


@pytest.mark.slow
def test_a_hundred_thousand_files(ctx: RunContext) -> None:
    for number in range(100):
        (ctx.project / "archive" / f"{number:03d}").mkdir()
        for other in range(1000):
            (ctx.project / "archive" / f"{number:03d}" / f"{other}.txt").write_text(f"text {number} {other}")
    assert len(read("folder", ctx, path="archive")) == 100_000
