"""The checkpoint of a family of ours: ``model.safetensors`` beside ``config.json``, which says what the tensors are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.models._facts import Facts, checked
from intaglio.nn.checkpoint import load_tensors, save_tensors, write_atomic
from intaglio.nn.cost import operations

FILES = ("model.safetensors", "config.json")
Network = TypeVar("Network", bound=nn.Module)


def write(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """What ``read`` reads. facts: plain JSON with ``kind``, the family; no times, for equal models are equal bytes."""
    save_tensors(folder / "model.safetensors", tensors)
    write_atomic(folder / "config.json", (json.dumps(dict(facts), indent=1, sort_keys=True) + "\n").encode())


def read(folder: Path, kind: str, model: type[Facts], device: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts, of which those of ``model`` are as it says.

    Errors: UserError for a fact that is not; others as they come, also of another kind: ``reading`` explains them.
    """
    found = json.loads((folder / "config.json").read_text("utf-8"))["kind"]
    if found != kind:
        raise ValueError(f"kind is {found}")
    facts = checked(folder / "config.json", model)
    return load_tensors(folder / "model.safetensors", device=device)[0], facts


def filled(make: Callable[[], Network], tensors: Mapping[str, Tensor]) -> Network:
    """The network that ``make`` builds, with these tensors in it.

    Errors: ValueError where they are not those of its shape; that is told before it takes any memory.
    """
    _, hollow = operations(make, lambda network: None)
    wanted = {name: tuple(value.shape) for name, value in hollow.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            told: dict[str, Any] = {"name": name, "wanted": wanted.get(name, "-"), "found": found.get(name, "-")}
            raise ValueError(t("by config.json, {name} has the shape {wanted}; in the weights it is {found}", **told))
    network = make()
    network.load_state_dict(dict(tensors))
    return network


def export(folder: Path, to: Path, facts: Mapping[str, Any], *, page: str, parts: Sequence[str] = ()) -> list[Path]:
    """Copy the checkpoint and those in its folders ``parts``, and write ``README.md``: ``page``, and the figures."""
    names = [f"{part}{name}" for part in ("", *(f"{each}/" for each in parts)) for name in FILES]
    to.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_atomic(to / name, (folder / name).read_bytes())
    write_atomic(to / "README.md", "\n".join([page, *_figures(facts["metrics"]), ""]).encode())
    return [to / name for name in (*names, "README.md")]


def _figures(metrics: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in sorted(metrics.items()):
        if isinstance(value, Mapping):
            yield from _figures(value, f"{above}{name}.")
        else:
            yield f"- {above}{name}: {value}"


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
