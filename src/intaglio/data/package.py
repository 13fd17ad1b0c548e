"""Material that an npm or pip package ships: pinned by SHA-256, fetched by the package's own client, never imported.

The archive is read as bytes, member by member, with hostile names, links and bombs refused. It is fetched once into a
cache that all projects share; the project file names the package, and that is the leave to fetch it.
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from intaglio.core.contracts import Context, Item, Skip
from intaglio.data import _archive, _fetch
from intaglio.data._items import document_item, picture_item, text_item
from intaglio.data._poems import Poems
from intaglio.data._rights import LicensedConfig, Said, said
from intaglio.media import Unreadable


class Config(LicensedConfig):
    """manager, name, version: what the client is asked for. sha256: of the archive (``.tgz`` or ``.whl``); required.

    include, exclude: which files, as patterns over paths inside the package (``*`` also matches ``/``).
    reader:  ``text`` (a file is an item), ``lines``, ``pictures``, or ``json-poems`` (chinese-poetry's layout).
    form:    ``quatrain`` keeps regular poems only and cuts them into units of four lines of 5 or 7 characters.
    caption: of a picture: none, the words of its file ``name``, or Unicode names of the ``code-points`` in it.
    traditional_to_simplified: Chinese by OpenCC. limit: read so many items; 0 reads all.
    offline: read from the cache only.
    """

    manager: Literal["npm", "pip"]
    name: str
    version: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    reader: Literal["text", "lines", "pictures", "json-poems"] = "text"
    form: Literal["", "quatrain"] = ""
    caption: Literal["", "name", "code-points"] = ""
    traditional_to_simplified: bool = False
    limit: int = Field(default=0, ge=0)
    offline: bool = False

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _pinned(self) -> Config:
        if not _fetch.NAMES[self.manager].fullmatch(self.name):
            raise ValueError(f"'{self.name}' is no {self.manager} package name")
        if not _fetch.VERSION.fullmatch(self.version):
            raise ValueError(f"version must be one exact version such as 1.2.3, got '{self.version}'")
        if self.form and self.reader != "json-poems":
            raise ValueError('form needs reader = "json-poems"')
        return self


class Component:
    """Reads the files of a pinned package."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._poems: Poems | None = None

    def read(self, ctx: Context) -> Iterator[Item | Skip]:
        """Items in the archive's order. Errors: UserError where it cannot be fetched, or is not what was pinned."""
        where = f"intaglio.toml [data.{ctx.step}]"
        config = self.config
        read = self._reader(ctx)
        path = _fetch.archive(
            config.manager, config.name, config.version, sha256=config.sha256, offline=config.offline, where=where
        )
        prefix = f"{config.manager}:{config.name}@{config.version}/"
        done = 0
        try:
            for name, content in _archive.members(path, self._wanted):
                origin = prefix + _inside(name)
                for each in self._member(content, origin, read):
                    yield each
                    done += isinstance(each, Item)
                    if done == config.limit > 0:
                        return
        except Unreadable as reason:
            yield Skip(prefix.rstrip("/"), str(reason))
        finally:
            if self._poems is not None:
                ctx.metric(**self._poems.counts)

    def _member(
        self, content: bytes | Unreadable, origin: str, read: Callable[..., Iterator[Item | Skip]]
    ) -> Iterator[Item | Skip]:
        try:
            if isinstance(content, Unreadable):
                raise content
            yield from read(content, origin)
        except Unreadable as reason:
            yield Skip(origin, str(reason))

    def _wanted(self, path: str) -> bool:
        inside = _inside(path)
        chosen = any(fnmatch.fnmatchcase(inside, pattern) for pattern in self.config.include)
        return chosen and not any(fnmatch.fnmatchcase(inside, pattern) for pattern in self.config.exclude)

    def _reader(self, ctx: Context) -> Callable[[bytes, str], Iterator[Item | Skip]]:
        convert = _simplifier() if self.config.traditional_to_simplified else str
        if self.config.reader == "json-poems":
            self._poems = Poems(self.config, form=self.config.form, convert=convert)
            return self._poems.read
        if self.config.reader == "pictures":
            return lambda data, origin: self._picture(data, origin, ctx)
        return lambda data, origin: self._text(data, origin, convert)

    def _picture(self, data: bytes, origin: str, ctx: Context) -> Iterator[Item | Skip]:
        name = origin.rsplit("/", 1)[-1]
        caption = _CAPTIONS[self.config.caption](name.rpartition(".")[0])
        language = "en" if caption and self.config.caption == "code-points" else ""
        rights = Said(self.config.license, self.config.consent, language)
        yield picture_item(data, ctx, name=name, origin=origin, rights=rights, caption=caption)

    def _text(self, data: bytes, origin: str, convert: Callable[[str], str]) -> Iterator[Item | Skip]:
        whole = document_item(data, origin, self.config, convert=convert)
        if self.config.reader == "text":
            yield whole
            return
        rights = said({}, self.config)
        for number, line in enumerate(whole.text.splitlines(), 1):
            if line.strip():
                yield text_item(line.strip(), f"{origin}#{number}", rights)


def _words(stem: str) -> str:
    return re.sub(r"[-_\s]+", " ", stem).strip()


_REGIONAL = "regional indicator symbol letter "


def _code_points(stem: str) -> str:
    """``1f431-200d-1f4bb`` -> ``cat face, personal computer``; joiners, skin tones and variants are left out."""
    names = []
    for point in re.split(r"[-_]", stem):
        char = chr(int(point, 16)) if re.fullmatch("[0-9A-Fa-f]{2,6}", point) and int(point, 16) < 0x110000 else ""
        if char and unicodedata.category(char) not in ("Cf", "Mn", "Me", "Sk", "Cs"):
            names.append(unicodedata.name(char, "").lower())
    letters = [name.removeprefix(_REGIONAL) for name in names if name.startswith(_REGIONAL)]
    return f"flag {''.join(letters)}" if letters else ", ".join(name for name in names if name)


_CAPTIONS: dict[str, Callable[[str], str]] = {"": lambda stem: "", "name": _words, "code-points": _code_points}


def _inside(path: str) -> str:
    """npm puts everything below ``package/``; patterns and origins do without it."""
    return path.removeprefix("./").removeprefix("package/")


def _simplifier() -> Callable[[str], str]:
    from intaglio.core.registry import import_or_explain

    opencc = import_or_explain("opencc", "traditional_to_simplified")
    convert: Callable[[str], str] = opencc.OpenCC("t2s").convert
    return convert


TINY: dict[str, Any] = {
    "manager": "npm",
    "name": "example",
    "version": "1.0.0",
    "sha256": "0" * 64,
    "license": "CC0-1.0",
    "offline": True,
}
