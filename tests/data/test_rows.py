"""Tables: JSONL, CSV and Parquet with every shape people have, and every way they break."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intaglio.core.contracts import Item, Skip
from intaglio.core.errors import UserError
from intaglio.data import _files, jsonl
from tests.data.reading import picture, read, write
from tests.support import RunContext, kept, skips


@pytest.fixture
def ctx(tmp_path: Path) -> RunContext:
    return RunContext(tmp_path)


def lines(ctx: RunContext, *rows: Any, name: str = "rows.jsonl", **values: Any) -> list[Item | Skip]:
    data = b"\n".join(row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows)
    write(ctx.project, {name: data})
    return read("jsonl", ctx, path=name, **values)


# ---------------------------------------------------------------------------------------------------------------- jsonl
def test_jsonl_text_and_its_other_fields(ctx: RunContext) -> None:
    row = {
        "text": "Hello",
        "title": "T",
        "year": 1898,
        "tags": ["a"],
        "license": "MIT",
        "language": "en-GB",
        "source": "a book",
    }
    (item,) = kept(lines(ctx, row, consent="ours"))
    assert (item.text, item.license, item.language, item.consent) == ("Hello", "MIT", "en", "ours")
    assert item.meta == {"title": "T", "year": 1898, "tags": ["a"], "source": "a book"}
    assert item.origin == "rows.jsonl#1"


def test_jsonl_field_names_are_configurable(ctx: RunContext) -> None:
    row = {"poem": "P", "body": "B", "name": "N", "poet": "W", "terms": "CC-BY-4.0"}
    (item,) = kept(lines(ctx, row, text="body", title="name", author="poet", license_field="terms"))
    assert (item.text, item.license) == ("B", "CC-BY-4.0")
    assert item.meta == {"poem": "P", "title": "N", "author": "W"}


def test_jsonl_alpaca(ctx: RunContext) -> None:
    found = kept(
        lines(
            ctx,
            {"instruction": "Add.", "input": "2 + 2", "output": "4"},
            {"instruction": "Hi", "input": "", "output": "Ho"},
        )
    )
    assert [item.text for item in found] == ["Add.\n\n2 + 2\n\n4", "Hi\n\nHo"]


def test_jsonl_messages_in_both_spellings(ctx: RunContext) -> None:
    openai = {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "text", "text": "Ho"}]},
        ]
    }
    sharegpt = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}
    found = kept(lines(ctx, openai, sharegpt))
    assert [item.text for item in found] == ["user: Hi\n\nassistant: Ho"] * 2
    assert found[0].meta["messages"] == openai["messages"]


def test_jsonl_preference_pairs_keep_both_answers(ctx: RunContext) -> None:
    plain = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    chat = {"chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}], "rejected": []}
    found = kept(lines(ctx, plain, chat))
    assert found[0].text == "Why?\n\nBecause." and found[0].meta == plain
    assert found[1].text == "user: Why?\n\nassistant: So."


def test_jsonl_bad_lines_cost_themselves_only(ctx: RunContext) -> None:
    results = lines(
        ctx,
        {"text": "one"},
        b"{not json}",
        b'["a list"]',
        b'{"text": "\xff\xfe"}',
        b"",
        {"title": "no text"},
        {"text": "   "},
        {"text": ["no", "text"]},
        b'{"text": ' + b"[" * 100_000,
        b'{"text": "x", "n": ' + b"9" * 5000 + b"}",
        {"messages": ["oops"]},
        {"text": "L", "license": "my own"},
        {"text": "last"},
    )
    assert [item.text for item in kept(results)] == ["one", "last"]
    said = {skip.origin: skip.reason for skip in skips(results)}
    assert list(said) == [f"rows.jsonl#{n}" for n in (2, 3, 4, 6, 7, 8, 9, 10, 11, 12)]
    assert "not valid JSON" in said["rows.jsonl#2"]
    assert said["rows.jsonl#3"] == "the line is no JSON object"
    assert said["rows.jsonl#4"] == "the line is not valid UTF-8"
    assert said["rows.jsonl#6"] == "no field 'text'; fields here: title"
    assert said["rows.jsonl#7"] == "its text is empty"
    assert "nested too deeply" in said["rows.jsonl#9"]
    assert "no SPDX expression" in said["rows.jsonl#12"]


def test_jsonl_values_no_store_can_hold(ctx: RunContext) -> None:
    row = b'{"text": "a\\ud800b", "n": NaN, "i": Infinity, "big": 99999999999999999999, "\\udc00": "\\ud83d\\ude00"}'
    (item,) = kept(lines(ctx, row))
    assert item.text == "a\ufffdb"
    assert item.meta == {"big": "99999999999999999999", "\ufffd": "😀"}
    json.dumps(dict(item.meta), allow_nan=False).encode()
    assert item.id


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_jsonl_encodings(ctx: RunContext, encoding: str) -> None:
    rows = '{"text": "春眠不觉晓"}\r\n{"text": "二"}\r\n'
    data = rows.encode(encoding) if encoding != "utf-16-be" else b"\xfe\xff" + rows.encode(encoding)
    write(ctx.project, {"rows.jsonl": data})
    assert [item.text for item in kept(read("jsonl", ctx, path="rows.jsonl"))] == ["春眠不觉晓", "二"]


def test_jsonl_gzip_and_folders_of_shards(ctx: RunContext) -> None:
    shard = gzip.compress(b'{"text": "zipped"}\n')
    write(ctx.project / "rows", {"b.jsonl.gz": shard, "a.jsonl": '{"text": "plain"}', "notes.txt": "not a shard"})
    found = kept(read("jsonl", ctx, path="rows"))
    assert [(item.text, item.origin) for item in found] == [
        ("plain", "rows/a.jsonl#1"),
        ("zipped", "rows/b.jsonl.gz#1"),
    ]


def test_jsonl_gzip_bombs_and_torn_streams(ctx: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "MAX_UNPACKED_BYTES", 1 << 20)
    bomb = gzip.compress(b'{"text": "one"}\n' + b" " * (80 << 20), 9)
    torn = gzip.compress(b'{"text": "one"}\n' * 1000)[:-10]
    write(ctx.project, {"bomb.jsonl": bomb, "torn.jsonl": torn})
    results = read("jsonl", ctx, path="bomb.jsonl")
    assert len(kept(results)) == 1 and "compression bomb" in skips(results)[0].reason
    assert "damaged or truncated" in skips(read("jsonl", ctx, path="torn.jsonl"))[0].reason


def test_jsonl_a_line_without_end_is_not_held(ctx: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 1 << 20)
    results = lines(ctx, {"text": "one"}, b'{"text": "' + b"x" * (3 << 20) + b'"}', {"text": "three"})
    assert [item.text for item in kept(results)] == ["one", "three"]
    assert skips(results)[0].origin == "rows.jsonl#2"


def test_limit(ctx: RunContext) -> None:
    assert len(lines(ctx, *({"text": f"{n}"} for n in range(9)), limit=4)) == 4


def test_missing_file(ctx: RunContext) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read("jsonl", ctx, path="rows.jsonl")


# ------------------------------------------------------------------------------------------------------------------ csv
def table(ctx: RunContext, data: bytes | str, **values: Any) -> list[Item | Skip]:
    write(ctx.project, {"rows.csv": data})
    return read("csv", ctx, path="rows.csv", **values)


def test_csv_text_column_with_rights(ctx: RunContext) -> None:
    found = kept(table(ctx, 'text,title,license,year\n"Hello, you\nthere",T,MIT,1898\nBye,,,\n'))
    assert [(item.text, item.license, dict(item.meta)) for item in found] == [
        ("Hello, you\nthere", "MIT", {"title": "T", "year": "1898"}),
        ("Bye", "CC0-1.0", {}),
    ]
    assert found[0].origin == "rows.csv#3"


def test_csv_briefs_become_lines(ctx: RunContext) -> None:
    (item,) = kept(table(ctx, "topic,tone,length\nSpring garden,calm,\n"))
    assert item.text == "topic: Spring garden\ntone: calm"
    assert item.meta == {"topic": "Spring garden", "tone": "calm"}


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(",", "utf-8-sig"), (";", "latin-1"), ("\t", "utf-16"), ("|", "utf-8")]
)
def test_csv_delimiters_and_encodings(ctx: RunContext, delimiter: str, encoding: str) -> None:
    source = (
        f"title{delimiter}text\r\nEins{delimiter}Größe, Maß; für alle müden Füße\r\n".replace(", ", " ")
        if delimiter == ","
        else (f"title{delimiter}text\r\nEins{delimiter}Größe und Maß für alle müden Füße\r\n")
    )
    (item,) = kept(table(ctx, source.encode(encoding)))
    assert "für alle müden Füße" in item.text and item.meta["title"] == "Eins"


def test_csv_chinese_spreadsheet(ctx: RunContext) -> None:
    (item,) = kept(table(ctx, "标题,text\n春晓,春眠不觉晓，处处闻啼鸟\n".encode("gb18030")))
    assert item.text == "春眠不觉晓，处处闻啼鸟" and item.meta["标题"] == "春晓"


def test_csv_broken_rows(ctx: RunContext) -> None:
    results = table(
        ctx, b"text,title\none,1\ntwo,2,3,4\n\nthree\nfo\0ur,x\n" + "für alle".encode() * 8 + b",z\nbad \xff\xfe,y\n"
    )
    assert [item.text for item in kept(results)] == ["one", "three", "four", "für alle" * 8]
    assert {skip.origin: skip.reason for skip in skips(results)} == {
        "rows.csv#3": "4 cells where the header has 2",
        "rows.csv#8": "its text is not in the encoding of the rest of the table",
    }


def test_csv_that_never_closes_a_quote(ctx: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    from intaglio.data import _table

    monkeypatch.setattr(_table, "MAX_CELL_CHARS", 5000)
    results = table(ctx, 'text\none\n"' + "never closed\n" * 2000)
    assert [item.text for item in kept(results)] == ["one"]
    assert "breaks off at line" in skips(results)[0].reason


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "the file is empty"), (b"\n\n", "names no columns"), (bytes(range(256)) * 9, "binary data")],
)
def test_csv_that_is_none(ctx: RunContext, data: bytes, said: str) -> None:
    assert said in skips(table(ctx, data))[0].reason


# -------------------------------------------------------------------------------------------------------------- parquet
def parquet(ctx: RunContext, columns: dict[str, Any], **write_options: Any) -> Path:
    path = ctx.project / "rows.parquet"
    pq.write_table(pa.table(columns), path, **write_options)
    return path


def test_parquet_texts(ctx: RunContext) -> None:
    parquet(
        ctx,
        {"text": [f"text {n}" for n in range(3000)], "n": range(3000), "license": ["MIT"] * 3000},
        row_group_size=700,
    )
    found = kept(read("parquet", ctx, path="rows.parquet"))
    assert len(found) == 3000 and found[2999].text == "text 2999"
    assert (found[7].meta, found[7].license, found[7].origin) == ({"n": 7}, "MIT", "rows.parquet#8")


def test_parquet_pictures_in_the_hugging_face_layout(ctx: RunContext) -> None:
    data = picture("PNG", (9, 7))
    parquet(
        ctx,
        {
            "image": [{"bytes": data, "path": "a/fox.png"}, {"bytes": b"junk", "path": None}],
            "text": ["A fox.", ""],
            "label": [3, 4],
        },
    )
    results = read("parquet", ctx, path="rows.parquet")
    (item,) = kept(results)
    assert (item.text, item.files[0].name, item.meta["label"], item.meta["width_px"]) == ("A fox.", "fox.png", 3, 9)
    assert skips(results)[0].origin == "rows.parquet#2"


def test_parquet_odd_columns(ctx: RunContext) -> None:
    import datetime
    import decimal

    columns = {
        "text": ["a"],
        "day": [datetime.date(2020, 1, 2)],
        "price": [decimal.Decimal("1.50")],
        "blob": [b"x"],
        "f": [float("nan")],
    }
    parquet(ctx, columns)
    (item,) = kept(read("parquet", ctx, path="rows.parquet"))
    assert item.meta == {"day": "2020-01-02", "price": "1.50", "blob": None, "f": None}


def test_parquet_damaged(ctx: RunContext) -> None:
    path = parquet(ctx, {"text": ["hello world " * 20] * 5000})
    data = path.read_bytes()
    for broken in (b"", b"PAR1", data[:-100], data[:200] + bytes(200) + data[400:], b"PAR1" + b"\xff" * 100 + b"PAR1"):
        path.write_bytes(broken)
        results = read("parquet", ctx, path="rows.parquet")
        assert skips(results) or len(kept(results)) == 5000


def test_parquet_dictionary_bomb(ctx: RunContext) -> None:
    """600 bytes that mean 20 GB: one value in the dictionary, 20,000 rows that point to it."""
    value = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["x" * (10 << 20)]))
    path = parquet(ctx, {"text": value}, compression="zstd", store_schema=False, dictionary_pagesize_limit=1 << 30)
    assert path.stat().st_size < 2000
    import intaglio.data.parquet as module

    with path.open("rb") as file:
        assert module._batch_rows(pq.read_metadata(path), file, path.stat().st_size) == 6
    assert len(kept(read("parquet", ctx, path="rows.parquet", limit=8))) == 8


def test_parquet_dictionaries_of_honest_files_cost_little(ctx: RunContext) -> None:
    import intaglio.data.parquet as module

    path = parquet(ctx, {"text": [f"text {n % 50_000} " * 4 for n in range(100_000)], "kind": ["a", "b"] * 50_000})
    with path.open("rb") as file:
        assert module._batch_rows(pq.read_metadata(path), file, path.stat().st_size) >= 60
