"""The site in a real browser and before two judges: axe finds no barrier, the Nu checker no error, and nothing is asked
of the network. Needs chromium, playwright, java, and the npm packages axe-core and vnu-jar in ``INTAGLIO_TEST_NODE``.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from intaglio.core.contracts import Rights
from intaglio.trust.authority import authority
from intaglio.trust.finish import finish
from tests.publish._pieces import build

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NODE = Path(os.environ.get("INTAGLIO_TEST_NODE", "node_modules"))
VNU = NODE / "vnu-jar/build/dist/vnu.jar"
AXE = NODE / "axe-core/axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# The checker reads the policy of a page that lies on disk: it gives such a page no origin, and takes the description
# for machines (JSON-LD, data that no browser runs) and a style with its hash for violations. Browsers do not (below).
UNFOUNDED = "violates Content Security Policy"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole publication, finished as the runner finishes it."""
    root = tmp_path_factory.mktemp("browser")
    ctx, files = build(root)
    signer = authority(root / "home")
    for place, file in enumerate(files):
        rights = Rights(f"site-{place}", file.title, "CC0-1.0", "Anna", "Intaglio 0.1.0")
        finish(ctx.out / file.path, file.mime, rights, ai=file.ai, signer=signer)
    return ctx.out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt install chromium)")
    with sync_api.sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


def paths(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


@pytest.mark.skipif(not VNU.is_file(), reason="vnu-jar is not installed (npm install vnu-jar, INTAGLIO_TEST_NODE)")
@pytest.mark.skipif(shutil.which("java") is None, reason="java is not installed")
def test_nu_checker_finds_no_error(site: Path) -> None:
    command = ["java", "-jar", str(VNU), "--format", "json", "--stdout", "--exit-zero-always", *map(str, paths(site))]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["messages"]
    found = [f"{each['url']}: {each['message']}" for each in told if UNFOUNDED not in each["message"]]
    assert found == []


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed (npm install axe-core, INTAGLIO_TEST_NODE)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width_px", [1280, 360])
def test_axe_finds_no_barrier(site: Path, browser: Any, scheme: str, width_px: int) -> None:
    context = browser.new_context(
        bypass_csp=True, color_scheme=scheme, reduced_motion="reduce", viewport={"width": width_px, "height": 900}
    )
    tab = context.new_page()
    found = []
    for path in paths(site):
        tab.goto(path.as_uri())
        tab.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        tab.add_script_tag(path=str(AXE))
        report = tab.evaluate("rules => axe.run(document, {runOnly: {type: 'tag', values: rules}})", RULES)
        found += [f"{path.name}: {each['id']}: {each['nodes'][0]['html'][:200]}" for each in report["violations"]]
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{path.name} is {wide} px wider than the window"
    context.close()
    assert found == []


@pytest.mark.parametrize("served", [False, True])
def test_nothing_is_asked_of_the_network_and_all_is_shown(site: Path, browser: Any, served: bool) -> None:
    """From disk and from a server: no request leaves, the policy is not broken, every picture shows, no script ran."""
    server = _serve(site) if served else None
    base = f"http://127.0.0.1:{server.server_port}/" if server else site.as_uri() + "/"
    context = browser.new_context()
    tab = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    # A request the next page cut off (the icon, on a busy machine) has not failed; what the policy stops is
    # net::ERR_BLOCKED_BY_CSP and comes with a line on the console as well.
    tab.on("requestfailed", lambda r: None if r.failure == "net::ERR_ABORTED" else said.append(f"{r.failure} {r.url}"))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    for path in paths(site):
        tab.goto(base + path.relative_to(site).as_posix())
        shown = tab.evaluate("[...document.images].every(each => each.complete && each.naturalWidth > 0)")
        styled = tab.evaluate("getComputedStyle(document.body).marginTop") == "0px"
        assert shown and styled, path.name
    context.close()
    if server:
        server.shutdown()
        server.server_close()
    assert said == []
    assert all(url.startswith(base) for url in asked)


def test_the_keyboard_reaches_everything(site: Path, browser: Any) -> None:
    tab = browser.new_page()
    tab.goto((site / "index.html").as_uri())
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(60):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.getAttribute('href')"))
    assert (
        set(tab.evaluate("[...document.querySelectorAll('body a:not(.skip)')].map(a => a.getAttribute('href'))"))
        <= reached
    )
    tab.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """A test says nothing."""


def _serve(folder: Path) -> http.server.ThreadingHTTPServer:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
