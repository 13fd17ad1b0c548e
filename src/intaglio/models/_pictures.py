"""The pictures of a data set as one file of bytes: decoded once, in parallel, to one size, read in any order.

Legend: N pictures, H height, W width, C channels; uint8 in [0, 255]. Train pictures come first, then held-out ones.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np

from intaglio.core.contracts import Context, Dataset, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable
from intaglio.media import image as images
from intaglio.models._facts import Measured, Published, Side, equal, one_of
from intaglio.nn.checkpoint import write_atomic

In = TypeVar("In")
Out = TypeVar("Out")
SIDES_PX = (16, 28, 32, 48, 64, 96, 128, 192, 256)
_PROBED = 192
_BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0)}


@dataclass(frozen=True, kw_only=True)
class Form:
    """How every picture is brought to one size: side, channels (1 grey, 3 colour), and what becomes of the rest."""

    size_px: Side
    channels: Annotated[int, one_of(1, 3)]
    fit: Annotated[str, one_of("cover", "contain")] = "cover"
    background: Annotated[str, one_of(*_BACKGROUNDS)] = "white"

    def array(self, path: Path | bytes) -> np.ndarray[Any, Any]:
        """The picture as uint8 [H, W, C]. Errors: Unreadable."""
        mode = "L" if self.channels == 1 else "RGB"
        return images.to_array(path, self.size_px, mode=mode, fit=self.fit, background=_BACKGROUNDS[self.background])


class PictureFacts(Measured):
    """What a checkpoint of a family that makes pictures or films says of itself, whichever it is."""

    form: Form
    publish_px: Published

    def same_form(self, size_px: int, channels: int) -> None:
        """Errors: ValueError where a network that makes the pictures by itself makes others than ``form`` says."""
        said = {"form.size_px": self.form.size_px, "form.channels": self.form.channels}
        equal(said, {"shape.size_px": size_px, "shape.channels": channels})


@dataclass(frozen=True)
class Shard:
    """Pictures of one form in a memory-mapped file: uint8 [N, C, H, W], the first ``train`` of them for training.

    left_out: places, among the train items and then the held-out ones, of those that could not be read.
    """

    pixels: np.ndarray[Any, Any]
    train: int
    form: Form
    skipped: int
    left_out: frozenset[int] = frozenset()

    @property
    def heldout(self) -> int:
        return len(self.pixels) - self.train


def path_of(item: Item, ctx: Context) -> Path:
    """The first file of an item that is a picture. Errors: Unreadable where it has none."""
    for file in item.files:
        if file.mime.startswith("image/"):
            return ctx.path(file)
    raise Unreadable(t("the item has no picture"))


def probe(data: Dataset, ctx: Context) -> tuple[int, bool]:
    """The median shorter side in pixels and whether all pictures are grey, told from some 200 spread over the data.

    Errors: UserError where no picture can be read.
    """
    stride = max(1, len(data) // _PROBED)
    sides: list[int] = []
    grey, reason = True, ""
    for item in itertools.islice(data, 0, None, stride):
        try:
            path = path_of(item, ctx)
            info = images.inspect(path, decode=False)
            if grey:
                pixels = images.to_array(path, 32).astype(np.int16)
                grey = bool((np.ptp(pixels, axis=2) <= 4).all())
        except (Unreadable, FileNotFoundError) as error:
            reason = reason or f"{item.origin}: {error}"
            continue
        sides.append(min(info.width_px, info.height_px))
    if not sides:
        raise UserError(
            t("none of the {count} pictures can be read; the first: {reason}", count=len(data), reason=reason),
            where=f"[models.{ctx.step}]",
            fix=t("look at the data step: intaglio show"),
        )
    return int(np.median(sides)), grey


def choose_side(median_px: int, largest_px: int) -> int:
    """The largest of ``SIDES_PX`` that neither the pictures nor the dial are below; 16 at least."""
    return max([side for side in SIDES_PX if side <= min(median_px, largest_px)], default=SIDES_PX[0])


def gather(data: Dataset, form: Form, ctx: Context) -> Shard:
    """Decode all pictures of ``data`` into ``ctx.work`` (or take up what an earlier call finished there).

    An unreadable picture is left out and warned of.
    Errors: UserError where no train picture can be read or the disk is too small.
    """
    raw, note = ctx.work / "pictures.u8", ctx.work / "pictures.json"
    shape = (form.channels, form.size_px, form.size_px)
    if not (raw.exists() and note.exists() and json.loads(note.read_text("utf-8"))["form"] == asdict(form)):
        note.unlink(missing_ok=True)
        need, free = len(data) * int(np.prod(shape)), shutil.disk_usage(ctx.work).free
        if need > free:
            what = t(
                "{count} pictures take {need:.1f} GB on disk; {free:.1f} GB are free",
                count=len(data),
                need=need / 1e9,
                free=free / 1e9,
            )
            raise UserError(what, fix=t("lower size_px"))
        counts = _write(data, form, ctx, raw)
        write_atomic(note, json.dumps({"form": asdict(form), **counts}).encode())
    counts = json.loads(note.read_text("utf-8"))
    if not counts["train"]:
        raise UserError(
            t("there is no picture to learn from"), fix=t("add pictures to the data step, or lower its heldout")
        )
    total = counts["train"] + counts["heldout"]
    pixels = np.memmap(raw, dtype=np.uint8, mode="r", shape=(total, *shape))
    return Shard(pixels, counts["train"], form, counts["skipped"], frozenset(counts.get("left_out", ())))


def _write(data: Dataset, form: Form, ctx: Context, raw: Path) -> dict[str, Any]:
    counts = {"train": 0, "heldout": 0, "skipped": 0}
    left_out: list[int] = []
    first_reason = ""
    with raw.open("wb") as file:
        for split in ("train", "heldout"):
            for item, result in decoded(data.split(split), form, ctx):
                if isinstance(result, Unreadable):
                    left_out.append(sum(counts.values()))
                    counts["skipped"] += 1
                    first_reason = first_reason or f"{item.origin}: {result}"
                    continue
                file.write(np.ascontiguousarray(result.transpose(2, 0, 1)).tobytes())
                counts[split] += 1
                done = sum(counts.values())
                if done % 256 == 0:
                    ctx.progress(done, len(data), pictures=done)
    if counts["skipped"]:
        text = t(
            "{count} pictures could not be read and were left out; the first: {reason}",
            count=counts["skipped"],
            reason=first_reason,
        )
        ctx.warn(text)
    return {**counts, "left_out": left_out}


def decoded(
    items: Iterable[Item], form: Form, ctx: Context
) -> Iterator[tuple[Item, np.ndarray[Any, Any] | Unreadable]]:
    """Each item with its picture as uint8 [H, W, C] or the reason there is none; in order, read by ``ctx.threads``."""

    def read(item: Item) -> np.ndarray[Any, Any] | Unreadable:
        try:
            return form.array(path_of(item, ctx))
        except Unreadable as error:
            return error
        except FileNotFoundError:
            return Unreadable(t("its file is missing"))

    yield from _in_order(read, items, ctx.threads)


def _in_order(call: Callable[[In], Out], items: Iterable[In], threads: int) -> Iterator[tuple[In, Out]]:
    waiting: deque[tuple[In, Future[Out]]] = deque()
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for item in items:
            waiting.append((item, pool.submit(call, item)))
            if len(waiting) >= 8 * max(1, threads):
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
