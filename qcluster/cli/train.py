"""``qcluster train``: a configuration file to trained weights."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from qcluster.cli.output import emit_json, emit_table, note, read_text
from qcluster.errors import FormatError, InputError
from qcluster.record import encode

__all__ = ["read_config", "register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("train")(train_command)


def train_command(
    config: Path = typer.Argument(..., help="YAML or JSON with `kind` and what that kind takes."),
    out: Path = typer.Option(Path("trained"), "--out", "-o", help="Directory for the results."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the newest checkpoint there."),
    address: str = typer.Option("local", help="Ray for several workers: local, auto, HOST:PORT."),
    json_out: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Train a transformer or one of the learned parts.

    Example: qcluster train examples/train_stdlib.yaml --out trained
    """
    from qcluster.trainings import training

    settings = read_config(config)
    try:
        run, rest = training(settings)
        with _ray_when_needed(address, out):
            result = run(rest, out=out, resume=resume, note=note)
    except InputError as error:
        raise error.at(file=config) from None
    document = encode(result if isinstance(result, Mapping) else result.to_dict())
    if json_out:
        emit_json(document)
        return
    shown = {k: v for k, v in document.items() if not isinstance(v, (list, dict))}
    emit_table(("", ""), shown.items())


def read_config(path: Path) -> dict[str, Any]:
    """A YAML or JSON file that holds one mapping.

    Raises FormatError naming file and row.
    """
    import yaml

    text = read_text(path)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "cannot be read"
        row = None if mark is None else mark.line + 1
        raise FormatError(f"is not YAML: {problem}", file=path, row=row) from None
    except RecursionError:
        raise FormatError("is nested too deeply", file=path) from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise FormatError("wanted a mapping of names", file=path)
    return data


@contextlib.contextmanager
def _ray_when_needed(address: str, out: Path) -> Iterator[None]:
    """What is trained on several workers starts Ray by this, or joins the one at ``address``."""
    from qcluster.trainings import CLUSTER

    @contextlib.contextmanager
    def start() -> Iterator[None]:
        from actors.runtime import running_ray

        state = out / ".ray"
        state.mkdir(parents=True, exist_ok=True)
        note("starting Ray ..." if address == "local" else f"joining Ray at {address} ...")
        with (
            tempfile.TemporaryDirectory(prefix="qc-", ignore_cleanup_errors=True) as temp,
            running_ray(address, state.resolve(), temp),
        ):
            yield

    chosen = CLUSTER.set(start)
    try:
        yield
    finally:
        CLUSTER.reset(chosen)
