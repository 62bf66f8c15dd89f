"""Training of the learned parts from a configuration: what ``qcluster train`` calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qcluster.config import Config
from qcluster.errors import FormatError, InputError
from qcluster.q_nvlink.contention.cases import History, simulate_history, usual_fabrics
from qcluster.q_nvlink.contention.model import fit_contention
from qcluster.q_nvlink.fabric import Fabric
from qcluster.q_nvlink.formats import load_fabric
from qcluster.q_nvlink.rl.env import FlowEnv
from qcluster.q_nvlink.rl.paths import find_paths
from qcluster.q_nvlink.rl.policy import RoutePolicy, default_policy, episode
from qcluster.q_nvlink.rl.train import fit_routes
from qcluster.telemetry import Job

__all__ = ["ClassifierTraining", "RoutesTraining", "train_classifier", "train_rl"]

Count = Annotated[int, Field(ge=1, le=1_000_000)]
_HELD_OUT = 0.25


class ClassifierTraining(Config):
    """``kind: nvlink-classifier``."""

    kind: Literal["nvlink-classifier"] = "nvlink-classifier"
    output: str | None = None
    """Where the model goes (safetensors, and .json beside it); none: the caller's directory."""
    history: str | None = None
    """JSON lines of ``features`` and ``contended``, or of stored plans; else simulated layouts."""
    fabrics: list[str] = Field(default_factory=list)
    """Fabric files to simulate layouts on; none: the usual hosts."""
    rows: Annotated[int, Field(ge=20, le=100_000)] = 700
    """Simulated layouts."""
    quantum_kernel: bool = False
    """The kernel: fidelity of simulated circuits instead of a Gaussian."""
    penalty: Annotated[float, Field(gt=0, le=1e6)] = 3.0
    """Cost of a training layout on the wrong side."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Seed of layouts and of the split that is held out."""


class RoutesTraining(Config):
    """``kind: nvlink-rl``."""

    kind: Literal["nvlink-rl"] = "nvlink-rl"
    output: str | None = None
    """Where the policy goes (safetensors, and .json beside it); none: the caller's directory."""
    fabric: str | None = None
    """A fabric file to train on, with ``jobs``; none: random fabrics."""
    jobs: str | None = None
    """Job profiles whose traffic is routed, on GPUs in the fabric's order."""
    start: str | None = None
    """A policy to go on from; none: the shipped one with ``fabric``, else from scratch."""
    generations: Count = 40
    """Updates of the weights."""
    population: Annotated[int, Field(ge=2, le=1024)] = 16
    """Samples an update, an even number."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 8
    """Episodes a sample."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Seed of everything random."""


def train_classifier(
    config: Mapping[str, Any] | ClassifierTraining,
    *,
    out: Path | None = None,
    resume: bool = False,  # noqa: ARG001 - a fit takes seconds
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Fit the contention classifier and save it; a quarter of the rows is held out first.

    ``out`` is the directory for the file where ``output`` names none.
    Returns the file, rows, support vectors and the balanced accuracy on what was held out.
    Raises InputError for a configuration or history that makes no sense.
    """
    asked = ClassifierTraining.read(config)
    output = _output(asked.output, out, asked.kind)
    _say(note, "reading or simulating layouts")
    if asked.history is not None:
        history = _history(Path(asked.history))
    else:
        fabrics = [load_fabric(path) for path in asked.fabrics] or usual_fabrics()
        history = simulate_history(fabrics, asked.rows, seed=asked.seed)
    kernel = "quantum" if asked.quantum_kernel else "rbf"
    order = np.random.default_rng(asked.seed).permutation(len(history.contended))
    cut = int(len(order) * (1 - _HELD_OUT))
    first, held = (
        History(history.features[i], history.contended[i]) for i in np.split(order, [cut])
    )
    trial = fit_contention(first, kernel=kernel, penalty=asked.penalty)
    accuracy = _balanced(held.contended, trial.contended(held.features))
    model = fit_contention(history, kernel=kernel, penalty=asked.penalty)
    model.save(output)
    return {
        "kind": asked.kind,
        "output": str(output),
        "kernel": kernel,
        "rows": model.rows,
        "contended": float(history.contended.mean()),
        "support_vectors": len(model.support),
        "balanced_accuracy": accuracy,
    }


def train_rl(
    config: Mapping[str, Any] | RoutesTraining,
    *,
    out: Path | None = None,
    resume: bool = False,
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train the routing policy and save it.

    ``out`` is the directory for the file where ``output`` names none; with ``resume`` training goes
    on from that file if it is there.
    Returns the file, the weights' meaning, episodes, and the mean reward a generation.
    Raises InputError for a configuration that makes no sense.
    """
    asked = RoutesTraining.read(config)
    output = _output(asked.output, out, asked.kind)
    if (asked.fabric is None) != (asked.jobs is None):
        raise InputError("wants fabric and jobs, or neither", field="config.jobs")
    envs, start = None, None
    if asked.fabric is not None and asked.jobs is not None:
        envs = [_env(load_fabric(asked.fabric), Job.read_all(asked.jobs))]
        start = default_policy()
    if asked.start is not None:
        start = RoutePolicy.load(asked.start)
    if resume and output.exists():
        start = RoutePolicy.load(output)
    returns: list[float] = []

    def report(generation: int, value: float) -> None:
        returns.append(value)
        _say(note, f"generation {generation}: {value:.4f}")

    policy = fit_routes(
        envs=envs,
        start=start,
        generations=asked.generations,
        population=asked.population,
        batch=asked.batch,
        seed=asked.seed,
        report=report,
    )
    policy.save(output)
    found: dict[str, Any] = {
        "kind": asked.kind,
        "output": str(output),
        "episodes": policy.episodes,
        "gains": policy.gains,
        "returns": returns,
    }
    if envs is not None:
        found["busiest"] = min(row["busiest"] for row in episode(envs[0], policy))
    return found


def _output(asked: str | None, out: Path | None, kind: str) -> Path:
    """Where the weights go. Raises InputError when neither file nor directory is given."""
    if asked is None and out is None:
        raise InputError("wants a file", field="config.output")
    path = Path(asked) if asked is not None else (out or Path()) / f"{kind}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", field="config.output") from None
    return path


def _say(note: Callable[[str], None] | None, text: str) -> None:
    if note is not None:
        note(text)


def _env(fabric: Fabric, jobs: tuple[Job, ...]) -> FlowEnv:
    gpus = fabric.gpu_index.tolist()
    n = len(fabric.nodes)
    demand: NDArray[np.float64] = np.zeros((n, n))
    for job in jobs:
        mine, gpus = gpus[: job.gpus], gpus[job.gpus :]
        if len(mine) < job.gpus:
            raise InputError(f"{job.id}: the fabric has too few GPUs", field="config.jobs")
        demand[np.ix_(mine, mine)] = job.traffic()
    return FlowEnv(find_paths(fabric.effective, demand))


def _history(path: Path) -> History:
    """Rows, or plans whose ``params.layout`` are rows, one a line."""
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(getattr(error, "strerror", None) or "is no text", file=path) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise FormatError(error.msg, file=path, row=number) from None
        if isinstance(row, dict) and isinstance(row.get("params"), dict):
            row = row["params"].get("layout")
        if not isinstance(row, dict):
            raise FormatError("wants features and contended, or a plan", file=path, row=number)
        rows.append(row)
    try:
        return History.from_rows(rows)
    except InputError as error:
        raise FormatError(error.message, file=path, row=error.row, field=error.field) from None


def _balanced(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> float | None:
    """Mean of the two classes' recalls; None when one class is missing."""
    if truth.all() or not truth.any():
        return None
    return float((said[truth].mean() + (~said[~truth]).mean()) / 2)
