"""A moving average of a model's weights, which samples better than the last step's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of all parameters of ``model``; buffers are not averaged.

    decay: share kept at each update, in [0, 1); the first updates keep less, ``(1 + n) / (10 + n)``, so that the
    random start is soon forgotten. The average is kept in float32.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be in [0, 1). Received: decay={decay}")
        self.decay = decay
        self.updates = 0
        self._names = [name for name, _ in model.named_parameters()]
        self._live = [parameter for _, parameter in model.named_parameters()]
        self._mean = [parameter.detach().float().clone() for parameter in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._mean, [p.detach().float() for p in self._live], 1.0 - keep)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards its own again."""
        own = [parameter.detach().clone() for parameter in self._live]
        self.assign()
        try:
            yield
        finally:
            self._assign(own)

    def assign(self) -> None:
        """Give the model the averaged weights for good."""
        self._assign(self._mean)

    @torch.no_grad()
    def _assign(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._live, values, strict=True):
            parameter.copy_(value)

    def state(self) -> dict[str, Tensor]:
        """The averaged weights by parameter name."""
        return dict(zip(self._names, self._mean, strict=True))

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], *, updates: int) -> None:
        """Put back what ``state`` gave."""
        self.updates = updates
        for name, mean in zip(self._names, self._mean, strict=True):
            mean.copy_(state[name])
