"""The typed configuration of steps: strict keys, roles that name other steps, and errors that name place and cure."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from intaglio.core.errors import UserError
from intaglio.core.i18n import t


@dataclass(frozen=True)
class Role:
    """Marks a config field that names steps above (``data = "texts"`` or ``data = ["texts", "best@last"]``).

    stages: stages whose steps may be named here; the runner refuses others before any work.
    media:  media kinds the role accepts; empty means any. A model that makes none of them is refused before any work.
    many:   False where exactly one step may be named.
    uses:   components the role accepts, such as ``("vae",)``; empty means any.
    """

    stages: tuple[str, ...]
    media: tuple[str, ...] = ()
    many: bool = True
    uses: tuple[str, ...] = ()


@dataclass(frozen=True)
class InputPath:
    """Marks a config field that is a path inside the project; its content becomes part of the step's key."""

    folder: bool | None = None  # True: must be a folder, False: must be a file, None: either


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
"""Names of steps: one string or a list in the file, always a tuple here."""

ProjectFolder = Annotated[str, InputPath(folder=True)]
ProjectFile = Annotated[str, InputPath(folder=False)]
ProjectPath = Annotated[str, InputPath()]


class StepConfig(BaseModel):
    """Base of every component's ``Config``: unknown keys are errors, values are frozen.

    ``seed`` left out means: derived from the project's seed and the step's name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    seed: int | None = Field(default=None, ge=0, lt=2**63)


class SourceConfig(StepConfig):
    """Base of every Source's ``Config``: the rights of what it reads and the cleaning that follows.

    license:    SPDX expression; required. ``"unknown"`` is allowed and blocks publishing without ``--allow-unknown``.
    origin:     where it came from in a person's words (a URL, a book, "my own photographs").
    consent:    the consent it is used under, in a person's words.
    transforms: the transforms applied to what is read, in this order.
    heldout:    share of items kept out of training, in [0, 0.5].
    on_error:   an unreadable item is skipped and counted (``skip``) or the step is refused (``refuse``).
    """

    license: str = ""
    origin: str = ""
    consent: str = ""
    transforms: tuple[str, ...] = ("normalize", "language", "duplicates", "personal", "split")
    heldout: float = Field(default=0.1, ge=0.0, le=0.5)
    on_error: str = Field(default="skip", pattern="^(skip|refuse)$")


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def parse(model: type[ConfigT], values: dict[str, Any], *, where: str) -> ConfigT:
    """Check ``values`` against ``model``.

    Errors: UserError naming ``where``, the key, what was got and the nearest known key; one error lists all problems.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explain(model, error, where) from None


def explain(model: type[BaseModel], error: ValidationError, where: str) -> UserError:
    """All that does not fit ``model``, as one error: each key, what was expected of it and what was got."""
    lines: list[str] = []
    fix = near_miss = ""
    known = sorted(model.model_fields)
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(t("unknown key '{key}'. Keys here: {keys}", key=key, keys=", ".join(known)))
            near = difflib.get_close_matches(key, known, n=1)
            if near and not near_miss:
                near_miss = t("did you mean '{name}'?", name=near[0])
        elif problem["type"] == "missing":
            lines.append(t("key '{key}' is missing", key=key))
            fix = fix or t("add {key} = ...", key=key)
        elif problem["type"] == "value_error":  # raised by a component's own check, which says all there is to say
            lines.append(f"key '{key}': {problem['ctx']['error']}" if key else str(problem["ctx"]["error"]))
        else:
            got = repr(problem["input"])
            got = got if len(got) <= 80 else got[:77] + "..."
            said = _said(problem["type"], problem["msg"], problem.get("ctx") or {})
            told = t("key '{key}': {problem}; got {got}", key=key, problem=said, got=got)
            lines.append(told if key else t("{problem}; got {got}", problem=said, got=got))
    return UserError("; ".join(lines), where=where, fix=near_miss or fix)


def _said(kind: str, message: str, told: Mapping[str, Any]) -> str:
    """Pydantic's words for a value that does not fit, in the reader's language; rare ones stay English."""
    told = {name: int(n) if isinstance(n, float) and n.is_integer() else n for name, n in told.items()}  # as Pydantic
    expected = str(told.get("expected", "")).replace(" or ", t(" or "))
    texts = {
        "int_type": t("Input should be a valid integer"),
        "int_parsing": t("Input should be a valid integer, unable to parse string as an integer"),
        "int_from_float": t("Input should be a valid integer, got a number with a fractional part"),
        "float_type": t("Input should be a valid number"),
        "float_parsing": t("Input should be a valid number, unable to parse string as a number"),
        "finite_number": t("Input should be a finite number"),
        "bool_type": t("Input should be a valid boolean"),
        "bool_parsing": t("Input should be a valid boolean, unable to interpret input"),
        "string_type": t("Input should be a valid string"),
        "tuple_type": t("Input should be a valid array"),
        **dict.fromkeys(("dict_type", "model_type", "dataclass_type"), t("Input should be an object")),
        "literal_error": t("Input should be {expected}", expected=expected),
        "greater_than": t("Input should be greater than {limit}", limit=told.get("gt")),
        "greater_than_equal": t("Input should be greater than or equal to {limit}", limit=told.get("ge")),
        "less_than": t("Input should be less than {limit}", limit=told.get("lt")),
        "less_than_equal": t("Input should be less than or equal to {limit}", limit=told.get("le")),
        "multiple_of": t("Input should be a multiple of {limit}", limit=told.get("multiple_of")),
    }
    return texts.get(kind, message)


def _markers(annotation: Any, metadata: tuple[Any, ...]) -> list[Any]:
    found = list(metadata)
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        found += extra + _markers(inner, ())
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            found += _markers(part, ())
    return found


def roles(model: type[BaseModel]) -> dict[str, Role]:
    """The role fields of a config class: field name to Role, in the order they are written."""
    return _marked(model, Role)


def input_paths(model: type[BaseModel]) -> dict[str, InputPath]:
    """The path fields of a config class: field name to InputPath."""
    return _marked(model, InputPath)


MarkerT = TypeVar("MarkerT")


def _marked(model: type[BaseModel], kind: type[MarkerT]) -> dict[str, MarkerT]:
    found: dict[str, MarkerT] = {}
    for name, field in model.model_fields.items():
        for marker in _markers(field.annotation, tuple(field.metadata)):
            if isinstance(marker, kind):
                found[name] = marker
                break
    return found
