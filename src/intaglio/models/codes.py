"""A transformer over the codes of a vq: writes pictures code by code, left to right and down.

Paper:   van den Oord et al. (2017), "Neural Discrete Representation Learning", arXiv:1711.00937, sec. 3.2 (the prior
         over the codes); Esser et al. (2021), "Taming Transformers", arXiv:2012.09841, sec. 3.2 (by a transformer).
Code:    written from the papers; differs in: logits stand beside the frequencies of each place, so that training
         starts from them; some of the codes that are read are replaced by chance, against learning them by heart.
Licence: ours. Weights inherit the licence of the pictures they and the vq learned from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Estimate, Machine, Size
from intaglio.core.errors import StepFailed, UserError
from intaglio.core.i18n import t
from intaglio.models import _coded as coded
from intaglio.models import _conditions
from intaglio.models import _quantized as vq
from intaglio.models._checkpoint import export, reading
from intaglio.models._cost import START, steps_seconds, writing_seconds
from intaglio.models._facts import equal
from intaglio.models._memory import DRAWN, of_pictures
from intaglio.models._pictures import Shard, gather
from intaglio.models._room import check_room
from intaglio.nn import features, measures, parallel
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.device import fast_dtype, machine
from intaglio.nn.graphs import recorded_on_gpu
from intaglio.nn.loop import Diverged, Plan, Trained, patience, train
from intaglio.nn.memorization import membership
from intaglio.nn.optim import muon_and_adamw
from intaglio.nn.order import derive, rows


class Config(StepConfig):
    """Keys of ``[models.x]`` with ``use = "codes"``; all but ``data`` and ``model`` have defaults.

    data:        the pictures. model: a ``vq`` step, whose codes it learns; the side of the pictures is that of the vq.
    size:        ``tiny`` (a minute or two on 2 cores), ``small`` (half an hour), ``base`` (an evening, or a GPU).
    condition:   ``label`` (of the item) comes before the codes: what it can then be asked for.
    temperature: how freely codes are drawn; 1 is as learned, less is plainer. top_k: only among so many likely
                 codes, 0 for all. top_p: only among the likeliest that make up this share, 1 for all.
    flip:        also learn from mirrored pictures; right for faces and fruit, wrong for letters and flags.
    images:      how many pictures it sees in all, repeats counted. batch: pictures a step.
    publish_px:  prints are enlarged by a whole factor to at most this side; 0 keeps the side of the vq.
    """

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("image",))]
    model: Annotated[Names, Role(stages=("models",), media=("image",), many=False, uses=("vq",))]
    size: Literal["tiny", "small", "base"] = "small"
    condition: Literal["none", "label"] = "none"
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    top_k: int = Field(default=0, ge=0, le=65536)
    top_p: float = Field(default=0.9, gt=0.0, le=1.0)
    flip: bool = False
    images: int | None = Field(default=None, ge=1)
    batch: int | None = Field(default=None, ge=1, le=65536)
    publish_px: int = Field(default=256, ge=0, le=4096)


TINY: dict[str, Any] = {"data": "pictures", "model": "above", "size": "tiny", "images": 320, "batch": 16}
# of each size: layers, width, heads, hidden, operations of the whole training at most
DIALS = {"tiny": (4, 128, 4, 344, 1e13), "small": (6, 256, 8, 688, 1.5e14), "base": (12, 512, 8, 1376, 4e15)}
PASSES = 60  # over the pictures, at most; more only learns them by heart
REPLACED = 0.1  # share of the codes read in training that chance puts others in the place of
LOOKED_AT, ALL = 512, 4_096  # held-out pictures of each evaluation, and of the last figures
AT_ONCE = 64
EXPECTED = (256, 256)  # codes of a picture and of the codebook, before the vq is there to be asked
REACHED = {"tiny": 0.28, "small": 0.35, "base": 0.45}  # share of the machine's bfloat16 products that training makes


class Component:
    """The model stage ``codes``."""

    takes = ("image",)
    makes = "image"

    def __init__(self, config: Config) -> None:
        self.config = config

    # ------------------------------------------------------------------------------------------------------- planning
    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """Seconds and bytes for pictures of 256 codes; the vq may give fewer."""
        places, codebook = EXPECTED
        shape = self._shape(codebook, (1, places), 1)
        items = size.items if size.items is not None else 1000
        work = shape.transformer().flops_per_token() * places
        reached, batch = REACHED[self.config.size], self._batch(items)
        steps = self._images(items, shape) / batch
        seconds = steps_seconds(machine, flops=3.2 * batch * work, steps=steps, reached=reached, per_step=0.006)
        looked = 20 * min(LOOKED_AT, items // 10 + 1) + 4 * min(ALL, items // 10 + 1)  # the last in float32
        seconds += steps_seconds(machine, flops=work, steps=looked, reached=reached, per_step=0)
        drawn = (-(-DRAWN // coded.AT_ONCE) + 5 + 2) * places  # previews and sheet besides
        seconds += writing_seconds(machine, steps=drawn, layers=shape.layers, a_token=work / places)
        return Estimate(START + 0.002 * items + seconds, self._bytes(shape, items))

    def _bytes(self, shape: coded.Shape, items: int) -> int:
        tokens = self._batch(items) * shape.places
        activations = tokens * (shape.layers * (shape.width * 60 + shape.heads * shape.places * 8))
        logits = tokens * shape.codebook * 16
        weights = shape.transformer().parameters() * 4 * 6
        return 430_000_000 + weights + activations + logits + shape.places * shape.codebook * 24

    def _images(self, items: int, shape: coded.Shape) -> int:
        affordable = int(DIALS[self.config.size][4] / (3 * shape.transformer().flops_per_token() * shape.places))
        return self.config.images or max(1, min(affordable, max(1, items) * PASSES * (2 if self.config.flip else 1)))

    def _batch(self, items: int) -> int:
        return self.config.batch or (32 if items >= 10_000 else 16)

    def _shape(self, codebook: int, side: tuple[int, int], classes: int) -> coded.Shape:
        layers, width, heads, hidden, _ = DIALS[self.config.size]
        return coded.Shape(
            codebook=codebook,
            rows=side[0],
            columns=side[1],
            classes=max(1, classes),
            layers=layers,
            width=width,
            heads=heads,
            hidden=hidden,
        )

    # ------------------------------------------------------------------------------------------------------- training
    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Train on the codes of the pictures of ``data``; see ``contracts.Model.fit``.

        Errors: UserError where ``model`` is no vq, labels are missing, there is no picture to learn from, or the
        training would not fit into memory.
        """
        tokenizer, pictures, where = _tokenizer(ctx), data.of("image"), f"[models.{ctx.step}]"
        if not len(pictures):
            what = t("a {model} learns from pictures, and the named steps hold none", model="codes")
            raise UserError(what, where=where, fix=t("name a data step with pictures in 'data'"))
        _conditions.check(pictures, self.config.condition, ctx)
        with machine(device=ctx.device, threads=ctx.threads) as device:
            shape = self._shape(tokenizer.codebook_size, tokenizer.code_shape, 1)
            check_room(self._bytes(shape, len(pictures)), ctx, fix=t("lower size_px of the vq, size or batch"))
            shard = gather(pictures, tokenizer.form, ctx)
            told = _conditions.read(pictures, self.config.condition, shard, ctx)
            return self._fit(shard, told, tokenizer, ctx, device)

    def _fit(
        self, shard: Shard, told: _conditions.Told, tokenizer: vq.Codes, ctx: Context, device: torch.device
    ) -> dict[str, Any]:
        _warn_of_few(shard, ctx)
        config = self.config
        stored = coded.encoded(shard, tokenizer, ctx, flip=config.flip)
        shape = self._shape(tokenizer.codebook_size, tokenizer.code_shape, told.conditions.dims)
        model = coded.CodeModel(shape, seed=derive(ctx.seed, "weights"))
        model.log_frequency_LK.copy_(coded.log_frequency(stored[:, : shard.train], shape.codebook))
        session = Session(model.to(device), shard, stored, told, tokenizer, config, ctx)
        batch = self._batch(shard.train)
        steps = max(2, self._images(shard.train, shape) // batch)
        found = self._train(session, steps, batch)
        metrics = session.close()
        metrics |= {"steps": found.steps, "best_step": found.best_step or found.steps}
        metrics |= {"train_seconds": round(found.seconds, 1), "rollbacks": found.rollbacks}
        metrics |= {"images_per_second": round(found.steps * batch / max(found.seconds, 1e-9), 1), "curve": found.curve}
        write_atomic(ctx.out / "curve.csv", found.csv())
        return metrics

    def _train(self, session: Session, steps: int, batch: int) -> Trained:
        ctx, model = session.ctx, session.model
        seed = derive(ctx.seed, "train")
        session.share = parallel.Share(batch, seed=seed)
        times = max(4, min(20, steps // 25))
        plan = Plan(
            steps=steps,
            accumulate=session.share.parts,
            seed=seed,
            per_step=batch,
            unit="img/s",
            ema=0.99,
            warmup=0.04,
            cooldown=0.8,
            evaluations=times,
            patience=patience(times),
            previews=min(5, times),
        )
        try:
            return train(
                model,
                session.loss,
                optimizers=muon_and_adamw(model, weight_decay=0.1, dtype=session.dtype),
                plan=plan,
                work=ctx.work,
                report=ctx,
                evaluate=session.evaluate if session.heldout else None,
                preview=session.preview,
                identity={"shape": asdict(model.shape), "flip": self.config.flip, "batch": batch},
                say=t,
            )
        except Diverged as error:
            raise StepFailed(ctx.step, str(error)) from error

    # --------------------------------------------------------------------------------------------- after the training
    def load(self, folder: Path, *, device: str, threads: int) -> coded.Coded:
        """The checkpoint with its vq, ready to draw."""
        model, facts = coded.read_checkpoint(folder, device)
        with reading(folder, "codes"):
            tokenizer = vq.Codes(*vq.read_checkpoint(folder / "vq", device), threads=threads)
            theirs = {"codebook of vq/": tokenizer.codebook_size, "map of vq/": tokenizer.code_shape}
            equal({"codebook": model.shape.codebook, "map": (model.shape.rows, model.shape.columns)}, theirs)
            return coded.Coded(model, facts, tokenizer, threads=threads)

    def export(self, folder: Path, to: Path) -> list[Path]:
        """safetensors, ``config.json`` and a ``README.md`` that says how to read them, with the vq below ``vq/``."""
        _, facts = coded.read_checkpoint(folder, "cpu")
        return export(folder, to, facts, page=README, parts=["vq"])


class Session:
    """What the training loop calls: the loss of a step, the held-out loss of each picture, and pictures to look at.

    Seven parameters: what learns, from which pictures, as which codes, told what, drawn by what, how, and where to.
    """

    def __init__(
        self,
        model: coded.CodeModel,
        shard: Shard,
        stored: np.ndarray[Any, Any],
        told: _conditions.Told,
        tokenizer: vq.Codes,
        config: Config,
        ctx: Context,
    ) -> None:
        self.model, self.shard, self.stored, self.told = model, shard, stored, told
        self.tokenizer, self.config, self.ctx = tokenizer, config, ctx
        self.share, self.heldout = parallel.Share(config.batch or 1, seed=ctx.seed, count=1), shard.heldout
        self.dtype = fast_dtype(str(model.device))
        first, count = (shard.train, shard.heldout) if shard.heldout else (0, shard.train)
        self.judged = first + np.arange(count)
        self._mean_nats = recorded_on_gpu(self._nats_of, model)

    def loss(self, micro: int, generator: torch.Generator) -> Tensor:
        """Mean nats a code of the pictures of a micro-batch, some of the codes before it replaced by any."""
        model, device, batch = self.model, self.model.device, self.share.batch
        step, own = self.share(micro, generator)
        index = rows(step, batch=batch, count=self.shard.train, seed=self.ctx.seed)[own]
        turned = np.zeros(len(index), dtype=np.int64)
        if len(self.stored) > 1:
            turned = (torch.rand(batch, generator=generator, device=device) < 0.5)[own].long().cpu().numpy()
        codes_BL = self._codes(index, turned)
        whole = (batch, model.shape.places)
        others_BL = torch.randint(model.shape.codebook, whole, generator=generator, device=device)[own]
        replaced_BL = torch.rand(whole, generator=generator, device=device)[own] < REPLACED
        seen_BL = torch.where(replaced_BL, others_BL, codes_BL)
        return self._mean_nats(self._labels(index), codes_BL, seen_BL)

    def _nats_of(self, labels_B: Tensor, codes_BL: Tensor, seen_BL: Tensor) -> Tensor:
        return self.model.nats(labels_B, codes_BL, seen_BL=seen_BL, dtype=self.dtype).mean()

    def _codes(self, index: np.ndarray[Any, Any], turned: np.ndarray[Any, Any] | int = 0) -> Tensor:
        return torch.from_numpy(self.stored[turned, index].astype(np.int64)).to(self.model.device)

    def _labels(self, index: np.ndarray[Any, Any]) -> Tensor:
        stored = self.told.stored
        found = np.zeros(len(index), dtype=np.int64) if stored is None else stored[index].astype(np.int64)
        return torch.from_numpy(found).to(self.model.device)

    @torch.no_grad()
    def nats(self, index: np.ndarray[Any, Any], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Nats of each of these pictures, (N,), float32 on the CPU."""
        parts = [index[start : start + AT_ONCE] for start in range(0, len(index), AT_ONCE)]
        return torch.cat([self.model.nats(self._labels(p), self._codes(p), dtype=dtype).sum(1).cpu() for p in parts])

    def evaluate(self) -> Tensor:
        """Held-out nats a code, of each picture: (N,)."""
        return self.nats(_spread(self.judged, LOOKED_AT), dtype=self.dtype) / self.model.shape.places

    def prints(self) -> coded.Coded:
        """The model as it is now, ready to draw."""
        config = self.config
        sampling = {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
        facts = {
            "kind": "codes",
            "conditions": dict(_conditions.stored(self.told.conditions)),
            "sampling": sampling,
            "publish_px": config.publish_px,
        }
        return coded.Coded(self.model, facts, self.tokenizer, threads=self.ctx.threads)

    def preview(self, step: int) -> None:
        """A contact sheet of sixteen draws, always of the same seeds."""
        self.ctx.preview(f"step-{step:05d}.png", self.prints().sheet(16, seed=self.ctx.seed))

    def close(self) -> dict[str, Any]:
        """Write the checkpoint and the sheet; the figures are returned, of held-out pictures where there are any."""
        shape, prints = self.model.shape, self.prints()
        self.model.eval()
        metrics, likeness = self._likelihood(), self._likeness(prints)
        metrics["memorization"] = {**metrics.get("memorization", {}), **likeness.pop("memorization", {})}
        metrics |= likeness
        metrics |= {"codebook": shape.codebook, "codes_of_a_picture": shape.places}
        metrics |= {"size_px": self.shard.form.size_px, "train_pictures": self.shard.train}
        metrics |= {"heldout_pictures": self.heldout, "skipped": self.shard.skipped}
        metrics["parameters"] = sum(p.numel() for p in self.model.parameters())
        coded.write_checkpoint(self.ctx.out, self.model, {**prints.facts, "metrics": metrics}, self.tokenizer)
        columns = len(prints.labels) if 4 <= len(prints.labels) <= 12 else 8
        write_atomic(self.ctx.out / "samples.png", prints.sheet(6 * columns, seed=self.ctx.seed, columns=columns))
        return metrics

    def _likelihood(self) -> dict[str, Any]:
        """Bits a code, beside those of each place's frequencies (all that a vq draws from) and of all codes alike."""
        shape, where = self.model.shape, "heldout" if self.heldout else "train"
        judged = _spread(self.judged, ALL)
        own_N = self.nats(judged)
        log_LK = self.model.log_frequency_LK.cpu()
        alone_N = -log_LK[torch.arange(shape.places), self._codes(judged).cpu()].sum(1)
        bits = 1.0 / (shape.places * math.log(2.0))
        found: dict[str, Any] = {
            f"{where}_nats_per_picture": round(float(own_N.mean()), 4),
            f"{where}_bits_per_code": round(float(own_N.mean()) * bits, 5),
            "baseline_frequency_bits_per_code": round(float(alone_N.mean()) * bits, 5),
            "baseline_uniform_bits_per_code": round(math.log2(shape.codebook), 5),
        }
        if self.heldout:
            known_N = self.nats(_spread(np.arange(self.shard.train), len(judged)))
            found["train_bits_per_code"] = round(float(known_N.mean()) * bits, 5)
            found["memorization"] = membership(known_N.tolist(), own_N.tolist())
        return found

    def _likeness(self, prints: coded.Coded) -> dict[str, Any]:
        """What it draws beside held-out pictures, and beside what the vq by itself draws."""
        pixels, train, seed = self.shard.pixels, self.shard.train, self.ctx.seed
        device = str(self.model.device)

        def made(count: int) -> Tensor:
            return prints.pixels([derive(seed, "measured", number) for number in range(count)])

        found = of_pictures(lambda count: made(DRAWN)[:count], pixels[:train], pixels[train:], device=device)
        if not found:
            return {}
        net, count = features.load(device=device), int(found["compared"])
        chance = torch.stack([self.tokenizer.chance(derive(seed, "measured", number)) for number in range(count)])
        real = net(torch.from_numpy(np.array(pixels[_spread(self.judged, 1_024)])))
        found["kid_like_of_frequencies"] = measures.kid(net(self.tokenizer.draw(chance)), real).plain()
        rebuilt = self.tokenizer.draw(self.tokenizer.codes(np.array(pixels[:train][:: -(-train // count)])))
        found["kid_like_of_rebuilt_training"] = measures.kid(net(rebuilt), real).plain()
        return found


def _spread(index: np.ndarray[Any, Any], most: int) -> np.ndarray[Any, Any]:
    """At most so many of them, evenly spread."""
    return index[:: -(-len(index) // most)]


def _tokenizer(ctx: Context) -> vq.Codes:
    """The vq named as model. Errors: UserError where it is none."""
    named = ctx.inputs.get("model") or [None]
    if not isinstance(named[0], vq.Codes):
        what = t("model names a step that turns pictures into no codes")
        raise UserError(what, where=f"[models.{ctx.step}]", fix=t("name a vq step as model"))
    return named[0]


def _warn_of_few(shard: Shard, ctx: Context) -> None:
    if shard.train < 64:
        ctx.warn(t("only {count} pictures to learn from: prints will be close to them or unclear", count=shard.train))
    if not shard.heldout:
        ctx.warn(t("no picture is held out: figures are of the training pictures, and the last weights are kept"))
    if shard.train > 1 and (shard.pixels[: min(shard.train, 256)] == shard.pixels[0]).all():
        ctx.warn(t("the pictures are all the same"))


README = """# A model of codes made by Intaglio

`model.safetensors` holds all tensors in float32; `config.json` says the shape. `vq/` holds the autoencoder whose codes
these are; its `config.json` says how pictures are made of them.

- A picture is the line of its codes, left to right and down, after one first token: `codebook` plus the number of its
  label in `conditions.names`, or `codebook` where labels were not told.
- `net.*`: a transformer in the layout of Qwen3 (`intaglio/nn/transformer.py`), its output matrix the embedding.
- `log_frequency_LK`: added to the logits of the codes at each place.

The weights inherit the licence of the pictures they learned from.
"""
