"""Checkpoints: tensors and plain JSON in one safetensors file, written atomically; nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim import Optimizer

_META = "intaglio"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, in the quota, under the limit of file size
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin")
CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "s = torch.load(open(sys.argv[1], 'rb'), map_location='cpu', weights_only=True); s = s.get('state_dict', s); "
    'save_file({k: v.clone().contiguous() for k, v in s.items() if torch.is_tensor(v)}, sys.argv[2])" '
)


class DiskFull(OSError):
    """There is no room for a file. need: bytes it takes; free: bytes that were left."""

    def __init__(self, number: int, message: str, path: str, *, need: int, free: int) -> None:
        super().__init__(number, message, path)
        self.need, self.free = need, free


class Pickled(ValueError):
    """A pickle stands where safetensors is expected; it is not opened, because reading one runs what it says."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        to = f"{path.stem}.safetensors"
        self.convert = f"{CONVERT}{path.name} {to if to != path.name else 'converted.safetensors'}"
        super().__init__(f"{path.name} is a pickle, and reading one runs any code in it. Convert it: {self.convert}")


def refuse_pickle(path: Path) -> None:
    """Tell a pickle by content (also within a zip, as torch writes them) or, where nothing is there to tell, by name.

    Errors: Pickled, with the line that converts it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except FileNotFoundError:
        return
    zipped = start[:4] == b"PK\x03\x04" and b".pkl" in start  # torch.save since 1.6: <name>/data.pkl comes first
    bare = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    safetensors = start[5:9] == b"\0\0\0{"  # the length of a header, and the header; may begin as a pickle does
    if not safetensors and (zipped or bare or path.suffix.lower() in PICKLES):
        raise Pickled(path)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` so that a reader, or a kill at any moment, finds the old file or the new one whole.

    Errors: DiskFull, with nothing left of the part that was written.
    """
    try:
        _write_atomic(path, data)
    except OSError as error:
        if error.errno not in FULL or isinstance(error, DiskFull):
            raise
        free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
        text = f"no room for {path.name}: {len(data):,} bytes are needed, {free:,} are free"
        raise DiskFull(error.errno, text, str(path), need=len(data), free=free) from error


def _write_atomic(path: Path, data: bytes) -> None:
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

    Errors: FileNotFoundError; Pickled; ValueError for a file that is damaged or is no safetensors file.
    """
    meta = read_meta(path)
    return load_file(path, device=device), meta


def read_meta(path: Path) -> dict[str, Any]:
    """Only the ``meta`` of a file written by ``save_tensors``; reads the header alone. Errors: as ``load_tensors``."""
    refuse_pickle(path)
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
            for parameter, values in optimizer.state.items():
                for name, value in values.items():
                    values[name] = _laid_out_as(value, parameter)


def _laid_out_as(value: Any, parameter: Tensor) -> Any:
    """State in the memory layout of its weight (channels last, for instance): fused updates walk both side by side."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
