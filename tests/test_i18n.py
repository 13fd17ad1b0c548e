"""Every text for people has a Chinese translation with the same placeholders, and no translation is left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from intaglio.core import config, registry
from intaglio.core.errors import UserError
from intaglio.core.i18n import t
from tools import texts

OURS = ("cli.json", "components.json", "core.json", "project.json")  # catalogs whose texts are all found by tools.texts


def translations() -> Iterator[tuple[str, str, str]]:
    for name, catalog in texts.catalog().items():
        yield from ((name, english, chinese) for english, chinese in catalog.items())


def test_every_text_is_translated() -> None:
    missing = texts.missing()
    assert not missing, "add these to src/intaglio/locale/zh/<folder>.json: " + "; ".join(
        f"{place}: {text!r}" for text, place in missing.items()
    )


def test_placeholders_match() -> None:
    wrong = [
        (name, english)
        for name, english, chinese in translations()
        if texts.placeholders(english) != texts.placeholders(chinese)
    ]
    assert not wrong


def test_no_translation_is_left_over_or_empty() -> None:
    used = set(texts.texts())
    assert not [english for name, english, _ in translations() if name in OURS and english not in used]
    assert not [english for _, english, chinese in translations() if not chinese.strip()]


def test_one_text_has_one_translation() -> None:
    pairs = {(english, chinese) for _, english, chinese in translations()}
    twice = [english for english, count in Counter(english for english, _ in pairs).items() if count > 1]
    assert not twice, "two catalogs translate these differently"


def test_texts_are_literals() -> None:
    """A text that is put together before t() sees it can never be translated."""
    import ast

    for path in sorted(texts.SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "t" and node.args:
                assert not isinstance(node.args[0], ast.JoinedStr), f"{path.name}:{node.lineno}: t(f'...')"


@pytest.mark.parametrize(("lang", "said"), [("en", "no GPU found"), ("zh", "没有找到 GPU")])
def test_language_is_the_readers(lang: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAGLIO_LANG", lang)
    assert t("no GPU found") == said
    monkeypatch.delenv("INTAGLIO_LANG")
    monkeypatch.setenv("LC_ALL", f"{lang}_XX.UTF-8")
    assert t("no GPU found") == said


@pytest.mark.parametrize(
    ("values", "english", "chinese"),
    [
        ({"width": "wide"}, "unable to parse string as an integer", "应为整数"),
        ({"width": 4}, "greater than or equal to 8", "应不小于 8"),
        ({"gamma": -1}, "greater than or equal to 0;", "应不小于 0；"),
        ({"size": "huge"}, "'tiny', 'small' or 'base'", "应为 'tiny', 'small' 或 'base'"),
        ({"size_px": 18}, "a multiple of 4", "4 的倍数"),
        ({"flip": "perhaps"}, "valid boolean", "true 或 false"),
    ],
)
def test_what_is_wrong_with_a_value_is_said_in_the_readers_language(
    values: dict[str, object], english: str, chinese: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word for word what Pydantic says, in English."""
    pytest.importorskip("torch")
    gan = registry.load("models", "gan")
    for lang, said in (("en", english), ("zh", chinese)):
        monkeypatch.setenv("INTAGLIO_LANG", lang)
        with pytest.raises(UserError) as caught:
            config.parse(gan.Config, {"data": "x", **values}, where="here")
        assert said in caught.value.what
        assert lang == "en" or "Input" not in caught.value.what
