"""The adversarial model: the game, conditions, training, resume to the same bits, prints, bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from intaglio.core.contracts import Item, Machine, Size
from intaglio.core.errors import UserError
from intaglio.models import _adversary as game
from intaglio.models import _conditions, gan
from intaglio.models._conditions import Conditions
from intaglio.nn import measures
from intaglio.nn.augment import Kinds
from tests.support import DEVICE, ItemList, RunContext, assert_same_files, train_apart

COLOURS = ("red", "green", "blue")


def picture(number: int, side: int = 24) -> Image.Image:
    """A disc in one of three colours; place and size follow from ``number``."""
    rng = np.random.default_rng(number)
    x, y, radius = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.2, 0.35)
    rows, columns = np.mgrid[0:side, 0:side] / side
    pixels = np.full((side, side, 3), 255, dtype=np.uint8)
    pixels[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = np.eye(3)[number % 3] * 200
    return Image.fromarray(pixels)


def item_of(ctx: RunContext, number: int, *, split: str = "train", image: Image.Image | None = None) -> Item:
    out = io.BytesIO()
    (image or picture(number)).save(out, "PNG")
    file = ctx.put(out.getvalue(), name=f"disc-{number}.png", mime="image/png")
    colour = COLOURS[number % 3]
    meta = {"label": colour}
    return Item(media="image", text=f"{colour} disc", files=(file,), origin=f"disc-{number}", split=split, meta=meta)


def discs(ctx: RunContext, count: int, *, heldout: int = 0) -> ItemList:
    splits = ["train"] * count + ["heldout"] * heldout
    return ItemList(item_of(ctx, number, split=split) for number, split in enumerate(splits))


def component(**config: Any) -> gan.Component:
    return gan.Component(gan.Config(**{**gan.TINY, **config}))


def fitted(root: Path, *, count: int = 60, heldout: int = 36, **config: Any) -> tuple[RunContext, dict[str, Any]]:
    ctx = RunContext(root)
    return ctx, dict(component(**config).fit(discs(ctx, count, heldout=heldout), ctx))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContext, dict[str, Any]]:
    return fitted(tmp_path_factory.mktemp("gan"), condition="label")


# ------------------------------------------------------------------------------------------ the game
def adversaries(**changes: Any) -> game.Adversaries:
    torch.manual_seed(0)
    values = {"size_px": 8, "channels": 1, "width": 8, "latents": 4, "conditions": 0, "blocks": 1, **changes}
    model = game.Adversaries(game.Shape(**values))
    for parameter in model.parameters():  # blocks start at zero, and would hide what goes through them
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_one_backward_pass_gives_each_player_the_gradient_of_its_own_loss() -> None:
    """Against two separate losses, without augmentation and penalty."""
    model, real = adversaries(), torch.rand(6, 1, 8, 8) * 2 - 1
    rules = game.Rules(gamma=0.0, kinds=None, border=torch.zeros(1, 1, 1), judge="pairs")
    value, answers = game.play(model, real, None, rules, torch.Generator().manual_seed(3))
    value.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    fake = model.generator(z)
    torch.testing.assert_close(answers, torch.cat([model.critic(real), model.critic(fake)]))
    softplus = torch.nn.functional.softplus
    own = softplus(model.critic(fake.detach()) - model.critic(real)).mean()
    assert value.item() == pytest.approx(own.item(), rel=1e-5)
    for loss, player in (
        (own, model.critic),
        (softplus(model.critic(real) - model.critic(fake)).mean(), model.generator),
    ):
        names = [name for name, _ in player.named_parameters()]
        prefix = "critic" if player is model.critic else "generator"
        for name, grad in zip(names, torch.autograd.grad(loss, list(player.parameters())), strict=True):
            torch.testing.assert_close(found[f"{prefix}.{name}"], grad, rtol=1e-4, atol=1e-6)


def test_what_the_players_are_told_changes_what_they_do() -> None:
    model = adversaries(conditions=3)
    z, x, rows = torch.randn(1, 4), torch.randn(1, 1, 8, 8), torch.eye(3)
    made = [model.generator(z, row[None]) for row in rows]
    assert not torch.allclose(made[0], made[1]) and not torch.allclose(made[1], made[2])
    answers = [float(model.critic(x, row[None]).detach()) for row in rows]
    assert len({round(answer, 6) for answer in answers}) == 3


def test_every_weight_is_learned_by_one_optimizer_and_conditions_faster_than_biases() -> None:
    model = adversaries(conditions=3)
    groups = [group for each in game.optimizers(model, rate=0.01, dtype=torch.float32) for group in each.param_groups]
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    named = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    assert named["critic.seen.0.weight"] > named["critic.embed.weight"] > named["critic.seen.0.bias"]


def test_parts_of_the_distance_add_up_to_the_kernel_distance() -> None:
    real, fake = torch.randn(40, 6), torch.randn(30, 6) + 0.5
    parts = game.distance_parts(real, fake)
    assert float(parts.mean()) == pytest.approx(measures.kid(real, fake).value, rel=1e-5)


def test_augmentation_rises_where_the_critic_knows_pictures_by_heart() -> None:
    model = adversaries()
    kinds = Kinds()
    rules = game.Rules(gamma=1.0, kinds=kinds, border=torch.zeros(1, 1, 1), judge="pairs")
    sure, unsure = torch.tensor([2.0, 2.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 0.0, 0.0])
    how: dict[str, Any] = {"generator": torch.Generator(), "pictures": 1000}
    for _ in range(100):
        game.steer(model, sure, None, rules, **how)
    assert float(model.overfit) > 0.9 and 0.1 < float(model.chance) <= game.MOST_CHANCE
    for _ in range(200):
        game.steer(model, unsure, None, rules, **how)
    assert float(model.chance) == 0.0


# ------------------------------------------------------------------------------------------ conditions
def test_bags_of_captions_that_share_letters_lie_near() -> None:
    apple, apples, sky = (_conditions.bag(text).astype(float) for text in ("red apple", "Red  apples", "blue sky"))
    cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))  # noqa: E731
    assert cosine(apple, apples) > 0.7 > 0.3 > cosine(apple, sky)
    assert (_conditions.bag("apple red") == _conditions.bag("red apple")).all() and _conditions.bag("").any()


def test_a_seed_stands_for_a_label_as_often_as_it_came() -> None:
    conditions = Conditions("label", ("a", "b"), (0.2, 0.8))
    drawn = [conditions.drawn(seed) for seed in range(400)]
    assert drawn.count("b") / 400 == pytest.approx(0.8, abs=0.07)
    assert conditions.rows(["b", "a"]).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    with pytest.raises(UserError, match="never learned the label 'c'"):
        conditions.rows(["c"])


def test_conditions_follow_their_pictures_past_one_that_cannot_be_read(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    items = list(discs(ctx, 30, heldout=9))
    broken = ctx.put(b"\x89PNG\r\n\x1a\nnothing", name="broken.png", mime="image/png")
    items.insert(4, Item(media="image", files=(broken,), origin="broken", meta={"label": "blue"}))
    items.insert(35, Item(media="image", files=(broken,), origin="broken", split="heldout", meta={"label": "blue"}))
    data = ItemList(items)
    form = gan.Form(size_px=8, channels=3)
    shard = gan.gather(data, form, ctx)
    told = _conditions.read(data, "label", shard, ctx)
    rows = told.rows(np.arange(39))
    assert rows is not None
    named = [told.conditions.names[int(place)] for place in rows.argmax(1)]
    seen = [COLOURS[int(p.astype(int).mean((1, 2)).argmax())] for p in np.asarray(shard.pixels)]
    assert named == seen and shard.left_out == {4, 34 + 1}


# ------------------------------------------------------------------------------------------ a training
def test_training_writes_what_it_promises(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx, metrics = trained
    assert {path.name for path in ctx.out.iterdir()} == {"model.safetensors", "config.json", "curve.csv", "samples.png"}
    assert ctx.previews and all(name.startswith("step-") for name in ctx.previews)
    distance = metrics["heldout_distance"]
    assert distance[1] <= distance[0] <= distance[2]
    assert metrics["heldout_copies_distance"][0] < metrics["heldout_mean_picture_distance"][0]
    assert 0 <= metrics["heldout_coverage"] <= 1 and metrics["features"]
    assert sum(metrics["class_shares"].values()) == pytest.approx(1.0, abs=1e-3)
    text = (ctx.out / "config.json").read_text("utf-8")
    assert str(ctx.root) not in text and "seconds" not in text
    json.dumps(metrics, allow_nan=False)


def test_same_seed_same_bytes(tmp_path: Path, trained: tuple[RunContext, dict[str, Any]]) -> None:
    again, _ = fitted(tmp_path, condition="label")
    for path in trained[0].out.iterdir():
        assert path.read_bytes() == (again.out / path.name).read_bytes(), path.name


def test_prints_follow_their_seeds_and_labels(trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx = trained[0]
    model = component().load(ctx.out, device=DEVICE, threads=1)
    three = list(model.sample([5, 6, 7], ctx))
    (alone,) = model.sample([6], ctx)
    assert alone.id == three[1].id and alone.meta["label"] in COLOURS
    red, blue = model.sample([6, 6], ctx, labels=["red", "blue"])
    assert red.id != blue.id and red.meta["label"] == "red"
    with Image.open(ctx.path(alone.files[0])) as image:
        assert image.size == (alone.meta["width_px"], alone.meta["height_px"]) == (256, 256)
    json.dumps(dict(alone.meta))
    with pytest.raises(UserError, match="never learned"):
        list(model.sample([1], ctx, labels=["violet"]))
    with pytest.raises(UserError, match="cannot be asked"):
        list(model.sample([1], ctx, texts=["a red disc"]))
    way = list(model.interpolate(5, 6, 4, ctx, name="red"))
    (first,) = model.sample([5], ctx, labels=["red"])
    assert way[0].id == first.id and len({item.id for item in way}) == 4
    assert not hasattr(model, "reconstruct")


def test_captions_are_listened_to(tmp_path: Path) -> None:
    ctx, metrics = fitted(tmp_path, condition="text", flip=True, augment="off")
    model = component().load(ctx.out, device=DEVICE, threads=1)
    one, other = model.sample([3, 3], ctx, texts=["red disc", "something never seen"])
    assert one.id != other.id and one.meta["caption"] == "red disc"
    (free,) = model.sample([3], ctx)
    assert free.meta["caption"] in {f"{colour} disc" for colour in COLOURS}
    assert metrics["augmented"] == 0.0


@pytest.mark.slow
def test_discs_are_learned(tmp_path: Path) -> None:
    """After a short training it is far nearer to the discs than the mean picture is, in their colours."""
    config = {"width": 16, "images": 24_000, "batch": 32, "condition": "label", "publish_px": 0}
    ctx, metrics = fitted(tmp_path, count=300, heldout=60, **config)
    distances = [point[2] for point in metrics["curve"] if point[2] is not None]
    assert min(distances) < 0.2 * distances[0]
    assert metrics["heldout_distance"][0] < 0.5 * metrics["heldout_mean_picture_distance"][0]
    model = component().load(ctx.out, device=DEVICE, threads=1)
    right = 0
    for number, colour in enumerate(COLOURS):
        for item in model.sample(range(10), ctx, labels=[colour] * 10):
            with Image.open(ctx.path(item.files[0])) as image:
                darkest = 255 - np.asarray(image, dtype=float).mean((0, 1))
            right += int(darkest.argmin() == number)
    assert right >= 24


def test_a_training_that_grows_worse_is_taken_back_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations are shown real pictures, but noise from the tenth on until the loop has gone back."""
    looks = []

    def shown(self: gan.Session, index: Any, *parts: object) -> torch.Tensor:
        made = self._pixels((index + 1) % self.shard.train)
        if parts == ("evaluate",):
            looks.append(1)
            if 10 <= len(looks) < 13:
                made = torch.randint(0, 256, made.shape, dtype=torch.uint8)
        return made

    monkeypatch.setattr(gan.Session, "_made", shown)
    ctx, metrics = fitted(tmp_path)
    assert metrics["rollbacks"] == 1
    assert any("clearly worse 3 times" in text for text in ctx.warnings)
    gone_back = next(text for text in ctx.warnings if "half the learning rate" in text)
    assert "went back to step 29 " in gone_back  # of 64 steps in 20 evaluations, the ninth: before the noise


# ------------------------------------------------------------------------------------------ bad input
def test_too_few_same_or_no_pictures_are_refused(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    with pytest.raises(UserError, match="learns from pictures"):
        component().fit(ItemList([Item(media="text", text="a")]), ctx)
    with pytest.raises(UserError, match="too few"):
        component().fit(discs(ctx, 5), ctx)
    with pytest.raises(UserError, match="all the same"):
        component().fit(ItemList([item_of(ctx, 1, image=picture(1)) for _ in range(20)]), ctx)


def test_missing_labels_are_refused_before_any_work(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    items = list(discs(ctx, 20))
    bare = Item(media="image", files=items[3].files, origin="bare")
    data = ItemList([*items, bare])
    with pytest.raises(UserError, match="1 of the first 21 pictures have no label") as caught:
        component(condition="label").fit(data, ctx)
    assert 'condition = "none"' in str(caught.value.fix)
    with pytest.raises(UserError, match="no caption"):
        component(condition="text").fit(data, ctx)
    assert not list(ctx.work.iterdir())


def test_one_class_few_pictures_and_mixed_sizes_are_handled_and_said(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    items = [item_of(ctx, 3 * n, image=picture(3 * n, side=12 + 5 * n)) for n in range(10)]
    metrics = component(condition="label", images=64).fit(ItemList(items), ctx)
    assert any("all pictures have the label 'red'" in text for text in ctx.warnings)
    assert any("only 10 pictures to learn from" in text for text in ctx.warnings)
    assert any("0 pictures are held out" in text for text in ctx.warnings)
    assert "train_distance" in metrics


def test_a_folder_without_checkpoint_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no gan checkpoint"):
        component().load(tmp_path, device=DEVICE, threads=1)
    (tmp_path / "config.json").write_text('{"shape": {"size_px": 16}}')
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="no gan checkpoint"):
        component().export(tmp_path, tmp_path / "to")


def test_export_writes_a_folder_that_loads_again(tmp_path: Path, trained: tuple[RunContext, dict[str, Any]]) -> None:
    ctx = trained[0]
    files = component().export(ctx.out, tmp_path / "to")
    assert {path.name for path in files} == {"model.safetensors", "config.json", "README.md"}
    (before,) = component().load(ctx.out, device=DEVICE, threads=1).sample([3], ctx)
    (after,) = component().load(tmp_path / "to", device=DEVICE, threads=1).sample([3], ctx)
    assert before.id == after.id


def test_estimate_grows_with_the_dial() -> None:
    machine = Machine(device="cpu", threads=2, gflops=150, bf16_gflops=400, memory_bytes=8 << 30)
    sizes = ("tiny", "small", "base")
    found = [gan.Component(gan.Config(data="x", size=size)).estimate(Size(items=2000), machine) for size in sizes]
    assert 10 < found[0].seconds < found[1].seconds < found[2].seconds
    assert all(each.bytes > 100_000_000 for each in found)


# ------------------------------------------------------------------------------------------ resume
@pytest.mark.slow
def test_killed_and_resumed_training_ends_in_the_same_bytes(tmp_path: Path) -> None:
    config = {"images": 4800, "condition": "label", "flip": True}
    call = f"fitted(root, **{config!r})"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fitted(whole, **config)
    train_apart(__file__, call, killed, kill_at="work/good.safetensors", beyond=60, pause=0.3)
    assert not (killed / "out" / "model.safetensors").exists(), "the training ended before it was killed: lengthen it"
    train_apart(__file__, call, killed)
    assert_same_files(whole / "out", killed / "out")


def test_a_training_that_would_not_fit_is_refused_before_work(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    with pytest.raises(UserError, match="GB of memory") as caught:
        component(batch=65536, size_px=256, width=1024).fit(discs(ctx, 10), ctx)
    assert "batch" in caught.value.fix and not list(ctx.work.iterdir())
