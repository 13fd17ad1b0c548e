"""A trained GPT as one GGUF file, which llama.cpp and the programs built on it load as it is.

Format:  GGUF 3, written by llama.cpp's own package ``gguf``; architecture ``qwen3``, weights in float32.
Tokens:  byte-level BPE and bytes as llama.cpp's ``gpt2`` with the splits of ``qwen2``, which are ours; characters as
         its ``llama`` (SentencePiece) with byte fallback. llama.cpp then cuts texts into the same tokens as we do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from intaglio.core.registry import import_or_explain
from intaglio.models._facts import checked
from intaglio.models._qwen import QwenConfig
from intaglio.models._tokenizers import END, TextTokenizer
from intaglio.nn.checkpoint import load_tensors

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6  # gguf.TokenType
_NEVER = "\u2603 \u2603"  # a merge of what is no byte's stand-in: llama.cpp wants at least one


def write_gguf(folder: Path, to: Path, *, name: str = "gpt") -> Path:
    """Write the checkpoint in ``folder`` (Qwen3 layout, ours) as the file ``to``; the same weights give the same bytes.

    Errors: MissingExtra where the package gguf is missing; UserError for a config that is not as it was written.
    """
    gguf = import_or_explain("gguf", "model.gguf")
    config = checked(folder / "config.json", QwenConfig)
    tokenizer = TextTokenizer.load(folder)
    writer = gguf.GGUFWriter(to, "qwen3")
    _describe(writer, config, name)
    _add_tokens(writer, tokenizer)
    tensors, _ = load_tensors(folder / "model.safetensors")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    for key in sorted(tensors):
        target = names.get_name(key, try_suffixes=(".weight",))
        assert target is not None, f"llama.cpp has no name for {key}"
        writer.add_tensor(target, np.ascontiguousarray(tensors[key].float().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return to


def _describe(writer: Any, config: Mapping[str, Any], name: str) -> None:
    writer.add_name(name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(0)  # all float32


def _add_tokens(writer: Any, tokenizer: TextTokenizer) -> None:
    vocab = tokenizer.tokenizer.get_vocab()
    names = sorted(vocab, key=lambda name: vocab[name])
    if tokenizer.kind == "char":
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([0.0] * len(names))
        kinds = [_character_kind(index, name) for index, name in enumerate(names)]
        writer.add_add_space_prefix(False)
        writer.add_remove_extra_whitespaces(False)
    else:
        merges = json.loads(tokenizer.tokenizer.to_str())["model"]["merges"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges] or [_NEVER])
        kinds = [CONTROL if name == END else NORMAL for name in names]
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_pad_token_id):
        add(tokenizer.end)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def _character_kind(index: int, name: str) -> int:
    """SentencePiece writes a space as U+2581 and reads that as a space; what is user-defined it leaves as it is."""
    if index == TextTokenizer.end:
        return CONTROL
    if index <= 256:
        return BYTE
    return USER_DEFINED if name in (" ", "\u2581") else NORMAL
