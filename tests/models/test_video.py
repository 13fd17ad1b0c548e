"""The video model: films as they come, clips and loops cut from them, training, clips made, pictures set in motion."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from intaglio.core.contracts import Item, Machine, Size
from intaglio.core.errors import UserError
from intaglio.generate import clip as generator
from intaglio.media import video as films
from intaglio.models import _video as fn
from intaglio.models import _video_figures as told
from intaglio.models import _video_films as cutting
from intaglio.models import vae, video
from intaglio.models._pictures import Form
from intaglio.nn.checkpoint import load_tensors
from tests.support import DEVICE, ItemList, RunContext

SIDE, FPS = 16, 8


def square(number: int, frames: int, *, side: int = SIDE, turn: bool = False, still: bool = False) -> np.ndarray:
    """A bright square going right (and in again at the left) before a dark ground: uint8 [T, 3, side, side]."""
    whole = np.full((frames, 3, side, side), 20, dtype=np.uint8)
    for frame in range(frames):
        place = 0 if still else frame * (side // frames if turn else 1)
        columns = (np.arange(5) + number + place) % side
        for channel, value in enumerate((240, 120 + number, 60)):
            whole[frame, channel, 4 + number % 5 : 9 + number % 5, columns] = value
    return whole


def item(ctx: RunContext, frames: np.ndarray, number: int, *, fps: float = FPS, split: str = "train") -> Item:
    name = f"{number:02d}.mp4"
    file = ctx.put(films.dump_mp4(frames, fps, quality=8), name=name, mime="video/mp4")
    return Item(media="video", files=(file,), origin=name, split=split)


def squares(ctx: RunContext, count: int = 12, heldout: int = 4, **how: Any) -> list[Item]:
    return [
        item(ctx, square(n, 10, **how), n, split="heldout" if n >= count else "train") for n in range(count + heldout)
    ]


def component(**values: Any) -> video.Component:
    return video.Component(video.Config(**{**video.TINY, **values}))


def fitted(root: Path, items: list[Item] | None = None, **values: Any) -> tuple[RunContext, dict[str, Any]]:
    ctx = RunContext(root)
    return ctx, dict(component(**values).fit(ItemList(items or squares(ctx)), ctx))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContext, dict[str, Any]]:
    return fitted(tmp_path_factory.mktemp("video"), clips=480, width=32)


def read(data: Path) -> tuple[np.ndarray, float, str]:
    """Frames, rate and codec as PyAV itself tells them."""
    with av.open(str(data)) as film:
        stream = film.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        return np.stack(frames), float(stream.average_rate), stream.codec_context.name


def made(ctx: RunContext, component_: video.Component | None = None) -> Any:
    return (component_ or component()).load(ctx.out, device=DEVICE, threads=1)


# ------------------------------------------------------------------------------------------------------------ training
@pytest.mark.slow
def test_training_beats_what_knows_no_motion(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, metrics = trained
    curve = [row[1] for row in metrics["curve"]]
    assert np.mean(curve[-10:]) < 0.3 * np.mean(curve[:5]), "the loss falls"
    assert metrics["heldout_loss"] < metrics["heldout_baseline_loss"]
    assert metrics["heldout_first_frame_rmse"] == 0.0
    assert metrics["motion"] == pytest.approx(metrics["motion_of_heldout"], rel=0.6)
    assert metrics["train_clips"] == 12 * 5 and metrics["heldout_clips"] == 4
    names = {path.name for path in ctx.out.iterdir()}
    assert names == {
        "model.safetensors", "config.json", "curve.csv", "samples.png", "samples.webp", "animated.png",
    }  # fmt: skip
    with Image.open(ctx.out / "samples.webp") as animation:
        assert animation.n_frames == 6
    assert any(name.startswith("step-") for name in ctx.previews)
    load_tensors(ctx.out / "model.safetensors")


@pytest.mark.slow
def test_samples_are_films_of_the_promised_shape(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, _ = trained
    model = made(ctx, component(publish_px=32))
    one, two = model.sample([1, 2], ctx)
    assert one.media == "video" and one.files[0].mime == "video/mp4" and one.id != two.id
    frames, rate, codec = read(ctx.path(one.files[0]))
    assert frames.shape == (one.meta["frames"], one.meta["height_px"], one.meta["width_px"], 3) == (6, 256, 256, 3)
    assert rate == one.meta["fps"] == FPS and codec == "h264" and one.meta["seconds"] == 0.75
    again = list(model.sample([9, 2, 8, 7, 6], ctx))
    assert again[1].id == two.id, "a clip depends on its seed alone"


@pytest.mark.slow
def test_a_picture_is_the_first_frame_of_its_clip(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, _ = trained
    model = made(ctx)
    buffer = io.BytesIO()
    picture = square(3, 1)[0]
    Image.fromarray(picture.transpose(1, 2, 0)).save(buffer, "PNG")
    still = Item(media="image", files=(ctx.put(buffer.getvalue(), name="p.png", mime="image/png"),), text="a square")
    (clip,) = model.animate([still], [5], ctx)
    frames, _, _ = read(ctx.path(clip.files[0]))
    first = np.asarray(Image.fromarray(frames[0]).resize((SIDE, SIDE), Image.Resampling.BOX)).transpose(2, 0, 1)
    assert np.abs(first.astype(float) - picture).mean() < 6, "H.264 loses no more"
    assert np.abs(np.diff(frames.astype(float), axis=0)).mean() > 1, "and it moves"
    config = generator.Config(model=("m",), items=("i",), mode="animate", count=3)
    found = list(generator.Component(config).generate({"model": [model], "items": [ItemList([still])]}, ctx))
    assert len(found) == 3 and all(each.parents == (still.id,) and each.text == "a square" for each in found)
    assert len({each.meta["seed"] for each in found}) == 3


@pytest.mark.slow
def test_a_loop_joins_its_end_to_its_start(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    items = [item(ctx, square(n, 8, turn=True), n, split="heldout" if n > 11 else "train") for n in range(16)]
    ctx, metrics = fitted(tmp_path, items, loop=True, frames=8, clips=400, width=32)
    assert any("12 of 12" in text for text in ctx.warnings), "films that go round are taken whole"
    assert metrics["seam_of_heldout"] == pytest.approx(1.0, abs=0.2)
    assert metrics["seam"] == pytest.approx(1.0, abs=0.35)
    (clip,) = made(ctx).sample([1], ctx)
    assert clip.meta["loop"] is True
    asked = generator.Component(generator.Config(model=("m",), loop=False))
    with pytest.raises(UserError, match="join end to start"):
        list(asked.generate({"model": [made(ctx)]}, ctx))


@pytest.mark.slow
def test_codes_of_a_vae_travel_with_the_checkpoint(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path / "vae")
    pictures = []
    for number in range(48):
        buffer = io.BytesIO()
        Image.fromarray(square(number % 16, 1)[0].transpose(1, 2, 0)).save(buffer, "PNG")
        pictures.append(Item(media="image", files=(ctx.put(buffer.getvalue(), name="p.png", mime="image/png"),)))
    autoencoder = vae.Component(vae.Config(**{**vae.TINY, "net": "map"}))
    autoencoder.fit(ItemList(pictures), ctx)
    here = RunContext(tmp_path, inputs={"codes": [autoencoder.load(ctx.out, device=DEVICE, threads=1)]})
    values = {key: value for key, value in video.TINY.items() if key != "size_px"}
    made_ = video.Component(video.Config(**values, codes=("map",)))
    made_.fit(ItemList(squares(here)), here)
    (clip,) = made_.load(here.out, device=DEVICE, threads=1).sample([1], here)
    assert clip.meta["native_px"] == SIDE
    to = made_.export(here.out, tmp_path / "exported")
    assert {path.name for path in to} == {"model.safetensors", "config.json", "README.md"}
    assert (tmp_path / "exported" / "codes" / "model.safetensors").exists()


# ----------------------------------------------------------------------------------------------------- cutting of clips
def films_of(ctx: RunContext, items: list[Item], **cut: Any) -> cutting.Films:
    how = cutting.Cut(**{"frames": 6, "fps": FPS, "loop": False, **cut})
    return cutting.gather(ItemList(items), Form(size_px=SIDE, channels=3), how, ctx)


def test_clips_are_frames_that_follow_each_other(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    films_ = films_of(ctx, squares(ctx, 2, 1))
    clips = films_.clips(train=True)
    assert clips[:, 0].tolist() == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert films_.rows(clips[5:6]).tolist() == [[10, 11, 12, 13, 14, 15]]
    assert films_.clips(train=False)[:, 0].tolist() == [20], "held-out clips stand side by side"
    assert np.abs(films_.frames[10:20].astype(int) - square(1, 10)).mean() < 5
    again = films_of(ctx, [], frames=6)
    assert np.array_equal(again.frames, films_.frames), "what was gathered is taken up"


def test_loops_go_round_or_there_and_back(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    items = [item(ctx, square(0, 16, turn=True), 0), item(ctx, square(1, 10), 1)]
    films_ = films_of(ctx, items, frames=8, loop=True)
    assert films_.joined.tolist() == [True, False]
    clips = films_.clips(train=True)
    assert films_.rows(clips[:1]).tolist() == [[0, 2, 4, 6, 8, 10, 12, 14]], "a whole turn, at twice the pace"
    assert films_.rows(clips[:1], np.array([3])).tolist() == [[6, 8, 10, 12, 14, 0, 2, 4]]
    assert films_.rows(clips[1:2]).tolist() == [[16, 17, 18, 19, 20, 19, 18, 17]]


def test_no_clip_goes_across_a_change_of_scene(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path / "cut")
    films_ = films_of(ctx, [item(ctx, np.concatenate([square(0, 9), 255 - square(1, 11)]), 0)])
    assert films_.scenes.tolist() == [9]
    assert films_.clips(train=True)[:, 0].tolist() == [0, 1, 2, 3, 9, 10, 11, 12, 13, 14]
    ctx = RunContext(tmp_path / "long")
    films_ = films_of(ctx, [item(ctx, np.concatenate([square(0, 5), 255 - square(1, 5)]), 0)], frames=8)
    assert len(films_.clips(train=True)) == 3 and any("change of scene" in text for text in ctx.warnings)


def test_a_film_in_which_all_moves_fast_is_not_cut_up(tmp_path: Path) -> None:
    ctx, chance = RunContext(tmp_path), np.random.default_rng(0)
    flicker = chance.integers(0, 255, (12, 3, 1, 1)) + np.zeros((1, 1, SIDE, SIDE))
    assert not len(films_of(ctx, [item(ctx, flicker.astype(np.uint8), 0)]).scenes)


def test_mixed_sizes_and_rates_are_brought_to_one_and_said(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    items = squares(ctx, 2, 1) + [item(ctx, square(5, 40, side=32), 9, fps=32.0)]
    seen = cutting.look(ItemList(items), ctx)
    assert seen == cutting.Seen(16, 8.0, False)
    assert len([text for text in ctx.warnings if "several" in text]) == 2
    films_ = films_of(ctx, items)
    assert films_.train == 3 and np.diff(films_.starts).tolist() == [10, 10, 10, 10]


def test_short_films_are_left_out_and_counted(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    films_ = films_of(ctx, [*squares(ctx, 2, 0), item(ctx, square(5, 3), 9)])
    assert films_.train == 2 and films_.skipped == 1
    assert any("09.mp4: 3 frames" in text for text in ctx.warnings)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("none", "the named steps hold none"),
        ("short", "no film has 6 frames"),
        ("still", "nothing moves"),
        ("broken", "none of the 1 films can be read"),
        ("picture", "none of the 1 films can be read"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_before_work(tmp_path: Path, bad: str, said: str) -> None:
    ctx = RunContext(tmp_path)
    broken = ctx.put(films.dump_mp4(square(0, 9), 8)[:400], name="b.mp4", mime="video/mp4")
    items = {
        "none": [Item(media="text", text="no film")],
        "short": [item(ctx, square(0, 3), 0)],
        "still": [item(ctx, square(0, 9, still=True), 0)],
        "broken": [Item(media="video", files=(broken,), origin="b.mp4")],
        "picture": [Item(media="video", origin="nothing")],
    }[bad]
    with pytest.raises(UserError, match=said):
        component().fit(ItemList(items), ctx)
    assert not list(ctx.out.iterdir())


def test_codes_must_be_a_map(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path, inputs={"codes": [object()]})
    with pytest.raises(UserError, match="keeps no map"):
        component(codes=("x",)).fit(ItemList(squares(ctx, 2, 1)), ctx)


# ------------------------------------------------------------------------------------------------------------- figures
def test_motion_and_seam_against_sums() -> None:
    clips = fn.torch.zeros(1, 4, 1, 2, 2, dtype=fn.torch.uint8)
    clips[0, 1:] = 51
    clips[0, 3] = 102
    assert told.motion(clips) == pytest.approx((0.2 + 0 + 0.2) / 3, abs=1e-5)
    assert told.seam(clips) == pytest.approx(0.4 / (0.4 / 3), abs=1e-4)


def test_loss_leaves_out_the_frame_that_is_given() -> None:
    """A field that is right everywhere but in the first frame has no loss where that frame is given."""
    torch = fn.torch
    shape = fn.Shape(size_px=8, channels=1, width=16, blocks=1, patch=1, frames=4, loop=False)
    torch.manual_seed(0)
    noise, x = torch.randn(2, 4, 1, 8, 8), torch.ones(2, 4, 1, 8, 8)
    x[:, 0] = 3.0
    model, half = fn.Velocity(shape), torch.full((2,), 0.5)
    model.net.last.bias.data[:] = torch.tensor([1.0, -100.0])  # all is expected to be 1, nothing of the first frame
    whole, moved = fn.motion_loss(model, noise, x, half)
    assert whole.tolist() == pytest.approx([0.0, 0.0], abs=1e-3)
    assert moved.tolist() == pytest.approx([((3 - 1) / 0.5) ** 2] * 2, rel=1e-3), "the first frame alone is all wrong"
    found = fn.picture_loss(model, noise[:, :1], x[:, :1], half)
    assert found.tolist() == pytest.approx([((1 - 3) / 0.5) ** 2] * 2, rel=1e-3)


def test_estimate_grows_with_what_is_asked_and_nothing_is_computed() -> None:
    machine = Machine("cpu", 1, 100.0, 200.0, 8 * 2**30)
    small, more = (component(clips=count).estimate(Size(items=10), machine) for count in (100, 10_000))
    assert more.seconds > 3 * small.seconds and more.bytes == small.bytes
    assert component(size_px=32).estimate(Size(items=10), machine).bytes > small.bytes


@pytest.mark.parametrize(
    ("values", "said"),
    [({"mode": "animate"}, "needs pictures"), ({"items": ("x",)}, "starts from nothing")],
)
def test_the_generator_says_what_a_mode_needs(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        generator.Config(model=("m",), **values)


def test_the_generator_refuses_other_models(tmp_path: Path) -> None:
    class Painter:
        makes = "image"

    made_ = generator.Component(generator.Config(model=("m",)))
    with pytest.raises(UserError, match="makes image, not films"):
        list(made_.generate({"model": [Painter()]}, RunContext(tmp_path)))


def test_films_that_are_all_the_same_are_named(tmp_path: Path) -> None:
    for name, numbers, alike in (("same", (1, 1, 1), True), ("one", (1,), False), ("other", (1, 1, 2), False)):
        ctx = RunContext(tmp_path / name)
        items = [item(ctx, square(number, 10), place) for place, number in enumerate(numbers)]
        found = cutting.gather(ItemList(items), Form(size_px=SIDE, channels=3), cutting.Cut(6, FPS, loop=False), ctx)
        assert found.alike is alike, name
