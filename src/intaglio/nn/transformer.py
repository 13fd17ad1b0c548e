"""A decoder-only transformer in the layout of Qwen3: RMSNorm, rotary positions, QK-norm, SwiGLU, tied embedding.

Papers:  Qwen3 technical report (2025), arXiv:2505.09388; Su et al. (2021), arXiv:2104.09864 (rotary positions);
         Henry et al. (2020), arXiv:2010.04245 (QK-norm); Shazeer (2020), arXiv:2002.05202 (SwiGLU); Zhang and Sennrich
         (2019), arXiv:1910.07467 (RMSNorm); Zheng, Li and Lucey (2024), arXiv:2404.01139 (heads that begin by looking
         at a neighbor, there of picture nets).
Shapes:  B batch, T time, D width, V vocabulary, N query heads, K key and value heads, H head size, F hidden of the MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intaglio.nn.functions import attend, normalize, normalize_rotate, swiglu, vocabulary_loss, vocabulary_nats

QK_GAIN = 1.3  # constant gain of the QK-norm on each side: scores reach QK_GAIN^2 * sqrt(H)
EMBEDDING_STD = 0.05
COMMON = 0.7  # of that: what all fresh embeddings have in common, by which heads look back
CHANCE = 0.3  # of the usual: what else fresh queries and keys are made of
TURNING = (0.4, 0.3, 0.2, 0.1)  # shares of the fastest pairs of a head in how it looks back


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Everything that decides a model's parameters."""

    vocab: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    context: int
    rope_theta: float = 10_000.0
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    def parameters(self) -> int:
        """Number of weights; the tied embedding counts once."""
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        block = attention + 3 * self.width * self.hidden
        return self.vocab * self.width + self.layers * block + self.width

    def flops_per_token(self, length: int | None = None) -> float:
        """Operations a token of one forward pass, at ``length`` tokens of context; training takes three times that."""
        attended = (self.context if length is None else length) / 2
        return 2.0 * self.parameters() + 4.0 * self.layers * attended * self.width

    def near(self) -> tuple[int, ...]:
        """How many tokens back each query head begins by looking: 0 (the one that is read) to 3 or 4, evenly."""
        return tuple((4 * head + self.heads // 2) // self.heads for head in range(self.heads))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream. Projections of one input lie in one matrix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        head = shape.head_dim
        self.qkv = nn.Linear(shape.width, (shape.heads + 2 * shape.kv_heads) * head, bias=False)
        self.out = nn.Linear(shape.heads * head, shape.width, bias=False)
        self.gate_up = nn.Linear(shape.width, 2 * shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x_BTD: Tensor, turn_TH: Tensor, dtype: torch.dtype) -> Tensor:
        shape = self.shape
        n, k, h = shape.heads, shape.kv_heads, shape.head_dim
        y = F.linear(normalize(x_BTD, eps=shape.eps, dtype=dtype), self.qkv.weight.to(dtype))
        qk_BTGH, v_BTKH = y.unflatten(-1, (n + 2 * k, h)).split([n + k, k], dim=2)
        qk_BGTH = normalize_rotate(qk_BTGH, turn_TH, gain=QK_GAIN, eps=shape.eps)
        q_BNTH, k_BKTH = qk_BGTH.split([n, k], dim=1)
        y_BNTH = attend(q_BNTH, k_BKTH, v_BTKH.transpose(1, 2))
        x_BTD = x_BTD + F.linear(y_BNTH.transpose(1, 2).flatten(2), self.out.weight.to(dtype))
        y = F.linear(normalize(x_BTD, eps=shape.eps, dtype=dtype), self.gate_up.weight.to(dtype))
        return x_BTD + F.linear(swiglu(y), self.down.weight.to(dtype))


class Transformer(nn.Module):
    """Token ids in, logits of the next token out; fresh weights come from ``seed`` and ``back`` alone.

    back: how many tokens back each query head begins by looking, in every block; left out, ``Shape.near``.
    Norms have no trained gain except the last: the matrix after each takes that part. Output projections start at zero,
    so that every block starts as the identity. Rotary positions turn neighboring pairs (2i, 2i+1); ``to_qwen3`` puts
    the rows in the order of the layout that turns (i, i + H/2).
    """

    turn_TH: Tensor

    blocks: Sequence[Block]

    def __init__(self, shape: Shape, *, seed: int = 0, back: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.width)
        self.blocks = cast("Sequence[Block]", nn.ModuleList(Block(shape) for _ in range(shape.layers)))
        self.gain = nn.Parameter(torch.ones(shape.width))
        self.register_buffer("turn_TH", rotation(shape, shape.context), persistent=False)
        self.reset(seed, shape.near() if back is None else back)

    @torch.no_grad()
    def reset(self, seed: int, back: Sequence[int]) -> None:
        """Fresh weights, a pure function of ``seed`` and ``back``."""
        gen = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            elif name.endswith(("out.weight", "down.weight")):
                parameter.zero_()
            else:
                std = EMBEDDING_STD if name == "embedding.weight" else parameter.shape[1] ** -0.5
                parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=gen))
        self._look(back, gen)

    def _look(self, back: Sequence[int], gen: torch.Generator) -> None:
        """Let each query head begin by looking so many tokens back, whatever these are.

        All embeddings get a part in common (the logits rise by the same for all tokens, so nothing else follows from
        it). Keys of all heads make one vector of it, queries the same one turned back: by rotary positions their
        product is greatest at that distance.
        """
        shape = self.shape
        common_D = torch.empty(shape.width).normal_(0.0, 1.0, generator=gen)
        self.embedding.weight += COMMON * EMBEDDING_STD * common_D
        share = torch.tensor(TURNING[: shape.head_dim // 2])
        length = torch.zeros(shape.head_dim // 2)
        length[: len(share)] = (share / share.sum() * shape.head_dim).sqrt()
        turn_NH = torch.polar(length, -torch.tensor([*back, *[0] * shape.kv_heads])[:, None] * turning(shape))
        qk_NH = torch.view_as_real(turn_NH).flatten(1)
        for block in self.blocks:
            qk = block.qkv.weight[: qk_NH.numel()]
            qk.mul_(CHANCE).add_(2.0 * torch.outer(qk_NH.flatten(), common_D / common_D.norm()) / shape.width**0.5)

    def features(self, ids_BT: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """What goes into the vocabulary matrix: (B, T, D) in ``dtype``, the precision of all matrix products."""
        turn_TH = self.turn_TH[: ids_BT.shape[1]]
        x_BTD = self.embedding(ids_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, turn_TH, dtype)
        return normalize(x_BTD, eps=self.shape.eps, dtype=dtype) * self.gain.to(dtype)

    def forward(self, ids_BT: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Logits (B, T, V) in float32 of ids (B, T), int64 in [0, V), T at most the context."""
        return F.linear(self.features(ids_BT, dtype=dtype), self.embedding.weight.to(dtype)).float()

    def loss(self, ids_BT: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Mean cross-entropy in nats of tokens 1..T-1, each given those before it."""
        x = self.features(ids_BT[:, :-1], dtype=dtype).flatten(0, 1)
        return vocabulary_loss(x, self.embedding.weight.to(dtype), ids_BT[:, 1:].flatten())

    def nats(self, ids_BT: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Negative log-likelihood in nats of each of tokens 1..T-1 given those before it: (B, T-1) float32."""
        x_BTD = self.features(ids_BT[:, :-1], dtype=dtype)
        nats = vocabulary_nats(x_BTD.flatten(0, 1), self.embedding.weight.to(dtype), ids_BT[:, 1:].flatten())
        return nats.view(x_BTD.shape[:2])


def rotation(shape: Shape, length: int) -> Tensor:
    """The turns of the rotary positions 0..length-1 as unit complex numbers: (T, H/2) complex64."""
    angle = torch.outer(torch.arange(length).float(), turning(shape))
    return torch.polar(torch.ones_like(angle), angle)


def turning(shape: Shape) -> Tensor:
    """By how much a pair of a head is turned a position, in radians: (H/2), falling from 1."""
    return 1.0 / shape.rope_theta ** (torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)


def from_qwen3(config: dict[str, Any], tensors: dict[str, Tensor]) -> Transformer:
    """The model that ``to_qwen3`` wrote. Errors: ValueError where config or tensors are not of this layout."""
    try:
        shape = Shape(
            vocab=config["vocab_size"],
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            hidden=config["intermediate_size"],
            context=config["max_position_embeddings"],
            rope_theta=config["rope_theta"],
            eps=config["rms_norm_eps"],
        )
        pairs = torch.arange(shape.head_dim).view(2, -1).T.flatten()  # (i, i + H/2) become (2i, 2i+1)
        layers = len({name.split(".")[2] for name in tensors if name.startswith("model.layers.")})
        _refuse_others(shape, layers=layers, embedding=tensors["model.embed_tokens.weight"])
        state = {"embedding.weight": tensors["model.embed_tokens.weight"], "gain": tensors["model.norm.weight"]}
        for index in range(shape.layers):
            part = {name: tensors[f"model.layers.{index}.{path}_proj.weight"] for name, path in _QWEN3_MATRICES.items()}
            q, k = (part[name].unflatten(0, (-1, shape.head_dim))[:, pairs].flatten(0, 1) for name in "qk")
            state |= {
                f"blocks.{index}.qkv.weight": torch.cat([q, k, part["v"]]),
                f"blocks.{index}.out.weight": part["out"],
                f"blocks.{index}.gate_up.weight": torch.cat([part["gate"], part["up"]]),
                f"blocks.{index}.down.weight": part["down"],
            }
        model = Transformer(shape)
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"not a checkpoint of this layout: {error}") from error
    return model.eval()


def _refuse_others(shape: Shape, *, layers: int, embedding: Tensor) -> None:
    """Errors: ValueError where config and weights are not of one model; told before the model takes memory."""
    if layers != shape.layers or embedding.shape != (shape.vocab, shape.width):
        said = f"{shape.layers} layers, {shape.vocab} tokens of width {shape.width}"
        raise ValueError(f"config.json says {said}; the weights are {layers} layers, {tuple(embedding.shape)}")


_QWEN3_MATRICES = {
    "q": "self_attn.q",
    "k": "self_attn.k",
    "v": "self_attn.v",
    "out": "self_attn.o",
    "gate": "mlp.gate",
    "up": "mlp.up",
    "down": "mlp.down",
}


def to_qwen3(model: Transformer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The model as the ``config.json`` and the tensors of a Qwen3 checkpoint, float32.

    Loaded by ``transformers.Qwen3ForCausalLM`` it gives the same logits; llama.cpp converts the same files.
    """
    shape, head = model.shape, model.shape.head_dim
    halves = torch.arange(head).view(-1, 2).T.flatten()  # pairs (2i, 2i+1) become (i, i + H/2)
    ones = torch.ones(shape.width)
    tensors = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.gain}
    constant = {"input_layernorm": ones, "post_attention_layernorm": ones}
    constant |= {f"self_attn.{side}_norm": torch.full((head,), QK_GAIN) for side in "qk"}
    for index, block in enumerate(model.blocks):
        rows = block.qkv.weight.unflatten(0, (-1, head))
        q, k, v = rows.split([shape.heads, shape.kv_heads, shape.kv_heads])
        gate, up = block.gate_up.weight.chunk(2)
        matrices = {"q": q[:, halves].flatten(0, 1), "k": k[:, halves].flatten(0, 1), "v": v.flatten(0, 1)}
        matrices |= {"out": block.out.weight, "gate": gate, "up": up, "down": block.down.weight}
        for name, value in constant.items():
            tensors[f"model.layers.{index}.{name}.weight"] = value
        for name, path in _QWEN3_MATRICES.items():
            tensors[f"model.layers.{index}.{path}_proj.weight"] = matrices[name]
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": shape.vocab,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": head,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.rope_theta,
        "attention_bias": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": "float32",
    }
    return config, {name: value.detach().float().contiguous() for name, value in tensors.items()}
