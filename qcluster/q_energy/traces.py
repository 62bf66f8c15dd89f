"""A power trace from whatever users have: a trace, a path, a pandas DataFrame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qcluster.errors import InputError
from qcluster.q_energy.trace import PowerTrace

__all__ = ["as_trace"]


def as_trace(telemetry: Any) -> PowerTrace:
    """A PowerTrace from what users have: one already, a path, or a pandas DataFrame."""
    if isinstance(telemetry, PowerTrace):
        return telemetry
    if isinstance(telemetry, (str, Path)):
        from qcluster.q_energy.formats import read_trace

        return read_trace(telemetry)
    if hasattr(telemetry, "columns"):
        missing = [name for name in ("ts_s", "node", "power_w") if name not in telemetry.columns]
        if missing:
            raise InputError("the frame lacks this column", field=missing[0])
        names = telemetry["node"].astype(str).to_numpy(dtype=str)
        if "gpu" in telemetry.columns:
            gpu = telemetry["gpu"].astype(str).to_numpy(dtype=str)
            names = np.char.add(np.char.add(names, "/"), gpu)
        times = telemetry["ts_s"].to_numpy(dtype=float)
        watts = telemetry["power_w"].to_numpy(dtype=float)
        return PowerTrace.of(names, times, watts, first_row=0)
    raise InputError(
        f"wants a Snapshot, PowerTrace, DataFrame or path, got {type(telemetry).__name__}",
        field="telemetry",
    )
