"""Files of facts beside the weights of a checkpoint: what they must hold, looked at before anything is built of it.

A family names its facts by a class over ``Facts``, whose fields say type and bounds; those of its network are told by
the annotations of its ``Shape``. Nothing is turned into what it ought to be: "4" is no number, and true is none either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetPydanticSchema, ValidationError
from pydantic_core import core_schema

from intaglio.core import config
from intaglio.core.errors import UserError
from intaglio.core.i18n import t

Side = Annotated[int, Field(ge=1, le=512)]  # pixels, of what a network sees or makes
Published = Annotated[int, Field(ge=0, le=4_096)]  # pixels
Width = Annotated[int, Field(ge=1, le=65_536)]  # of a layer, or how many there are of something
Depth = Annotated[int, Field(ge=1, le=256)]  # blocks or layers, one behind the other
Steps = Annotated[int, Field(ge=1, le=1_000)]
Tokens = Annotated[int, Field(ge=1, le=131_072)]
Spread = Annotated[float, Field(ge=0.0, le=2.0)]  # of what is drawn, as a share of what was learned


def one_of(*values: str | int) -> Any:
    """For the annotation of a string or whole number that is one of these."""
    return GetPydanticSchema(lambda _, __: core_schema.literal_schema(list(values)))


class Facts(BaseModel):
    """Base of the facts of a family: each field as it is written down, or nothing; what else is there is not read."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class Measured(Facts):
    """Facts with the figures of the model, which are for people."""

    metrics: dict[str, Any]


def checked(path: Path, model: type[Facts]) -> dict[str, Any]:
    """The facts in ``path``, plain JSON, as they stand there.

    Errors: UserError that names the file, the key, what was expected and what was got; OSError; ValueError: no JSON.
    """
    text = path.read_text("utf-8")
    facts = json.loads(text)
    try:
        model.model_validate_json(text)
    except ValidationError as error:
        found = config.explain(model, error, f"{path.parent.name}/{path.name}")
        fix = t("put back the file as it was written, or train the model again: intaglio run")
        raise UserError(found.what, where=found.where, fix=fix) from None
    return dict(facts)


def equal(one: Mapping[str, object], other: Mapping[str, object]) -> None:
    """Errors: ValueError where two places of a checkpoint say different things. one, other: key to value."""
    for (name, value), (beside, found) in zip(one.items(), other.items(), strict=True):
        if value != found:
            raise ValueError(
                t("{name} is {value}, but {beside} is {found}", name=name, value=value, beside=beside, found=found)
            )
