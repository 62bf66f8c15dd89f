"""Routing with QAOA: a block of tokens as an Ising problem, sampled from an optimised circuit.

A block is a few tokens times a few candidate experts, at most 16 qubits. z = -1 says "this token
on that expert". The Hamiltonian is the routing objective itself, exactly, plus one-hot and
capacity penalties. Circuits are simulated by ``qcluster.quantum``: no advantage is to be had, and
annealing, uniform sampling and the optimum stand beside every answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.q_routing.blocks import Block, Sampler, quadratic_form, room
from qcluster.q_routing.config import RoutingConfig
from qcluster.q_routing.tokens import RoutingProblem

if TYPE_CHECKING:
    from qcluster.quantum import IsingProblem

__all__ = ["block_ising", "qaoa_sampler"]


def block_ising(problem: RoutingProblem, block: Block) -> IsingProblem:
    """The block as an Ising problem: for one-hot samples within the capacities its energy is the
    routing objective of the whole assignment.
    """
    from qcluster.quantum import IsingProblem

    linear, pairs, constant = quadratic_form(problem, block)
    tokens, width = block.candidates.shape
    token, expert = np.repeat(np.arange(tokens), width), block.candidates.ravel()
    # A broken rule must cost more than any choice can gain.
    penalty = 1.5 * float(np.ptp(linear) + np.abs(pairs).sum(axis=1).max(initial=0.0)) + 1e-9
    free = room(problem, block)[expert]
    same = token[:, None] == token[None, :]
    rivals = (expert[:, None] == expert[None, :]) & (free == 1)[:, None] & ~same
    pairs = pairs + np.where(same, 2 * penalty, 0.0) + np.where(rivals, penalty, 0.0)
    linear = linear - penalty + np.where(free < 1, 2 * penalty, 0.0)
    return IsingProblem.from_qubo(np.diag(linear) + np.triu(pairs, 1), constant + penalty * tokens)


def qaoa_sampler(config: RoutingConfig) -> Sampler:
    """Samples of a QAOA state with angles of shape (2, layers, qubits), optimised by exact
    gradients; with ``hqc`` they start from the block's present choice.
    """

    def sample(
        problem: RoutingProblem, block: Block, deadline: Deadline, seed: int
    ) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        from qcluster.q_routing.angles import optimise, ramp, warm_start
        from qcluster.quantum import QAOASimulator

        ising = block_ising(problem, block)
        simulator = QAOASimulator(ising)
        rng = np.random.default_rng(seed)
        angles = ramp(ising, config.layers)
        if config.hqc:
            bits = np.arange(block.candidates.shape[1]) == block.current()[:, None]
            angles = warm_start(ising, bits.ravel(), angles, config.noise, rng)
        angles, log = optimise(simulator, angles, config, deadline)
        spins = simulator.sample(angles[0], angles[1], shots=config.shots, seed=seed)
        return _by_frequency(spins < 0), {**log, "angles": angles.tolist(), "qubits": ising.n}

    return sample


def _by_frequency(bits: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, count = np.unique(bits, axis=0, return_counts=True)
    return np.asarray(rows[np.argsort(-count, kind="stable")])
