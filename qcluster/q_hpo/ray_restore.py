"""What a crash left of a Ray Tune sweep, brought into agreement before ``Tuner.restore``."""

from __future__ import annotations

import json
from pathlib import Path

from qcluster.errors import FormatError
from qcluster.q_hpo.ray_results import ray_trials
from qcluster.q_hpo.stored import SEARCHER_VERSION

__all__ = ["settle"]


def settle(directory: str | Path) -> int:
    """Make Ray's count of trials that of the trials that there are; returns it.

    Ray copies its table of trials, its count of them and the searcher's state to ``directory`` (of
    the experiment) one after the other, at every snapshot anew, so a driver that is killed leaves
    files of different moments. The searcher agrees with the table by itself when it is restored;
    but a count that is ahead of both costs the sweep as many trials, and Ray reads it unseen.

    Raises FormatError naming a file of Ray's that is missing or was cut short.
    """
    from ray import cloudpickle

    there = Path(directory)
    known = {trial.id for trial in ray_trials(there)}
    if not known:
        raise FormatError("has no readable experiment_state-*.json with trials", file=there)
    path = max(there.glob("search_gen_state-*.json"), default=None)
    if path is None:
        raise FormatError("has no search_gen_state-*.json", file=there)
    try:
        state = cloudpickle.loads(path.read_bytes())
        counted = int(state["counter"])
    except Exception as error:  # whatever a pickle that was cut short may raise
        raise FormatError(f"cannot be read: {error}", file=path) from None
    known |= _ended(there)
    if counted != len(known):
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(cloudpickle.dumps({**state, "counter": len(known), "finished": False}))
        new.replace(path)
    return len(known)


def _ended(directory: Path) -> set[str]:
    """Trials that the searcher was told of: they count, and do not run again."""
    path = max(directory.glob("searcher-state-*.pkl"), default=None)
    try:
        saved = {} if path is None else json.loads(path.read_bytes())
    except ValueError:
        return set()
    known = isinstance(saved, dict) and saved.get("qcluster_searcher") == SEARCHER_VERSION
    return set(saved["ended"]) if known else set()
