"""What all commands share: the options of every command, the project they mean, and lazily found command files."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from intaglio.cli import _output
from intaglio.core.errors import UserError
from intaglio.core.i18n import LANGUAGES, t

if TYPE_CHECKING:
    from intaglio.cli._progress import Watcher
    from intaglio.project import Project

HERE = Path(__file__).parent
SECTIONS = (  # how `intaglio --help` groups the commands; a file not named here appears under the last title
    ("Start", ("new", "demo", "doctor", "list")),
    ("Make", ("plan", "run", "train", "sample", "publish", "check")),
    ("Look", ("show", "models", "verify", "trace", "replay")),
    ("Keep and give away", ("export", "forget", "backup", "restore")),
    ("More", ()),
)


@dataclass
class App:
    """What the options of every command say. folder: given by ``-C``, else None."""

    folder: Path | None = None
    as_json: bool = False

    @property
    def terminal(self) -> bool:
        """Whether a person's terminal shows the result."""
        return sys.stdout.isatty()

    def project_folder(self, near: Path | None = None) -> Path | None:
        """The folder of the project: ``-C``, else the nearest one above ``near`` or above the current folder."""
        from intaglio.project.file import find_project

        if self.folder is not None:
            return self.folder
        found = find_project(near.resolve().parent) if near is not None else None
        return found or find_project(Path.cwd())

    def project(self, near: Path | None = None) -> Project:
        """Open it. Errors: UserError where there is none."""
        from intaglio.project import open_project

        return open_project(self.project_folder(near) or Path.cwd())

    def progress(self) -> Watcher:
        """A watcher that shows a run on stderr; used as a context manager."""
        from intaglio.cli._progress import watcher

        return watcher()

    def answer(self, data: Mapping[str, Any], lines: Iterable[str]) -> None:
        """The result of the command."""
        _output.answer(data, lines, as_json=self.as_json)

    def say(self, line: str) -> None:
        """A remark beside the result, on stderr."""
        _output.write(line, error=True)


def _set_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(App).as_json = True


def _set_folder(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is None:
        return
    if not value.is_dir():
        raise UserError(t("there is no such folder"), where=str(value), fix=t("intaglio new {folder}", folder=value))
    ctx.ensure_object(App).folder = value


def _set_language(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value:
        os.environ["INTAGLIO_LANG"] = value  # worker processes inherit it


def common_options() -> list[click.Parameter]:
    """The options every command takes, before or after its name."""
    return [
        click.Option(
            ["-C", "--project"],
            type=click.Path(path_type=Path),
            metavar="FOLDER",
            callback=_set_folder,
            expose_value=False,
            help="The project's folder; left out: the nearest one above the current folder.",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            callback=_set_json,
            expose_value=False,
            help="The result as one JSON object on the last line.",
        ),
        click.Option(
            ["--lang"],
            type=click.Choice(LANGUAGES),
            callback=_set_language,
            expose_value=False,
            is_eager=True,
            help="Language of the messages; left out: the one of your system.",
        ),
    ]


def _help_in_language(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Usage, text and options as Click lays them out, in the reader's language."""
    pieces = command.collect_usage_pieces(ctx)
    formatter.write_usage(ctx.command_path, " ".join(pieces), prefix=t("Usage: "))
    if command.help:
        for paragraph in command.help.split("\n\n"):
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(t(" ".join(paragraph.split())))
    records = []
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None and isinstance(param, click.Option):
            names, text = record
            records.append((names, text.replace(param.help or "", t(param.help or ""), 1)))
    with formatter.section(t("Options")):
        formatter.write_dl(records)


class Command(click.Command):
    """A command of ours: takes the common options and explains itself in the reader's language."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *common_options()]

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Click's ``--help``, in the reader's language."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = "Show this text."
        return option

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Usage, text, options."""
        _help_in_language(self, ctx, formatter)


def command(name: str, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of ``f(app, ...)``: its docstring is the help, its return value the exit code or None."""

    def wrap(function: Callable[..., Any]) -> Command:
        @click.pass_context
        @functools.wraps(function)
        def call(ctx: click.Context, /, *args: Any, **kwargs: Any) -> Any:
            return function(ctx.ensure_object(App), *args, **kwargs)

        return click.command(name, cls=Command, **settings)(call)

    return wrap


def command_names() -> list[str]:
    """Names of all commands: one for each file of this folder that does not start with ``_``, but ``main``."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_") and path.stem != "main")


def summary(name: str) -> str:
    """First docstring line of a command's file, read without importing it."""
    doc = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text("utf-8"))) or ""
    return doc.strip().splitlines()[0] if doc.strip() else ""


class Group(click.Group):
    """All commands, each imported only when it is called."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *common_options()]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return command_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import ``cli/<name>.py``; a mistyped name is refused with the nearest known one."""
        if cmd_name not in command_names():
            near = difflib.get_close_matches(cmd_name, command_names(), n=1)
            raise UserError(
                t("there is no command '{name}'", name=cmd_name),
                where="intaglio",
                fix=t("did you mean '{name}'?", name=near[0]) if near else t("intaglio --help shows them all"),
            )
        found = getattr(importlib.import_module(f"intaglio.cli.{cmd_name}"), f"{cmd_name}_command")
        assert isinstance(found, click.Command)
        return found

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Click's ``--help``, in the reader's language."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = "Show this text."
        return option

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Usage, text, options, and the commands in groups with the first line of each."""
        _help_in_language(self, ctx, formatter)
        left = command_names()
        for title, names in SECTIONS:
            shown = [name for name in names if name in left] if names else left
            left = [name for name in left if name not in shown]
            if shown:
                with formatter.section(t(title)):
                    formatter.write_dl([(name, t(summary(name))) for name in shown])
