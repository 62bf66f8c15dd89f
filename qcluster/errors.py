"""Every error that qcluster raises on purpose, in one tree.

    QClusterError                  base of all; the CLI exits 1
    ├── InputError                 the caller's data or arguments are wrong (CLI 2, HTTP 422)
    │   ├── FormatError            a file or text is not in a format that is understood
    │   └── Infeasible             the question is well posed but has no answer; says by how much
    ├── DeadlineExceeded           time ran out before there was an answer
    ├── SolverFailed               a solver raised, crashed or gave an answer that fails its check
    ├── NotReady                   a part is starting, restarting or has no plan yet (HTTP 503)
    ├── NotFound                   no such plan, study, job or name (HTTP 404)
    ├── Refused                    understood but not permitted, e.g. apply in dry-run (HTTP 409)
    └── MissingDependency          an optional library is not installed; says what to install

An ``InputError`` names the place: file, row, field, what came and what was wanted. The message is
one line, fit to be shown to a user without a traceback.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "DeadlineExceeded",
    "FormatError",
    "Infeasible",
    "InputError",
    "MissingDependency",
    "NotFound",
    "NotReady",
    "QClusterError",
    "Refused",
    "SolverFailed",
]


class QClusterError(Exception):
    """Base of all errors raised on purpose."""


class InputError(QClusterError, ValueError):
    """The caller's data or arguments are wrong.

    Parameters
    ----------
    message: what is wrong, in one line.
    file, row, field: where; each is put before the message when given. ``row`` counts from 1.
    """

    def __init__(
        self,
        message: str,
        *,
        file: Any = None,
        row: int | None = None,
        field: str | None = None,
    ) -> None:
        self.message = message
        self.file = None if file is None else str(file)
        self.row = row
        self.field = field
        super().__init__(message)

    def __str__(self) -> str:
        place = [
            part
            for part in (
                self.file,
                None if self.row is None else f"row {self.row}",
                None if self.field is None else f"field '{self.field}'",
            )
            if part
        ]
        return ": ".join([", ".join(place), self.message]) if place else self.message

    def at(
        self, *, file: Any = None, row: int | None = None, field: str | None = None
    ) -> InputError:
        """The same error with places filled in that were unknown where it was raised."""
        return type(self)(
            self.message,
            file=self.file if self.file is not None else file,
            row=self.row if self.row is not None else row,
            field=self.field if self.field is not None else field,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_input_error, (type(self), self.message, self.file, self.row, self.field)


class FormatError(InputError):
    """A file or text is not in a format that is understood."""


class Infeasible(InputError):
    """The question is well posed but has no answer; the message says by how much it fails."""


class DeadlineExceeded(QClusterError):
    """Time ran out before there was an answer."""


class SolverFailed(QClusterError, RuntimeError):
    """A solver raised, crashed or returned something that fails its own check."""


class NotReady(QClusterError, RuntimeError):
    """A part is starting, restarting or has nothing to show yet; try again shortly."""


class NotFound(QClusterError, LookupError):
    """No plan, study, job or registered name like this."""


class Refused(QClusterError, RuntimeError):
    """Understood, but not permitted in this configuration."""


class MissingDependency(QClusterError, ImportError):
    """An optional library is not installed."""

    def __init__(self, library: str, *, needed_for: str, extra: str | None = None) -> None:
        hint = f"pip install 'qcluster-ray[{extra}]'" if extra else f"pip install {library}"
        self.library, self.needed_for, self.extra = library, needed_for, extra
        super().__init__(f"{library} is needed for {needed_for}: {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_missing, (self.library, self.needed_for, self.extra)


def _rebuild_input_error(
    kind: type[InputError], message: str, file: str | None, row: int | None, field: str | None
) -> InputError:
    return kind(message, file=file, row=row, field=field)


def _rebuild_missing(library: str, needed_for: str, extra: str | None) -> MissingDependency:
    return MissingDependency(library, needed_for=needed_for, extra=extra)
