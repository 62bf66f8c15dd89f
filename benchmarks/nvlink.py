"""What q_nvlink gives against what people use: ratios measured in one run.

python benchmarks/nvlink.py [--quick] [--fresh]
"""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import DATA, arguments, cached, save, table

from qcluster.q_nvlink import (
    Fabric,
    color_groups,
    cut_bandwidth,
    load_fabric,
    select_gpus,
)

BEST_COLORS = {
    "myciel3": 4, "myciel4": 5, "myciel5": 6, "queen5_5": 5, "queen6_6": 7, "queen7_7": 7,
    "queen8_8": 9, "queen8_12": 12, "queen10_10": 11, "DSJC125.1": 5, "DSJC125.5": 17,
    "DSJC125.9": 44, "DSJC250.5": 28, "flat300_20_0": 20, "le450_5a": 5, "le450_15b": 15,
    "le450_25a": 25, "school1_nsh": 14, "miles500": 20, "miles1000": 42, "r125.5": 36,
    "r250.1": 8, "DSJR500.1": 12, "1-FullIns_4": 5, "2-Insertions_4": 5, "mug88_1": 4,
    "zeroin.i.2": 30, "games120": 9, "anna": 11, "GEOM60": 6, "R75_1g": 4, "wap05a": 50,
}  # fmt: skip


# ---- GPU choice ----


MIXES = {"2-4 GPUs": [2, 3, 4], "2-5 GPUs": [2, 3, 4, 5], "2-6 GPUs": [2, 3, 4, 5, 6]}


def arrivals(count: int, gpus: int, sizes: list[int], seed: int) -> list[tuple[float, int, float]]:
    """Jobs as (arrival, GPUs, duration): Poisson, sizes alike, offered load 0.8 of the machine."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1.0, count))
    lengths = rng.exponential(0.8 * gpus / float(np.mean(sizes)), count)
    return list(
        zip(times.tolist(), rng.choice(sizes, count).tolist(), lengths.tolist(), strict=True)
    )


def replay(
    fabric: Fabric, jobs: list[tuple[float, int, float]], choose: Callable[..., Any]
) -> dict[str, float]:
    """First come, first served: mean all-gather bandwidth of the jobs, share off NVLink, time."""
    free, running, now = set(fabric.gpus), [], 0.0
    found, off, spent = [], 0, []
    for arrival, k, length in jobs:
        now = max(now, arrival)
        while running and (running[0][0] <= now or k > len(free)):
            end, _, gpus = heapq.heappop(running)
            now = max(now, end)
            free |= set(gpus)
        started = time.thread_time()  # CPU time: other work on the machine must not count
        gpus = choose(fabric, k, free)
        spent.append(time.thread_time() - started)
        bandwidth = cut_bandwidth(fabric, gpus)
        found.append(bandwidth)
        off += bandwidth == 0
        free -= set(gpus)
        heapq.heappush(running, (now + length, len(found), gpus))
    return {
        "jobs": len(found),
        "mean_gb_s": float(np.mean(found)),
        "off_nvlink": off / len(found),
        "p50_ms": 1e3 * float(np.quantile(spent, 0.5)),
        "p99_ms": 1e3 * float(np.quantile(spent, 0.99)),
    }


def ours(fabric: Fabric, k: int, free: set[Any]) -> tuple[Any, ...]:
    return select_gpus(fabric, k, busy=[g for g in fabric.gpus if g not in free]).gpus


def first_fit(fabric: Fabric, k: int, free: set[Any]) -> tuple[Any, ...]:
    return tuple(g for g in fabric.gpus if g in free)[:k]


def random_choice(seed: int) -> Callable[..., tuple[Any, ...]]:
    rng = np.random.default_rng(seed)

    def choose(fabric: Fabric, k: int, free: set[Any]) -> tuple[Any, ...]:
        names = [g for g in fabric.gpus if g in free]
        return tuple(names[i] for i in rng.permutation(len(names))[:k])

    return choose


def bench_choice(quick: bool, fresh: bool) -> list[dict[str, Any]]:  # noqa: ARG001
    fabric = load_fabric(DATA / "nvlink" / "fabrics" / "dgx1_v100.json")
    for k in range(2, 7):  # compile
        select_gpus(fabric, k)
    count, seeds = (1500, 2) if quick else (8000, 3)
    rows = []
    for mix, sizes in MIXES.items():
        for seed in range(seeds):
            jobs = arrivals(count, len(fabric.gpus), sizes, seed)
            mine = replay(fabric, jobs, ours)
            first = replay(fabric, jobs, first_fit)
            other = replay(fabric, jobs, random_choice(seed))
            rows.append(
                {
                    "mix": mix,
                    "seed": seed,
                    "ours": mine,
                    "first_fit": first,
                    "random": other,
                    "ratio": mine["mean_gb_s"] / first["mean_gb_s"],
                }
            )
    table(
        "GPU choice, DGX-1V arrivals: mean all-gather GB/s (nominal), first come first served",
        [
            "jobs of",
            "seed",
            "ours",
            "first-fit",
            "random",
            "ratio",
            "off NVLink",
            "ff off",
            "p99 ms",
        ],
        [
            [
                r["mix"],
                r["seed"],
                r["ours"]["mean_gb_s"],
                r["first_fit"]["mean_gb_s"],
                r["random"]["mean_gb_s"],
                r["ratio"],
                r["ours"]["off_nvlink"],
                r["first_fit"]["off_nvlink"],
                r["ours"]["p99_ms"],
            ]
            for r in rows
        ],
    )
    print(f"mean ratio {statistics.mean(r['ratio'] for r in rows):.3f} (wanted: at least 1.5)")
    return rows


# ---- colouring ----


def read_dimacs(path: Path) -> Any:
    import networkx as nx

    graph: nx.Graph[int] = nx.Graph()
    for line in path.read_text().splitlines():
        parts = line.split()
        if parts[:1] == ["p"]:
            graph.add_nodes_from(range(1, int(parts[2]) + 1))
        elif parts[:1] == ["e"] and parts[1] != parts[2]:
            graph.add_edge(int(parts[1]), int(parts[2]))
    return graph


def bench_colouring(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    import networkx as nx

    rows = []
    for name, best in BEST_COLORS.items():
        path = DATA / "nvlink" / "colouring" / f"{name}.col"
        graph = read_dimacs(path)

        def theirs(graph: Any = graph) -> int:
            return max(nx.greedy_color(graph, strategy="DSATUR").values()) + 1

        opponent = cached("nvlink", ["dsatur", path.read_text()], theirs, fresh=fresh)
        budget = 10.0 if quick else 60.0

        def measure(graph: Any = graph, budget: float = budget) -> dict[str, Any]:
            started = time.perf_counter()
            result = color_groups(graph, deadline_s=budget)
            return {
                "k": result.num_colors,
                "bound": result.lower_bound,
                "proven": result.proven,
                "clique": len(result.clique),
                "seconds": time.perf_counter() - started,
            }

        rows.append({"graph": name, "best": best, "networkx": opponent, **measure()})
    table(
        "Colouring: colours used (best: best known)",
        ["graph", "best", "ours", "bound", "proven", "networkx", "seconds"],
        [
            [r["graph"], r["best"], r["k"], r["bound"], r["proven"], r["networkx"], r["seconds"]]
            for r in rows
        ],
    )
    hit = sum(r["k"] == r["best"] for r in rows)
    print(f"best known k on {hit} of {len(rows)}; networkx on "
          f"{sum(r['networkx'] == r['best'] for r in rows)}")  # fmt: skip
    return rows


PARTS: dict[str, Callable[[bool, bool], Any]] = {
    "gpu_choice": bench_choice,
    "colouring": bench_colouring,
}


def main() -> None:
    options = arguments(__doc__ or "")
    results = {name: part(options.quick, options.fresh) for name, part in PARTS.items()}
    save("nvlink", results, ["networkx", "scipy"])


if __name__ == "__main__":
    main()
