"""Observations of earlier searches: other tasks in the same space, for warm starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcluster.errors import InputError
from qcluster.q_hpo.space import Space
from qcluster.q_hpo.strategy import Task
from qcluster.record import Record

__all__ = ["Prior"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prior(Record):
    """Rows of earlier trials.

    ``configs`` and ``values`` (as the study's objective, None where the trial failed) have equal
    length; ``names`` says which task each row is from. ``skipped`` counts rows that did not fit.
    """

    configs: list[dict[str, Any]]
    values: list[float | None]
    names: list[str]
    skipped: int = 0

    def __post_init__(self) -> None:
        if not len(self.configs) == len(self.values) == len(self.names):
            raise InputError("wants as many values and names as configurations", field="prior")

    def tasks(self, space: Space, mode: str) -> tuple[Task, ...]:
        """One task per name; rows without a value, or not of the space, are left out."""
        sign = 1.0 if mode == "min" else -1.0
        rows: dict[str, list[tuple[Any, float]]] = {}
        for config, value, name in zip(self.configs, self.values, self.names, strict=True):
            point = self._point(space, config)
            if point is not None and value is not None and np.isfinite(value):
                rows.setdefault(name, []).append((point, sign * float(value)))
        return tuple(
            Task(name, np.array([p for p, _ in found]), np.array([v for _, v in found]))
            for name, found in rows.items()
        )

    @staticmethod
    def _point(space: Space, config: Mapping[str, Any]) -> Any:
        try:
            return space.point(config)
        except InputError:
            return None
