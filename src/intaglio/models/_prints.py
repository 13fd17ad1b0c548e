"""A trained autoencoder that draws: prints from seeds, reconstructions, codes, and walks between pictures.

Prints are computed one at a time in float32, so that none depends on what is drawn beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from intaglio.core.contracts import Context, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable
from intaglio.media import image as images
from intaglio.models import _autoencoder as ae
from intaglio.models import _density
from intaglio.models._checkpoint import export, filled, read, reading, write
from intaglio.models._density import Density
from intaglio.models._facts import Spread, equal, one_of
from intaglio.models._feed import floats
from intaglio.models._pictures import Form, PictureFacts, decoded
from intaglio.nn.device import machine

AT_ONCE = 128  # pictures


class _Facts(PictureFacts):
    shape: ae.Shape
    temperature: Spread
    prior: Annotated[str, one_of("mixture", "normal")]
    flip: bool = False
    beta: Annotated[float, Field(ge=0.0, le=1_000.0)] = 1.0
    free_bits: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        self.same_form(self.shape.size_px, self.shape.channels)
        return self


def read_checkpoint(folder: Path, device: str) -> tuple[ae.Autoencoder, Density, dict[str, Any]]:
    """Network, density of codes, and ``config.json``. Errors: UserError where the folder holds no vae checkpoint."""
    with reading(folder, "vae"):
        tensors, facts = read(folder, "vae", _Facts, device)
        own = {name: value for name, value in tensors.items() if not name.startswith("prior.")}
        model = filled(lambda: ae.Autoencoder(ae.Shape(**facts["shape"])), own)
        prior = _density.of({name: value.cpu() for name, value in tensors.items() if name.startswith("prior.")})
    return model.to(device).eval(), prior, facts


def codes_of(
    folder: Path, facts: Mapping[str, Any], dims: Sequence[int], *, device: str, threads: int
) -> Prints | None:
    """The vae below ``codes/`` over whose maps a checkpoint learned; None where its facts name none.

    dims: channels, height and width of what it makes. Errors: UserError; ValueError where the vae makes others.
    """
    if not facts["codes"]:
        return None
    codes = Prints(*read_checkpoint(folder / "codes", device), threads=threads)
    theirs = {"form of codes/": codes.form, "shape of codes/": tuple(codes.map_shape)}
    equal({"form": Form(**facts["form"]), "shape": tuple(dims)}, theirs)
    return codes


def write_checkpoint(folder: Path, model: ae.Autoencoder, prior: Density, facts: Mapping[str, Any]) -> None:
    """What ``read_checkpoint`` reads."""
    write(folder, {**model.state_dict(), **prior.tensors()}, facts)


class Prints:
    """A ``contracts.PictureModel``; besides: ``interpolate``, ``direction`` and ``moved`` for walks among the codes."""

    makes = "image"

    def __init__(self, model: ae.Autoencoder, prior: Density, facts: Mapping[str, Any], *, threads: int) -> None:
        self.model, self.prior, self.facts, self.threads = model, prior, facts, threads
        self.device = str(model.variance.device)
        self.form = Form(**facts["form"])
        self.factor = max(1, int(facts["publish_px"]) // self.form.size_px)

    def code(self, seed: int) -> Tensor:
        """The code (Z,) that ``seed`` stands for."""
        generator = torch.Generator().manual_seed(seed)
        return self.prior.draw(generator, temperature=float(self.facts["temperature"]))

    def sample(self, seeds: Sequence[int], ctx: Context) -> Iterator[Item]:
        """One print a seed: PNG, its side ``size_px`` times a whole number."""
        for seed in seeds:
            yield self._item(self.code(seed), f"print-{seed}.png", {"seed": seed}, ctx)

    def reconstruct(self, items: Iterable[Item], ctx: Context) -> Iterator[tuple[Item, bytes, float]]:
        """Item, reconstruction as PNG at ``size_px``, and mean squared error in [0, 1] units at that size.

        Errors: UserError for an item that is no readable picture.
        """
        for item, x_1CHW, mean_Z in self._encoded(items, ctx):
            rebuilt = self._decode(mean_Z)
            with machine(device=self.device, threads=self.threads):
                error = float((rebuilt - x_1CHW[0]).square().mean())
            yield item, images.dump(_picture(rebuilt)), error

    def encode(self, items: Iterable[Item], ctx: Context) -> Iterator[Sequence[float]]:
        """The posterior mean of each picture, ``latents`` numbers; small distances mean alike pictures."""
        for _, _, mean_Z in self._encoded(items, ctx):
            yield mean_Z.tolist()

    def interpolate(self, first: Item, last: Item, count: int, ctx: Context) -> Iterator[Item]:
        """``count`` pictures on the way from one picture to another, ends included (their reconstructions)."""
        if count < 2:
            raise ValueError(f"count must be at least 2. Received: count={count}")
        (_, _, start_Z), (_, _, end_Z) = self._encoded([first, last], ctx)
        for number in range(count):
            share = number / (count - 1)
            facts = {"between": [first.id, last.id], "share": round(share, 6)}
            yield self._item(torch.lerp(start_Z, end_Z, share), f"between-{number}.png", facts, ctx)

    def direction(self, having: Iterable[Item], lacking: Iterable[Item], ctx: Context) -> list[float]:
        """The way in code space from pictures that lack something to pictures that have it: the mean difference.

        Errors: UserError where one of the two is empty.
        """
        sides = [[mean_Z for _, _, mean_Z in self._encoded(items, ctx)] for items in (having, lacking)]
        if not all(sides):
            raise UserError(t("a direction needs pictures on both sides"))
        return (torch.stack(sides[0]).mean(0) - torch.stack(sides[1]).mean(0)).tolist()

    def moved(self, item: Item, direction: Sequence[float], amounts: Sequence[float], ctx: Context) -> Iterator[Item]:
        """The picture moved along a direction by each amount; 1 is the whole mean difference."""
        ((_, _, mean_Z),) = self._encoded([item], ctx)
        for amount in amounts:
            code_Z = mean_Z + amount * torch.tensor(list(direction))
            yield self._item(code_Z, f"moved-{amount:g}.png", {"moved": item.id, "amount": amount}, ctx)

    def contact_sheet(self, seeds: Sequence[int], *, columns: int = 8) -> bytes:
        """PNG of the prints of these seeds side by side, not enlarged."""
        return images.dump(images.grid([_picture(self._decode(self.code(seed))) for seed in seeds], columns=columns))

    # ------------------------------------------------------------------------------------- for models over the codes
    @property
    def map_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a map of codes; (latents, 1, 1) where a picture becomes a vector."""
        return self.model.shape.code

    @torch.no_grad()
    def encode_maps(self, pixels_NCHW: np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Posterior means of pictures in ``form`` (uint8), standardized: (N, *map_shape), float32 on the CPU.

        Each channel has mean 0 and variance 1 over the training pictures.
        """
        mean_C11, spread_C11 = self._standard()
        found = []
        with machine(device=self.device, threads=self.threads) as device:
            for start in range(0, len(pixels_NCHW), AT_ONCE):
                x_BCHW = floats(pixels_NCHW[start : start + AT_ONCE], device)
                codes = self.model.encode(x_BCHW)[0].view(-1, *self.map_shape)
                found.append(((codes - mean_C11) / spread_C11).cpu())
        return torch.cat(found) if found else torch.empty(0, *self.map_shape)

    @torch.no_grad()
    def decode_maps(self, maps_NCHW: Tensor) -> Tensor:
        """Pictures of standardized maps, (N, C, H, W), uint8 on the CPU."""
        mean_C11, spread_C11 = self._standard()
        found = []
        with machine(device=self.device, threads=self.threads) as device:
            for part in maps_NCHW.split(AT_ONCE):
                codes = part.to(device).float() * spread_C11 + mean_C11
                found.append(self.model.picture(codes.flatten(1)).mul(255).round().byte().cpu())
        return torch.cat(found) if found else torch.empty(0, *self.model.shape.pixels, dtype=torch.uint8)

    def _standard(self) -> tuple[Tensor, Tensor]:
        return self.model.code_mean[:, None, None], self.model.code_spread[:, None, None]

    def save(self, folder: Path) -> None:
        """Write a copy of the checkpoint, which ``read_checkpoint`` reads back."""
        write_checkpoint(folder, self.model, self.prior, self.facts)

    def _item(self, code_Z: Tensor, name: str, facts: Mapping[str, Any], ctx: Context) -> Item:
        picture = _picture(self._decode(code_Z))
        side = picture.width * self.factor
        if self.factor > 1:
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
        file = ctx.put(images.dump(picture), name=name, mime="image/png")
        meta = {"width_px": side, "height_px": side, "native_px": self.form.size_px, "prior": self.facts["prior"]}
        return Item(media="image", files=(file,), meta={**meta, "temperature": self.facts["temperature"], **facts})

    @torch.no_grad()
    def _decode(self, code_Z: Tensor) -> Tensor:
        with machine(device=self.device, threads=self.threads):
            return self.model.picture(code_Z[None].to(self.device))[0].cpu()

    def _encoded(self, items: Iterable[Item], ctx: Context) -> Iterator[tuple[Item, Tensor, Tensor]]:
        for item, pixels_HWC in decoded(items, self.form, ctx):
            if isinstance(pixels_HWC, Unreadable):
                raise UserError(
                    t("this is no picture that can be read: {reason}", reason=pixels_HWC), where=item.origin
                )
            with machine(device=self.device, threads=self.threads) as device, torch.no_grad():
                x_1CHW = floats(pixels_HWC.transpose(2, 0, 1)[None], device)
                mean_Z = self.model.encode(x_1CHW)[0][0].cpu()
            yield item, x_1CHW.cpu(), mean_Z


def _picture(x_CHW: Tensor) -> Image.Image:
    return images.from_array(x_CHW.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy())


@torch.no_grad()
def sheet(model: ae.Autoencoder, pixels: np.ndarray[Any, Any], prior: Density | None, *, seed: int) -> bytes:
    """PNG: rows of eight originals, each above the row of their reconstructions; then draws from ``prior`` if given."""
    device = model.variance.device
    tiles: list[Image.Image] = []
    white = Image.new("RGB", (model.shape.size_px,) * 2, (255, 255, 255))
    for start in range(0, len(pixels), 8):
        x = floats(pixels[start : start + 8], device)
        for row in (x, model.picture(model.encode(x)[0])):
            tiles += [_picture(each) for each in row.cpu()] + [white] * (8 - len(row))
    if prior is not None:
        generator = torch.Generator().manual_seed(seed)
        codes = torch.stack([prior.draw(generator, temperature=0.9) for _ in range(16)])
        tiles += [white] * 8 + [_picture(each) for each in model.picture(codes.to(device)).cpu()]
    return images.dump(images.grid(tiles, columns=8))


README = """# A variational autoencoder made by Intaglio

`model.safetensors` holds all tensors in float32; `config.json` says the shape.

- `encoder.*`: pictures (B, C, H, W) in [0, 1], less `mean_CHW`, divided by `spread`, to 2 * latents numbers: first the
  means of the posterior, then its log-variances.
- `decoder.*`: codes (B, latents) to (B, C, H, W); times `spread`, plus `mean_CHW`, cut to [0, 1]
  (`bernoulli`: plus logit of `mean_CHW`, then a sigmoid).
- `map`: `encoder.*` gives 2 * channels maps, means first; `decoder.*` takes maps. `code_mean` and `code_spread` bring
  each channel of the codes to mean 0 and variance 1 over the training pictures, and are what models over the codes use.
- `variance`: of the Gaussian likelihood. `log_scale`: of the logistic one.
- `prior.mean` (Z), `prior.directions` (R, Z), `prior.rest` (Z): of a map, one Gaussian along R directions.
- `prior.weights` (K), `prior.means` (K, Z), `prior.factors` (K, Z, Z, lower Cholesky): what codes are drawn from.

The layers are those of `intaglio/nn/vision.py` ({net}); PyTorch's `nn.Sequential` names them by number. No other
library has this network: pythae loads pickled weights, and diffusers' `AutoencoderKL` has other layers. The weights
inherit the licence of the pictures they learned from.
"""


def export_folder(folder: Path, to: Path) -> list[Path]:
    """Copy the checkpoint with a page that says how to read it; returns the files."""
    _, _, facts = read_checkpoint(folder, "cpu")
    return export(folder, to, facts, page=README.format(net=facts["shape"]["net"]))
