"""``qcluster evaluate``: GLUE and SuperGLUE tasks with significance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from qcluster.cli.output import emit_json, emit_table, note, write_atomic
from qcluster.errors import InputError

if TYPE_CHECKING:
    from qcluster.qtransformers.evaluation.run import EvaluationConfig

__all__ = ["register"]

COMPARED = ("task", "items", "metric", "exact", "new", "won", "lost", "p (Holm)", "verdict")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    config: Path = typer.Argument(..., help="YAML or JSON: model, tasks, new, margin, ..."),
    out: Path | None = typer.Option(None, "--out", "-o", help="Also write the report there."),
    json_out: bool = typer.Option(False, "--json", help="One JSON document on stdout."),
) -> None:
    """Score a model on tasks, and compare a sampled attention with the exact one.

    Example: qcluster evaluate examples/evaluate_glue.yaml

    Files are looked for beside the configuration. Verdicts are non-inferior, worse, not shown,
    or cannot tell where there are too few items.
    """
    from qcluster.cli.train import read_config
    from qcluster.qtransformers.evaluation.run import EvaluationConfig, evaluate

    try:
        settings = _beside(EvaluationConfig.read(read_config(config)), config.parent)
        report = evaluate(settings, note=note)
    except InputError as error:
        raise error.at(file=config) from None
    if out is not None:
        write_atomic(out, report.to_dict())
    if json_out:
        emit_json(report)
        return
    if report.comparisons:
        emit_table(COMPARED, report.rows())
    else:
        emit_table(("task", "items", "metric", "accuracy"), report.rows())


def _beside(config: EvaluationConfig, folder: Path) -> EvaluationConfig:
    """Relative paths are meant from the configuration's folder."""

    def place(path: str | None) -> str | None:
        return None if path is None else str(folder / path)

    tasks = {
        name: files.with_(train=place(files.train), test=place(files.test))
        for name, files in config.tasks.items()
    }
    return config.model_copy(update={"model": str(folder / config.model), "tasks": tasks})
