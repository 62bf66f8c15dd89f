"""Gibbs sampling of a block at falling temperature (Geman & Geman 1984), classical.

It stands where QAOA's sampler stands and gives bits of the same form; see ``simulator``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.q_routing.blocks import Block, Sampler, quadratic_form
from qcluster.q_routing.config import RoutingConfig
from qcluster.q_routing.tokens import RoutingProblem

__all__ = ["sampler"]

_SWEEPS = 12


def sampler(config: RoutingConfig) -> Sampler:
    """Bits (shots, qubits) of a block, one-hot by construction."""

    def sample(
        problem: RoutingProblem, block: Block, deadline: Deadline, seed: int
    ) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        linear, pairs, _ = quadratic_form(problem, block)
        tokens, width = block.candidates.shape
        rng = np.random.default_rng(seed)
        shots = config.shots
        column = rng.integers(width, size=(shots, tokens))
        if config.hqc:
            column[: shots // 2] = block.current()
        hot = float(np.ptp(linear)) + 1e-12
        sweeps = 0
        for heat in hot * np.geomspace(1.0, 1e-3, _SWEEPS):
            _gibbs(column, linear, pairs, width, heat, rng)
            sweeps += 1
            if deadline.expired:
                break
        bits = np.zeros((shots, tokens, width), dtype=bool)
        np.put_along_axis(bits, column[:, :, None], True, axis=2)
        rows, count = np.unique(bits.reshape(shots, -1), axis=0, return_counts=True)
        ordered = rows[np.argsort(-count, kind="stable")]
        return ordered, {"iterations": sweeps, "qubits": block.qubits, "stopped": "cold"}

    return sample


def _gibbs(
    column: NDArray[np.int64],
    linear: NDArray[np.float64],
    pairs: NDArray[np.float64],
    width: int,
    heat: float,
    rng: np.random.Generator,
) -> None:
    """Draw every token's column anew given the others, all shots at once."""
    shots, tokens = column.shape
    for i in range(tokens):
        energy = np.tile(linear[i * width : (i + 1) * width], (shots, 1))
        for j in range(tokens):
            if j != i:
                energy += pairs[i * width : (i + 1) * width].T[j * width + column[:, j]]
        noise = rng.gumbel(size=energy.shape)
        column[:, i] = (noise - energy / heat).argmax(axis=1)
