"""The token router's quantum path beside what it has to beat, small sizes to enumerable ones."""

from __future__ import annotations

from typing import Any

import harness
import numpy as np

from qcluster.q_routing import RoutingConfig, route
from routing_parts import warmth

SIDES = ("hash", "1-opt", "annealing", "uniform", "prices", "optimum")


def run(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    """Mean objectives over seeds; lower is better. Equal shots for uniform, equal time for all."""
    del fresh
    rows, results = [], []
    for tokens, experts in ((4, 4), (6, 4), (8, 4), (40, 8)):
        for name, config in _configs().items():
            plans = [
                route(*_instance(tokens, experts, seed), config=config, deadline_s=10.0, seed=seed)
                for seed in range(2 if quick else 5)
            ]
            mean = {side: _mean(plans, side) for side in SIDES}
            result = {
                "tokens": tokens,
                "experts": experts,
                "form": name,
                "objective": float(np.mean([p.objective for p in plans])),
                **mean,
                "iterations": float(np.mean([p.params["iterations"] for p in plans])),
                "kept_seed": sum(p.objective >= p.params["energies"][0] - 1e-12 for p in plans),
                "wall_s": float(np.mean([p.wall_s for p in plans])),
                "worse_than_seed": sum(p.objective > p.params["energies"][0] for p in plans),
            }
            results.append(result)
            rows.append((
                f"{tokens} x {experts}", name, result["objective"],
                *("-" if mean[s] is None else mean[s] for s in SIDES), result["iterations"],
                result["wall_s"], result["kept_seed"], result["worse_than_seed"],
            ))  # fmt: skip
    harness.table(
        "Token router: objective (lower is better), and what stands beside it",
        ("size", "solver", "ours", *SIDES, "iterations", "s", "kept seed", "worse"),
        rows,
    )
    return [*results, *warmth.run(_instance, quick)]


def _configs() -> dict[str, RoutingConfig]:
    return {
        "qaoa": RoutingConfig(qaoa=True, deterministic=True),
        "hqc+qaoa": RoutingConfig(qaoa=True, hqc=True, deterministic=True),
        "drop-in": RoutingConfig(qaoa=True, simulator=True, deterministic=True),
    }


def _mean(plans: list[Any], side: str) -> float | None:
    values = [p.baselines[side] for p in plans if side in p.baselines]
    return float(np.mean(values)) if len(values) == len(plans) else None


def _instance(tokens: int, experts: int, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = [
        {
            "id": i,
            "complexity": float(rng.uniform(0.5, 2)),
            "source_gpu": f"g{rng.integers(4)}",
            "group": int(rng.integers(max(2, tokens // 4))),
        }
        for i in range(tokens)
    ]
    nodes = [{"id": f"e{i}", "gpu": f"g{i % 4}"} for i in range(experts)]
    edges = [
        {"source": f"e{i}", "target": f"e{(i + 1) % 4}", "bandwidth_gb_s": (450, 50)[i % 2]}
        for i in range(4)
    ]
    return rows, {"nodes": nodes, "edges": edges}
