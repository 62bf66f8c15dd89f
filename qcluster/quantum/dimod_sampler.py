"""qcluster's solvers as a dimod ``Sampler``, for code written against D-Wave's interface.

    from qcluster.quantum.dimod_sampler import QClusterSampler
    QClusterSampler().sample(bqm, solver="annealing", num_reads=10)

Importing this module needs dimod (``pip install 'qcluster-ray[dwave]'``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qcluster.errors import InputError, MissingDependency
from qcluster.quantum.convert import from_bqm
from qcluster.quantum.solve import solve

try:
    import dimod
except ImportError:
    raise MissingDependency("dimod", needed_for="the dimod sampler", extra="dwave") from None

__all__ = ["QClusterSampler"]


class QClusterSampler(dimod.Sampler):
    """Each read is one ``solve`` with its own seed; ``info`` carries the certificates."""

    @property
    def properties(self) -> dict[str, Any]:
        """Names of the solvers."""
        from qcluster.quantum.solver import SOLVERS

        return {"solvers": ["auto", *SOLVERS.names()]}

    @property
    def parameters(self) -> dict[str, list[str]]:
        """What ``sample`` takes besides the model."""
        return {"num_reads": [], "seed": [], "solver": ["solvers"], "deadline_s": []}

    def sample(
        self,
        bqm: Any,
        *,
        num_reads: int = 1,
        seed: int = 0,
        solver: str = "auto",
        deadline_s: float = 1.0,
        **unknown: Any,
    ) -> Any:
        """A ``dimod.SampleSet`` of ``num_reads`` answers in the model's own variable type.

        ``info["lower_bound"]`` is proven for the model's energy; ``info["baselines"]`` and
        ``info["quantum_gain"]`` hold one entry a read. Raises InputError as ``solve`` does, and
        for fewer than one read.
        """
        if isinstance(num_reads, bool) or not isinstance(num_reads, int) or num_reads < 1:
            raise InputError(f"wants at least 1, got {num_reads!r}", field="num_reads")
        self.remove_unknown_kwargs(**unknown)
        problem = from_bqm(bqm)
        answers = [
            solve(problem, solver=solver, deadline_s=deadline_s, seed=seed + read)
            for read in range(num_reads)
        ]
        spins = np.array([answer.z for answer in answers], dtype=np.int8)
        spins = spins.reshape(num_reads, problem.n)
        binary = bqm.vartype is dimod.BINARY
        # x = (1 - z) / 2 here as in from_bqm.
        samples = (1 - spins) // 2 if binary else spins
        bounds = [a.lower_bound for a in answers if a.lower_bound is not None]
        info = {
            "lower_bound": max(bounds, default=None),
            "solver": [answer.solver for answer in answers],
            "baselines": [answer.baselines for answer in answers],
            "quantum_gain": [answer.quantum_gain for answer in answers],
        }
        return dimod.SampleSet.from_samples_bqm((samples, list(bqm.variables)), bqm, info=info)
