"""One row for every quantum path of the product: its gain over its classical twin, equal time.

    python benchmarks/quantum_ledger.py [--quick] [--fresh]

``gain`` is the best classical baseline's objective minus ours, minimised: positive means that the
quantum path won. It is simulated, mostly zero or negative, and shown as it is. A new path (a solver
with ``quantum = True``, a room's ``quantum.py``) needs a row here; a test fails without.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# Before NumPy is imported.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
import numpy as np
from quantum_parts.core_rows import ROWS
from quantum_parts.row import Row, seconds, solver


def routing(layers: int, hqc: bool) -> Row:
    """Tokens to experts by QAOA on blocks."""

    def run(seed: int) -> Any:
        from qcluster.q_routing import RoutingConfig, route

        generator = np.random.default_rng(seed)
        tokens = [
            {"id": i, "complexity": float(generator.uniform(0.5, 2)), "source_gpu": i % 4}
            for i in range(64)
        ]
        graph = {
            "nodes": [{"id": e, "gpu": e % 4} for e in range(8)],
            "edges": [{"source": a, "target": b} for a in range(8) for b in range(a)],
        }
        config = RoutingConfig(qaoa=True, layers=layers, hqc=hqc)
        return route(tokens, graph, config=config, seed=seed)

    kind = "64 tokens, 8 experts" + (", warm start" if hqc else "")
    return Row(f"routing qaoa p={layers}", "qcluster.q_routing", kind, run)


def levelling(tasks: int) -> Row:
    """Peak power by QAOA over windows."""

    def run(seed: int) -> Any:
        from qcluster.q_energy import Task, level_peak

        generator = np.random.default_rng(seed)
        jobs = [
            Task(str(i), int(generator.integers(1, 5)), float(generator.integers(100, 700)),
                 (str(i - 3),) if i > 2 else ())
            for i in range(tasks)
        ]  # fmt: skip
        ends: list[int] = []
        for k, job in enumerate(jobs):
            ends.append(job.duration + (ends[k - 3] if k > 2 else 0))
        return level_peak(jobs, deadline=max(ends) + 3, deadline_s=1.0, qaoa=True, seed=seed)

    return Row("peak qaoa-window", "qcluster.q_energy", f"{tasks} tasks", run, "peak_w")


def colouring(nodes: int) -> Row:
    """Communication groups by QAOA on the vertices in conflict."""

    def run(seed: int) -> Any:
        import networkx as nx

        from qcluster.q_nvlink import color_groups

        graph = nx.gnp_random_graph(nodes, 0.3, seed=seed)
        return color_groups(graph, deadline_s=1.0, seed=seed, qaoa=True)

    return Row("colouring qaoa", "qcluster.q_nvlink", f"G({nodes}, 0.3)", run, "num_colors")


def local_attention(n: int) -> Row:
    """Local attention as a matrix-product operator: seconds of a product with 16 columns."""

    def run(seed: int) -> Any:
        from types import SimpleNamespace

        from qcluster.quantum import mps

        attention = mps.LocalAttention(n, 8.0)
        values = np.random.default_rng(seed).normal(size=(n, 16))
        attention.apply(values[:, :1])  # the import of the filter is not the twin's time
        operator = mps.encode_entries(attention, n, tail=attention.tail, seed=seed)
        ours = seconds(lambda: sum(len(part) for _, part in operator.stream(values)))
        twin = seconds(lambda: attention.apply(values))
        return SimpleNamespace(
            objective=ours,
            baselines={"recursive filter": twin},
            quantum_gain=twin - ours,
            wall_s=ours,
        )

    return Row("mps attention", "qcluster.quantum.mps", f"tau 8, n = {n}, seconds", run)


PATHS: tuple[Row, ...] = (
    *(solver("qaoa", kind, n) for kind in ("dense", "sparse") for n in (8, 12, 16)),
    *(solver("qaoa", kind, 4 * g, g) for kind in ("dense", "sparse") for g in (3, 5, 7)),
    *(solver("recursive_qaoa", kind, n) for kind in ("dense", "sparse") for n in (10, 16)),
    *(
        solver("qaoa_lns", kind, n)
        for kind, n in (("dense", 60), ("sparse", 200), ("sparse", 2000))
    ),
    solver("qaoa_lns", "sparse", 400, 50),
    *(routing(layers, hqc) for layers in (1, 2) for hqc in (False, True)),
    *(levelling(tasks) for tasks in (12, 24)),
    *(colouring(nodes) for nodes in (20, 60)),
    *(local_attention(n) for n in (1024, 65536)),
    *ROWS,
)


def row(path: Row, seed: int) -> dict[str, Any]:
    """Run once. ``gain`` is None with a reason when the quantum stage did not deliver."""
    answer = path.run(seed)
    baselines = dict(answer.baselines)
    twin = min(baselines, key=baselines.__getitem__, default=None)
    return {
        "path": path.name,
        "module": path.module,
        "instance": path.instance,
        "seed": seed,
        "objective": float(getattr(answer, path.objective)),
        "twin": twin,
        "twin_objective": None if twin is None else baselines[twin],
        "gain": answer.quantum_gain,
        "reason": getattr(answer, "reasons", {}).get("quantum_gain"),
        "wall_s": answer.wall_s,
    }


def main() -> None:
    chosen = harness.arguments(__doc__.splitlines()[0])
    rows = []
    for path in PATHS:
        for seed in range(1 if chosen.quick else 3):
            key = {"ledger": path.name, "instance": path.instance, "seed": seed}
            rows.append(
                harness.cached("ledger", key, lambda p=path, s=seed: row(p, s), fresh=chosen.fresh)
            )
    columns = ("path", "instance", "seed", "objective", "twin", "twin_objective", "gain", "wall_s")
    harness.table(
        "quantum paths against their classical twins, equal time",
        columns, [[r[c] for c in columns] for r in rows],
    )  # fmt: skip
    gains = [r["gain"] for r in rows if r["gain"] is not None]
    print(
        f"\nwon {sum(g > 1e-9 for g in gains)}, tied {sum(abs(g) <= 1e-9 for g in gains)}, "
        f"lost {sum(g < -1e-9 for g in gains)} of {len(rows)}"
    )
    harness.save("quantum_ledger", rows)


if __name__ == "__main__":
    main()
