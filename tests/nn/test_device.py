"""What the machine multiplies in: products rounded to bfloat16, tensors in float32, and settings put back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from intaglio.nn import device


@pytest.mark.skipif(not device.rounds_products("cpu"), reason="a CPU without bfloat16, or a torch before 2.9")
def test_products_are_rounded_inside_and_exact_outside() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(784, 512), torch.randn(128, 784)
    exact = layer(x)
    with device.rounded_products():
        rounded = layer(x)
        rounded.square().mean().backward()
    assert rounded.dtype is torch.float32 and layer.weight.grad is not None
    wrong = float((rounded - exact).detach().square().mean().sqrt() / exact.detach().square().mean().sqrt())
    assert 1e-4 < wrong < 1e-2, "as bfloat16 rounds, 8 bits, not as float32"
    assert torch.equal(layer(x), exact)


def test_a_gpu_does_not_round_so() -> None:
    assert not device.rounds_products("cuda")
