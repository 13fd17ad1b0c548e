"""A folder with recordings and films: facts, captions, labels, what cannot be read, and the transforms after it."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from intaglio.core.registry import load
from intaglio.media import audio, video
from tests.data.reading import read, write
from tests.support import RunContext, kept, skips


def tone(hz: float, seconds: float = 0.5) -> bytes:
    return audio.dump_wav(np.sin(2 * np.pi * hz * np.arange(int(8000 * seconds)) / 8000).astype(np.float32) * 0.5, 8000)


def film(shade: int) -> bytes:
    return video.dump_mp4(np.full((6, 3, 32, 48), shade, dtype=np.uint8), 6)


@pytest.fixture
def ctx(tmp_path: Any) -> RunContext:
    context = RunContext(tmp_path)
    (context.project / "archive").mkdir()
    return context


def folder(ctx: RunContext, files: dict[str, bytes | str]) -> Any:
    write(ctx.project / "archive", files)
    return read("folder", ctx, path="archive")


def test_recordings_and_films_with_their_facts(ctx: RunContext) -> None:
    found = kept(folder(ctx, {"a.wav": tone(440), "a.txt": "A tone.", "b.bin": film(9), "c.txt": "Only words."}))
    assert [(item.media, item.text) for item in found] == [("audio", "A tone."), ("video", ""), ("text", "Only words.")]
    assert found[0].meta == {"rate_hz": 8000, "channels": 1, "seconds": 0.5}
    assert found[0].files[0].mime == "audio/wav" and found[1].files[0].mime == "video/mp4"
    facts = {"width_px": 48, "height_px": 32, "fps": 6.0, "frames": 6, "seconds": 1.0, "has_sound": False}
    assert found[1].meta == facts
    assert ctx.path(found[0].files[0]).read_bytes() == tone(440)


def test_the_first_of_several_folders_is_the_label(ctx: RunContext) -> None:
    files = {"bell/a.wav": tone(440), "bell/deep/b.wav": tone(450), "horn/c.wav": tone(460), "d.wav": tone(470)}
    found = {item.origin: item.meta.get("label") for item in kept(folder(ctx, dict(files)))}
    assert found == {
        "archive/bell/a.wav": "bell",
        "archive/bell/deep/b.wav": "bell",
        "archive/horn/c.wav": "horn",
        "archive/d.wav": None,
    }


def test_one_folder_alone_is_no_label(ctx: RunContext) -> None:
    (item,) = kept(folder(ctx, {"all/a.wav": tone(440)}))
    assert "label" not in item.meta


def test_unreadable_ones_are_skipped_with_a_reason(ctx: RunContext) -> None:
    results = folder(ctx, {"a.wav": tone(440)[:3000], "b.mp4": film(3)[:500], "c.flac": b"fLaC" + b"\0" * 99})
    assert not kept(results)
    reasons = {skip.origin: skip.reason for skip in skips(results)}
    assert set(reasons) == {"archive/a.wav", "archive/b.mp4", "archive/c.flac"}
    assert "truncated" in reasons["archive/a.wav"] and "damaged" in reasons["archive/c.flac"]


def test_without_the_package_it_is_skipped_and_said(ctx: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "intaglio.media" and "audio" in (args[2] or ()):
            raise ModuleNotFoundError("No module named 'soundfile'", name="soundfile")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    results = folder(ctx, {"a.wav": tone(440), "b.txt": "Words."})
    assert [item.media for item in kept(results)] == ["text"]
    assert [skip.reason for skip in skips(results)] == ["soundfile is needed to read it: pip install 'intaglio[audio]'"]


def test_transforms_let_them_pass(ctx: RunContext) -> None:
    results = folder(ctx, {"a.wav": tone(440), "b.wav": tone(440), "c.mp4": film(5), "d.wav": tone(880)})
    for name in ("normalize", "language", "duplicates", "personal", "split"):
        module = load("data", name)
        results = list(module.Component(module.Config(**module.TINY)).apply(results, ctx))
    assert sorted((item.media, item.origin) for item in kept(results)) == [
        ("audio", "archive/a.wav"),
        ("audio", "archive/d.wav"),
        ("video", "archive/c.mp4"),
    ]
    assert [skip.kind for skip in skips(results)] == ["duplicate"]
