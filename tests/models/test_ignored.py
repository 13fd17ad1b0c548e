"""Keys that do nothing beside others are named, once, and only where a person has set them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from intaglio.models import flow, vae
from tests.models.test_vae import discs
from tests.support import RunContext

IDLE = "these keys do nothing: "


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"net": "map", "latents": 8}, "latents"),
        ({"net": "conv", "down": 8, "channels": 2}, "channels, down"),
        ({"net": "map", "down": 8}, ""),
    ],
)
def test_keys_of_another_net_are_named(tmp_path: Path, values: dict[str, Any], named: str) -> None:
    ctx = RunContext(tmp_path)
    vae.Component(vae.Config(**{**vae.TINY, "images": 64, **values})).fit(discs(ctx, 4), ctx)
    assert [text.split(IDLE)[1] for text in ctx.warnings if IDLE in text] == ([named] if named else [])


def test_guidance_without_a_condition_is_named(tmp_path: Path) -> None:
    ctx = RunContext(tmp_path)
    flow.Component(flow.Config(**{**flow.TINY, "images": 64, "guidance": 3.0})).fit(discs(ctx, 4), ctx)
    assert [text.split(IDLE)[1] for text in ctx.warnings if IDLE in text] == ["guidance"]


def test_a_width_that_a_transformer_would_round_is_refused() -> None:
    assert flow.Config(**{**flow.TINY, "net": "dit", "width": 128}).width == 128
    with pytest.raises(ValueError, match="multiple of 64; got 80"):
        flow.Config(**{**flow.TINY, "net": "dit", "width": 80})
