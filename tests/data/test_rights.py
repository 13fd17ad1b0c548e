"""A source says its license, in SPDX, or says that it is unknown."""

from __future__ import annotations

import pytest

from intaglio.core import config, registry
from intaglio.core.errors import UserError
from intaglio.data._rights import check_license, language_code

SOURCES = [name for name in registry.names("data") if hasattr(registry.load("data", name).Component, "read")]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("CC-BY-4.0", "CC-BY-4.0"),
        ("cc-by-4.0", "CC-BY-4.0"),
        (" mit  or apache-2.0 ", "MIT OR Apache-2.0"),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", "GPL-2.0-or-later WITH Classpath-exception-2.0"),
        ("LicenseRef-my-own-terms", "LicenseRef-my-own-terms"),
        ("CC-BY-4.0 AND LicenseRef-museum", "CC-BY-4.0 AND LicenseRef-museum"),
        ("unknown", "unknown"),
        ("Unknown", "unknown"),
    ],
)
def test_licenses_that_are_one(given: str, wanted: str) -> None:
    assert check_license(given) == wanted


@pytest.mark.parametrize(
    "given", ["CC-BY-NC-9", "all rights reserved", "MIT OR", "(MIT", "MIT AND unknown", "LicenseRef-ä", "\0", "MIT;"]
)
def test_licenses_that_are_none(given: str) -> None:
    with pytest.raises(UserError, match="no SPDX expression") as caught:
        check_license(given, "here")
    assert caught.value.where == "here" and "spdx.org" in caught.value.fix


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_without_a_license_is_refused(name: str) -> None:
    module = registry.load("data", name)
    values = {key: value for key, value in module.TINY.items() if key != "license"}
    with pytest.raises(UserError) as caught:
        config.parse(module.Config, values, where="intaglio.toml [data.x]")
    assert caught.value.where == "intaglio.toml [data.x]"
    assert "no license is given" in caught.value.what and 'license = "unknown"' in caught.value.what


@pytest.mark.parametrize(
    ("given", "code"), [("zh-CN", "zh"), ("EN_us", "en"), ("", ""), ("Chinese", ""), ("yue", "yue")]
)
def test_language_codes(given: str, code: str) -> None:
    assert language_code(given) == code
