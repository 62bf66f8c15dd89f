"""Windows at the peak as Ising problems, for simulated QAOA.

The seeds' Hamiltonian H = sum a_i z_i + sum b_ij z_i z_j, with one variable for each choice of
start and power mode of a task: exactly one of a task's is +1 (one-hot), so K choices encode K
power levels or times. The energy is the sum over time of load squared, which a flat profile
minimises; pairs of choices that break precedence cost more than any load can. A window is small
(at most 24 qubits), since the simulation is exact: it reworks a schedule, it does not make one.
A window's answer is taken only if it lowers the peak or the time spent at it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.fallback import Candidate
from qcluster.q_energy.cap_search import search_caps
from qcluster.q_energy.tasks import Floats, Placement, TaskSet, load_of, peak_of

if TYPE_CHECKING:
    from qcluster.quantum import IsingProblem

__all__ = ["MAX_QUBITS", "Window", "build_ising", "peak_window", "refine_peak"]

MAX_QUBITS = 24
_MAX_TASKS = 6
_CHOICES = 4
_MISSES = 32  # steps at the peak, drawn in a row, where no task can move: then none can
# Simulated QAOA gets this share of the time; the classical search that it starts from the rest.
_QUANTUM_SHARE = 0.5


@dataclass(frozen=True)
class Window:
    """Some tasks' choices with everything else held.

    ``tasks`` are indices; ``choices[k]`` lists (start, mode) of ``tasks[k]``; ``base`` (deadline,)
    is the load of all other tasks in watts.
    """

    tasks: tuple[int, ...]
    choices: tuple[tuple[tuple[int, int], ...], ...]
    base: Floats

    @property
    def qubits(self) -> int:
        """One a choice."""
        return sum(len(c) for c in self.choices)


def build_ising(problem: TaskSet, window: Window) -> IsingProblem:
    """The window as an Ising problem with one-hot groups, variables in order of choices.

    For assignments that keep precedence the energy is the sum over steps of load squared, W²; the
    minimum keeps precedence whenever some assignment does.
    """
    from qcluster.quantum import IsingProblem

    rows = [(k, s, m) for k, choices in enumerate(window.choices) for s, m in choices]
    use = np.zeros((len(rows), problem.deadline))
    for row, (k, s, m) in enumerate(rows):
        t = window.tasks[k]
        use[row, s : s + problem.dur[t, m]] = problem.power[t, m]
    linear = 2.0 * use @ window.base + (use**2).sum(axis=1)
    pair = 2.0 * use @ use.T
    groups = _groups(window)
    pair += _broken(problem, window, rows) * _penalty(window, use, linear, pair, groups, rows,
                                                      problem)  # fmt: skip
    group_of = np.array([k for k, _, _ in rows])
    pair[group_of[:, None] == group_of[None, :]] = 0.0
    upper = np.triu(pair, 1)
    offset = float((window.base**2).sum() + linear.sum() / 2 + upper.sum() / 4)
    return IsingProblem(linear / 2 + pair.sum(axis=1) / 4, upper / 4, offset, groups)


def peak_window(
    problem: TaskSet, placement: Placement, rng: np.random.Generator, qubits: int = MAX_QUBITS
) -> Window | None:
    """A window of tasks that run at the peak and could be elsewhere; None when none could."""
    load = load_of(problem, placement)
    end = placement.start + problem.dur[np.arange(problem.n), placement.mode]
    steps = np.flatnonzero(load >= load.max() - 1e-9)
    step = int(rng.choice(steps))
    power = problem.power[np.arange(problem.n), placement.mode]
    here = np.flatnonzero((placement.start <= step) & (end > step) & (power > 0))
    near = np.flatnonzero((end > step - 4) & (placement.start < step + 4) & (power > 0))
    order = [*rng.permutation(here), *rng.permutation(np.setdiff1d(near, here))]
    chosen: list[int] = []
    choices: list[tuple[tuple[int, int], ...]] = []
    for t in order:
        if len(chosen) == _MAX_TASKS:
            break
        options = _choices(problem, placement, int(t), end, load, rng)
        if len(options) > 1 and sum(map(len, choices)) + len(options) <= qubits:
            chosen.append(int(t))
            choices.append(options)
    if not chosen:
        return None
    base = load.copy()
    for t in chosen:
        base[placement.start[t] : end[t]] -= power[t]
    return Window(tuple(chosen), tuple(choices), np.clip(base, 0.0, None))


def refine_peak(
    problem: TaskSet,
    *,
    deadline: Deadline,
    seed: int,
    incumbent: Candidate[Placement] | None,
) -> Candidate[Placement]:
    """Classical cap search, then QAOA over windows at what peak is left.

    Raises InputError when no task at the peak can move, so the chain says so.
    """
    from qcluster.quantum import solve

    found = search_caps(
        problem, deadline=deadline.share(1 - _QUANTUM_SHARE), seed=seed, incumbent=incumbent
    )
    rng = np.random.default_rng(seed)
    best, tried, taken, largest, missed = found.value, 0, 0, 0, 0
    while not deadline.expired and missed < _MISSES:
        window = peak_window(problem, best, rng)
        if window is None:
            missed += 1
            continue
        ising = build_ising(problem, window)
        seconds = min(deadline.remaining(), 0.25)
        answer = solve(ising, solver="qaoa", deadline_s=seconds, seed=int(rng.integers(2**31)))
        tried, largest = tried + 1, max(largest, ising.n)
        moved = decode(window, best, answer.z)
        if _flatter(problem, moved, best):
            best, taken = moved, taken + 1
    if not tried:
        raise InputError("no task at the peak can move, so there is no window for QAOA")
    notes = {**found.notes, "windows": tried, "windows_taken": taken, "qubits": largest}
    return Candidate(best, peak_of(problem, best), notes=notes)


@functools.cache
def load_solver() -> None:
    """Load or compile the simulator, once a process."""
    from qcluster.quantum.solve import warm_up

    warm_up()


def decode(window: Window, placement: Placement, z: Sequence[int] | np.ndarray) -> Placement:
    """The placement with the window's choices as the spins say."""
    start, mode = placement.start.copy(), placement.mode.copy()
    for t, group, choices in zip(window.tasks, _groups(window), window.choices, strict=True):
        start[t], mode[t] = choices[int(np.argmax(np.asarray(z)[group]))]
    return Placement(start, mode)


def _flatter(problem: TaskSet, new: Placement, old: Placement) -> bool:
    """Whether precedence holds and the peak, or else the time at the peak, is lower."""
    end = new.start + problem.dur[np.arange(problem.n), new.mode]
    for t in range(problem.n):
        before = problem.before[problem.before_ptr[t] : problem.before_ptr[t + 1]]
        if (end[before] > new.start[t]).any():
            return False
    fresh, stale = load_of(problem, new), load_of(problem, old)
    if fresh.max() < stale.max() - 1e-9:
        return True
    at_peak = (fresh >= stale.max() - 1e-9).sum() < (stale >= stale.max() - 1e-9).sum()
    return bool(fresh.max() <= stale.max() + 1e-9 and at_peak)


def _choices(
    problem: TaskSet,
    placement: Placement,
    t: int,
    end: np.ndarray,
    load: Floats,
    rng: np.random.Generator,
) -> tuple[tuple[int, int], ...]:
    """The task's present start and mode, and those that keep the load under its interval least."""
    before = problem.before[problem.before_ptr[t] : problem.before_ptr[t + 1]]
    after = problem.after[problem.after_ptr[t] : problem.after_ptr[t + 1]]
    low = int(end[before].max(initial=0))
    high = int(placement.start[after].min(initial=problem.deadline))
    now = (int(placement.start[t]), int(placement.mode[t]))
    rest = load.copy()
    rest[now[0] : int(end[t])] -= problem.power[t, now[1]]
    scored = []
    for m in range(problem.modes[t]):
        d = int(problem.dur[t, m])
        for s in range(low, high - d + 1):
            if (s, m) != now and d:
                top = float(rest[s : s + d].max()) + problem.power[t, m]
                scored.append((top + 1e-6 * rng.random(), s, m))
    return (now, *((s, m) for _, s, m in sorted(scored)[: _CHOICES - 1]))


def _groups(window: Window) -> list[list[int]]:
    ends = np.cumsum([len(c) for c in window.choices])
    return [list(range(e - len(c), e)) for e, c in zip(ends, window.choices, strict=True)]


def _penalty(
    window: Window,
    use: Floats,
    linear: Floats,
    pair: Floats,
    groups: Sequence[Sequence[int]],
    rows: Sequence[tuple[int, int, int]],
    problem: TaskSet,
) -> float:
    """What a broken precedence costs, W²: enough that no such assignment is the minimum.

    As little as that takes, since a large penalty flattens the rest of the spectrum. The present
    choices, if they keep precedence, cap the minimum; own terms alone bound all others below.
    """
    first = [group[0] for group in groups]
    if _broken(problem, window, [rows[i] for i in first]).any():
        most = window.base + sum(use[list(group)].max(axis=0) for group in groups)
        return float((most**2).sum() + 1.0)
    present = linear[first].sum() + np.triu(pair[np.ix_(first, first)], 1).sum()
    least = sum(linear[list(group)].min() for group in groups)
    return float(present - least + 1.0)


def _broken(problem: TaskSet, window: Window, rows: Sequence[tuple[int, int, int]]) -> Floats:
    """(choices, choices) 1 where two choices together break precedence."""
    out = np.zeros((len(rows), len(rows)))
    for i, (k, s, m) in enumerate(rows):
        t = window.tasks[k]
        after = set(problem.after[problem.after_ptr[t] : problem.after_ptr[t + 1]])
        for j, (other, s2, _) in enumerate(rows):
            if window.tasks[other] in after and s + problem.dur[t, m] > s2:
                out[i, j] = out[j, i] = 1.0
    return out
