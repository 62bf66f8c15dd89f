"""Ranks that a GPU's ports are too narrow for change places with ranks that need less.

A GPU that lost a lane slows the whole step when it holds a busy rank. Steps of local search do not
find the way out where several such ranks must move before the step gets any shorter; here all of
them move at once, as far as the move budget goes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink.problem import Placement, PlacementProblem

__all__ = ["settle_ports"]

_ROUNDING = 1e-9


def settle_ports(problem: PlacementProblem, placement: Placement) -> Placement:
    """The placement with ranks moved to GPUs whose ports carry them within the lower bound.

    The rank that exceeds its ports by most goes first, to the GPU that costs fewest moves, of these
    the narrowest that is wide enough; who sits there must be content with the ports left behind.
    Pinned ranks stay. The move budget holds if it held before.
    """
    if not placement:
        return placement
    seats = _Seats(problem, placement)
    for rank in seats.misplaced():
        if not seats.move(int(rank)):
            break  # the ranks left exceed their ports by less than this one, which decides
    return seats.placement()


class _Seats:
    """Every rank's need of GB/s out and in, (ranks, 2), and every GPU's ports, (nodes, 2)."""

    def __init__(self, problem: PlacementProblem, placement: Placement) -> None:
        self.problem = problem
        self._sizes = {job: len(gpus) for job, gpus in placement.items()}
        self.gpu = np.array([g for gpus in placement.values() for g in gpus], dtype=np.int64)
        volumes = [problem.demand[job] for job in placement]
        sums = [np.column_stack([v.sum(axis=1), v.sum(axis=0)]) for v in volumes]
        target = problem.lower_bound() * 1e9
        self._need = np.concatenate(sums) / target if target > 0 else np.zeros((len(self.gpu), 2))
        cap = problem.fabric.effective
        self._ports = np.column_stack([cap.sum(axis=1), cap.sum(axis=0)]) * (1 + _ROUNDING)
        self._rank_at = np.full(len(problem.fabric.nodes), -1, dtype=np.int64)
        self._rank_at[self.gpu] = np.arange(len(self.gpu))
        self._group = np.full(len(problem.fabric.nodes), -1, dtype=np.int64)
        for c, members in enumerate(problem.fabric.components):
            self._group[list(members)] = c
        fixed = [g for gpus in problem.pinned.values() for g in gpus]
        self._open = np.array(sorted(set(problem.fabric.gpu_index.tolist()) - set(fixed)))
        self._reference = np.concatenate(
            [np.asarray(problem.reference.get(job, [-1] * n)) for job, n in self._sizes.items()]
        )
        limit, moved = problem.limit, problem.moved(placement)
        self._left = len(self.gpu) if limit is None else limit - moved

    def misplaced(self) -> NDArray[np.int64]:
        """Ranks whose ports are too narrow, those that exceed them by most first."""
        ports = self._ports[self.gpu]
        over = np.divide(self._need, ports, out=np.zeros_like(ports), where=ports > 0).max(axis=1)
        ranks = np.flatnonzero((over > 1) & np.isin(self.gpu, self._open))
        return ranks[np.argsort(-over[ranks], kind="stable")].astype(np.int64)

    def move(self, rank: int) -> bool:
        """Find the rank a wide enough GPU; False when there is none within the budget."""
        here, there = int(self.gpu[rank]), self._open
        holder = self._rank_at[there]
        taken = holder >= 0
        fits = (self._ports[there] >= self._need[rank]).all(axis=1)
        fits &= self._group[there] == self._group[here]
        content = (self._need[holder] <= self._ports[here]).all(axis=1)
        fits &= ~taken | content
        moves = self._moves(np.full(len(there), rank), there)
        moves += np.where(taken, self._moves(holder, np.full(len(there), here)), 0)
        fits &= moves <= self._left
        if not fits.any():
            return False
        width = self._ports[there].min(axis=1)
        best = int(np.lexsort((width, np.where(fits, moves, len(self.gpu)), ~fits))[0])
        self._left -= int(moves[best])
        other = int(holder[best])
        self.gpu[rank], self._rank_at[there[best]] = there[best], rank
        self._rank_at[here] = other
        if other >= 0:
            self.gpu[other] = here
        return True

    def _moves(self, ranks: NDArray[np.int64], to: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many more ranks are away from where they were, for each of these steps alone."""
        before = self._reference[ranks]
        known = before >= 0
        more: NDArray[np.int64] = known * ((to != before) * 1 - (self.gpu[ranks] != before) * 1)
        return more

    def placement(self) -> Placement:
        """By job, in order of ranks."""
        found: Placement = {}
        at = 0
        for job, size in self._sizes.items():
            found[job] = self.gpu[at : at + size].tolist()
            at += size
        return found
