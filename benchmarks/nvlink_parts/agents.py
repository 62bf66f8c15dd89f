"""Routing agents against the optimum (a linear programme), shortest paths and their like."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from harness import DATA, table

from qcluster.errors import Infeasible
from qcluster.q_nvlink import FlowEnv, load_fabric
from qcluster.q_nvlink.contention.cases import random_layout
from qcluster.q_nvlink.rl import (
    Agents,
    Paths,
    default_policy,
    find_paths,
    least_utilisation,
    route,
)

NETWORKS = tuple(sorted(path.stem for path in (DATA / "nvlink" / "sndlib").glob("*.json")))
# Seeds from here on were never looked at while the agents were made.
FRESH = int(os.environ.get("QCLUSTER_BENCH_SEED", "100"))
FABRICS = ("dgx1_v100", "dgx_a100", "hgx_h100", "pcie_8gpu", "hgx_h100_x4", "gb200_nvl72")
TICKS = 50


def network(name: str) -> tuple[Any, Any, Any]:
    """Capacities, demands and who passes traffic on; both directions have a link's capacity."""
    data = json.loads((DATA / "nvlink" / "sndlib" / f"{name}.json").read_text())
    at = {node["id"]: i for i, node in enumerate(data["nodes"])}
    cap, demand = np.zeros((len(at), len(at))), np.zeros((len(at), len(at)))
    for link in data["links"]:
        most = max((row["module_capacity"] for row in link["modules"]), default=0.0)
        a, b = at[link["source"]], at[link["target"]]
        cap[a, b] += link["pre_installed_capacity"] or most
        cap[b, a] = cap[a, b]
    for row in data["demands"]:
        demand[at[row["source"]], at[row["target"]]] += row["demand_value"]
    return cap, demand, np.ones(len(at), dtype=bool)


def layout(name: str, seed: int) -> tuple[Any, Any, Any]:
    """Random jobs on random GPUs of a real fabric; their GPUs and the switches pass traffic on."""
    fabric = load_fabric(DATA / "nvlink" / "fabrics" / f"{name}.json")
    found = random_layout(fabric, np.random.default_rng(seed))
    assert found is not None
    problem, placement = found
    demand = np.zeros((len(fabric.nodes),) * 2)
    transit = np.zeros(len(fabric.nodes), dtype=bool)
    transit[fabric.transit_index] = True
    for job in problem.jobs:
        gpus = placement[job.id]
        demand[np.ix_(gpus, gpus)] += problem.demand[job.id] / 1e9
        transit[gpus] = True
    try:
        find_paths(fabric.effective, demand, transit=transit, detour=0, most=1)
    except Infeasible:  # jobs whose own GPUs nothing joins go through those of others
        transit[:] = True
    return fabric.effective, demand, transit


def drawn(seed: int) -> tuple[Any, Any, Any]:
    """A random network: a ring with chords, capacities from 1 to 10, a third of pairs talking."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 25))
    cap, ring = np.zeros((n, n)), np.arange(n)
    ends = [*zip(ring, np.roll(ring, -1), strict=True)]
    ends += [
        tuple(rng.choice(n, 2, replace=False)) for _ in range(int(rng.integers(n // 2, 2 * n)))
    ]
    for a, b in ends:
        cap[a, b] = cap[b, a] = float(rng.integers(1, 11))
    demand = rng.exponential(1.0, (n, n)) * (rng.random((n, n)) < 1 / 3)
    np.fill_diagonal(demand, 0)
    return cap, demand, np.ones(n, dtype=bool)


def bench_agents(quick: bool, fresh: bool) -> list[dict[str, Any]]:  # noqa: ARG001
    cases = {name: network(name) for name in NETWORKS}
    for name in FABRICS:
        for seed in (*range(2 if quick else 6), *range(FRESH, FRESH + (2 if quick else 6))):
            cases[f"{name}, jobs {seed}"] = layout(name, seed)
    for seed in range(FRESH, FRESH + (4 if quick else 12)):
        cases[f"random network {seed}"] = drawn(seed)
    rows = []
    for name, (cap, demand, transit) in cases.items():
        paths = find_paths(cap, demand, transit=transit, detour=4, most=96)
        best = least_utilisation(cap, demand, transit=transit)
        found, early = route(paths), route(paths, ticks=TICKS)
        single = float((paths.loads(paths.single()) / paths.capacity).max())
        rows.append(
            {
                "case": name,
                "agents": found.busiest / best,
                "early": early.busiest / best,
                "ecmp": found.shortest / best,
                "single": single / best,
                "weights": _multiplicative(paths) / best,
                "recover": _recovery(paths, cap, demand, transit),
            }
        )
    table(
        "Busiest link over the optimum, as planned and after 50 ticks; ticks to be within 5 % of "
        "the new optimum after losing the busiest spare link",
        [
            "case",
            "agents",
            "50 ticks",
            "ECMP",
            "one path",
            "multiplicative weights",
            "ticks to recover",
        ],
        [list(r.values()) for r in rows],
    )
    worst = max(r["agents"] for r in rows)
    slow = max((r["recover"] for r in rows if r["recover"] is not None), default=0)
    late = sum(r["early"] > 1.05 for r in rows)
    print(f"{len(rows)} cases, after {TICKS} ticks {late} of them above 1.05")
    print(f"worst {worst:.3f} (wanted: 1.05), slowest recovery {slow} ticks (wanted: 50)")
    return rows


def _multiplicative(paths: Paths, rate: float = 0.5) -> float:
    """Multiplicative weights on the links' prices, the textbook's step (Arora et al., 2012)."""
    split, price, best = paths.shortest(), np.ones(len(paths.links)), np.inf
    for _ in range(TICKS):
        use = paths.loads(split) / paths.capacity
        best = min(best, float(use.max()))
        price *= np.exp(rate * use / use.max())
        cost = np.append(price / paths.capacity, 0.0)[paths.steps].sum(axis=1)
        least = np.minimum.reduceat(cost, paths.first)[paths.owner]
        chosen = (cost <= least * (1 + 1e-9)).astype(float)
        chosen /= np.add.reduceat(chosen, paths.first)[paths.owner]
        split = 0.9 * split + 0.1 * chosen
    return best


def _recovery(paths: Paths, cap: Any, demand: Any, transit: Any) -> int | None:
    """Ticks until within 5 % of the optimum without the busiest link that can be spared."""
    agents = Agents(paths, default_policy())
    env = FlowEnv(paths, ticks=10_000)
    seen, _ = env.reset()
    for _ in range(TICKS):
        seen = env.step(agents.act(seen))[0]
    for lost in np.argsort(-seen[0], kind="stable").tolist():
        spare = cap.copy()
        spare[tuple(paths.links[lost])] = 0.0
        env.alive[:] = True
        env.alive[lost] = False
        if (np.add.reduceat(env.open_paths().astype(int), paths.first) > 0).all():
            break
    else:
        return None
    best = least_utilisation(spare, demand, transit=transit) / env.unit
    for tick in range(1, 201):
        seen, _, _, _, info = env.step(agents.act(seen))
        agents.split = info["split"]
        if info["busiest"] <= 1.05 * best:
            return tick
    return 201
