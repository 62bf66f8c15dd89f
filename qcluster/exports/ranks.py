"""Fabric plans for launchers: Open MPI's rank file, visible devices by host, NCCL's graph file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qcluster.errors import InputError
from qcluster.exports.parts import Export, Settings, assignment, nodes_of, part
from qcluster.q_nvlink.directives import nccl_graph, rank_file, visible_devices

__all__ = ["cuda", "nccl", "ranks"]


def ranks(plan: Mapping[str, Any], settings: Settings) -> Export:
    """A rank file a job."""
    jobs = assignment(part(plan, "nvlink", "ranks"), settings.job)
    return Export(files={f"{_plain(job)}.rankfile": rank_file(gpus) for job, gpus in jobs.items()})


def cuda(plan: Mapping[str, Any], settings: Settings) -> Export:
    """CUDA_VISIBLE_DEVICES by job and host, local ranks in order."""
    jobs = assignment(part(plan, "nvlink", "cuda"), settings.job)
    found = {job: visible_devices(gpus) for job, gpus in jobs.items()}
    return Export(files={"visible_devices.json": json.dumps(found, indent=2) + "\n"})


def nccl(plan: Mapping[str, Any], settings: Settings) -> Export:
    """NCCL_GRAPH_FILE of each job within one host: a ring in the order of ranks.

    Jobs over several hosts are left out with a note: their rings depend on network cards, which a
    plan does not name.
    """
    fabric = part(plan, "nvlink", "nccl")
    speeds = {row["id"]: float(row["bandwidth_gb_s"]) for row in fabric.get("jobs", ())}
    files, notes = {}, []
    for job, gpus in assignment(fabric, settings.job).items():
        hosts = nodes_of(gpus)
        if len(hosts) > 1 or len(gpus) < 2:
            notes.append(f"{job}: {len(gpus)} GPUs on {len(hosts)} hosts, no graph file")
            continue
        if not speeds.get(job, 0.0) > 0:
            raise InputError("wants a job's bandwidth above 0", field=f"jobs[{job}]")
        ring = next(iter(hosts.values()))
        files[f"{_plain(job)}.graph.xml"] = nccl_graph([ring], speed=speeds[job])
    if not files:
        raise InputError("no job of this plan runs on two or more GPUs of one host")
    return Export(files=files, notes=notes)


def _plain(job: str) -> str:
    """A job's name as a file's."""
    if not job or "/" in job or "\0" in job or job.startswith("."):
        raise InputError(f"'{job:.60}' cannot be a file's name", field="job")
    return job
