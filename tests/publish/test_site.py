"""The site: every link leads somewhere, nothing hostile lives, labels stand in words, the feed is valid Atom."""

from __future__ import annotations

import re
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import feedparser
import pytest
from lxml import etree

from intaglio.core.contracts import Item, PublishedFile, Rights, SourceInfo, Trace
from intaglio.core.errors import UserError
from intaglio.core.i18n import catalog
from intaglio.publish import site as site_module
from intaglio.publish._pieces import figures, is_verse, number_text
from intaglio.publish.site import Component, Config
from intaglio.trust.authority import authority
from intaglio.trust.finish import finish
from intaglio.trust.inspect import inspect
from tests.publish._pieces import EVIL, QUATRAIN, build, items
from tests.support import ItemList, RunContext

LABEL = "AI-generated / 人工智能生成"


class Page(HTMLParser):
    """What a browser would see, without one."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.hidden = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self.hidden += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContext, list[PublishedFile]]:
    return build(tmp_path_factory.mktemp("site"))


def pages(ctx: RunContext) -> dict[Path, Page]:
    return {path: Page(path.read_text("utf-8")) for path in sorted(ctx.out.rglob("*.html"))}


def test_declares_exactly_what_it_wrote(built: tuple[RunContext, list[PublishedFile]]) -> None:
    ctx, files = built
    there = {path.relative_to(ctx.out).as_posix() for path in ctx.out.rglob("*") if path.is_file()}
    assert {file.path for file in files} == there and len(files) == len(there)
    assert all(re.fullmatch(r"[a-z0-9./-]+", file.path) for file in files)
    assert {file.path for file in files if not file.ai} == {"colophon.html", "colophon.zh.html", "icon.svg"}
    by_path = {file.path: file for file in files}
    assert len(by_path["index.html"].pieces) == 9 and by_path["colophon.html"].pieces == ()


def test_every_link_leads_somewhere_and_nothing_comes_from_outside(
    built: tuple[RunContext, list[PublishedFile]],
) -> None:
    ctx, _ = built
    for path, page in pages(ctx).items():
        for tag, attributes in page.tags:
            for name in ("href", "src"):
                target = attributes.get(name, "")
                if not target or target.startswith("#"):
                    continue
                if target.startswith(("http://", "https://")):
                    assert tag == "a" and "noreferrer" in attributes["rel"], (path, target)
                    continue
                assert urllib.parse.urlsplit(target).scheme == "", (path, target)
                assert (path.parent / urllib.parse.unquote(target)).resolve().is_file(), (path, target)


def test_hostile_words_stay_words(built: tuple[RunContext, list[PublishedFile]]) -> None:
    ctx, _ = built
    for path, page in pages(ctx).items():
        text = path.read_text("utf-8")
        assert not page.all("script") and not any(key.startswith("on") for _, found in page.tags for key in found), path
        assert "\x00" not in text and "\x0b" not in text
        policy = next(each for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
        assert policy["content"].startswith("default-src 'none'") and "unsafe" not in policy["content"]
        assert all(not link["href"].startswith("javascript") for link in page.all("a"))
    shown = next(page for page in pages(ctx).values() if any(EVIL in words for words in page.words))
    assert "{{ 7 * 7 }}" in "".join(shown.words) or EVIL in "".join(shown.words)


def test_the_label_stands_on_every_page_and_under_every_piece(built: tuple[RunContext, list[PublishedFile]]) -> None:
    ctx, files = built
    for page in pages(ctx).values():
        assert LABEL in "".join(page.words)
    for file in files:
        if file.path.startswith("pieces/"):
            words = "".join(Page((ctx.out / file.path).read_text("utf-8")).words)
            assert words.index(LABEL) < words.index("由何而来" if ".zh." in file.path else "What it was made from")


def test_languages(built: tuple[RunContext, list[PublishedFile]]) -> None:
    ctx, _ = built
    for path, page in pages(ctx).items():
        chinese = ".zh." in path.name
        assert page.all("html")[0]["lang"] == ("zh-Hans" if chinese else "en")
        others = [link for link in page.all("a") if link.get("rel") == "alternate"]
        assert [link["lang"] for link in others] == ["en" if chinese else "zh-Hans"]
    poem = next(page for page in pages(ctx).values() if any(each.get("lang") == "zh" for each in page.all("h1")))
    assert any(each.get("lang") == "zh" and each.get("dir") == "auto" for each in poem.all("div"))
    assert "作品 9 件" in (ctx.out / "index.zh.html").read_text("utf-8")


def test_one_language_only(tmp_path: Path) -> None:
    ctx, files = build(tmp_path, languages=("zh",))
    assert not any(".zh." in file.path for file in files)
    page = Page((ctx.out / "index.html").read_text("utf-8"))
    assert page.all("html")[0]["lang"] == "zh-Hans" and not [a for a in page.all("a") if a.get("rel") == "alternate"]


def test_every_word_of_the_pages_is_translated() -> None:
    known = catalog("zh")
    for template in site_module.TEMPLATES.glob("*.j2"):
        for text in re.findall(r"say\([\"']([^\"']+)[\"']", template.read_text("utf-8")):
            assert text in known, f"{template.name}: {text}"


def test_pictures_have_their_size_and_a_description(built: tuple[RunContext, list[PublishedFile]]) -> None:
    ctx, _ = built
    found = [image for path, page in pages(ctx).items() if "pieces" in path.parts for image in page.all("img")]
    assert sorted({(image["width"], image["height"]) for image in found}) == [
        ("300", "300"),
        ("364", "364"),
        ("384", "384"),
    ]
    assert all(image["alt"].strip() for image in found)
    assert any(image["alt"] == 'A moon over water, "engraved"' for image in found)


def test_what_it_was_made_from(built: tuple[RunContext, list[PublishedFile]]) -> None:
    ctx, _ = built
    poem = next(path for path in sorted(ctx.out.rglob("pieces/*.html")) if "空山新雨后" in path.read_text("utf-8"))
    words = " ".join(" ".join(Page(poem.read_text("utf-8")).words).split())
    for told in (
        "Made 2026-11-23",
        "CC0-1.0",
        "Seed 11",
        "data texts folder",
        "heldout bits per char 4.821",
        "baseline bits per char 6.9",
        "No figure was measured.",
        "rhyme not assessed",
        "https://example.org/poems?a=1&b=2",
        "given by the poet",
        "texts 57,000 CC0-1.0 (56,000), CC-BY-4.0 (1,000)",
        "The first 12 of these sources",
    ):
        assert told in words, told
    assert "tokenizer" not in words


def test_fifty_thousand_sources_make_no_large_page(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    made = items(ctx, pictures=0)[:1]
    many = [SourceInfo(f"{n:064x}", "o" * 500, "CC0-1.0", "c" * 500, direct=n % 2 == 0) for n in range(57_000)]
    ctx.traces = {made[0].id: Trace(tuple(many), (), (), ())}
    list(Component(Config(items="x")).export(ItemList(made), ctx))
    page = next(path for path in ctx.out.glob("pieces/*.html") if ".zh." not in path.name)
    assert page.stat().st_size < 60_000 and "and 28,452 more" in page.read_text("utf-8")


def test_feed_is_valid_atom(built: tuple[RunContext, list[PublishedFile]]) -> None:
    ctx, _ = built
    for name, language in (("feed.xml", "en"), ("feed.zh.xml", "zh-Hans")):
        data = (ctx.out / name).read_bytes()
        schema = etree.RelaxNG(etree.parse(Path(__file__).parent / "atom.rng"))
        schema.assertValid(etree.fromstring(data))
        told = feedparser.parse(data)
        assert not told.bozo and told.version == "atom10" and told.feed.language == language
        assert len(told.entries) == 9 and len({entry.id for entry in told.entries}) == 9
        assert all(entry.id.startswith("urn:uuid:") and entry.updated_parsed for entry in told.entries)
        assert all(LABEL in entry.content[0].value for entry in told.entries)
        stamps = [entry.updated for entry in told.entries]
        assert stamps == sorted(stamps, reverse=True) and told.feed.updated == stamps[0] == "2026-11-23T20:15:00Z"
        assert EVIL in [title.text for title in etree.fromstring(data).findall("{*}entry/{*}title")]
        assert not any("<script" in entry.content[0].value for entry in told.entries)
    one, two = (feedparser.parse(ctx.out / name).feed.id for name in ("feed.xml", "feed.zh.xml"))
    assert one != two


def test_base_url_makes_the_feed_absolute(tmp_path: Path) -> None:
    ctx, _ = build(tmp_path, base_url="https://press.example/almanac", feed=2)
    told = feedparser.parse(ctx.out / "feed.xml")
    assert len(told.entries) == 2
    for link in [*told.feed.links, *(link for entry in told.entries for link in entry.links)]:
        assert link.href.startswith("https://press.example/almanac/")
    with pytest.raises(ValueError, match="updated"):
        Config(items="x", updated="2026-13-40")
    for wrong in ("javascript:alert(1)", "ftp://x", 'https://x"onload='):
        with pytest.raises(ValueError, match="base_url"):
            Config(items="x", base_url=wrong)


def test_many_pieces_make_pages(tmp_path: Path) -> None:
    made = [Item(media="text", text=f"Line {n}\nof a poem", license="CC0-1.0") for n in range(7)]
    ctx, files = build(tmp_path, made=[*made, made[0]], languages=("en",), per_page=3, feed=4)
    assert [file.path for file in files if file.path.startswith(("index", "page"))] == [
        "index.html",
        "page-2.html",
        "page-3.html",
    ]
    assert 'rel="prev"' in (ctx.out / "page-3.html").read_text("utf-8")
    assert 'rel="next"' not in (ctx.out / "page-3.html").read_text("utf-8")
    assert len([file for file in files if file.path.startswith("pieces/")]) == 7


def test_same_pieces_same_bytes(tmp_path: Path, built: tuple[RunContext, list[PublishedFile]]) -> None:
    ctx, files = built
    again, _ = build(tmp_path)
    assert all((ctx.out / file.path).read_bytes() == (again.out / file.path).read_bytes() for file in files)


def test_other_media_are_offered(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path, languages=("en",))
    sound = ctx.put(b"RIFF\x04\0\0\0WAVE", name="a.wav", mime="audio/wav")
    broken = ctx.put(b"\x89PNG\r\n\x1a\n", name="b.png", mime="image/png")
    made = [Item(media="audio", text="Rain", files=(sound,)), Item(media="image", files=(broken,))]
    files = list(Component(Config(items="x")).export(ItemList(made), ctx))
    assert any(file.path.startswith("recordings/") and file.mime == "audio/wav" for file in files)
    assert any("<audio controls" in path.read_text("utf-8") for path in ctx.out.glob("pieces/*.html"))


def test_title_from_the_project(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path, project=tmp_path / "my <b>garden", languages=("en",))
    made = [Item(media="text", text=QUATRAIN, language="zh")]
    list(Component(Config(items="x")).export(ItemList(made), ctx))
    assert Page((ctx.out / "index.html").read_text("utf-8")).words.count("my <b>garden") >= 2
    ctx.settings = {"name": "garden", "title": "The Garden", "author": "Anna"}  # type: ignore[attr-defined]
    list(Component(Config(items="x")).export(ItemList(made), ctx))
    assert "The Garden" in (ctx.out / "index.html").read_text("utf-8")


def test_nothing_to_publish(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no piece"):
        build(tmp_path, made=[])
    with pytest.raises(UserError, match="languages"):
        build(tmp_path, languages=("fr",))


def test_finished_site_is_valid(tmp_path: Path) -> None:
    ctx, files = build(tmp_path, languages=("en",))
    signer = authority(tmp_path / "home")
    for place, file in enumerate(files):
        rights = Rights(f"site-{place}", file.title, "CC0-1.0", "Anna", "Intaglio 0.1.0")
        finish(ctx.out / file.path, file.mime, rights, ai=file.ai, signer=signer)
    for file in files:
        told = inspect(ctx.out / file.path, anchors_pem=signer.root_pem)
        assert (told.credentials, told.labels) == ("valid", "valid"), (file.path, told.reasons)
    for path, page in pages(ctx).items():
        manifest = next(link["href"] for link in page.all("link") if link["rel"] == "c2pa-manifest")
        assert (path.parent / manifest).is_file()
        assert all(script.get("type") == "application/ld+json" for script in page.all("script"))
    assert not feedparser.parse(ctx.out / "feed.xml").bozo


def test_verse_is_told_from_prose() -> None:
    assert is_verse(QUATRAIN, {}) and is_verse("A short line\nand another one", {}) and is_verse("x", {"form": {}})
    assert not is_verse("One line only.", {}) and not is_verse("# Title\nand text", {})
    assert not is_verse("A line of prose that was wrapped at some eighty characters by an editor\nand goes on.", {})


def test_figures_show_heldout_first() -> None:
    found = {"heldout_mse": 0.1, "heldout_baseline_bits_per_dim": 6.7, "heldout_bits_per_dim": 6.2, "heldout_chars": 9}
    assert [name for name, _ in figures(found)] == [
        "heldout bits per dim",
        "heldout baseline bits per dim",
        "heldout mse",
    ]
    shown = list(figures({"loss": 1, "heldout_loss": 2.34567, "name": "x", "good": True, "steps": 10}))
    assert shown == [("heldout loss", "2.346"), ("loss", "1")]
    assert list(figures({"steps": 12345})) == [("steps", "12,345")]
    assert [number_text(value) for value in (0.0, 0.5, 1e-9, 123456.5, -3)] == [
        "0",
        "0.5",
        "1.000e-09",
        "1.235e+05",
        "-3",
    ]
    assert list(figures({"x": float("nan"), "y": float("inf")})) == []


def test_pieces_hold_no_name_of_a_machine(built: tuple[RunContext, list[PublishedFile]]) -> None:
    ctx, _ = built
    assert not any(str(ctx.root) in path.read_text("utf-8", "ignore") for path in ctx.out.rglob("*") if path.is_file())


def test_a_poem_titled_by_its_first_line(tmp_path: Path) -> None:
    poem = Item(media="text", text=QUATRAIN, language="zh", meta={"title": "空山新雨后", "kind": "verse"})
    ctx, _ = build(tmp_path, made=[poem], languages=("en",))
    gallery = "".join(Page((ctx.out / "index.html").read_text("utf-8")).words)
    assert gallery.count("空山新雨后") == 1  # the title, and the opening goes on from there
    page = next(ctx.out.glob("pieces/*.html")).read_text("utf-8")
    assert 'class="untitled"' in page and page.count("空山新雨后，") == 1
    assert (ctx.out / "texts" / f"{poem.id[:16]}.txt").read_text("utf-8") == f"{QUATRAIN}\n"
