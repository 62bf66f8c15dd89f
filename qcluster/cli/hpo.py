"""``qcluster hpo``: search a space for the configuration that makes an objective small or large."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qcluster.cli.output import emit_json, emit_table, note

if TYPE_CHECKING:
    from qcluster.q_hpo import Study, Trial

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "hpo",
        epilog="Example: qcluster hpo space.yaml --objective train:loss -n 50 --out sweep",
    )(hpo)


def hpo(
    space: Path = typer.Argument(..., help="JSON or YAML file of parameters."),
    objective: str = typer.Option(..., "--objective", help="MODULE:FUNC of a configuration."),
    trials: int = typer.Option(..., "-n", "--trials", min=1, help="Trials in all."),
    searcher: str = typer.Option("gp", "--searcher", help="gp, vqc, hybrid, sobol or random."),
    mode: str = typer.Option("min", "--mode", help="min or max."),
    metric: str = typer.Option("value", "--metric", help="Key of a dict that FUNC returns."),
    prior: Path | None = typer.Option(
        None, "--prior", help="CSV, Ray results or Optuna of other tasks."
    ),
    prior_metric: str | None = typer.Option(None, "--prior-metric", help="Its column."),
    warm_start: Path | None = typer.Option(
        None, "--warm-start", help="Saved study, searcher or Optuna storage: its trials count."
    ),
    optuna: str | None = typer.Option(
        None, "--optuna", help="Also an Optuna study in this file (.db or journal), as it goes."
    ),
    mlflow: str | None = typer.Option(
        None, "--mlflow", help="Also MLflow runs in this tracking store (sqlite:///FILE or http)."
    ),
    ray: bool = typer.Option(True, "--ray/--in-process", help="Tune sweep, or one by one here."),
    workers: int = typer.Option(2, "--workers", min=1, help="Trials at a time under Ray."),
    out: Path = typer.Option(Path("hpo"), "--out", help="Directory of history, best set, plots."),
    resume: bool = typer.Option(False, "--resume", help="Go on with the journal in --out."),
    top: int = typer.Option(3, "--top", min=1, help="How many best configurations."),
    seed: int = typer.Option(0, "--seed", min=0),
    as_json: bool = typer.Option(False, "--json", help="Machine output on stdout."),
) -> None:
    """Search SPACE; print the best measured configurations and write everything to --out.

    Every trial is in OUT/journal.jsonl before the next one starts; --resume continues there after
    any interruption, with the same suggestions.
    """
    from qcluster.cli.hpo_export import Exports
    from qcluster.cli.hpo_sweep import Sweep, load_objective
    from qcluster.q_hpo import load_prior, load_space
    from qcluster.q_hpo.plots import write_plots

    read = load_space(space)
    function = load_objective(objective)
    earlier = None if prior is None else load_prior(prior, read, metric=prior_metric)
    if earlier is not None:
        note(f"{len(earlier.values)} earlier trials, {earlier.skipped} rows do not fit the space")
    exports = Exports(optuna, mlflow, out)
    sweep = Sweep(
        read, searcher=searcher, mode=mode, metric=metric, seed=seed, prior=earlier,
        warm_start=warm_start, journal=out / "journal.jsonl", resume=resume,
    )  # fmt: skip
    line = _progress(mode)

    def report(trial: Trial, seconds: float) -> None:
        line(trial, seconds)
        exports.update(sweep.study)

    try:
        (sweep.run_in_ray if ray else sweep.run_here)(function, trials, workers, report)
        _write(sweep.study, out, top)
        if sweep.study.best is not None:
            write_plots(sweep.study, out)
        exports.finish(sweep.study)
        _show(sweep.study, top, as_json, out)
    finally:
        sweep.study.close()


def _progress(mode: str) -> Callable[[Trial, float], None]:
    """One line a trial, on stderr."""
    started = time.monotonic()
    best: list[float] = []

    def line(trial: Trial, seconds: float) -> None:
        if trial.value is not None:
            best[:] = [(min if mode == "min" else max)([*best, trial.value])]
        value = "-" if trial.value is None else f"{trial.value:.6g}"
        shown = f"{best[0]:.6g}" if best else "-"
        elapsed = time.monotonic() - started
        note(f"trial {trial.number:4d} {trial.status:9s} {value:>12s}  best {shown:>12s}  "
             f"{seconds:7.2f} s  {elapsed:8.1f} s  {trial.arm}")  # fmt: skip

    return line


def _write(study: Study, out: Path, top: int) -> None:
    from qcluster.q_hpo.formats import write_best, write_history

    write_history(out / "history.csv", study.history)
    write_history(out / "history.jsonl", study.history)
    write_best(out / "best.json", study.top(top))


def _show(study: Study, top: int, as_json: bool, out: Path) -> None:
    from qcluster.errors import SolverFailed
    from qcluster.q_hpo.space import flatten

    best = study.top(top)
    if as_json:
        counts = {s: sum(t.status == s for t in study.history) for s in
                  sorted({t.status for t in study.history})}  # fmt: skip
        emit_json({"best": best, "trials": len(study.history), "statuses": counts,
                   "directory": str(out)})  # fmt: skip
    if not best:
        raise SolverFailed(f"no trial ended with a value; see {out / 'history.csv'}")
    if as_json:
        return
    names = list(dict.fromkeys(name for trial in best for name in flatten(trial.config)))
    rows: list[list[Any]] = []
    for trial in best:
        flat = flatten(trial.config)
        value = math.nan if trial.value is None else trial.value
        rows.append([trial.id, value, *(flat.get(name, "") for name in names)])
    emit_table(["trial", "value", *names], rows, title=f"Best of {len(study.history)} trials")
    note(f"history, best set and plots are in {out}")
