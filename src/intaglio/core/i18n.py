"""Texts for people in English and Chinese: ``t("No such file: {path}", path=p)``.

The English text is the key; ``locale/zh/<folder>.json`` maps it to Chinese. English needs no file and reads none.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

LANGUAGES = ("en", "zh")


def language() -> str:
    """The reader's language: ``INTAGLIO_LANG``, else the locale of the environment, else ``en``."""
    for name in ("INTAGLIO_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name, "")
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


@functools.cache
def catalog(lang: str) -> dict[str, str]:
    """All translations of ``lang``, English text to translated text."""
    texts: dict[str, str] = {}
    for path in sorted((Path(__file__).parent.parent / "locale" / lang).glob("*.json")):
        texts.update(json.loads(path.read_text("utf-8")))
    return texts


def t(text: str, /, lang: str | None = None, **values: object) -> str:
    """``text`` in the reader's language (or in ``lang``), with ``{name}`` replaced from ``values``."""
    chosen = lang or language()
    template = text if chosen == "en" else catalog(chosen).get(text, text)
    return template.format(**values) if values else template
