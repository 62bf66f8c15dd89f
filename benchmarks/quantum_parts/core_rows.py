"""Rows of the quantum core beside its plain solvers: variants of QAOA, noise, linear algebra,
kernels and variational circuits, each with what one would do without qubits.
"""

from __future__ import annotations

from quantum_parts.row import Row, solver

__all__ = ["ROWS"]


ROWS: tuple[Row, ...] = (
    *(solver("qaoa_cvar", kind, 12) for kind in ("dense", "sparse")),
    solver("qaoa_cvar", "sparse", 20, 5),
    *(solver("qaoa_fixed", kind, 14) for kind in ("dense", "sparse", "cubic")),
    *(solver("qaoa_warm", kind, 14) for kind in ("dense", "sparse")),
    solver("qaoa_warm", "dense", 20, 5),
    *(solver("qaoa_multi", kind, 10) for kind in ("dense", "sparse")),
    solver("qaoa_multi", "sparse", 12, 3),
)
