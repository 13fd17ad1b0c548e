"""Pictures made from pictures: each mode with a real tiny flow, parents named, and what cannot be done refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intaglio.core import config as config_
from intaglio.core import registry
from intaglio.core.contracts import Item
from intaglio.core.errors import UserError
from intaglio.generate import picture
from tests.support import DEVICE, ItemList, RunContext


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def archive(ctx: RunContext, count: int = 24) -> ItemList:
    rng = np.random.default_rng(0)
    items = []
    for number in range(count):
        pixels = np.full((16, 16, 3), 255, dtype=np.uint8)
        pixels[4:12, 4:12] = rng.integers(0, 255, 3)
        file = ctx.put(png(pixels), name=f"{number}.png", mime="image/png")
        items.append(Item(media="image", files=(file,), meta={"label": number % 2}))
    return ItemList(items)


@pytest.fixture(scope="module")
def brush(tmp_path_factory: pytest.TempPathFactory) -> Any:
    ctx = RunContext(tmp_path_factory.mktemp("brush"))
    module = registry.load("models", "flow")
    made = module.Component(module.Config(**{**module.TINY, "images": 320, "condition": "label", "publish_px": 0}))
    made.fit(archive(ctx), ctx)
    return made.load(ctx.out, device=DEVICE, threads=1)


def make(ctx: RunContext, model: Any, items: ItemList | None = None, **config: Any) -> list[Item]:
    given = {"items": ("archive",)} if items is not None else {}
    component = picture.Component(picture.Config(model=("m",), **given, **config))
    return list(component.generate({"model": [model], "items": [items] if items is not None else []}, ctx))


def pixels(item: Item, ctx: RunContext) -> np.ndarray[Any, Any]:
    with Image.open(ctx.path(item.files[0])) as opened:
        return np.asarray(opened.convert("RGB"))


@pytest.mark.parametrize("mode", ["variation", "image", "outpaint"])
def test_pictures_start_from_the_given_ones_in_turn(brush: Any, tmp_path: Path, mode: str) -> None:
    ctx = RunContext(tmp_path)
    items = archive(ctx, 3)
    made = make(ctx, brush, items, mode=mode, count=5)
    ids = [each.id for each in items]
    assert [each.parents for each in made] == [(ids[n % 3],) for n in range(5)]
    assert {each.meta["mode"] for each in made} == {mode} and len({each.id for each in made}) == 5
    again = make(RunContext(tmp_path / "again"), brush, archive(RunContext(tmp_path / "again"), 3), mode=mode, count=5)
    assert [each.id for each in again] == [each.id for each in made]


def test_a_mask_keeps_what_is_black(brush: Any, tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[20:] = 255
    (ctx.project / "mask.png").write_bytes(png(mask))
    items = archive(ctx, 2)
    for item, source in zip(make(ctx, brush, items, mode="inpaint", mask="mask.png", count=2), items, strict=True):
        assert np.array_equal(pixels(item, ctx)[:8], pixels(source, ctx)[:8]) and item.parents == (source.id,)
    (ctx.project / "mask.png").write_bytes(png(np.zeros((40, 40), dtype=np.uint8)))
    with pytest.raises(UserError, match="marks nothing"):
        make(ctx, brush, items, mode="inpaint", mask="mask.png")
    (ctx.project / "mask.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="no picture that can be read"):
        make(ctx, brush, items, mode="inpaint", mask="mask.png")


def test_new_pictures_of_what_is_asked(brush: Any, tmp_path: Path) -> None:
    made = make(RunContext(tmp_path), brush, asked=("1", "0"), count=4)
    assert [each.meta["label"] for each in made] == ["1", "0", "1", "0"] and {each.parents for each in made} == {()}
    with pytest.raises(UserError, match="never learned the label '7'"):
        make(RunContext(tmp_path), brush, asked=("7",), count=1)


def test_a_model_that_cannot_is_refused_before_work(painter: Any, tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    with pytest.raises(UserError, match="draws new pictures only; it cannot do mode 'inpaint'"):
        make(ctx, painter, archive(ctx, 1), mode="inpaint", mask="missing.png")
    with pytest.raises(UserError, match="neither labels nor captions"):
        make(ctx, painter, asked=("red",))
    assert not ctx.progressed


def test_nothing_to_start_from_is_said(brush: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hold no picture"):
        make(RunContext(tmp_path), brush, ItemList([Item(media="text", text="a")]), mode="variation")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mode": "variation"}, "name them in 'items'"),
        ({"items": "archive"}, "leave 'items' out"),
        ({"mode": "inpaint", "items": "archive"}, "which needs it"),
        ({"mask": "m.png"}, "belongs to mode 'inpaint'"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        config_.parse(picture.Config, {"model": "m", **values}, where="[generate.x]")
