"""Quantum core: every bar against a named opponent or a physical floor, as ratios from one run.

    python benchmarks/quantum.py [--quick] [--fresh] [--only gradient,gset]

Data come from the folder that QCLUSTER_DATA names. Aer runs as a subprocess of the interpreter that
QCLUSTER_OPPONENTS_QUANTUM names (see benchmarks/opponents/quantum.txt); without it that part is
left out. Everything runs on one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before NumPy is imported.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
from quantum_parts import accuracy, circuits, engine, gateway, large, noise, tensor

PARTS: dict[str, Callable[[bool, bool], Any]] = {
    "gradient": engine.gradient,
    "floor": engine.floor,
    "onehot": engine.one_hot,
    "kernel": engine.kernel,
    "vqc": circuits.gradient,
    "accuracy": accuracy.run,
    "noise": noise.run,
    "mps": tensor.run,
    "gateway": gateway.run,
    "gset": large.gset,
    "sparse": large.sparse,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, at most 10 minutes")
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma separated")
    chosen = parser.parse_args()
    for name in chosen.only.split(","):
        results = PARTS[name](chosen.quick, chosen.fresh)
        if results is not None:
            harness.save(
                f"quantum_{name}", results, ("pennylane", "pennylane-lightning", "dwave-samplers")
            )


if __name__ == "__main__":
    main()
