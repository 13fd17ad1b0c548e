"""On a GPU: what is the same at every step, recorded once as a CUDA graph and replayed by one launch.

A small network's step is hundreds of kernels of some microseconds; a processor that launches them one by one takes ten
times as long as the GPU that runs them. CUDA C++ programming guide, "CUDA Graphs"; ``docs/LOG.md`` has the figures.
What is recorded reads and writes the same memory each time and decides nothing on the way. Numbers come out to the same
bits as without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from intaglio.nn import parallel

Result = TypeVar("Result")
WARM_UPS = 2  # runs before a recording: libraries set themselves up


def record(
    run: Callable[[], Result],
    *,
    device: torch.device,
    warm_up: Callable[[], object] | None = None,
    generator: torch.Generator | None = None,
    pool: Any = None,
) -> tuple[torch.cuda.CUDAGraph, Result]:
    """A graph of what ``run`` does on the device, and what it gives: tensors that each replay writes anew.

    warm_up:   runs before, in the place of ``run`` itself, where that leaves something changed.
    generator: of the random numbers that ``run`` draws; each replay goes on from where it then stands.
    pool:      of memory, shared with other graphs of which only one is in use at a time.
    """
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            (warm_up or run)()
        if generator is not None:
            graph.register_generator_state(generator)
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            result = run()
        finally:
            graph.capture_end()
    torch.cuda.current_stream(device).wait_stream(aside)
    return graph, result


class RecordedLoss:
    """``loss(*inputs)`` with its gradients by one launch; to be called, and its value differentiated, like ``loss``.

    loss:      a scalar of tensors of always the same shapes and of the parameters of ``model``.
    model:     on one GPU; its parameters and buffers are changed in place only.
    generator: of the random numbers in it.
    """

    def __init__(
        self, loss: Callable[..., Tensor], model: nn.Module, *, generator: torch.Generator | None = None
    ) -> None:
        self.loss, self.model, self.generator = loss, model, generator
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.value = torch.empty(0)
        self.gradients: list[Tensor | None] = []

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Inputs may lie anywhere. The backward pass of a value must come before the next call."""
        if self.graph is None:
            self._record(inputs)
        for kept, given in zip(self.inputs, inputs, strict=True):
            kept.copy_(given)
        value: Tensor = _Replayed.apply(self, *self.parameters)
        return value

    def _record(self, inputs: Sequence[Tensor]) -> None:
        device = self.parameters[0].device
        self.inputs = [each.to(device).clone() for each in inputs]
        seed = None if self.generator is None else self.generator.get_state()
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]

        def run() -> tuple[Tensor, list[Tensor | None]]:
            value = self.loss(*self.inputs)
            return value.detach(), list(torch.autograd.grad(value, self.parameters, allow_unused=True))

        self.graph, (self.value, self.gradients) = record(run, device=device, generator=self.generator)
        for buffer, before in buffers:  # as if the runs before the recording had not been
            buffer.copy_(before)
        if self.generator is not None and seed is not None:
            self.generator.set_state(seed)


def recorded_on_gpu(
    loss: Callable[..., Tensor], model: nn.Module, *, generator: torch.Generator | None = None
) -> Callable[..., Tensor]:
    """``loss``, as ``RecordedLoss`` where the model lies on a GPU and no other process shares its training."""
    on_gpu = next(model.parameters()).device.type == "cuda"
    return RecordedLoss(loss, model, generator=generator) if on_gpu and parallel.size() == 1 else loss


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recorded: RecordedLoss, *parameters: Tensor) -> Tensor:
        assert recorded.graph is not None
        recorded.graph.replay()
        ctx.recorded = recorded
        return recorded.value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        found = ctx.recorded.gradients
        scaled = iter(torch._foreach_mul([each for each in found if each is not None], grad))
        return None, *(None if each is None else next(scaled) for each in found)
