"""What a run tells at its end: figures, time and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.record import Record

__all__ = ["TrainReport"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainReport(Record):
    """The result of a training run."""

    steps: int
    """Optimiser steps in all, those before a resume included."""
    samples: int
    """Samples seen in all."""
    epochs: float
    workers: int
    losses: NDArray[np.float64]
    """Training loss of every step, nats."""
    evaluations: tuple[dict[str, Any], ...]
    """``step`` and metrics of each evaluation."""
    stopped: str
    """Why the run ended."""
    resumed_from: int | None
    """Step of the checkpoint that this run went on from."""
    wall_s: float
    """Seconds of this run's steps and evaluations; start-up of workers is not in it."""
    step_s_median: float
    step_s_p95: float
    data_share: float
    """Share of step time spent reading data."""
    samples_per_s: float
    peak_rss_bytes: int
    """Highest resident memory of this process since its start."""
    peak_device_bytes: int
    """Highest memory of tensors on the GPU; 0 on a CPU."""
    parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    checkpoint: str | None
    """The last checkpoint's directory."""
    notes: tuple[str, ...] = ()
    """What was asked for and done otherwise, e.g. several GPUs where there are none."""
    startup_s: float = 0.0
    """Seconds before the first step: starting Ray's workers, reading a checkpoint."""
