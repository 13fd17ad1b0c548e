"""Model cards and data cards: read by the hub's own reader, complete, the same each time, and silent about people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from intaglio.project import card_layout, cards, open_project
from tests.project import plugin

METRICS: dict[str, Any] = {
    "heldout_bits_per_char": 2.25,
    "baseline_unigram_bits_per_char": 4.5,
    "tokenizer": "char",
    "kid": [0.02, 0.01, 0.03],
    "nested": {"recall": 0.5, "seconds": 9},
    "memorization": {"membership_auc": [0.5, 0.4, 0.6], "longest_run_chars": 17},
    "curve": [[1, 2.0, None], [2, 1.0, 1.5]],
    "train_seconds": 12.5,
    "images_per_second": 99.0,
    "peak_bytes": 123456,
    "warnings": ["something"],
}


def learned(**changes: Any) -> cards.Learned:
    source = cards.Source(
        "letters",
        "folder",
        {
            "path": "/home/someone/letters",
            "transforms": ["language"],
            "limit": 0,
            "token": "${env.TOKEN}",
            "near": "~/x",
        },
        {"items": 90, "skipped": 3, "duplicates": 2},
        {"CC0-1.0": 90},
        {"email": 4, "phone": 1},
    )
    found = cards.Learned(
        splits=Counter({("text", "train"): 80, ("text", "heldout"): 10}),
        licenses=Counter({"CC0-1.0": 90}),
        consents=Counter({"author": 60, "unknown": 30}),
        languages=Counter({"en": 70, "zh": 15, "unknown": 5}),
        license="CC0-1.0",
        characters=5_000,
        sources=[source],
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def call(**config: Any) -> Any:
    return SimpleNamespace(name="poet", use="gpt", seed=7, config={"size": "tiny", "steps": None, **config})


def read(text: str) -> tuple[dict[str, Any], str]:
    """Front matter and text by the reader of the hub."""
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(text, ignore_metadata_errors=False)
    return card.data.to_dict(), card.text


def test_the_hub_reads_the_model_card(tmp_path: Path) -> None:
    data, text = read(cards.model_card(call(), learned(), METRICS, tmp_path, "en"))
    assert data["license"] == "cc0-1.0" and data["language"] == ["en", "zh"] and data["datasets"] == ["letters"]
    assert data["tags"] == ["intaglio", "gpt", "text"] and data["pipeline_tag"] == "text-generation"
    results = {each["name"]: each["value"] for each in data["model-index"][0]["results"][0]["metrics"]}
    assert results["heldout_bits_per_char"] == 2.25 and results["kid"] == 0.02 and results["nested.recall"] == 0.5
    assert results["memorization.longest_run_chars"] == 17
    for part in ("What it is for", "Training", "Evaluation", "Memorization", "Limits", "How to load it"):
        assert f"## {part}" in text
    assert "transformers" not in text


def test_every_figure_stands_in_the_card_but_those_of_one_run(tmp_path: Path) -> None:
    text = cards.model_card(call(), learned(), METRICS, tmp_path, "en")
    names = ("heldout_bits_per_char", "baseline_unigram_bits_per_char", "tokenizer", "kid", "nested.recall")
    for name in (*names, "membership_auc", "longest_run_chars"):
        assert f"| `{name}` |" in text, name
    assert "| `kid` | 0.02 (0.01 … 0.03) |" in text
    for volatile in ("12.5", "99.0", "123456", "something", "curve", "second"):
        assert volatile not in text


def test_no_path_and_no_secret_and_no_value_of_a_person(tmp_path: Path) -> None:
    found = learned()
    for text in (cards.model_card(call(), found, METRICS, tmp_path, "en"), cards.data_card("poet", found, "en")):
        assert "someone" not in text and "TOKEN" not in text and "~/x" not in text
    assert "| email | 4 |" in cards.data_card("poet", found, "en")


def test_gaps_are_named(tmp_path: Path) -> None:
    text = cards.data_card("poet", learned(), "en")
    assert "30 items have no recorded consent." in text and "5 items have no known language." in text
    bare = learned(splits=Counter({("image", "train"): 5}), license="unknown", licenses=Counter({"unknown": 5}))
    data, text = read(cards.model_card(call(), bare, {}, tmp_path, "en"))
    assert data["license"] == "other" and data["license_name"] == "unknown" and "model-index" not in data
    assert "Nothing was held out" in text and "Not measured." in text and "5 items have no known license." in text


def test_one_expression_for_many_licenses(tmp_path: Path) -> None:
    data, _ = read(cards.model_card(call(), learned(license="CC-BY-4.0 AND MIT"), {}, tmp_path, "en"))
    assert (data["license"], data["license_name"]) == ("other", "CC-BY-4.0 AND MIT")


def test_a_checkpoint_of_transformers_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"]}), "utf-8")
    data, text = read(cards.model_card(call(), learned(), {}, tmp_path, "en"))
    assert data["library_name"] == "transformers" and "AutoModelForCausalLM.from_pretrained" in text


def test_an_adapter_says_which_folder_transformers_reads(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}", "utf-8")
    data, text = read(cards.model_card(call(), learned(), {}, tmp_path, "en"))
    assert data["library_name"] == "peft" and 'AutoModelForCausalLM.from_pretrained("FOLDER/merged")' in text


def test_films_have_a_task_of_the_hub_and_no_tag_twice(tmp_path: Path) -> None:
    films = learned(splits=Counter({("video", "train"): 5}))
    data, _ = read(cards.model_card(SimpleNamespace(**{**vars(call()), "use": "video"}), films, {}, tmp_path, "en"))
    assert data["tags"] == ["intaglio", "video"] and data["pipeline_tag"] == "image-to-video"


@pytest.mark.parametrize(
    "nasty", ['a "quoted" | name', "line\nbreak", "---", "名字：值", "yes", "1e3", "# x", "{a: b}"]
)
def test_yaml_keeps_any_string(nasty: str) -> None:
    import yaml

    values = {"a": nasty, "b": [nasty, {"c": nasty, "d": [nasty]}], "e": {"f": 1.5, "g": None}}
    text = card_layout.front_matter(values)
    assert yaml.safe_load(text.removeprefix("---\n").rsplit("---", 1)[0]) == values


def test_chinese(tmp_path: Path) -> None:
    text = cards.model_card(call(), learned(), METRICS, tmp_path, "zh") + cards.data_card("poet", learned(), "zh")
    assert "## 训练" in text and "## 已知的缺口" in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings and all(not heading.isascii() for heading in headings)


# ---------------------------------------------------------------------------------------------------- in a real project
@pytest.fixture(scope="module")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with plugin.installed(tmp_path_factory.mktemp("site")):
        yield


@pytest.mark.usefixtures("_installed")
def test_a_model_step_brings_its_cards_and_export_adds_the_run(tmp_path: Path) -> None:
    checkpoints = []
    for place in ("first", "second elsewhere"):
        with open_project(plugin.project(tmp_path / place)) as project:
            project.run(["chain"])
            shown = project.show("chain")
            checkpoints.append(shown["outputs"]["files"])
            answer = project.export("chain", tmp_path / place / "exported")
    assert checkpoints[0] == checkpoints[1]  # also with the cards in it
    assert {"MODEL_CARD.md", "DATA_CARD.md"} <= {each["path"] for each in shown["files"]}
    assert {"MODEL_CARD.md", "DATA_CARD.md", "counts.json"} <= set(answer["files"])
    data, text = read((tmp_path / "first" / "exported" / "MODEL_CARD.md").read_text("utf-8"))
    assert data["license"] == "cc0-1.0" and data["datasets"] == ["lines"] and "| `rounds` | 20 |" in text
    assert "## This run" in text and "| device | cpu |" in text and checkpoints[0] in text
    table = "| lines | `mk_lines` | 9 | 1 | 1 | CC0-1.0 |"
    assert table in text and table in (tmp_path / "first" / "exported" / "DATA_CARD.md").read_text("utf-8")
    assert str(tmp_path) not in text


def test_show_writes_intervals_out() -> None:
    from intaglio.cli import _text

    values = {"kid": [0.02, 0.01, 0.03], "memorization": {"copies": 0.5}, "curve": [[1, 2, 3]] * 3}
    assert list(_text.figures(values)) == [("kid", "0.02 (0.01 … 0.03)"), ("memorization.copies", "0.5")]
