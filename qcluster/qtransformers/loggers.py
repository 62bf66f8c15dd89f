"""Where figures of a run go: CSV always, TensorBoard and MLflow where they are installed.

A logger is a callback. Only worker 0 writes. The CSV is exact under kills: on resume, lines after
the checkpoint's step are cut off, so each step is there once.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qcluster.errors import MissingDependency, NotFound
from qcluster.qtransformers.callbacks import Callback

if TYPE_CHECKING:
    from qcluster.qtransformers.loop import TrainingLoop
    from qcluster.qtransformers.train_report import TrainReport

__all__ = ["CSVLogger", "MLflowLogger", "TensorBoardLogger", "make_logger"]

COLUMNS = ("step", "loss", "learning_rate", "grad_norm", "samples_per_s")


class CSVLogger(Callback):
    """``steps.csv`` and ``evaluations.csv`` in a directory."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.steps = self.directory / "steps.csv"
        self.evaluations = self.directory / "evaluations.csv"

    def on_start(self, loop: TrainingLoop) -> None:
        if loop.workers.rank:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in (self.steps, self.evaluations):
            _cut(path, loop.step)

    def on_log(self, loop: TrainingLoop, row: Mapping[str, float]) -> None:
        if not loop.workers.rank:
            _append(self.steps, {name: row[name] for name in COLUMNS})

    def on_evaluate(self, loop: TrainingLoop, metrics: Mapping[str, float]) -> None:
        if not loop.workers.rank:
            _append(self.evaluations, {"step": loop.step, **metrics})


class TensorBoardLogger(Callback):
    """Event files for TensorBoard, written by tensorboardX (which Ray Tune brings).

    Raises MissingDependency where it is absent.
    """

    def __init__(self, directory: str | Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise MissingDependency("tensorboardX", needed_for="TensorBoard logs") from None
        self._make = lambda: SummaryWriter(str(directory))
        self._writer: Any = None

    def on_start(self, loop: TrainingLoop) -> None:
        if not loop.workers.rank:
            self._writer = cast(Any, self._make)()

    def on_log(self, loop: TrainingLoop, row: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name in COLUMNS[1:]:
                self._writer.add_scalar(f"train/{name}", row[name], loop.step)

    def on_evaluate(self, loop: TrainingLoop, metrics: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(f"eval/{name}", value, loop.step)

    def on_end(self, loop: TrainingLoop, report: TrainReport) -> None:  # noqa: ARG002
        if self._writer is not None:
            self._writer.close()


class MLflowLogger(Callback):
    """Parameters and figures in an MLflow run of their own, which a resumed training goes on with.

    Raises MissingDependency where MLflow is absent.
    """

    def __init__(
        self, tracking_uri: str | Path | None = None, experiment: str = "qcluster"
    ) -> None:
        try:
            import mlflow
        except ImportError:
            raise MissingDependency("mlflow", needed_for="MLflow logs") from None
        self._mlflow: Any = mlflow
        self.tracking_uri, self.experiment = tracking_uri, experiment

    def on_start(self, loop: TrainingLoop) -> None:
        if loop.workers.rank:
            return
        if self.tracking_uri is not None:
            self._mlflow.set_tracking_uri(str(self.tracking_uri))
        self._mlflow.set_experiment(self.experiment)
        known = loop.memory.get("mlflow_run")
        run = self._mlflow.start_run(run_id=known)
        if known is None:
            loop.memory["mlflow_run"] = run.info.run_id
            self._mlflow.log_params(loop.config.model_dump())

    def on_log(self, loop: TrainingLoop, row: Mapping[str, float]) -> None:
        if not loop.workers.rank:
            figures = {name: row[name] for name in COLUMNS[1:]}
            self._mlflow.log_metrics(figures, step=loop.step)

    def on_evaluate(self, loop: TrainingLoop, metrics: Mapping[str, float]) -> None:
        if not loop.workers.rank:
            figures = {f"eval_{name}": value for name, value in metrics.items()}
            self._mlflow.log_metrics(figures, step=loop.step)

    def on_end(self, loop: TrainingLoop, report: TrainReport) -> None:  # noqa: ARG002
        if not loop.workers.rank:
            self._mlflow.end_run()


def make_logger(name: str, directory: str | Path) -> Callback:
    """The logger called ``csv``, ``tensorboard`` or ``mlflow``, writing below ``directory``.

    Raises NotFound for another name and MissingDependency where its library is absent.
    """
    if name == "csv":
        return CSVLogger(directory)
    if name == "tensorboard":
        return TensorBoardLogger(Path(directory) / "tensorboard")
    if name == "mlflow":
        return MLflowLogger(f"sqlite:///{Path(directory).resolve()}/mlflow.db")
    raise NotFound(f"no logger called '{name}'; there are: csv, mlflow, tensorboard")


def _append(path: Path, row: Mapping[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(row)
        writer.writerow([repr(v) if isinstance(v, float) else v for v in row.values()])


def _cut(path: Path, step: int) -> None:
    """Drop lines of steps after ``step``, and a last line that a kill cut short."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    width = len(rows[0]) if rows else 0
    kept = [r for r in rows[1:] if len(r) == width and r[0].isdigit() and int(r[0]) <= step]
    if not kept:
        path.unlink()
        return
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *kept])
    partial.replace(path)
