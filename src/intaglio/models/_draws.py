"""A trained generator that draws: pictures from seeds, of a label or a caption where it was told them, and walks.

Pictures are computed one at a time in float32, so that none depends on what is drawn beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from intaglio.core.contracts import Context, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import image as images
from intaglio.models import _adversary as game
from intaglio.models import _conditions
from intaglio.models._checkpoint import export, filled, read, reading
from intaglio.models._facts import equal
from intaglio.models._pictures import Form, PictureFacts
from intaglio.nn import gan
from intaglio.nn.device import machine
from intaglio.nn.order import derive


class _Facts(PictureFacts):
    shape: game.Shape
    conditions: _conditions.ConditionFacts
    truncation: Annotated[float, Field(gt=0.0, le=2.0)]

    @model_validator(mode="after")
    def _of_one_network(self) -> Self:
        self.same_form(self.shape.size_px, self.shape.channels)
        equal({"shape.conditions": self.shape.conditions}, {"conditions": self.conditions.dims})
        return self


def read_checkpoint(folder: Path, device: str) -> tuple[gan.Generator, dict[str, Any]]:
    """The generator and ``config.json``. Errors: UserError where the folder holds no gan checkpoint."""
    with reading(folder, "gan"):
        tensors, facts = read(folder, "gan", _Facts, device)
        model = filled(lambda: gan.Generator(**facts["shape"]), tensors)
    return model.to(device).eval(), facts


class Draws:
    """A ``contracts.PictureModel`` without an encoder: it can neither rebuild nor encode a given picture."""

    makes = "image"

    def __init__(self, model: gan.Generator, facts: Mapping[str, Any], *, threads: int) -> None:
        self.model, self.facts, self.threads = model, facts, threads
        self.device = str(model.mean_CHW.device)
        self.form = Form(**facts["form"])
        self.conditions = _conditions.restored(facts["conditions"])
        self.factor = max(1, int(facts["publish_px"]) // self.form.size_px)

    def code(self, seed: int, *, truncation: float | None = None) -> Tensor:
        """The noise (Z,) that ``seed`` stands for, times the truncation."""
        spread = float(self.facts["truncation"]) if truncation is None else truncation
        return game.noise(1, int(self.facts["shape"]["latents"]), seed, "draw")[0] * spread

    def sample(
        self,
        seeds: Sequence[int],
        ctx: Context,
        *,
        labels: Sequence[str] = (),
        texts: Sequence[str] = (),
        truncation: float | None = None,
    ) -> Iterator[Item]:
        """One print a seed: PNG, its side ``size_px`` times a whole number.

        labels, texts: what each is to be of, one a seed, from a model that was told such; left out, each seed stands
        for one, as often as it came in training.
        Errors: UserError where the model was never told any, or never this label.
        """
        asked = self._asked(seeds, labels, texts)
        for seed, name in zip(seeds, asked, strict=True):
            facts: dict[str, Any] = {"seed": seed}
            if truncation is not None:
                facts["truncation"] = truncation
            yield self._item(self.code(seed, truncation=truncation), name, f"print-{seed}.png", facts, ctx)

    def interpolate(self, first: int, last: int, count: int, ctx: Context, *, name: str = "") -> Iterator[Item]:
        """``count`` pictures on the way from one seed's picture to another's, ends included, of one label or caption.

        The way is along a great circle: halfway along a straight line the noise would be too small.
        """
        if count < 2:
            raise ValueError(f"count must be at least 2. Received: count={count}")
        if self.conditions.kind != "none":
            name = name or self.conditions.drawn(first)
        start_Z, end_Z = self.code(first), self.code(last)
        for number in range(count):
            share = number / (count - 1)
            facts = {"between": [first, last], "share": round(share, 6)}
            yield self._item(_between(start_Z, end_Z, share), name, f"between-{number}.png", facts, ctx)

    def contact_sheet(self, seeds: Sequence[int]) -> bytes:
        """PNG of the prints of these seeds side by side, not enlarged."""
        tiles = [
            picture(self._decode(self.code(seed), name))
            for seed, name in zip(seeds, self._asked(seeds, (), ()), strict=True)
        ]
        return images.dump(images.grid(tiles, columns=16 if self.form.size_px < 48 else 8))

    def _asked(self, seeds: Sequence[int], labels: Sequence[str], texts: Sequence[str]) -> list[str]:
        given, kind = list(labels or texts), self.conditions.kind
        if given and kind != ("label" if labels else "text"):
            what = t("this model was trained with condition = '{kind}': it cannot be asked for that", kind=kind)
            raise UserError(what, fix=t("set condition in its [models] section, and run again"))
        if given and len(given) != len(seeds):
            raise ValueError(f"one label or text a seed. Received: {len(given)} for {len(seeds)} seeds")
        if given or kind == "none":
            return [str(each) for each in given] or [""] * len(seeds)
        return [self.conditions.drawn(derive(seed, "name")) for seed in seeds]

    def _item(self, code_Z: Tensor, name: str, file_name: str, facts: Mapping[str, Any], ctx: Context) -> Item:
        drawn = picture(self._decode(code_Z, name))
        side = drawn.width * self.factor
        if self.factor > 1:
            drawn = drawn.resize((side, side), Image.Resampling.LANCZOS)
        file = ctx.put(images.dump(drawn), name=file_name, mime="image/png")
        meta: dict[str, Any] = {"width_px": side, "height_px": side, "native_px": self.form.size_px}
        meta |= {"truncation": self.facts["truncation"], **facts}
        if self.conditions.kind != "none":
            meta[{"label": "label", "text": "caption"}[self.conditions.kind]] = name
        return Item(media="image", files=(file,), meta=meta)

    def _decode(self, code_Z: Tensor, name: str) -> Tensor:
        told = None if self.conditions.kind == "none" else self.conditions.rows([name])
        with machine(device=self.device, threads=self.threads):
            return game.drawn(self.model, code_Z[None], told)[0]


def _between(start_Z: Tensor, end_Z: Tensor, share: float) -> Tensor:
    cosine = float(torch.nn.functional.cosine_similarity(start_Z, end_Z, dim=0).clamp(-1, 1))
    angle = math.acos(cosine)
    if angle < 1e-4:
        return torch.lerp(start_Z, end_Z, share)
    way = (math.sin((1 - share) * angle), math.sin(share * angle))
    return (way[0] * start_Z + way[1] * end_Z) / math.sin(angle)


def picture(x_CHW: Tensor) -> Image.Image:
    """A uint8 picture for people to look at."""
    return images.from_array(x_CHW.permute(1, 2, 0).numpy())


README = """# A generator made by Intaglio

`model.safetensors` holds all tensors in float32; `config.json` says the shape.

- Input: noise (B, {latents}) from a standard normal, times `truncation`. Where `conditions.kind` is `label`, one-hot
  rows in the order of `conditions.names` go through `embed` without a bias, each scaled to mean square 0.04, and stand
  after the noise; where it is `text`, rows of signed counts of hashed n-grams of the caption
  do (`models/_conditions.py`).
- `into`: to the coarsest map. `blocks`: residual blocks x + conv(f(conv(f(x)))) with f the leaky rectifier of slope
  0.2, a list a level. `finer`: a convolution to four times the channels and a pixel shuffle, between levels.
- `shown`: what each level adds to the picture of the one before, enlarged twice by bilinear steps; `out`: what the last
  adds at full size, by a convolution and a pixel shuffle.
- The picture is `mean_CHW` + `spread` * the sum, cut to [-1, 1]: -1 is black, 1 is white.

The layers are those of `Generator` in `intaglio/nn/gan.py`. No other library has this network. The critic it was
trained with is not kept. The weights inherit the licence of the pictures they learned from.
"""


def export_folder(folder: Path, to: Path) -> list[Path]:
    """Copy the checkpoint with a page that says how to read it; returns the files."""
    _, facts = read_checkpoint(folder, "cpu")
    return export(folder, to, facts, page=README.format(latents=facts["shape"]["latents"]))
