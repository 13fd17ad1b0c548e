"""Packages: fetched by the real npm and pip from a registry on loopback, pinned, read as hostile bytes."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import shutil
import struct
import sys
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from intaglio.core.config import parse
from intaglio.core.contracts import Item, Skip
from intaglio.core.errors import UserError
from intaglio.core.folders import cache_folder
from intaglio.data import _archive, package
from intaglio.data._poems import quatrains
from intaglio.media import Unreadable
from tests.data.reading import picture, read
from tests.support import RunContext, kept, skips

POEMS = [
    {"title": "春曉", "author": "孟浩然", "paragraphs": ["春眠不覺曉，處處聞啼鳥。", "夜來風雨聲，花落知多少。"]},
    {"title": "odd", "author": "無名", "paragraphs": ["一二三四五，一二三四五六。"]},
    {"title": "八", "author": "甲", "paragraphs": ["一二三四五，六七八九十。"] * 4},
]


def tgz(files: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return out.getvalue()


def whl(files: dict[str, bytes]) -> bytes:
    """A wheel that pip accepts: with METADATA, WHEEL and RECORD."""
    info = "tiny_poems-1.0.0.dist-info"
    files = {
        **files,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-poems\nVersion: 1.0.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    sums = {name: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode() for name, data in files.items()}
    record = "".join(f"{name},sha256={sums[name].rstrip('=')},{len(data)}\n"
                     for name, data in files.items())  # fmt: skip
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return out.getvalue()


FILES = {
    "package/package.json": json.dumps(
        {"name": "tiny-poems", "version": "1.0.0", "scripts": {"prepack": "touch ran", "install": "touch ran"}}
    ).encode(),
    "package/dist/poems.json": json.dumps(POEMS, ensure_ascii=False).encode(),
    "package/dist/error/poems.json": b"[]",
    "package/pictures/1f431-200d-1f4bb.png": picture(),
    "package/texts/a.txt": b"---\ntitle: T\n---\none\ntwo\n",
}
TGZ, WHL = tgz(FILES), whl({name.removeprefix("package/"): data for name, data in FILES.items()})


def pinned(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    monkeypatch.setenv("INTAGLIO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("INTAGLIO_OFFLINE", raising=False)
    return RunContext(tmp_path)


def packages() -> Path:
    """Where fetched archives lie."""
    folder = cache_folder("packages")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cached(data: bytes) -> str:
    """Put an archive into the cache, as an earlier fetch would have."""
    sha = pinned(data)
    (packages() / f"{sha}.archive").write_bytes(data)
    return sha


def get(ctx: RunContext, data: bytes = TGZ, **values: Any) -> list[Item | Skip]:
    given = {"manager": "npm", "name": "tiny-poems", "version": "1.0.0", "offline": True, **values}
    return read("package", ctx, sha256=cached(data), **given)


# ------------------------------------------------------------------------------------------------------------- reading
def test_poems_whole_and_as_quatrains(ctx: RunContext) -> None:
    whole = kept(get(ctx, include="dist/*.json", exclude="dist/error/*", reader="json-poems"))
    assert [item.meta["title"] for item in whole] == ["春曉", "odd", "八"]
    units = kept(
        get(ctx, include="dist/poems.json", reader="json-poems", form="quatrain", traditional_to_simplified=True)
    )
    assert [item.text for item in units] == [
        "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。",
        *["一二三四五，六七八九十。\n一二三四五，六七八九十。"] * 2,
    ]
    assert units[0].meta == {"title": "春晓", "author": "孟浩然", "form": "quatrain-5"}
    assert [item.origin for item in units] == [f"npm:tiny-poems@1.0.0/dist/poems.json#{n}" for n in ("1", "3.1", "3.2")]
    assert units[1].meta["group"] == units[2].meta["group"] and units[0].language == "zh"
    assert ctx.metrics == {"poems": 3, "of_form": 2}


def test_texts_lines_and_pictures(ctx: RunContext) -> None:
    (item,) = kept(get(ctx, include="texts/*"))
    assert (item.text, item.meta["title"], item.license) == ("one\ntwo\n", "T", "CC0-1.0")
    assert [item.text for item in kept(get(ctx, include="texts/*", reader="lines"))] == ["one", "two"]
    (drawn,) = kept(get(ctx, include="pictures/*", reader="pictures", caption="code-points"))
    assert (drawn.media, drawn.text) == ("image", "cat face, personal computer")
    assert ctx.path(drawn.files[0]).read_bytes() == FILES["package/pictures/1f431-200d-1f4bb.png"]


def test_captions_from_names(ctx: RunContext) -> None:
    names = ("1f1f0-1f1ec", "1f469-1f3fb-200d-1f373", "0033-fe0f-20e3", "red-fox_1", "ffffffff")
    archive = tgz({f"package/{name}.png": picture(color=(9, 9, n)) for n, name in enumerate(names)})
    by_points = [item.text for item in kept(get(ctx, archive, reader="pictures", caption="code-points"))]
    assert by_points == ["flag kg", "woman, cooking", "digit three", "", ""]
    assert [item.text for item in kept(get(ctx, archive, reader="pictures", caption="name"))][3] == "red fox 1"


def test_a_wheel_is_read_alike_and_never_imported(ctx: RunContext) -> None:
    code = {"tiny_poems/__init__.py": b"raise SystemExit('imported')", "tiny_poems/a.txt": b"one"}
    (item,) = kept(get(ctx, whl(code), manager="pip", include="*.txt"))
    assert item.origin == "pip:tiny-poems@1.0.0/tiny_poems/a.txt"
    assert "tiny_poems" not in sys.modules


@pytest.mark.parametrize(
    ("poem", "count"),
    [
        ("春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。", 1),
        ("一二三四五六七，一二三四五六七。" * 4, 2),
        ("一二三四五，一二三四五。" * 3, 0),
        ("一二三四五，一二三四□。" * 2, 0),
        ("一二三四五六，一二三四五六。" * 2, 0),
        ("", 0),
    ],
)
def test_quatrains(poem: str, count: int) -> None:
    assert len(quatrains(poem)) == count


@pytest.mark.parametrize("data", [b"{", b'{"a": 1}', b"[" * 100_000])
def test_json_that_is_no_list_of_poems(ctx: RunContext, data: bytes) -> None:
    results = get(ctx, tgz({"package/p.json": data}), include="*.json", reader="json-poems")
    assert not kept(results) and skips(results)[0].origin.endswith("/p.json")


def test_json_with_odd_poems(ctx: RunContext) -> None:
    data = json.dumps([1, {"paragraphs": "x"}, {"paragraphs": [1]}, {"paragraphs": ["好"], "title": 7}]).encode()
    results = get(ctx, tgz({"package/p.json": data}), include="*.json", reader="json-poems")
    assert [item.text for item in kept(results)] == ["好"] and len(skips(results)) == 3


# ---------------------------------------------------------------------------------------------------- hostile archives
def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_tar_with_hostile_members(ctx: RunContext) -> None:
    special = (
        link("package/link", "/etc/passwd"),
        link("package/hard", "package/good.txt", tarfile.LNKTYPE),
        link("package/pipe", "", tarfile.FIFOTYPE),
        link("package/device", "", tarfile.CHRTYPE),
    )
    results = get(
        ctx, tgz({"package/good.txt": b"good", "../up.txt": b"x", "/abs.txt": b"x", "package/../../x": b"x"}, special)
    )
    assert [item.text for item in kept(results)] == ["good"]
    said = [skip.reason for skip in skips(results)]
    assert said[:3] == [f"the name '{name}' leaves its folder" for name in ("../up.txt", "/abs.txt", "package/../../x")]
    assert said[3:] == ["a link or special file; only regular files are read"] * 4
    assert not (ctx.root / "up.txt").exists()


def test_zip_with_hostile_members(ctx: RunContext) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("good.txt", b"good")
        archive.writestr("../up.txt", b"x")
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    results = get(ctx, out.getvalue(), manager="pip")
    assert [item.text for item in kept(results)] == ["good"]
    assert [skip.reason for skip in skips(results)] == [
        "the name '../up.txt' leaves its folder", "a link or special file; only regular files are read",
    ]  # fmt: skip


def test_bombs(ctx: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archive, "MAX_FILE_BYTES", 1 << 20)
    monkeypatch.setattr(_archive, "MAX_TOTAL_BYTES", 4 << 20)
    big = {f"package/{n}.txt": b"x" * (9 << 19) for n in range(3)}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in big.items():
            archive.writestr(name, data)
    assert {skip.reason for skip in skips(get(ctx, out.getvalue()))} == {"larger than 1 MB"}
    said = [skip.reason for skip in skips(get(ctx, tgz(big)))]
    assert said[0] == "larger than 1 MB" and "compression bomb" in said[-1]


def test_headers_that_lie(ctx: RunContext) -> None:
    """A pax header of 64 GiB, a member longer than the archive, a central directory of 1 GiB: nothing is allocated."""
    header = tarfile.TarInfo("package/x")
    header.type, header.size = tarfile.XHDTYPE, 64 << 30
    long = tarfile.TarInfo("package/y.txt")
    long.size = 100 << 20
    for block in (header.tobuf(tarfile.GNU_FORMAT), long.tobuf(tarfile.GNU_FORMAT)):
        results = get(ctx, gzip.compress(block + bytes(2048)))
        assert not kept(results) and len(skips(results)) == 1
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 1 << 30, 0, 0)
    with pytest.raises(Unreadable, match="list of files is too long"):
        list(_archive._zip(io.BytesIO(b"PK\x03\x04" + bytes(100) + end), lambda name: True))


@pytest.mark.parametrize(
    "data",
    [TGZ[:-200], WHL[:-200], b"nothing known", gzip.compress(b"no tar", mtime=0), TGZ[:500] + bytes(50) + TGZ[550:]],
)
def test_damaged_archives(ctx: RunContext, data: bytes) -> None:
    results = get(ctx, data)
    assert skips(results) and all(isinstance(each, Item | Skip) for each in results)


# ------------------------------------------------------------------------------------------------------------ fetching
class Registry(http.server.BaseHTTPRequestHandler):
    """The two answers npm and pip need: a package document and its archive."""

    def do_GET(self) -> None:
        base = f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.path == "/tiny-poems":
            integrity = "sha512-" + base64.b64encode(hashlib.sha512(TGZ).digest()).decode()
            dist = {"tarball": f"{base}/tiny-poems/-/tiny-poems-1.0.0.tgz", "integrity": integrity}
            version = {"name": "tiny-poems", "version": "1.0.0", "dist": dist}
            body = {"name": "tiny-poems", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
            self._answer(json.dumps(body).encode(), "application/json")
        elif self.path.endswith(".tgz"):
            self._answer(TGZ, "application/octet-stream")
        elif self.path == "/simple/tiny-poems/":
            self._answer(
                b'<a href="/files/tiny_poems-1.0.0-py3-none-any.whl">tiny_poems-1.0.0-py3-none-any.whl</a>', "text/html"
            )
        elif self.path.endswith(".whl"):
            self._answer(WHL, "application/octet-stream")
        else:
            self.send_error(404)

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        for name in (
            "PIP_EXTRA_INDEX_URL",
            "PIP_FIND_LINKS",
            "http_proxy",
            "https_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
        ):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("npm_config_registry", url)
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
        monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
        monkeypatch.setenv("npm_config_update_notifier", "false")
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip-cache"))
        yield url
        server.shutdown()
        thread.join()


CLIENTS = [
    pytest.param("npm", TGZ, marks=pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")),
    ("pip", WHL),
]


@pytest.mark.parametrize(("manager", "data"), CLIENTS)
def test_fetched_by_its_own_client_once(
    ctx: RunContext, registry: str, manager: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "manager": manager,
        "name": "tiny-poems",
        "version": "1.0.0",
        "sha256": pinned(data),
        "include": "texts/*",
    }
    assert len(kept(read("package", ctx, **values))) == 1
    assert not list(ctx.root.rglob("ran")), "a script of the package ran"
    monkeypatch.setenv("INTAGLIO_OFFLINE", "1")  # from here on: only the cache
    assert len(kept(read("package", ctx, **values))) == 1
    assert [path.name for path in packages().iterdir()] == [f"{pinned(data)}.archive"]


@pytest.mark.parametrize(("manager", "data"), CLIENTS)
def test_another_content_than_pinned_is_refused(ctx: RunContext, registry: str, manager: str, data: bytes) -> None:
    with pytest.raises(UserError, match=f"has SHA-256 {pinned(data)}, not the") as caught:
        read("package", ctx, manager=manager, name="tiny-poems", version="1.0.0", sha256="0" * 64)
    assert caught.value.where == "intaglio.toml [data.step]"
    assert not list(packages().iterdir()), "nothing unchecked stays in the cache"


@pytest.mark.parametrize(("manager", "data"), CLIENTS)
def test_a_package_that_is_not_there(ctx: RunContext, registry: str, manager: str, data: bytes) -> None:
    with pytest.raises(UserError, match=f"{manager} could not fetch no-such-thing 1.0.0") as caught:
        read("package", ctx, manager=manager, name="no-such-thing", version="1.0.0", sha256="0" * 64)
    assert "no-such-thing" in caught.value.fix


def test_offline_without_a_cached_archive_says_what_to_do(ctx: RunContext) -> None:
    with pytest.raises(UserError, match="not in the download cache") as caught:
        read("package", ctx, manager="npm", name="tiny-poems", version="1.0.0", sha256="0" * 64, offline=True)
    assert "once with the network" in caught.value.fix


def test_a_missing_client_is_said(ctx: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="npm is needed") as caught:
        read("package", ctx, manager="npm", name="tiny-poems", version="1.0.0", sha256="0" * 64)
    assert "Node.js" in caught.value.fix


def test_a_cached_archive_that_changed_is_not_believed(ctx: RunContext) -> None:
    sha = cached(TGZ)
    (packages() / f"{sha}.archive").write_bytes(TGZ + b"x")
    with pytest.raises(UserError, match="not in the download cache"):
        read("package", ctx, manager="npm", name="tiny-poems", version="1.0.0", sha256=sha, offline=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "--registry=http://evil"}, "no npm package name"),
        ({"name": "../x"}, "no npm package name"),
        ({"version": "latest"}, "one exact version"),
        ({"version": "^1.0.0"}, "one exact version"),
        ({"sha256": "abc"}, "key 'sha256'"),
        ({"form": "quatrain"}, 'form needs reader = "json-poems"'),
    ],
)
def test_what_is_not_pinned_is_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(package.Config, {**package.TINY, **changes}, where="x")


def test_names_in_the_archive_choose_nothing_outside() -> None:
    with contextlib.suppress(zlib.error):
        for name in ("a/../b", "..", "C:/x", "\\\\host\\x", "/x", "a\0b"):
            assert isinstance(_archive._admit(name, lambda each: True), Unreadable)
