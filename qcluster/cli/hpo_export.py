"""Where else a search for the command line is written while it runs: Optuna, MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qcluster.cli.output import note

if TYPE_CHECKING:
    from qcluster.q_hpo import MLflowLog, Study
    from qcluster.q_hpo.optuna_export import OptunaExport

__all__ = ["Exports"]

_FILES = ("history.csv", "best.json", "history.svg", "importance.svg", "parallel.svg")


class Exports:
    """The copies that ``--optuna`` and ``--mlflow`` ask for; both take up what they have already.

    Both are named after the directory ``out``. What is wrong with them is raised here, before the
    first trial; a copy that fails later is given up with a note, and the search goes on.
    """

    def __init__(self, optuna: str | None, mlflow: str | None, out: Path) -> None:
        self._out = out
        name = out.resolve().name or "search"
        self._optuna: OptunaExport | None = None
        self._mlflow: MLflowLog | None = None
        if optuna is not None:
            from qcluster.q_hpo.optuna_export import OptunaExport, open_storage

            self._optuna = OptunaExport(optuna, name)
            with open_storage(optuna):
                pass
        if mlflow is not None:
            from qcluster.q_hpo.mlflow_log import MLflowLog

            self._mlflow = MLflowLog(mlflow, run=name)

    def update(self, study: Study) -> None:
        """Write the trials that ended."""
        if self._optuna is not None:
            try:
                self._optuna.update(study)
            except Exception as error:
                note(f"no more is written to Optuna: {error}")
                self._optuna = None
        if self._mlflow is not None:
            try:
                self._mlflow.update(study)
            except Exception as error:
                note(f"no more is written to MLflow: {error}")
                self._mlflow = None

    def finish(self, study: Study) -> None:
        """The last trials; for MLflow also the history, the best set and the plots."""
        self.update(study)
        if self._mlflow is not None:
            there = {name: self._out / name for name in _FILES if (self._out / name).exists()}
            self._mlflow.finish(study, there)
