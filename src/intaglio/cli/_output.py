"""Where answers, errors and exit codes of all commands are made: results on stdout, everything else on stderr."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from intaglio.core.errors import IntaglioError, StepFailed, UserError
from intaglio.core.i18n import t

DONE, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def plain(value: Any) -> Any:
    """``value`` as plain JSON: paths and tuples become strings and lists, NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    return value


def write(line: str, *, error: bool = False) -> None:
    """One line on stdout or stderr; a reader that went away (``| head``) is no error."""
    stream = sys.stderr if error else sys.stdout
    try:
        stream.write(_encodable(line, stream.encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        # The descriptor is pointed elsewhere, so that neither later lines nor Python's own flush at exit fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _encodable(line: str, encoding: str | None) -> str:
    name = encoding or "utf-8"
    return line.encode(name, "backslashreplace").decode(name)


def answer(data: Mapping[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """The result of a command: ``lines`` for people, or ``data`` as one JSON object on the last line."""
    if as_json:
        write_json(data)
        return
    for line in lines:
        write(line)


def write_json(data: Mapping[str, Any]) -> None:
    """``data`` as one line of JSON on stdout."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    write(json.dumps(plain(data), ensure_ascii=not utf8, allow_nan=False))


def failure(error: BaseException, *, as_json: bool) -> int:
    """Say what went wrong, to the person (stderr) and in ``--json`` mode as the last line; returns the exit code."""
    kind, code, lines, fields = _explain(error)
    for line in lines:
        write(line, error=True)
    if kind == "bug":
        write("".join(traceback.format_exception(error)).rstrip(), error=True)
    if as_json:
        write_json({"error": {"kind": kind, **fields}})
    return code


def _explain(error: BaseException) -> tuple[str, int, list[str], dict[str, str]]:
    """Kind, exit code, lines for people, fields for programs."""
    if isinstance(error, click.UsageError | click.ClickException):
        error = usage_error(error)
    if isinstance(error, UserError):
        place = f"{error.where}: " if error.where else ""
        lines = [t("error: {message}", message=place + error.what)]
        lines += ["  " + t("fix: {fix}", fix=error.fix)] if error.fix else []
        return "mistake", MISTAKE, lines, {"what": error.what, "where": error.where, "fix": error.fix}
    if isinstance(error, KeyboardInterrupt | click.Abort):
        what = t("interrupted; everything finished so far is kept, and the same command goes on from there")
        return "interrupted", INTERRUPTED, [what], {"what": what}
    if isinstance(error, StepFailed):
        lines = [t("error: step {step} failed: {message}", step=error.step, message=error.message)]
        lines += [error.trace.rstrip()] if error.trace else []
        return "step", FAILED, lines, {"what": error.message, "where": error.step, "fix": ""}
    if isinstance(error, IntaglioError):
        return "failure", FAILED, [t("error: {message}", message=str(error))], {"what": str(error)}
    what = f"{type(error).__name__}: {error}"
    lines = [t("error: this is a bug in Intaglio or in a library it uses; your files were not changed")]
    return "bug", FAILED, lines, {"what": what}


def usage_error(error: click.ClickException) -> UserError:
    """Click's own message, with its hint taken apart into what and fix."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "intaglio"
    fix = t("{command} --help shows what it takes", command=path)
    if isinstance(error, click.NoSuchOption):
        if error.possibilities:
            fix = t("did you mean '{name}'?", name=sorted(error.possibilities)[0])
        return UserError(t("there is no option '{name}'", name=error.option_name), where=path, fix=fix)
    if isinstance(error, click.MissingParameter):
        name = error.param.make_metavar(context) if error.param is not None and context is not None else "?"
        return UserError(t("{name} is missing", name=name), where=path, fix=fix)
    return UserError(error.format_message().rstrip("."), where=path, fix=fix)
