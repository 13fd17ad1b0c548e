"""The machine: which device, how many threads, which precision is fast there, and what makes bits repeat."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F


def fast_dtype(device: str) -> torch.dtype:
    """The precision matrix products run fastest in: bfloat16 where the hardware multiplies it, else float32.

    Told by capability, never by a stop-watch, so that the same machine class always answers the same.
    """
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if cpu_multiplies_bf16() else torch.float32


def cpu_multiplies_bf16() -> bool:
    """True where this processor has bfloat16 dot products (AVX512-BF16, AMX) and torch was built to use them."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    found = any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)
    return found and torch.backends.mkldnn.is_available()


def cpu_capability() -> str:
    """Name of the vector instructions torch uses on this processor, such as ``AVX512`` or ``NO AVX``."""
    return str(torch.backends.cpu.get_cpu_capability())


def autocast(device: str, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Run matrix products in ``dtype``; does nothing for float32."""
    if dtype is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)


def rounds_products(device: str) -> bool:
    """True where ``rounded_products`` has an effect: a CPU that multiplies bfloat16, torch 2.9 or newer."""
    cpu = torch.device(device).type == "cpu" and cpu_multiplies_bf16()
    return cpu and hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision")


@contextlib.contextmanager
def rounded_products(*, wanted: bool = True) -> Iterator[None]:
    """Inside, where ``wanted``, products of float32 matrices on the CPU round what they multiply to bfloat16, not sums.

    For linear layers so small that ``autocast`` casts weights and gradients for as long as it multiplies them. Others,
    convolutions above all, are faster under ``autocast``, which halves the activations too. Gradients must be taken
    inside as well.
    """
    if not wanted:
        yield
        return
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@contextlib.contextmanager
def machine(*, device: str, threads: int, own: bool = True) -> Iterator[torch.device]:
    """Inside: ``threads`` CPU threads and deterministic kernels; afterwards the settings found before.

    Bits repeat at the same device class, thread count, torch build and CPU capability (``environment``).
    own: False for networks of others, which on a GPU may need a kernel that is not deterministic: torch then warns.
    Errors: RuntimeError by torch where a kernel has no deterministic form; on a GPU from the version on that was tried.
    """
    before_threads = torch.get_num_threads()
    before_deterministic = torch.get_deterministic_debug_mode()
    torch.set_num_threads(max(1, threads))
    chosen = torch.device(device)
    if on_gpu := chosen.type == "cuda":  # cuBLAS repeats its sums in workspaces of fixed size, set before it begins
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    tried = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
    # as use_deterministic_algorithms does, which imports torch's compiler for it: a second
    torch.set_deterministic_debug_mode("error" if not on_gpu or (own and tried) else "warn")
    settings: Any = torch.utils.deterministic
    before_filling = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = False  # else every torch.empty is written once for nothing
    try:
        yield chosen
    finally:
        torch.set_num_threads(before_threads)
        torch.set_deterministic_debug_mode(before_deterministic)
        settings.fill_uninitialized_memory = before_filling


def environment(device: str) -> dict[str, str | int]:
    """Everything besides data, config and seed that bits depend on; plain JSON, no machine names."""
    chosen = torch.device(device)
    return {
        "torch": torch.__version__,
        "python": ".".join(str(part) for part in sys.version_info[:2]),
        "architecture": platform.machine(),
        "cpu": cpu_capability(),
        "bf16": int(cpu_multiplies_bf16()),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "cpu",
    }


def peak_memory_bytes(device: str) -> int:
    """Most memory this process has held so far, in bytes (on a GPU: GPU memory); 0 where it cannot be told."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def training_gflops(dtype: torch.dtype, *, seconds: float = 0.25) -> float:
    """Operations a second (in 10^9) of a small network there and back on the CPU, by its median step.

    A training is no product: what lies between products is bound by memory, whose speed differs more from machine to
    machine, and from hour to hour, than that of products. Half the time runs first, since a processor that was idle
    is faster at first.
    """
    rows, width, hidden, layers = 2048, 256, 1024, 2
    chance, times = torch.Generator().manual_seed(0), list[float]()
    x, into, out = (
        torch.randn(shape, generator=chance).mul_(scale).requires_grad_()
        for shape, scale in (((rows, width), 1.0), ((hidden, width), 0.02), ((width, hidden), 0.02))
    )
    end = time.perf_counter() + 2 * seconds
    while time.perf_counter() < end or len(times) < 10:
        start, y = time.perf_counter(), x.to(dtype)
        for _ in range(layers):
            wide = F.silu(F.linear(F.rms_norm(y, (width,)), into.to(dtype)))
            y = y + F.linear(wide, out.to(dtype))
        y.float().square().mean().backward()
        x.grad = into.grad = out.grad = None
        times.append(time.perf_counter() - start)
    later = sorted(times[len(times) // 2 :])
    return 12.0 * layers * rows * width * hidden / later[len(later) // 2] / 1e9


def matmul_gflops(dtype: torch.dtype, *, device: str = "cpu", size: int = 1024, seconds: float = 0.2) -> float:
    """Measured speed of one square matrix product of side ``size`` in GFLOP/s, at the current thread count."""
    left = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(3):
        left @ left
    count, start = 0, _now(device)
    while _now(device) - start < seconds:
        left @ left
        count += 1
    return 2.0 * size**3 * count / (_now(device) - start) / 1e9


def _now(device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


COMPILE_SECONDS = 40.0  # of a training step of a small network, measured; most of it C++
COMPILED_GAIN = 0.1  # share of the time saved, cautiously: a flow's step 0.12


def worth_compiling(seconds_expected: float, device: str, *, possible: bool | None = None) -> bool:
    """True where ``torch.compile`` gives back more than twice what it costs, for a training expected to take so long.

    On a CPU matrix products are most of the work and compiling does not touch them: it pays from about a quarter of an
    hour on. On a GPU steps are recorded instead (``nn/graphs.py``); what compiling would add there was not measured.
    Put ``seconds_expected`` from the estimate, never from a clock, and the answer into the training's ``identity``:
    compiled and uncompiled steps differ in the last bits.

    possible: whether what compiling needs is here; left out, it is looked for.
    """
    if torch.device(device).type != "cpu":
        return False
    possible = not missing_for_compiling() if possible is None else possible
    return possible and seconds_expected * COMPILED_GAIN > 2.0 * COMPILE_SECONDS


def missing_for_compiling() -> str:
    """The program without which nothing can be compiled for a CPU; empty where it is here."""
    names = (os.environ.get("CXX", "g++"), "g++", "clang++")
    return "" if any(shutil.which(name) for name in names) else "g++"
