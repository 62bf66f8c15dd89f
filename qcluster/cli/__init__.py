"""The command line. Each verb is a module of this package with a ``register(app)``.

Exit status: 0 done, 2 bad input or usage (one line that names file, row and field), 1 anything
else. Results go to stdout, progress and logs to stderr, so ``--json`` can be piped.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.main import get_command

from qcluster.cli.output import fail
from qcluster.errors import InputError, QClusterError

__all__ = ["app", "main"]

VERBS = ("place", "route", "energy", "nvlink", "solve", "compress", "hpo", "train", "evaluate",
         "recommend", "serve", "status", "doctor", "plans")  # fmt: skip

# Typer brings its own copy of click, so click's exceptions are found through Typer's.
USAGE_ERROR: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="qcluster",
    help="Live telemetry in, certified plans out, for clusters that train and serve large models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        from qcluster import __version__

        typer.echo(f"qcluster {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True),
) -> None:
    """Live telemetry in, certified plans out."""


@functools.cache
def _register() -> None:
    for verb in VERBS:
        if importlib.util.find_spec(f"qcluster.cli.{verb}"):
            importlib.import_module(f"qcluster.cli.{verb}").register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    _register()
    try:
        status = get_command(app).main(
            args=None if arguments is None else list(arguments),
            prog_name="qcluster",
            standalone_mode=False,
        )
    except typer.Abort:
        return fail("interrupted", status=130)
    except USAGE_ERROR as error:
        return fail(error.format_message(), status=2)
    except typer.Exit as error:
        return int(error.exit_code)
    except InputError as error:
        return fail(str(error), status=2)
    except (QClusterError, OSError) as error:
        return fail(str(error), status=1)
    except BrokenPipeError:
        # The reader of our stdout went away (``| head``): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return int(status or 0)
