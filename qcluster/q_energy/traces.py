"""A power trace from whatever users have: a trace, a path, a pandas DataFrame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_energy.trace import PowerTrace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_trace"]


def _seconds(column: pd.Series) -> NDArray[np.float64]:
    """Unix seconds of a column of numbers or of time stamps with a zone."""
    import pandas as pd

    if not pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _numbers(column)
    if column.dt.tz is None:
        raise InputError("time stamps have no time zone; add one, such as UTC", field="ts_s")
    start = pd.Timestamp(0, tz="UTC")
    return np.asarray((column - start).dt.total_seconds().to_numpy(dtype=float))


def _numbers(column: pd.Series) -> NDArray[np.float64]:
    try:
        return np.asarray(column.to_numpy(dtype=float, na_value=np.nan))
    except (TypeError, ValueError) as error:
        raise InputError(f"wants numbers: {error}", field=str(column.name)) from None


def _texts(column: pd.Series) -> NDArray[np.str_]:
    """Names; whole numbers that pandas holds as floats stay whole."""
    if column.isna().any():
        row = int(np.argmax(column.isna().to_numpy()))
        raise InputError(f"has no name in row {row}", field=str(column.name))
    if column.dtype.kind == "f" and (column % 1 == 0).all():
        column = column.astype(int)
    return column.astype(str).to_numpy(dtype=str)


def as_trace(telemetry: Any, *, last_s: float | None = None) -> PowerTrace:
    """A PowerTrace from what users have: one already, a path, or a pandas DataFrame.

    ``last_s`` lets a long file be read in little memory (see ``read_trace``).
    """
    if isinstance(telemetry, PowerTrace):
        return telemetry
    if isinstance(telemetry, (str, Path)):
        from qcluster.q_energy.formats import read_trace

        return read_trace(telemetry, last_s=last_s)
    if hasattr(telemetry, "columns"):
        missing = [name for name in ("ts_s", "node", "power_w") if name not in telemetry.columns]
        if missing:
            raise InputError("the frame lacks this column", field=missing[0])
        names = _texts(telemetry["node"])
        if "gpu" in telemetry.columns:
            names = np.char.add(np.char.add(names, "/"), _texts(telemetry["gpu"]))
        times = _seconds(telemetry["ts_s"])
        watts = _numbers(telemetry["power_w"])
        return PowerTrace.of(names, times, watts, first_row=0)
    raise InputError(
        f"wants a Snapshot, PowerTrace, DataFrame or path, got {type(telemetry).__name__}",
        field="telemetry",
    )
