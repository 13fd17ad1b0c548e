"""Sound: learns a kind of recording as a code in time, makes new ones, and gives any sound the timbre it learned.

Paper:   Engel et al. (2020), "DDSP", arXiv:2001.04643: a decoder that sets the levels of oscillators at a given pitch
         and of filtered noise; Caillon and Esling (2021), "RAVE", arXiv:2111.05011 (a variational code in time,
         spectral distances, then the decoder alone against a critic); Ghosh et al. (2020), arXiv:1903.12436 (drawing
         from a density fitted to the codes afterwards, here of whole trajectories).
Code:    written from the papers; differs in: the pitch is found by autocorrelation, not by a network, and levels
         come four times a latent frame; drawn pitches keep to the scale of the data.
Licence: ours. Weights inherit the licence of the recordings they learned from.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from intaglio.core.config import Names, Role, StepConfig
from intaglio.core.contracts import Context, Dataset, Estimate, Machine, Size
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.media import audio
from intaglio.models._checkpoint import reading, write
from intaglio.models._cost import nominal
from intaglio.models._hearing import figures, mel_frechet, sheet
from intaglio.models._room import check_room
from intaglio.models._sounds import FEW_SECONDS, Sounds, choose_rate, gather
from intaglio.models._timbre import Timbre, density, export_folder, network, read_checkpoint, trajectories
from intaglio.nn import parallel
from intaglio.nn import sound as nets
from intaglio.nn.checkpoint import write_atomic
from intaglio.nn.cost import operations
from intaglio.nn.device import machine
from intaglio.nn.likelihoods import kl_nats
from intaglio.nn.loop import Plan, train
from intaglio.nn.optim import adamw
from intaglio.nn.order import derive, rows


class Config(StepConfig):
    """Keys of ``[models.x]`` with ``use = "sound"``; all but ``data`` have defaults that follow from size and data.

    data:        the recordings, of one kind: one instrument, one sort of effect. size: ``tiny``, ``small``, ``base``.
    rate_hz:     samples a second it works at; left out: that of most recordings, at most 22,050 (base: 32,000).
    seconds:     length of the windows it learns from and of the new sounds; left out: the median length, 0.5 to 1.5.
    width:       channels of the networks. latents: numbers a frame of 256 samples becomes.
    beta:        weight of the KL term, which keeps the code smooth. steps: updates in all. batch: windows an update.
    adversarial: share of the steps in which the decoder learns against a critic, at the end; 0, as given: none.
    learning_rate: the peak. temperature: how far new sounds stray from the centre of what was learned.
    """

    data: Annotated[Names, Role(stages=("data", "optimize"), media=("audio",))]
    size: Literal["tiny", "small", "base"] = "small"
    rate_hz: int | None = Field(default=None, ge=8_000, le=48_000)
    seconds: float | None = Field(default=None, ge=0.1, le=10.0)
    width: int | None = Field(default=None, ge=8, le=512, multiple_of=8)
    latents: int | None = Field(default=None, ge=1, le=128)
    beta: float = Field(default=0.003, ge=0.0, le=10.0)
    steps: int | None = Field(default=None, ge=2)
    batch: int = Field(default=4, ge=1, le=256)
    adversarial: float = Field(default=0.0, ge=0.0, le=0.8)
    learning_rate: float = Field(default=3e-3, gt=0.0, le=0.1)
    temperature: float = Field(default=0.8, ge=0.0, le=2.0)


TINY: dict[str, Any] = {
    "data": "sounds", "size": "tiny", "rate_hz": 8000, "seconds": 0.25, "width": 8, "latents": 4, "steps": 24,
    "batch": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Dial:
    """What ``size`` stands for: largest rate, channels, latents, updates."""

    rate_hz: int
    width: int
    latents: int
    steps: int


DIALS = {
    "tiny": Dial(22_050, 32, 16, 1_500),
    "small": Dial(22_050, 64, 16, 8_000),
    "base": Dial(32_000, 96, 32, 40_000),
}
JUDGED = 32  # held-out sounds each evaluation takes in
LIKENESS, HINGE = 0.5, 0.1  # weights of the two parts of the decoder's task beside the spectral distance


class Component:
    """The model stage ``sound``."""

    takes = ("audio",)
    makes = "audio"

    def __init__(self, config: Config) -> None:
        self.config = config

    def estimate(self, size: Size, machine: Machine) -> Estimate:
        """Seconds and bytes; the length of the windows is that of ``seconds``, else a second."""
        config, dial = self.config, DIALS[self.config.size]
        samples = config.batch * (config.seconds or 1.0) * (config.rate_hz or dial.rate_hz)
        shape, steps = self._shape(config.rate_hz or dial.rate_hz), config.steps or dial.steps
        work = 3.0 * samples * _work_per_sample(shape)
        spectra = samples * 8e-7  # seconds: six transforms forward and back, the harmonics' sines; hardly threaded
        each = work / (1e9 * max(1.0, machine.gflops * 0.35)) + spectra
        seconds = 5.0 + steps * each * (1.0 + config.adversarial) + 0.04 * (size.items or 100)
        return Estimate(seconds, int(450_000_000 + samples * (shape.width * 16 + 800)))

    def _shape(self, rate_hz: int) -> nets.SoundShape:
        config, dial = self.config, DIALS[self.config.size]
        return nets.SoundShape(
            rate_hz=rate_hz, width=config.width or dial.width, latents=config.latents or dial.latents
        )

    def fit(self, data: Dataset, ctx: Context) -> Mapping[str, Any]:
        """Train on the recordings of ``data``; see ``contracts.Model.fit``.

        Errors: UserError where there is nothing, or less than two seconds, to learn from.
        """
        recordings = data.of("audio")
        if not len(recordings):
            raise UserError(
                t("sound learns from recordings, and the named steps hold none"),
                where=f"[models.{ctx.step}]",
                fix=t("name a data step with recordings in 'data'"),
            )
        with machine(device=ctx.device, threads=ctx.threads) as device:
            rate_hz = self.config.rate_hz or choose_rate(recordings, DIALS[self.config.size].rate_hz, ctx)
            sized = Component(self.config.model_copy(update={"rate_hz": rate_hz}))
            need = sized.estimate(Size(items=len(recordings)), nominal(ctx.device, ctx.threads)).bytes
            check_room(need, ctx, fix=t("lower seconds, rate_hz, width or batch"))
            sounds = gather(recordings, rate_hz, ctx)
            seconds = sounds.seconds(train=True)
            if seconds < FEW_SECONDS:
                text = t("only {seconds:.0f} seconds of sound to learn from: it will know little else", seconds=seconds)
                ctx.warn(text)
            first = sounds.sound(0)
            if sounds.train > 1 and all(np.array_equal(first, sounds.sound(n)) for n in range(1, sounds.train)):
                ctx.warn(t("the recordings are all the same"))
            if not sounds.heldout:
                ctx.warn(t("no recording is held out: figures are of the training sounds"))
            return self._fit(sounds, ctx, device)

    def _fit(self, sounds: Sounds, ctx: Context, device: torch.device) -> dict[str, Any]:
        config, shape = self.config, self._shape(sounds.rate_hz)
        steps = config.steps or DIALS[config.size].steps
        late = round(steps * config.adversarial)
        torch.manual_seed(derive(ctx.seed, "init"))
        model, critic = network(shape).to(device), nets.Critic().to(device)
        lesson = Lesson(model, critic, sounds, config, ctx)
        lesson.scale()
        identity = {"shape": asdict(shape), "rate_hz": sounds.rate_hz, "seconds": lesson.size / sounds.rate_hz}
        identity |= {"batch": config.batch, "beta": config.beta, "count": len(sounds.starts)}
        shared: dict[str, Any] = {"accumulate": lesson.share.parts, "per_step": lesson.per_step, "unit": "s/s"}
        plan = Plan(steps=max(1, steps - late), seed=ctx.seed, cooldown=0.7, **shared)
        first = train(
            model,
            lesson.reconstruction,
            optimizers=[adamw(model.parameters(), lr=config.learning_rate, betas=(0.8, 0.99))],
            plan=plan,
            work=_folder(ctx.work / "first"),
            report=ctx,
            evaluate=lesson.evaluate,
            preview=lesson.preview,
            identity=identity,
            say=t,
        )
        metrics: dict[str, Any] = {"steps": steps, "first_heldout_distance": round(float(first.best_loss or 0.0), 5)}
        seconds, curve = first.seconds, first.csv()
        if late:
            pair = nn.ModuleDict({"up": model.up, "critic": critic})
            model.down.requires_grad_(False)
            rate = config.learning_rate / 4
            plan = Plan(steps=late, seed=derive(ctx.seed, 2), ema=0.99, clip=5.0, **shared)
            lesson.share = parallel.Share(config.batch, seed=plan.seed)
            second = train(
                pair,
                lesson.adversarial,
                optimizers=[adamw(pair["up"].parameters(), lr=rate, betas=(0.5, 0.9)),
                            adamw(critic.parameters(), lr=rate, betas=(0.5, 0.9))],
                plan=plan,
                work=_folder(ctx.work / "second"),
                report=ctx,
                preview=lesson.preview,
                identity=identity | {"first": first.steps},
                say=t,
            )  # fmt: skip
            seconds += second.seconds
            write_atomic(ctx.out / "curve-adversarial.csv", second.csv())
        write_atomic(ctx.out / "curve.csv", curve)
        metrics |= lesson.close()
        metrics |= {"train_seconds": round(seconds, 1), "learned_s_per_s": round(steps * lesson.per_step / seconds, 2)}
        return metrics

    def load(self, folder: Path, *, device: str, threads: int) -> Timbre:
        """The checkpoint, ready to make sounds and to give its timbre to others."""
        with reading(folder, "sound"):
            return Timbre(*read_checkpoint(folder, device), threads=threads)

    def export(self, folder: Path, to: Path) -> list[Path]:
        """safetensors, ``config.json`` and a ``README.md`` that says how to read them; no other library has this
        network."""
        return export_folder(folder, to)


class Lesson:
    """What the two trainings call: the loss of a step, the held-out distance, and something to look at."""

    def __init__(self, model: nets.SoundNet, critic: nets.Critic, sounds: Sounds, config: Config, ctx: Context) -> None:
        self.model, self.critic, self.sounds, self.config, self.ctx = model, critic, sounds, config, ctx
        self.device = model.spread_N.device
        self.share = parallel.Share(config.batch, seed=ctx.seed)
        median = float(np.median(np.diff(sounds.starts[: sounds.train + 1]))) / sounds.rate_hz
        seconds = config.seconds or min(1.5, max(0.5, median))
        self.size = max(8, round(seconds * sounds.rate_hz / nets.HOP)) * nets.HOP
        self.windows = sounds.windows(self.size)
        self.per_step = config.batch * self.size / sounds.rate_hz
        judged = range(sounds.train, len(sounds.starts) - 1) if sounds.heldout else range(sounds.train)
        chosen = list(judged[:: max(1, len(judged) // JUDGED)])[:JUDGED]
        self.judged_BT = self._tensor(np.stack([sounds.window(number, 0, self.size) for number in chosen]))
        self.judged_tone = self._tensor(np.stack([sounds.tones(number, 0, self.size) for number in chosen]))

    def _tensor(self, samples: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(samples).to(self.device)

    def scale(self) -> None:
        """Tell the model how loud the bands of the noise are, from some training windows, and have noise and harmonics
        begin near the levels they usually have: from far above them a training falls into silence."""
        chosen = self.windows[:: max(1, len(self.windows) // 256)][:256].tolist()
        x_BT = self._tensor(np.stack([self.sounds.window(number, place, self.size) for number, place in chosen]))
        tone = self._tensor(np.stack([self.sounds.tones(number, place, self.size) for number, place in chosen]))
        window = torch.hann_window(nets.NOISE, device=self.device)
        spectrum = torch.stft(x_BT, nets.NOISE, nets.FINE, window=window, pad_mode="constant", return_complex=True)
        white = window.square().sum() / 3  # power of the noise that is shaped: uniform in [-1, 1]
        power_NX = (spectrum.abs().square() / white).transpose(0, 1).flatten(1)
        spread = power_NX.mean(1).sqrt()
        self.model.spread_N.copy_(spread.clamp(min=float(spread.max()) * 1e-4))
        noise_N = torch.stack([nets.usual(each) for each in power_NX]) - self.model.spread_N.log()
        self.model.begin_at(nets.harmonic_levels(x_BT, tone, self.model.shape), noise_N)

    def batch(self, micro: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, T), tones, noise of the code and of the sound: windows in an order known from the step, moved and turned
        over by chance; of an update that is shared, the part that ``micro`` is."""
        step, own = self.share(micro, generator)
        batch, found, tones = self.config.batch, [], []
        chosen = rows(step, batch=batch, count=len(self.windows), seed=self.ctx.seed)
        chance = torch.rand(batch, 2, generator=generator, device=self.device).cpu().numpy()
        for (number, start), (shift, sign) in zip(self.windows[chosen[own]], chance[own], strict=True):
            room = max(
                0, self.sounds.length(number) - self.size
            )  # a long sound's windows move; a short one keeps its onset
            moved = min(room, max(0, int(start + (shift - 0.5) * self.size))) if room else 0
            found.append(self.sounds.window(int(number), moved, self.size) * (1 if sign < 0.5 else -1))
            tones.append(self.sounds.tones(int(number), moved, self.size))
        frames = self.size // nets.HOP
        jitter = torch.randn(batch, self.model.shape.latents, frames, generator=generator, device=self.device)[own]
        hiss = nets.white_noise(batch, frames, generator)[own]
        return self._tensor(np.stack(found).astype(np.float32)), self._tensor(np.stack(tones)), jitter, hiss

    def reconstruction(self, micro: int, generator: torch.Generator) -> Tensor:
        """Spectral distance and KL of the micro-batch (RAVE, eq. 6)."""
        x_BT, tone, jitter, hiss = self.batch(micro, generator)
        mean, logvar = self.model.encode(x_BT, tone)
        made = self.model.decode(mean + jitter * (0.5 * logvar).exp(), tone, hiss)
        kl = kl_nats(mean.flatten(1), logvar.flatten(1)).mean() / mean[0].numel()
        return nets.spectral_distance(x_BT, made, nets.LESSONS).mean() + self.config.beta * kl

    def adversarial(self, micro: int, generator: torch.Generator) -> Tensor:
        """Both tasks at once: the decoder's, through a critic held still, and the critic's, on sounds held still."""
        x_BT, tone, jitter, hiss = self.batch(micro, generator)
        with torch.no_grad():
            mean, logvar = self.model.encode(x_BT, tone)
        made = self.model.decode(mean + jitter * (0.5 * logvar).exp(), tone, hiss)
        self.critic.requires_grad_(False)
        real_answers, real = self.critic(x_BT)
        answers, fake = self.critic(made)
        hinge = -torch.stack([each.mean() for each in answers]).mean()
        task = (
            nets.spectral_distance(x_BT, made, nets.LESSONS).mean()
            + LIKENESS * nets.likeness_loss(real, fake)
            + HINGE * hinge
        )
        self.critic.requires_grad_(True)
        real_answers, _ = self.critic(x_BT)
        fake_answers, _ = self.critic(made.detach())
        return task + nets.critic_loss(real_answers, fake_answers)

    def rebuilt(self, count: int | None = None) -> Tensor:
        """The held-out windows, or the first ``count``, encoded and decoded, (B, T)."""
        x_BT, tone = self.judged_BT[:count], self.judged_tone[:count]
        generator = torch.Generator(device=self.device).manual_seed(derive(self.ctx.seed, "noise"))
        noise = nets.white_noise(len(x_BT), self.size // nets.HOP, generator)
        with torch.no_grad():
            return self.model.decode(self.model.encode(x_BT, tone)[0], tone, noise)

    def evaluate(self) -> Tensor:
        """Spectral distance of each held-out window."""
        return nets.spectral_distance(self.judged_BT, self.rebuilt())

    def preview(self, step: int) -> None:
        """Spectrograms of held-out windows above what the model makes of them."""
        x_BT = self.judged_BT[:4]
        phase = "b" if not next(self.model.down.parameters()).requires_grad else "a"
        self.ctx.preview(f"{phase}-step-{step:05d}.png", sheet([x_BT, self.rebuilt(4)], self.sounds.rate_hz))

    def close(self) -> dict[str, Any]:
        """Fit the density of codes, write the checkpoint and the sheets, and measure."""
        model, sounds, config, out = self.model.eval(), self.sounds, self.config, self.ctx.out
        codes = trajectories(model, sounds, self.windows, self.size)
        prior = density(codes.points, seed=derive(self.ctx.seed, "density"))
        facts: dict[str, Any] = {"kind": "sound", "shape": asdict(model.shape), "rate_hz": sounds.rate_hz}
        facts |= {"size": self.size, "temperature": config.temperature}
        where = "heldout" if sounds.heldout else "train"
        found = figures(self.judged_BT, self.rebuilt(), sounds.rate_hz, seed=self.ctx.seed)
        metrics: dict[str, Any] = {f"{where}_{name}": value for name, value in found.items()}
        metrics |= {"rate_hz": sounds.rate_hz, "latents": model.shape.latents, "skipped": sounds.skipped}
        metrics |= {"train_sounds": sounds.train, "heldout_sounds": sounds.heldout}
        metrics["train_sound_seconds"] = round(sounds.seconds(train=True), 1)
        metrics["parameters"] = sum(p.numel() for p in model.parameters())
        made = Timbre(model, prior, codes, facts, threads=self.ctx.threads)
        draws = [made.draw(derive(self.ctx.seed, "sheet", n)) for n in range(max(12, len(self.judged_BT)))]
        metrics |= self.likeness(torch.from_numpy(np.stack(draws[: len(self.judged_BT)])))
        tensors = {**model.state_dict(), **codes.tensors(), **prior.tensors()}
        write(out, tensors, facts | {"metrics": metrics})  # without the times below: equal runs, equal bytes
        metrics |= made.speed()
        write_atomic(out / "reconstructions.png", sheet([self.judged_BT[:6], self.rebuilt(6)], sounds.rate_hz))
        rows_BT = [torch.from_numpy(np.stack(draws[n : n + 6])) for n in (0, 6)]
        write_atomic(out / "samples.png", sheet(rows_BT, sounds.rate_hz))
        for number, samples in enumerate(draws[:4]):
            write_atomic(out / f"sample-{number}.wav", audio.dump_wav(samples, sounds.rate_hz))
        return metrics

    def likeness(self, drawn_BT: Tensor) -> dict[str, float]:
        """Distance of the short pieces of new sounds, and of as many training sounds, to held-out ones."""
        judged, count = self.judged_BT.cpu(), len(self.judged_BT)
        chosen = range(0, self.sounds.train, max(1, self.sounds.train // count))[:count]
        train = torch.from_numpy(np.stack([self.sounds.window(number, 0, self.size) for number in chosen]))
        rate_hz = self.sounds.rate_hz
        found = {"drawn": mel_frechet(judged, drawn_BT, rate_hz), "train": mel_frechet(judged, train, rate_hz)}
        return {f"{name}_mel_frechet": round(value, 3) for name, value in found.items()}


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@functools.lru_cache(maxsize=16)
def _work_per_sample(shape: nets.SoundShape) -> float:
    """Floating-point operations a sample forward through encoder and decoder; counted without computing."""
    frames = 64
    heard = torch.zeros(1, nets.HEARD_BANDS * nets.HOP // nets.FINE + 2, frames)
    z = torch.zeros(1, shape.latents + 2, frames)
    flops, _ = operations(lambda: network(shape), lambda model: (model.down(heard), model.up(z)))
    return flops / (frames * nets.HOP) + 6 * shape.harmonics
