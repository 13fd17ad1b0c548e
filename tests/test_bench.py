"""What the benches make for all sides is something the sides read; their figures are not judged here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from intaglio.models._facts import checked
from intaglio.models._qwen import QwenConfig

ROOT = Path(__file__).parents[1]


def test_the_weights_all_sides_write_with_are_a_whole_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "bench")
    spec = importlib.util.spec_from_file_location("bench_sampling", ROOT / "bench" / "sampling.py")
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    bench.export(tmp_path)
    config = checked(tmp_path / "config.json", QwenConfig)
    tokens = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    assert config["vocab_size"] == len(tokens) == 8192
    assert (tmp_path / "model.gguf").read_bytes()[:4] == b"GGUF"
