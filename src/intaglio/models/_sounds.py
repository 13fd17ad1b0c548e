"""The recordings of a data set as one file of samples at one rate, cut into windows that are read in any order.

Every recording is mixed to one channel, resampled, brought to the same peak, so that quiet ones are learned too, and
followed by silence up to a whole number of frames; the pitch of each frame (``nn/pitch.py``) lies beside the samples.
Legend: T samples, W samples of a window, L frames of HOP samples; samples are int16 on disk, float32 in [-1, 1] in
memory, pitches float32. Train comes first, then held out.
"""

from __future__ import annotations

import collections
import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intaglio.core.contracts import Context, Dataset, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable, audio
from intaglio.nn import pitch
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.sound import HOP

PEAK = 0.9
SHORTEST_SECONDS = 0.05
SILENT_PEAK = 1e-3  # -60 dB re full scale
LEAST_SECONDS = 2.0
FEW_SECONDS = 30.0
TONES = "tones.f32"


@dataclass(frozen=True)
class Sounds:
    """samples: int16, all sounds one after another. tones_L2: octaves and strength of each frame.
    starts: int64, where each begins, and the end. train: how many."""

    samples: np.ndarray[Any, Any]
    tones_L2: np.ndarray[Any, Any]
    starts: np.ndarray[Any, Any]
    train: int
    rate_hz: int
    skipped: int

    @property
    def heldout(self) -> int:
        return len(self.starts) - 1 - self.train

    def seconds(self, *, train: bool) -> float:
        ends = (0, self.train) if train else (self.train, len(self.starts) - 1)
        return float(self.starts[ends[1]] - self.starts[ends[0]]) / self.rate_hz

    def length(self, number: int) -> int:
        """Samples of sound ``number``."""
        return int(self.starts[number + 1] - self.starts[number])

    def sound(self, number: int, most: int | None = None) -> audio.Samples:
        """Sound ``number``, at most its first ``most`` samples."""
        start, end = int(self.starts[number]), int(self.starts[number + 1])
        end = end if most is None else min(end, start + most)
        return np.asarray(self.samples[start:end], dtype=np.float32) / np.float32(32768)

    def windows(self, size: int) -> np.ndarray[Any, Any]:
        """int64 [count, 2]: sound and place within it of every window of the training sounds, ``size`` apart."""
        lengths = np.diff(self.starts[: self.train + 1])
        counts = np.maximum(1, -(-lengths // size))
        which = np.repeat(np.arange(self.train), counts)
        place = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.stack([which, place * size], 1)

    def window(self, number: int, start: int, size: int) -> audio.Samples:
        """``size`` samples of a sound from ``start``, silence after its end."""
        first = int(self.starts[number]) + start
        cut = self.samples[first : min(first + size, int(self.starts[number + 1]))]
        return np.pad(np.asarray(cut, dtype=np.float32) / np.float32(32768), (0, size - len(cut)))

    def tones(self, number: int, start: int, size: int) -> np.ndarray[Any, Any]:
        """(2, size / HOP): pitch of ``window``, on straight lines between frames; after the end without strength."""
        first, end = int(self.starts[number]) // HOP, int(self.starts[number + 1]) // HOP
        place = start / HOP + np.arange(size // HOP)
        left = np.minimum(first + np.floor(place).astype(np.int64), end - 1)
        right = np.minimum(left + 1, end - 1)
        share = (place - np.floor(place))[:, None].astype(np.float32)
        found = self.tones_L2[left] * (1 - share) + self.tones_L2[right] * share
        found[first + place >= end, 1::2] = 0.0
        return np.ascontiguousarray(found.T, dtype=np.float32)


def path_of(item: Item, ctx: Context) -> Path:
    """The first file of an item that is a recording. Errors: Unreadable where it has none."""
    for file in item.files:
        if file.mime.startswith("audio/"):
            return ctx.path(file)
    raise Unreadable(t("the item has no recording"))


def choose_rate(data: Dataset, largest_hz: int, ctx: Context) -> int:
    """The rate most of some 200 recordings have, but at most ``largest_hz``; says so where rates are mixed.

    Errors: UserError where no recording can be read.
    """
    found: collections.Counter[int] = collections.Counter()
    reason = ""
    for item in itertools.islice(data, 0, None, max(1, len(data) // 192)):
        try:
            found[audio.probe(path_of(item, ctx), decode=False).rate_hz] += 1
        except (Unreadable, FileNotFoundError) as error:
            reason = reason or f"{item.origin}: {error}"
    if not found:
        raise UserError(
            t("none of the {count} recordings can be read; the first: {reason}", count=len(data), reason=reason),
            where=f"[models.{ctx.step}]",
            fix=t('look at the data step: intaglio show; of MIDI files learns use = "music"'),
        )
    rate = min(largest_hz, found.most_common(1)[0][0])
    if len(found) > 1:
        rates = ", ".join(str(each) for each in sorted(found))
        ctx.warn(
            t("the recordings have several rates ({rates} Hz); all are resampled to {rate} Hz", rates=rates, rate=rate)
        )
    return rate


def gather(data: Dataset, rate_hz: int, ctx: Context) -> Sounds:
    """Decode all recordings into ``ctx.work`` and follow their pitch, or take up what an earlier call finished there.

    Left out and said: unreadable, silent and very short ones.
    Errors: UserError where less than two seconds are left to learn from, or the disk is too small.
    """
    raw, note = ctx.work / "sounds.i16", ctx.work / "sounds.json"
    table = ctx.work / "sounds.starts"
    if not (note.exists() and raw.exists() and json.loads(note.read_text("utf-8")).get("rate_hz") == rate_hz):
        note.unlink(missing_ok=True)
        counts = _write(data, rate_hz, ctx, raw, table)
        _follow(raw, np.fromfile(table, dtype=np.int64), rate_hz, ctx)
        write_atomic(note, json.dumps({"rate_hz": rate_hz, **counts}).encode())
    counts = json.loads(note.read_text("utf-8"))
    starts = np.fromfile(table, dtype=np.int64)
    seconds = float(starts[counts["train"]]) / rate_hz
    if seconds < LEAST_SECONDS:
        raise UserError(
            t("{seconds:.1f} seconds of sound are too little to learn from", seconds=seconds),
            where=f"[models.{ctx.step}]",
            fix=t("add recordings: from half a minute on it begins to work, a few minutes are better"),
        )
    samples = np.memmap(raw, dtype=np.int16, mode="r")
    tones = np.memmap(ctx.work / TONES, dtype=np.float32, mode="r").reshape(-1, 2)
    return Sounds(samples, tones, starts, counts["train"], rate_hz, counts["skipped"])


def _follow(raw: Path, starts: np.ndarray[Any, Any], rate_hz: int, ctx: Context) -> None:
    samples = np.memmap(raw, dtype=np.int16, mode="r") if raw.stat().st_size else np.zeros(0, dtype=np.int16)
    with (ctx.work / TONES).open("wb") as file:
        for number, (start, end) in enumerate(itertools.pairwise(starts.tolist())):
            x_T = torch.from_numpy(np.asarray(samples[start:end], dtype=np.float32) / np.float32(32768))
            pitch.pitch(x_T, rate_hz, hop=HOP).T.contiguous().numpy().tofile(file)
            if number % 32 == 31:
                ctx.progress(number + 1, len(starts) - 1, pitches=number + 1)


def _write(data: Dataset, rate_hz: int, ctx: Context, raw: Path, table: Path) -> dict[str, int]:
    counts = {"train": 0, "heldout": 0, "skipped": 0, "clipped": 0}
    reason, end = "", 0
    with raw.open("wb") as file, table.open("wb") as starts:
        np.array([0], dtype=np.int64).tofile(starts)
        for split in ("train", "heldout"):
            for item in data.split(split):
                try:
                    samples, clipped = _prepared(item, rate_hz, ctx)
                except (Unreadable, FileNotFoundError) as error:
                    counts["skipped"] += 1
                    reason = reason or f"{item.origin}: {error}"
                    continue
                _refuse_small_disk(ctx.work, samples.nbytes)
                samples.tofile(file)
                end += len(samples)
                np.array([end], dtype=np.int64).tofile(starts)
                counts[split] += 1
                counts["clipped"] += clipped
                done = counts["train"] + counts["heldout"] + counts["skipped"]
                if done % 32 == 0:
                    ctx.progress(done, len(data), recordings=done)
    if counts["skipped"]:
        text = t("{count} recordings were left out; the first: {reason}", count=counts["skipped"], reason=reason)
        ctx.warn(text)
    if counts["clipped"]:
        ctx.warn(t("{count} recordings are clipped; their distortion is learned too", count=counts["clipped"]))
    return counts


def _prepared(item: Item, rate_hz: int, ctx: Context) -> tuple[np.ndarray[Any, Any], bool]:
    """int16 samples at the common rate and peak, and whether the recording was clipped. Errors: Unreadable."""
    path = path_of(item, ctx)
    samples = audio.load(path)
    clipped = audio.clipped_share(samples) > 1e-3
    samples = audio.resample(samples, audio.probe(path, decode=False).rate_hz, rate_hz)
    if len(samples) < SHORTEST_SECONDS * rate_hz:
        raise Unreadable(t("shorter than {seconds} seconds", seconds=SHORTEST_SECONDS))
    peak = float(np.abs(samples).max())
    if peak < SILENT_PEAK:
        raise Unreadable(t("it is silent"))
    found = np.rint(samples * (PEAK / peak * 32767)).astype(np.int16)
    return np.pad(found, (0, -len(found) % HOP)), clipped


def _refuse_small_disk(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            t("the samples take more room on disk than the {free:.1f} GB that are free", free=free / 1e9),
            fix=t("lower rate_hz, or make room"),
        )
