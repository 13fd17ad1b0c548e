"""Real tiny models, trained once for all tests here: one GPT on quatrains, one on prose, a VAE on small pictures."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intaglio.core import registry
from intaglio.core.contracts import Item
from tests.generate.material import POEMS, PROSE
from tests.support import DEVICE, ItemList, RunContext


def trained(component: str, items: list[Item], ctx: RunContext, **config: object) -> Any:
    module = registry.load("models", component)
    made = module.Component(module.Config(data=("texts",), size="tiny", **config))
    made.fit(ItemList(items), ctx)
    return made.load(ctx.out, device=DEVICE, threads=1)


@pytest.fixture(scope="session")
def poet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    items = [Item(media="text", text=text, language="zh") for text in POEMS]
    return trained("gpt", items, RunContext(tmp_path_factory.mktemp("poet")), context=32, steps=40)


@pytest.fixture(scope="session")
def novelist(tmp_path_factory: pytest.TempPathFactory) -> Any:
    items = [Item(media="text", text=text, language="en") for text in PROSE]
    return trained(
        "gpt", items, RunContext(tmp_path_factory.mktemp("novelist")), context=64, steps=40, tokenizer="char"
    )


@pytest.fixture(scope="session")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Any:
    ctx = RunContext(tmp_path_factory.mktemp("painter"))
    rng = np.random.default_rng(0)
    items = []
    for _ in range(24):
        pixels = np.full((16, 16, 3), rng.integers(0, 255, 3), dtype=np.uint8)
        pixels[4:12, 4:12] = rng.integers(0, 255, 3)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        items.append(Item(media="image", files=(ctx.put(buffer.getvalue(), name="p.png", mime="image/png"),)))
    module = registry.load("models", "vae")
    made = module.Component(module.Config(**module.TINY))
    made.fit(ItemList(items), ctx)
    return made.load(ctx.out, device=DEVICE, threads=1)


class _Answers(BaseHTTPRequestHandler):
    """Speaks the chat protocol; keeps what it was asked, answers with the next of ``server.answers``."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        server.asked.append(body)
        text = server.answers[len(server.asked) % len(server.answers)]
        message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [message]}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Any]:
    """A chat server on loopback with ``answers`` to give and ``asked`` to look at."""
    http: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    http.answers, http.asked = ["# A title\n\nA body."], []
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield http
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def engine(server: Any) -> Any:
    """The engine of models/openai, talking to ``server``."""
    module = registry.load("models", "openai")
    config = module.Config(base_url=f"http://127.0.0.1:{server.server_port}/v1", model="m", parallel=1)
    return module.Component(config).load(None, device=DEVICE, threads=1)


def prompts(server: Any) -> list[str]:
    return [re.sub(r"\s+", " ", body["messages"][-1]["content"]) for body in server.asked]
