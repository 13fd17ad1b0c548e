"""Every component of every stage, found by listing, keeps the contract; a new file is covered with no new line here."""

from __future__ import annotations

import ast
import pickle

import pytest

from intaglio.core import config as config_
from intaglio.core import registry
from intaglio.core.config import SourceConfig, StepConfig

ALL = [(each.stage, each.name) for each in registry.listing()]
METHODS = {  # what a component of a stage must bring; data: a source reads, a transform applies
    "data": ({"read"}, {"apply"}),
    "models": ({"estimate", "fit", "load", "export"},),
    "knowledge": ({"extract", "load"},),
    "generate": ({"generate"},),
    "optimize": ({"judge"},),
    "publish": ({"export"},),
}
MAX_LINES = 500


@pytest.mark.parametrize(("stage", "name"), ALL)
def test_component_keeps_the_contract(stage: str, name: str) -> None:
    module = registry.load(stage, name)
    assert issubclass(module.Config, StepConfig), "Config must be a StepConfig"
    assert isinstance(module.TINY, dict), "TINY must be a dict of config values"
    kinds = METHODS[stage]
    has = {method for method in set().union(*kinds) if callable(getattr(module.Component, method, None))}
    assert any(kind <= has for kind in kinds), f"{stage}/{name}: Component needs {' or '.join(map(str, kinds))}"
    if stage == "data" and "read" in has:
        assert issubclass(module.Config, SourceConfig), "a source's Config must be a SourceConfig"
    if stage == "models":
        assert isinstance(module.Component.takes, tuple) and isinstance(module.Component.makes, str)


@pytest.mark.parametrize(("stage", "name"), ALL)
def test_component_builds_from_tiny_and_travels(stage: str, name: str) -> None:
    """Built as ``Component(config)``; config and component can be handed to another process."""
    module = registry.load(stage, name)
    values = {**_required(module.Config), **module.TINY}
    config = config_.parse(module.Config, values, where=f"{stage}/{name} TINY")
    component = module.Component(config)
    assert pickle.loads(pickle.dumps(config)) == config
    assert type(pickle.loads(pickle.dumps(component))) is module.Component


@pytest.mark.parametrize(("stage", "name"), ALL)
def test_unknown_keys_are_refused_with_the_nearest(stage: str, name: str) -> None:
    module = registry.load(stage, name)
    with pytest.raises(config_.UserError) as caught:
        config_.parse(module.Config, {**_required(module.Config), **module.TINY, "sed": 1}, where="here")
    assert "unknown key 'sed'" in caught.value.what
    assert caught.value.fix == "did you mean 'seed'?"


@pytest.mark.parametrize(("stage", "name"), ALL)
def test_component_explains_itself(stage: str, name: str) -> None:
    """First docstring line for `list`; a word on every config key; a file that a newcomer can read in one go."""
    path = registry.source_path(stage, name)
    text = path.read_text("utf-8")
    doc = ast.get_docstring(ast.parse(text)) or ""
    first = doc.strip().splitlines()[0] if doc.strip() else ""
    assert 20 <= len(first) <= 120 and first.endswith("."), f"first docstring line of {path.name}: {first!r}"
    assert len(text.splitlines()) <= MAX_LINES, (
        f"{path.name} has more than {MAX_LINES} lines: split it where it is natural"
    )
    module = registry.load(stage, name)
    classes = [each for each in module.Config.__mro__ if each.__module__.split(".")[0] == module.__name__.split(".")[0]]
    explained = "\n".join(each.__dict__.get("__doc__") or "" for each in classes)
    roles = set(config_.roles(module.Config))  # the words of roles are the same everywhere
    own = set(module.Config.model_fields) - roles - set(StepConfig.model_fields) - set(SourceConfig.model_fields)
    fields = module.Config.model_fields
    silent = sorted(key for key in own if key not in explained and not fields[key].description)
    assert not silent, f"{stage}/{name}: Config's docstring says nothing of {silent}"


def test_every_stage_has_components() -> None:
    assert {stage for stage, _ in ALL} == set(registry.STAGES)


def _required(config: type[StepConfig]) -> dict[str, object]:
    """A value for each required role or path, so that a config can be built without a project."""
    found: dict[str, object] = {}
    for key in config_.roles(config):
        if config.model_fields[key].is_required():
            found[key] = "above"
    for key in config_.input_paths(config):
        if config.model_fields[key].is_required():
            found[key] = "archive"
    return found
