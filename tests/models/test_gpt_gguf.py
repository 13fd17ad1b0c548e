"""GGUF export: read back by llama.cpp's own package, and by llama.cpp itself with equal tokens and greedy text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intaglio.core.contracts import Sampling
from intaglio.models import gpt
from intaglio.nn.checkpoint import load_tensors
from tests.models.test_gpt import fit, poems

KINDS = ("char", "byte", "bpe")
TEXTS = (
    "the old wind\nwalks 春",
    "",
    "KING",
    " two  spaces\n\n é😀 ▁x <|end|> <0x41> it's I'LL 123\t\r\n",
)
PYTHON = os.environ.get("INTAGLIO_TEST_LLAMA", sys.executable)  # a Python that has llama-cpp-python, which is compiled
LLAMA = """
import json, sys
from llama_cpp import Llama
path, tokens = sys.argv[1], int(sys.argv[2])
engine = Llama(path, n_ctx=0, n_threads=1, verbose=False, seed=0)
for text in json.load(sys.stdin):
    ids = engine.tokenize(text.encode(), add_bos=True, special=False)
    engine.reset()
    made = []
    for token in engine.generate(ids, temp=0.0, top_k=1, top_p=1.0, min_p=0.0, repeat_penalty=1.0):
        if token == engine.token_eos() or len(made) >= tokens:
            break
        made.append(token)
    print("RESULT" + json.dumps([ids, made, engine.detokenize(made).decode("utf-8", "replace")]))
"""


def export(tmp_path: Path, kind: str, *, steps: int, context: int) -> tuple[Any, Path]:
    items = [replace(item, text="\n\n".join([item.text] * 12)) for item in poems(40)]  # long, so that they go on
    writer, _, ctx = fit(tmp_path, items, steps=steps, context=context, tokenizer=kind)
    gpt.Component(gpt.Config(data=("x",))).export(ctx.out, tmp_path / "exported")
    return writer, tmp_path / "exported"


@pytest.mark.parametrize("kind", KINDS)
def test_gguf_holds_the_weights_and_the_tokens(tmp_path: Path, kind: str) -> None:
    from gguf import GGUFReader

    writer, folder = export(tmp_path, kind, steps=2, context=16)
    reader = GGUFReader(folder / "model.gguf")
    shape = writer.model.shape
    facts = {name: field.contents() for name, field in reader.fields.items()}
    assert facts["general.architecture"] == "qwen3" and facts["qwen3.block_count"] == shape.layers
    assert facts["qwen3.context_length"] == shape.context and facts["qwen3.rope.freq_base"] == shape.rope_theta
    assert facts["qwen3.attention.head_count_kv"] == shape.kv_heads
    assert facts["tokenizer.ggml.bos_token_id"] == facts["tokenizer.ggml.eos_token_id"] == writer.tokenizer.end
    assert facts["tokenizer.ggml.model"] == ("llama" if kind == "char" else "gpt2")
    assert len(facts["tokenizer.ggml.tokens"]) == writer.tokenizer.size == shape.vocab
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    ours, _ = load_tensors(folder / "model.safetensors")
    assert len(tensors) == len(ours)
    assert np.array_equal(tensors["token_embd.weight"], ours["model.embed_tokens.weight"].numpy())
    assert np.array_equal(tensors["blk.1.attn_q.weight"], ours["model.layers.1.self_attn.q_proj.weight"].numpy())
    assert np.array_equal(tensors["blk.1.attn_k_norm.weight"], ours["model.layers.1.self_attn.k_norm.weight"].numpy())
    again = gpt.Component(gpt.Config(data=("x",))).export(tmp_path / "out", tmp_path / "again" / "exported")
    assert again[-1].read_bytes() == (folder / "model.gguf").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_reads_the_same_tokens_and_writes_the_same_text(tmp_path: Path, kind: str) -> None:
    if subprocess.run([PYTHON, "-c", "import llama_cpp"], capture_output=True).returncode:
        pytest.skip("llama-cpp-python is not installed; INTAGLIO_TEST_LLAMA names a Python that has it")
    writer, folder = export(tmp_path, kind, steps=60, context=320)
    tokens = 210  # prompt and text lie within the context: past it, programs go on in their own ways
    command = [PYTHON, "-c", LLAMA, str(folder / "model.gguf"), str(tokens)]
    ran = subprocess.run(command, input=json.dumps(TEXTS), capture_output=True, text=True, check=True)
    theirs = [json.loads(line[6:]) for line in ran.stdout.splitlines() if line.startswith("RESULT")]
    sampling = Sampling(max_tokens=tokens, temperature=0)
    ours = writer.complete(TEXTS, seeds=[0] * len(TEXTS), sampling=sampling)
    assert sum(made.tokens for made in ours) >= 200
    for text, made, (ids, drawn, written) in zip(TEXTS, ours, theirs, strict=True):
        assert ids == [0, *writer.tokenizer.encode(text)]
        assert len(drawn) == made.tokens and written.startswith(made.text)
