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
    anything: weights take no memory and are never drawn, products are zeros.

    Counted are linear and convolution layers, matrix products and attention, as ``torch.utils.flop_counter`` counts
    them; everything between them is really done, so ``run`` should look at one example.
    """
    with torch.no_grad(), _Hollow():
        network = make()
    with torch.no_grad(), _Counting() as counting:
        run(network)
    return counting.total, network


_RESHAPES = {"t_", "transpose_", "squeeze_", "unsqueeze_"}  # in place, without writing


class _Hollow(TorchFunctionMode):
    """Memory asked for is one zero seen many times, and nothing is written into it."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is torch.empty:
            return torch.zeros((), dtype=(kwargs or {}).get("dtype")).expand(args if len(args) != 1 else args[0])
        name = function.__name__
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__") and name not in _RESHAPES):
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


class _Counting(TorchFunctionMode):
    """Products are counted instead of done; ``total`` is what they come to."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function not in _PRODUCTS:
            return function(*args, **(kwargs or {}))
        shape, cost = _PRODUCTS[function](*args, **(kwargs or {}))
        self.total += cost
        return torch.zeros((), dtype=args[0].dtype).expand(tuple(shape))


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
