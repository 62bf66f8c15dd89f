"""The searchers inside Ray Tune: ``GPSearch``, ``VQCSearch``, ``HybridSearch``.

Each is a ``ray.tune.search.Searcher`` around a ``Study`` and takes the arguments of Ray's
``OptunaSearch``, so a script written for that runs with another class name. How trials end: a
raised exception is ``failed``, a metric that is not finite is ``nan``, a trial that was stopped
before it reported anything is ``abandoned``; a value reached with fewer iterations than the
longest trial (ASHA, HyperBand) is a value at that fidelity, never a final loss.

State is the study's own JSON lines: plain numbers and a version, no pickled objects.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from ray.tune.search import Searcher

from qcluster.errors import FormatError, InputError
from qcluster.q_hpo.define_by_run import DefinedByRun
from qcluster.q_hpo.outcomes import FAILED, checked_rewards, outcome_of, reported
from qcluster.q_hpo.param_space import domains_of, listed_configs, only_known
from qcluster.q_hpo.prior import Prior
from qcluster.q_hpo.ray_results import RayTrial, ray_trials
from qcluster.q_hpo.space import flatten, unflatten
from qcluster.q_hpo.stored import SEARCHER_VERSION, stored_trials
from qcluster.q_hpo.study import Study
from qcluster.q_hpo.trial import Trial

__all__ = ["FAILED", "GPSearch", "HybridSearch", "StudySearch", "VQCSearch"]

log = logging.getLogger(__name__)


class StudySearch(Searcher):
    """A ``Study`` as a Ray Tune searcher.

    Parameters
    ----------
    space: domains of ``ray.tune``, Optuna distributions, JSON parameters, a ``Space``, or a
        define-by-run function of a trial with ``suggest_float``, ``suggest_int`` and
        ``suggest_categorical``; None takes ``param_space`` of the Tuner.
    metric, mode: what is minimised or maximised; None takes those of ``TuneConfig``.
    points_to_evaluate: configurations to try first. One that the space does not hold is skipped
        with a warning instead of ending the search.
    evaluated_rewards: their values, if they are known; NaN is a failed trial.
    seed: the same seed and outcomes give the same suggestions.
    sampler, study_name, storage: accepted so that scripts run unchanged; not used.
    settings: of the strategy (see ``GPConfig``).
    prior: earlier trials (``load_prior``). max_step: iterations at full fidelity.
    pool: the only configurations allowed, if the objective exists for these alone.
    warm_start: a file of a saved searcher or study, or an Optuna storage, whose trials are taken
        over.
    """

    strategy: ClassVar[str] = "gp"
    _samples: int | None = None
    _room: int | None = None

    def __init__(
        self,
        space: Any = None,
        metric: str | None = None,
        mode: str | None = None,
        points_to_evaluate: Sequence[Mapping[str, Any]] | None = None,
        sampler: Any = None,
        study_name: str | None = None,  # noqa: ARG002
        storage: Any = None,
        seed: int | None = None,
        evaluated_rewards: Sequence[float] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        prior: Prior | None = None,
        max_step: int | None = None,
        pool: Iterable[Mapping[str, Any]] | None = None,
        warm_start: str | Path | None = None,
    ) -> None:
        if isinstance(metric, (list, tuple)) or isinstance(mode, (list, tuple)):
            raise InputError("several objectives are not searched; name one metric", field="metric")
        if mode not in (None, "min", "max"):
            raise InputError(f"wants 'min' or 'max', got {mode!r}", field="mode")
        super().__init__(metric=metric, mode=mode)
        for name, value in (("sampler", sampler), ("storage", storage)):
            if value is not None:
                log.warning("%s is not used by %s", name, type(self).__name__)
        self._points = listed_configs(points_to_evaluate or (), "points_to_evaluate")
        self._rewards = checked_rewards(evaluated_rewards, len(self._points))
        if not isinstance(settings, (Mapping, type(None))):
            raise InputError(f"wants an object, got {settings!r:.40}", field="settings")
        self._options: dict[str, Any] = {
            "strategy": {"name": self.strategy, **(settings or {})},
            "seed": 0 if seed is None else seed,
            "prior": prior,
            "max_step": max_step,
            "pool": None if pool is None else list(pool),
        }
        self._warm_start = warm_start
        self._run = DefinedByRun(space) if callable(space) else None
        self._space = self._run.space if self._run is not None else space or None
        self._ended: set[str] = set()
        self._names: dict[str, str] = {}
        self._orphans: list[str] = []
        self._limit: int | None = None
        self._listener: Callable[[Trial, float], None] | None = None
        self.study: Study | None = None
        """The study underneath; None until the space and the mode are known."""

    @classmethod
    def over(
        cls, study: Study, metric: str, listener: Callable[[Trial, float], None] | None = None
    ) -> StudySearch:
        """A searcher on a study that exists, with its journal; ``listener`` hears of every end,
        with the seconds that the trial took.

        Trials that the study still waits for are suggested first.
        """
        search = cls(study.space, metric, study.mode, seed=study.seed)
        search.study = study
        search._orphans = [trial.id for trial in study.running]
        search._listener = listener
        return search

    # What Ray calls

    def set_search_properties(
        self,
        metric: str | None,
        mode: str | None,
        config: dict[str, Any],
        **spec: Any,
    ) -> bool:
        """Metric, mode and space of the Tuner. False if the space is already there."""
        samples = spec.get("num_samples")
        self._samples = samples if isinstance(samples, int) and samples > 0 else None
        self._room = None
        if metric:
            self._metric = metric
        if mode:
            self._mode = mode
        domains = domains_of(config or {})
        if self._space is not None:
            return not domains
        self._space = domains
        self._made()
        return True

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """The searcher counts its own trials, so that a limit survives a crash with the rest.

        A ``ConcurrencyLimiter`` leaves it to that, its ``batch`` too: each outcome counts at once.
        """
        self._limit = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of a trial; the same one if asked again. None: not before one ends.

        ``FINISHED`` after a restore, if Ray counts fewer trials than there were.
        """
        study = self._made()
        live = [trial.id for trial in study.running if trial.id not in self._orphans]
        asked = self._names.get(trial_id, trial_id) in live
        if self._limit is not None and len(live) >= self._limit and not asked:
            return None
        if self._room is not None and not asked:
            if self._room == 0:
                return cast("dict[str, Any]", Searcher.FINISHED)  # Ray's word in place of one
            self._room -= 1
        if self._orphans and trial_id not in self._names:
            self._names[trial_id] = self._orphans.pop(0)
        name = self._names.get(trial_id, trial_id)
        known = {trial.id: trial for trial in study.running}
        trial = known.get(name) or study.ask(id=name)
        if self._run is None:  # Ray may add to it: the study keeps its own.
            return unflatten(flatten(trial.config))
        return self._run.config(trial.config, trial.id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """What it shows on its way, if there is a full fidelity (``max_step``) to compare with."""
        try:
            reported(self._made(), self._names.get(trial_id, trial_id), self._metric, result)
        except InputError as error:  # a step below 0, say: nothing that should end a sweep
            log.warning("a result of trial %s is skipped: %s", trial_id, error)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """What became of a trial.

        A second word about the same trial is ignored, unless it failed before and has a value now:
        Ray restarts errored trials if it is asked to.
        """
        study = self._made()
        value, status, step = outcome_of(trial_id, result, error, self._metric)
        name = self._names.get(trial_id, trial_id)
        if trial_id in self._ended:
            first = next((t for t in study.history if t.id == name), None)
            if first is not None and first.value is None and status == "ok":
                self._take(study, first.config, value, status, step)
            return
        self._ended.add(trial_id)
        trial_id = name
        if any(trial.id == trial_id for trial in study.running):
            done = study.tell(trial_id, value, status, step)
            if self._listener is not None:
                self._listener(done, float((result or {}).get("time_total_s") or 0.0))
            return
        config = (result or {}).get("config")
        if any(trial.id == trial_id for trial in study.history):
            return
        if not isinstance(config, Mapping):
            log.warning("trial %s is not known to the searcher and brings no config", trial_id)
            return
        self._take(study, only_known(config, study.space), value, status, step)

    def add_evaluated_point(
        self,
        parameters: dict[str, Any],
        value: float,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,  # noqa: ARG002
    ) -> None:
        """A trial that was run elsewhere; one that the space does not hold is skipped."""
        study = self._made()
        status = "failed" if error else "abandoned" if pruned else "ok"
        self._take(study, parameters, None if error or pruned else value, status, None)

    def save(self, checkpoint_path: str) -> None:
        """Write the state as JSON: a version, the arguments, and the study's own lines."""
        Path(checkpoint_path).write_text(json.dumps(self.__getstate__()["saved"], allow_nan=False))

    def restore(self, checkpoint_path: str) -> None:
        """Take up a saved state. Raises FormatError if the file is not one."""
        path = Path(checkpoint_path)
        try:
            saved = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise FormatError(f"is not a saved searcher: {error}", file=path) from None
        if not isinstance(saved, dict) or saved.get("qcluster_searcher") != SEARCHER_VERSION:
            raise FormatError("is not a searcher of version 1", file=path)
        try:
            self._restore(saved, path)
        except (KeyError, TypeError) as error:
            raise FormatError(f"is not a whole searcher: {error}", file=path) from None

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """Take up the state that Ray saved with an experiment.

        Ray copies its trials, its count of them and the searcher's state there one after the
        other; what a crash in between left apart is brought together: nothing is lost, and nothing
        waits for ever. Without a readable state the trials are those of Ray's table.
        """
        trials = ray_trials(Path(checkpoint_dir))
        self._samples = None  # A restored Tuner names another number than that of its sweep.
        try:
            super().restore_from_dir(checkpoint_dir)
        except FormatError as error:
            if not trials:
                raise
            log.warning("%s; the trials are taken from Ray's own table", error)
        self._agree(trials)

    # Inside

    def _agree(self, trials: Sequence[RayTrial]) -> None:
        if not trials or (self.study is None and not self._space):
            return
        study = self._made()
        for trial in trials:
            name = self._names.get(trial.id, trial.id)
            if trial.id in self._ended:
                continue
            if not any(one.id == name for one in study.running):
                # Asked for after the searcher was written; if it fails Ray brings no configuration.
                try:
                    study.adopt(only_known(trial.config, study.space), name)
                except InputError as error:
                    log.warning("trial %s is skipped: %s", name, error)
            if trial.ended:
                self.on_trial_complete(trial.id, {**trial.result, "config": trial.config},
                                       error=trial.error)  # fmt: skip
        known = {self._names.get(trial.id, trial.id) for trial in trials}
        self._orphans = [t.id for t in study.running if t.id not in known]
        if self._samples is not None:
            live = len(study.running) - len(self._orphans)
            self._room = max(self._samples - len(self._ended) - live, 0)

    def _made(self) -> Study:
        if self.study is not None:
            return self.study
        if not self._space:
            raise InputError("is needed: give the searcher a space or the Tuner a param_space",
                             field="space")  # fmt: skip
        if self._mode is None:
            raise InputError("is needed: 'min' or 'max'", field="mode")
        if self._metric is None:
            self._metric = "_metric"
        study = Study(self._space, mode=self._mode, **self._options)
        self.study = study
        fits = []
        for i, point in enumerate(self._points):
            try:
                study.space.point(only_known(point, study.space))
            except InputError as error:
                log.warning("points_to_evaluate[%d] is skipped: %s", i, error)
                continue
            if self._rewards is None:
                fits.append(only_known(point, study.space))
            else:
                self._take(study, only_known(point, study.space), self._rewards[i], "ok", None)
        study.enqueue(fits)
        if self._warm_start is not None:
            for trial in stored_trials(Path(self._warm_start), study.space):
                self._take(study, trial.config, trial.value, trial.status, trial.step)
        return study

    @staticmethod
    def _take(
        study: Study, config: Mapping[str, Any], value: Any, status: str, step: int | None
    ) -> None:
        if status == "ok" and (value is None or not math.isfinite(float(value))):
            value, status = None, "nan"
        try:
            study.add(config, value, status, step)
        except InputError as error:
            log.warning("an earlier trial is skipped: %s", error)

    def __getstate__(self) -> dict[str, Any]:
        """For Ray, which pickles the Tuner: constructor arguments, and the study as plain lines."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("study", "_listener")}
        lines = None if self.study is None else list(self.study.records())
        saved = {
            "qcluster_searcher": SEARCHER_VERSION,
            "metric": self._metric,
            "mode": self._mode,
            "ended": sorted(self._ended),
            "names": dict(self._names),
            "samples": self._samples,
            "study": lines,
        }
        return {"plain": state, "saved": saved}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state["plain"])
        self.study = self._listener = None
        self._restore(state["saved"], Path("searcher"))

    def _restore(self, saved: Mapping[str, Any], path: Path) -> None:
        self._metric, self._mode = saved["metric"], saved["mode"]
        self._ended = set(saved["ended"])
        self._names = dict(saved["names"])
        self._samples, self.study = saved.get("samples"), None
        if saved["study"] is not None:
            self.study = Study.from_records(saved["study"], space=self._space, file=path)


class GPSearch(StudySearch):
    """Gaussian process with log expected improvement; see ``StudySearch``."""

    strategy = "gp"


class VQCSearch(StudySearch):
    """Simulated variational circuits as the model; see ``StudySearch``."""

    strategy = "vqc"


class HybridSearch(StudySearch):
    """Both, chosen trial by trial by how well each predicts; see ``StudySearch``."""

    strategy = "hybrid"
