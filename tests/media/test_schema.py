"""Schemas as constraints: random walks validate, bounds hold by prefix, what is not kept is named, a GPT obeys."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.core.contracts import Item, Sampling
from intaglio.core.errors import UserError
from intaglio.media.schema import Schema
from intaglio.models import gpt
from tests.support import DEVICE, ItemList, RunContext

ASCII = string.ascii_letters + string.digits + string.punctuation + " "
MERGED = [
    '{"',
    '":',
    '",',
    '","',
    '"}',
    '"]',
    "]}",
    "}]",
    "},",
    "[{",
    ":[",
    "00",
    "12",
    "3.",
    "-1",
    "tru",
    "true",
    "null,",
]
MERGED += [
    "na",
    '"name":"',
    "abc",
    'c"',
    "\\u",
    '\\"',
    "\\n",
    "d8",
    "春",
    "眠不",
    '春"',
    "\ufffd",
    "\ufffd\ufffd",
    "\n",
    "é\t",
]
VOCABULARY = ["", *ASCII, *MERGED]


def walk(schema: Schema, seed: int, vocabulary: Sequence[str] = VOCABULARY) -> str:
    """A text of random allowed tokens, to where the constraint ends it."""
    draw, text = random.Random(seed), ""
    while True:
        open_ = np.flatnonzero(schema.allow(text, vocabulary)).tolist()
        token = vocabulary[draw.choice(open_)] if open_ else ""
        if not token:
            return text
        text += token


# ----------------------------------------------------------------------------------------------------- random schemas
def bounds(least: str, most: str, top: int) -> st.SearchStrategy[dict[str, Any]]:
    both = st.tuples(st.integers(0, top), st.integers(0, top)).map(lambda pair: {least: min(pair), most: max(pair)})
    return st.one_of(st.just({}), st.integers(0, top).map(lambda n: {least: n}), both)


def numbers(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    value = st.integers(-300, 300) if kind == "integer" else st.integers(-3000, 3000).map(lambda n: n / 8)
    low = st.tuples(st.sampled_from(["minimum", "exclusiveMinimum"]), value)
    width = st.tuples(st.sampled_from(["maximum", "exclusiveMaximum"]), st.integers(2, 200))
    both = st.tuples(low, width).map(lambda p: {p[0][0]: p[0][1], p[1][0]: p[0][1] + p[1][1]})
    return st.one_of(st.just({}), low.map(lambda p: dict([p])), both).map(lambda found: {"type": kind, **found})


NAMES = st.one_of(st.sampled_from(["a", "ab", "name", 'q"', "\\", "春", "é\n", "", "😀"]), st.text(max_size=4))
PLAIN: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), st.integers(-99, 999), st.floats(-9, 9), NAMES)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2))
LEAVES = st.one_of(
    bounds("minLength", "maxLength", 6).map(lambda found: {"type": "string", **found}),
    numbers("integer"),
    numbers("number"),
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"], "minimum": 3}, {"$ref": "#/$defs/r"}]
    ),
    st.lists(JSON, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    JSON.map(lambda value: {"const": value}),
)


def wider(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    lists = st.tuples(inner, bounds("minItems", "maxItems", 3)).map(lambda p: {"type": "array", "items": p[0], **p[1]})
    objects = st.dictionaries(NAMES, st.tuples(inner, st.booleans()), max_size=4).map(
        lambda found: {
            "type": "object",
            "properties": {name: each for name, (each, _) in found.items()},
            "required": [name for name, (_, needed) in found.items() if needed],
            "additionalProperties": False,
        }
    )
    return lists | objects | st.lists(inner, min_size=1, max_size=3).map(lambda found: {"anyOf": found})


RECURSIVE = {
    "type": "object",
    "properties": {
        "v": {"type": "integer"},
        "next": {"anyOf": [{"$ref": "#/$defs/r"}, {"type": "null"}]},
        "all": {"type": "array", "items": {"$ref": "#/$defs/r"}},
    },
    "required": ["next"],
    "additionalProperties": False,
}
SCHEMAS = st.recursive(LEAVES, wider, max_leaves=8).map(
    lambda found: {**(RECURSIVE if "$ref" in found else found), "$defs": {"r": RECURSIVE}}
)


@given(SCHEMAS, st.integers(0, 2**32), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_random_walks_parse_validate_and_keep_the_budget(schema: dict[str, Any], seed: int, spare: int) -> None:
    budget = Schema(schema, budget_chars=10_000).least_chars + spare
    form = Schema(schema, budget_chars=budget)
    text = walk(form, seed)
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    assert len(text) <= budget and form.accepts(text)
    outside = "".join(text.split('"')[::2]) if "\\" not in text else ""
    assert not set(outside) & set(" \n\t")


@given(SCHEMAS, st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_a_mask_is_what_reading_each_token_gives(schema: dict[str, Any], seed: int) -> None:
    """Against the plainest way: every token read from the beginning by a recognizer that keeps nothing."""
    form = Schema(schema, budget_chars=Schema(schema, budget_chars=10_000).least_chars + 25)
    text, draw = walk(form, seed), random.Random(seed)
    text = text[: draw.randrange(len(text) + 1)]
    found = form.allow(text, VOCABULARY)
    fresh = Schema(schema, budget_chars=form.budget_chars)
    for token, open_ in zip(VOCABULARY, found, strict=True):
        after = fresh._read(text + token, 0)
        fits = any(place.cost + len(text + token) <= form.budget_chars for place in after) and "\ufffd" not in token
        if token:
            assert open_ == fits, (text, token)


# --------------------------------------------------------------------------------------------------------- single rules
def follows(form: Schema, text: str) -> set[str]:
    return {token for token, open_ in zip(VOCABULARY, form.allow(text, VOCABULARY), strict=True) if open_}


def test_integers_are_bounded_by_prefix() -> None:
    form = Schema({"type": "integer", "minimum": 7, "maximum": 120})
    assert follows(form, "") == {*"123456789", "12"}
    assert follows(form, "1") == set(string.digits) | {"00", "12"}
    assert follows(form, "12") == {"", "0"} and follows(form, "2") == set(string.digits)
    below = Schema({"type": "integer", "exclusiveMinimum": -12, "maximum": -3})
    assert follows(below, "-") == set("13456789") and follows(below, "-1") == {"0", "1"}
    one = Schema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.002})
    assert follows(one, "") == {"0"} and follows(one, "0.00") == {"0", "1", "00", "12"}
    assert not one.accepts("0.0") and one.accepts("0.001999") and one.accepts("0.0010")


def test_strings_count_characters_and_end_in_time() -> None:
    form = Schema({"type": "string", "minLength": 2, "maxLength": 4})
    assert '"' not in follows(form, '"a') and {"abc", 'c"', '春"'} <= follows(form, '"a')
    assert follows(form, '"abcd') == {'"'} and not follows(form, '"abcd"') and "abc" not in follows(form, '"ab')
    assert follows(form, '"a\\ud') == set("01234567") | {"00", "12"}  # no half of a surrogate pair
    assert not {"\n", "é\t", "\ufffd"} & follows(form, '"')
    tight = Schema({"type": "string"}, budget_chars=5)
    assert follows(tight, '"abc') == {'"'} and "\\" not in follows(tight, '"ab')


def test_a_vocabulary_without_a_character_writes_its_escape() -> None:
    form = Schema({"type": "object", "properties": {"春眠": {"enum": ["曉😀"]}}, "required": ["春眠"]})
    text = walk(form, 3, ["", *ASCII])
    assert text.isascii() and json.loads(text) == {"春眠": "曉😀"}
    assert form.accepts('{"春\\u7720":"曉\\ud83d\\ude00"}') and form.least_chars == len(text)


def test_an_escape_is_not_taken_for_the_beginning_of_another() -> None:
    properties = {'"': {"type": "null"}, "é\n": {"type": "null"}, "\x7f": {"const": "\\é"}}
    form = Schema({"type": "object", "properties": properties, "required": ["é\n"]})
    for text in ('{"\\"":null,"\\u00e9\\n":null}', '{"é\\n":null,"\\u007f":"\\\\\\u00e9"}'):
        assert form.accepts(text) and json.loads(text).keys() <= properties.keys()
    for seed in range(20):
        assert "é\n" in json.loads(walk(form, seed, ["", *ASCII]))


def test_answers_are_kept_and_not_to_be_written() -> None:
    form = Schema({"type": "string"})
    one, two = form.allow('"ab', VOCABULARY), form.allow('"abc', VOCABULARY)
    assert one is two and isinstance(one, np.ndarray) and not one.flags.writeable
    assert not any(form.allow("no", VOCABULARY)) and not form.accepts('"ab')
    assert form.allow('"x', list(VOCABULARY[:-1])) is not one


def test_one_of_needs_branches_apart() -> None:
    def branch(tag: str, **more: Any) -> dict[str, Any]:
        return {"type": "object", "properties": {"kind": {"const": tag}, **more}, "required": ["kind"]}

    form = Schema({"oneOf": [branch("a", n={"type": "integer"}), branch("b"), {"type": "null"}, {"enum": [1, 2]}]})
    for seed in range(20):
        jsonschema.validate(
            json.loads(walk(form, seed)), {"oneOf": [branch("a"), branch("b"), {"type": "null"}, {"enum": [1, 2]}]}
        )
    for other in ({"type": "number"}, {"const": 1.0}):
        with pytest.raises(UserError, match="branches 0 and 1 of oneOf"):
            Schema({"oneOf": [{"enum": [1, 2]}, other]})
    Schema({"oneOf": [{"const": True}, {"const": 1}]})


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "string", "pattern": "a+"}, "'pattern'"),
        ({"type": "string", "format": "date"}, "'format'"),
        ({"type": "array", "items": {"type": "null"}, "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "object", "patternProperties": {}}, "'patternProperties'"),
        ({"anyOf": [{"type": "null"}], "minLength": 3}, "'minLength' beside anyOf"),
        ({"type": "array"}, "items are not told"),
        ({"type": "object", "required": ["x"]}, "'x' is required"),
        ({"type": "text"}, "no type 'text'"),
        ({"type": 3}, "name of a type"),
        ({"title": "anything"}, "says nothing"),
        ({"$ref": "https://example.org/s.json"}, "only its own parts"),
        ({"$ref": "#"}, "named as itself"),
        ({"type": "string", "minLength": 4, "maxLength": 3}, "minLength is above maxLength"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "no JSON text fits"),
        ({"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}, "no JSON text fits"),
        ({"type": "integer", "minimum": True}, "a number is needed"),
        ({"const": float("nan")}, "no JSON value"),
        ({"type": "object", "properties": {"\ud800": {"type": "null"}}}, "no JSON value"),
        ({"type": "string", "minLength": 3000}, "shortest text has 3002 characters"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_named(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Schema(schema)


def test_a_vocabulary_that_cannot_write_json_is_refused() -> None:
    with pytest.raises(UserError, match="no token of its own for {"):
        Schema({"type": "null"}).allow("", [token for token in VOCABULARY if token != "{"])


# ------------------------------------------------------------------------------------------------------- a model writes
ANSWER = {"type": "object", "properties": {"title": {"type": "string", "minLength": 1, "maxLength": 12},
          "lines": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
          "year": {"type": "integer", "minimum": 618, "maximum": 907}, "sad": {"type": ["boolean", "null"]}},
          "required": ["title", "lines", "year"], "additionalProperties": False}  # fmt: skip


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_a_trained_model_answers_in_the_schema(tmp_path: Path, kind: str) -> None:
    draw = random.Random(1)
    texts = ["春眠不覺曉 the old wind " + " ".join(draw.choices(["reeds", "water", "gate"], k=20)) for _ in range(30)]
    ctx = RunContext(tmp_path)
    component = gpt.Component(gpt.Config(data=("texts",), **{**gpt.TINY, "tokenizer": kind}))
    component.fit(ItemList(Item(media="text", text=text, license="CC0-1.0") for text in texts), ctx)
    writer = component.load(ctx.out, device=DEVICE, threads=1)
    form = Schema(ANSWER, budget_chars=120)
    made = writer.complete(["the gate"] * 5, seeds=range(5), sampling=Sampling(max_tokens=121), constraints=[form] * 5)
    for one in made:
        jsonschema.validate(json.loads(one.text), ANSWER)
        assert one.finish == "constraint" and len(one.text) <= 120
    assert len({one.text for one in made}) == 5
