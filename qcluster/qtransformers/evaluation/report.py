"""Results of an evaluation: per task and pooled, as JSON and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from qcluster.record import Record

__all__ = ["Comparison", "EvaluationReport", "Verdict"]

Verdict = Literal["non-inferior", "worse", "not shown", "cannot tell"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison(Record):
    """Two systems on the same items. Differences are new minus old."""

    name: str
    items: int
    metric: str
    new: float
    old: float
    difference_low: float
    """Lower end of the metric difference's 95 % interval (paired bootstrap)."""
    difference_high: float
    won: int
    """Items that only the new system has right."""
    lost: int
    accuracy_difference: float
    accuracy_bound: float
    """One-sided 95 % lower bound of the accuracy difference."""
    margin: float
    p_value: float
    """McNemar's exact test of any difference."""
    adjusted_p_value: float | None
    """After Holm's correction over the tasks."""
    power: float
    """Chance to show non-inferiority if both were equally good."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationReport(Record):
    """Scores of one system, or of two and their comparison."""

    model: str
    scores: dict[str, dict[str, float]]
    """By task: items, the task's metric, accuracy."""
    comparisons: tuple[Comparison, ...] = ()
    pooled: Comparison | None = None
    new: dict[str, Any] | None = None
    """The attention that is compared with exact attention."""
    wall_s: float = 0.0

    def rows(self) -> list[tuple[Any, ...]]:
        """Lines of a table: task, items, metric, exact, new, won, lost, adjusted p, verdict."""
        if not self.comparisons:
            return [
                (name, int(found["items"]), found["metric"], found["accuracy"])
                for name, found in self.scores.items()
            ]
        every = [*self.comparisons, *([] if self.pooled is None else [self.pooled])]
        return [
            (
                c.name, c.items, c.metric, c.old, c.new, c.won, c.lost,
                "-" if c.adjusted_p_value is None else c.adjusted_p_value, c.verdict,
            )
            for c in every
        ]  # fmt: skip
