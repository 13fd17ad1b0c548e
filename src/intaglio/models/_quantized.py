"""The network of the vector-quantized autoencoder and the model it becomes; trained by ``models/vq.py``.

Shapes:  B batch, N pictures, C channels, H height, W width, K codebook. Pictures are floats in [0, 1] or uint8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from PIL import Image
from pydantic import model_validator
from torch import Tensor, nn

from intaglio.core.contracts import Context, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable
from intaglio.media import image as images
from intaglio.models._checkpoint import filled, read, reading, write
from intaglio.models._facts import Depth, Side, Width, one_of
from intaglio.models._feed import floats
from intaglio.models._pictures import Form, PictureFacts, decoded
from intaglio.nn import vision
from intaglio.nn.device import machine
from intaglio.nn.quantize import Codebook, Quantized

AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the network looks like; kept in ``config.json``. dims: numbers of an entry. codebook: how many entries.

    down: the side of a map of codes is ``size_px / down``. width, blocks: of the convolutions.
    """

    size_px: Side
    channels: Annotated[int, one_of(1, 3)]
    width: Width
    blocks: Depth
    down: Annotated[int, one_of(4, 8)]
    dims: Width
    codebook: Width

    @property
    def pixels(self) -> tuple[int, int, int]:
        return self.channels, self.size_px, self.size_px

    @property
    def code(self) -> tuple[int, int]:
        return self.size_px // self.down, self.size_px // self.down


class _Facts(PictureFacts):
    shape: Shape

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        self.same_form(self.shape.size_px, self.shape.channels)
        return self


class Tokenizer(nn.Module):
    """Pictures to maps of codebook entries and back."""

    mean_CHW: Tensor
    spread: Tensor
    frequency_HWK: Tensor

    def __init__(self, shape: Shape, *, decay: float = 0.99) -> None:
        super().__init__()
        self.shape = shape
        own = {"width": shape.width, "blocks": shape.blocks, "down": shape.down}
        self.encoder = vision.MapEncoder(channels=shape.channels, outputs=shape.dims, **own)
        self.decoder = vision.MapDecoder(inputs=shape.dims, outputs=shape.channels, **own)
        self.codebook = Codebook(size=shape.codebook, channels=shape.dims, decay=decay)
        self.register_buffer("mean_CHW", torch.full(shape.pixels, 0.5))
        self.register_buffer("spread", torch.tensor(0.25))
        self.register_buffer("frequency_HWK", torch.zeros(*shape.code, shape.codebook))

    @torch.no_grad()
    def start_from(self, mean_CHW: Tensor, spread: float, x_BCHW: Tensor) -> None:
        """Take in mean and spread of the training pictures; the linear paths start from patches of ``x``."""
        self.mean_CHW.copy_(mean_CHW)
        self.spread.fill_(max(spread, 1e-3))
        vision.principal_start(self.encoder, self.decoder, (x_BCHW - self.mean_CHW) / self.spread, whiten=False)

    def encode(self, x_BCHW: Tensor) -> Tensor:
        """What is quantized, (B, dims, H, W), float32."""
        centred = (x_BCHW - self.mean_CHW) / self.spread
        return self.encoder(centred.contiguous(memory_format=torch.channels_last)).float()

    def decode(self, z_BCHW: Tensor) -> Tensor:
        """The picture of entries, (B, C, H, W), float32, not cut to [0, 1]."""
        return self.decoder(z_BCHW).float() * self.spread + self.mean_CHW

    def forward(self, x_BCHW: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Quantized]:
        quantized = self.codebook(self.encode(x_BCHW), generator)
        return self.decode(quantized.values_BCHW), quantized

    def codes(self, x_BCHW: Tensor) -> Tensor:
        """(B, H, W), int64."""
        z = self.encode(x_BCHW)
        return self.codebook.nearest(z.permute(0, 2, 3, 1).flatten(0, 2)).view(len(z), *z.shape[2:])

    def picture(self, codes_BHW: Tensor) -> Tensor:
        """The picture of codes, (B, C, H, W), in [0, 1]."""
        return self.decode(self.codebook.values(codes_BHW)).clamp(0.0, 1.0)


def read_checkpoint(folder: Path, device: str) -> tuple[Tokenizer, dict[str, Any]]:
    """Network and ``config.json``. Errors: UserError where the folder holds no vq checkpoint."""
    with reading(folder, "vq"):
        tensors, facts = read(folder, "vq", _Facts, device)
        model = filled(lambda: Tokenizer(Shape(**facts["shape"])), tensors)
    return model.to(device).eval(), facts


def write_checkpoint(folder: Path, model: Tokenizer, facts: Mapping[str, Any]) -> None:
    """What ``read_checkpoint`` reads."""
    write(folder, model.state_dict(), {**facts, "shape": asdict(model.shape)})


class Codes:
    """A ``contracts.PictureModel`` whose pictures are maps of whole numbers: ``codes`` and ``draw`` are for models of
    them.

    By itself it draws each place from how often its codes came there in training, the places not knowing of each other:
    colours and layout are right, things are not. A model over the codes is what draws well.
    """

    makes = "image"

    def __init__(self, model: Tokenizer, facts: Mapping[str, Any], *, threads: int) -> None:
        self.model, self.facts, self.threads = model, facts, threads
        self.device = str(model.mean_CHW.device)
        self.form = Form(**facts["form"])
        self.factor = max(1, int(facts["publish_px"]) // self.form.size_px)

    @property
    def codebook_size(self) -> int:
        """How many codes there are."""
        return self.model.shape.codebook

    @property
    def code_shape(self) -> tuple[int, int]:
        """Height and width of a map of codes."""
        return self.model.shape.code

    @torch.no_grad()
    def codes(self, pixels_NCHW: np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Maps of codes of pictures in ``form`` (uint8): (N, H, W), int64 on the CPU, in [0, codebook_size)."""
        found = [torch.empty(0, *self.code_shape, dtype=torch.int64)]
        with machine(device=self.device, threads=self.threads) as device:
            for start in range(0, len(pixels_NCHW), AT_ONCE):
                found.append(self.model.codes(floats(pixels_NCHW[start : start + AT_ONCE], device)).cpu())
        return torch.cat(found)

    @torch.no_grad()
    def draw(self, codes_NHW: Tensor) -> Tensor:
        """Pictures of maps of codes: (N, C, H, W), uint8 on the CPU."""
        found = [torch.empty(0, *self.model.shape.pixels, dtype=torch.uint8)]
        with machine(device=self.device, threads=self.threads) as device:
            for part in codes_NHW.split(AT_ONCE):
                found.append(self.model.picture(part.to(device)).mul(255).round().byte().cpu())
        return torch.cat(found)

    def chance(self, seed: int) -> Tensor:
        """The map of codes (H, W) that ``seed`` stands for."""
        generator = torch.Generator().manual_seed(seed)
        frequency = self.model.frequency_HWK.cpu().flatten(0, 1)
        return torch.multinomial(frequency, 1, generator=generator).view(self.code_shape)

    def sample(self, seeds: Sequence[int], ctx: Context) -> Iterator[Item]:
        """One picture a seed: PNG, its side ``size_px`` times a whole number."""
        for seed in seeds:
            picture = tile(self.draw(self.chance(seed)[None])[0])
            side = picture.width * self.factor
            picture = picture.resize((side, side), Image.Resampling.LANCZOS) if self.factor > 1 else picture
            file = ctx.put(images.dump(picture), name=f"print-{seed}.png", mime="image/png")
            meta = {"width_px": side, "height_px": side, "native_px": self.form.size_px, "prior": "frequency"}
            yield Item(media="image", files=(file,), meta={**meta, "seed": seed})

    def reconstruct(self, items: Iterable[Item], ctx: Context) -> Iterator[tuple[Item, bytes, float]]:
        """Item, reconstruction as PNG at ``size_px``, and mean squared error in [0, 1] units at that size.

        Errors: UserError for an item that is no readable picture.
        """
        for item, pixels_1CHW in self._read(items, ctx):
            rebuilt = self.draw(self.codes(pixels_1CHW))[0]
            error = float(((rebuilt.double() - torch.from_numpy(pixels_1CHW[0]).double()) / 255).square().mean())
            yield item, images.dump(tile(rebuilt)), error

    def encode(self, items: Iterable[Item], ctx: Context) -> Iterator[Sequence[float]]:
        """The codebook entries of each picture, one after the other; small distances mean alike pictures."""
        for _, pixels_1CHW in self._read(items, ctx):
            codes = self.codes(pixels_1CHW).to(self.device)
            yield self.model.codebook.values(codes).flatten().cpu().tolist()

    def save(self, folder: Path) -> None:
        """Write a copy of the checkpoint, which ``read_checkpoint`` reads back."""
        write_checkpoint(folder, self.model, self.facts)

    def _read(self, items: Iterable[Item], ctx: Context) -> Iterator[tuple[Item, np.ndarray[Any, Any]]]:
        for item, pixels_HWC in decoded(items, self.form, ctx):
            if isinstance(pixels_HWC, Unreadable):
                what = t("this is no picture that can be read: {reason}", reason=pixels_HWC)
                raise UserError(what, where=item.origin)
            yield item, np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1)[None])


def tile(pixels_CHW: Tensor) -> Image.Image:
    """A picture of uint8 (C, H, W)."""
    return images.from_array(pixels_CHW.permute(1, 2, 0).numpy())


@torch.no_grad()
def sheet(model: Tokenizer, pixels: np.ndarray[Any, Any]) -> bytes:
    """PNG: rows of eight originals, each above the row of their reconstructions."""
    tiles: list[Image.Image] = []
    white = Image.new("RGB", (model.shape.size_px,) * 2, (255, 255, 255))
    for start in range(0, len(pixels), 8):
        part = torch.from_numpy(pixels[start : start + 8])
        rebuilt = model.picture(model.codes(floats(part, model.mean_CHW.device))).mul(255).round().byte().cpu()
        for row in (part, rebuilt):
            tiles += [tile(each) for each in row] + [white] * (8 - len(row))
    return images.dump(images.grid(tiles, columns=8))
