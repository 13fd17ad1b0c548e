"""A transformer's element-wise parts with backward passes written by hand, for a fraction of autograd's memory traffic.

On a CPU a small transformer spends more time between its matrix products than in them. Each function here reads and
writes its tensors as few times as torch allows without a compiler, and gives matrix products the precision they want.
Checked against autograd of the plain formulas in float64 (``tests/nn/test_functions.py``).
Shapes: B batch, T time, N query heads, K key and value heads, G = N + 2K, H head size, D width, F hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

MATERIALIZE_UP_TO = 512  # on a CPU, attention by plain products is faster up to this many tokens (and needs T*T memory)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        scale = _inverse_rms(x, eps)
        y = torch.mul(x, scale, out=x.new_empty(x.shape, dtype=dtype))
        ctx.save_for_backward(x, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, scale = ctx.saved_tensors
        wide = grad.to(x.dtype, copy=True)  # mixed precision would be made alike in each product anew
        along = torch.linalg.vecdot(wide, x).unsqueeze_(-1)
        along.mul_(scale.pow(3)).div_(-x.shape[-1])
        return wide.mul_(scale).addcmul_(x, along), None, None


def normalize(x: Tensor, *, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension (RMSNorm without gain), written in ``dtype``."""
    return _Normalize.apply(x, eps, dtype)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


class _NormalizeRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTGH: Tensor, turn_TH: Tensor, gain: float, eps: float) -> Tensor:
        wide = torch.empty(x_BTGH.shape, dtype=_wide(x_BTGH.dtype), device=x_BTGH.device).copy_(x_BTGH)
        scale = _inverse_rms(wide, eps).mul_(gain)
        turned = _turn_(wide, turn_TH)
        b, t, g, h = x_BTGH.shape
        y_BGTH = x_BTGH.new_empty(b, g, t, h)
        torch.mul(turned.transpose(1, 2), scale.transpose(1, 2), out=y_BGTH)
        ctx.save_for_backward(y_BGTH, scale, turn_TH)
        ctx.gain = gain
        return y_BGTH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BGTH: Tensor) -> tuple[Tensor, None, None, None]:
        y_BGTH, scale, turn_TH = ctx.saved_tensors
        b, g, t, h = y_BGTH.shape
        like = {"dtype": scale.dtype, "device": scale.device}
        grad = torch.empty(b, t, g, h, **like).copy_(grad_BGTH.transpose(1, 2))
        y = torch.empty(b, t, g, h, **like).copy_(y_BGTH.transpose(1, 2))
        along = torch.linalg.vecdot(grad, y).unsqueeze_(-1).div_(-h * ctx.gain**2)
        change = _turn_(grad.addcmul_(y, along), turn_TH.conj())
        out = torch.empty(change.shape, dtype=y_BGTH.dtype, device=y_BGTH.device)
        return torch.mul(change, scale, out=out), None, None, None


def normalize_rotate(x_BTGH: Tensor, turn_TH: Tensor, *, gain: float, eps: float) -> Tensor:
    """QK-norm, then rotary positions on neighboring pairs: (B, T, G, H) to (B, G, T, H).

    turn_TH: unit complex numbers (T, H/2), one an angle. gain: one constant for all.
    """
    return _NormalizeRotate.apply(x_BTGH, turn_TH, gain, eps)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _turn_(x_BTGH: Tensor, turn_TH: Tensor) -> Tensor:
    torch.view_as_complex(x_BTGH.unflatten(-1, (-1, 2))).mul_(turn_TH[:, None])
    return x_BTGH


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        active = F.silu(gate)
        ctx.save_for_backward(gate_up, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        gate_up, active = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        out_gate, out_up = out.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=out_gate)
        torch.mul(active, grad, out=out_up)
        return out


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(first half) * second half of the last dimension."""
    return _SwiGLU.apply(gate_up)


def attend(q_BNTH: Tensor, k_BKTH: Tensor, v_BKTH: Tensor) -> Tensor:
    """Causal attention, (B, N, T, H); N is a multiple of K. Scores are scaled by 1 / sqrt(H)."""
    length, (heads, groups) = q_BNTH.shape[2], (q_BNTH.shape[1], k_BKTH.shape[1])
    if q_BNTH.is_cuda or length > MATERIALIZE_UP_TO:
        return F.scaled_dot_product_attention(q_BNTH, k_BKTH, v_BKTH, is_causal=True, enable_gqa=heads != groups)
    if heads != groups:
        k_BKTH, v_BKTH = (x.repeat_interleave(heads // groups, dim=1) for x in (k_BKTH, v_BKTH))
    q, k, v = (x.flatten(0, 1) for x in (q_BNTH, k_BKTH, v_BKTH))
    mask = torch.full((length, length), -torch.inf, dtype=q.dtype, device=q.device).triu_(1)
    scores = torch.baddbmm(mask, q, k.mT, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(-1), v).unflatten(0, q_BNTH.shape[:2])


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_VD: Tensor, targets: Tensor) -> Tensor:
        share = x.new_empty(len(x), len(weight_VD)) if any(ctx.needs_input_grad) else None
        nats = []
        for start, stop in _spans(len(x), len(weight_VD), x.is_cuda):
            target = targets[start:stop, None]
            chances = (x[start:stop] @ weight_VD.mT).to(_wide(x.dtype)).softmax(-1)
            chosen = chances.gather(-1, target)
            nats.append(chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log_().neg_())
            if share is not None:
                share[start:stop] = chances.scatter_(-1, target, chosen - 1.0)
        ctx.save_for_backward(x, weight_VD, share)
        return torch.cat(nats).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_VD, share = ctx.saved_tensors
        scale = grad / len(x)
        return (share @ weight_VD).mul_(scale), (share.mT @ x).mul_(scale), None


def vocabulary_loss(x: Tensor, weight_VD: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of ``targets`` (M) under logits ``x @ weight.T``; x (M, D) and weight of one dtype.

    The logits are made some rows at a time and never kept: what is kept is their gradient, in the precision of x. A
    target less likely than the smallest number counts as that likely (87 nats in float32).
    """
    return _VocabularyLoss.apply(x, weight_VD, targets)


def vocabulary_nats(x: Tensor, weight_VD: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy in nats of each of ``targets`` (M), float32; arguments of ``vocabulary_loss``, any range."""
    nats = []
    for start, stop in _spans(len(x), len(weight_VD), x.is_cuda):
        logits = (x[start:stop] @ weight_VD.mT).to(_wide(x.dtype))
        nats.append(F.cross_entropy(logits, targets[start:stop], reduction="none"))
    return torch.cat(nats)


def _spans(rows: int, columns: int, cuda: bool) -> list[tuple[int, int]]:
    """Rows cut into parts of so few numbers that a part stays in the cache (on a GPU: is no burden to its memory)."""
    part = max(64, (1 << 28 if cuda else 1 << 21) // columns)
    return [(start, min(rows, start + part)) for start in range(0, rows, part)]
