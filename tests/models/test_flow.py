"""The flow as a component: training, prints, conditions, variations, filling, codes of a vae, resume, bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from intaglio.core.contracts import Context, Item, Machine, Size
from intaglio.core.errors import UserError
from intaglio.models import _conditions, flow, vae
from intaglio.models import _flow as fn
from intaglio.models._pictures import Form, Shard
from tests.support import DEVICE, ItemList, RunContext, assert_same_files, train_apart

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def square(number: int, colour: str, side: int = 16) -> np.ndarray[Any, Any]:
    """A square of one colour on white, its place and size following from ``number``."""
    rng = np.random.default_rng(number)
    top, left = rng.integers(2, 6, 2)
    pixels = np.full((side, side, 3), 255, dtype=np.uint8)
    pixels[top : top + rng.integers(6, 9), left : left + rng.integers(6, 9)] = COLOURS[colour]
    return pixels


def squares(ctx: RunContext, count: int, *, heldout: int = 0) -> ItemList:
    items = []
    for number in range(count + heldout):
        colour = ("red", "blue")[number % 2]
        file = ctx.put(png(square(number, colour)), name=f"{number}.png", mime="image/png")
        split = "train" if number < count else "heldout"
        items.append(Item(media="image", text=f"a {colour} square", files=(file,), split=split, meta={"label": colour}))
    return ItemList(items)


def fitted(root: Path, config: dict[str, Any] | None = None, **context: Any) -> tuple[RunContext, dict[str, Any]]:
    ctx = RunContext(root, **context)
    items = squares(ctx, 48, heldout=20)
    return ctx, dict(flow.Component(flow.Config(**{**flow.TINY, **(config or {})})).fit(items, ctx))


def loaded(ctx: RunContext) -> Any:
    return flow.Component(flow.Config(**flow.TINY)).load(ctx.out, device=DEVICE, threads=1)


def array(item: Item, ctx: Context) -> np.ndarray[Any, Any]:
    with Image.open(ctx.path(item.files[0])) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContext, dict[str, Any]]:
    """A model that was told labels, trained long enough to heed them."""
    config = {"condition": "label", "images": 6_000, "width": 32, "guidance": 2.0, "publish_px": 32}
    return fitted(tmp_path_factory.mktemp("told"), config)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContext, dict[str, Any]]:
    return fitted(tmp_path_factory.mktemp("few"), {"sampler": "shortcut", "images": 6_000, "width": 32})


# ------------------------------------------------------------------------------------------ training
def test_it_learns_more_than_means_and_variances(told: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, metrics = told
    assert metrics["heldout_loss"] < 0.5 * metrics["heldout_baseline_loss"]
    assert metrics["train_pictures"] == 48 and metrics["heldout_pictures"] == 20
    assert metrics["coverage"] > 0.3 and metrics["kid_like"][0] < 1.0
    assert {path.name for path in ctx.out.iterdir()} == {"model.safetensors", "config.json", "samples.png", "curve.csv"}
    assert [name for name in ctx.previews if name.startswith("step-")]
    json.dumps(metrics, allow_nan=False)


def test_prints_depend_on_their_seed_alone(told: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, handle = told[0], loaded(told[0])
    together = list(handle.sample(list(range(20)), ctx))
    assert len({each.id for each in together}) == 20
    assert [each.id for each in handle.sample([17, 3], ctx)] == [together[17].id, together[3].id]
    assert together[0].meta["width_px"] == 32 and together[0].meta["native_px"] == 16
    assert array(together[0], ctx).shape == (32, 32, 3)


def test_asked_for_a_label_it_draws_that(told: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, handle = told[0], loaded(told[0])
    asked = ["red", "blue"] * 8
    right = 0
    for item, wish in zip(handle.sample(list(range(16)), ctx, labels=asked), asked, strict=True):
        pixels = array(item, ctx).astype(int)
        found = "red" if pixels[..., 0].sum() > pixels[..., 2].sum() else "blue"
        right += found == wish
        assert item.meta["label"] == wish and item.meta["guidance"] == 2.0
    assert right >= 14, f"{right} of 16"


def test_wishes_it_cannot_meet_are_refused(told: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, handle = told[0], loaded(told[0])
    with pytest.raises(UserError, match="never learned the label 'green'"):
        list(handle.sample([1], ctx, labels=["green"]))
    with pytest.raises(UserError, match="not told texts"):
        list(handle.sample([1], ctx, texts=["a red square"]))
    with pytest.raises(ValueError, match="one label or text a seed"):
        list(handle.sample([1, 2], ctx, labels=["red"]))


def test_captions_can_be_asked_for(tmp_path: Path) -> None:
    ctx, metrics = fitted(tmp_path, {"condition": "text", "images": 400})
    (item,) = loaded(ctx).sample([1], ctx, texts=["a blue square"])
    assert item.meta["text"] == "a blue square" and metrics["heldout_loss"] > 0


def test_a_share_of_the_conditions_is_dropped(tmp_path: Path) -> None:
    shape = fn.Shape(net="unet", size_px=16, channels=3, width=16, blocks=1, patch=1, condition=2)
    shard = Shard(np.zeros((1000, 3, 16, 16), np.uint8), 1000, Form(size_px=16, channels=3), 0)
    conditions = _conditions.Told(_conditions.Conditions("label", ("a", "b"), (0.5, 0.5)), np.arange(1000) % 2)
    ctx = RunContext(tmp_path)
    lessons = fn.Lessons(shard, None, ctx, flip=False)
    session = flow.Session(fn.Velocity(shape), lessons, conditions, flow.Config(**{**flow.TINY, "batch": 1000}), ctx)
    rows = session._conditions(np.arange(1000), torch.Generator().manual_seed(0), slice(None))
    assert rows is not None
    kept = rows.sum(1)
    assert set(kept.tolist()) == {0.0, 1.0} and 0.8 < float(kept.mean()) < 0.9
    torch.testing.assert_close(rows[kept > 0], torch.eye(2)[torch.arange(1000) % 2][kept > 0])


def test_few_steps_are_learned(few: tuple[RunContext, dict[str, Any]]) -> None:
    """One and two steps by shortcuts come nearer to what many steps make than single velocities do."""
    ctx, handle = few[0], loaded(few[0])
    noises = [handle.noise(seed) for seed in range(48)]

    def drawn(sampler: str, steps: int) -> np.ndarray[Any, Any]:
        handle.sampler, handle.steps = sampler, steps
        return np.stack([np.asarray(each, dtype=float) for each in handle.pixels(noises)])

    many = drawn("heun", 24)
    for steps in (1, 2):
        short, straight = (np.square(drawn(how, steps) - many).mean() for how in ("shortcut", "euler"))
        assert short < straight, (steps, short, straight)
    assert [name for name in ctx.previews if name.startswith("shortcut-")]
    facts = json.loads((ctx.out / "config.json").read_text())
    assert facts["sampler"] == "shortcut" and facts["steps"] == 4


# ------------------------------------------------------------------------------------------ from given pictures
def test_variations_stray_with_strength(told: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, handle = told[0], loaded(told[0])
    items = list(squares(ctx, 8))
    for through in ("inverted", "noised"):
        apart = []
        for strength in (0.05, 0.95):
            made = list(handle.vary(items, list(range(8)), ctx, strength=strength, through=through))
            pairs = [
                (array(a, ctx)[::2, ::2].astype(float), array(b, ctx).astype(float))
                for a, b in zip(made, items, strict=True)
            ]
            apart.append(np.mean([np.square(a - b).mean() for a, b in pairs]))
        assert apart[0] < 0.5 * apart[1], (through, apart)
        assert made[0].meta["of"] == items[0].id and made[0].meta["through"] == through


def test_the_noise_a_picture_comes_from_leads_back_to_it(told: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, handle = told[0], loaded(told[0])
    items = list(squares(ctx, 4))
    made = list(handle.interpolate(items[0], items[1], 3, ctx))
    first = array(made[0], ctx)[::2, ::2].astype(float)
    assert np.square(first - array(items[0], ctx)).mean() < 0.3 * np.square(first - array(items[1], ctx)).mean()
    assert [each.meta["share"] for each in made] == [0.0, 0.5, 1.0]
    assert len({each.id for each in handle.between(1, 2, 4, ctx)}) == 4


def test_filling_keeps_what_is_known(told: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, handle = told[0], loaded(told[0])
    items = list(squares(ctx, 3))
    mask = np.zeros((64, 64), dtype=bool)
    mask[:, 32:] = True
    made = list(handle.fill(items, mask, [1, 2, 3], ctx))
    for item, source in zip(made, items, strict=True):
        known = np.asarray(Image.fromarray(array(source, ctx)).resize((32, 32), Image.Resampling.LANCZOS))
        assert np.array_equal(array(item, ctx)[:, :16], known[:, :16])
        assert item.meta["filled"] == 0.5 and item.meta["of"] == source.id
    other = next(iter(handle.fill(items[:1], mask, [9], ctx)))
    assert not np.array_equal(array(other, ctx)[:, 16:], array(made[0], ctx)[:, 16:])
    with pytest.raises(UserError, match="marks nothing"):
        list(handle.fill(items, np.zeros((8, 8)), [1, 2, 3], ctx))


def test_outpainting_keeps_the_shrunken_picture(told: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, handle = told[0], loaded(told[0])
    items = list(squares(ctx, 2))
    for item, source in zip(handle.fill(items, None, [1, 2], ctx, inset=0.5), items, strict=True):
        small = array(source, ctx)
        assert np.array_equal(array(item, ctx)[8:24, 8:24], small)
        assert item.meta["filled"] == 0.75


# ------------------------------------------------------------------------------------------ codes of a vae
@pytest.mark.parametrize("net", ["map", "conv"])
def test_a_flow_over_the_codes_of_a_vae_stands_on_its_own(tmp_path: Path, net: str) -> None:
    base = RunContext(tmp_path / "vae")
    component = vae.Component(vae.Config(**{**vae.TINY, "net": net, "images": 800}))
    component.fit(squares(base, 48, heldout=20), base)
    handle = component.load(base.out, device=DEVICE, threads=1)
    ctx, metrics = fitted(tmp_path / "flow", {"codes": "eye", "size_px": None}, inputs={"codes": [handle]})
    assert metrics["heldout_loss"] > 0
    own = loaded(ctx)
    assert own.model.shape.net == ("unet" if net == "map" else "dit") and own.model.shape.dims == handle.map_shape
    made = list(own.sample([1, 2], ctx))
    items = list(squares(ctx, 2))
    made += list(own.vary(items, [1, 2], ctx, strength=0.3))
    made += list(own.fill(items, np.eye(16), [1, 2], ctx))
    assert len(made) == 6 and {each.meta["native_px"] for each in made} == {16}
    files = flow.Component(flow.Config(**flow.TINY)).export(ctx.out, tmp_path / "to")
    assert "codes" in {path.parent.name for path in files}
    with pytest.raises(UserError, match="size_px is 32"):
        fitted(tmp_path / "other", {"codes": "eye", "size_px": 32}, inputs={"codes": [handle]})


def test_only_a_vae_has_codes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has none"):
        fitted(tmp_path, {"codes": "x"}, inputs={"codes": [object()]})


# ------------------------------------------------------------------------------------------ bad input, files
def test_data_that_cannot_be_learned_from_is_refused(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    component = flow.Component(flow.Config(**flow.TINY))
    with pytest.raises(UserError, match="hold none"):
        component.fit(ItemList([Item(media="text", text="a")]), ctx)
    broken = Item(media="image", files=(ctx.put(b"no picture", name="x.png", mime="image/png"),))
    with pytest.raises(UserError, match="can be read"):
        component.fit(ItemList([broken]), ctx)
    unlabelled = ItemList([Item(media="image", files=each.files) for each in squares(ctx, 4)])
    with pytest.raises(UserError, match="have no label"):
        flow.Component(flow.Config(**{**flow.TINY, "condition": "label"})).fit(unlabelled, ctx)


def test_few_and_constant_pictures_are_said(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    file = ctx.put(png(square(0, "red")), name="a.png", mime="image/png")
    items = ItemList([Item(media="image", files=(file,), origin=f"{n}") for n in range(4)])
    metrics = flow.Component(flow.Config(**{**flow.TINY, "images": 64})).fit(items, ctx)
    assert metrics["train_loss"] > 0
    assert any("all the same" in each for each in ctx.warnings) and any("only 4" in each for each in ctx.warnings)
    assert any("no picture is held out" in each for each in ctx.warnings)


@pytest.mark.parametrize("damage", ["config", "tensors", "other"])
def test_a_damaged_checkpoint_is_refused(told: tuple[RunContext, dict[str, Any]], tmp_path: Path, damage: str) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((told[0].out / name).read_bytes())
    if damage == "config":
        (tmp_path / "config.json").write_text("{")
    elif damage == "tensors":
        data = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(data[: len(data) // 2])
    else:
        (tmp_path / "config.json").write_text('{"kind": "vae"}')
    with pytest.raises(UserError, match="no flow checkpoint"):
        flow.Component(flow.Config(**flow.TINY)).load(tmp_path, device=DEVICE, threads=1)


def test_export_writes_a_folder_that_loads_again(told: tuple[RunContext, dict[str, Any]], tmp_path: Path) -> None:
    component = flow.Component(flow.Config(**flow.TINY))
    files = component.export(told[0].out, tmp_path)
    assert {path.name for path in files} == {"model.safetensors", "config.json", "README.md"}
    (before,) = loaded(told[0]).sample([3], told[0])
    (after,) = component.load(tmp_path, device=DEVICE, threads=1).sample([3], told[0])
    assert before.id == after.id


def test_estimate_grows_with_the_dial() -> None:
    machine = Machine(device="cpu", threads=2, gflops=150, bf16_gflops=400, memory_bytes=8 << 30)

    def seconds(**config: Any) -> float:
        return flow.Component(flow.Config(data="x", **config)).estimate(Size(items=2000), machine).seconds

    assert 10 < seconds(size="tiny") < seconds(size="small") < seconds(size="base")
    assert seconds(size="tiny", sampler="shortcut") > seconds(size="tiny")
    assert seconds(size="tiny", codes="eye") < seconds(size="tiny")


# ------------------------------------------------------------------------------------------ resume
@pytest.mark.slow
def test_killed_in_both_phases_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    config = {"images": 1600, "sampler": "shortcut", "condition": "label", "flip": True}
    call = f"fitted(root, {config!r})"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fitted(whole, config)
    for phase in ("", "shortcuts"):
        train_apart(__file__, call, killed, kill_at=f"work/{phase}/good.safetensors")
        assert not (killed / "out" / "config.json").exists(), "it ended before it was killed: lengthen it"
    train_apart(__file__, call, killed)
    assert_same_files(whole / "out", killed / "out")
