"""Trials as MLflow runs: one run for the search, one run inside it for every trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qcluster.errors import InputError, MissingDependency
from qcluster.q_hpo.space import flatten
from qcluster.q_hpo.study import Study
from qcluster.q_hpo.trial import Trial

__all__ = ["MLflowLog"]

_PARENT = "mlflow.parentRunId"
_LONGEST = 500  # characters of a parameter's value: the least that MLflow's stores take


class MLflowLog:
    """Writes a study's trials to an MLflow tracking store, each once.

    Parameters
    ----------
    uri: tracking store (``sqlite:///runs.db``, ``http://...``); None is MLflow's own default.
    experiment: its name; made if it is not there.
    run: name of the search's run. A run of that name is taken up again and trials that it has
        already are not written twice.

    A trial that ended with a value is FINISHED and has the metric ``value`` at its step; the others
    are FAILED, with the status as a tag. ``mlflow-skinny`` is enough (with sqlalchemy for SQLite).

    Raises MissingDependency without MLflow, and InputError if the store refuses.
    """

    def __init__(
        self, uri: str | None = None, experiment: str = "qcluster", run: str = "search"
    ) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise MissingDependency("mlflow-skinny", needed_for="logging to MLflow") from None
        try:
            self._client: Any = MlflowClient(tracking_uri=uri)
            self._experiment = self._experiment_of(experiment)
            self.run_id: str = self._run_of(run)
            self._known = self._logged()
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise InputError(f"MLflow refuses: {first}", field=f"mlflow {uri or ''}".strip()) from (
                error
            )

    def update(self, study: Study) -> int:
        """Write the trials that ended since the last call; how many those were."""
        fresh = [t for t in study.history if t.status != "running" and t.id not in self._known]
        for trial in fresh:
            self._write(study, trial)
            self._known.add(trial.id)
        best = study.best
        if fresh and best is not None and best.value is not None:
            self._client.log_metric(self.run_id, "best", best.value, step=len(self._known))
        return len(fresh)

    def finish(self, study: Study, files: Mapping[str, Path] | None = None) -> None:
        """Write what is left, the best configuration as parameters, ``files``, and end the run.

        ``files``: name to path; each is logged as an artifact.
        """
        self.update(study)
        if study.best is not None:
            for name, value in flatten(study.best.config).items():
                # A run's parameters cannot change; the best configuration of a resumed search can.
                self._client.set_tag(self.run_id, f"best.{name}", _text(value))
        for path in (files or {}).values():
            self._client.log_artifact(self.run_id, str(path))
        self._client.set_terminated(self.run_id, "FINISHED")

    def _write(self, study: Study, trial: Trial) -> None:
        tags = {_PARENT: self.run_id, "qcluster.trial": trial.id, "status": trial.status,
                "arm": trial.arm, "mlflow.runName": trial.id}  # fmt: skip
        run = self._client.create_run(self._experiment, tags=tags).info.run_id
        for name, value in flatten(trial.config, study.space.names).items():
            self._client.log_param(run, name, _text(value))
        if trial.value is not None:
            self._client.log_metric(run, "value", trial.value, step=trial.step or 0)
        self._client.set_terminated(run, "FAILED" if trial.value is None else "FINISHED")

    def _experiment_of(self, name: str) -> str:
        there = self._client.get_experiment_by_name(name)
        if there is not None:
            return str(there.experiment_id)
        return str(self._client.create_experiment(name))

    def _run_of(self, name: str) -> str:
        there = self._client.search_runs(
            [self._experiment], f"tags.\"qcluster.search\" = '{name}'", max_results=1
        )
        if there:
            self._client.update_run(there[0].info.run_id, status="RUNNING")
            return str(there[0].info.run_id)
        tags = {"qcluster.search": name, "mlflow.runName": name}
        return str(self._client.create_run(self._experiment, tags=tags).info.run_id)

    def _logged(self) -> set[str]:
        """Names of the trials that the run has."""
        names: set[str] = set()
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], f"tags.\"{_PARENT}\" = '{self.run_id}'", page_token=token
            )
            names.update(run.data.tags.get("qcluster.trial", "") for run in page)
            token = page.token
            if not token:
                return names


def _text(value: Any) -> str:
    return str(value)[:_LONGEST]
