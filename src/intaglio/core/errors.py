"""Errors written for the reader: where, what was got, and what to do about it."""

from __future__ import annotations

from intaglio.core.i18n import t


class IntaglioError(Exception):
    """Base of all errors raised on purpose."""


class UserError(IntaglioError):
    """The person's mistake: nothing was started, the command exits with 2 and shows no traceback.

    Args:
        what:  what is wrong and what was got, one sentence.
        where: the place, such as ``intaglio.toml [models.poet]`` or a file's path.
        fix:   what to do, one line; a command where one mends it.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  fix: {self.fix}" if self.fix else head

    def __reduce__(self) -> tuple[object, ...]:  # keyword-only arguments survive pickling between processes
        return (_rebuild, (type(self), self.what, self.where, self.fix))


def _rebuild(cls: type[UserError], what: str, where: str, fix: str) -> UserError:
    error = cls.__new__(cls)
    UserError.__init__(error, what, where=where, fix=fix)
    return error


class MissingExtra(UserError):
    """An optional dependency is not installed; the fix is the command that installs it."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(
            t("{package} is needed for {needed_for}", package=package, needed_for=needed_for),
            fix=f"pip install 'intaglio[{extra}]'",
        )


class StepFailed(IntaglioError):
    """A step stopped with an error of ours or of a library; what was made before it is kept."""

    def __init__(self, step: str, message: str, *, trace: str = "") -> None:
        super().__init__(f"{step}: {message}")
        self.step = step
        self.message = message
        self.trace = trace
