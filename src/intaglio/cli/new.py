"""Make a project folder with a commented project file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from intaglio.cli._app import App, command
from intaglio.core.errors import UserError
from intaglio.core.i18n import LANGUAGES, t

ARCHIVE = ("archive/texts", "archive/pictures")
IGNORED = ".intaglio/\npublic/\n"
SPDX = re.compile(r"[A-Za-z0-9.+() -]{1,200}")


@command("new")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", default="", help="Name of the project; left out: the folder's.")
@click.option(
    "--license",
    "license_",
    default="unknown",
    show_default=True,
    metavar="SPDX",
    help="License of your material, such as CC-BY-4.0; unknown can be trained on, not published.",
)
@click.option("--languages", default="en,zh", show_default=True, help="Languages of the published pages.")
def new_command(app: App, folder: Path, *, name: str, license_: str, languages: str) -> None:
    """Make a project folder with a commented project file.

    It holds a project file with a comment on every line, and an empty archive: put your texts and pictures there, then
    `intaglio plan` and `intaglio run`. An existing project is never overwritten.
    """
    target = folder / "intaglio.toml"
    if target.exists():
        raise UserError(t("there is a project here already"), where=str(target), fix=t("choose another folder"))
    text = project_file(name or folder.resolve().name, license_=license_, languages=_languages(languages))
    try:
        for part in ARCHIVE:
            (folder / part).mkdir(parents=True, exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text(IGNORED, "utf-8")
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(t("cannot be written: {error}", error=error.strerror), where=str(folder)) from None
    app.answer({"project": str(folder), "files": [str(target)]}, lines(folder))


def lines(folder: Path) -> Iterator[str]:
    """What to do next."""
    yield t("A project is ready in {folder}.", folder=folder)
    yield t("1. Put texts (.txt, .md) into {folder}", folder=folder / ARCHIVE[0])
    yield t("   and pictures (.png, .jpg, .webp) into {folder}", folder=folder / ARCHIVE[1])
    yield t("2. Read {file}; it is short, and every line is explained.", file=folder / "intaglio.toml")
    yield t("3. intaglio -C {folder} plan    shows what will happen", folder=folder)
    yield t("   intaglio -C {folder} run     makes it", folder=folder)


def _languages(given: str) -> list[str]:
    chosen = [each.strip() for each in given.split(",") if each.strip()]
    unknown = [each for each in chosen if each not in LANGUAGES]
    if unknown or not chosen:
        raise UserError(
            t("languages must be from {known}; got '{given}'", known=", ".join(LANGUAGES), given=given),
            where="--languages",
        )
    return chosen


def project_file(name: str, *, license_: str, languages: list[str]) -> str:
    """The text of a project file that runs as it stands, with comments in the reader's language."""
    if not SPDX.fullmatch(license_):
        raise UserError(
            t("not a license expression: '{given}'", given=license_[:60]),
            where="--license",
            fix=t("an SPDX identifier such as CC-BY-4.0, CC0-1.0 or unknown"),
        )
    shown = ", ".join(f'"{each}"' for each in languages)
    quoted = "".join(c for c in name if c.isprintable()).replace("\\", "\\\\").replace('"', '\\"')
    license_comment = t(
        'the license you have it under; nothing made from "unknown" is published without --allow-unknown'
    )
    return f"""\
# {t("What Intaglio makes of this folder. A section is one step; `intaglio list` shows what `use` may name.")}
# {t("A step reads from the steps it names, above it. Change a line: `intaglio plan` says what follows.")}

[project]
name = "{quoted}"
seed = 7                      # {t("chance starts here: the same seed, archive and machine class give the same result")}
languages = [{shown}]

# {t("1. data: what you own. Nothing in these folders is ever changed.")}
[data.texts]
use = "folder"
path = "archive/texts"
license = "{license_}"        # {license_comment}

[data.pictures]
use = "folder"
path = "archive/pictures"     # {t("a caption for a.png goes into a.txt beside it")}
license = "{license_}"

# {t("2. models: trained here, on your material only. size is the one dial: tiny, small, base.")}
[models.writer]
use = "gpt"
data = "texts"
size = "tiny"                 # {t("tiny: a minute or two; small: a quarter of an hour; base: an evening, or a GPU")}

[models.engraver]
use = "vae"
data = "pictures"
size = "tiny"

# {t("3. knowledge: what writing can look up in your archive.")}
[knowledge.index]
use = "embeddings"
items = "texts"

# {t("4. generate: candidates, more than you need.")}
[generate.drafts]
use = "article"
model = "writer"
knowledge = "index"
count = 6

[generate.plates]
use = "picture"
model = "engraver"
count = 12

# {t("5. optimize: the best of them; what copies the archive or is broken is refused, with the reason.")}
[optimize.best]
use = "pick"
items = ["drafts", "plates"]
keep = 6

# {t("6. publish: a site in public/site/, every file labelled and signed.")}
[publish.site]
use = "site"
items = "best"
"""
