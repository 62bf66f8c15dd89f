"""``qcluster recommend MODULE --situation ...``: the module's recommendation row and its config."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import typer

from qcluster.cli.output import emit_json
from qcluster.config import Recommendation
from qcluster.errors import InputError

__all__ = ["register"]

MODULES = ("routing", "energy", "nvlink", "compressor", "decompressor", "hpo", "attention")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "recommend",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        epilog="Example: qcluster recommend nvlink --num-gpus 72",
    )(recommend)


def recommend(
    context: typer.Context,
    module: str = typer.Argument(help=f"One of {', '.join(MODULES)}."),
    as_json: bool = typer.Option(False, "--json", help="Machine output on stdout."),
) -> None:
    """Print which toggles a module recommends for a situation given as --name value."""
    if module not in MODULES:
        raise InputError(f"no module '{module}'; there are: {', '.join(MODULES)}", field="MODULE")
    function = importlib.import_module(f"qcluster.q_{module}").recommend
    situation = _situation(function, module, context.args)
    try:
        found: Recommendation[Any] = function(**situation)
    except InputError:
        raise
    except ValueError as error:  # no such row in the module's table
        raise InputError(str(error)) from None
    if as_json:
        emit_json({"row": found.row, "config": found.config, "measured": found.measured})
        return
    for name, value in found.row.items():
        typer.echo(f"{name}: {value}")
    changed = found.config.model_dump(exclude_defaults=True)
    typer.echo(f"config: {changed or 'the defaults'}")
    typer.echo(f"measured: {found.measured or 'not yet'}")


def _situation(function: Callable[..., Any], module: str, args: list[str]) -> dict[str, Any]:
    wanted = inspect.signature(function).parameters
    given: dict[str, Any] = {}
    rest = list(args)
    while rest:
        option = rest.pop(0)
        name, equals, value = option.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not option.startswith("--") or name not in wanted:
            names = ", ".join(f"--{n.replace('_', '-')}" for n in wanted)
            raise InputError(f"'{option}' is not understood; {module} takes {names}")
        kind = str(wanted[name].annotation)
        if not equals:
            value = "true" if "bool" in kind else rest.pop(0) if rest else ""
        given[name] = _value(value, kind, name)
    missing = [
        n for n, p in wanted.items() if p.default is inspect.Parameter.empty and n not in given
    ]
    if missing:
        raise InputError("is needed", field=f"--{missing[0].replace('_', '-')}")
    return given


def _value(text: str, kind: str, name: str) -> Any:
    if "bool" in kind and text in ("true", "false"):
        return text == "true"
    if "int" in kind and "str" not in kind:
        try:
            return int(text)
        except ValueError:
            raise InputError(f"wants a whole number, got '{text}'", field=f"--{name}") from None
    return text
