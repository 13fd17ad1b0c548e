"""A JSON Schema as nodes that read compact JSON (``media/_json.py``); what cannot be kept is refused by name.

``where`` is the place in the schema as a pointer, for errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any
from urllib.parse import unquote

from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media._json import (
    FRACTION_DIGITS,
    INTEGER_DIGITS,
    WHOLE_DIGITS,
    Literal,
    Node,
    Number,
    String,
    Value,
    compact,
    same,
    settle,
)
from intaglio.media._json_containers import Array, Object, Property

NOTES = frozenset(
    "$schema $id $comment title description default examples deprecated readOnly writeOnly $defs definitions".split()
)
KEYWORDS: Mapping[str, frozenset[str]] = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items", "minItems", "maxItems")),
    "string": frozenset(("minLength", "maxLength")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "boolean": frozenset(),
    "null": frozenset(),
}
ALONE = ("$ref", "anyOf", "oneOf", "enum", "const")  # of these one, and nothing beside it but notes
_IMPLIED = {
    key: kind for kind, keys in KEYWORDS.items() for key in keys - {"additionalProperties"} if kind != "integer"
}  # where no type is told


class Compiler:
    """Schema to values; ``where`` is the place in the schema as a pointer, for errors."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.values: dict[int, Value] = {}
        self.parts: dict[int, list[Value | Node]] = {}  # of a value, by its id
        self.closed: dict[int, bool] = {}  # of an object node, by its id: other properties are wrong
        self.apart: list[tuple[Value, list[Value], str]] = []

    def compiled(self) -> Value:
        value = self.value(self.root, "#")
        values = list(self.values.values())
        for each in values:
            each.choices = tuple(self._choices(each, []))
        for _, branches, where in self.apart:
            self._check_apart(branches, where)
        settle(values)
        return value

    def value(self, schema: Any, where: str) -> Value:
        if not isinstance(schema, Mapping) or not schema.keys() - NOTES:
            raise UserError(
                t("a schema that says nothing of the value cannot be kept to"),
                where=f"schema {where}",
                fix=t("name its type"),
            )
        if id(schema) not in self.values:
            value = self.values[id(schema)] = Value()
            self.parts[id(value)] = []
            self.parts[id(value)] += self._parts(schema, where, value)
        return self.values[id(schema)]

    def _parts(self, schema: Mapping[str, Any], where: str, value: Value) -> Iterator[Value | Node]:
        alone = [key for key in ALONE if key in schema]
        if not alone:
            yield from self._typed(schema, where)
            return
        key = alone[0]
        beside = {"type"} if key in ("enum", "const") else set()
        _refuse(schema, NOTES | {key} | beside, where, beside=key)
        if key == "$ref":
            yield self._reference(schema[key], where)
        elif key in ("enum", "const"):
            values = schema[key] if key == "enum" else [schema[key]]
            yield from _literal(_listed(values, f"{where}/{key}"), schema.get("type"), where)
        else:
            branches = [
                self.value(each, f"{where}/{key}/{n}") for n, each in enumerate(_listed(schema[key], f"{where}/{key}"))
            ]
            if key == "oneOf":
                self.apart.append((value, branches, f"{where}/{key}"))
            yield from branches

    def _typed(self, schema: Mapping[str, Any], where: str) -> Iterator[Value | Node]:
        names = schema.get("type") or sorted({kind for key, kind in _IMPLIED.items() if key in schema})
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _wrong(f"{where}/type", t("the name of a type is needed, or a list of names"))
        unknown = [name for name in names if name not in KEYWORDS]
        if unknown:
            raise _wrong(f"{where}/type", t("there is no type '{name}'", name=unknown[0]))
        _refuse(schema, NOTES.union({"type"}, *(KEYWORDS[name] for name in names)), where)
        if not names:
            raise _wrong(where, t("a schema that says nothing of the value cannot be kept to"))
        for name in names:
            yield getattr(self, f"_{name}")(schema, where)

    def _object(self, schema: Mapping[str, Any], where: str) -> Node:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise _wrong(where, t("properties is an object of schemas, and required a list of names"))
        for name in required:
            if name not in properties:
                raise _wrong(f"{where}/required", t("'{name}' is required, but no property says what it is", name=name))
        _check_writable(properties, f"{where}/properties")
        node = Object(
            [
                Property(name, self.value(each, f"{where}/properties/{name}"), name in required)
                for name, each in properties.items()
            ]
        )
        self.closed[id(node)] = schema.get("additionalProperties") is False
        return node

    def _array(self, schema: Mapping[str, Any], where: str) -> Node:
        least, most = _bounds(schema, "minItems", "maxItems", where)
        if "items" not in schema and most:
            raise _wrong(where, t("an array whose items are not told cannot be kept to"))
        return Array(self.value(schema["items"], f"{where}/items") if "items" in schema else None, least, most)

    def _string(self, schema: Mapping[str, Any], where: str) -> Node:
        return String(*_bounds(schema, "minLength", "maxLength", where))

    def _number(self, schema: Mapping[str, Any], where: str) -> Node:
        return _number(schema, where, whole=WHOLE_DIGITS, point=FRACTION_DIGITS)

    def _integer(self, schema: Mapping[str, Any], where: str) -> Node:
        return _number(schema, where, whole=INTEGER_DIGITS, point=0)

    def _boolean(self, schema: Mapping[str, Any], where: str) -> Node:
        return Literal([True, False])

    def _null(self, schema: Mapping[str, Any], where: str) -> Node:
        return Literal([None])

    def _reference(self, name: Any, where: str) -> Value:
        found: Any = self.root
        try:
            if not isinstance(name, str) or not name.startswith("#") or (name[1:2] not in ("", "/")):
                raise KeyError(name)
            for part in name[1:].split("/")[1:]:
                part = unquote(part).replace("~1", "/").replace("~0", "~")
                found = found[int(part)] if isinstance(found, list) else found[part]
        except (LookupError, ValueError, TypeError) as error:
            what = t("'{name}' is not in this schema; only its own parts can be named", name=name)
            raise _wrong(f"{where}/$ref", what) from error
        return self.value(found, name)

    def _choices(self, value: Value, above: list[Value]) -> Iterator[Node]:
        if any(value is each for each in above):
            raise _wrong("#", t("a part of the schema is named as itself: it says nothing"))
        for part in self.parts[id(value)]:
            if isinstance(part, Value):
                yield from self._choices(part, [*above, value])
            else:
                yield part

    # -------------------------------------------------------------------------------------------------- oneOf is anyOf
    def _check_apart(self, branches: list[Value], where: str) -> None:
        for n, one in enumerate(branches):
            for m in range(n + 1, len(branches)):
                if not self._apart(one, branches[m], 0):
                    raise UserError(
                        t("branches {one} and {other} of oneOf may both fit one value", one=n, other=m),
                        where=f"schema {where}",
                        fix=t("use anyOf, or give both a required property whose const tells them apart"),
                    )

    def _apart(self, one: Value, other: Value, depth: int) -> bool:
        return depth < 8 and all(
            self._nodes_apart(a, b, depth) and self._nodes_apart(b, a, depth)
            for a in one.choices
            for b in other.choices
        )

    def _nodes_apart(self, one: Node, other: Node, depth: int) -> bool:
        if isinstance(one, Literal):
            if isinstance(other, Literal):
                return not any(same(a, b) for a in one.values for b in other.values)
            return not any(isinstance(other, _NODES[kind]) for a in one.values for kind in _kinds(a) if kind in _NODES)
        if isinstance(other, Literal):
            return True  # asked the other way round as well
        if type(one) is not type(other):
            return True
        if isinstance(one, Object) and isinstance(other, Object):
            return self._objects_apart(one, other, depth) or self._objects_apart(other, one, depth)
        return False

    def _objects_apart(self, one: Object, other: Object, depth: int) -> bool:
        """Some property that ``one`` requires is unknown to ``other``, or another value there."""
        theirs = {each.name: each for each in other.properties}
        for mine in one.properties:
            if mine.required and mine.name not in theirs and self.closed[id(other)]:
                return True
            both = theirs.get(mine.name)
            if both is not None and mine.required and self._apart(mine.value, both.value, depth + 1):
                return True
        return False


_NODES: Mapping[str, type[Node]] = {
    "object": Object, "array": Array, "string": String, "number": Number, "integer": Number,
}  # fmt: skip


def _kinds(value: Any) -> set[str]:
    """The types a value has."""
    if value is None or isinstance(value, bool):
        return {"null"} if value is None else {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if value == int(value) else {"number"}
    return {"string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"}


def _literal(values: list[Any], types: Any, where: str) -> Iterator[Node]:
    wanted = {types} if isinstance(types, str) else set(types or KEYWORDS)
    _check_writable(values, where)
    fitting = [value for value in values if _kinds(value) & wanted]
    if fitting:
        yield Literal(fitting)


def _check_writable(values: Iterable[Any], where: str) -> None:
    try:
        for value in values:
            compact(value)
    except (ValueError, TypeError) as error:
        raise _wrong(where, t("this is no JSON value: {error}", error=error)) from error


def _number(schema: Mapping[str, Any], where: str, *, whole: int, point: int) -> Number:
    unit, most = 10**point, 10 ** (whole + point) - 1
    low, high = -most, most
    for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        given = schema.get(key)
        if given is None:
            continue
        if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
            raise _wrong(f"{where}/{key}", t("a number is needed, not {got}", got=repr(given)))
        bound = Fraction(repr(given)) * unit
        if key == "minimum":
            low = max(low, math.ceil(bound))
        elif key == "exclusiveMinimum":
            low = max(low, math.floor(bound) + 1)
        elif key == "maximum":
            high = min(high, math.floor(bound))
        else:
            high = min(high, math.ceil(bound) - 1)
    return Number(low, high, whole=whole, point=point)


def _bounds(schema: Mapping[str, Any], least: str, most: str, where: str) -> tuple[int, int]:
    found = []
    for key, usual in ((least, 0), (most, -1)):
        value = schema.get(key, usual)
        if isinstance(value, bool) or not isinstance(value, int) or (key in schema and value < 0):
            raise _wrong(f"{where}/{key}", t("a whole number from 0 is needed, not {got}", got=repr(value)))
        found.append(value)
    if 0 <= found[1] < found[0]:
        raise _wrong(f"{where}/{least}", t("{least} is above {most}", least=least, most=most))
    return found[0], found[1]


def _listed(values: Any, where: str) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise _wrong(where, t("a list that is not empty is needed"))
    return values


def _refuse(schema: Mapping[str, Any], known: frozenset[str] | set[str], where: str, *, beside: str = "") -> None:
    unknown = [key for key in schema if key not in known]
    if not unknown:
        return
    name = unknown[0]
    what = t("'{name}' beside {other} is not kept", name=name, other=beside) if beside else ""
    raise UserError(
        what or t("the keyword '{name}' is not kept here", name=name),
        where=f"schema {where}",
        fix=t("leave it out and check it afterwards; kept: {names}", names=", ".join(sorted(known - NOTES))),
    )


def _wrong(where: str, what: str) -> UserError:
    return UserError(what, where=f"schema {where}", fix=t("correct the schema there"))
