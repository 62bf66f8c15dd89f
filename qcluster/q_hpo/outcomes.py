"""What Ray Tune's results mean for a study."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qcluster.errors import InputError
from qcluster.q_hpo.trial import plain_number

if TYPE_CHECKING:
    from qcluster.q_hpo.study import Study

__all__ = ["FAILED", "checked_rewards", "outcome_of", "reported"]

log = logging.getLogger(__name__)

FAILED = "qcluster_failed"
"""Key of a result whose trial raised; its value says what."""


def outcome_of(
    trial_id: str, result: Mapping[str, Any] | None, error: bool, metric: str | None
) -> tuple[float | None, str, int | None]:
    """Value, status and step of a trial that Ray says is complete.

    Never raises: a result without a number under ``metric`` is a failed trial, with a warning.
    """
    if error:
        return None, "failed", None
    if not result:
        return None, "abandoned", None
    step = _whole(result.get("training_iteration"))
    if result.get(FAILED):
        log.warning("trial %s failed: %s", trial_id, result[FAILED])
        return None, "failed", step
    if metric is None or metric not in result:
        log.warning("trial %s reported no metric '%s': failed", trial_id, metric)
        return None, "failed", step
    try:
        value = float(plain_number(result[metric]))
    except (TypeError, ValueError, OverflowError):
        log.warning("trial %s: '%s' is no number: failed", trial_id, metric)
        return None, "failed", step
    return (value, "ok", step) if math.isfinite(value) else (None, "nan", step)


def reported(study: Study, name: str, metric: str | None, result: Mapping[str, Any]) -> None:
    """Take a result of running trial ``name`` below ``max_step``; anything else says nothing."""
    step, value = result.get("training_iteration"), result.get(metric or "")
    if study.max_step is None or not isinstance(step, int) or step >= study.max_step:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return
    if any(trial.id == name for trial in study.running):
        study.report(name, float(value), step)


def checked_rewards(rewards: Any, points: int) -> list[float] | None:
    """Known values of so many points, NaN for None. Raises InputError."""
    if rewards is None:
        return None
    values = [math.nan if one is None else plain_number(one) for one in rewards]
    if len(values) != points:
        raise InputError(
            f"wants one value per point, got {len(values)} for {points}", field="evaluated_rewards"
        )
    for i, value in enumerate(values, 1):
        if not isinstance(value, (int, float)):
            raise InputError(f"wants a number, got {value!r}", row=i, field="evaluated_rewards")
    return values


def _whole(step: Any) -> int | None:
    """An iteration that a trial reported; None if it is none."""
    step = plain_number(step)
    known = isinstance(step, (int, float)) and math.isfinite(step) and step >= 0
    return int(step) if known else None
