"""What a GPU trained is read on a CPU, and draws there what it drew on the GPU.

A given model with an adapter lies in bfloat16 on a GPU, which decides draws: there texts are as likely, not the same.
"""

from __future__ import annotations

import difflib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from intaglio.core.contracts import Item
from intaglio.core.errors import MissingExtra
from intaglio.media import audio, video
from tests.contracts import _material as material
from tests.support import RunContext

pytestmark = [pytest.mark.slow, pytest.mark.gpu]


def numbers(item: Item, ctx: RunContext) -> np.ndarray[Any, Any]:
    """A picture, sound or film as numbers from 0 (or -1) to 1."""
    path = ctx.path(item.files[0])
    if item.media == "image":
        return np.asarray(Image.open(io.BytesIO(path.read_bytes())), dtype=np.float64) / 255
    if item.media == "audio":
        return np.asarray(audio.load(path), dtype=np.float64)
    return np.asarray(video.load(path), dtype=np.float64) / 255


@pytest.mark.parametrize("name", material.names())
def test_a_checkpoint_goes_from_one_device_to_the_other(tmp_path: Path, name: str) -> None:
    try:
        made, ctx = material.component(name), material.context(name, tmp_path)
        ctx.device = "cuda"
        made.fit(material.tiny_data(ctx, made.takes), ctx)
    except MissingExtra as error:
        pytest.skip(str(error))
    drawn, nats = {}, {}
    for device in ("cuda", "cpu"):
        model = made.load(ctx.out, device=device, threads=1)
        drawn[device] = list(model.sample([11, 12], ctx))
        if made.makes == "text":
            nats[device] = model.nats([item.text for item in drawn["cuda"]])
    if nats:
        assert nats["cuda"] == pytest.approx(nats["cpu"], rel=0.02 if name == "finetune" else 1e-4)
    for there, here in zip(drawn["cuda"], drawn["cpu"], strict=True):
        if name == "finetune":
            assert there.text and here.text
        elif made.makes == "text":
            assert difflib.SequenceMatcher(None, there.text, here.text, autojunk=False).ratio() > 0.9
        else:
            one, other = numbers(there, ctx), numbers(here, ctx)
            assert one.shape == other.shape and one.std() > 0
            assert np.abs(one - other).mean() < 0.02
