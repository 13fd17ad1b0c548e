"""Muon for weight matrices and AdamW for everything else.

Papers:  Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks" (momentum, then the nearest
         orthogonal matrix by Newton-Schulz steps); Amsel et al. (2025), "The Polar Express", arXiv:2505.16932
         (the coefficients of each step); Loshchilov and Hutter (2019), arXiv:1711.05101 (AdamW).
Licence: ours, written from the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# Optimal odd polynomials of degree 5 for singular values in [1e-3, 1], Polar Express, one triple a step.
_COEFFICIENTS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)


def orthogonalize(x_BMN: Tensor, *, dtype: torch.dtype, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix of each of a batch, approximately: singular values end in about 0.9 to 1.1.

    Args:
        x_BMN: matrices (B, M, N), any scale. dtype: precision of the products; bfloat16 is enough.
        steps: Newton-Schulz steps, 1 to 5; fewer leave small singular values small.
    """
    x = x_BMN.mT if x_BMN.shape[-2] > x_BMN.shape[-1] else x_BMN
    norm = x.float().norm(dim=(-2, -1), keepdim=True)
    x = (x / (norm * 1.01 + 1e-7)).to(dtype)
    for a, b, c in _COEFFICIENTS[:steps]:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if x_BMN.shape[-2] > x_BMN.shape[-1] else x


class _Plain(Optimizer):
    """torch's Optimizer without its preparations for ``torch.compile``, which import the compiler: a second or more."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        _bare(Optimizer.add_param_group)(self, param_group)

    def state_dict(self) -> dict[str, Any]:
        return dict(_bare(Optimizer.state_dict)(self))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        _bare(Optimizer.load_state_dict)(self, state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        _bare(Optimizer.zero_grad)(self, set_to_none)


def _bare(method: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(method, "__wrapped__", method)  # what torch put around it turns the compiler off


class Muon(_Plain):
    """Momentum, then each update made orthogonal; for weight matrices inside a network (2 dimensions, or more: the
    rest is flattened into the second). Matrices of one shape are done as one batch.

    lr: size of the update, in units where 0.02 is usual; scaled by sqrt(max(1, rows / columns)).
    dtype: precision of the orthogonalization. rows: of a matrix wider than high, at most so many are made orthogonal to
    each other, if that cuts it evenly; the work falls with them, the size of the update stays. None: all of them.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
        steps: int = 4,
        rows: int | None = None,
    ) -> None:
        self._dtype, self._steps, self._rows = dtype, steps, rows
        self._recorded: dict[int, Any] = {}
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for parameters in by_shape.values():
                self._step_batch(parameters, group)

    def _step_batch(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        momenta = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            momenta.append(state["momentum"])
        update = self._update_of(id(parameters[0]), grads, momenta, group["momentum"])
        rows, columns = update.shape[-2:]
        scale = max(1.0, rows / columns) ** 0.5
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
        shaped = [value.view_as(p) for value, p in zip(update.to(parameters[0].dtype), parameters, strict=True)]
        torch._foreach_add_(parameters, shaped, alpha=-group["lr"] * scale)

    def _update(self, grads: list[Tensor], momenta: list[Tensor], momentum: float) -> Tensor:
        """The updates (B, M, N) of matrices of one shape, before the learning rate; moves the momenta on."""
        torch._foreach_lerp_(momenta, grads, 1.0 - momentum)
        nesterov = torch._foreach_lerp(grads, momenta, momentum)
        stacked = torch.stack([value.flatten(1) for value in nesterov])
        rows, columns = stacked.shape[-2:]
        cut = stacked.unflatten(1, (-1, rows_together(rows, columns, self._rows))).flatten(0, 1)
        return orthogonalize(cut, dtype=self._dtype, steps=self._steps).reshape(stacked.shape)

    def _update_of(self, key: int, grads: list[Tensor], momenta: list[Tensor], momentum: float) -> Tensor:
        """``_update``, on a GPU by one launch (``nn/graphs.py``). key: of these matrices, always the same ones."""
        if momenta[0].device.type != "cuda":
            return self._update(grads, momenta, momentum)
        from intaglio.nn.graphs import record

        read, known = [*map(id, momenta), momentum], self._recorded.get(key)
        if known is None or known[0] != read:
            copies = [torch.empty_like(grad) for grad in grads]
            graph, update = record(
                lambda: self._update(copies, momenta, momentum),
                device=momenta[0].device,
                warm_up=lambda: self._update(copies, [each.clone() for each in momenta], momentum),
            )
            known = self._recorded[key] = (read, momenta, copies, graph, update)
        _, _, copies, graph, update = known
        torch._foreach_copy_(copies, grads)
        graph.replay()
        return update


def rows_together(rows: int, columns: int, most: int | None) -> int:
    """How many rows of a matrix ``Muon`` makes orthogonal to each other, where its ``rows`` says ``most``."""
    if most is None or not most < rows <= columns or rows % most:
        return rows
    return most


class AdamW(_Plain):
    """torch's AdamW in its fused form, one pass over the weights: the same kernel, the same state, the same bits.

    Gradients must be dense and all of a group on one device, in one precision.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(list(params), {**defaults, "fused": True})  # says that steps are counted where the weights are

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            states = [self._state(parameter) for parameter in parameters]
            first, second, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            torch._foreach_add_(steps, 1)
            numbers = {"lr": group["lr"], "beta1": group["betas"][0], "beta2": group["betas"][1], "eps": group["eps"]}
            torch._fused_adamw_(
                parameters,
                [parameter.grad for parameter in parameters],
                first,
                second,
                [],
                steps,
                weight_decay=group["weight_decay"],
                amsgrad=False,
                maximize=False,
                **numbers,
            )

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def adamw(
    params: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.0
) -> Optimizer:
    """AdamW as it is used here."""
    return AdamW(params, lr=lr, betas=betas, eps=1e-8, weight_decay=weight_decay)


def muon_and_adamw(
    model: nn.Module,
    *,
    matrix_lr: float = 0.025,
    other_lr: float = 6e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> list[Optimizer]:
    """Muon over the weight matrices of ``model`` except those of ``nn.Embedding``, AdamW over the rest.

    momentum: of Muon. dtype: precision of its products. Tied weights are counted once and follow the embedding.
    """
    embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2 and id(p) not in embedded]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    made: list[Optimizer] = []
    if matrices:
        made.append(Muon(matrices, lr=matrix_lr, momentum=momentum, weight_decay=weight_decay, dtype=dtype))
    if others:
        made.append(adamw(others, lr=other_lr))
    return made
