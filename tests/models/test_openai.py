"""Given engines over HTTP, against a real server on loopback: `transformers serve` with a model of our own export."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from intaglio.core.contracts import Item, Sampling
from intaglio.core.errors import UserError
from intaglio.models import gpt, openai
from tests.support import ItemList, RunContext

pytest.importorskip("fastapi", reason="`transformers serve` needs fastapi, uvicorn and accelerate")
pytest.importorskip("uvicorn", reason="`transformers serve` needs fastapi, uvicorn and accelerate")
pytest.importorskip("accelerate", reason="`transformers serve` needs fastapi, uvicorn and accelerate")

TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"


@dataclass(frozen=True)
class Server:
    base_url: str
    model: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server with a tiny Qwen3 of our own; it is stopped by its own process handle."""
    root = tmp_path_factory.mktemp("served")
    ctx = RunContext(root)
    items = [Item(media="text", text="the old wind walks through the reeds\n" * 20)]
    gpt.Component(gpt.Config(data=("x",), size="tiny", context=256, steps=2)).fit(ItemList(items), ctx)
    folder = root / "model"
    shutil.copytree(ctx.out, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("transformers"))
    command = [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hub"), "OMP_NUM_THREADS": "1"}
    with (
        (root / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, root / "log")
            yield Server(f"http://127.0.0.1:{port}/v1", str(folder))
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(600):
        assert process.poll() is None, log.read_text("utf-8", "replace")[-2000:]
        try:
            with opener.open(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"no answer: {log.read_text('utf-8', 'replace')[-2000:]}")


def engine(server: Server, **more: object) -> openai.Component:
    return openai.Component(openai.Config(base_url=server.base_url, model=server.model, **more))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_real_server_writes(server: Server, tmp_path: Path, api: str) -> None:
    component, ctx = engine(server, api=api), RunContext(tmp_path)
    metrics = component.fit(ItemList([]), ctx)
    assert metrics["host"] == "127.0.0.1" and not ctx.warnings, "loopback needs no warning"
    record = json.loads((ctx.out / "engine.json").read_text())
    assert record == {"base_url": server.base_url, "model": server.model, "api": api}
    loaded = component.load(ctx.out, device="cpu", threads=1)
    sampling = Sampling(max_tokens=8, temperature=0.9)
    made = loaded.complete(["the old", "reeds"], seeds=[1, 2], sampling=sampling)
    assert len(made) == 2 and all(0 < each.tokens <= 8 and each.nats is None for each in made)
    assert all(each.finish in ("length", "stop") for each in made)
    assert loaded.complete(["the old"], seeds=[1], sampling=Sampling(max_tokens=1))[0].tokens == 1


@pytest.mark.slow
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_real_server_sends_pieces(server: Server, tmp_path: Path, api: str) -> None:
    loaded = engine(server, api=api).load(tmp_path, device="cpu", threads=1)
    sampling = Sampling(max_tokens=40, temperature=0.0, frequency_penalty=0.3, presence_penalty=0.1)
    (whole,) = loaded.complete(["the old"], seeds=[1], sampling=sampling)
    pieces = list(loaded.stream("the old", seed=1, sampling=sampling))
    assert "".join(pieces).rstrip() == whole.text.rstrip() and len(pieces) > 3  # this server sends a last space or not
    word = whole.text[8:10]
    stopping = Sampling(max_tokens=40, temperature=0.0, stop=("??", "??!", "!!?", "!?!", word))
    plain = loaded.complete(["the old"], seeds=[1], sampling=Sampling(max_tokens=40, temperature=0.0))[0].text
    pieces = list(loaded.stream("the old", seed=1, sampling=stopping))
    assert (
        "".join(pieces)
        == plain.partition(word)[0]
        == loaded.complete(["the old"], seeds=[1], sampling=stopping)[0].text
    )
    stream = loaded.stream("the old", seed=1, sampling=Sampling(max_tokens=200, temperature=0.0))
    first = next(stream)
    stream.close()
    assert plain.startswith(first) and list(stream) == []


@pytest.mark.slow
def test_it_samples_items(server: Server, tmp_path: Path) -> None:
    loaded = engine(server).load(tmp_path, device="cpu", threads=1)
    items = list(loaded.sample([3, 4], RunContext(tmp_path)))
    assert [item.meta["seed"] for item in items] == [3, 4] and all(item.media == "text" for item in items)


def offline_engine(**more: object) -> openai.Component:
    return openai.Component(openai.Config(**{**openai.TINY, **more}))  # type: ignore[arg-type]


def test_what_a_server_cannot_do_is_said(tmp_path: Path) -> None:
    loaded = offline_engine().load(tmp_path, device="cpu", threads=1)

    class Form:
        def allow(self, text: str, vocabulary: object) -> list[bool]:
            return []

    with pytest.raises(UserError, match="form token by token"):
        loaded.complete(["x"], seeds=[1], sampling=Sampling(), constraints=[Form()])
    with pytest.raises(UserError, match="form token by token"):
        next(loaded.stream("x", seed=1, sampling=Sampling(), constraint=Form()))
    with pytest.raises(UserError, match="cannot be reached|did not answer"):
        next(loaded.stream("x", seed=1, sampling=Sampling()))
    with pytest.raises(UserError, match="does not tell how likely"):
        loaded.nats(["x"])
    with pytest.raises(UserError, match="no weights here"):
        offline_engine().export(tmp_path, tmp_path)
    assert loaded.count_tokens("春眠不覺曉") >= 2


def test_no_server_is_said_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be reached|did not answer") as caught:
        offline_engine().fit(ItemList([]), RunContext(tmp_path))
    assert caught.value.fix and caught.value.where == openai.TINY["base_url"]


@pytest.mark.parametrize("address", ["", "127.0.0.1:8000", "ftp://host/v1", "http://", "http://host:99999/v1"])
def test_addresses_that_are_none(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match="base_url is no address"):
        offline_engine(base_url=address).fit(ItemList([]), RunContext(tmp_path))


def test_passwords_in_addresses_and_missing_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="holds a user name or password"):
        offline_engine(base_url="http://me:secret@127.0.0.1/v1").fit(ItemList([]), RunContext(tmp_path))
    monkeypatch.delenv("ENGINE_KEY", raising=False)
    with pytest.raises(UserError, match="ENGINE_KEY is not set"):
        offline_engine(api_key_env="ENGINE_KEY").load(tmp_path, device="cpu", threads=1)
    assert "secret" not in repr(openai.Config(**openai.TINY, api_key="secret"))


def test_only_this_machine_is_loopback() -> None:
    assert all(map(openai.is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(map(openai.is_loopback, ["10.0.0.1", "example.org", "localhost.example.org", "0.0.0.0"]))
