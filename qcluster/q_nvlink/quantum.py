"""Colouring as an Ising problem, and the hybrid of tabu search and simulated QAOA.

One spin a vertex and colour, one-hot a vertex; the energy counts edges with the same colour at
both ends. QAOA's mixer keeps the one-hot groups (Hadfield et al., 2019), so no penalty is needed.
Only the *conflict core* is encoded: the vertices that tabu search leaves in conflict and some of
their neighbours, everything else held fixed (as in Bravyi et al., 2022). Depth is the number of
colours, at most ``_MOST_LAYERS``. Simulated circuits of this size hold no advantage over the
classical search beside them; the plan reports both.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.fallback import Candidate
from qcluster.q_nvlink.coloring._kernels import conflicts
from qcluster.q_nvlink.coloring.problem import ColoringProblem
from qcluster.q_nvlink.coloring.tabu import TabuSearch, descend, run_dsatur
from qcluster.quantum import IsingProblem

__all__ = ["core_ising", "run_hybrid"]

_MOST_SPINS = 16
_STEPS = 2_000


def core_ising(
    problem: ColoringProblem, color: NDArray[np.int64], k: int, core: list[int]
) -> IsingProblem:
    """Minimise the edges with equal colours, with only the vertices ``core`` free.

    Spin i k + c is +1 when vertex ``core[i]`` has colour c. The energy of a feasible assignment is
    the number of conflicting edges that touch the core.
    """
    place = {v: i for i, v in enumerate(core)}
    h = np.zeros(len(core) * k)
    couplings: dict[tuple[int, int], float] = {}
    offset = 0.0
    for v, i in place.items():
        for u in problem.neighbours(v).tolist():
            if u not in place:
                # The indicator (1 + z) / 2 of a colour that a fixed neighbour has.
                h[i * k + color[u]] += 0.5
                offset += 0.5
            elif v < u:
                for c in range(k):
                    # The product of two indicators: (1 + a)(1 + b) / 4.
                    a, b = i * k + c, place[u] * k + c
                    couplings[a, b] = 0.25
                    h[a] += 0.25
                    h[b] += 0.25
                    offset += 0.25
    groups = [list(range(i * k, (i + 1) * k)) for i in range(len(core))]
    return IsingProblem(h, couplings, offset, groups)


def run_hybrid(
    problem: ColoringProblem,
    *,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[NDArray[np.int64]] | None,
) -> Candidate[NDArray[np.int64]]:
    """Tabu search whose conflict core goes to QAOA between slices; see the module's text."""
    start = incumbent or run_dsatur(problem, deadline=deadline, seed=seed, incumbent=None)
    return descend(problem, start.value, deadline, seed, partial(_attempt, problem))


def _attempt(
    problem: ColoringProblem,  # noqa: ARG001 - the core is what is searched
    core: ColoringProblem,
    color: NDArray[np.int64],
    k: int,
    rng: np.random.Generator,
    deadline: Deadline,
) -> NDArray[np.int64] | None:
    search = TabuSearch(core, color, k, rng)
    while not deadline.expired:
        chosen = _conflict_core(core, search.best, k, rng)
        if not chosen:
            return search.best
        improved = _quantum_step(core, search.best, k, chosen, int(rng.integers(2**31)), deadline)
        search.color[:] = improved
        if search.run(_STEPS) == 0:
            return search.best
    return None


def _conflict_core(
    problem: ColoringProblem, color: NDArray[np.int64], k: int, rng: np.random.Generator
) -> list[int]:
    """Vertices in conflict and neighbours of theirs, as many as fit."""
    room = max(2, _MOST_SPINS // k)
    clash = [v for v in range(problem.n) if (color[problem.neighbours(v)] == color[v]).any()]
    if not clash:
        return []
    core = [int(v) for v in rng.permutation(clash)[:room]]
    near = [int(u) for v in core for u in problem.neighbours(v) if u not in core]
    for u in rng.permutation(list(dict.fromkeys(near)))[: room - len(core)]:
        core.append(int(u))  # noqa: PERF401 - core is read above
    return core


def _quantum_step(
    problem: ColoringProblem,
    color: NDArray[np.int64],
    k: int,
    core: list[int],
    seed: int,
    deadline: Deadline,
) -> NDArray[np.int64]:
    """The colouring with the core recoloured, or as it was when that is no better."""
    from qcluster.quantum import ising_stage

    ising = core_ising(problem, color, k, core)
    budget = min(1.0, max(0.02, deadline.remaining() / 4))
    found = ising_stage("qaoa").run(
        ising, deadline=Deadline.after(budget), seed=seed, incumbent=None
    )
    spins = found.value.reshape(len(core), k)
    changed = color.copy()
    changed[core] = spins.argmax(axis=1)
    before = conflicts(problem.indptr, problem.indices, color)
    after = conflicts(problem.indptr, problem.indices, changed)
    return changed if after <= before else color
