"""What a network costs: multiplications and additions counted without doing them.

torch's own counter over tensors of the meta device does the same; but that imports torch's compiler, which takes longer
than anything else in a plan (docs/LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)
Counted = tuple[Sequence[int], float]  # the shape of a product, and its operations


def operations(make: Callable[[], Network], run: Callable[[Network], object]) -> tuple[float, Network]:
    """Multiplications and additions of the products in ``run(make())``, and the network, of which only shapes mean
    anything: weights take no memory and are never drawn, and whatever comes out of a product is zero.

    Counted are linear and convolution layers, matrix products and attention, as ``torch.utils.flop_counter`` counts
    them. What lies between them takes no memory either where it is of a usual kind (``_ALIKE``); all else is done.
    """
    with torch.no_grad(), _Hollow():
        network = make()
    with torch.no_grad(), _Counting() as counting:
        run(network)
    return counting.total, network


# One value seen many times instead of memory: of these a size is asked for, of these the shape is that of what goes in
_ASKED, _LIKE = {torch.empty, torch.zeros, torch.randn}, {torch.empty_like, torch.zeros_like, torch.randn_like}
_ALIKE = frozenset(
    "silu gelu relu leaky_relu sigmoid tanh softmax exp square clamp mul add sub div rsub rdiv pow addcmul lerp"
    " float to type_as contiguous clone roll".split()
)
_RESHAPES = {"t_", "transpose_", "squeeze_", "unsqueeze_"}  # in place, without writing


def _zeros(shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    return torch.zeros((), dtype=dtype).expand(tuple(shape))


class _Hollow(TorchFunctionMode):
    """Memory asked for is one zero seen many times, and nothing is written into it."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named, name = kwargs or {}, function.__name__
        if function in _ASKED and args:
            return _zeros(args if isinstance(args[0], int) else args[0], named.get("dtype"))
        if function in _LIKE:
            return _zeros(args[0].shape, named.get("dtype", args[0].dtype))
        if name == "__setitem__" or _writes(name):
            return args[0] if args else named["tensor"]
        return function(*args, **named)


def _writes(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__") and name not in _RESHAPES


class _Counting(TorchFunctionMode):
    """Products are counted instead of done; ``total`` is what they come to."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if function in _PRODUCTS:
            shape, cost = _PRODUCTS[function](*args, **named)
            self.total += cost
            return _zeros(shape, args[0].dtype)
        if _writes(function.__name__) and args[0].untyped_storage().nbytes() < args[0].numel():
            return args[0]
        name = function.__name__.strip("_")
        if name in _ALIKE:
            tensors = [each for each in args if isinstance(each, Tensor)]
            dtypes = [each for each in (*args, *named.values()) if isinstance(each, torch.dtype)]
            dtype = torch.float32 if name == "float" else (dtypes or [tensors[0].dtype])[0]
            return _zeros(np.broadcast_shapes(*(each.shape for each in tensors)), dtype)
        if function is torch.cat:
            parts, dim = args[0], args[1] if len(args) > 1 else named.get("dim", 0)
            shape = list(parts[0].shape)
            shape[dim] = sum(each.shape[dim] for each in parts)
            return _zeros(shape, parts[0].dtype)
        return function(*args, **named)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Counted:
    return (*x.shape[:-1], len(weight)), 2.0 * x.numel() * len(weight)


def _matmul(a: Tensor, b: Tensor) -> Counted:
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.dim() > 1 else ()
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *rows, *columns)
    return shape, 2.0 * math.prod(shape) * a.shape[-1]


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> Counted:
    shape = (*q.shape[:-1], v.shape[-1])
    return shape, 2.0 * math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Counted:
    kernel = weight.shape[2:]
    steps, pads, gaps = (_each(value, len(kernel)) for value in (stride, padding, dilation))
    sides = [
        (size + 2 * pad - gap * (k - 1) - 1) // step + 1
        for size, k, step, pad, gap in zip(x.shape[2:], kernel, steps, pads, gaps, strict=True)
    ]
    shape = (len(x), len(weight), *sides)
    return shape, 2.0 * math.prod(shape) * math.prod(weight.shape[1:])


def _transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Counted:
    kernel = weight.shape[2:]
    steps, pads, more, gaps = (_each(value, len(kernel)) for value in (stride, padding, output_padding, dilation))
    sides = [
        (size - 1) * step - 2 * pad + gap * (k - 1) + extra + 1
        for size, k, step, pad, extra, gap in zip(x.shape[2:], kernel, steps, pads, more, gaps, strict=True)
    ]
    return (len(x), weight.shape[1] * groups, *sides), 2.0 * x.numel() * math.prod(weight.shape[1:])


def _each(value: Any, count: int) -> Sequence[int]:
    found = (value,) if isinstance(value, int) else tuple(value)
    return found * count if len(found) == 1 else found


_PRODUCTS: dict[Any, Callable[..., Counted]] = {
    F.linear: _linear,
    F.scaled_dot_product_attention: _attention,
    **dict.fromkeys((torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__), _matmul),
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _transposed),
}
