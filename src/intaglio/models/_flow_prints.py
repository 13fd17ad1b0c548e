"""A trained flow that draws: prints from seeds, variations of pictures, holes filled, walks between pictures.

Pictures are computed sixteen at a time, always sixteen, so that none depends on how many are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intaglio.core.contracts import Context, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable
from intaglio.media import image as images
from intaglio.models import _conditions
from intaglio.models import _flow as fn
from intaglio.models._checkpoint import export
from intaglio.models._pictures import Form, decoded
from intaglio.models._prints import Prints
from intaglio.nn import flow
from intaglio.nn.device import machine
from intaglio.nn.order import derive

AT_ONCE = 16
INVERTING_STEPS = 12  # Heun steps back to noise; what is lost on the way there and back is then below what is seen
Through = Literal["noised", "inverted"]


class Flow:
    """``contracts.LoadedModel`` for pictures; besides: ``vary``, ``fill``, ``interpolate`` and ``between``.

    steps, sampler, guidance: how it draws; what the checkpoint says unless changed here.
    """

    makes = "image"

    def __init__(self, model: fn.Velocity, facts: Mapping[str, Any], codes: Prints | None, *, threads: int) -> None:
        self.model, self.facts, self.codes, self.threads = model, facts, codes, threads
        self.device = str(model.device)
        self.form = Form(**facts["form"])
        self.factor = max(1, int(facts["publish_px"]) // self.form.size_px)
        self.conditions = _conditions.restored(facts["conditions"])
        self.steps, self.sampler = int(facts["steps"]), str(facts["sampler"])
        self.guidance = float(facts["guidance"])

    # ------------------------------------------------------------------------------------------------ from nothing
    def sample(
        self, seeds: Sequence[int], ctx: Context, *, labels: Sequence[str] = (), texts: Sequence[str] = ()
    ) -> Iterator[Item]:
        """One print a seed; ``labels`` or ``texts``: what each is to show (one a seed, or none).

        A model that knows labels draws one where none is given, as often as it came in training.
        Errors: UserError for labels or texts the model does not know.
        """
        wishes = self._wishes(seeds, labels, texts)
        for some, told in _parts(seeds, wishes):
            pixels = self.pixels([self.noise(seed) for seed in some], told)
            for picture, seed, wish in zip(pixels, some, told, strict=True):
                yield self._item(picture, f"print-{seed}.png", {"seed": seed, **self._told(wish)}, ctx)

    def noise(self, seed: int) -> Tensor:
        """The noise (C, H, W) that ``seed`` stands for."""
        return torch.randn(self.model.shape.dims, generator=torch.Generator().manual_seed(seed))

    def pixels(self, noises: Sequence[Tensor], wishes: Sequence[str] = ()) -> list[Image.Image]:
        """The pictures that noises lead to, at ``size_px``."""
        return self._through(noises, wishes, lambda ask, x: self._drawn(ask, x))

    def _drawn(self, ask: flow.Field, x: Tensor, start: float = 0.0) -> Tensor:
        steps = max(1, round(self.steps * (1.0 - start)))
        if self.sampler == "shortcut" and not start:
            return flow.euler(ask, x, flow.stops(steps), shortcuts=True)
        if self.sampler == "euler":
            return flow.euler(ask, x, flow.stops(steps, start=start))
        return _heun(ask, x, flow.stops(max(steps, 4) if self.sampler == "shortcut" else steps, start=start))

    # --------------------------------------------------------------------------------------------- from pictures
    def vary(
        self,
        items: Sequence[Item],
        seeds: Sequence[int],
        ctx: Context,
        *,
        strength: float = 0.5,
        through: Through = "inverted",
        labels: Sequence[str] = (),
        texts: Sequence[str] = (),
    ) -> Iterator[Item]:
        """Each item again, one a seed, the further from it the larger ``strength`` is, in (0, 1].

        through: ``inverted``: the flow is followed back to the noise the picture would come from, that noise is turned
        towards the seed's by ``strength``, and followed forth. ``noised``: the picture is noised up to time
        1 - strength and drawn from there (image to image), so that a sketch may become a picture of the learned kind.
        Seven parameters: what, by which chance, where to, how far, by which way, and what it is to show.
        """
        wishes = self._wishes(seeds, labels, texts, draw=False)
        made = self._inverted if through == "inverted" else self._noised
        facts = {"strength": strength, "through": through}
        for some, told in _parts(list(zip(items, seeds, strict=True)), wishes):
            known = self._known([item for item, _ in some], ctx)
            noises = [self.noise(seed) for _, seed in some]
            for picture, (item, seed), wish in zip(made(known, noises, told, strength), some, told, strict=True):
                yield self._item(
                    picture, f"variation-{seed}.png", {"seed": seed, "of": item.id, **facts, **self._told(wish)}, ctx
                )

    def _noised(
        self, known: Sequence[Tensor], noises: Sequence[Tensor], wishes: Sequence[str], strength: float
    ) -> list[Image.Image]:
        start = 1.0 - strength
        begun = [torch.lerp(noise, x, start) for noise, x in zip(noises, known, strict=True)]
        return self._through(begun, wishes, lambda ask, x: self._drawn(ask, x, start))

    def _inverted(
        self, known: Sequence[Tensor], noises: Sequence[Tensor], wishes: Sequence[str], strength: float
    ) -> list[Image.Image]:
        pairs = zip(self.inverted(known, wishes), noises, strict=True)
        turned = [flow.walk(own, fresh, strength) for own, fresh in pairs]
        return self._through(turned, wishes, lambda ask, x: _heun(ask, x, flow.stops(INVERTING_STEPS)))

    def inverted(self, known: Sequence[Tensor], wishes: Sequence[str] = ()) -> list[Tensor]:
        """The noises that the flow leads to these x, found by following it backwards."""
        times = flow.stops(INVERTING_STEPS)[::-1]
        return self._batched(known, wishes, lambda ask, x: flow.heun(ask, x, times), guidance=1.0)

    def fill(
        self,
        items: Sequence[Item],
        mask_HW: np.ndarray[Any, Any] | None,
        seeds: Sequence[int],
        ctx: Context,
        *,
        inset: float = 1.0,
        labels: Sequence[str] = (),
        texts: Sequence[str] = (),
    ) -> Iterator[Item]:
        """Each item with what ``mask_HW`` marks (not 0; any size) made new, one a seed; all else keeps its pixels.

        inset: the picture is first shrunk to this share of the side, and what lies around it is made new as well.
        Seven parameters: what, where, by which chance, where to, how far in, and what it is to show.
        Errors: UserError where nothing is marked.
        """
        native, printed = self.form.size_px, self.form.size_px * self.factor
        holes = {side: _hole(mask_HW, side, inset) for side in {native, printed}}
        if not holes[native].any():
            raise UserError(t("the mask marks nothing to fill"), fix=t("white is filled, black is kept"))
        wishes = self._wishes(seeds, labels, texts, draw=False)
        for some, told in _parts(list(zip(items, seeds, strict=True)), wishes):
            known = self._known([item for item, _ in some], ctx, inset)
            pictures = self._filled(known, holes[native], [seed for _, seed in some], told)
            for picture, (item, seed), wish in zip(pictures, some, told, strict=True):
                around = _framed(self._picture_of(item, ctx, printed, inset), printed)
                kept = Image.fromarray((~holes[printed] * 255).astype(np.uint8))
                whole = _enlarged(picture.convert("RGB"), printed)
                whole.paste(around, (0, 0), kept)
                facts = {"seed": seed, "of": item.id, "filled": round(float(holes[native].mean()), 4)}
                yield self._item(whole, f"filled-{seed}.png", {**facts, **self._told(wish)}, ctx)

    def _filled(
        self, known: Sequence[Tensor], hole_HW: np.ndarray[Any, Any], seeds: Sequence[int], wishes: Sequence[str]
    ) -> list[Image.Image]:
        side = self.model.shape.size_px
        coarse = torch.from_numpy(hole_HW).float()[None, None]
        mask = torch.nn.functional.adaptive_max_pool2d(coarse, side).to(self.device)
        times = flow.stops(max(8, self.steps))
        chance = torch.Generator(device=self.device).manual_seed(derive("fill", *seeds))
        x_known = iter(_chunks(known, self.model.shape.dims, self.device))

        def made(ask: flow.Field, x: Tensor) -> Tensor:
            return flow.fill(ask, x, next(x_known), mask, times, generator=chance)

        return self._through([self.noise(seed) for seed in seeds], wishes, made)

    # --------------------------------------------------------------------------------------------------- between
    def interpolate(self, first: Item, last: Item, count: int, ctx: Context) -> Iterator[Item]:
        """``count`` pictures on the way from one picture to another, ends included (as the flow gives them back)."""
        noises = self.inverted(self._known([first, last], ctx))
        yield from self._between(noises[0], noises[1], count, {"between": [first.id, last.id]}, ctx)

    def between(self, first_seed: int, last_seed: int, count: int, ctx: Context) -> Iterator[Item]:
        """``count`` pictures on the way from the print of one seed to that of another."""
        noises = self.noise(first_seed), self.noise(last_seed)
        yield from self._between(*noises, count, {"between_seeds": [first_seed, last_seed]}, ctx)

    def _between(
        self, first: Tensor, last: Tensor, count: int, facts: Mapping[str, Any], ctx: Context
    ) -> Iterator[Item]:
        if count < 2:
            raise ValueError(f"count must be at least 2. Received: count={count}")
        shares = [number / (count - 1) for number in range(count)]
        made = self._through(
            [flow.walk(first, last, share) for share in shares],
            (),
            lambda ask, x: _heun(ask, x, flow.stops(INVERTING_STEPS)),
        )
        for number, (picture, share) in enumerate(zip(made, shares, strict=True)):
            yield self._item(picture, f"between-{number}.png", {**facts, "share": round(share, 6)}, ctx)

    # --------------------------------------------------------------------------------------------------- parts of it
    def _through(
        self, begun: Sequence[Tensor], wishes: Sequence[str], made: Callable[[flow.Field, Tensor], Tensor]
    ) -> list[Image.Image]:
        found = self._batched(begun, wishes, made)
        return [_picture(pixels_CHW) for pixels_CHW in self.decoded(found)]

    def decoded(self, found: Sequence[Tensor]) -> Tensor:
        """What the flow learned over as pictures: uint8 (N, C, H, W)."""
        x = torch.stack(list(found))
        return fn.x_to_pixels(x) if self.codes is None else self.codes.decode_maps(x)

    @torch.no_grad()
    def _batched(
        self,
        begun: Sequence[Tensor],
        wishes: Sequence[str],
        made: Callable[[flow.Field, Tensor], Tensor],
        *,
        guidance: float | None = None,
    ) -> list[Tensor]:
        rows = self._rows(wishes, len(begun))
        found: list[Tensor] = []
        strength = self.guidance if guidance is None else guidance
        with machine(device=self.device, threads=self.threads):
            for number, x in enumerate(_chunks(begun, self.model.shape.dims, self.device)):
                told = None if rows is None else rows[number * AT_ONCE : (number + 1) * AT_ONCE]
                if told is not None and len(told) < AT_ONCE:
                    told = torch.cat([told, told.new_zeros(AT_ONCE - len(told), told.shape[1])])
                ask = fn.field(self.model, None if told is None else told.to(self.device), guidance=strength)
                found += list(made(ask, x).float().cpu())
        return found[: len(begun)]

    def _rows(self, wishes: Sequence[str], count: int) -> Tensor | None:
        if self.conditions.kind == "none" or not any(wishes):
            return None
        some = [wish for wish in wishes if wish]
        rows = torch.zeros(count, self.conditions.dims)
        said = torch.tensor([bool(wish) for wish in wishes])
        rows[said] = fn.unit_rows(self.conditions.rows(some))
        return rows

    def _wishes(
        self, seeds: Sequence[int], labels: Sequence[str], texts: Sequence[str], *, draw: bool = True
    ) -> list[str]:
        """What each seed is to show: "" where nothing is said."""
        kind, given = self.conditions.kind, list(labels or texts)
        wanted = "label" if labels else "text"
        if given and kind != wanted:
            known = t("this model was not told {wanted}s in training", wanted=wanted)
            raise UserError(known, fix=t('train it with condition = "{wanted}"', wanted=wanted))
        if given and len(given) != len(seeds):
            raise ValueError(f"one label or text a seed. Received: {len(given)} for {len(seeds)}")
        if given:
            self.conditions.rows(given)  # refuses what was never learned
            return given
        return [self.conditions.drawn(seed) for seed in seeds] if kind == "label" and draw else [""] * len(seeds)

    def _told(self, wish: str) -> dict[str, str]:
        return {self.conditions.kind: wish} if wish else {}

    def _picture_of(self, item: Item, ctx: Context, side: int, inset: float) -> Image.Image:
        """The item at ``side`` times ``inset`` pixels, in the form the model learned pictures in."""
        small = Form(
            size_px=max(1, round(side * inset)),
            channels=self.form.channels,
            fit=self.form.fit,
            background=self.form.background,
        )
        ((_, pixels),) = decoded([item], small, ctx)
        if isinstance(pixels, Unreadable):
            raise UserError(t("this is no picture that can be read: {reason}", reason=pixels), where=item.origin)
        return images.from_array(pixels)

    def _known(self, items: Iterable[Item], ctx: Context, inset: float = 1.0) -> list[Tensor]:
        side, mode = self.form.size_px, "L" if self.form.channels == 1 else "RGB"
        found = []
        for item in items:
            whole = _framed(self._picture_of(item, ctx, side, inset), side).convert(mode)
            pixels = np.asarray(whole).reshape(side, side, -1).transpose(2, 0, 1)[None].copy()
            found.append(fn.pixels_to_x(pixels)[0] if self.codes is None else self.codes.encode_maps(pixels)[0])
        return found

    def _item(self, picture: Image.Image, name: str, facts: Mapping[str, Any], ctx: Context) -> Item:
        side = self.form.size_px * self.factor
        file = ctx.put(images.dump(_enlarged(picture, side)), name=name, mime="image/png")
        how = {"steps": self.steps, "sampler": self.sampler}
        meta = {"width_px": side, "height_px": side, "native_px": self.form.size_px, **how}
        if self.conditions.kind != "none":
            meta["guidance"] = self.guidance
        return Item(media="image", files=(file,), meta={**meta, **facts})


def _heun(ask: flow.Field, x: Tensor, times: Sequence[float]) -> Tensor:
    """Heun's steps, the last one Euler's: that is the picture expected there, which leaves no grain of noise."""
    return flow.euler(ask, flow.heun(ask, x, times[:-1]), times[-2:])


def _parts(what: Sequence[Any], wishes: Sequence[str]) -> Iterator[tuple[list[Any], list[str]]]:
    for start in range(0, len(what), AT_ONCE):
        yield list(what[start : start + AT_ONCE]), list(wishes[start : start + AT_ONCE])


def _chunks(begun: Sequence[Tensor], dims: tuple[int, int, int], device: str) -> Iterator[Tensor]:
    """Sixteen at a time, the last filled up with zeros."""
    for start in range(0, len(begun), AT_ONCE):
        x = torch.zeros(AT_ONCE, *dims)
        some = torch.stack(list(begun[start : start + AT_ONCE]))
        x[: len(some)] = some
        yield x.to(device)


def _hole(mask_HW: np.ndarray[Any, Any] | None, side: int, inset: float) -> np.ndarray[Any, Any]:
    """What is to be made new at this side: bool [side, side]."""
    small = max(1, round(side * inset))
    hole = np.ones((side, side), dtype=bool)
    start = (side - small) // 2
    inner = np.zeros((small, small), dtype=bool)
    if mask_HW is not None:
        marked = Image.fromarray((np.asarray(mask_HW) > 0).astype(np.uint8) * 255)
        inner = np.asarray(marked.resize((small, small), Image.Resampling.BOX)) > 0
    hole[start : start + small, start : start + small] = inner
    return hole


def _framed(picture: Image.Image, side: int) -> Image.Image:
    """In the middle of a white square of this side."""
    whole = Image.new("RGB", (side, side), (255, 255, 255))
    start = (side - picture.width) // 2
    whole.paste(picture.convert("RGB"), (start, start))
    return whole


def _enlarged(picture: Image.Image, side: int) -> Image.Image:
    return picture if picture.width == side else picture.resize((side, side), Image.Resampling.LANCZOS)


def _picture(pixels_CHW: Tensor) -> Image.Image:
    return images.from_array(pixels_CHW.permute(1, 2, 0).contiguous().numpy())


README = """# A rectified flow made by Intaglio

`model.safetensors` holds all tensors in float32; `config.json` says the shape.

`net.*` answers x (B, C, H, W), a time and a span (B, each in [0, 1]), and rows of conditions (B, K; zeros: nothing
said) with the mean velocity from that time to time + span. Start from standard normal noise at time 0 and go
to time 1: `x += (later - time) * net(x, time, span)`, span 0 being the velocity itself (heun, euler), or
span = later - time where the checkpoint learned shortcuts (`sampler`). At time 1, x is {what}.

The layers are those of `intaglio/nn/{net}.py`. Conditions of kind `label` are one-hot in the order of `names`; of kind
`text` they are hashed n-grams as in `intaglio/models/_conditions.py`, brought to length 1. No other library has this
network. The weights inherit the licence of the pictures they learned from.
"""


def export_folder(folder: Path, to: Path) -> list[Path]:
    """Copy the checkpoint with a page that says how to read it; returns the files."""
    _, facts = fn.read_checkpoint(folder, "cpu")
    codes = "a map of codes that the vae in `codes/` decodes, standardized"
    page = README.format(what=codes if facts["codes"] else "a picture in [-1, 1]", net=facts["shape"]["net"])
    return export(folder, to, facts, page=page, parts=["codes"] if facts["codes"] else [])
