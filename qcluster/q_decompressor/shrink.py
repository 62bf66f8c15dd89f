"""Singular values of a decoded matrix shrunk towards what they were before noise (QSVT).

Gavish and Donoho (2017): under white noise of known size the best shrinker of singular values is a
fixed function. An odd polynomial near it is what a QSVT circuit can apply (Gilyen, Su, Low and
Wiebe, 2019). Only where a few values stand out of the bulk: elsewhere there is nothing to gain,
and the error of a good quantiser is orthogonal to its output already.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from qcluster.codec.container import Entry

__all__ = ["shrink", "shrinker"]

F64 = NDArray[np.float64]

# More of the values than this share above the noise: not low rank.
LOW_RANK = 0.25
LARGEST_SIDE = 1024


def shrinker(values: F64, noise: float, rows: int, columns: int) -> F64:
    """The best estimates (k,) of singular values (k,) under white noise of this deviation."""
    small, large = sorted((rows, columns))
    beta = small / large
    y = values / (noise * np.sqrt(large))
    inside = np.maximum((y**2 - beta - 1) ** 2 - 4 * beta, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.where(y > 1 + np.sqrt(beta), np.sqrt(inside) / y, 0.0)
    return np.asarray(out * noise * np.sqrt(large))


def shrink(values: F64, entry: Entry, degree: int) -> tuple[F64, str]:
    """The matrix after the polynomial, and what was done."""
    noise = _noise(values, entry)
    if len(entry.shape) != 2 or not 4 <= min(entry.shape) <= max(entry.shape) <= LARGEST_SIDE:
        return values, f"nothing: wants a matrix of sides 4 to {LARGEST_SIDE}"
    if entry.dtype.parts > 1 or noise == 0:
        return values, "nothing: the noise is not known"
    left, sizes, right = np.linalg.svd(values.reshape(entry.shape), full_matrices=False)
    wanted = shrinker(sizes, noise, *entry.shape)
    rank = int((wanted > 0).sum())
    if rank == 0 or rank > LOW_RANK * len(sizes):
        return values, f"nothing: {rank} of {len(sizes)} singular values are above the noise"
    series = odd_polynomial(sizes, wanted, degree)
    applied = sizes[0] * chebyshev.chebval(sizes / sizes[0], series)
    out = (left * applied) @ right
    off = float(np.linalg.norm(applied - wanted) / np.linalg.norm(wanted))
    return out.reshape(-1), f"degree {degree}, rank {rank}, {off:.1e} from the exact shrinker"


def odd_polynomial(sizes: F64, wanted: F64, degree: int) -> F64:
    """Chebyshev coefficients, odd, of the least-squares fit to the shrinker at the singular values
    and between; bounded by 1, as a circuit's must be.
    """
    x = np.clip(sizes / sizes[0], 0, 1)
    grid = np.linspace(0, 1, 4 * degree)
    target = np.interp(grid, x[::-1], wanted[::-1] / sizes[0])
    points = np.concatenate([x, grid])
    values = np.concatenate([wanted / sizes[0], target])
    weight = np.concatenate([np.full(len(x), 300.0), np.ones(len(grid))])
    odd = np.arange(1, degree + 1, 2)
    basis = np.cos(odd[None, :] * np.arccos(points)[:, None])
    found = np.linalg.lstsq(basis * weight[:, None], values * weight, rcond=1e-10)[0]
    series = np.zeros(degree + 1)
    series[odd] = found
    largest = float(
        np.abs(chebyshev.chebval(np.cos(np.linspace(0, np.pi, 64 * degree)), series)).max()
    )
    return np.asarray(series / max(1.0, largest))


def _noise(values: F64, entry: Entry) -> float:
    """Deviation of the error, from what the blob promises or from its step."""
    name, parameters = entry.ops[0]
    rms = float(np.sqrt(np.mean(np.square(values))))
    if "rel_l2" in entry.guarantee:
        return rms * float(entry.guarantee["rel_l2"])
    if name in ("uniform", "int8"):
        return float(parameters["step"] / np.sqrt(12))
    if name == "trellis":
        return 0.5 * float(parameters["step"])
    return 0.0
