"""A plan as a run of MLflow, in the files of its file store.

The files lie under ``mlruns/`` as MLflow 2 and 3 read them. MLflow 3 wants
``MLFLOW_ALLOW_FILE_STORE=true`` for that, or ``mlflow migrate-filestore`` to take them into a
database. The plan itself is an artifact. The run's id follows from the plan's, so writing a plan
twice gives one run.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from qcluster.errors import FormatError
from qcluster.exports.parts import Export, Settings, parts

__all__ = ["mlflow"]

_LONGEST = 6000  # characters of a parameter's value that MLflow takes
_NAME = re.compile(r"[\w.\- ]{1,250}")
_FINISHED = 3
_ACTIVE = "active"


def mlflow(plan: Mapping[str, Any], settings: Settings) -> Export:  # noqa: ARG001 - one shape of all
    """A run of the experiment ``qcluster-PLANNER``: configuration, figures, and the plan.

    Raises FormatError when the plan has no id or no time.
    """
    import yaml

    parts(plan)
    plan_id, made = plan.get("plan_id"), plan.get("created_at")
    if not isinstance(plan_id, str) or not plan_id:
        raise FormatError("wants the plan's id", field="plan_id")
    if not isinstance(made, (int, float)) or isinstance(made, bool) or not math.isfinite(made):
        raise FormatError("wants Unix seconds", field="created_at")
    name = f"qcluster-{plan['planner']}"
    experiment = str(int(_digest(name)[:15], 16))
    run = _digest(plan_id)[:32]
    end = int(made * 1000)
    start = end - int(1000 * _number(plan.get("wall_s")))
    root = f"mlruns/{experiment}"
    where = f"{root}/{run}"
    files = {
        f"{root}/meta.yaml": yaml.safe_dump(_experiment(experiment, name, end)),
        f"{where}/meta.yaml": yaml.safe_dump(_run(run, experiment, plan_id, start, end)),
        f"{where}/artifacts/plan.json": json.dumps(plan, indent=1, allow_nan=False) + "\n",
    }
    files |= {f"{where}/params/{_key(key)}": value for key, value in _params(plan)}
    rows = ((_key(key), value) for key, value in _metrics(plan))
    files |= {f"{where}/metrics/{key}": f"{end} {value!r} 0\n" for key, value in rows}
    files |= {f"{where}/tags/{_key(key)}": value for key, value in _tags(plan, plan_id)}
    return Export(files=files, notes=[f"run {run} of experiment {name}"])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0.0


def _experiment(experiment: str, name: str, at_ms: int) -> dict[str, Any]:
    return {
        "artifact_location": f"mlruns/{experiment}",
        "creation_time": at_ms,
        "experiment_id": experiment,
        "last_update_time": at_ms,
        "lifecycle_stage": _ACTIVE,
        "name": name,
    }


def _run(run: str, experiment: str, plan_id: str, start_ms: int, end_ms: int) -> dict[str, Any]:
    return {
        "artifact_uri": f"mlruns/{experiment}/{run}/artifacts",
        "end_time": end_ms,
        "entry_point_name": "",
        "experiment_id": experiment,
        "lifecycle_stage": _ACTIVE,
        "run_id": run,
        "run_name": plan_id,
        "run_uuid": run,
        "source_name": "",
        "source_type": 4,
        "source_version": "",
        "start_time": start_ms,
        "status": _FINISHED,
        "tags": [],
        "user_id": "qcluster",
    }


def _params(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was asked: the configuration, the seed, the solver."""
    for prefix, found in _each(plan):
        config = found.get("config")
        if isinstance(config, Mapping):
            for key, value in config.items():
                yield f"{prefix}config.{key}", _short(value)
        yield f"{prefix}seed", _short(found.get("seed"))
        solver = found.get("solver")
        if isinstance(solver, Mapping):
            yield f"{prefix}solver.requested", _short(solver.get("requested"))


def _metrics(plan: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every figure of the envelope, baselines, and numbers on the plan's own top level."""
    for prefix, found in _each(plan):
        for key, value in found.items():
            if key not in ("seed", "schema_version") and _real(value):
                yield f"{prefix}{key}", float(value)
        for key in ("baselines", "predicted_power_w"):
            rows = found.get(key)
            if isinstance(rows, Mapping):
                for name, value in rows.items():
                    if _real(value):
                        yield f"{prefix}{key}.{name}", float(value)


def _tags(plan: Mapping[str, Any], plan_id: str) -> Iterator[tuple[str, str]]:
    yield "mlflow.runName", plan_id
    yield "planner", str(plan["planner"])
    for prefix, found in _each(plan):
        solver, source = found.get("solver"), found.get("telemetry")
        if isinstance(solver, Mapping):
            yield f"{prefix}solver.used", _short(solver.get("used"))
            if solver.get("fallback_reason"):
                yield f"{prefix}solver.fallback_reason", _short(solver["fallback_reason"])
        if isinstance(source, Mapping):
            yield f"{prefix}snapshot_hash", _short(source.get("snapshot_hash"))
            yield f"{prefix}simulated", _short(source.get("simulated"))


def _each(plan: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The plan, and of a joint plan its parts under their names."""
    yield "", plan
    if plan["planner"] == "joint":
        for name, found in parts(plan).items():
            yield f"{name}.", found


def _real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _key(name: str) -> str:
    """The name, if MLflow takes it and it is a file's."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise FormatError(f"'{name:.60}' cannot be a name in MLflow")
    return name


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 2] + ".."
