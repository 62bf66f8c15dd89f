"""Makes the learned parts that ship with q_nvlink, from simulated fabrics alone.

python benchmarks/nvlink_parts/weights.py [contention] [routes]
"""

from __future__ import annotations

import sys
from pathlib import Path

import qcluster.q_nvlink
from qcluster.q_nvlink.contention.cases import simulate_history, usual_fabrics
from qcluster.q_nvlink.contention.model import KERNELS, fit_contention
from qcluster.q_nvlink.rl.train import fit_routes

HOME = Path(qcluster.q_nvlink.__file__).parent
ROWS = 700


def contention() -> None:
    history = simulate_history(usual_fabrics(), ROWS, seed=11)
    for kernel in KERNELS:
        model = fit_contention(history, kernel=kernel)
        model.save(HOME / "contention" / "weights" / f"contention-{kernel}.safetensors")
        print(f"contention, {kernel}: {len(model.support)} support vectors of {ROWS} layouts")


def routes() -> None:
    policy = fit_routes(
        generations=80,
        population=16,
        batch=10,
        seed=5,
        report=lambda generation, value: print(f"routes {generation}: {value:.4f}", flush=True),
    )
    policy.save(HOME / "rl" / "weights" / "routes.safetensors")
    print(policy.gains)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["contention", "routes"]
    if "contention" in wanted:
        contention()
    if "routes" in wanted:
        routes()
