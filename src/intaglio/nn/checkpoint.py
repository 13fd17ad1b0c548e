"""Checkpoints: tensors and plain JSON in one safetensors file, written atomically; nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim import Optimizer

_META = "intaglio"


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that a reader, or a kill at any moment, finds the old file or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    with contextlib.suppress(OSError, AttributeError):  # folders cannot be synchronised on every system
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None) -> None:
    """Write ``tensors`` (and plain JSON ``meta`` in the file's header) atomically; equal content, equal bytes."""
    flat = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    header = {"format": "pt"} if meta is None else {_META: json.dumps(meta, sort_keys=True)}
    write_atomic(path, save(_unshared(flat), metadata=header))


def load_tensors(path: Path, *, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and ``meta`` of a file written by ``save_tensors``.

    Errors: FileNotFoundError; ValueError for a file that is damaged or is no safetensors file.
    """
    meta = read_meta(path)
    return load_file(path, device=device), meta


def read_meta(path: Path) -> dict[str, Any]:
    """Only the ``meta`` of a file written by ``save_tensors``; reads the header alone. Errors: as ``load_tensors``."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(_META, "{}"))
    except SafetensorError as error:
        raise ValueError(f"{path.name} is no readable safetensors file: {error}") from error


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.data_ptr() in seen:  # safetensors refuses two names for one memory
            tensors[name] = tensor.clone()
        seen.add(tensors[name].data_ptr())
    return tensors


def pack_optimizers(optimizers: Sequence[Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of optimizers as named tensors and a JSON dict of the plain numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for place, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                key = f"optimizer.{place}.{index}.{name}"
                if isinstance(value, Tensor):
                    tensors[key] = value
                else:
                    numbers[key] = value
    return tensors, numbers


def unpack_optimizers(
    optimizers: Sequence[Optimizer], tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """Put back what ``pack_optimizers`` gave; the optimizers must hold the same parameters in the same order."""
    states: list[dict[int, dict[str, Any]]] = [{} for _ in optimizers]
    for key, value in {**tensors, **numbers}.items():
        if key.startswith("optimizer."):
            _, place, index, name = key.split(".", 3)
            states[int(place)].setdefault(int(index), {})[name] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        with torch.no_grad():
            optimizer.load_state_dict({"state": state, "param_groups": groups})
