"""A trained sound model at work: new sounds from seeds, reconstructions, and its timbre given to any sound.

New sounds: the codes of a whole window are one trajectory; its main directions (PCA) follow a Gaussian mixture, and a
longer sound is several trajectories faded into each other. Sounds are made one at a time, in float32.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from intaglio.core.contracts import Context, Item
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import Unreadable, audio, image
from intaglio.models._checkpoint import read, reading
from intaglio.models._density import Mixture
from intaglio.models._sounds import PEAK, Sounds, path_of
from intaglio.nn import sound as nets
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.device import machine
from intaglio.nn.order import derive

FILES = ("model.safetensors", "config.json")
MOST_WINDOWS, MOST_DIRECTIONS = 2_048, 32
CHUNK_SECONDS = 20.0


@dataclass(frozen=True)
class Codes:
    """Trajectories of codes (D numbers each) as ``points`` (N, P) along ``directions`` (P, D) around ``mean`` (D,)."""

    points: Tensor
    mean: Tensor
    directions: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint; the points stay behind, so that it holds no recording's code."""
        return {"codes.mean": self.mean.float(), "codes.directions": self.directions.float()}


def trajectories(model: nets.SoundNet, sounds: Sounds, windows: np.ndarray[Any, Any], size: int) -> Codes:
    """The codes of training windows that begin a sound or lie in a long one, and their main directions."""
    chosen = windows[:: -(-len(windows) // MOST_WINDOWS)]
    found = []
    with torch.no_grad():
        for start in range(0, len(chosen), 16):
            part = [sounds.window(int(number), int(place), size) for number, place in chosen[start : start + 16]]
            loud = [samples for samples in part if float(np.abs(samples).max()) > 0.05]  # tails and rests say nothing
            if loud:
                x_BT = torch.from_numpy(np.stack(loud)).to(model.spread_M.device)
                found.append(model.encode(x_BT)[0].flatten(1).double().cpu())
    codes = torch.cat(found)
    mean = codes.mean(0)
    _, _, right = torch.linalg.svd(codes - mean, full_matrices=False)
    count = max(1, min(MOST_DIRECTIONS, len(codes) // 3, len(right)))
    directions = right[:count]
    return Codes((codes - mean) @ directions.T, mean.float(), directions.float())


def read_checkpoint(folder: Path, device: str) -> tuple[nets.SoundNet, Mixture, Codes, dict[str, Any]]:
    """Network, density, directions and ``config.json``. Errors: UserError where the folder holds no such checkpoint."""
    with reading(folder, "sound"):
        tensors, facts = read(folder, "sound", device)
        model = nets.SoundNet(nets.SoundShape(**facts["shape"]))
        own = {name: value for name, value in tensors.items() if not name.startswith(("prior.", "codes."))}
        model.load_state_dict(own)
        codes = Codes(torch.empty(0), tensors["codes.mean"].cpu(), tensors["codes.directions"].cpu())
        prior = Mixture.of({name: value.cpu() for name, value in tensors.items() if name.startswith("prior.")})
    return model.to(device).eval(), prior, codes, facts


def export_folder(folder: Path, to: Path) -> list[Path]:
    """The checkpoint's two files, copied."""
    to.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        write_atomic(to / name, (folder / name).read_bytes())
    return [to / name for name in FILES]


class Timbre:
    """A loaded sound model; besides ``sample`` it can ``reconstruct``, ``encode`` and ``transfer``."""

    makes = "audio"

    def __init__(
        self, model: nets.SoundNet, prior: Mixture, codes: Codes, facts: Mapping[str, Any], *, threads: int
    ) -> None:
        self.model, self.prior, self.codes, self.facts, self.threads = model, prior, codes, facts, threads
        self.device = str(model.spread_M.device)
        self.rate_hz, self.size = int(facts["rate_hz"]), int(facts["size"])

    # ------------------------------------------------------------------------------------------------------ new sounds
    def draw(self, seed: int, seconds: float | None = None) -> audio.Samples:
        """A new sound (T,), of the length it learned or of ``seconds``; its peak is at most 0.9."""
        frames = self.size // nets.HOP
        wanted = frames if seconds is None else max(2, round(seconds * self.rate_hz / nets.HOP))
        generator = torch.Generator().manual_seed(seed)
        z_ZL = self._trajectory(generator)
        overlap = frames // 4
        fade = torch.linspace(0, 1, overlap)
        while z_ZL.shape[1] < wanted:
            more = self._trajectory(generator)
            middle = z_ZL[:, -overlap:] * (1 - fade) + more[:, :overlap] * fade
            z_ZL = torch.cat([z_ZL[:, :-overlap], middle, more[:, overlap:]], 1)
        samples = self._decode(z_ZL[None, :, :wanted], seed)
        peak = float(np.abs(samples).max())
        return samples * np.float32(PEAK / peak) if peak > PEAK else samples

    def _trajectory(self, generator: torch.Generator) -> Tensor:
        point = self.prior.draw(generator, temperature=float(self.facts["temperature"]))
        return (self.codes.mean + point @ self.codes.directions).reshape(self.model.shape.latents, -1)

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
            with machine(device=self.device, threads=self.threads), torch.no_grad():
                z_1ZL = self.model.encode(self._padded(self._read(item, ctx)))[0]
            yield torch.cat([z_1ZL.mean(2)[0], z_1ZL.std(2, correction=0)[0]]).tolist()

    def revoice(self, samples: audio.Samples, seed: int) -> audio.Samples:
        """Encoded and decoded, some 20 seconds at a time, faded into each other; as many samples as were given."""
        peak = max(1e-6, float(np.abs(samples).max()))
        if peak <= 1e-5:
            return np.zeros_like(samples)
        scaled = np.asarray(samples * (PEAK / peak), dtype=np.float32)
        step = int(CHUNK_SECONDS * self.rate_hz) // nets.HOP * nets.HOP
        lead = 32 * nets.HOP
        made = np.zeros(len(samples), dtype=np.float32)
        for start in range(0, len(samples), step):
            first = max(0, start - lead)
            part = scaled[first : start + step + lead]
            with machine(device=self.device, threads=self.threads), torch.no_grad():
                z_1ZL = self.model.encode(self._padded(part))[0]
            out = self._decode(z_1ZL, derive(seed, start))[start - first :][: len(samples) - start]
            whole = min(len(out), step)
            made[start : start + whole] = out[:whole]
        return made * np.float32(peak / PEAK)

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

    def _decode(self, z_1ZL: Tensor, seed: int) -> audio.Samples:
        generator = torch.Generator(device=self.device).manual_seed(seed)
        with machine(device=self.device, threads=self.threads), torch.no_grad():
            made = self.model.decode(z_1ZL.to(self.device), generator)[0].cpu().numpy()
        return np.nan_to_num(made).astype(np.float32)

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


def figures(x_BT: Tensor, made_BT: Tensor, rate_hz: int, *, seed: int) -> dict[str, float]:
    """Spectral distance and mean mel difference in dB of reconstructions, beside silence and shaped noise."""
    filters = torch.from_numpy(audio.mel_bands(rate_hz, 1024, 64)).float().to(x_BT)
    noise = _alike_noise(x_BT, seed)
    found: dict[str, float] = {}
    for name, other in (("", made_BT), ("silence_baseline_", torch.zeros_like(x_BT)), ("noise_baseline_", noise)):
        mel = (nets.mel_db(x_BT, filters) - nets.mel_db(other, filters)).abs().mean()
        found[f"{name}distance"] = round(float(nets.spectral_distance(x_BT, other).mean()), 4)
        found[f"{name}mel_db"] = round(float(mel), 3)
    found["clipped_share"] = round(audio.clipped_share(made_BT.cpu().numpy()), 6)
    return found


def _alike_noise(x_BT: Tensor, seed: int) -> Tensor:
    """Noise with the mean spectrum of the sounds and the loudness of each."""
    generator = torch.Generator().manual_seed(derive(seed, "alike"))
    noise = torch.fft.rfft(torch.randn(x_BT.shape, generator=generator).to(x_BT))
    shaped = torch.fft.irfft(noise * torch.fft.rfft(x_BT).abs().square().mean(0).sqrt(), x_BT.shape[1])
    level = x_BT.square().mean(1, keepdim=True).sqrt() / shaped.square().mean(1, keepdim=True).sqrt()
    return shaped * level


def sheet(rows_BT: Sequence[Tensor], rate_hz: int, *, width_px: int = 160, height_px: int = 96) -> bytes:
    """Spectrograms as PNG: one row a batch, the sounds side by side."""
    lines = []
    for batch in rows_BT:
        pictures = [
            image.load(audio.spectrogram(x.cpu().numpy(), rate_hz, width_px=width_px, height_px=height_px))
            for x in batch
        ]
        gap = np.full((height_px, 4, 3), 255, dtype=np.uint8)
        lines.append(np.concatenate([part for each in pictures for part in (np.asarray(each), gap)], 1)[:, :-4])
        lines.append(np.full((4, lines[0].shape[1], 3), 255, dtype=np.uint8))
    return image.dump(Image.fromarray(np.concatenate(lines[:-1])))
