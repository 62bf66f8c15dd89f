"""Recorded decisions of a mixture-of-experts router, cut into windows of expert load."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.telemetry.schema import Batch

__all__ = ["read_routing", "window_loads"]


def read_routing(
    path: Path, source: str, window: int = 1000, period_s: float = 1.0
) -> Iterator[Batch]:
    """One batch a window, at 0, ``period_s``, 2 ``period_s`` ... seconds.

    Raises FormatError where the file holds neither ``expert_ids`` nor ``expert_load``.
    """
    for index, load in enumerate(_loads(path, window)):
        yield Batch(source=source, ts_s=index * period_s, period_s=period_s, expert_load=load)


def window_loads(
    expert_ids: NDArray[np.integer], window: int, experts: int | None = None
) -> NDArray[np.float64]:
    """Tokens for each expert in each window.

    ``expert_ids`` (tokens, layers, k) -> (windows, layers, experts). The tokens that are left over
    at the end, fewer than ``window``, are dropped unless they are all there is: a short window
    would look like a fall of load.
    """
    tokens, layers, _ = expert_ids.shape
    experts = int(expert_ids.max()) + 1 if experts is None else experts
    starts = range(0, max(tokens - window, 0) + 1, window)
    offset = np.arange(layers)[None, :, None] * experts
    return np.array(
        [
            np.bincount(
                (expert_ids[start : start + window].astype(np.int64) + offset).ravel(),
                minlength=layers * experts,
            ).reshape(layers, experts)
            for start in starts
        ],
        dtype=np.float64,
    )


def _loads(path: Path, window: int) -> NDArray[np.float64]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if "expert_ids" in file:
                ids = file["expert_ids"]
                if ids.ndim != 3 or ids.dtype.kind not in "iu" or not ids.size:
                    raise FormatError(
                        "wants integers of shape (tokens, layers, k)", file=path, field="expert_ids"
                    )
                if ids.min() < 0 or ids.max() >= 1 << 16:
                    raise FormatError("wants 0 to 65535", file=path, field="expert_ids")
                return window_loads(ids, window)
            if "expert_load" in file:
                return _check(file["expert_load"], path)
            raise FormatError("holds neither expert_ids nor expert_load", file=path)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"is no npz archive of plain arrays: {error}", file=path) from None


def _check(load: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    load = load[None] if load.ndim == 2 else load
    if load.ndim != 3 or load.dtype.kind not in "iuf" or not load.size:
        raise FormatError(
            "wants numbers of shape (windows, layers, experts)", file=path, field="expert_load"
        )
    load = load.astype(np.float64)
    if not np.isfinite(load).all() or (load < 0).any():
        raise FormatError("wants finite tokens of at least 0", file=path, field="expert_load")
    return load
