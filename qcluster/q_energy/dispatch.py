"""Which jobs go to an accelerator of another kind, such as a quantum processor.

A job that says how long it would take on a kind is sent to one only where that is predicted to cost
less energy and it is still done in time: by its deadline, or where it names none no later than on
the GPUs. An accelerator's idle watts are spent anyway, so what counts is what it draws above them.
Jobs in its queue come first; each is taken to last as long as the one that is asked about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcluster.q_energy.units import Units
from qcluster.record import Record
from qcluster.telemetry import Job, Topology

__all__ = ["Dispatch", "dispatch_jobs", "dispatched", "with_accelerators"]


_LEAST_W = 1e-3  # a job of no power is none that a schedule knows


@dataclass(frozen=True, kw_only=True, eq=False)
class Dispatch(Record):
    """Where one job goes. ``to`` is an accelerator's id, None for the GPUs; joules on each side,
    ``seconds`` until it is done on the accelerator; ``reason`` in words.
    """

    job: str
    to: str | None
    gpu_j: float
    accelerator_j: float
    seconds: float
    extra_w: float
    reason: str


def dispatch_jobs(jobs: Sequence[Job], topology: Topology | None) -> tuple[Dispatch, ...]:
    """One row a job that could run on an accelerator of the topology, in the jobs' order.

    Jobs without ``duration_s`` and ``power_w`` have nothing to compare with and stay.
    """
    found = () if topology is None else topology.accelerators
    busy = {item.id: 0.0 for item in found}
    out = []
    for job in jobs:
        options = [item for item in found if item.kind in job.accelerator_s]
        if not options or job.duration_s <= 0 or job.power_w <= 0:
            continue
        rows = []
        for item in options:
            seconds = job.accelerator_s[item.kind]
            done = busy[item.id] + (item.queue + 1) * seconds
            extra = max(item.active_w - item.idle_w, 0.0)
            rows.append((done, extra * seconds, extra, item.id))
        done, joules, extra, name = min(rows, key=lambda row: (row[1], row[0], row[3]))
        ours = job.power_w * job.duration_s
        latest = job.deadline_s or job.duration_s
        better, timely = joules < ours, done <= latest
        reason = f"{ours:.4g} J on GPUs, {joules:.4g} J there, done after {done:.4g} s"
        if not better:
            reason += ": no energy is saved"
        elif not timely:
            reason += f", {latest:.4g} s are left"
        sent = better and timely
        if sent:
            busy[name] += job.accelerator_s[next(i.kind for i in options if i.id == name)]
        out.append(
            Dispatch(
                job=job.id, to=name if sent else None, gpu_j=ours, accelerator_j=joules,
                seconds=done, extra_w=extra if sent else 0.0, reason=reason,
            )
        )  # fmt: skip
    return tuple(out)


def dispatched(jobs: Any, dispatch: Sequence[Dispatch]) -> Any:
    """The jobs with duration and watts of where they go, so that others still wait for them.

    Anything but Job profiles comes back as it is.
    """
    sent = {row.job: row for row in dispatch if row.to is not None}
    if not sent:
        return jobs
    return tuple(
        dataclasses.replace(
            job,
            duration_s=sent[job.id].seconds,
            power_w=max(sent[job.id].extra_w, _LEAST_W),
        )
        if job.id in sent
        else job
        for job in jobs
    )


def with_accelerators(units: Units, dispatch: Sequence[Dispatch]) -> Units:
    """Units with what the accelerators in use draw above rest in the watts that no cap reaches."""
    extra = {row.to: row.extra_w for row in dispatch if row.to is not None}
    if not extra:
        return units
    overhead = np.append(units.overhead_w, sum(extra.values()))
    return dataclasses.replace(units, overhead_w=overhead)
