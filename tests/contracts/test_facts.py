"""Every model that trains: what stands beside its weights is refused at once where it is of a wrong type or absurd."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from intaglio.models import _adapter, _autoencoder, _density, _facts, _flow, _given, _prints
from intaglio.models._checkpoint import write
from intaglio.nn import gan
from tests.contracts import _material as material
from tests.contracts.conftest import Fitted
from tests.support import RunContext

pytestmark = pytest.mark.slow

FILES = ("config.json", "intaglio.json", "adapter_config.json")
WRONG: tuple[Any, ...] = (None, "4", [3], {"a": 1}, True, math.nan, math.inf, -1, 0.5, 10**12)
Place = tuple[str | int, ...]


def files(folder: Path) -> list[Path]:
    """The files of facts of a checkpoint, and of those in it."""
    return sorted(path for name in FILES for path in folder.rglob(name) if path.parent.name != "base")


def places(value: Any, above: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every place that is looked at, with what stands there; of lists the first item."""
    if above and above[-1] != "metrics":
        yield above, value
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "metrics":
                yield from places(inner, (*above, key))
    if isinstance(value, list) and value:
        yield from places(value[0], (*above, 0))


def looked_at(path: Path) -> dict[str, Any]:
    known = json.loads(path.read_text("utf-8"))
    if path.name == "adapter_config.json":  # PEFT's: only what decides the outcome
        return {key: known[key] for key in _adapter.AdapterConfig.model_fields}
    return dict(known)


def changed(known: dict[str, Any], place: Place, value: Any) -> str:
    copy = json.loads(json.dumps(known))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return json.dumps(copy)


def may_be(old: Any, new: Any) -> bool:
    """Of the wrong values those that could stand in the place of ``old``: of its type, and nothing out of measure."""
    if isinstance(old, bool):
        return isinstance(new, bool)
    if isinstance(old, float):
        return new == 0.5
    return isinstance(old, str) and isinstance(new, str)


@pytest.mark.parametrize("name", material.names())
def test_a_wrong_value_is_refused_by_file_and_key(tmp_path: Path, name: str, fitted: Fitted) -> None:
    shutil.copytree(fitted(name)[0].out, tmp_path, dirs_exist_ok=True)
    tried = 0
    for path in files(tmp_path):
        known, kept = json.loads(path.read_text("utf-8")), path.read_bytes()
        few = WRONG if path.parent == tmp_path else WRONG[:2]  # of a checkpoint within: its own family tries them all
        for place, old in places(looked_at(path)):
            for new in few:
                if may_be(old, new) or (place[-1] == "files" and new == {}):
                    continue
                path.write_text(changed(known, place, new), "utf-8")
                with pytest.raises(UserError) as caught:
                    material.load(name, tmp_path)
                tried += 1
                if place != ("kind",):  # another kind is another family's checkpoint
                    assert path.name in caught.value.where, (place, new, str(caught.value))
                    assert str(place[0]) in caught.value.what and caught.value.fix, (place, new, str(caught.value))
        path.write_bytes(kept)
    assert tried > 50


@pytest.mark.parametrize("name", material.names())
def test_what_is_not_refused_draws(tmp_path: Path, name: str, fitted: Fitted) -> None:
    """Another value of the right type is another model, or is refused; it is no failure at the first sample."""
    ctx, _ = fitted(name)
    shutil.copytree(ctx.out, tmp_path, dirs_exist_ok=True)
    for path in files(tmp_path):
        known, kept = json.loads(path.read_text("utf-8")), path.read_bytes()
        for place, old in places(looked_at(path)):
            other = not old if isinstance(old, bool) else old + 1 if isinstance(old, int) else 0.5
            if isinstance(old, bool | int | float):
                path.write_text(changed(known, place, other), "utf-8")
                try:
                    model = material.load(name, tmp_path)
                except UserError:
                    continue
                assert len(list(model.sample([11], ctx))) == 1, (place, other)
        path.write_bytes(kept)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(value=json_values, data=st.data())
def test_anything_at_all_is_either_as_it_should_be_or_refused(
    tmp_path: Path, fitted: Fitted, value: Any, data: st.DataObject
) -> None:
    known = json.loads((fitted("vae")[0].out / "config.json").read_text("utf-8"))
    place = data.draw(st.sampled_from([place for place, _ in places(known)]))
    path = tmp_path / "config.json"
    path.write_text(changed(known, place, value), "utf-8")
    try:
        found = _facts.checked(path, _prints._Facts)
    except UserError as error:
        assert error.where.endswith("config.json") and error.fix
    else:
        assert json.dumps(found) == changed(known, place, value)


def test_all_that_is_wrong_is_said_at_once_in_the_readers_language(
    tmp_path: Path, fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(fitted("vae")[0].out, tmp_path, dirs_exist_ok=True)
    facts = json.loads((tmp_path / "config.json").read_text("utf-8"))
    facts |= {"shape": {**facts["shape"], "width": "16"}, "publish_px": None, "temperature": math.nan, "form": [1]}
    (tmp_path / "config.json").write_text(json.dumps(facts), "utf-8")
    with pytest.raises(UserError) as caught:
        material.load("vae", tmp_path)
    for part in (
        "key 'shape.width': Input should be a valid integer; got '16'",
        "key 'publish_px': Input should be a valid integer; got None",
        "key 'temperature': Input should be a finite number; got nan",
        "key 'form': Input should be an object; got [1]",
    ):
        assert part in caught.value.what
    monkeypatch.setenv("INTAGLIO_LANG", "zh")
    with pytest.raises(UserError) as caught:
        material.load("vae", tmp_path)
    assert "键 'form'：应为一组键和值" in caught.value.what
    assert caught.value.fix == t("put back the file as it was written, or train the model again: intaglio run")


# ------------------------------------------------------------------------------- what must go together, untrained
FORM = {"size_px": 16, "channels": 3, "fit": "cover", "background": "white"}
PICTURES: dict[str, Any] = {"form": FORM, "publish_px": 16, "metrics": {}}
LABELS = {"kind": "label", "names": ["a", "b"], "shares": [0.5, 0.5]}


def told_gan(folder: Path) -> None:
    """A gan that knows two labels."""
    shape = {"size_px": 16, "channels": 3, "width": 8, "latents": 8, "conditions": 2, "blocks": 1}
    facts = {"kind": "gan", "shape": shape, "conditions": LABELS, "truncation": 1.0, **PICTURES}
    write(folder, gan.Generator(**shape).state_dict(), facts)  # type: ignore[arg-type]


def flow_over_codes(folder: Path) -> None:
    """A flow, and the vae over whose maps it learned."""
    own = {"net": "map", "size_px": 16, "channels": 3, "width": 8, "latents": 64, "blocks": 1, "down": 4}
    shape = _autoencoder.Shape(likelihood="gaussian", **own)  # type: ignore[arg-type]
    facts: dict[str, Any] = {"kind": "vae", "shape": asdict(shape), "temperature": 0.9, "prior": "mixture", **PICTURES}
    prior = _density.fit_map(torch.linspace(-1, 1, 6 * 64).view(6, 64))
    codes = _prints.Prints(_autoencoder.Autoencoder(shape), prior, facts, threads=1)
    field = _flow.Velocity(_flow.Shape(net="unet", size_px=4, channels=4, width=16, blocks=1, patch=1))
    facts = {"kind": "flow", "shape": asdict(field.shape), "codes": True, "steps": 2, "sampler": "heun", **PICTURES}
    facts |= {"conditions": {"kind": "none", "names": [], "shares": []}, "guidance": 1.5}
    _flow.write_checkpoint(folder, field, facts, codes)


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("gan", ("conditions", "kind"), "none", "of kind none with 2 names and 2 shares"),
        ("gan", ("conditions", "names"), ["a"], "of kind label with 1 names and 2 shares"),
        ("gan", ("conditions", "shares"), [0.5, -1], "'conditions.shares.1': Input should be greater than or equal"),
        ("gan", ("conditions",), {}, "'conditions.kind' is missing"),
        ("gan", ("shape", "conditions"), 3, "shape.conditions is 3, but conditions is 2"),
        ("gan", ("shape", "latents"), 9, "embed.weight has the shape (9, 2); in the weights it is (8, 2)"),
        ("gan", ("shape", "width"), 65_536, "has the shape"),
        ("gan", ("form", "size_px"), 8, "form.size_px is 8, but shape.size_px is 16"),
        ("flow", ("codes",), False, "form.size_px is 16, but shape.size_px is 4"),
        ("flow", ("form", "size_px"), 32, "but form of codes/ is"),
        ("flow", ("shape", "more"), 1, "unexpected keyword argument 'more'"),
    ],
)
def test_what_must_go_together_is_held_together(tmp_path: Path, name: str, place: Place, value: Any, said: str) -> None:
    {"gan": told_gan, "flow": flow_over_codes}[name](tmp_path)
    assert list(material.load(name, tmp_path).sample([1], RunContext(tmp_path / "drawn")))
    path = tmp_path / "config.json"
    path.write_text(changed(json.loads(path.read_text("utf-8")), place, value), "utf-8")
    with pytest.raises(UserError) as caught:
        material.load(name, tmp_path)
    assert said in str(caught.value)


def test_an_adapter_is_worked_in_whole_or_not_at_all(tmp_path: Path, fitted: Fitted) -> None:
    shutil.copytree(fitted("finetune")[0].out, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "adapter_config.json"
    known = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(known | {"target_modules": known["target_modules"][1:]}), "utf-8")
    with pytest.raises(UserError, match="tensors have no place in it"):
        material.load("finetune", tmp_path)


def test_a_given_model_that_answers_with_no_number_is_refused(tmp_path: Path, fitted: Fitted) -> None:
    shutil.copytree(fitted("finetune")[0].project / "given", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    path.write_text(changed(json.loads(path.read_text("utf-8")), ("rms_norm_eps",), math.nan), "utf-8")
    with pytest.raises(UserError, match="no number") as caught:
        _given.open_model(tmp_path, device="cpu", dtype=torch.float32)
    assert caught.value.fix
