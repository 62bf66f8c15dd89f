"""What assignments of ranks share: square matrices in, a proven answer out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.fallback import Certified
from qcluster.plan import SolverRef

__all__ = ["proof_of", "proof_of_nothing", "read_square"]


def read_square(values: ArrayLike, name: str, *, nonnegative: bool = False) -> NDArray[np.float64]:
    """A copy (n, n) of finite numbers. Raises InputError naming the field."""
    try:
        matrix = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("wants a matrix of numbers", field=name) from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"wants shape (n, n), got {matrix.shape}", field=name)
    fits = np.isfinite(matrix) & (matrix >= 0) if nonnegative else np.isfinite(matrix)
    if not fits.all():
        i, j = np.argwhere(~fits)[0].tolist()
        wanted = "finite bytes of at least 0" if nonnegative else "finite numbers"
        raise InputError(f"wants {wanted}, got {matrix[i, j]}", field=f"{name}[{i}][{j}]")
    return matrix


def proof_of(answer: Certified[Any]) -> dict[str, Any]:
    """The fields of a result that its certificate fills; the problem has a bound."""
    proof = answer.certificate
    bound = proof.lower_bound
    assert bound is not None
    return {
        "objective": proof.objective,
        "lower_bound": bound,
        "gap": proof.gap or 0.0,
        "proven": math.isclose(bound, proof.objective, rel_tol=1e-9, abs_tol=1e-9),
        "solver": answer.solver,
        "baselines": proof.baselines,
        "wall_s": answer.wall_s,
    }


def proof_of_nothing(requested: str) -> dict[str, Any]:
    """As ``proof_of`` where there is nothing to assign, which no solver has to be asked."""
    return {
        "objective": 0.0,
        "lower_bound": 0.0,
        "gap": 0.0,
        "proven": True,
        "solver": SolverRef(requested=requested, used="linear"),
    }
