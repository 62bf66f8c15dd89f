"""Peak levelling against brute force, its bound, an independent checker, and refusals."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.deadline import Deadline
from qcluster.errors import Infeasible, InputError, SolverFailed
from qcluster.q_energy import Schedule, Task, critical_path, level_peak, read_psplib
from qcluster.q_energy.cap_search import CapSearch, earliest_start, list_schedule, search_caps
from qcluster.q_energy.lists import _kernels as kernels
from qcluster.q_energy.tasks import Placement, TaskSet, check_placement, peak_bound


def check(tasks: list[Task], schedule: Schedule, deadline: int) -> None:
    """Recompute everything a schedule claims, from the tasks alone."""
    load = np.zeros(deadline + 1)
    end = {}
    for task in tasks:
        duration, watts = task.options[schedule.mode[task.id]]
        start = schedule.start[task.id]
        end[task.id] = start + duration
        assert start >= 0
        assert end[task.id] <= deadline
        load[start : end[task.id]] += watts
    for task in tasks:
        for other in task.after:
            assert end[other] <= schedule.start[task.id]
    assert schedule.peak_w == pytest.approx(load.max())
    assert schedule.lower_bound <= schedule.peak_w + 1e-9
    assert schedule.makespan == max(end.values())
    for value in schedule.baselines.values():
        assert schedule.peak_w <= value + 1e-9


def brute_force(tasks: list[Task], deadline: int) -> float:
    """Lowest peak over all starts and modes."""
    best = math.inf
    spans = [
        [(s, d, p) for d, p in task.options for s in range(deadline - d + 1)] for task in tasks
    ]
    index = {task.id: i for i, task in enumerate(tasks)}
    for choice in itertools.product(*spans):
        ends = [s + d for s, d, _ in choice]
        if all(ends[index[o]] <= choice[i][0] for i, task in enumerate(tasks) for o in task.after):
            load = np.zeros(deadline + 1)
            for s, d, p in choice:
                load[s : s + d] += p
            best = min(best, float(load.max()))
    return best


def random_tasks(seed: int, n: int, modes: bool = False) -> list[Task]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        after = tuple(f"t{j}" for j in range(i) if rng.random() < 0.3)
        d, p = int(rng.integers(1, 4)), float(rng.integers(1, 10))
        options = ((d, p), (d + 1, float(math.ceil(p / 2)))) if modes else ()
        out.append(Task(f"t{i}", d, p, after, options))
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.booleans(), st.integers(0, 2))
def test_small_sets_reach_the_optimum(seed: int, n: int, modes: bool, slack: int) -> None:
    tasks = random_tasks(seed, n, modes)
    deadline = critical_path(tasks) + slack
    schedule = level_peak(tasks, deadline=deadline, deadline_s=0.1)
    check(tasks, schedule, deadline)
    best = brute_force(tasks, deadline)
    assert schedule.peak_w == pytest.approx(best)
    assert schedule.lower_bound <= best + 1e-9


@pytest.mark.parametrize("stretch", [1.0, 1.2, 1.5])
def test_larger_sets_are_valid_and_better_than_every_baseline(stretch: float) -> None:
    tasks = random_tasks(7, 40, modes=True)
    deadline = math.ceil(critical_path(tasks) * stretch)
    schedule = level_peak(tasks, deadline=deadline, deadline_s=0.3)
    check(tasks, schedule, deadline)
    assert schedule.peak_w < schedule.baselines["earliest-start"]


def test_power_need_not_be_whole_watts() -> None:
    tasks = [Task(i, 2, 0.1 * (i + 1)) for i in range(5)]
    schedule = level_peak(tasks, deadline=6, deadline_s=0.2)
    check(tasks, schedule, 6)
    # Energy 3.0 W-steps in 6 steps is 0.5; pairs of two steps each can just do it.
    assert schedule.peak_w == pytest.approx(0.5)


def test_zero_durations_and_zero_power() -> None:
    tasks = [Task("source", 0, 0.0), Task("a", 2, 5.0, ("source",)), Task("sink", 0, 0.0, ("a",))]
    schedule = level_peak(tasks, deadline=2, deadline_s=0.1)
    check(tasks, schedule, 2)
    assert schedule.peak_w == 5.0
    assert level_peak([Task("a", 0, 3.0)], deadline=0, deadline_s=0.1).makespan == 0


def test_no_time_still_gives_the_list_schedule() -> None:
    tasks = random_tasks(3, 30)
    schedule = level_peak(tasks, deadline=critical_path(tasks) + 5, deadline_s=0.0)
    check(tasks, schedule, critical_path(tasks) + 5)
    assert schedule.solver.used == "list-schedule"
    assert "no time left" in (schedule.solver.fallback_reason or "")


def test_deadline_below_the_critical_path_says_by_how_much() -> None:
    tasks = [Task("a", 3, 1.0), Task("b", 4, 1.0, ("a",))]
    with pytest.raises(Infeasible, match="2 steps below the critical path of 7"):
        level_peak(tasks, deadline=5)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([], "at least one task"),
        ([Task("a", 1, 1.0), Task("a", 1, 1.0)], "stands twice"),
        ([Task("a", 1, 1.0, ("x",))], "'x', which is no task"),
        ([Task("a", 1, 1.0, ("a",))], "a -> a"),
        ([Task("a", 1, 1.0, ("b",)), Task("b", 1, 1.0, ("a",))], "wait for each other"),
        (["a"], "wants Task"),
    ],
)
def test_bad_sets_are_named(tasks: list[Task], words: str) -> None:
    with pytest.raises(InputError, match=words):
        level_peak(tasks, deadline=10)


@pytest.mark.parametrize("deadline", [1.5, True, "3", None])
def test_bad_deadlines_are_named(deadline: object) -> None:
    with pytest.raises(InputError, match="whole number of steps"):
        level_peak([Task("a", 1, 1.0)], deadline=deadline)


def test_same_seed_same_answer_when_the_bound_is_met() -> None:
    tasks = random_tasks(5, 8)
    deadline = critical_path(tasks) * 2
    one, two = (level_peak(tasks, deadline=deadline, deadline_s=1.0, seed=4) for _ in range(2))
    assert one.peak_w == two.peak_w


def plain_place(order, dur, power, before, cap):
    """Serial schedule generation in plain Python."""
    start: dict[int, int] = {}
    load = np.zeros(int(dur.sum()) + 1)
    for t in order:
        s = max((start[b] + dur[b] for b in before[t]), default=0)
        while (load[s : s + dur[t]] > cap - power[t] + 1e-9).any():
            s += 1
        start[t] = s
        load[s : s + dur[t]] += power[t]
    return np.array([start[t] for t in range(len(dur))])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_kernel_places_like_its_plain_twin(seed: int, n: int) -> None:
    problem = TaskSet.of(tasks := random_tasks(seed, n), critical_path(tasks))
    rng = np.random.default_rng(seed)
    order = kernels.feasible_list(rng.permutation(n), problem.before_ptr, problem.before)
    assert sorted(order.tolist()) == list(range(n))
    dur, power = problem.dur[:, 0].copy(), problem.power[:, 0].copy()
    cap = float(power.max() * rng.uniform(1, 3))
    start, load = np.empty(n, np.int64), np.empty(int(dur.sum()) + 1)
    span = kernels.place(order, dur, power, problem.before_ptr, problem.before, cap, start, load)
    before = [problem.before[problem.before_ptr[t] : problem.before_ptr[t + 1]] for t in range(n)]
    assert start.tolist() == plain_place(order, dur, power, before, cap).tolist()
    assert span == (start + dur).max()


def test_kernel_sort_orders_by_key_then_rank() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 17, 100):
        key, rank = rng.integers(0, 5, n), rng.permutation(n)
        order = rng.permutation(n)
        kernels.by_time(key, rank, order)
        assert order.tolist() == np.lexsort((rank, key)).tolist()


def test_justification_never_lengthens_a_schedule() -> None:
    problem = TaskSet.of(tasks := random_tasks(11, 30), critical_path(tasks))
    n, rng = problem.n, np.random.default_rng(0)
    dur, power = problem.dur[:, 0].copy(), problem.power[:, 0].copy()
    start, load, key = np.empty(n, np.int64), np.empty(int(dur.sum()) + 1), np.empty(n, np.int64)
    for _ in range(20):
        order = kernels.feasible_list(rng.permutation(n), problem.before_ptr, problem.before)
        first = kernels.place(
            order, dur, power, problem.before_ptr, problem.before, 20.0, start, load
        )
        last = kernels.justify(
            order, dur, power, problem.before_ptr, problem.before, problem.after_ptr,
            problem.after, problem.rank, 20.0, start, load, key,
        )  # fmt: skip
        assert last <= first
        assert sorted(order.tolist()) == list(range(n))


def test_search_finds_what_it_says_under_a_cap() -> None:
    problem = TaskSet.of(tasks := random_tasks(2, 25, modes=True), critical_path(tasks) + 4)
    floor = list_schedule(problem)
    search = CapSearch(problem, floor.value, seed=1)
    placement = search.under(floor.objective)
    assert placement is not None
    check_placement(problem, placement)
    assert search.under(0.5) is None
    better = search_caps(problem, deadline=Deadline.after(0.2), seed=0, incumbent=None)
    check_placement(problem, better.value)
    assert better.objective <= floor.objective


def test_checker_catches_broken_schedules() -> None:
    problem = TaskSet.of([Task("a", 2, 1.0), Task("b", 2, 1.0, ("a",))], 5)
    mode = np.zeros(2, np.int64)
    check_placement(problem, Placement(np.array([0, 2]), mode))
    for start, broken in (([0, 1], mode), ([-1, 3], mode), ([0, 4], mode), ([0, 2], mode + 1)):
        with pytest.raises(SolverFailed):
            check_placement(problem, Placement(np.array(start), broken))
    with pytest.raises(SolverFailed):
        check_placement(problem, Placement(np.array([0]), mode))


def test_bound_counts_forced_overlap() -> None:
    # Both must run in the middle step whatever they do.
    tasks = [Task("a", 3, 4.0), Task("b", 3, 5.0)]
    assert peak_bound(TaskSet.of(tasks, 4)) == 9.0
    long = [Task(i, 300, 1.0) for i in range(4)]
    assert peak_bound(TaskSet.of(long, 600)) == 2.0
    assert earliest_start(TaskSet.of(long, 600)).objective == 4.0


@pytest.mark.parametrize("stretch", [1.0, 1.2, 1.5])
def test_real_projects_stay_at_or_below_the_reference(data_dir: Path, stretch: float) -> None:
    for name in ("j30/j301_2", "j60/j601_2", "j120/j1201_2"):
        tasks = list(read_psplib(data_dir / "energy" / "psplib" / f"{name}.sm"))
        deadline = math.ceil(stretch * critical_path(tasks) - 1e-9)
        schedule = level_peak(tasks, deadline=deadline, deadline_s=0.4)
        check(tasks, schedule, deadline)
        assert schedule.peak_w <= 0.85 * schedule.baselines["earliest-start"]
        assert schedule.gap < 0.3


def test_thousands_of_tasks_are_bounded_in_little_time() -> None:
    chain = (Task(i, 1, 1.0, (i - 1,) if i else ()) for i in range(3000))
    found = level_peak(chain, deadline=3000, deadline_s=0.2)  # type: ignore[arg-type]
    assert found.peak_w == found.lower_bound == 1.0
    with pytest.raises(InputError, match=r"task a.after.*wants task ids"):
        Task("a", 1, 1.0, ([1],))
    with pytest.raises(InputError, match="wants tasks, got int"):
        level_peak(3, deadline=3)  # type: ignore[arg-type]
