"""Bytes that cross between NVLink domains: against METIS, KaHIP and swap tabu at equal time."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import DATA, HERE, cached, table

import qcluster.q_nvlink.partition
from nvlink_parts.mapping import own_seconds, source_of
from nvlink_parts.traffic import halo, mixed, scattered, unseen
from qcluster.q_nvlink.partition import _kernels, partition_ranks
from qcluster.q_nvlink.partition._kernels import refine
from qcluster.q_nvlink.partition.reference import crossing

SECONDS = 1.0


def instances(quick: bool) -> dict[str, tuple[Any, list[int]]]:
    found: dict[str, tuple[Any, list[int]]] = {}
    for seed in range(2 if quick else 4):
        found[f"mixed 64 in 8 x 8 #{seed}"] = mixed(64, seed), [8] * 8
        found[f"mixed 144 in 2 x 72 #{seed}"] = mixed(144, 10 + seed), [72] * 2
        found[f"mixed 288 in 4 x 72 #{seed}"] = mixed(288, 20 + seed), [72] * 4
        found[f"mixed 576 in 8 x 72 #{seed}"] = mixed(576, 30 + seed), [72] * 8
        found[f"mixed 576 in 72 x 8 #{seed}"] = mixed(576, 40 + seed), [8] * 72
        found[f"mixed 500 in 8 x 72 #{seed}"] = mixed(500, 50 + seed), [72] * 8
        found[f"scattered 64 in 8 x 8 #{seed}"] = scattered(64, 60 + seed), [8] * 8
        found[f"scattered 576 in 8 x 72 #{seed}"] = scattered(576, 70 + seed), [72] * 8
        found[f"halo 576 in 8 x 72 #{seed}"] = halo(576, 80 + seed), [72] * 8
        found[f"halo 576 in 72 x 8 #{seed}"] = halo(576, 90 + seed), [8] * 72
    for name, capacity in (
        ("sko100a", [25] * 4),
        ("wil50", [10] * 5),
        ("tai60b", [12] * 5),
        ("tai64c", [8] * 8),
        ("esc64a", [16] * 4),
        ("ste36a", [9] * 4),
    ):
        text = (DATA / "nvlink" / "qaplib" / f"{name}.dat").read_text().split()
        n = int(text[0])
        for which in (0, 1):
            flow = np.array(text[1 + which * n * n : 1 + (which + 1) * n * n], dtype=float)
            found[f"{name} {'AB'[which]}"] = flow.reshape(n, n), capacity
    return found


def swap_tabu(weight: Any, capacity: list[int], seconds: float) -> float:
    """Tabu search over swaps from ranks in their order, restarted while time lasts."""
    best, state = float("inf"), np.array([1], dtype=np.uint64)
    began, rng = time.process_time(), np.random.default_rng(0)
    slots = np.repeat(np.arange(len(capacity)), capacity)[: len(weight)]
    order = np.arange(len(weight))
    while best == float("inf") or time.process_time() - began < seconds:
        part = np.empty(len(weight), dtype=np.int64)
        part[order] = slots
        ones = np.ones(len(weight), dtype=np.int64)
        refine(weight, ones, part, np.array(capacity), 500, state)
        best = min(best, crossing(weight, part))
        order = rng.permutation(len(weight))
    return best


def _outside(weight: Any, capacity: list[int], seconds: float) -> dict[str, Any] | None:
    python = os.environ.get("QCLUSTER_OPPONENTS_NVLINK")
    if not python:
        return None
    script = HERE / "opponents" / "partitioners.py"
    problem = {"weight": weight.tolist(), "capacity": capacity, "seconds": seconds}
    answer = subprocess.run(
        [python, str(script)], input=json.dumps(problem), capture_output=True, text=True, check=True
    )
    return dict(json.loads(answer.stdout.strip().splitlines()[-1]))


def bench_partition(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    return _compare(instances(quick), fresh)


def bench_unseen(quick: bool, fresh: bool) -> list[dict[str, Any]]:  # noqa: ARG001
    """Other shapes of traffic and domains, from seeds that nothing was chosen on."""
    return _compare(unseen(int(os.environ.get("QCLUSTER_BENCH_SEED", "7000"))), fresh)


def _compare(cases: dict[str, tuple[Any, list[int]]], fresh: bool) -> list[dict[str, Any]]:
    for n in (6, 120):  # compile
        partition_ranks(np.ones((n, n)), [n // 2] * 2, deadline_s=0.05)
    source = source_of(qcluster.q_nvlink.partition)
    kernels = Path(_kernels.__file__).read_text()
    script = (Path(HERE) / "opponents" / "partitioners.py").read_text()
    rows = []
    for name, (traffic, capacity) in cases.items():
        weight = traffic + traffic.T
        np.fill_diagonal(weight, 0)
        key = [np.round(weight, 6).tolist(), capacity, SECONDS]

        def ours(traffic: Any = traffic, capacity: list[int] = capacity) -> list[float]:
            with own_seconds():
                began = time.process_time()
                found = partition_ranks(traffic, capacity, deadline_s=SECONDS)
                return [found.objective, time.process_time() - began, found.lower_bound]

        def theirs(weight: Any = weight, capacity: list[int] = capacity) -> dict[str, Any] | None:
            return _outside(weight, capacity, SECONDS)

        def tabu(weight: Any = weight, capacity: list[int] = capacity) -> float:
            return swap_tabu(weight, capacity, SECONDS)

        mine, spent, bound = cached("nvlink", ["partition", key, source], ours, fresh=fresh)
        others = None
        if os.environ.get("QCLUSTER_OPPONENTS_NVLINK"):
            others = cached("nvlink", ["outside", key, script], theirs, fresh=fresh)
        row = {"name": name, "ours": mine, "cpu_s": spent, "bound": bound}
        row["tabu"] = cached("nvlink", ["swap-tabu", key, kernels], tabu, fresh=fresh)
        for other in ("metis", "kahip"):
            late = others is None or others[other]["bytes"] is None
            row[other] = float("nan") if late else others[other]["bytes"]
        best = np.nanmin([row["tabu"], row["metis"], row["kahip"]])
        row["over_best"] = mine / best if best else float(mine > 0) + 1.0
        rows.append(row)
    table(
        f"Bytes across domains, {SECONDS} s of CPU each, all within hard capacities",
        ["instance", "ours", "CPU s", "bound", "tabu", "METIS", "KaHIP", "ours / best"],
        [list(r.values()) for r in rows],
    )
    lost = [r["name"] for r in rows if r["over_best"] > 1 + 1e-9]
    print(f"{len(rows)} instances, behind the best of the others on {len(lost)}: {lost}")
    return rows
