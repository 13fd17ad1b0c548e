"""What one GPU reaches: a GPT's training arithmetic, and tokens a second of writing beside transformers' `generate`.

Usage: python bench/gpu.py [--device cuda] [--tokens 128] [--rounds 3] [--quick]
The work is that of `bench/gpt.py` (whole updates of the sizes small and base, as a share of what square bfloat16
products of side 8,192 reach in the same process) and of `bench/sampling.py` (17 M random weights, greedy, float32 and
bfloat16, the same export read by both sides, which take turns; the first run of each is left out).
Prints one JSON line and writes bench/results/gpu_<card>_<YYYYMM>.json; ends at once where there is no CUDA device.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import _common as common
import gpt
import sampling

BATCHES = (1, 32, 256)


def writing(folder: Path, device: str, tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens a second, by side and number of texts at once, and the ratio of both."""
    sides = {
        f"{side.__name__}-{dtype}": side(folder, dtype, device)
        for dtype in ("float32", "bfloat16")
        for side in (sampling.ours, sampling.transformers)
    }
    rates: dict[str, dict[str, list[float]]] = {name: {str(batch): [] for batch in BATCHES} for name in sides}
    first: dict[str, list[int]] = {}
    for batch in BATCHES:
        for run in sides.values():
            run(batch, 8)
        for _ in range(rounds):
            for name, run in sides.items():
                start = time.perf_counter()
                made = run(batch, tokens)
                rates[name][str(batch)].append(batch * tokens / (time.perf_counter() - start))
                first.setdefault(name, made)
    ratio = {
        dtype: {
            batch: common.spread([a / b for a, b in zip(found, rates[f"transformers-{dtype}"][batch], strict=True)], 2)
            for batch, found in rates[f"ours-{dtype}"].items()
        }
        for dtype in ("float32", "bfloat16")
    }
    return {
        "tok/s": {name: {batch: common.spread(v, 1) for batch, v in rows.items()} for name, rows in rates.items()},
        "ratio": ratio,
        "greedy_equal_float32": first["ours-float32"] == first["transformers-float32"],
    }


def training(device: str, rounds: int) -> dict[str, Any]:
    from intaglio.models.gpt import Config, decide

    found = {}
    for name, vocabulary in (("small", 4_096), ("base", 8_192)):
        run = decide(Config(data=("text",), size=name), vocab=vocabulary, tokens=4_000_000, documents=1_000)
        found[name] = gpt.share_of_rate(run, rounds, device)
    return found


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Lines of the table in ``bench/README.md``."""
    return [
        common.row(
            f"GPT writing, 17 M weights, {dtype}, {batch} at once: tokens a second",
            "transformers generate, cached",
            got,
            3.0,
        )
        for dtype, found in result["writing"]["ratio"].items()
        for batch, got in found.items()
    ]


def main() -> None:
    parser = common.parser(__doc__, device="cuda", tokens=128, rounds=3)
    options = parser.parse_args()
    sys.path.insert(0, str(common.ROOT / "src"))
    import torch

    from intaglio.nn.device import machine

    if not torch.cuda.is_available():
        print("no CUDA device here: nothing to measure", file=sys.stderr)
        return
    if options.quick:
        options.rounds, options.tokens = 1, 32
    card = torch.cuda.get_device_name(options.device)
    options.machine = card.replace(" ", "-")
    with machine(device=options.device, threads=options.threads), tempfile.TemporaryDirectory() as folder:
        sampling.export(Path(folder))
        result = common.surroundings(options, ("tokens", "rounds")) | {
            "device": card,
            "share_of_bf16_rate": training(options.device, options.rounds),
            "writing": writing(Path(folder), options.device, options.tokens, options.rounds),
        }
    common.keep(result, options, rows=rows_of(result))


if __name__ == "__main__":
    main()
