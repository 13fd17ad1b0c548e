"""Labels: exactly one of seven fields in every kind of file, read back by us and by exiftool, content untouched."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
from lxml import etree
from PIL import Image, ImageChops

from intaglio.core.contracts import Rights
from intaglio.trust.carriers import CARRIERS, carrier, kind_of
from intaglio.trust.labels import FIELDS, LabelError, NoPlace, check, code, label_for
from intaglio.trust.labels_pictures import _png_chunk
from intaglio.trust.xmp import TC260
from tests.trust._files import FILES, RIGHTS

LABEL = label_for(RIGHTS)
CARRIED = [name for name, (mime, _) in FILES.items() if carrier(mime) and name != "list.json"]
PICTURES = [name for name in CARRIED if FILES[name][0].startswith("image/") and not name.endswith(".svg")]


def labelled(name: str) -> bytes:
    mime, data = FILES[name]
    return carrier(mime).write(data, LABEL)


@pytest.mark.parametrize("name", CARRIED)
def test_one_label_back_and_again(name: str) -> None:
    mime, _ = FILES[name]
    once = labelled(name)
    assert [check(each) for each in carrier(mime).read(once)] == [dict(LABEL.aigc)]
    other = label_for(Rights("second", "Again", "CC0-1.0", "Anna", "Intaglio 0.1.0"))
    twice = carrier(mime).write(once, other)
    assert [each["ProduceID"] for each in carrier(mime).read(twice)] == ["second"]
    assert labelled(name) == once


def test_every_carrier_is_tried() -> None:
    tried = {FILES[name][0] for name in CARRIED}
    same = {"application/xhtml+xml", "application/rss+xml", "text/xml", "application/ld+json", "application/feed+json"}
    assert set(CARRIERS) == tried | same


@pytest.mark.parametrize("name", PICTURES)
def test_pixels_stay(name: str) -> None:
    before, after = (Image.open(io.BytesIO(data)).convert("RGB") for data in (FILES[name][1], labelled(name)))
    assert ImageChops.difference(before, after).getbbox() is None


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool (apt: libimage-exiftool-perl) is not installed")
@pytest.mark.parametrize("name", [*PICTURES, "a.svg"])
def test_exiftool_reads_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(labelled(name))
    done = subprocess.run(["exiftool", "-json", "-G", "-validate", "-warning", path], capture_output=True, check=True)
    tags = json.loads(subprocess.run(["exiftool", "-json", path], capture_output=True, check=True).stdout)[0]
    assert b"Warning" not in done.stdout or name == "a.svg"  # exiftool warns of every property in every SVG
    tags = {tag.removeprefix("SvgMetadata"): value for tag, value in tags.items()}
    assert json.loads(tags["Aigc"]) == dict(LABEL.aigc)
    assert tags["DigitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert tags["Title"].startswith('Herbst & <"Wind"> 秋') and tags["Creator"] == RIGHTS.creator


def test_names_in_the_characters_of_the_standard() -> None:
    assert code("Anna") == "Anna" and code("Hüttner 小") == "H%C3%BCttner%20%E5%B0%8F" and code('a"\\b') == "a%22%5Cb"
    assert list(LABEL.aigc) == list(FIELDS) and len(LABEL.json.encode("ascii")) < 500


@pytest.mark.parametrize("produce_id", ["", "with space", "中", 'q"', "back\\slash", "line\n"])
def test_numbers_the_standard_cannot_hold(produce_id: str) -> None:
    with pytest.raises(LabelError):
        label_for(Rights(produce_id, "", "", "Anna", "Intaglio 0.1.0"))


@pytest.mark.parametrize(
    "wrong",
    [
        "text",
        {},
        {**LABEL.aigc, "Extra": ""},
        {k: v for k, v in LABEL.aigc.items() if k != "ReservedCode2"},
        {**LABEL.aigc, "Label": "0"},
        {**LABEL.aigc, "Label": 1},
        {**LABEL.aigc, "ProduceID": ""},
        {**LABEL.aigc, "ContentProducer": "two words"},
        {**LABEL.aigc, "ReservedCode1": "码"},
    ],
)
def test_labels_that_break_the_standard(wrong: object) -> None:
    with pytest.raises(LabelError):
        check(wrong)


def test_what_the_packet_said_before_is_kept() -> None:
    old = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:City="Bern"/>'
        b"</rdf:RDF></x:xmpmeta>"
    )
    data = FILES["a.png"][1]
    with_old = data[:33] + _png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + old) + data[33:]
    made = carrier("image/png").write(with_old, LABEL)
    assert b"Bern" in made and made.count(b"XML:com.adobe.xmp") == 1 and len(carrier("image/png").read(made)) == 1


def test_duplicates_are_found_and_not_hidden() -> None:
    png = labelled("a.png")
    twin = png[:33] + _png_chunk(b"tEXt", b"AIGC\0" + json.dumps({"AIGC": dict(LABEL.aigc)}).encode()) + png[33:]
    assert len(carrier("image/png").read(twin)) == 2
    assert (
        len(carrier("text/html").read(labelled("a.html").replace(b"</head>", b'<META NAME="aigc" content="x"></head>')))
        == 2
    )
    assert len(carrier("application/json").read(b'{"AIGC":{},"AIGC":{}}')) == 2
    assert len(carrier("text/plain").read(labelled("a.txt") * 2)) == 2


def test_text_formats_stay_what_they_are() -> None:
    feed = etree.fromstring(labelled("feed.xml"))
    assert feed[0].tag == f"{{{TC260}}}AIGC" and feed.find("{*}title").text == "秋"
    assert etree.fromstring(labelled("other.xml")).tag == "r"
    assert json.loads(labelled("a.json"))["title"] == "秋"
    markdown = labelled("a.md").decode()
    assert markdown.startswith("---\ntitle: 秋\n") and markdown.endswith("*AI-generated / 人工智能生成*\n")
    assert labelled("a.txt").decode().startswith("秋风起兮白云飞。\n\nAI-generated / 人工智能生成\nAIGC: {")
    page = labelled("a.html").decode()
    assert page.index("AIGC") < page.index("</head>") and "\\u003c" in page and '秋"' not in page.split("AIGC")[1][:400]
    with pytest.raises(NoPlace):
        labelled("list.json")


def test_script_in_a_title_stays_text() -> None:
    rights = Rights("x1", "</script><script>alert(1)</script>", "CC0-1.0", "<b>", "Intaglio 0.1.0")
    for name in ("a.html", "a.svg", "feed.xml", "a.png"):
        assert b"<script>alert" not in carrier(FILES[name][0]).write(FILES[name][1], label_for(rights))


@pytest.mark.parametrize("name", CARRIED)
def test_cut_anywhere_is_an_error_in_words_or_read_as_is(name: str) -> None:
    mime, data = FILES[name]
    for cut in range(0, len(data), max(1, len(data) // 23)):
        try:
            carrier(mime).write(data[:cut], LABEL)
        except LabelError as error:
            assert str(error)


def test_a_bomb_stops_at_the_limit() -> None:
    bomb = _png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * (200 << 20)))
    data = FILES["a.png"][1]
    assert carrier("image/png").read(data[:33] + bomb + data[33:]) == []
    laughs = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>'
    assert carrier("application/xml").read(laughs) == []


def test_kind_by_content() -> None:
    for name, (mime, data) in FILES.items():
        told = kind_of(data[:4096], "x" + Path(name).suffix)
        assert told == mime or (mime, told) == ("application/atom+xml", "application/xml")
    assert kind_of(FILES["a.png"][1], "lie.txt") == "image/png"
