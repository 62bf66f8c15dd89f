"""All-to-all: makespan over its bound, on one tier and on two."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from harness import DATA, table

from qcluster.q_nvlink import Fabric, load_fabric, parse_node_link
from qcluster.q_nvlink.alltoall.birkhoff import (
    check_traffic,
    matchings,
    port_bound,
    verify_matchings,
)
from qcluster.q_nvlink.alltoall.schedule import spread_out
from qcluster.q_nvlink.alltoall.tiers import schedule_tiers
from qcluster.q_nvlink.alltoall.verify import verify_timed


def traffic(kind: str, n: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    if kind == "uniform":
        return np.full((n, n), 10**6)
    if kind == "random":
        return rng.integers(0, 10**7, (n, n))
    if kind.startswith("zipf"):
        power = float(kind.split()[1])
        return (1e9 * rng.random((n, n)) / (1.0 + rng.permutation(n)) ** power).astype(np.int64)
    return (1e6 * rng.pareto(1.2, (n, n))).astype(np.int64)


KINDS = ["uniform", "random", "zipf 0.6", "zipf 1.0", "pareto"]


def pod(domains: int, gpus: int = 8) -> Fabric:
    """Servers of GPUs on an NVSwitch (450 GB/s a GPU) with a 50 GB/s NIC a GPU."""
    names = [(s, g) for s in range(domains) for g in range(gpus)]
    nodes = [{"id": f"h{s}g{g}", "kind": "gpu", "host": f"h{s}"} for s, g in names]
    nodes += [{"id": f"nvswitch{s}"} for s in range(domains)] + [{"id": "spine"}]
    edges: list[dict[str, Any]] = []
    for s, g in names:
        edges.append({"source": f"h{s}g{g}", "target": f"nvswitch{s}", "bandwidth": 450.0})
        edges.append({"source": f"h{s}g{g}", "target": "spine", "bandwidth": 50.0, "type": "ib"})
    return parse_node_link({"nodes": nodes, "edges": edges})


def bench_one_tier(quick: bool, fresh: bool) -> list[dict[str, Any]]:  # noqa: ARG001
    rows = []
    for n in (8, 32, 72):
        for kind in KINDS:
            volume = check_traffic(traffic(kind, n, 0))
            found = matchings(volume)
            verify_matchings(volume, found)
            times = []
            for _ in range(9 if quick else 25):
                started = time.thread_time()
                matchings(volume)
                times.append(time.thread_time() - started)
            rows.append(
                {
                    "ports": n,
                    "traffic": kind,
                    "ratio": found.length / port_bound(volume),
                    "barrier": spread_out(volume) / port_bound(volume),
                    "rounds": len(found.duration),
                    "few": len(matchings(volume, few=True).duration),
                    "ms": 1e3 * statistics.median(times),
                }
            )
    table(
        "All-to-all, one tier: makespan / bound (ours exact by integers; barrier: n - 1 shifts)",
        ["ports", "traffic", "ours", "barrier", "rounds", "few rounds", "ms to schedule (CPU)"],
        [list(r.values()) for r in rows],
    )
    return rows


def bench_two_tiers(quick: bool, fresh: bool) -> list[dict[str, Any]]:  # noqa: ARG001
    fabrics = {
        "hgx_h100_x4": load_fabric(DATA / "nvlink" / "fabrics" / "hgx_h100_x4.json"),
        "8 servers x 8": pod(8),
    }
    if not quick:
        fabrics["32 servers x 8"] = pod(32)
    rows = []
    for name, fabric in fabrics.items():
        for kind in KINDS:
            for seed in range(1 if quick else 3):
                volume = check_traffic(traffic(kind, len(fabric.gpus), seed))
                schedule_tiers(volume, fabric)
                started = time.thread_time()
                timed = schedule_tiers(volume, fabric)
                spent = time.thread_time() - started
                verify_timed(volume, fabric, timed)
                rows.append(
                    {
                        "fabric": name,
                        "traffic": kind,
                        "seed": seed,
                        "ratio": timed.makespan_s / timed.lower_bound_s,
                        "direct": timed.baselines["direct"] / timed.lower_bound_s,
                        "ms": 1e3 * spent,
                    }
                )
    table(
        "All-to-all, two tiers: makespan / bound with all hand-overs (direct: own NIC only)",
        ["fabric", "traffic", "seed", "ours", "direct", "ms to schedule (CPU)"],
        [list(r.values()) for r in rows],
    )
    return rows
