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
        along = torch.linalg.vecdot(grad.to(x.dtype), x).unsqueeze_(-1)
        along.mul_(scale.pow(3)).div_(-x.shape[-1])
        return torch.addcmul(torch.mul(x, along), grad, scale), None, None


def normalize(x: Tensor, *, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension (RMSNorm without gain), written in ``dtype``."""
    return _Normalize.apply(x, eps, dtype)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


class _NormalizeRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTGH: Tensor, turn_TH: Tensor, gain: float, eps: float) -> Tensor:
        wide = _wide(x_BTGH)
        scale = _inverse_rms(wide, eps).mul_(gain)
        turned = _turn(wide, turn_TH)
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
        grad, y = grad_BGTH.transpose(1, 2), y_BGTH.transpose(1, 2)
        product = torch.mul(grad, y, out=torch.empty(y.shape, dtype=scale.dtype, device=y.device))
        along = product.sum(-1, keepdim=True).div_(-y.shape[-1] * ctx.gain**2)
        change = torch.addcmul(grad, y, along, out=product)
        out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
        return torch.mul(_turn(change, turn_TH.conj()), scale, out=out), None, None, None


def normalize_rotate(x_BTGH: Tensor, turn_TH: Tensor, *, gain: float, eps: float) -> Tensor:
    """QK-norm, then rotary positions on neighboring pairs: (B, T, G, H) to (B, G, T, H).

    turn_TH: unit complex numbers (T, H/2), one an angle. gain: one constant for all.
    """
    return _NormalizeRotate.apply(x_BTGH, turn_TH, gain, eps)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _turn(x_BTGH: Tensor, turn_TH: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x_BTGH.contiguous().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn_TH[:, None]).flatten(-2)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        out_gate, out_up = out.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=out_gate)
        torch.mul(F.silu(gate), grad, out=out_up)
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
        logits = (x @ weight_VD.mT).to(torch.promote_types(x.dtype, torch.float32))
        total = logits.logsumexp(-1, keepdim=True)
        chosen = logits.gather(-1, targets[:, None])
        loss = (total - chosen).mean()
        share = logits.sub_(total).exp_()
        share.scatter_add_(-1, targets[:, None], share.new_full((len(targets), 1), -1.0))
        ctx.save_for_backward(x, weight_VD, share.div_(len(targets)).to(x.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_VD, share = ctx.saved_tensors
        scale = grad.to(x.dtype)
        return (share @ weight_VD).mul_(scale), (share.mT @ x).mul_(scale), None


def vocabulary_loss(x: Tensor, weight_VD: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of ``targets`` (M) under logits ``x @ weight.T``; x (M, D) and weight of one dtype.

    The logits are never kept: their gradient is made in the forward pass, in place.
    """
    return _VocabularyLoss.apply(x, weight_VD, targets)
