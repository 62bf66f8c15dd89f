"""Maximising an acquisition over a space: scattered candidates, slopes, and steps of one value.

Candidates are uniform draws and neighbours of the best points, all snapped to configurations. The
best few are improved: continuous coordinates by L-BFGS-B along the acquisition's slopes, listed
ones by trying every other value (or the nearest two) of one parameter at a time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qcluster.q_hpo.gp.acquisition import Rule
from qcluster.q_hpo.strategy import View, unseen

__all__ = ["candidates", "maximize", "maximize_by_sampling"]

F = NDArray[np.float64]
_UNIFORM, _NEAR = 512, 256
_STARTS = 3


def maximize(view: View, rule: Rule, anchors: F, box: tuple[F, F] | None = None) -> F:
    """The best point found that was not tried. ``anchors`` (k, d): good points, best first.

    ``box``: corners (d,) and (d,) that candidates and climbs stay between, listed values apart.
    """
    space = view.space
    pool = view.pool if view.pool is not None else space.grid
    if pool is not None:
        return _best_of_pool(view, rule, pool)
    low, high = box or (np.zeros(space.d), np.ones(space.d))
    points = candidates(view, anchors)
    points[:_UNIFORM] = low + points[:_UNIFORM] * (high - low)
    points = space.snap(np.clip(points, low, high))
    scores = rule.score(space.features(points))
    order = np.argsort(-scores, kind="stable")
    starts = _spread(points, order)
    near = order[order >= _UNIFORM]
    starts.append(points[near[0]])
    found = [_climb(view, rule, start, (low, high)) for start in starts]
    found.sort(key=lambda pair: -pair[1])
    return unseen(view, np.vstack([*(point for point, _ in found), points[order[:64]]]))


def maximize_by_sampling(view: View, rule: Rule, anchors: F) -> F:
    """The same for rules without slopes: rounds of neighbours of the best points so far."""
    space = view.space
    pool = view.pool if view.pool is not None else space.grid
    if pool is not None:
        return _best_of_pool(view, rule, pool)
    points = space.snap(candidates(view, anchors)[::2])
    scores = rule.score(space.features(points))
    for width in (0.1, 0.03, 0.01):
        top = points[np.argsort(-scores, kind="stable")[:4]]
        steps = view.rng.normal(size=(64, space.d)) * width
        steps *= view.rng.random((64, space.d)) < max(0.5, 2 / space.d)
        more = space.snap(np.clip(np.repeat(top, 16, axis=0) + steps, 0.0, 1.0))
        points = np.vstack([points, more])
        scores = np.concatenate([scores, rule.score(space.features(more))])
    return unseen(view, points[np.argsort(-scores, kind="stable")])


def candidates(view: View, anchors: F) -> F:
    """(m, d) uniform draws, then neighbours of the anchors at all scales."""
    rng, d = view.rng, view.space.d
    uniform = rng.random((_UNIFORM, d))
    scale = np.exp(rng.uniform(math.log(1e-3), math.log(0.3), (_NEAR, 1)))
    near = anchors[rng.integers(len(anchors), size=_NEAR)]
    near = near + rng.normal(size=(_NEAR, d)) * scale
    listed = view.space.listed
    if listed.any():
        # A small step never leaves a wide cell: listed values are redrawn now and then instead.
        redraw = listed & (rng.random((_NEAR, d)) < 1.5 / d)
        near = np.where(redraw, rng.random((_NEAR, d)), near)
    return np.vstack([uniform, np.clip(near, 0.0, 1.0)])


def _best_of_pool(view: View, rule: Rule, pool: F) -> F:
    rounded = np.round(pool, 12) + 0.0
    fresh = np.array([row.tobytes() not in view.taken for row in rounded])
    rows = pool[fresh] if fresh.any() else pool
    scores = rule.score(view.space.features(rows))
    # Equal scores are common on a grid; the first row is not better than the others.
    best = np.flatnonzero(scores >= scores.max())
    row: F = rows[view.rng.choice(best)]
    return row


def _spread(points: F, order: NDArray[np.int64]) -> list[F]:
    """The best points that lie apart from each other."""
    starts = [points[order[0]]]
    for i in order[1:200]:
        if len(starts) == _STARTS:
            break
        if min(np.abs(points[i] - other).max() for other in starts) > 0.1:
            starts.append(points[i])
    return starts


def _climb(view: View, rule: Rule, start: F, box: tuple[F, F]) -> tuple[F, float]:
    space = view.space
    point, score = _follow_slopes(view, rule, start, box)
    if not space.listed.any():
        return point, score
    for _ in range(4):
        steps = space.snap(_single_steps(view, point))
        scores = rule.score(space.features(steps))
        best = int(np.argmax(scores))
        if scores[best] <= score + 1e-9:
            break
        point, score = _follow_slopes(view, rule, steps[best], box)
    return point, score


def _single_steps(view: View, point: F) -> F:
    """Copies of ``point`` with one listed parameter changed: any category, the next two numbers."""
    rows = []
    for k, p in enumerate(view.space.parameters):
        count = p.levels
        if count is None or count == 1:
            continue
        if p.is_category:
            places = (np.arange(count) + 0.5) / count
        else:
            places = point[k] + np.array([-2, -1, 1, 2]) / count
        for u in places[(places >= 0) & (places <= 1) & (np.abs(places - point[k]) > 1e-9)]:
            row = point.copy()
            row[k] = u
            rows.append(row)
    return np.array(rows) if rows else point[None]


def _follow_slopes(view: View, rule: Rule, start: F, box: tuple[F, F]) -> tuple[F, float]:
    """L-BFGS-B over the continuous coordinates that exist at ``start``."""
    from scipy.optimize import minimize

    space = view.space
    free = np.flatnonzero(~space.listed & space.active(start[None])[0])
    columns = np.array(space.column_of)[free]
    features = space.features(start[None])[0]
    if not len(free):
        return start, float(rule.score(features[None])[0])

    def negative(u: F) -> tuple[float, F]:
        row = features.copy()
        row[columns] = u
        value, gradient = rule.slope(row)
        return -value, -gradient[columns]

    found = minimize(
        negative, start[free], jac=True, method="L-BFGS-B",
        bounds=list(zip(box[0][free], box[1][free], strict=True)), options={"maxiter": 40},
    )  # fmt: skip
    point = start.copy()
    point[free] = np.clip(found.x, box[0][free], box[1][free])
    return point, -float(found.fun)
