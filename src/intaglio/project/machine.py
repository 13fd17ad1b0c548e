"""The machine a run happens on: device and why, memory, environment, measured speed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

from intaglio.core.contracts import Machine
from intaglio.core.errors import UserError
from intaglio.core.folders import cache_folder, numbers, remember, remembered
from intaglio.core.i18n import t
from intaglio.core.registry import import_or_explain

KEPT_S = 3600.0  # a measured speed
RECORDED = (
    "intaglio",
    "torch",
    "numpy",
    "pyarrow",
    "tokenizers",
    "safetensors",
    "pillow",
    "scikit-learn",
    "c2pa-python",
)


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device(asked: str | None) -> tuple[str, str]:
    """The device and the reason, in a person's words; torch is imported only where a GPU may be there."""
    if asked and asked != "auto":
        if asked != "cpu":
            _check_cuda(asked)
        return asked, t("as asked")
    if not any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        return "cpu", t("no GPU found")
    if importlib.util.find_spec("torch") is None:
        return "cpu", t("torch is not installed")
    import torch

    return ("cuda", t("a GPU is there")) if torch.cuda.is_available() else ("cpu", t("this torch has no CUDA"))


def _check_cuda(asked: str) -> None:
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.device(asked).type == "cuda" and torch.cuda.is_available():
            return
    raise UserError(
        t("device '{device}' is not available here", device=asked), fix=t("leave --device out, or use --device cpu")
    )


def memory_bytes() -> int:
    """Physical memory of the machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_bytes() -> int:
    """The most memory this process has held. On Linux from its own address space: getrusage also counts the parent's
    memory at the moment of the fork."""
    try:
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def environment() -> dict[str, Any]:
    """What a result depends on besides its inputs: versions and processor class; no names of machines or people."""
    versions = {}
    for package in RECORDED:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "packages": versions,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor()
    return platform.processor()


def kind(device: str, threads: int) -> str:
    """What times of one training can be compared on: device, threads, processor, version of torch."""
    return f"{device}/{threads}/{_processor()}/{_version('torch')}"


def measured(device: str, threads: int) -> Machine:
    """Speed of a small training as it is now (a second), kept an hour for this machine, torch and number of threads.

    A machine shared with others, or busy with something else, is another one later.
    """
    cache = cache_folder("machine") / "speed.json"
    name = f"5/{kind(device, threads)}"  # the number: how it is measured
    known = remembered(cache)
    row = numbers(known.get(name))
    if len(row) != 3 or not 0 <= time.time() - row[2] < KEPT_S:
        row = [*_measure(device, threads), time.time()]
        remember(cache, {**known, name: row})
    fp32, bf16, _ = row
    return Machine(device, threads, fp32, bf16, memory_bytes())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _measure(device: str, threads: int) -> list[float]:
    """float32 and bfloat16 GFLOP/s of a small training, on a GPU of large products (see ``nn/device.py``)."""
    if importlib.util.find_spec("torch") is None:
        return [20.0 * threads, 20.0 * threads]
    measuring = import_or_explain("intaglio.nn.device", t("training"))
    torch = measuring.torch
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kinds = (torch.float32, torch.bfloat16)
        if device == "cpu":
            return [float(measuring.training_gflops(dtype)) for dtype in kinds]
        return [float(measuring.matmul_gflops(dtype, device=device, size=4096)) for dtype in kinds]
    finally:
        torch.set_num_threads(before)
