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


def hard(rng: np.random.Generator, domains: int, gpus: int) -> Any:
    """Traffic of the kinds that a search for bad cases found to be bad."""
    n, kind = domains * gpus, rng.integers(7)
    of = np.arange(n) // gpus
    flat = rng.integers(1, 10**8, (n, n)).astype(float)
    if kind == 0:
        flat = 1e6 * np.exp(rng.uniform(0.5, 5) * rng.normal(size=(n, n)))
    elif kind == 1:
        flat *= rng.random((n, n)) < rng.uniform(1 / n, 0.3)
    elif kind == 2:
        several = int(rng.integers(1, 6))
        flat = np.zeros((n, n))
        flat[rng.integers(n, size=several), rng.integers(n, size=several)] = 10.0**8
        flat *= rng.uniform(0.1, 10, (n, n))
    elif kind == 3:
        shift = int(rng.integers(1, domains))
        flat *= np.where((of[:, None] + shift) % domains == of[None, :], 1, 0.01)
        flat[:, rng.integers(n)] *= rng.uniform(1, 20)
    elif kind == 4:
        flat = 1e6 * np.outer(rng.pareto(1, n), rng.pareto(1, n))
    elif kind == 5:
        near = np.where(of[:, None] == of[None, :], rng.uniform(1, 40), 1.0)
        flat = 1e6 * rng.pareto(1.05, (n, n)) * near
    else:
        flat *= rng.uniform(0, 1, (n, 1)) ** 4 * rng.uniform(0, 1, (1, n)) ** 4
    return check_traffic(np.floor(np.minimum(flat, 1e12)))


def bench_hard(quick: bool, fresh: bool) -> list[dict[str, Any]]:  # noqa: ARG001
    rows = []
    for domains, gpus in ((2, 2), (2, 4), (2, 8), (3, 3), (3, 4), (4, 8), (8, 8), (32, 8)):
        fabric, rng = pod(domains, gpus), np.random.default_rng([domains, gpus, 5])
        ratios, times = [], []
        for _ in range(20 if domains * gpus > 64 else 60 if quick else 300):
            volume = hard(rng, domains, gpus)
            started = time.thread_time()
            timed = schedule_tiers(volume, fabric)
            times.append(1e3 * (time.thread_time() - started))
            verify_timed(volume, fabric, timed)
            if timed.lower_bound_s > 0:
                ratios.append(timed.makespan_s / timed.lower_bound_s)
        rows.append(
            {
                "fabric": f"{domains} x {gpus}",
                "matrices": len(ratios),
                "mean": statistics.mean(ratios),
                "worst": max(ratios),
                "above_1.02": sum(r > 1.02 for r in ratios),
                "median_ms": statistics.median(times),
                "p90_ms": statistics.quantiles(times, n=10)[-1],
            }
        )
    table(
        "All-to-all, two tiers, traffic made to be hard: makespan / bound",
        ["fabric", "matrices", "mean", "worst", "above 1.02", "median ms", "p90 ms (CPU)"],
        [list(r.values()) for r in rows],
    )
    return rows
