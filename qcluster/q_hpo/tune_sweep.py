"""A Ray Tune sweep of a plain function, and the Ray that it runs on."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from qcluster.errors import InputError, SolverFailed
from qcluster.q_hpo.searchers import FAILED, GPSearch, HybridSearch, StudySearch, VQCSearch
from qcluster.q_hpo.space import Space
from qcluster.q_hpo.study import Study

__all__ = ["local_ray", "sweep", "tune"]

_RETRIES = 2

SEARCHERS: dict[str, type[StudySearch]] = {
    "gp": GPSearch,
    "vqc": VQCSearch,
    "hybrid": HybridSearch,
}


def tune(
    objective: Callable[[dict[str, Any]], Any],
    space: Space | Mapping[str, Any],
    *,
    num_samples: int,
    searcher: str = "gp",
    metric: str = "value",
    mode: str = "min",
    seed: int = 0,
    max_concurrent: int | None = None,
    **options: Any,
) -> Study:
    """A Ray Tune sweep of ``objective`` (a function of a configuration) and its finished study.

    ``objective`` returns a number or a dict with ``metric``; what it raises is a failed trial.
    ``options`` go to the searcher. Ray is started locally if none is running.
    """
    if searcher not in SEARCHERS:
        raise InputError(f"knows {', '.join(SEARCHERS)}, got {searcher!r}", field="searcher")
    search = SEARCHERS[searcher](space, metric, mode, seed=seed, **options)
    return sweep(search, objective, num_samples, max_concurrent)


def sweep(
    search: StudySearch,
    objective: Callable[[dict[str, Any]], Any],
    num_samples: int,
    max_concurrent: int | None = None,
    storage: str | Path | None = None,
) -> Study:
    """Run ``num_samples`` more trials of ``search`` in Ray Tune.

    What ``objective`` raises is a failed trial; one whose worker died runs again, twice at most.
    ``storage``: directory for Tune's own results; None leaves it Ray's default.
    """
    from ray import tune as ray_tune

    metric = search.metric

    def trainable(config: dict[str, Any]) -> dict[str, Any]:
        try:
            found = objective(config)
        except (Exception, SystemExit) as error:
            return {metric: math.nan, FAILED: f"{type(error).__name__}: {error}"}
        return found if isinstance(found, dict) else {metric: found}

    tuner = ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            search_alg=search, num_samples=num_samples, max_concurrent_trials=max_concurrent
        ),
        run_config=ray_tune.RunConfig(
            verbose=0,
            storage_path=None if storage is None else str(storage),
            failure_config=ray_tune.FailureConfig(max_failures=_RETRIES),
        ),
    )
    # Ray announces the experiment on standard output, which belongs to the caller's results.
    with redirect_stdout(sys.stderr):
        tuner.fit()
    if search.study is None:
        raise SolverFailed("Ray Tune ended without asking for a trial")
    return search.study


@contextmanager
def local_ray(workers: int) -> Iterator[None]:
    """The Ray that this process is connected to or RAY_ADDRESS names; else one of ``workers`` CPUs.

    Its workers can import what this process can: the working directory goes on their path.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    paths = [str(Path.cwd()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # "local": without an address Ray would join any cluster that it finds on this machine.
    fresh: dict[str, Any] = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    ray.init(
        **({} if os.environ.get("RAY_ADDRESS") else fresh),
        log_to_driver=False,
        runtime_env={"env_vars": variables},
    )
    try:
        yield
    finally:
        ray.shutdown()
