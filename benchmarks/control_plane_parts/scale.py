"""1,000 nodes of 8 GPUs, 8 metrics each at 1 Hz, pushed as columns: ingested and planned in time.

A second of telemetry is what 1,000 nodes push, a JSON document of columns each, or what one
aggregator pushes for all of them. It goes the way of ``POST /v1/telemetry``: strictly parsed, into
the hub's ring, out as a snapshot. The planners then plan on it with the plan before in hand: expert
placement and power as the live planners do, and all jobs as gangs over NVLink domains. The dense
fabric planner is measured on as many nodes as it is meant for, and is not part of the sum.

CPU seconds of this process, numba compiled before; each planner has a process of its own in a
running server, so the second holds when no single way from sample to plan takes longer, and the two
cores when all of them together take no more than two seconds.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import table

from actors.hub import TelemetryHub
from qcluster.deadline import Deadline
from qcluster.q_energy.planner import EnergyPlanner
from qcluster.q_nvlink import Gang
from qcluster.q_nvlink.packing import pack_gangs
from qcluster.q_routing.planner import RoutingPlanner
from qcluster.telemetry import Job, Snapshot, Topology
from qcluster.telemetry.sources.push import parse_samples
from qcluster.telemetry.sources.simulate.racks import rack

NODES, PER_NODE = 1000, 8
METRICS = {
    "power_w": (250.0, 690.0), "utilization": (0.2, 1.0), "temperature_c": (35.0, 75.0),
    "sm_clock_mhz": (1200.0, 1980.0), "memory_used_bytes": (1e10, 7e10), "up": (1.0, 1.0),
    "power_limit_w": (700.0, 700.0), "nvlink_tx_gb_s": (0.0, 400.0),
}  # fmt: skip


def document(ids: list[str], ts_s: float, rng: np.random.Generator) -> dict[str, Any]:
    columns = {
        name: np.round(rng.uniform(low, high, len(ids)), 1).tolist()
        for name, (low, high) in METRICS.items()
    }
    return {"ts_s": ts_s, "entity": "gpu", "ids": ids, "columns": columns}


def second(topology: Topology, ts_s: float, rng: np.random.Generator, each: bool) -> list[bytes]:
    """The bodies that are pushed in a second."""
    groups = [list(node.gpu_ids) for node in topology.nodes]
    if not each:
        groups = [[gpu for group in groups for gpu in group]]
    return [json.dumps(document(ids, ts_s, rng)).encode() for ids in groups]


def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def ingest(hub: TelemetryHub, bodies: list[bytes]) -> tuple[float, float]:
    """CPU seconds of parsing and of the hub."""
    parse_s = take_s = 0.0
    for body in bodies:
        more, batches = cpu(lambda body=body: parse_samples(body))
        parse_s += more
        take_s += cpu(lambda batches=batches: hub.push(batches))[0]
    return parse_s, take_s


def gang_plan(snapshot: Snapshot) -> Any:
    """All jobs over the domains with what is alive."""
    racks: dict[str, dict[str, int]] = {}
    alive = iter(snapshot.alive.tolist())
    for node in snapshot.topology.nodes:
        free = sum(next(alive) for _ in range(node.gpus))
        racks.setdefault(node.domain or node.id, {})[node.id] = free
    gangs = [Gang(id=job.id, pods=job.gpus) for job in snapshot.jobs]
    return pack_gangs(racks, gangs, deadline=Deadline.after(0.5))


def jobs(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Jobs that fill nine tenths of the cluster, of one GPU up to a quarter of it."""
    sizes, left = [2000, 1024, 512], NODES * PER_NODE * 9 // 10 - 3536
    while left > 0:
        sizes.append(min(left, int(rng.choice([1, 2, 4, 8, 8, 16, 32, 64]))))
        left -= sizes[-1]
    return [Job(id=f"job{i}", gpus=size).to_dict() for i, size in enumerate(sizes)]


def describe(hub: TelemetryHub, rng: np.random.Generator) -> Topology:
    topology = Topology(nodes=rack("dgx-h100", NODES).topology.nodes)
    profiles = [{"id": row["id"], "gpus": row["gpus"]} for row in jobs(rng)]
    hub.push(parse_samples({"topology": topology.to_dict()}))
    hub.push(parse_samples({"jobs": profiles}))
    return topology


def measure(each: bool, repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(5)
    hub = TelemetryHub(())
    topology = describe(hub, rng)
    planners = {"energy": EnergyPlanner({}), "routing": RoutingPlanner({"num_slots": 16_000})}
    before: dict[str, Any] = dict.fromkeys(planners)
    for planner in planners.values():
        planner.warm_up()
    rows: list[dict[str, float]] = []
    popular = rng.zipf(1.3, (16, 256)).clip(max=200).astype(float)
    for tick in range(repeats + 2):
        ts_s = time.time()
        load = rng.poisson(popular * 1000).tolist()
        hub.push(parse_samples({"ts_s": ts_s, "expert_load": load}))
        row = dict(
            zip(("parse", "hub"), ingest(hub, second(topology, ts_s, rng, each)), strict=True)
        )
        row["snapshot"], snapshot = cpu(hub.latest)
        assert snapshot is not None
        for name, planner in planners.items():
            row[name], plan = cpu(
                lambda planner=planner, name=name, snapshot=snapshot: planner.plan(
                    snapshot, before[name], {}, deadline=Deadline.after(0.6)
                )
            )
            row[f"{name} verified"] = cpu(
                lambda planner=planner, plan=plan, snapshot=snapshot: planner.verify(plan, snapshot)
            )[0]
            before[name] = plan
        row["gangs"], _ = cpu(lambda snapshot=snapshot: gang_plan(snapshot))
        if tick >= 2:  # the first two describe the cluster and fill caches
            rows.append(row)
    found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    way_in = found["parse"] + found["hub"] + found["snapshot"]
    ways = [found[name] + found[f"{name} verified"] for name in planners] + [found["gangs"]]
    return {**found, "longest way": way_in + max(ways), "all together": way_in + sum(ways)}


def bench_scale(quick: bool) -> Any:
    """See the module's text."""
    repeats = 5 if quick else 15
    found = {
        "1,000 nodes push": measure(True, repeats),
        "one aggregator pushes": measure(False, repeats),
    }
    names = list(next(iter(found.values())))
    table(
        f"{NODES * PER_NODE} GPUs, {len(METRICS)} metrics each: CPU ms for a second of telemetry"
        f" (bars: longest way 1000, all together 2000; load {os.getloadavg()[0]:.1f})",
        ("what", *found),
        [(name, *(1e3 * row[name] for row in found.values())) for name in names],
    )
    return found
