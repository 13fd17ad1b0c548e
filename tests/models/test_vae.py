"""The autoencoder against closed forms and itself: maths, training, resume to the same bits, prints, bad input."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from intaglio.core.contracts import FileRef, Item, Machine, Size
from intaglio.core.errors import UserError
from intaglio.models import _autoencoder as ae
from intaglio.models import _density, vae
from intaglio.models._pictures import choose_side
from intaglio.nn import likelihoods, vision
from tests.support import DEVICE, ItemList, RunContext, assert_same_files, train_apart


def picture(number: int, side: int = 24, *, grey: bool = False) -> Image.Image:
    """A coloured disc whose place, size and colour follow from ``number``."""
    rng = np.random.default_rng(number)
    x, y, radius = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.3)
    rows, columns = np.mgrid[0:side, 0:side] / side
    inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    pixels = np.full((side, side, 3), 255, dtype=np.uint8)
    pixels[inside] = 0 if grey else rng.integers(0, 200, 3)
    return Image.fromarray(pixels)


def item_of(ctx: RunContext, data: bytes, name: str, *, split: str = "train", mime: str = "image/png") -> Item:
    return Item(media="image", files=(ctx.put(data, name=name, mime=mime),), origin=name, split=split)


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def discs(ctx: RunContext, count: int, *, heldout: int = 0, grey: bool = False) -> ItemList:
    total = range(count + heldout)
    splits = ["train"] * count + ["heldout"] * heldout
    return ItemList(item_of(ctx, png(picture(n, grey=grey)), f"disc-{n}.png", split=splits[n]) for n in total)


def fitted(
    root: Path, config: dict[str, Any] | None = None, **data: Any
) -> tuple[RunContext, dict[str, Any], ItemList]:
    ctx = RunContext(root)
    items = discs(ctx, **(data or {"count": 48, "heldout": 12}))
    metrics = vae.Component(vae.Config(**{**vae.TINY, **(config or {})})).fit(items, ctx)
    return ctx, dict(metrics), items


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunContext, dict[str, Any], ItemList]:
    return fitted(tmp_path_factory.mktemp("vae"))


# ------------------------------------------------------------------------------------------ the maths
def test_kl_is_that_of_torch_distributions() -> None:
    mean, logvar = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(likelihoods.kl_nats(mean, logvar), expected)


def test_free_bits_leave_small_latents_alone() -> None:
    kl = torch.tensor([[0.1, 3.0], [0.3, 5.0]], requires_grad=True)
    total = likelihoods.with_free_bits(kl, 0.5)
    torch.testing.assert_close(total.detach(), torch.tensor([4.5, 4.5]))
    total.mean().backward()
    assert kl.grad is not None
    torch.testing.assert_close(kl.grad, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))


@pytest.mark.parametrize("kind", ["gaussian", "logistic"])
@pytest.mark.parametrize("centre", [-0.4, 0.0, 0.3, 1.7])
@pytest.mark.parametrize("scale", [0.004, 0.05, 0.7])
def test_level_probabilities_add_up_to_one_and_agree_with_scipy(kind: str, centre: float, scale: float) -> None:
    x = torch.arange(256, dtype=torch.float64)[:, None] / 255
    mean = torch.full_like(x, centre)
    if kind == "gaussian":
        nats = likelihoods.gaussian_levels_nats(mean, x, torch.tensor(scale**2, dtype=torch.float64))
        law = stats.norm(centre, scale)
    else:
        nats = likelihoods.logistic_levels_nats(mean, x, torch.tensor(math.log(scale), dtype=torch.float64))
        law = stats.logistic(centre, scale)
    assert torch.isfinite(nats).all()
    assert float((-nats).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    edges = (np.arange(257) - 0.5) / 255
    edges[0], edges[-1] = -np.inf, np.inf
    middle = slice(100, 140)
    expected = np.where(
        edges[:-1] > centre, law.sf(edges[:-1]) - law.sf(edges[1:]), law.cdf(edges[1:]) - law.cdf(edges[:-1])
    )
    np.testing.assert_allclose((-nats).exp().numpy()[middle], expected[middle], rtol=1e-5, atol=1e-12)


def test_density_and_bernoulli_are_those_of_torch_distributions() -> None:
    mean, x = torch.rand(4, 9, dtype=torch.float64), torch.rand(4, 9, dtype=torch.float64)
    law = torch.distributions.Normal(mean, 0.2)
    found = likelihoods.gaussian_nats(mean, x, torch.tensor(0.04, dtype=torch.float64))
    torch.testing.assert_close(found, -law.log_prob(x).sum(1))
    logits, bits = torch.randn(4, 9, dtype=torch.float64), (x > 0.5).double()
    coins = torch.distributions.Bernoulli(logits=logits)
    torch.testing.assert_close(likelihoods.bernoulli_nats(logits, bits), -coins.log_prob(bits).sum(1))


class _Linear(torch.nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return (z @ self.weight.T).view(-1, 1, 4, 4)


def test_bound_meets_the_true_likelihood_of_a_linear_model() -> None:
    """x = W z + noise has a closed form; the ELBO lies below it and 2,000 importance samples come close."""
    torch.manual_seed(0)
    shape = ae.Shape(net="mlp", size_px=4, channels=1, width=8, latents=2, blocks=1, likelihood="gaussian")
    model = ae.Autoencoder(shape)
    model.start_from(torch.full((1, 4, 4), 0.5), 1.0)
    weight, sigma = 0.1 * torch.randn(16, 2), 0.2
    model.decoder = _Linear(weight)
    model.variance.fill_(sigma**2)
    pixels = np.random.default_rng(0).integers(90, 165, (6, 1, 4, 4)).astype(np.uint8)
    with torch.no_grad():  # any posterior will do for a bound; the prior itself is a poor one
        model.encoder = _Constant(torch.zeros(4))
        found = ae.figures(model, pixels, torch.Generator().manual_seed(1), samples=2000, bounded=6)
    covariance = (weight @ weight.T + sigma**2 * torch.eye(16)).numpy()
    law = stats.multivariate_normal(np.full(16, 0.5), covariance)
    true = float(np.mean(law.logpdf(pixels.reshape(6, 16) / 255))) - 16 * math.log(
        255
    )  # density times the level's width
    assert found["elbo_nats"] < found["bound_nats"] < true + 0.1
    assert found["bound_nats"] == pytest.approx(true, abs=0.15)
    assert found["kl_nats"] == pytest.approx(0.0, abs=1e-6)


class _Constant(torch.nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value.expand(len(x), -1)


def test_a_draw_passes_gradients_to_mean_and_variance() -> None:
    mean, logvar = torch.zeros(64, 4, requires_grad=True), torch.zeros(64, 4, requires_grad=True)
    z = ae.sampled(mean, logvar, torch.Generator().manual_seed(0))
    z.square().sum().backward()
    assert mean.grad is not None and logvar.grad is not None
    torch.testing.assert_close(mean.grad, 2 * z.detach())
    torch.testing.assert_close(logvar.grad, z.detach().square())  # d z^2 / d logvar = z * noise, and noise is z here


def test_mixture_finds_the_clusters_and_its_density_is_scipys() -> None:
    rng = np.random.default_rng(3)
    centres = np.array([[-4.0, 0.0, 0.0], [4.0, 1.0, 0.0]])
    points = torch.tensor(np.concatenate([c + rng.normal(size=(300, 3)) * 0.5 for c in centres])).float()
    mixture = _density.fit(points[::2], heldout_MZ=points[1::2], seed=1)
    assert len(mixture.weights_K) >= 2
    law = sum(
        float(w) * stats.multivariate_normal(m.numpy(), (f @ f.T).numpy()).pdf(points.numpy())
        for w, m, f in zip(mixture.weights_K, mixture.means_KZ, mixture.factors_KZZ, strict=True)
    )
    np.testing.assert_allclose(mixture.nats(points.double()).numpy(), -np.log(law), rtol=1e-6)
    draws = torch.stack([mixture.draw(torch.Generator().manual_seed(n)) for n in range(400)])
    assert abs(float((draws[:, 0] < 0).float().mean()) - 0.5) < 0.1


def test_mixture_stands_a_single_point_and_equal_points() -> None:
    for points in (torch.zeros(1, 4), torch.ones(40, 4)):
        mixture = _density.fit(points, heldout_MZ=None, seed=0)
        assert torch.isfinite(mixture.draw(torch.Generator().manual_seed(0))).all()


# ------------------------------------------------------------------------------------------ the network
@pytest.mark.parametrize("size_px", [8, 16, 28, 32, 48, 64, 96])
def test_network_gives_back_the_size_it_got(size_px: int) -> None:
    for net in ("conv", "mlp", "map"):
        latents = 5 * (size_px // 4) ** 2 if net == "map" else 5
        shape = ae.Shape(
            net=net, size_px=size_px, channels=3, width=16, latents=latents, blocks=1, likelihood="gaussian"
        )
        model = ae.Autoencoder(shape)
        mean, logvar = model.encode(torch.rand(2, 3, size_px, size_px))
        assert mean.shape == logvar.shape == (2, latents)
        assert model.decode(mean).shape == (2, 3, size_px, size_px)


def test_sides_refuse_what_is_no_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        vision.sides(30)


def test_side_follows_data_and_dial() -> None:
    assert [choose_side(median, 64) for median in (4, 28, 30, 47, 64, 4000)] == [16, 28, 28, 32, 64, 64]


# ------------------------------------------------------------------------------------------ a training
def test_training_beats_the_mean_picture_and_writes_what_it_promises(
    trained: tuple[RunContext, dict[str, Any], ItemList],
) -> None:
    ctx, metrics, _ = trained
    assert metrics["heldout_reconstruction_mse"] < metrics["heldout_baseline_mse"]
    assert metrics["heldout_bits_per_dim"] < metrics["heldout_baseline_bits_per_dim"]
    assert metrics["heldout_bound_bits_per_dim"] <= metrics["heldout_bits_per_dim"] + 0.02
    losses = [point[1] for point in metrics["curve"]]
    assert losses[-1] < losses[0]
    assert 1 <= metrics["active_latents"] <= metrics["latents"]
    names = {path.name for path in ctx.out.iterdir()}
    assert names == {"model.safetensors", "config.json", "curve.csv", "reconstructions.png", "samples.png"}
    assert ctx.previews and all(name.startswith("step-") for name in ctx.previews)
    Image.open(io.BytesIO(next(iter(ctx.previews.values())))).load()
    text = (ctx.out / "config.json").read_text("utf-8")
    assert str(ctx.root) not in text and "seconds" not in text  # nothing of this machine or moment


def test_same_seed_same_bytes_other_seed_others(
    tmp_path: Path, trained: tuple[RunContext, dict[str, Any], ItemList]
) -> None:
    again, _, _ = fitted(tmp_path / "again")
    for path in trained[0].out.iterdir():
        assert path.read_bytes() == (again.out / path.name).read_bytes(), path.name
    other = RunContext(tmp_path / "other", seed=8)
    vae.Component(vae.Config(**vae.TINY)).fit(discs(other, 48, heldout=12), other)
    assert (other.out / "model.safetensors").read_bytes() != (again.out / "model.safetensors").read_bytes()


def test_prints_follow_their_seeds_alone(trained: tuple[RunContext, dict[str, Any], ItemList]) -> None:
    ctx = trained[0]
    model = vae.Component(vae.Config(**vae.TINY)).load(ctx.out, device=DEVICE, threads=1)
    three = list(model.sample([5, 6, 7], ctx))
    (alone,) = model.sample([6], ctx)
    assert alone.id == three[1].id and len({item.id for item in three}) == 3
    with Image.open(ctx.path(alone.files[0])) as image:
        assert image.size == (alone.meta["width_px"], alone.meta["height_px"]) == (256, 256)
    assert alone.meta["seed"] == 6 and alone.media == model.makes == "image"
    json.dumps(dict(alone.meta))


def test_reconstruct_and_encode_speak_of_each_picture(trained: tuple[RunContext, dict[str, Any], ItemList]) -> None:
    ctx, metrics, items = trained
    model = vae.Component(vae.Config(**vae.TINY)).load(ctx.out, device=DEVICE, threads=1)
    heldout = items.split("heldout")
    rebuilt = list(model.reconstruct(heldout, ctx))
    assert [item.id for item, _, _ in rebuilt] == [item.id for item in heldout]
    errors = [error for _, _, error in rebuilt]
    assert np.mean(errors) == pytest.approx(metrics["heldout_reconstruction_mse"], rel=1e-3)
    with Image.open(io.BytesIO(rebuilt[0][1])) as image:
        assert image.size == (16, 16)
    codes = list(model.encode(heldout, ctx))
    assert len(codes) == 12 and len(codes[0]) == metrics["latents"]


def test_walks_between_pictures(trained: tuple[RunContext, dict[str, Any], ItemList]) -> None:
    ctx, _, items = trained
    model = vae.Component(vae.Config(**vae.TINY)).load(ctx.out, device=DEVICE, threads=1)
    some = list(items)[:6]
    way = list(model.interpolate(some[0], some[1], 4, ctx))
    assert len({item.id for item in way}) == 4 and way[0].meta["share"] == 0.0
    direction = model.direction(some[:3], some[3:], ctx)
    still, moved = model.moved(some[0], direction, [0.0, 1.0], ctx)
    assert still.id == way[0].id != moved.id
    with pytest.raises(UserError, match="both sides"):
        model.direction([], some, ctx)


@pytest.mark.parametrize("grey", [False, True])
def test_the_walk_in_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grey: bool, capsys: Any) -> None:
    ctx, _, _ = fitted(tmp_path / "run", {"images": 64}, count=6, heldout=0, grey=grey)
    vae.Component(vae.Config(**vae.TINY)).export(ctx.out, tmp_path / "engraver")
    for number, name in enumerate(("first", "last", "hat-1", "hat-2", "bare-1", "bare-2")):
        picture(number, 20 + number, grey=grey).save(tmp_path / f"{name}.png")
    page = Path(__file__).parents[2] / "docs" / "howto" / "walk-among-pictures.md"
    code = page.read_text("utf-8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(page), "exec"), {})
    sizes = {}
    for name in ("rebuilt", "between", "hats"):
        with Image.open(tmp_path / f"{name}.png") as image:
            sizes[name] = image.size
    assert sizes == {"rebuilt": (32, 16), "between": (128, 16), "hats": (64, 16)}
    assert capsys.readouterr().out.startswith("nearest: ")


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
def test_other_likelihoods_and_the_perceptron_train_too(tmp_path: Path, likelihood: str) -> None:
    config = {"likelihood": likelihood, "net": "mlp", "width": 64, "free_bits": 0.05, "images": 2400}
    _, metrics, _ = fitted(tmp_path, config)
    assert metrics["heldout_reconstruction_mse"] < metrics["heldout_baseline_mse"]
    assert metrics["likelihood"] == likelihood


def test_black_and_white_pictures_are_told(tmp_path: Path) -> None:
    ctx, metrics, _ = fitted(tmp_path, {"prior": "normal", "publish_px": 0}, count=24, heldout=8, grey=True)
    assert metrics["likelihood"] == "bernoulli"
    model = vae.Component(vae.Config(**vae.TINY)).load(ctx.out, device=DEVICE, threads=1)
    (item,) = model.sample([1], ctx)
    with Image.open(ctx.path(item.files[0])) as image:
        assert image.mode == "L" and image.size == (16, 16)


# ------------------------------------------------------------------------------------------ bad input
def test_no_pictures_is_the_persons_mistake(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    with pytest.raises(UserError, match="learns from pictures"):
        vae.Component(vae.Config(**vae.TINY)).fit(ItemList([Item(media="text", text="a")]), ctx)
    broken = [item_of(ctx, b"\x89PNG\r\n\x1a\nnothing", f"{n}.png") for n in range(3)]
    with pytest.raises(UserError, match="none of the 3 pictures"):
        vae.Component(vae.Config(**vae.TINY)).fit(ItemList(broken), ctx)


def test_mixed_sizes_modes_and_a_broken_one(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    items = list(discs(ctx, 20, heldout=4))
    odd = [
        png(picture(90, 90).convert("P")),
        png(picture(91, 40).resize((70, 31)).convert("LA")),
        png(picture(92, 40).convert("CMYK"), "TIFF"),
        png(Image.fromarray((np.random.default_rng(0).random((30, 50)) * 65535).astype(np.uint16))),
        png(picture(93, 33).convert("1")),
        png(Image.new("RGBA", (1, 400), (10, 20, 30, 0))),
    ]
    items += [item_of(ctx, data, f"odd-{n}") for n, data in enumerate(odd)]
    whole = png(picture(5, 90).effect_spread(9))
    items.append(item_of(ctx, whole[: len(whole) // 2], "cut.png"))
    items.append(Item(media="image", files=(FileRef("lost.png", "0" * 64, 9, "image/png"),), origin="lost.png"))
    items.append(Item(media="image", origin="empty"))
    metrics = vae.Component(vae.Config(**{**vae.TINY, "images": 64})).fit(ItemList(items), ctx)
    assert metrics["train_pictures"] == 26 and metrics["skipped"] == 3
    assert any("3 pictures could not be read" in text and "cut.png" in text for text in ctx.warnings)
    model = vae.Component(vae.Config(**vae.TINY)).load(ctx.out, device=DEVICE, threads=1)
    with pytest.raises(UserError) as caught:
        list(model.encode([items[-3]], ctx))
    assert caught.value.where == "cut.png"


@pytest.mark.parametrize("count", [1, 4])
def test_a_handful_of_pictures_trains_and_says_so(tmp_path: Path, count: int) -> None:
    ctx, metrics, _ = fitted(tmp_path, count=count, heldout=0)
    assert any(f"only {count} pictures" in text for text in ctx.warnings)
    assert any("held out" in text for text in ctx.warnings)
    assert math.isfinite(metrics["train_bits_per_dim"])


def test_constant_pictures_do_not_break_it(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    same = png(Image.new("RGB", (20, 20), (200, 10, 10)))
    items = [item_of(ctx, same, f"{n}.png", split="heldout" if n > 30 else "train") for n in range(36)]
    metrics = vae.Component(vae.Config(**vae.TINY)).fit(ItemList(items), ctx)
    assert any("all the same" in text for text in ctx.warnings)
    assert metrics["heldout_reconstruction_mse"] < 1e-3
    json.dumps(dict(metrics), allow_nan=False)


def test_a_folder_without_checkpoint_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no vae checkpoint"):
        vae.Component(vae.Config(**vae.TINY)).load(tmp_path, device=DEVICE, threads=1)
    (tmp_path / "config.json").write_text('{"shape": {"net": "conv"}}')
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="no vae checkpoint"):
        vae.Component(vae.Config(**vae.TINY)).export(tmp_path, tmp_path / "to")


def test_export_writes_a_folder_that_loads_again(
    tmp_path: Path, trained: tuple[RunContext, dict[str, Any], ItemList]
) -> None:
    component = vae.Component(vae.Config(**vae.TINY))
    files = component.export(trained[0].out, tmp_path / "to")
    assert {path.name for path in files} == {"model.safetensors", "config.json", "README.md"}
    ctx = trained[0]
    (before,) = component.load(ctx.out, device=DEVICE, threads=1).sample([3], ctx)
    (after,) = component.load(tmp_path / "to", device=DEVICE, threads=1).sample([3], ctx)
    assert before.id == after.id


def test_estimate_grows_with_the_dial() -> None:
    machine = Machine(device="cpu", threads=2, gflops=150, bf16_gflops=400, memory_bytes=8 << 30)
    found = [
        vae.Component(vae.Config(data="x", size=size)).estimate(Size(items=2000), machine)
        for size in ("tiny", "small", "base")
    ]
    assert 10 < found[0].seconds < found[1].seconds < found[2].seconds
    assert all(each.bytes > 100_000_000 for each in found)
    assert vae.Component(vae.Config(data="x")).estimate(Size(), machine).seconds > 0


# ------------------------------------------------------------------------------------------ resume
@pytest.mark.slow
def test_killed_and_resumed_training_ends_in_the_same_bytes(tmp_path: Path) -> None:
    config = {"images": 9600, "width": 32}
    call = f"fitted(root, {config!r})"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fitted(whole, config)
    train_apart(__file__, call, killed, kill_at="work/good.safetensors", beyond=60, pause=0.3)
    assert not (killed / "out" / "model.safetensors").exists(), "the training ended before it was killed: lengthen it"
    train_apart(__file__, call, killed)
    assert_same_files(whole / "out", killed / "out")
