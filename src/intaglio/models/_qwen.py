"""What must stand beside the weights of a text model of ours, whose files are in the layout of Qwen3.

Written by ``nn.transformer.to_qwen3`` and ``_pretrain.save``; ``transformers`` reads the same files.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from intaglio.core.i18n import t
from intaglio.models._facts import Depth, Facts, Measured, Tokens, Width, equal

_Id = Annotated[int, Field(ge=0)]


class QwenConfig(Facts):
    """``config.json``: names and words are those of ``transformers``."""

    architectures: tuple[Literal["Qwen3ForCausalLM"]] = ("Qwen3ForCausalLM",)
    model_type: Literal["qwen3"] = "qwen3"
    vocab_size: Annotated[int, Field(ge=2, le=2**20)]
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Depth
    num_attention_heads: Width
    num_key_value_heads: Width
    head_dim: Width
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: Tokens
    rms_norm_eps: Annotated[float, Field(gt=0.0, le=1.0)]
    rope_theta: Annotated[float, Field(ge=1.0, le=1e9)]
    attention_bias: Literal[False] = False
    tie_word_embeddings: Literal[True] = True
    use_cache: bool = True
    torch_dtype: Literal["float32"] = "float32"
    bos_token_id: _Id = 0
    eos_token_id: _Id = 0
    pad_token_id: _Id = 0

    @model_validator(mode="after")
    def _of_one_network(self) -> Self:
        told = {"num_attention_heads * head_dim": self.num_attention_heads * self.head_dim}
        equal({"hidden_size": self.hidden_size}, told)
        if self.num_attention_heads % self.num_key_value_heads:
            heads: dict[str, Any] = {"heads": self.num_attention_heads, "shared": self.num_key_value_heads}
            raise ValueError(t("num_attention_heads is {heads}, no multiple of num_key_value_heads, {shared}", **heads))
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if (value := getattr(self, name)) >= self.vocab_size:
                raise ValueError(
                    t("{name} is {value}, beyond vocab_size, {size}", name=name, value=value, size=self.vocab_size)
                )
        return self


class Written(Measured):
    """``intaglio.json``: what its writer has to know besides."""

    component: str
    usual_tokens: Tokens
