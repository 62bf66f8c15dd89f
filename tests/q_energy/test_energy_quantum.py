"""Windows at the peak as Ising problems: energies by enumeration, and what QAOA may change."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from qcluster.q_energy import Task, critical_path, level_peak, read_psplib
from qcluster.q_energy.cap_search import earliest_start
from qcluster.q_energy.quantum import MAX_QUBITS, build_ising, decode, peak_window
from qcluster.q_energy.tasks import Placement, TaskSet, check_placement, load_of


def tasks_of(seed: int, n: int, modes: bool) -> list[Task]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        after = tuple(f"t{j}" for j in range(i) if rng.random() < 0.2)
        d, p = int(rng.integers(1, 4)), float(rng.integers(1, 10))
        out.append(Task(f"t{i}", d, p, after, ((d, p), (2 * d, p / 2)) if modes else ()))
    return out


def spins(window, choice) -> np.ndarray:
    z = []
    for options, taken in zip(window.choices, choice, strict=True):
        z += [1 if k == taken else -1 for k in range(len(options))]
    return np.array(z)


def ordered(problem: TaskSet, placement: Placement) -> bool:
    end = placement.start + problem.dur[np.arange(problem.n), placement.mode]
    return all(
        end[b] <= placement.start[t]
        for t in range(problem.n)
        for b in problem.before[problem.before_ptr[t] : problem.before_ptr[t + 1]]
    )


@pytest.mark.parametrize("seed", range(6))
def test_energy_is_the_sum_of_squared_loads_for_every_assignment(seed: int) -> None:
    tasks = tasks_of(seed, 7, modes=seed % 2 == 1)
    problem = TaskSet.of(tasks, math.ceil(1.6 * critical_path(tasks)))
    start = earliest_start(problem).value
    window = peak_window(problem, start, np.random.default_rng(seed), qubits=12)
    assert window is not None
    assert window.qubits <= 12
    ising = build_ising(problem, window)
    assert ising.n == window.qubits
    assert len(ising.groups) == len(window.tasks)
    kept, broken = [], []
    for choice in itertools.product(*[range(len(c)) for c in window.choices]):
        z = spins(window, choice)
        moved = decode(window, start, z)
        if ordered(problem, moved):
            kept.append(ising.energy(z))
            assert kept[-1] == pytest.approx(float((load_of(problem, moved) ** 2).sum()))
        else:
            broken.append(ising.energy(z))
    assert kept
    assert not broken or min(broken) > min(kept)


def test_the_present_schedule_is_always_a_choice() -> None:
    tasks = tasks_of(3, 10, modes=True)
    problem = TaskSet.of(tasks, 2 * critical_path(tasks))
    start = earliest_start(problem).value
    for seed in range(10):
        window = peak_window(problem, start, np.random.default_rng(seed))
        assert window is not None
        assert window.qubits <= MAX_QUBITS
        same = decode(window, start, spins(window, [0] * len(window.tasks)))
        assert same.start.tolist() == start.start.tolist()
        assert same.mode.tolist() == start.mode.tolist()


def test_qaoa_reworks_a_valid_schedule_and_reports_its_gain() -> None:
    tasks = tasks_of(5, 14, modes=True)
    deadline = math.ceil(1.5 * critical_path(tasks))
    schedule = level_peak(tasks, deadline=deadline, deadline_s=1.0, qaoa=True)
    problem = TaskSet.of(tasks, deadline)
    placement = Placement(
        np.array([schedule.start[t.id] for t in tasks]),
        np.array([schedule.mode[t.id] for t in tasks]),
    )
    check_placement(problem, placement)
    assert schedule.solver.requested == "qaoa-window"
    assert "cap-search" in schedule.baselines
    assert schedule.quantum_gain is not None or "quantum_gain" in schedule.reasons
    assert schedule.peak_w <= schedule.baselines["earliest-start"]


def test_without_a_movable_task_qaoa_steps_aside() -> None:
    tasks = [Task("a", 3, 5.0), Task("b", 3, 5.0, ("a",))]
    schedule = level_peak(tasks, deadline=6, deadline_s=0.3, qaoa=True)
    assert schedule.peak_w == 5.0
    assert "no task at the peak can move" in (schedule.solver.fallback_reason or "")


def test_qaoa_on_a_real_project(data_dir: Path) -> None:
    tasks = list(read_psplib(data_dir / "energy" / "psplib" / "j30" / "j301_2.sm"))
    schedule = level_peak(tasks, deadline=critical_path(tasks), deadline_s=1.0, qaoa=True)
    assert schedule.notes["windows"] >= 1
    assert schedule.notes["qubits"] <= MAX_QUBITS
    assert schedule.quantum_gain is not None
