"""Jobs over racks as gangs, all together: a start that keeps each job within one rack."""

from __future__ import annotations

from collections import Counter

from qcluster.deadline import Deadline
from qcluster.q_nvlink.gangs import Gang, host_of, list_racks
from qcluster.q_nvlink.packing import pack_gangs
from qcluster.q_nvlink.problem import Placement, PlacementProblem

__all__ = ["pack_jobs"]


def pack_jobs(
    problem: PlacementProblem, deadline: Deadline, *, keep: bool = False
) -> Placement | None:
    """A placement by ``pack_gangs``, one GPU a pod; with ``keep``, jobs stay where they are.

    None where there is one rack alone, or not every job gets its GPUs that way. Pinned jobs take
    their own GPUs and are not packed, so they must be pinned to all of them.
    """
    fabric = problem.fabric
    placed: Placement = {job: list(gpus) for job, gpus in problem.reference.items() if keep}
    placed |= {job: gpus for job, gpus in problem.pinned.items() if gpus and job not in placed}
    jobs = [job for job in problem.jobs if job.id not in placed]
    if any(len(placed[job.id]) != job.gpus for job in problem.jobs if job.id in placed):
        return None
    busy = {fabric.nodes[u].id for gpus in placed.values() for u in gpus}
    racks = list_racks(fabric, busy=busy)
    if len(racks) < 2 or not jobs:
        return None
    packed = pack_gangs(
        racks, [Gang(id=job.id, pods=job.gpus) for job in jobs], deadline=deadline.share(0.5)
    )
    if packed.unplaced:
        return None
    free: dict[str, list[int]] = {}
    for u in fabric.gpu_index.tolist():
        node = fabric.nodes[u]
        if node.id not in busy:
            free.setdefault(host_of(node), []).append(u)
    for job, hosts in packed.nodes.items():
        # Ranks of one host follow each other, as in every launcher.
        placed[job] = [free[host].pop(0) for host in Counter(hosts).elements()]
        home = fabric.components[problem.home[job]]
        if not set(placed[job]) <= set(home):
            return None
    return {job.id: placed[job.id] for job in problem.jobs}
