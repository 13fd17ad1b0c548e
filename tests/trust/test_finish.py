"""Finish and inspect: what we sign two readers believe; one changed byte, and neither does."""

from __future__ import annotations

import random
import shutil
import socket
from pathlib import Path
from typing import Any

import c2pa
import encypher_c2pa
import pytest

from intaglio.core.contracts import Rights
from intaglio.trust import credentials
from intaglio.trust.authority import Authority, authority
from intaglio.trust.finish import FinishError, finish
from intaglio.trust.inspect import inspect
from tests.trust._files import FILES, RIGHTS, write


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("home"))


def second_reader(path: Path, mime: str, anchors: str) -> dict[str, Any]:
    """What an independent program reports. Beside a sidecar it is told "HTML" whatever the file is: the manifest binds
    plain bytes, and for text/plain and JSON it would look for a wrapper of invisible characters inside the text."""
    sidecar = path.with_name(path.name + ".c2pa")
    report = encypher_c2pa.verify(
        path.read_bytes(),
        "text/html" if sidecar.exists() else mime,
        manifest_store=sidecar.read_bytes() if sidecar.exists() else None,
        trust_pem=anchors,
        no_default_trust=True,
        telemetry=False,
        online=False,
    )
    return report


@pytest.mark.parametrize("ai", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_finished_files_are_valid(name: str, ai: bool, tmp_path: Path, signer: Authority) -> None:
    mime = FILES[name][0]
    path = write(tmp_path, name)
    done = finish(path, mime, RIGHTS, ai=ai, signer=signer)
    assert (done.sidecar is None) == (mime in credentials.EMBEDS)
    told = inspect(path, anchors_pem=signer.root_pem)
    assert (told.credentials, told.labels, told.reasons, told.produce_id) == ("valid", "valid", [], "almanac-0001")
    stranger = inspect(path, anchors_pem="")
    assert (stranger.credentials, stranger.labels) == ("unknown", "valid")
    if done.sidecar:
        assert inspect(done.sidecar, anchors_pem=signer.root_pem) == told
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted({name, (done.sidecar or path).name})


@pytest.mark.parametrize("name", FILES)
def test_the_second_reader_agrees(name: str, tmp_path: Path, signer: Authority) -> None:
    mime = FILES[name][0]
    path = write(tmp_path, name)
    finish(path, mime, RIGHTS, ai=True, signer=signer)
    report = second_reader(path, mime, signer.root_pem)
    assert report["validation_state"] == "Trusted", report["validation_results"]["failure"]


def test_same_before_the_signature(tmp_path: Path, signer: Authority) -> None:
    for name, (mime, _) in FILES.items():
        first = finish(write(tmp_path, name), mime, RIGHTS, ai=True, signer=signer)
        second = finish(write(tmp_path, name), mime, RIGHTS, ai=True, signer=authority(tmp_path / "other"))
        assert first.unsigned_sha256 == second.unsigned_sha256
        assert (first.sha256 == second.sha256) == (first.sidecar is not None)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "lossy.webp", "a.gif", "a.tif", "a.svg", "a.html", "a.css"])
def test_a_changed_byte_shows(name: str, tmp_path: Path, signer: Authority) -> None:
    path = write(tmp_path, name)
    done = finish(path, FILES[name][0], RIGHTS, ai=True, signer=signer)
    chance = random.Random(name)
    for victim in [path, *([done.sidecar] if done.sidecar else [])]:
        whole = victim.read_bytes()
        for at in chance.sample(range(len(whole)), min(60, len(whole))):
            victim.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
            told = inspect(path, anchors_pem=signer.root_pem)
            assert told.credentials in ("invalid", "missing"), (victim.name, at)
        victim.write_bytes(whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "lossy.webp", "a.gif", "a.tif", "a.svg", "a.css"])
def test_every_changed_byte_shows(name: str, tmp_path: Path, signer: Authority) -> None:
    path = write(tmp_path, name)
    done = finish(path, FILES[name][0], RIGHTS, ai=True, signer=signer)
    victim = done.sidecar or path
    whole = bytearray(victim.read_bytes())
    unseen = []
    step = 1 if name in ("a.png", "a.css") else 7
    for at in range(0, len(whole), step):
        whole[at] ^= 1
        victim.write_bytes(whole)
        if inspect(path, anchors_pem=signer.root_pem).credentials in ("valid", "unknown"):
            unseen.append(at)
        whole[at] ^= 1
    assert unseen == []


def test_swapped_lost_and_added(tmp_path: Path, signer: Authority) -> None:
    page = write(tmp_path, "a.html")
    finish(page, "text/html", RIGHTS, ai=True, signer=signer)
    style = write(tmp_path, "a.css")
    finish(style, "text/css", RIGHTS, ai=False, signer=signer)
    sidecar = tmp_path / "a.html.c2pa"
    kept = sidecar.read_bytes()
    shutil.copy(tmp_path / "a.css.c2pa", sidecar)
    assert inspect(page, anchors_pem=signer.root_pem).credentials == "invalid"
    sidecar.unlink()
    told = inspect(page, anchors_pem=signer.root_pem)
    assert (told.credentials, told.labels, told.manifest) == ("missing", "unknown", None)
    sidecar.write_bytes(kept)
    page.write_bytes(page.read_bytes() + b"\n")
    assert inspect(page, anchors_pem=signer.root_pem).credentials == "invalid"
    page.unlink()
    assert inspect(sidecar, anchors_pem=signer.root_pem).credentials == "invalid"


def test_a_label_that_was_not_signed(tmp_path: Path, signer: Authority) -> None:
    """Somebody with our key (a bug of ours) signs a file whose label says something else."""
    path = write(tmp_path, "a.txt")
    finish(path, "text/plain", RIGHTS, ai=True, signer=signer)
    text = path.read_text("utf-8").replace("almanac-0001", "almanac-0002")
    path.write_text(text, "utf-8")
    piece = {"produce_id": "almanac-0001", "mime": "text/plain", "ai": True, "label_in": "file", "aigc": {}}
    store = credentials.sign_detached(path.read_bytes(), "text/plain", RIGHTS, piece=piece, signer=signer)
    (tmp_path / "a.txt.c2pa").write_bytes(store)
    told = inspect(path, anchors_pem=signer.root_pem)
    assert (told.credentials, told.labels) == ("valid", "invalid") and told.reasons


def test_foreign_credentials(tmp_path: Path, signer: Authority) -> None:
    """A file signed by another program: judged by its own words, never by our seal."""
    info = c2pa.C2paSignerInfo(b"es256", signer.chain_pem.encode(), signer.key_pem.encode(), None)
    for kind, expected in (("trainedAlgorithmicMedia", "missing"), ("digitalCapture", "valid")):
        action = {"action": "c2pa.created", "digitalSourceType": credentials.DIGITAL_SOURCE + kind}
        manifest = {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]}
        path = write(tmp_path, "a.jpg")
        with c2pa.Signer.from_info(info) as key, c2pa.Builder(manifest) as builder, path.open("rb") as source:
            with (tmp_path / f"{kind}.jpg").open("w+b") as out:
                builder.sign(key, "image/jpeg", source, out)
        told = inspect(tmp_path / f"{kind}.jpg", anchors_pem=signer.root_pem)
        assert (told.credentials, told.labels, told.produce_id) == ("valid", expected, "")


def test_unsigned_and_unlabelled(tmp_path: Path, signer: Authority) -> None:
    for name in FILES:
        told = inspect(write(tmp_path, name), anchors_pem=signer.root_pem)
        assert (told.credentials, told.labels) == ("missing", "missing"), name


def test_wrong_kind_is_refused_and_nothing_is_left(tmp_path: Path, signer: Authority) -> None:
    path = write(tmp_path, "a.jpg")
    for mime in ("image/png", "text/html", "application/json", "image/svg+xml"):
        with pytest.raises(FinishError):
            finish(path, mime, RIGHTS, ai=True, signer=signer)
        assert path.read_bytes() == FILES["a.jpg"][1] and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FinishError):
        finish(path, "image/jpeg", Rights("a b", "", "", "", ""), ai=True, signer=signer)


def test_odd_rights_still_sign(tmp_path: Path, signer: Authority) -> None:
    path = write(tmp_path, "a.png")
    finish(path, "image/png", Rights("n1", "", "", "", "", {"深": ["层", None, 1.5, True]}), ai=True, signer=signer)
    told = inspect(path, anchors_pem=signer.root_pem)
    assert (told.credentials, told.labels) == ("valid", "valid")


def test_hostile_bytes_never_raise_and_never_fetch(
    tmp_path: Path, signer: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    chance = random.Random(5)
    for name, (mime, _) in FILES.items():
        path = write(tmp_path, name)
        done = finish(path, mime, RIGHTS, ai=True, signer=signer)
        victim = done.sidecar or path
        whole = victim.read_bytes()
        for _ in range(25):
            data = bytearray(whole)
            for _ in range(chance.randrange(1, 30)):
                at = chance.randrange(len(data))
                data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
            changed = bytes(data[: chance.randrange(1, len(data))] if chance.random() < 0.3 else data)
            if changed == whole:
                continue
            victim.write_bytes(changed)
            assert inspect(path, anchors_pem=signer.root_pem).credentials != "valid"
    for name in ("empty.png", "empty.html"):
        (tmp_path / name).write_bytes(b"")
        assert inspect(tmp_path / name, anchors_pem=signer.root_pem).credentials == "missing"
    for odd in (tmp_path, tmp_path / "absent.png", tmp_path / "absent.c2pa", tmp_path / ("x" * 300)):
        assert inspect(odd, anchors_pem=signer.root_pem).credentials == "invalid"
    assert inspect(tmp_path / "a.png", anchors_pem="no PEM").credentials in ("invalid", "unknown")


def test_a_remote_manifest_is_not_followed(tmp_path: Path, signer: Authority) -> None:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    listening.settimeout(0.3)
    info = c2pa.C2paSignerInfo(b"es256", signer.chain_pem.encode(), signer.key_pem.encode(), None)
    action = {"action": "c2pa.created", "digitalSourceType": credentials.GENERATED}
    path, out = write(tmp_path, "a.jpg"), tmp_path / "remote.jpg"
    with c2pa.Signer.from_info(info) as key, path.open("rb") as source, out.open("w+b") as target:
        with c2pa.Builder({"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]}) as builder:
            builder.set_remote_url(f"http://127.0.0.1:{listening.getsockname()[1]}/manifest.c2pa")
            builder.set_no_embed()
            builder.sign(key, "image/jpeg", source, target)
    assert inspect(out, anchors_pem=signer.root_pem).credentials == "missing"
    with pytest.raises(TimeoutError):
        listening.accept()
    listening.close()
