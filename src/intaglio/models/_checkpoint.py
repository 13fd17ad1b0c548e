"""The checkpoint of a family of ours: ``model.safetensors`` beside ``config.json``, which says what the tensors are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.nn.checkpoint import load_tensors, save_tensors, write_atomic


def write(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """What ``read`` reads. facts: plain JSON with ``kind``, the family; no times, for equal models are equal bytes."""
    save_tensors(folder / "model.safetensors", tensors)
    write_atomic(folder / "config.json", (json.dumps(dict(facts), indent=1, sort_keys=True) + "\n").encode())


def read(folder: Path, kind: str, device: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts. Errors: as they come, also of another kind; ``reading`` around it explains them."""
    facts = json.loads((folder / "config.json").read_text("utf-8"))
    if facts["kind"] != kind:
        raise ValueError(f"kind is {facts['kind']}")
    return load_tensors(folder / "model.safetensors", device=device)[0], facts


# What reading a checkpoint can raise that is damaged, or of another version; RuntimeError: tensors of another shape.
BROKEN = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)


def said(error: Exception) -> str:
    """The error on one line; of a key that is missing, that it is."""
    if isinstance(error, KeyError):
        return t("'{key}' is missing", key=error.args[0] if error.args else "?")
    return " ".join(str(error).split())[:200]


@contextmanager
def reading(folder: Path, kind: str) -> Iterator[None]:
    """Errors: UserError where what is done within fails: the folder holds no such checkpoint, or a damaged one."""
    try:
        yield
    except BROKEN as error:
        what = t("this folder holds no {kind} checkpoint ({error})", kind=kind, error=said(error))
        raise UserError(what, where=folder.name, fix=t("train it again: intaglio run")) from error


@contextmanager
def readable() -> Iterator[None]:
    """As ``reading``, of a checkpoint in the layout of ``transformers``, which lies in the store."""
    try:
        yield
    except BROKEN as error:
        raise UserError(
            t("the checkpoint cannot be read: {error}", error=said(error)),
            fix=t("intaglio check --blobs names damaged files; intaglio restore brings them back"),
        ) from error
