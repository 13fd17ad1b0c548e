"""The films of a data set as one file of frames of one size and rate, and the clips that can be cut from them.

Legend: F frames of all films, T frames of a clip, C channels, H height, W width; uint8 in [0, 255]. Films to learn from
come first, then held-out ones.
"""

from __future__ import annotations

import collections
import itertools
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from intaglio.core.contracts import Context, Dataset, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable
from intaglio.media import video as films_
from intaglio.models._pictures import Form
from intaglio.nn.checkpoint import write_atomic

PROBED = 48
USUAL_FPS = 8.0
STILL = 1.5  # mean difference of neighbouring frames, in byte values, below which nothing is seen to move
SCENE, SCENE_TIMES = 15.0, 3.0  # a scene changes where frames differ so much (byte values), and so many times as around
ROUND = 4  # a film that joins its own end is taken whole up to this many times the frames of a clip


@dataclass(frozen=True)
class Cut:
    """How clips are cut: frames a clip, frames a second, and whether a clip's end is to join its start."""

    frames: int
    fps: float
    loop: bool

    @property
    def least(self) -> int:
        """Frames a film must have: of a loop made by going there and back, half of them and one."""
        return self.frames // 2 + 1 if self.loop else self.frames


@dataclass(frozen=True)
class Films:
    """frames: uint8 [F, C, H, W]. starts: where each film begins, and the end. train: how many films to learn from.

    joined: of each film, whether its last frame leads to its first. scenes: first frames behind a change of scene.
    """

    frames: np.ndarray[Any, Any]
    starts: np.ndarray[Any, Any]
    joined: np.ndarray[Any, Any]
    train: int
    form: Form
    cut: Cut
    skipped: int
    scenes: np.ndarray[Any, Any]

    @property
    def heldout(self) -> int:
        return len(self.starts) - 1 - self.train

    def clips(self, *, train: bool) -> np.ndarray[Any, Any]:
        """int64 [count, 2]: first frame of every clip, and how many frames a whole turn takes (0: none).

        To learn from, clips start at every frame; held-out ones stand side by side. None goes across a change of scene,
        unless all do.
        """
        clips, whole = self._clips(train=train)
        return clips[whole] if whole.any() else clips

    @property
    def across(self) -> bool:
        """Whether all clips to learn from go across a change of scene."""
        return not self._clips(train=True)[1].any()

    @property
    def alike(self) -> bool:
        """Whether the films to learn from, several of them, hold the same frames; told from some 48 of them."""
        films = [self.frames[self.starts[n] : self.starts[n + 1]] for n in range(self.train)]
        return len(films) > 1 and all(np.array_equal(films[0], film) for film in films[1 : PROBED + 1])

    def _clips(self, *, train: bool) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """All of them, and which lie within one scene."""
        found = []
        for film in range(self.train) if train else range(self.train, len(self.starts) - 1):
            start, end = int(self.starts[film]), int(self.starts[film + 1])
            if self.cut.loop and self.joined[film]:
                found.append(np.array([[start, end - start]]))
                continue
            places = np.arange(start, end - self.cut.least + 1, 1 if train else self.cut.least)
            found.append(np.stack([places, np.zeros_like(places)], 1))
        clips = np.concatenate(found) if found else np.zeros((0, 2), dtype=np.int64)
        before, behind = (
            np.searchsorted(self.scenes, clips[:, 0] + ahead, side="right") for ahead in (0, self.cut.least - 1)
        )
        return clips, (before == behind) | (clips[:, 1] > 0)

    def rows(self, clips_B2: np.ndarray[Any, Any], turn_B: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """Frame numbers [B, T] of clips; of loops, ``turn_B`` says which frame comes first."""
        first, whole = clips_B2[:, :1], clips_B2[:, 1:]
        frames = self.cut.frames
        place = np.broadcast_to(np.arange(frames), (len(clips_B2), frames))
        if not self.cut.loop:
            return first + place
        if turn_B is not None:
            place = (place + turn_B[:, None]) % frames
        return first + np.where(whole > 0, place * whole // frames, np.minimum(place, frames - place))


def path_of(item: Item, ctx: Context) -> Path:
    """The first file of an item that is a film. Errors: Unreadable where it has none."""
    for file in item.files:
        if file.mime.startswith("video/"):
            return ctx.path(file)
    raise Unreadable(t("the item has no film"))


@dataclass(frozen=True)
class Seen:
    """What some films look like: median shorter side, median rate, whether all are grey."""

    side_px: int
    fps: float
    grey: bool


def look(data: Dataset, ctx: Context) -> Seen:
    """Told from the first frames of some 48 films. Says where sizes or rates are mixed.

    Errors: UserError where no film can be read.
    """
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    rates: collections.Counter[float] = collections.Counter()
    grey, reason = True, ""
    for item in itertools.islice(data, 0, None, max(1, len(data) // PROBED)):
        try:
            path = path_of(item, ctx)
            info = films_.probe(path, decode=False)
            pixels = next(films_.frames(path, side_px=32)).astype(np.int16)
        except (Unreadable, FileNotFoundError) as error:
            reason = reason or f"{item.origin}: {error}"
            continue
        sizes[info.width_px, info.height_px] += 1
        rates[round(info.fps, 2)] += 1
        grey = grey and bool((np.ptp(pixels, axis=0) <= 8).all())
    if not sizes:
        what = t("none of the {count} films can be read; the first: {reason}", count=len(data), reason=reason)
        raise UserError(what, fix=t("look at the data step: intaglio show"))
    if len(sizes) > 1:
        ctx.warn(t("the films have several sizes; each is cut to its middle square"))
    if len(rates) > 1:
        found = ", ".join(f"{each:g}" for each in sorted(rates))
        ctx.warn(t("the films have several rates ({rates} frames a second); all are brought to one", rates=found))
    sides = np.repeat([min(each) for each in sizes], list(sizes.values()))
    return Seen(int(np.median(sides)), float(np.median(list(rates.elements()))), grey)


def gather(data: Dataset, form: Form, cut: Cut, ctx: Context) -> Films:
    """Decode all films of ``data`` into ``ctx.work`` (or take up what an earlier call finished there).

    Left out and said: unreadable films and those too short for a clip.
    Errors: UserError where no clip is left to learn from, nothing moves in any, or the disk is too small.
    """
    raw, note = ctx.work / "frames.u8", ctx.work / "frames.json"
    asked = {"form": asdict(form), "cut": asdict(cut)}
    if not (raw.exists() and note.exists() and _asked(note) == asked):
        note.unlink(missing_ok=True)
        write_atomic(note, json.dumps(asked | _write(data, form, cut, ctx, raw)).encode())
    told = json.loads(note.read_text("utf-8"))
    where = f"[models.{ctx.step}]"
    if not told["train"]:
        what = t(
            "no film has {count} frames at {fps:g} frames a second ({skipped} were left out)",
            count=cut.least,
            fps=cut.fps,
            skipped=told["skipped"],
        )
        raise UserError(what, where=where, fix=t("lower frames, raise fps, or add longer films"))
    if max(told["moves"][: told["train"]]) < STILL:
        raise UserError(
            t("nothing moves in the films to learn from"),
            where=where,
            fix=t("add films in which something moves; of stills, a flow learns pictures"),
        )
    starts = np.array(told["starts"], dtype=np.int64)
    frames = np.memmap(raw, dtype=np.uint8, mode="r", shape=(int(starts[-1]), form.channels, *[form.size_px] * 2))
    joined, scenes = np.array(told["joined"], dtype=bool), np.array(told["scenes"], dtype=np.int64)
    films = Films(frames, starts, joined, told["train"], form, cut, told["skipped"], scenes)
    if len(scenes) and films.across:
        ctx.warn(t("every clip goes across a change of scene; lower frames, or raise fps"))
    return films


def _asked(note: Path) -> dict[str, Any]:
    told = json.loads(note.read_text("utf-8"))
    return {key: told.get(key) for key in ("form", "cut")}


def _write(data: Dataset, form: Form, cut: Cut, ctx: Context, raw: Path) -> dict[str, Any]:
    starts, joined, moves, scenes = [0], [], [], []
    counts, reason, done = {"train": 0, "heldout": 0, "skipped": 0}, "", 0
    with raw.open("wb") as file:
        for split in ("train", "heldout"):
            for item in data.split(split):
                begun = file.tell()
                try:
                    told = _written(path_of(item, ctx), form, cut, file)
                except (Unreadable, FileNotFoundError) as error:
                    file.seek(begun)
                    file.truncate()
                    counts["skipped"] += 1
                    reason = reason or f"{item.origin}: {error}"
                    continue
                scenes += [starts[-1] + place for place in _scenes(told.moves)]
                starts.append(starts[-1] + len(told.moves) + 1)
                moves.append(round(float(told.moves.mean()), 4) if len(told.moves) else 0.0)
                joined.append(told.joined)
                counts[split] += 1
                done += 1
                if done % 16 == 0:
                    ctx.progress(done, len(data), films=done)
    if counts["skipped"]:
        ctx.warn(t("{count} films were left out; the first: {reason}", count=counts["skipped"], reason=reason))
    return {**counts, "starts": starts, "joined": joined, "moves": moves, "scenes": scenes}


@dataclass(frozen=True)
class Written:
    """A film whose frames lie in the file. moves: mean difference of two neighbours each, in byte values. joined:
    whether the last frame leads to the first."""

    moves: np.ndarray[Any, Any]
    joined: bool


def _written(path: Path, form: Form, cut: Cut, file: Any) -> Written:
    """Write one film's frames. Errors: Unreadable where there are too few for a clip."""
    count, moves = 0, []
    first: Any = None
    before: Any = None
    for frame_CHW in films_.frames(path, fps=cut.fps, side_px=form.size_px):
        pixels = frame_CHW if form.channels == 3 else frame_CHW.mean(0, keepdims=True).round().astype(np.uint8)
        if count % 256 == 0 and shutil.disk_usage(path.parent).free < 256 * pixels.nbytes:
            raise UserError(t("the frames take more room on disk than there is"), fix=t("lower size_px or fps"))
        file.write(pixels.tobytes())
        if before is not None:
            moves.append(_difference(before, pixels))
        first, before, count = pixels if first is None else first, pixels, count + 1
    if count < cut.least:
        raise Unreadable(
            t("{count} frames at {fps:g} a second, and a clip takes {least}", count=count, fps=cut.fps, least=cut.least)
        )
    mean = sum(moves) / max(1, count - 1)
    whole = cut.frames <= count <= ROUND * cut.frames
    joined = bool(whole and mean >= STILL and _difference(before, first) <= 1.5 * mean)
    return Written(np.array(moves), joined)


def _scenes(moves: np.ndarray[Any, Any]) -> list[int]:
    """The frames that begin a scene: they differ much from the one before, and much more than two frames on either side
    of them do among themselves. A ratio to what is around, so that a film in which all moves fast is not cut up."""
    found = []
    for place in np.flatnonzero(moves >= SCENE):
        around = np.concatenate([moves[max(0, place - 2) : place], moves[place + 1 : place + 3]])
        if len(around) and moves[place] >= SCENE_TIMES * around.mean():
            found.append(int(place) + 1)
    return found


def _difference(one: Any, other: Any) -> float:
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())
