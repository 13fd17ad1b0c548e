"""The sound model: data as it comes, training in two phases, resume to the same bits, new sounds, timbre, bad input."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from intaglio.core.contracts import Item, Machine, Size
from intaglio.core.errors import UserError
from intaglio.generate import sound as generator
from intaglio.media import audio
from intaglio.models import _hearing, sound
from intaglio.models._sounds import gather
from intaglio.models._timbre import GRID, density, moves
from intaglio.nn import pitch
from intaglio.nn.checkpoint import load_tensors
from tests.support import DEVICE, ItemList, RunContext, assert_same_files, train_apart

RATE_HZ = 8000


def ping(number: int, seconds: float = 0.6, rate_hz: int = RATE_HZ) -> audio.Samples:
    chance = np.random.default_rng(number)
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    wave = np.exp(-time_s * chance.uniform(4, 14)) * np.sin(2 * np.pi * chance.uniform(150, 900) * time_s)
    return (0.7 * wave).astype(np.float32)


def item(ctx: RunContext, samples: audio.Samples, number: int, *, rate_hz: int = RATE_HZ, split: str = "train") -> Item:
    name = f"{number:02d}.wav"
    file = ctx.put(audio.dump_wav(samples, rate_hz), name=name, mime="audio/wav")
    return Item(media="audio", files=(file,), origin=name, split=split)


def pings(ctx: RunContext, count: int = 12, heldout: int = 3) -> list[Item]:
    return [item(ctx, ping(n), n, split="heldout" if n >= count else "train") for n in range(count + heldout)]


def component(**values: Any) -> sound.Component:
    return sound.Component(sound.Config(**{**sound.TINY, **values}))


def fitted(root: Path, **values: Any) -> tuple[RunContext, dict[str, Any]]:
    ctx = RunContext(root)
    return ctx, dict(component(**values).fit(ItemList(pings(ctx)), ctx))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContext, dict[str, Any]]:
    return fitted(tmp_path_factory.mktemp("sound"), steps=60, adversarial=0.33)


def test_training_leaves_figures_and_samples(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, metrics = trained
    assert metrics["train_sounds"] == 12 and metrics["heldout_sounds"] == 3 and metrics["rate_hz"] == RATE_HZ
    assert metrics["train_sound_seconds"] == pytest.approx(7.2, abs=0.1)
    assert metrics["heldout_noise_baseline_mel_db"] > 0 and metrics["heldout_silence_baseline_distance"] > 0
    assert 0.8 < metrics["heldout_pitch_share"] <= 1.0 and 0.0 <= metrics["heldout_peak_share"] <= 1.0
    assert metrics["heldout_noise_baseline_pitch_share"] < 0.5 * metrics["heldout_pitch_share"]
    assert metrics["drawn_mel_frechet"] > 0 and metrics["train_mel_frechet"] > 0
    made = {path.name for path in ctx.out.iterdir()}
    assert {"model.safetensors", "config.json", "curve.csv", "curve-adversarial.csv", "samples.png"} <= made
    assert {"reconstructions.png", "sample-0.wav"} <= made
    assert any(name.startswith("a-") for name in ctx.previews) and any(name.startswith("b-") for name in ctx.previews)
    assert ctx.warnings == ["only 7 seconds of sound to learn from: it will know little else"]


def test_the_distance_falls(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, _ = trained
    rows = (ctx.out / "curve.csv").read_text().splitlines()[1:]
    losses = [float(row.split(",")[1]) for row in rows]
    assert losses[-1] < 0.8 * losses[0]


def test_clean_tones_with_quiet_tails_are_learned_not_silenced(tmp_path: Path) -> None:
    """From levels far above such tails every seed tried fell silent within a dozen steps."""

    def tone(number: int, rate_hz: int = 22_050) -> audio.Samples:
        time_s, hz = np.arange(2 * rate_hz) / rate_hz, 110.0 * 2 ** (number / 12)
        partials = [np.sin(2 * np.pi * order * hz * time_s) / order for order in range(1, 6)]
        return (0.3 * np.exp(-3 * time_s) * sum(partials)).astype(np.float32)

    ctx = RunContext(tmp_path, seed=7)
    items = [item(ctx, tone(n), n, rate_hz=22_050, split="heldout" if n % 6 == 5 else "train") for n in range(16)]
    model = sound.Component(sound.Config(data="sounds", size="tiny", steps=24))
    metrics = model.fit(ItemList(items), ctx)
    assert metrics["heldout_distance"] < 0.8 * metrics["heldout_silence_baseline_distance"]
    assert not [each for each in ctx.warnings if "diverged" in each]


def test_the_encoder_is_still_in_the_second_phase(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, _ = trained
    first = load_tensors(ctx.work / "first" / "best.safetensors")[0]
    last = load_tensors(ctx.out / "model.safetensors")[0]
    assert all(last[name].equal(value) for name, value in first.items() if name.startswith("down."))
    assert not all(last[name].equal(value) for name, value in first.items() if name.startswith("up."))


def test_equal_seeds_give_equal_sounds(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, _ = trained
    model = component().load(ctx.out, device=DEVICE, threads=1)
    first, again, other = (next(iter(model.sample([seed], ctx))) for seed in (5, 5, 6))
    assert first.id == again.id != other.id
    assert first.files[0].mime == "audio/wav" and first.meta["rate_hz"] == RATE_HZ
    samples = audio.load(ctx.path(first.files[0]))
    assert len(samples) == round(first.meta["seconds"] * RATE_HZ) and np.abs(samples).max() <= 0.901
    long = next(iter(model.sample([5], ctx, seconds=2.0)))
    assert long.meta["seconds"] == pytest.approx(2.0, abs=0.04)


def test_transfer_keeps_the_pitch(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, _ = trained
    model = component().load(ctx.out, device=DEVICE, threads=1)
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    for hz in (196.0, 330.0, 587.33):
        given = (0.5 * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)
        octaves, strength = pitch.pitch(torch.from_numpy(model.revoice(given, 0)[:15_872]), RATE_HZ, hop=256)
        sure = octaves[8:-8][strength[8:-8] > 0]
        assert len(sure) > 30 and abs(1200 * float(sure.median() - np.log2(hz / 220))) < 10


def test_the_tones_of_a_window_lie_where_its_samples_lie(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, _ = trained
    sounds = gather(ItemList(pings(ctx)), RATE_HZ, ctx)
    whole = sounds.tones(3, 0, 16 * 256)
    assert whole.shape == (2, 16) and (sounds.starts % 256 == 0).all()
    np.testing.assert_array_equal(sounds.tones(3, 512, 14 * 256), whole[:, 2:])
    np.testing.assert_allclose(sounds.tones(3, 128, 15 * 256), (whole[:, :-1] + whole[:, 1:]) / 2, atol=1e-6)
    after = sounds.tones(3, 0, 40 * 256)
    length = sounds.length(3) // 256
    assert not after[1, length:].any() and (after[0, length:] == after[0, length - 1]).all()
    np.testing.assert_array_equal(whole, pitch.pitch(torch.from_numpy(sounds.sound(3)), RATE_HZ, hop=256)[:, :16])


def test_drawn_pitches_keep_to_a_scale_but_glides_stay() -> None:
    chance = torch.Generator().manual_seed(0)
    scale = torch.tensor([-9.0, -7.0, -5.0, -4.0, -2.0, 0.0, 2.0, 3.0]) / 12
    heard = scale[torch.randint(8, (4000,), generator=chance)] + 0.05 / 12 * torch.randn(4000, generator=chance)
    moved = moves(heard)
    for wanted in scale.tolist():
        for off in (-0.3, 0.0, 0.3):  # semitones
            at = int((GRID - (wanted + off / 12)).abs().argmin())
            assert abs(float(moved[at]) - wanted) < 0.011  # a step of the grid, and a bit
    glides = torch.rand(4000, generator=chance) * 3 - 1.5
    assert float((moves(glides) - GRID).abs().max()) < 0.5 / 12
    torch.testing.assert_close(moves(torch.empty(0)), GRID)


def test_the_density_tells_kinds_apart() -> None:
    """Two far clouds: draws lie in either, none between, and spread as the clouds do; few points are one cloud."""
    chance = torch.Generator().manual_seed(0)
    clouds = 0.5 * torch.randn(64, 3, generator=chance)
    clouds[:32, 0] += 20.0
    found = density(clouds, seed=1)
    assert float(found.weights_K.sum()) == pytest.approx(1.0) and len(found.means_KZ) == 8
    draws = torch.stack([found.draw(chance) for _ in range(400)])
    far = draws[:, 0] > 10
    assert 0.4 < float(far.double().mean()) < 0.6
    assert float(draws[far, 0].mean()) == pytest.approx(20.0, abs=0.3)
    assert float(draws[:, 1].std()) == pytest.approx(0.5, abs=0.15)
    assert not ((draws[:, 0] > 3) & (draws[:, 0] < 17)).any()
    assert len(density(clouds[:7], seed=1).means_KZ) == 1


def test_figures_tell_the_same_sound_from_another() -> None:
    x = torch.from_numpy(np.stack([ping(n) for n in range(6)]))[:, :4608]
    low = torch.from_numpy(np.stack([ping(n, rate_hz=int(RATE_HZ * 2 ** (1 / 12))) for n in range(6)]))[:, :4608]
    assert _hearing.pitch_share(x, x, RATE_HZ) == _hearing.peak_share(x, x, RATE_HZ) == 1.0
    assert _hearing.pitch_share(x, low, RATE_HZ) == 0.0  # a semitone lower
    assert _hearing.pitch_share(x, 0 * x, RATE_HZ) == _hearing.peak_share(x, 0 * x, RATE_HZ) == 0.0
    same, other = (_hearing.mel_frechet(x, each, RATE_HZ) for each in (x, 0.25 * x))
    assert same == pytest.approx(0.0, abs=1e-6) and other > 1.0


def test_transfer_keeps_length_and_loudness(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, _ = trained
    model = component().load(ctx.out, device=DEVICE, threads=1)
    for rate_hz, seconds in ((8000, 1.7), (22_050, 0.9)):
        given = item(ctx, 0.2 * ping(99, seconds, rate_hz), 99, rate_hz=rate_hz)
        ((before, after),) = model.transfer([given], ctx)
        made = audio.load(ctx.path(after.files[0]))
        assert before.id == given.id and after.meta["of"] == given.id
        assert len(made) == pytest.approx(seconds * RATE_HZ, abs=2)
        heard = audio.loudness_lufs(audio.load(ctx.path(given.files[0]), RATE_HZ), RATE_HZ)
        assert audio.loudness_lufs(made, RATE_HZ) == pytest.approx(heard, abs=0.3)
        assert audio.clipped_share(made) == 0.0
    ((_, silent),) = model.transfer([item(ctx, np.zeros(4000, dtype=np.float32), 98)], ctx)
    assert not audio.load(ctx.path(silent.files[0])).any()


def test_long_sounds_are_made_in_parts_without_a_seam(
    trained: tuple[RunContext, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from intaglio.models import _timbre

    ctx, _ = trained
    model = component().load(ctx.out, device=DEVICE, threads=1)
    decode = type(model.model).decode  # without its noise, which is drawn anew for each part
    monkeypatch.setattr(
        type(model.model), "decode", lambda self, z, tone, _, turned: decode(self, z, tone, None, turned)
    )
    samples = np.concatenate([ping(n) for n in range(10)])
    whole = model.revoice(samples, 0)
    monkeypatch.setattr(_timbre, "CHUNK_SECONDS", 1.5)
    np.testing.assert_allclose(model.revoice(samples, 0), whole, atol=1e-5)


def test_reconstruct_encode_export(trained: tuple[RunContext, dict[str, Any]], tmp_path: Path) -> None:
    ctx, _ = trained
    model = component().load(ctx.out, device=DEVICE, threads=1)
    items = pings(ctx)[:2]
    found = list(model.reconstruct(items, ctx))
    assert [each.id for each, _, _ in found] == [each.id for each in items]
    assert all(audio.probe(wav).rate_hz == RATE_HZ and 0 < distance < 10 for _, wav, distance in found)
    codes = list(model.encode(items, ctx))
    assert len(codes[0]) == 8 and codes[0] != codes[1]
    assert [path.name for path in component().export(ctx.out, tmp_path / "to")] == [
        "model.safetensors",
        "config.json",
        "README.md",
    ]
    again = component().load(tmp_path / "to", device=DEVICE, threads=1)
    assert next(iter(again.sample([1], ctx))).id == next(iter(model.sample([1], ctx))).id
    with pytest.raises(UserError, match="no sound checkpoint"):
        component().load(tmp_path, device=DEVICE, threads=1)


# ------------------------------------------------------------------------------------------ generate
def test_generate_new_and_timbre(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, _ = trained
    model = component().load(ctx.out, device=DEVICE, threads=1)
    new = list(
        generator.Component(generator.Config(model=("m",), count=3, seconds=0.5)).generate({"model": [model]}, ctx)
    )
    assert len({each.id for each in new}) == 3 and all(each.meta["kind"] == "sound" for each in new)
    given = [*pings(ctx)[:2], item(ctx, np.zeros(4000, dtype=np.float32), 77)]
    config = generator.Config(model=("m",), items=("a",), mode="timbre")
    made = list(generator.Component(config).generate({"model": [model], "items": [ItemList(given)]}, ctx))
    assert [each.parents for each in made] == [(each.id,) for each in given[:2]]
    assert "1 sounds were silent and were left out" in ctx.warnings
    for values in ({"mode": "timbre"}, {"mode": "timbre", "items": ("a",), "seconds": 2.0}):
        with pytest.raises(ValueError):
            generator.Config(model=("m",), **values)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ bad input
def test_bad_recordings_are_left_out_and_said(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    broken = ping(1)
    broken[10] = np.inf
    out = io.BytesIO()
    soundfile.write(out, broken, RATE_HZ, format="WAV", subtype="FLOAT")
    nan = Item(media="audio", files=(ctx.put(out.getvalue(), name="n.wav", mime="audio/wav"),), origin="n.wav")
    stereo = item(ctx, np.stack([ping(50, 1.0, 11_025)] * 2), 50, rate_hz=11_025)
    clipped = item(ctx, np.clip(20 * ping(51), -1, 1), 51)
    short, silent = item(ctx, ping(52)[:200], 52), item(ctx, np.zeros(8000, dtype=np.float32), 53)
    items = [nan, stereo, clipped, short, silent, *pings(ctx)]
    metrics = sound.Component(sound.Config(**{**sound.TINY, "rate_hz": None})).fit(ItemList(items), ctx)
    assert (metrics["skipped"], metrics["rate_hz"], metrics["train_sounds"]) == (3, RATE_HZ, 14)
    said = " | ".join(ctx.warnings)
    for words in (
        "several rates (8000, 11025 Hz)",
        "3 recordings were left out",
        "no numbers",
        "1 recordings are clipped",
    ):
        assert words in said, words


def test_too_little_is_refused_before_work(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    with pytest.raises(UserError, match="too little"):
        component().fit(ItemList(pings(ctx, 2, 0)), ctx)
    assert not (ctx.work / "first").exists()
    with pytest.raises(UserError, match="holds none|hold none"):
        component().fit(ItemList([]), ctx)


def test_estimate_grows_with_the_work() -> None:
    machine = Machine("cpu", 1, 50.0, 100.0, 8 << 30)
    tiny, small = (
        component(size=size, steps=None, width=None).estimate(Size(100), machine) for size in ("tiny", "small")
    )
    assert small.seconds > 3 * tiny.seconds and small.bytes >= tiny.bytes


# ------------------------------------------------------------------------------------------ resume
@pytest.mark.slow
def test_killed_in_both_phases_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    config = {"steps": 200, "adversarial": 0.5}
    call = f"fitted(root, **{config!r})"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fitted(whole, **config)
    for phase in ("first", "second"):
        train_apart(__file__, call, killed, kill_at=f"work/{phase}/good.safetensors")
        assert not (killed / "out" / "config.json").exists(), "it ended before it was killed: lengthen it"
    train_apart(__file__, call, killed)
    assert_same_files(whole / "out", killed / "out")


def test_one_recording_is_enough_to_run_and_alike_ones_are_said(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path / "one")
    metrics = dict(component(steps=2).fit(ItemList([item(ctx, ping(1, seconds=4.0), 1)]), ctx))
    assert all(value == value for value in metrics.values())
    assert "no recording is held out: figures are of the training sounds" in ctx.warnings
    ctx = RunContext(tmp_path / "alike")
    component(steps=2).fit(ItemList([item(ctx, ping(1), n) for n in range(6)]), ctx)
    assert "the recordings are all the same" in ctx.warnings


def test_what_would_not_fit_and_files_of_notes_are_refused_before_work(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    with pytest.raises(UserError, match="GB of memory") as caught:
        component(batch=256, seconds=10.0, rate_hz=48000, width=512).fit(ItemList(pings(ctx)), ctx)
    assert "batch" in caught.value.fix and not list(ctx.work.iterdir())
    file = ctx.put(b"MThd\0\0\0\6\0\0\0\1\0`", name="a.mid", mime="audio/midi")
    with pytest.raises(UserError, match="the first: a.mid") as caught:
        component(rate_hz=None).fit(ItemList([Item(media="audio", files=(file,), origin="a.mid")]), ctx)
    assert 'use = "music"' in caught.value.fix
