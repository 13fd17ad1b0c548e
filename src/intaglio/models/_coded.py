"""The network over codes, the codes it learns from, and the model it becomes; trained by ``models/codes.py``.

Shapes:  B batch, N pictures, H height and W width of a map of codes, L = H * W places in raster order, K codebook.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from intaglio.core.contracts import Context, Item, Sampling
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import image as images
from intaglio.models import _conditions
from intaglio.models import _quantized as vq
from intaglio.models._checkpoint import filled, read, reading, write
from intaglio.models._facts import Depth, Facts, Measured, Published, Side, Width, equal
from intaglio.models._pictures import Shard
from intaglio.nn import transformer
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.decoder import Decoder
from intaglio.nn.device import machine
from intaglio.nn.order import derive
from intaglio.nn.sampling import filtered

AT_ONCE = 32  # pictures written together, always so many, so that none depends on how many are asked for
PSEUDO = 20.0  # pictures that a place's frequencies are worth less than its own counts: those of all places together


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the network looks like; kept in ``config.json``. codebook: how many codes. rows, columns: of a map of them.

    classes: labels it may be told, 1 where it is told none. layers, width, heads, hidden: of the transformer.
    """

    codebook: Width
    rows: Side
    columns: Side
    classes: Width
    layers: Depth
    width: Width
    heads: Width
    hidden: Width

    @property
    def places(self) -> int:
        return self.rows * self.columns

    def transformer(self) -> transformer.Shape:
        """The vocabulary is the codes, then one first token a label (or a single one)."""
        return transformer.Shape(
            vocab=self.codebook + self.classes,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            kv_heads=self.heads,
            hidden=self.hidden,
            context=max(2, self.places),
        )

    def back(self) -> tuple[int, ...]:
        """How far back each head begins by looking: to the places left, above, above on the right and two to the left.

        What is read beside a place is the code of the one before it.
        """
        near = (0, self.columns - 1, max(0, self.columns - 2), 1)
        return tuple(near[4 * head // self.heads] for head in range(self.heads))


class _Sampling(Facts):
    temperature: Annotated[float, Field(gt=0.0, le=10.0)]
    top_k: Annotated[int, Field(ge=0, le=65_536)]
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]


class _Facts(Measured):
    shape: Shape
    conditions: _conditions.ConditionFacts
    sampling: _Sampling
    publish_px: Published

    @model_validator(mode="after")
    def _of_one_network(self) -> Self:
        equal({"shape.classes": self.shape.classes}, {"conditions": max(1, self.conditions.dims)})
        return self


class CodeModel(nn.Module):
    """Each code given the label and the codes before it: a transformer's logits beside the frequencies of the place.

    The transformer's output matrix starts small, so the training starts at the frequencies and only learns what the
    places know of each other.
    """

    log_frequency_LK: Tensor

    def __init__(self, shape: Shape, *, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.net = transformer.Transformer(shape.transformer(), seed=seed, back=shape.back())
        self.register_buffer("log_frequency_LK", torch.zeros(shape.places, shape.codebook))

    @property
    def device(self) -> torch.device:
        return self.log_frequency_LK.device

    def firsts(self, labels_B: Tensor) -> Tensor:
        """The first token of each picture, of the number of its label."""
        return labels_B + self.shape.codebook

    def logits(self, ids_BT: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Logits (B, T, K), float32, of the codes at places 0..T-1; ids: the first token, then codes 0..T-2."""
        x_BTD = self.net.features(ids_BT, dtype=dtype)
        codes_KD = self.net.embedding.weight[: self.shape.codebook].to(dtype)
        return F.linear(x_BTD, codes_KD).float() + self.log_frequency_LK[: ids_BT.shape[1]]

    def nats(
        self, labels_B: Tensor, codes_BL: Tensor, *, seen_BL: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Negative log-likelihood of each code in nats, (B, L). seen: what is read in the place of ``codes``."""
        read_BL = codes_BL if seen_BL is None else seen_BL
        ids_BL = torch.cat([self.firsts(labels_B)[:, None], read_BL[:, :-1]], dim=1)
        return F.cross_entropy(self.logits(ids_BL, dtype=dtype).transpose(1, 2), codes_BL, reduction="none")

    @torch.inference_mode()
    def write(self, labels: Sequence[int], seeds: Sequence[int], sampling: Sampling) -> Tensor:
        """One map of codes a seed: (N, H, W), int64 on the CPU; each follows from its own seed and label alone."""
        shape, decoder, made = self.shape, Decoder(self.net), []
        for start in range(0, len(seeds), AT_ONCE):
            some = [*seeds[start : start + AT_ONCE]]
            told = [*labels[start : start + AT_ONCE]]
            missing = AT_ONCE - len(some)
            uniform_BL = torch.stack([_uniform(seed, shape.places) for seed in some + some[-1:] * missing])
            ids_B1 = self.firsts(torch.tensor(told + told[-1:] * missing, device=self.device))[:, None]
            decoder.reset(AT_ONCE)
            drawn = []
            for place in range(shape.places):
                logits_BK = decoder.advance(ids_B1)[:, : shape.codebook] + self.log_frequency_LK[place]
                ids_B1 = _draw(logits_BK, uniform_BL[:, place, None].to(self.device), sampling)
                drawn.append(ids_B1)
            made.append(torch.cat(drawn, dim=1)[: len(some)].cpu())
        empty = torch.empty(0, shape.places, dtype=torch.int64)
        return torch.cat([empty, *made]).view(-1, shape.rows, shape.columns)


def _uniform(seed: int, count: int) -> Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed % 2**63))


def _draw(logits_BK: Tensor, uniform_B1: Tensor, sampling: Sampling) -> Tensor:
    total_BK = filtered(logits_BK / sampling.temperature, sampling).double().cumsum(-1)
    chosen = torch.searchsorted(total_BK, uniform_B1 * total_BK[:, -1:], right=True)
    return chosen.clamp_(max=logits_BK.shape[-1] - 1)


# ----------------------------------------------------------------------------------------------- what it learns over
def encoded(shard: Shard, model: vq.Codes, ctx: Context, *, flip: bool) -> np.ndarray[Any, Any]:
    """The codes of all pictures of a shard in a memory-mapped file: uint16 (1 or 2, N, L); 2: also mirrored.

    What an earlier call finished in ``ctx.work`` is taken up.
    """
    raw, note = ctx.work / "codes.u16", ctx.work / "codes.json"
    count, places = len(shard.pixels), model.code_shape[0] * model.code_shape[1]
    shape = (2 if flip else 1, count, places)
    facts = json.dumps({"shape": shape, "codebook": model.codebook_size}).encode()
    if not (raw.exists() and note.exists() and note.read_bytes() == facts):
        note.unlink(missing_ok=True)
        stored = np.memmap(raw, dtype=np.uint16, mode="w+", shape=shape)
        for start in range(0, count, 256):
            pixels = np.array(shard.pixels[start : start + 256])
            for number in range(shape[0]):
                turned = pixels[..., ::-1].copy() if number else pixels
                stored[number, start : start + 256] = model.codes(turned).flatten(1).numpy()
            ctx.progress(start, count, pictures=start)
        stored.flush()
        write_atomic(note, facts)
    return np.memmap(raw, dtype=np.uint16, mode="r", shape=shape)


def log_frequency(codes_VNL: np.ndarray[Any, Any], codebook: int) -> Tensor:
    """How often each code comes at each place, as logarithms (L, K); drawn a little towards that of all places."""
    places = codes_VNL.shape[-1]
    counts = np.zeros(places * codebook, dtype=np.int64)
    for part in codes_VNL:
        for start in range(0, len(part), 4096):
            flat = part[start : start + 4096].astype(np.int64) + np.arange(places) * codebook
            counts += np.bincount(flat.ravel(), minlength=len(counts))
    counts_LK = counts.reshape(places, codebook).astype(np.float64)
    whole_K = counts_LK.sum(0) + 1.0
    mixed_LK = counts_LK + PSEUDO * whole_K / whole_K.sum()
    return torch.from_numpy(np.log(mixed_LK / mixed_LK.sum(-1, keepdims=True))).float()


# -------------------------------------------------------------------------------------------------------- checkpoint
def write_checkpoint(folder: Path, model: CodeModel, facts: Mapping[str, Any], tokenizer: vq.Codes) -> None:
    """What ``read_checkpoint`` reads, and below ``vq/`` a copy of the model whose codes these are."""
    write(folder, model.state_dict(), {**facts, "shape": asdict(model.shape)})
    tokenizer.save(folder / "vq")


def read_checkpoint(folder: Path, device: str) -> tuple[CodeModel, dict[str, Any]]:
    """Network and ``config.json``. Errors: UserError where the folder holds no checkpoint of codes."""
    with reading(folder, "codes"):
        tensors, facts = read(folder, "codes", _Facts, device)
        model = filled(lambda: CodeModel(Shape(**facts["shape"])), tensors)
    return model.to(device).eval(), facts


class Coded:
    """A ``contracts.PictureModel`` that writes codes, which its ``vq`` draws; that also rebuilds and encodes pictures.

    sampling: temperature, top_k and top_p; what the checkpoint says unless changed here.
    """

    makes = "image"

    def __init__(self, model: CodeModel, facts: Mapping[str, Any], tokenizer: vq.Codes, *, threads: int) -> None:
        self.model, self.facts, self.vq, self.threads = model, facts, tokenizer, threads
        self.device = str(model.device)
        self.form = tokenizer.form
        self.factor = max(1, int(facts["publish_px"]) // self.form.size_px)
        self.conditions = _conditions.restored(facts["conditions"])
        self.sampling = Sampling(**facts["sampling"])

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels it may be asked for; empty where it was told none."""
        return self.conditions.names

    def sample(self, seeds: Sequence[int], ctx: Context, *, labels: Sequence[str] = ()) -> Iterator[Item]:
        """One print a seed: PNG, its side ``size_px`` times a whole number. labels: what each is to show.

        A model that knows labels draws one where none is given, as often as it came in training.
        Errors: UserError for labels the model does not know.
        """
        names = self.asked(seeds, labels)
        for start in range(0, len(seeds), AT_ONCE):
            some, told = seeds[start : start + AT_ONCE], names[start : start + AT_ONCE]
            for pixels, seed, name in zip(self.pixels(some, told), some, told, strict=True):
                picture = vq.tile(pixels)
                side = picture.width * self.factor
                picture = picture.resize((side, side), Image.Resampling.LANCZOS) if self.factor > 1 else picture
                file = ctx.put(images.dump(picture), name=f"print-{seed}.png", mime="image/png")
                meta: dict[str, Any] = {"width_px": side, "height_px": side, "native_px": self.form.size_px}
                meta |= {"seed": seed, "temperature": self.sampling.temperature}
                if name:
                    meta["label"] = name
                yield Item(media="image", files=(file,), meta=meta)

    def asked(self, seeds: Sequence[int], labels: Sequence[str] = ()) -> list[str]:
        """The label of each seed; empty words where the model knows none. Errors: UserError for an unknown label."""
        if self.conditions.kind == "none":
            if any(labels):
                what = t("this model was trained with condition = '{kind}': it cannot be asked for that", kind="none")
                raise UserError(what, fix=t("set condition in its [models] section, and run again"))
            return [""] * len(seeds)
        if labels and len(labels) != len(seeds):
            raise ValueError(f"one label a seed. Received: {len(labels)} for {len(seeds)} seeds")
        return [str(each) for each in labels] or [self.conditions.drawn(seed) for seed in seeds]

    def maps(self, seeds: Sequence[int], labels: Sequence[str] = ()) -> Tensor:
        """Maps of codes that seeds stand for: (N, H, W), int64 on the CPU."""
        names = self.asked(seeds, labels)
        told = self.conditions.rows(names).argmax(1).tolist() if self.labels and names else [0] * len(seeds)
        with machine(device=self.device, threads=self.threads):
            return self.model.write(told, seeds, self.sampling)

    def pixels(self, seeds: Sequence[int], labels: Sequence[str] = ()) -> Tensor:
        """Pictures that seeds stand for: uint8 (N, C, H, W) at ``size_px``, on the CPU."""
        maps = self.maps(seeds, labels)
        found = [torch.empty(0, *self.vq.model.shape.pixels, dtype=torch.uint8)]
        for part in maps.split(AT_ONCE):  # always as many, so that none depends on how many are asked for
            whole = torch.cat([part, part[-1:].expand(AT_ONCE - len(part), -1, -1)])
            found.append(self.vq.draw(whole)[: len(part)])
        return torch.cat(found)

    def sheet(self, count: int, *, seed: int, columns: int = 8) -> bytes:
        """PNG of draws side by side, not enlarged; of a model that knows labels, these in turn."""
        seeds = [derive(seed, "sheet", number) for number in range(count)]
        names = [self.labels[number % len(self.labels)] for number in range(count)] if self.labels else []
        return images.dump(images.grid([vq.tile(each) for each in self.pixels(seeds, names)], columns=columns))

    # --------------------------------------------------------------------------------------- passed on from the vq
    def codes(self, pixels_NCHW: np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Maps of codes of pictures in ``form``: (N, H, W), int64 on the CPU."""
        return self.vq.codes(pixels_NCHW)

    def draw(self, codes_NHW: Tensor) -> Tensor:
        """Pictures of maps of codes: uint8 (N, C, H, W) on the CPU."""
        return self.vq.draw(codes_NHW)

    def reconstruct(self, items: Iterable[Item], ctx: Context) -> Iterator[tuple[Item, bytes, float]]:
        """Item, reconstruction as PNG, and mean squared error, as the ``vq`` gives them."""
        return self.vq.reconstruct(items, ctx)

    def encode(self, items: Iterable[Item], ctx: Context) -> Iterator[Sequence[float]]:
        """The codebook entries of each picture, as the ``vq`` gives them."""
        return self.vq.encode(items, ctx)
