"""The door: `intaglio`, its common options, and one exit for every error."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from intaglio import __version__
from intaglio.cli import _output
from intaglio.cli._app import App, Group


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, help="Show the version.")
@click.pass_context
def intaglio(ctx: click.Context, version: bool) -> None:
    """Turn your own archive into publishable work, marked, signed and traceable to every source."""
    ctx.ensure_object(App)
    if ctx.invoked_subcommand is not None:
        return
    if version:
        _output.answer({"version": __version__}, [f"intaglio {__version__}"], as_json=ctx.obj.as_json)
    else:
        _output.write(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code: 0 done, 1 failed, 2 the person's mistake, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    try:
        code = intaglio.main(args=given, prog_name="intaglio", standalone_mode=False)
    except BrokenPipeError:
        return _output.DONE  # the reader has seen enough
    except (Exception, KeyboardInterrupt) as error:
        return _output.failure(error, as_json=as_json)
    return code if isinstance(code, int) else _output.DONE
