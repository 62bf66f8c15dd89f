"""What a warm start (HQC) does for QAOA's angles: iterations until equal expected energy.

Both starts work on the same block of the same problem with the same optimiser. The warm one knows
a classical plan, the cold one is a linear schedule.
"""

from __future__ import annotations

from typing import Any

import harness
import numpy as np

from qcluster.deadline import Deadline
from qcluster.q_routing import RoutingConfig, classical
from qcluster.q_routing.angles import optimise, ramp, warm_start
from qcluster.q_routing.blocks import pick_block
from qcluster.q_routing.formats import read_model_graph
from qcluster.q_routing.quantum import block_ising
from qcluster.q_routing.tokens import build_problem
from qcluster.quantum import QAOASimulator


def run(instance: Any, quick: bool) -> list[dict[str, Any]]:
    """``instance(tokens, experts, seed)`` gives token records and a model graph."""
    results, rows = [], []
    for tokens, experts in ((3, 4), (8, 4), (40, 8)):
        found = [_one(*instance(tokens, experts, seed), seed) for seed in range(4 if quick else 12)]
        # Energies in units of the block's spread above its optimum: 0 is the optimum.
        row: dict[str, Any] = {"size": f"{tokens} x {experts}"}
        for name in found[0]:
            values = [f[name] for f in found if f[name] is not None]
            row[name] = float(np.mean(values)) if values else None
        row["warm never there"] = sum(f["warm to cold's end"] is None for f in found)
        row["cold never there"] = sum(f["cold to warm's end"] is None for f in found)
        results.append(row)
        rows.append(tuple("-" if v is None else v for v in row.values()))
    harness.table(
        "Warm and cold start of angles: energies above the block's optimum, iterations (means)",
        tuple(results[0]),
        rows,
    )
    return results


def _one(rows: Any, graph: Any, seed: int) -> dict[str, float | None]:
    config = RoutingConfig(qaoa=True, hqc=True, iterations=150)
    problem = build_problem(rows, read_model_graph(graph), config)
    never = Deadline.never()
    start = classical.descend(problem, classical.by_hash(problem), never, sweeps=3)
    block = pick_block(problem, start, config.qubits, np.random.default_rng(seed))
    ising = block_ising(problem, block)
    simulator = QAOASimulator(ising)
    bits = (np.arange(block.candidates.shape[1]) == block.current()[:, None]).ravel()
    spins = np.array(np.meshgrid(*[[-1, 1]] * ising.n)).reshape(ising.n, -1).T
    energies = np.array([ising.energy(z) for z in spins])
    low, spread = float(energies.min()), float(energies.std())
    cold = ramp(ising, config.layers)
    warm = warm_start(ising, bits, cold, config.noise, np.random.default_rng(seed))
    path = {}
    for name, angles in (("cold", cold), ("warm", warm)):
        begin = float(simulator.value_and_grad(*angles)[0])
        _, log = optimise(simulator, angles, config, never)
        path[name] = (np.array([begin, *log["expected"]]) - low) / spread
    return {
        "classical": (float(ising.energy(np.where(bits, -1, 1))) - low) / spread,
        "cold from": path["cold"][0],
        "cold to": path["cold"].min(),
        "warm from": path["warm"][0],
        "warm to": path["warm"].min(),
        "cold iterations": float(len(path["cold"]) - 1),
        "warm iterations": float(len(path["warm"]) - 1),
        "warm to cold's end": _reached(path["warm"], path["cold"].min()),
        "cold to warm's end": _reached(path["cold"], path["warm"].min()),
    }


def _reached(path: np.ndarray, energy: float) -> float | None:
    at = np.flatnonzero(path <= energy + 1e-9)
    return float(at[0]) if len(at) else None
