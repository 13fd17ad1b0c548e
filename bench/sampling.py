"""Tokens a second of writing, batch 1 and 32, against transformers' `generate` and llama.cpp, on the same weights.

Usage: python bench/sampling.py [--tokens 128] [--rounds 3] [--quick] [--resume FILE] [--llama-python PYTHON]
The weights are random: 17 M parameters in Qwen3's layout (8 layers of width 384, 6 heads, 8,192 tokens, context 512),
exported once by `models/gpt`'s own code; every side loads that export in float32 (llama.cpp: its GGUF) and also in
the 16-bit format it is fastest with. Ours is the writer of a process that has written much: it goes through the
compiled calls of `nn/jit.py`, which a `Writer` takes after some thousand tokens. Each process writes greedily after
one token, never stopping, with a key-value cache; the first run of a process is left out; sides take turns, the load
of weights is not counted. Threads: all cores, for every side. llama.cpp comes as llama-cpp-python in an environment of
its own in the user's cache folder (compiled on first use, some ten minutes). Greedy tokens of the float32 sides are
compared too.
Prints one JSON line and writes bench/results/sampling_<machine>_<YYYYMM>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _common as common

LLAMA = "llama-cpp-python==0.3.36"
BATCHES = (1, 32)
SIDES = ("ours", "ours-16", "transformers", "transformers-16", "llama.cpp", "llama.cpp-16")
FIRST = 5  # the token all start from
PEERS = {"transformers": ("transformers generate, cached", 3.0), "llama.cpp": ("llama.cpp", 1.0)}  # at least so often


def llama_python() -> str:
    """The interpreter of an environment that holds llama-cpp-python, compiled on first use where no wheel is found."""
    return common.peer_python(LLAMA, ("--find-links", str(common.cache() / "wheels"), LLAMA))


def export(folder: Path) -> None:
    """Random weights of a real size, as `intaglio export` lays them out: safetensors, tokenizer and model.gguf."""
    sys.path.insert(0, str(common.ROOT / "src"))
    import torch

    from intaglio.models._gguf import write_gguf
    from intaglio.models._tokenizers import character_tokenizer
    from intaglio.nn.checkpoint import save_tensors
    from intaglio.nn.transformer import Shape, Transformer, to_qwen3

    shape = Shape(vocab=8192, layers=8, width=384, heads=6, kv_heads=6, hidden=1024, context=512)
    model = Transformer(shape, seed=1)
    gen = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for block in model.blocks:
            for matrix in (block.out, block.down):
                matrix.weight.normal_(0.0, 0.05, generator=gen)
    config, tensors = to_qwen3(model)
    save_tensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config))
    few = character_tokenizer(Counter(dict.fromkeys("ab", 1))).size - 2  # as many tokens as the weights have rows
    letters = Counter({chr(0x4E00 + number): 1 for number in range(shape.vocab - few)})
    character_tokenizer(letters).save(folder, context=shape.context)
    write_gguf(folder, folder / "model.gguf", name="bench")


# ----------------------------------------------------------------------------------------------- one process, one side
def ours(folder: Path, dtype: str, device: str = "cpu") -> Callable[[int, int], list[int]]:
    import torch

    from intaglio.core.contracts import Sampling
    from intaglio.nn.checkpoint import load_tensors
    from intaglio.nn.decoder import Decoder, Weights
    from intaglio.nn.sampling import Line, write
    from intaglio.nn.transformer import from_qwen3

    config = json.loads((folder / "config.json").read_text())
    model = from_qwen3(config, load_tensors(folder / "model.safetensors")[0]).to(device)
    decoder = Decoder(Weights(model, dtype=getattr(torch, dtype), alone=True, together=True))

    def run(batch: int, tokens: int) -> list[int]:
        lines = [Line([FIRST], seed=row, accept=lambda token: "") for row in range(batch)]
        write(decoder, lines, Sampling(max_tokens=tokens, temperature=0.0), end=-1)
        return lines[0].drawn

    return run


def transformers(folder: Path, dtype: str, device: str = "cpu") -> Callable[[int, int], list[int]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.to(device).eval()
    model.generation_config.eos_token_id = None  # no text ends by itself

    def run(batch: int, tokens: int) -> list[int]:
        ids = torch.full((batch, 1), FIRST, device=device)
        with torch.inference_mode():
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=0,
            )
        return made[0, 1:].tolist()

    return run


def llama(folder: Path, name: str, threads: int) -> Callable[[int, int], list[int]]:
    """llama.cpp's own batched decoding, by its C interface."""
    import ctypes

    import llama_cpp as c
    import numpy as np

    c.llama_backend_init()
    quiet = c.llama_log_callback(lambda level, text, data: None)
    c.llama_log_set(quiet, ctypes.c_void_p())
    model = c.llama_model_load_from_file(str(folder / name).encode(), c.llama_model_default_params())
    vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))

    def run(batch: int, tokens: int) -> list[int]:
        settings = c.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_seq_max = batch * 512, max(512, batch), batch
        settings.n_threads = settings.n_threads_batch = threads
        context = c.llama_init_from_model(model, settings)
        some = c.llama_batch_init(batch, 0, 1)
        now, made = [FIRST] * batch, []
        for place in range(tokens):
            some.n_tokens = batch
            for row in range(batch):
                some.token[row], some.pos[row], some.n_seq_id[row] = now[row], place, 1
                some.seq_id[row][0], some.logits[row] = row, 1
            if c.llama_decode(context, some):
                raise SystemExit("llama.cpp could not decode")
            rows = [np.ctypeslib.as_array(c.llama_get_logits_ith(context, row), (vocab,)) for row in range(batch)]
            now = [int(row.argmax()) for row in rows]
            made.append(now[0])
        c.llama_batch_free(some)
        c.llama_free(context)
        return made

    run.keep = quiet  # type: ignore[attr-defined]  # else what llama.cpp calls is collected
    return run


def work(options: argparse.Namespace) -> None:
    side, batch, folder = options.side, options.batch, options.folder
    name, _, half = side.partition("-")
    if name == "llama.cpp":
        run = llama(folder, "model-f16.gguf" if half else "model.gguf", options.threads)
    else:
        sys.path.insert(0, str(common.ROOT / "src"))
        import torch

        torch.set_num_threads(options.threads)
        run = {"ours": ours, "transformers": transformers}[name](folder, "bfloat16" if half else "float32")
    run(batch, 8)
    start = time.perf_counter()
    made = run(batch, options.tokens)
    print(json.dumps({"rate": batch * options.tokens / (time.perf_counter() - start), "tokens": made}))


# ----------------------------------------------------------------------------------------------------------- comparing
def half_gguf(folder: Path, python: str) -> None:
    """llama.cpp's own conversion of the exported file to float16."""
    code = (
        "import sys, llama_cpp as c\np = c.llama_model_quantize_default_params()\n"
        "p.ftype = c.LLAMA_FTYPE_MOSTLY_F16\n"
        "raise SystemExit(c.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), p))"
    )
    files = [str(folder / "model.gguf"), str(folder / "model-f16.gguf")]
    subprocess.run([python, "-c", code, *files], check=True, capture_output=True)


def turn(side: str, batch: int, options: argparse.Namespace, python: str) -> dict[str, Any]:
    command = [python, str(Path(__file__).resolve()), "--side", side, "--batch", str(batch), "--folder"]
    command += [str(options.folder), "--tokens", str(options.tokens), "--threads", str(options.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(found.stdout.splitlines()[-1])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    other = options.llama_python or llama_python()
    half_gguf(options.folder, other)
    rates: dict[str, dict[str, list[float]]] = {side: {str(b): [] for b in BATCHES} for side in SIDES}
    greedy: dict[str, list[int]] = {}
    if options.resume and options.resume.exists():
        rates, greedy = json.loads(options.resume.read_text())
    for _ in range(len(rates["ours"]["1"]), options.rounds):
        for batch in BATCHES:
            for side in SIDES:
                found = turn(side, batch, options, other if side.startswith("llama") else sys.executable)
                rates[side][str(batch)].append(found["rate"])
                greedy.setdefault(side, found["tokens"])
        print(json.dumps({s: {b: round(v[-1]) for b, v in r.items()} for s, r in rates.items()}), file=sys.stderr)
        if options.resume:
            options.resume.write_text(json.dumps([rates, greedy]))
    middle = {s: {b: statistics.median(v) for b, v in r.items()} for s, r in rates.items()}
    best = {
        name: {b: max(middle[name][b], middle[f"{name}-16"][b]) for b in middle[name]}
        for name in ("ours", "transformers", "llama.cpp")
    }

    def ratios(peer: str, batch: str) -> list[float]:
        return [a / b for a, b in zip(rates["ours"][batch], rates[peer][batch], strict=True)]

    return {
        "tok/s": {side: {b: common.spread(v, 1) for b, v in rows.items()} for side, rows in rates.items()},
        "ratio_float32": {p: {b: common.spread(ratios(p, b), 2) for b in middle[p]} for p in PEERS},
        "ratio_best_of_both": {p: {b: round(best["ours"][b] / best[p][b], 2) for b in best[p]} for p in PEERS},
        "greedy_equal_float32": {p: greedy[p] == greedy["ours"] for p in PEERS},
    }


def main() -> None:
    parser = common.parser(__doc__, tokens=128, rounds=3, llama_python="")
    parser.add_argument("--resume", type=Path, default=None, help="keep rounds here and go on from those kept")
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    common.hidden(parser, "side", batch=1)
    options = parser.parse_args()
    if options.side:
        work(options)
        return
    if options.quick:
        options.rounds, options.tokens = 1, 32
    result = common.surroundings(options, ("tokens", "rounds"), llama=LLAMA)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        export(options.folder)
        result |= compare(options)
    rows = []
    for peer, against in PEERS.items():
        for batch, got in result["ratio_float32"][peer].items():
            work_done = f"GPT writing, 17 M weights, float32, {batch} at once: tokens a second"
            rows.append(common.row(work_done, against[0], got, against[1]))
    common.keep(result, options, rows=rows)


if __name__ == "__main__":
    main()
