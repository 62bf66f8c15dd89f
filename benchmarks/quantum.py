"""Quantum core: every bar against a named opponent or a physical floor, as ratios from one run.

    python benchmarks/quantum.py [--quick] [--fresh] [--only gradient,gset]

Data come from the folder that QCLUSTER_DATA names. Aer runs as a subprocess of the interpreter that
QCLUSTER_OPPONENTS_QUANTUM names (see benchmarks/opponents/quantum.txt); without it that part is
left out. Everything runs on one thread.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before NumPy is imported.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness
from quantum_parts import accuracy, circuits, engine, gateway, large, noise, tensor

PARTS: dict[str, harness.Part] = {
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


if __name__ == "__main__":
    harness.run_parts(
        "quantum", __doc__, PARTS, ("pennylane", "pennylane-lightning", "dwave-samplers")
    )
