"""Dependent jobs as tasks: job profiles and PSPLIB projects to a schedule with a low peak.

Job profiles give seconds; tasks run in whole steps. The step is chosen so that the horizon has a
few hundred of them; durations round up, so a schedule is never shorter than the jobs are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError, Infeasible, InputError
from qcluster.q_energy.config import EnergyConfig
from qcluster.q_energy.curve_net import CurveNet, default_net
from qcluster.q_energy.levelling import level_peak
from qcluster.q_energy.problem import Schedule, Task
from qcluster.q_energy.psplib import read_psplib
from qcluster.q_energy.task_graph import job_graph
from qcluster.q_energy.tasks import critical_path
from qcluster.telemetry import Job, Topology
from qcluster.text_file import read_text

__all__ = ["job_tasks", "read_jobs", "schedule_jobs"]

_STEPS = 300  # about how many steps the sum of all jobs' critical path is cut into
_MOST_STEPS = 30_000


def read_jobs(path: str | Path) -> tuple[Job, ...] | tuple[Task, ...]:
    """Job profiles (JSON), or the tasks of a PSPLIB ``.sm`` or ``.mm`` file, by its ending.

    Raises FormatError naming file and place.
    """
    path = Path(path)
    if path.suffix in (".sm", ".mm"):
        return read_psplib(path)
    text = read_text(path)
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"is not JSON: {error}", file=path) from None
    return Job.parse_all(data, file=path)


def schedule_jobs(
    jobs: Sequence[Job] | Sequence[Task] | str | Path | None,
    config: EnergyConfig,
    *,
    qaoa: bool | None = None,
    topology: Topology | None = None,
    deadline: int | None = None,
    deadline_s: float = 1.0,
    seed: int = 0,
    net: CurveNet | None = None,
) -> Schedule | None:
    """The schedule of lowest peak found, or None when no job has duration and power.

    ``qaoa`` overrides the toggle. ``topology`` tells the GPUs' limits, from which power modes
    follow where ``power_modes`` is on. ``deadline`` is in steps and for Tasks; None takes
    ``stretch`` times the critical path, or the jobs' own deadlines. ``net`` predicts the power
    modes; None takes the package's own.
    """
    if isinstance(jobs, (str, Path)):
        jobs = read_jobs(jobs)
    if not jobs:
        return None
    step_s: float | None = None
    if isinstance(jobs[0], Task):
        tasks = [task for task in jobs if isinstance(task, Task)]
    else:
        profiles = [j for j in jobs if isinstance(j, Job)]
        tasks, deadline, step_s = job_tasks(profiles, config, topology, net)
        if not tasks:
            return None
    if deadline is None:
        deadline = math.ceil(config.stretch * critical_path(tasks) - 1e-9)
    found = level_peak(
        tasks, deadline=deadline, deadline_s=deadline_s, seed=seed,
        qaoa=config.qaoa if qaoa is None else qaoa,
    )  # fmt: skip
    if step_s is None:
        return found
    notes: dict[str, Any] = {**found.notes, "step_s": step_s}
    names = {job.id for job in jobs}
    return Schedule(
        **{
            **found.__dict__,
            "notes": notes,
            "start": {name: s for name, s in found.start.items() if name in names},
            "mode": {name: m for name, m in found.mode.items() if name in names},
        }
    )


def job_tasks(
    jobs: Sequence[Job],
    config: EnergyConfig,
    topology: Topology | None = None,
    net: CurveNet | None = None,
) -> tuple[list[Task], int, float]:
    """Tasks, deadline in steps, and the seconds of a step.

    Jobs without duration or power are left out. A job whose own deadline is sooner than the
    common one is followed by an idle task of the difference, which holds it to its own.

    Raises InputError when a scheduled job waits for one that is left out; Infeasible naming the job
    that cannot be done by its deadline, and by how many seconds.
    """
    known = {job.id: job for job in jobs if job.duration_s > 0 and job.power_w > 0}
    if not known:
        return [], 0, 0.0
    for job in known.values():
        for other in job.after:
            if other not in known:
                message = f"job '{job.id}' waits for it, but it has no duration_s and power_w"
                raise InputError(message, field=f"jobs.{other}")
    # A job may run for milliseconds or for weeks: the unit follows the longest of them.
    unit = max(max(job.duration_s for job in known.values()) / 1e6, 1e-300)
    fine = [Task(j.id, math.ceil(j.duration_s / unit), j.power_w, j.after) for j in known.values()]
    longest = critical_path(fine) * unit
    _check_deadlines(known)
    modes = _modes(list(known.values()), config, topology, net or default_net())
    steps = [max(longest / _STEPS, 1e-3), *_finer(known, longest)]
    for step in steps[:-1]:
        tasks, common = _in_steps(known, modes, step, config)
        if critical_path(tasks) <= common:
            return tasks, common, step
    return (*_in_steps(known, modes, steps[-1], config), steps[-1])


def _check_deadlines(jobs: dict[str, Job]) -> None:
    """Refuse a deadline before the job's chain can be done, with seconds."""
    done: dict[str, float] = {}
    left = dict(jobs)
    while left:  # without cycles: the critical path was found before
        for job in [job for job in left.values() if all(name in done for name in job.after)]:
            done[job.id] = job.duration_s + max((done[name] for name in job.after), default=0.0)
            del left[job.id]
            late = done[job.id] - job.deadline_s
            if job.deadline_s and late > 1e-9 * done[job.id]:
                raise Infeasible(
                    f"job '{job.id}' is done after {done[job.id]:g} s at the earliest, {late:g} s "
                    f"past its deadline of {job.deadline_s:g} s",
                    field="jobs.deadline_s",
                )


def _finer(jobs: dict[str, Job], longest: float) -> list[float]:
    """Steps for when rounding up to coarse ones leaves no room: one that all times are whole
    multiples of, if there is one, and a small one.
    """
    times = [job.duration_s for job in jobs.values()]
    times += [job.deadline_s for job in jobs.values() if job.deadline_s]
    grid = math.gcd(*(round(seconds * 1000) for seconds in times)) / 1000
    whole = all(abs(seconds * 1000 - round(seconds * 1000)) < 1e-6 for seconds in times)
    exact = [grid] if whole and 0 < longest <= _MOST_STEPS * grid else []
    return [*exact, max(longest / _MOST_STEPS, 1e-6)]


def _in_steps(
    known: dict[str, Job],
    modes: dict[str, list[tuple[float, float]]],
    step: float,
    config: EnergyConfig,
) -> tuple[list[Task], int]:
    """Tasks and their common deadline in whole steps."""
    tasks = [
        Task(
            j.id, _steps(j.duration_s, step), j.power_w, j.after,
            tuple((_steps(s, step), w) for s, w in modes.get(j.id, ())),
        )
        for j in known.values()
    ]  # fmt: skip
    limits = {j.id: math.floor(j.deadline_s / step + 1e-9) for j in known.values() if j.deadline_s}
    common = max(limits.values(), default=0)
    if len(limits) < len(known):
        common = max(common, math.ceil(config.stretch * critical_path(tasks) - 1e-9))
    for name, limit in limits.items():
        if limit < common:
            tasks.append(Task(f"{name} (deadline)", common - limit, 0.0, (name,)))
    return tasks, common


def _steps(seconds: float, step: float) -> int:
    return max(1, math.ceil(seconds / step - 1e-9))


def _modes(
    jobs: list[Job], config: EnergyConfig, topology: Topology | None, net: CurveNet
) -> dict[str, list[tuple[float, float]]]:
    """(seconds, watts) of each job under each cap that it would feel, the uncapped one first.

    Empty without ``power_modes`` or where the GPUs' limits are not known or differ.
    """
    limits = {(n.min_w, n.max_w) for n in (() if topology is None else topology.nodes)}
    if not config.power_modes or len(limits) != 1:
        return {}
    ((low, high),) = limits
    if high <= 0:
        return {}
    curves = net.predict(job_graph(jobs, min_w=low, max_w=high))
    out = {}
    for k, job in enumerate(jobs):
        rows = [(job.duration_s, job.power_w)]
        for cap, fast, power in zip(
            curves.caps[::-1], curves.speed[k][::-1], curves.power[k][::-1], strict=True
        ):
            watts = float(power) * high * job.gpus
            if cap * high >= low and watts < 0.98 * rows[-1][1]:
                rows.append((job.duration_s / float(fast), watts))
        out[job.id] = rows
    return out
