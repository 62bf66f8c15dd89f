"""Other layouts for the same jobs: many are scored by the classifier, few are routed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qcluster.deadline import Deadline
from qcluster.fallback import Candidate
from qcluster.q_nvlink.contention.features import layout_features
from qcluster.q_nvlink.contention.model import ContentionModel
from qcluster.q_nvlink.placement import improve_ranks, run_best_subsets
from qcluster.q_nvlink.problem import Placement, PlacementProblem

__all__ = ["Suggestion", "run_classified", "suggest_layout"]

_SCORED = 128
_ROUTED = 48
_SWAPPED = 16  # ranks up to which swaps end by themselves in milliseconds
_ROUNDS = 3
_MOST_SWAPS = 16


@dataclass(frozen=True)
class Suggestion:
    """``layout`` takes ``seconds`` a step. ``flagged``: the classifier expects the layout that was
    asked about to contend (``score`` above 0); ``better``: the suggested one is truly faster.
    """

    layout: Placement
    seconds: float
    score: float
    flagged: bool
    better: bool


def suggest_layout(
    problem: PlacementProblem,
    placement: Placement,
    model: ContentionModel,
    *,
    seed: int = 0,
    deadline: Deadline | None = None,
) -> Suggestion:
    """A layout that should contend less than ``placement``, or that one where none is found.

    Layouts within the move budget and pins are drawn at random, the classifier scores them, those
    it likes best are routed, and swaps of ranks improve the fastest: so it is never worse.
    """
    rng = np.random.default_rng(seed)
    best, seconds = placement, problem.cost(placement)
    started = seconds
    score = float(model.decision(layout_features(problem, placement)[None])[0])
    for _ in range(_ROUNDS):
        layouts = []
        for layout in _neighbours(problem, best, rng):
            if deadline is not None and deadline.expired:
                break
            layouts.append(layout)
        if not layouts:
            break
        scores = model.decision(np.array([layout_features(problem, x) for x in layouts]))
        for i in np.argsort(scores, kind="stable")[:_ROUTED].tolist():
            found = problem.cost(layouts[i])
            if found < seconds * (1 - 1e-12):
                best, seconds = layouts[i], found
    if deadline is not None or sum(job.gpus for job in problem.jobs) <= _SWAPPED:
        until = Deadline.never() if deadline is None else deadline
        last = improve_ranks(problem, Candidate(best, seconds), until, seed)
        best, seconds = last.value, last.objective
    return Suggestion(best, seconds, score, score > 0, seconds < started)


def _neighbours(
    problem: PlacementProblem, placement: Placement, rng: np.random.Generator
) -> Iterator[Placement]:
    """Random layouts a few exchanges away: ranks change places, or take free GPUs."""
    used = {gpu for gpus in placement.values() for gpu in gpus}
    free = [int(i) for i in problem.fabric.gpu_index if int(i) not in used]
    fixed = {gpu for gpus in problem.pinned.values() for gpu in gpus}
    slots: list[tuple[str | None, int]] = [
        (job, r) for job, gpus in placement.items() for r in range(len(gpus))
    ]
    everywhere = slots + [(None, i) for i in range(len(free))]
    most = _MOST_SWAPS if problem.limit is None else max(1, min(_MOST_SWAPS, problem.limit // 2))
    for _ in range(_SCORED if len(everywhere) > 1 else 0):
        layout, spare = {job: list(gpus) for job, gpus in placement.items()}, list(free)
        for _ in range(int(rng.integers(1, most + 1))):
            a = slots[int(rng.integers(len(slots)))]
            b = everywhere[int(rng.integers(len(everywhere)))]
            rows = [spare if job is None else layout[job] for job, _ in (a, b)]
            here, there = rows[0][a[1]], rows[1][b[1]]
            leaves = a[0] != b[0] and (here in fixed or there in fixed)
            if not leaves and problem.same_group(here, there):
                rows[0][a[1]], rows[1][b[1]] = there, here
        if problem.limit is None or problem.moved(layout) <= problem.limit:
            yield layout


def run_classified(
    problem: PlacementProblem,
    *,
    model: ContentionModel,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[Placement] | None,
) -> Candidate[Placement]:
    """Best subsets, and the classifier's suggestion improved by swaps; the faster wins."""
    found = run_best_subsets(problem, deadline=deadline.share(0.6), seed=seed, incumbent=incumbent)
    asked = incumbent or found
    first = suggest_layout(problem, asked.value, model, seed=seed, deadline=deadline.share(0.5))
    notes = {
        "classifier": {
            "kernel": model.kernel,
            "flagged": first.flagged,
            "score": first.score,
            "seconds_before": asked.objective,
            "seconds_suggested": first.seconds,
        }
    }
    swapped = improve_ranks(problem, Candidate(first.layout, first.seconds), deadline, seed)
    best = min(found, swapped, key=lambda candidate: candidate.objective)
    return Candidate(best.value, best.objective, notes={**best.notes, **notes})
