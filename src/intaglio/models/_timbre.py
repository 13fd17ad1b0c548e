"""A trained sound model at work: new sounds from seeds, reconstructions, and its timbre given to any sound.

New sounds: latents and pitch of a whole window are one trajectory; its main directions (PCA) follow a mixture of
Gaussians, and a longer sound is several trajectories faded into each other. Where the training sounds keep to certain
pitches (a scale), drawn pitches are moved to the nearest of them. Sounds are made one at a time, in float32.
Legend: Z latents, D = Z + 2 numbers of a frame (the pitch and its strength come last), L frames.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from intaglio.core.contracts import Context, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable, audio
from intaglio.models._checkpoint import export, filled, read, reading
from intaglio.models._density import Mixture
from intaglio.models._facts import Depth, Facts, Measured, Spread, Width, equal
from intaglio.models._sounds import PEAK, Sounds, path_of
from intaglio.nn import pitch
from intaglio.nn import sound as nets
from intaglio.nn.device import machine
from intaglio.nn.order import derive

MOST_WINDOWS, MOST_DIRECTIONS, MOST_KINDS = 2_048, 32, 16
GRID = torch.linspace(-3.0, 4.0, 841)  # octaves above 220 Hz, 10 cents apart
CHUNK_SECONDS = 20.0


class _Shape(Facts):
    """As ``nets.SoundShape``, which knows nothing of files."""

    rate_hz: Annotated[int, Field(ge=1_000, le=192_000)]
    width: Width
    latents: Width
    harmonics: Width = 64
    blocks: Depth = 2


class _Facts(Measured):
    shape: _Shape
    rate_hz: int
    size: Annotated[int, Field(ge=nets.HOP, le=2**22, multiple_of=nets.HOP)]
    temperature: Spread

    @model_validator(mode="after")
    def _of_one_network(self) -> Self:
        equal({"rate_hz": self.rate_hz}, {"shape.rate_hz": self.shape.rate_hz})
        return self


@dataclass(frozen=True)
class Codes:
    """Trajectories of codes (D L numbers each) as ``points`` (N, C) along ``directions`` (C, D L) around ``mean``.

    moved: to which octave a drawn pitch is moved, for each of the steps of ``GRID``.
    """

    points: Tensor
    mean: Tensor
    directions: Tensor
    moved: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint; the points stay behind, so that it holds no recording's code."""
        return {f"codes.{name}": getattr(self, name).float() for name in ("mean", "directions", "moved")}


def trajectories(model: nets.SoundNet, sounds: Sounds, windows: np.ndarray[Any, Any], size: int) -> Codes:
    """The codes of training windows that begin a sound or lie in a long one, and their main directions."""
    chosen = windows[:: -(-len(windows) // MOST_WINDOWS)]
    found, pitches = [], []
    with torch.no_grad():
        for start in range(0, len(chosen), 16):
            places = [
                (n, at) for n, at in chosen[start : start + 16].tolist() if not at or at + size <= sounds.length(n)
            ]
            part = [(sounds.window(n, at, size), sounds.tones(n, at, size)) for n, at in places]
            loud = [each for each in part if float(np.abs(each[0]).max()) > 0.05]  # tails and rests say nothing
            if loud:
                x_BT, tone = (torch.from_numpy(np.stack(each)) for each in zip(*loud, strict=True))
                z = model.encode(x_BT.to(model.spread_N.device), tone.to(model.spread_N.device))[0].cpu()
                found.append(torch.cat([z, tone], 1).flatten(1).double())
                pitches.append(tone[:, 0][tone[:, 1] > 0])
    codes = torch.cat(found)
    mean = codes.mean(0)
    _, _, right = torch.linalg.svd(codes - mean, full_matrices=False)
    count = max(1, min(MOST_DIRECTIONS, len(codes) // 3, len(right)))
    directions = right[:count]
    return Codes((codes - mean) @ directions.T, mean.float(), directions.float(), moves(torch.cat(pitches)))


def density(points_NC: Tensor, *, seed: int) -> Mixture:
    """Where trajectories lie: one Gaussian about the mean of each cluster, all of the same, pooled covariance.

    A cluster for every eight trajectories, at most 16, by k-means (the best of eight beginnings). One Gaussian for all
    would lie between the kinds of sounds, and a covariance for each would need many more sounds.
    """
    points = points_NC.double()
    count = max(1, min(MOST_KINDS, len(points) // 8))
    generator = torch.Generator().manual_seed(seed)
    best, least = points.mean(0, keepdim=True), float("inf")
    for _ in range(8 if count > 1 else 0):
        means = points[torch.randperm(len(points), generator=generator)[:count]]
        for _ in range(50):
            nearest = torch.cdist(points, means).argmin(1)
            member = F.one_hot(nearest, count).double()
            means = torch.where(
                member.any(0)[:, None], (member.T @ points) / member.sum(0)[:, None].clamp(min=1), means
            )
        spread = float((points - means[nearest]).square().sum())
        if spread < least:
            best, least = means, spread
    nearest = torch.cdist(points, best).argmin(1)
    weights = torch.bincount(nearest, minlength=len(best)).double() / len(points)
    away = points - best[nearest]
    pooled = away.T @ away / len(points)
    shrunk = 0.9 * pooled + 0.1 * torch.diag(pooled.diagonal()) + 1e-6 * torch.eye(len(pooled), dtype=torch.float64)
    return Mixture(weights, best, torch.linalg.cholesky(shrunk)[None].repeat(len(best), 1, 1))


def moves(octaves_N: Tensor) -> Tensor:
    """To which octave each step of ``GRID`` is moved, for pitches (N,) that were heard.

    Up the hill of their density (kernel of 20 cents) to its top; all the way where four fifths of the pitches lie
    within 25 cents of a top, as on a scale, and not at all where half do, as in glides, which lie near one by chance.
    """
    if not len(octaves_N):
        return GRID.clone()
    step = float(GRID[1] - GRID[0])
    counts = torch.bincount(((octaves_N - GRID[0]) / step).round().long().clamp(0, len(GRID) - 1), minlength=len(GRID))
    reach = torch.arange(-10, 11) * step
    kernel = torch.exp(-0.5 * (reach / (20 / 1200)).square())
    hill = F.conv1d(counts.double()[None, None], kernel.double()[None, None], padding=10)[0, 0]
    best = F.pad(hill, (1, 1), value=-1.0).unfold(0, 3, 1).argmax(1) + torch.arange(len(GRID)) - 1
    best = torch.where(hill > 0, best, torch.arange(len(GRID)))
    for _ in range(10):  # 2^10 steps uphill: farther than the grid is long
        best = best[best]
    near = ((GRID[best] - GRID).abs() < 25 / 1200).double()
    share = float((near * counts).sum() / counts.sum())
    pull = min(1.0, max(0.0, (share - 0.5) / 0.3))
    return GRID + pull * (GRID[best] - GRID)


def network(shape: nets.SoundShape) -> nets.SoundNet:
    """An untrained network of this shape."""
    filters = torch.from_numpy(audio.mel_bands(shape.rate_hz, nets.HEARD, nets.HEARD_BANDS)).float()
    return nets.SoundNet(shape, filters)


def read_checkpoint(folder: Path, device: str) -> tuple[nets.SoundNet, Mixture, Codes, dict[str, Any]]:
    """Network, density, directions and ``config.json``. Errors: UserError where the folder holds no such checkpoint."""
    with reading(folder, "sound"):
        tensors, facts = read(folder, "sound", _Facts, device)
        own = {name: value for name, value in tensors.items() if not name.startswith(("prior.", "codes."))}
        model = filled(lambda: network(nets.SoundShape(**facts["shape"])), own)
        stored = [tensors[f"codes.{each}"].cpu() for each in ("mean", "directions", "moved")]
        frames = stored[1].shape[1] // (model.shape.latents + 2)
        equal({"size": facts["size"]}, {"codes.directions": frames * nets.HOP})
        codes = Codes(torch.empty(0), *stored)
        prior = Mixture.of({name: value.cpu() for name, value in tensors.items() if name.startswith("prior.")})
    return model.to(device).eval(), prior, codes, facts


README = """# A model of sounds made by Intaglio

`model.safetensors` holds all weights in float32; `config.json` says the shape. A frame is 256 samples.

- `down.*`: the logarithms of 40 mel bands, four times a frame, and below them the tone (octaves above 220 Hz, and how
  strong the pitch is), (B, 162, L), to 2 * latents numbers a frame: first the means of the posterior, then its
  log-variances.
- `up.*`: codes and tone, (B, latents + 2, L), to the logarithms of levels, four times a frame: of `harmonics`
  oscillators at multiples of the pitch, then of 129 bands of noise, times `spread_N`.
- `codes.mean` (D L), `codes.directions` (C, D L): a trajectory of `size` samples is `mean` + point @ `directions`, as
  D = latents + 2 rows of L frames, the tone last. `codes.moved`: to which octave a drawn pitch is moved, from 3 octaves
  below 220 Hz to 4 above, 10 cents apart.
- `prior.weights` (K), `prior.means` (K, C), `prior.factors` (K, C, C, lower Cholesky): what points are drawn from, at
  `temperature` times their distance from the mean.

The layers are those of `SoundNet` in `intaglio/nn/sound.py`. No other library has this network. The weights inherit the
licence of the recordings they learned from.
"""


def export_folder(folder: Path, to: Path) -> list[Path]:
    """Copy the checkpoint with a page that says how to read it; returns the files."""
    *_, facts = read_checkpoint(folder, "cpu")
    return export(folder, to, facts, page=README)


class Timbre:
    """A loaded sound model; besides ``sample`` it can ``reconstruct``, ``encode`` and ``transfer``."""

    makes = "audio"

    def __init__(
        self, model: nets.SoundNet, prior: Mixture, codes: Codes, facts: Mapping[str, Any], *, threads: int
    ) -> None:
        self.model, self.prior, self.codes, self.facts, self.threads = model, prior, codes, facts, threads
        self.device = str(model.spread_N.device)
        self.rate_hz, self.size = int(facts["rate_hz"]), int(facts["size"])

    # ------------------------------------------------------------------------------------------------------ new sounds
    def draw(self, seed: int, seconds: float | None = None) -> audio.Samples:
        """A new sound (T,), of the length it learned or of ``seconds``; its peak is at most 0.9."""
        frames = self.size // nets.HOP
        wanted = frames if seconds is None else max(2, round(seconds * self.rate_hz / nets.HOP))
        generator = torch.Generator().manual_seed(seed)
        code_DL = self._trajectory(generator)
        overlap = frames // 4
        fade = torch.linspace(0, 1, overlap)
        while code_DL.shape[1] < wanted:
            more = self._trajectory(generator)
            middle = code_DL[:, -overlap:] * (1 - fade) + more[:, :overlap] * fade
            code_DL = torch.cat([code_DL[:, :-overlap], middle, more[:, overlap:]], 1)
        z_ZL, tone_2L = code_DL[:, :wanted].split([self.model.shape.latents, 2])
        smooth = F.pad(tone_2L[:1], (2, 2), mode="replicate")[0].unfold(0, 5, 1).median(1).values
        place = ((smooth - GRID[0]) / (GRID[1] - GRID[0])).round().long().clamp(0, len(GRID) - 1)
        tone_2L = torch.stack([smooth + (self.codes.moved - GRID)[place], tone_2L[1].clamp(0.0, 1.0)])
        samples = self._decode(z_ZL[None], tone_2L[None], None, seed)
        peak = float(np.abs(samples).max())
        return samples * np.float32(PEAK / peak) if peak > PEAK else samples

    def _trajectory(self, generator: torch.Generator) -> Tensor:
        point = self.prior.draw(generator, temperature=float(self.facts["temperature"]))
        return (self.codes.mean + point @ self.codes.directions).reshape(-1, self.size // nets.HOP)

    def sample(self, seeds: Sequence[int], ctx: Context, *, seconds: float | None = None) -> Iterator[Item]:
        """One WAV a seed."""
        for seed in seeds:
            yield self._item(self.draw(seed, seconds), f"sound-{seed}.wav", {"seed": seed}, ctx)

    # ------------------------------------------------------------------------------------------------ sounds of others
    def transfer(self, items: Iterable[Item], ctx: Context, *, seed: int = 0) -> Iterator[tuple[Item, Item]]:
        """Each recording with its double in the learned timbre: same length, same loudness, peak at most 0.98.

        Errors: UserError for an item that is no readable recording.
        """
        for item in items:
            samples = self._read(item, ctx)
            given = audio.loudness_lufs(samples, self.rate_hz)
            made = self.revoice(samples, derive(seed, item.id))
            made = _as_loud(made, given, self.rate_hz)
            facts = {"of": item.id, "seed": seed, "lufs_before": round(given, 2)}
            yield item, self._item(made, f"timbre-{item.id[:12]}.wav", facts, ctx)

    def reconstruct(self, items: Iterable[Item], ctx: Context) -> Iterator[tuple[Item, bytes, float]]:
        """Item, reconstruction as WAV, and its spectral distance (0 equal; silence is some 3 to 6)."""
        for item in items:
            samples = self._read(item, ctx)
            made = self.revoice(samples, derive(0, item.id))
            pair = [torch.from_numpy(np.pad(each, (0, max(0, 4096 - len(each)))))[None] for each in (samples, made)]
            yield item, audio.dump_wav(made, self.rate_hz), float(nets.spectral_distance(pair[0], pair[1])[0])

    def encode(self, items: Iterable[Item], ctx: Context) -> Iterator[Sequence[float]]:
        """The codes' mean and spread over time, 2 * latents numbers: small distances mean alike sounds."""
        for item in items:
            x_1T = self._padded(self._read(item, ctx))
            with machine(device=self.device, threads=self.threads), torch.no_grad():
                z_1ZL = self.model.encode(x_1T, self._tones(x_1T))[0]
            yield torch.cat([z_1ZL.mean(2)[0], z_1ZL.std(2, correction=0)[0]]).tolist()

    def revoice(self, samples: audio.Samples, seed: int) -> audio.Samples:
        """Encoded and decoded, some 20 seconds at a time without a seam; as many samples as were given."""
        peak = max(1e-6, float(np.abs(samples).max()))
        if peak <= 1e-5:
            return np.zeros_like(samples)
        x_1T = self._padded(np.asarray(samples * (PEAK / peak), dtype=np.float32))
        frames, lead = x_1T.shape[1] // nets.HOP, 32
        step = int(CHUNK_SECONDS * self.rate_hz) // nets.HOP
        made = []
        with machine(device=self.device, threads=self.threads), torch.no_grad():
            tone = self._tones(x_1T)
            turned = nets.cycles(tone, self.rate_hz)
            for start in range(0, frames, step):
                first, end = max(0, start - lead), min(frames, start + step + lead)
                z_1ZL = self.model.encode(x_1T[:, first * nets.HOP : end * nets.HOP], tone[:, :, first:end])[0]
                part = self._decode(z_1ZL, tone[:, :, first:end], turned[:, first:end], derive(seed, start))
                made.append(part[(start - first) * nets.HOP :][: step * nets.HOP])
        return np.concatenate(made)[: len(samples)] * np.float32(peak / PEAK)

    def speed(self, seconds: float = 4.0) -> dict[str, float]:
        """Wall seconds a second of sound takes, for timbre transfer and for new sounds; under 1 is faster than life."""
        noise = np.random.default_rng(0).normal(0, 0.1, int(seconds * self.rate_hz)).astype(np.float32)
        found = {}
        for name, call in (
            ("transfer", lambda: self.revoice(noise, 0)),
            ("sample", lambda: self.draw(0, seconds)),
        ):
            call()
            start = time.perf_counter()
            call()
            found[f"realtime_factor_{name}"] = round((time.perf_counter() - start) / seconds, 4)
        return found

    # ------------------------------------------------------------------------------------------------------------ parts
    def _read(self, item: Item, ctx: Context) -> audio.Samples:
        try:
            path = path_of(item, ctx)
            samples = audio.load(path)
            return audio.resample(samples, audio.probe(path, decode=False).rate_hz, self.rate_hz)
        except Unreadable as error:
            raise UserError(t("{origin} is no recording: {reason}", origin=item.origin, reason=error)) from error

    def _padded(self, samples: audio.Samples) -> Tensor:
        length = max(8, -(-len(samples) // nets.HOP)) * nets.HOP
        return torch.from_numpy(np.pad(samples, (0, length - len(samples))))[None].to(self.device)

    def _tones(self, x_1T: Tensor) -> Tensor:
        return pitch.pitch(x_1T[0].cpu(), self.rate_hz, hop=nets.HOP)[None].to(self.device)

    def _decode(self, z_1ZL: Tensor, tone_12L: Tensor, cycles_1L: Tensor | None, seed: int) -> audio.Samples:
        generator = torch.Generator(device=self.device).manual_seed(seed)
        with machine(device=self.device, threads=self.threads), torch.no_grad():
            noise = nets.white_noise(1, z_1ZL.shape[2], generator)
            made = self.model.decode(z_1ZL.to(self.device), tone_12L.to(self.device), noise, cycles_1L)
        return np.nan_to_num(made[0].cpu().numpy()).astype(np.float32)

    def _item(self, samples: audio.Samples, name: str, facts: Mapping[str, Any], ctx: Context) -> Item:
        data = audio.dump_wav(samples, self.rate_hz)
        meta = {"rate_hz": self.rate_hz, "channels": 1, "seconds": round(len(samples) / self.rate_hz, 6)}
        meta["lufs"] = round(audio.loudness_lufs(samples, self.rate_hz), 2)
        file = ctx.put(data, name=name, mime="audio/wav")
        return Item(media="audio", files=(file,), meta={**meta, **facts})


def _as_loud(made: audio.Samples, lufs: float, rate_hz: int) -> audio.Samples:
    """At this loudness, unless its peak would pass 0.98."""
    now = audio.loudness_lufs(made, rate_hz)
    if min(now, lufs) <= audio.SILENCE_LUFS:
        return made
    gain = min(10.0 ** ((lufs - now) / 20.0), 0.98 / max(1e-6, float(np.abs(made).max())))
    return np.asarray(made * np.float32(gain), dtype=np.float32)
