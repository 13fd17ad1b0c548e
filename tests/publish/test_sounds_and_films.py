"""Recordings and films are published with their own elements, and what is signed of them verifies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from intaglio.core.contracts import Item
from intaglio.media import audio, video
from intaglio.publish.site import Component, Config
from intaglio.trust.authority import authority
from intaglio.trust.finish import finish
from intaglio.trust.inspect import inspect
from tests.support import ItemList, RunContext
from tests.trust._files import RIGHTS


def sounding() -> bytes:
    return audio.dump_wav((0.5 * np.sin(np.arange(8000) / 5)).astype(np.float32), 8000)


def moving() -> bytes:
    return video.dump_mp4(np.full((6, 3, 32, 48), 90, dtype=np.uint8), 6)


def test_the_site_plays_them(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    pieces = [
        Item(media="audio", files=(ctx.put(sounding(), name="a.wav", mime="audio/wav"),), license="CC0-1.0"),
        Item(media="video", files=(ctx.put(moving(), name="b.mp4", mime="video/mp4"),), license="CC0-1.0"),
    ]
    made = list(Component(Config(items=("best",))).export(ItemList(pieces), ctx))
    mimes = {file.path: file.mime for file in made}
    assert {"audio/wav", "video/mp4"} <= set(mimes.values())
    for piece, element in zip(pieces, ("<audio controls", "<video controls"), strict=True):
        page = (ctx.out / "pieces" / f"{piece.id[:16]}.html").read_text("utf-8")
        assert element in page


@pytest.mark.parametrize(("name", "mime"), [("a.wav", "audio/wav"), ("a.flac", "audio/flac"), ("b.mp4", "video/mp4")])
def test_finished_ones_verify_and_still_play(name: str, mime: str, tmp_path: Path) -> None:
    flac = audio.dump_flac(audio.load(sounding()), 8000)
    path = tmp_path / name
    path.write_bytes({"a.wav": sounding(), "a.flac": flac, "b.mp4": moving()}[name])
    before = audio.probe(path) if mime.startswith("audio") else video.probe(path)
    signer = authority(tmp_path / "home")
    finish(path, mime, RIGHTS, ai=True, signer=signer)
    told = inspect(path, anchors_pem=signer.root_pem)
    assert (told.credentials, told.labels) == ("valid", "valid"), told.reasons
    assert (audio.probe(path) if mime.startswith("audio") else video.probe(path)) == before
