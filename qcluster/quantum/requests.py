"""The questions to the quantum core as requests: HTTP body, batch item, job."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from qcluster.quantum.formats import problem_from_json
from qcluster.quantum.kernels import GramMatrix, gram_matrix
from qcluster.quantum.solve import solve
from qcluster.quantum.solver import Solution
from qcluster.record import Record
from qcluster.request import REQUESTS, Request

__all__ = ["KernelRequest", "SolveRequest"]

# Far below the largest double, so that sums of them stay finite.
Value = Annotated[int | float, Field(ge=-1e100, le=1e100)]


class SolveRequest(Request):
    """Minimise offset + sum h_i z_i + sum J_ij z_i z_j over z in {-1, +1}."""

    kind: ClassVar[str] = "solve"
    path: ClassVar[str] = "/v1/solve"
    summary: ClassVar[str] = "Minimise an Ising problem"
    result: ClassVar[type[Record]] = Solution
    example: ClassVar[dict[str, Any]] = {
        "h": [0.5, 0, -0.5, 0],
        "J": [[0, 1, 1.0], [1, 2, 1.0], [2, 3, -1.0], [0, 3, 0.5]],
        "groups": [[1, 3]],
        "solver": "qaoa",
        "deadline_s": 1.0,
    }

    h: list[Value]
    """Field of each variable, dimensionless."""
    J: list[list[Value]] = Field(default_factory=list)
    """Couplings [i, j, value], 0-based; repeated pairs add up."""
    offset: Value = 0.0
    """Constant part of the energy."""
    groups: list[list[int]] = Field(default_factory=list)
    """Lists of variables of which exactly one is +1."""
    solver: str = "auto"
    """A solver's name, or auto."""

    def run(self) -> Solution:
        """Solve; raises InputError naming the field."""
        problem = problem_from_json(self.model_dump(include={"h", "J", "offset", "groups"}))
        return solve(problem, solver=self.solver, deadline_s=self.deadline_s, seed=self.seed)


REQUESTS.register(SolveRequest.kind, SolveRequest)


class KernelRequest(Request):
    """The fidelity kernel |<phi(x)|phi(y)>|^2 between points."""

    kind: ClassVar[str] = "quantum.kernel"
    path: ClassVar[str] = "/v1/quantum/kernel"
    summary: ClassVar[str] = "Gram matrix of a quantum feature map"
    result: ClassVar[type[Record]] = GramMatrix
    example: ClassVar[dict[str, Any]] = {
        "points": [[0.1, 0.4, -0.2], [0.3, -0.5, 0.9], [1.0, 0.2, 0.0]],
        "feature_map": "iqp",
        "repeats": 2,
    }

    points: list[list[float]] = Field(min_length=1, max_length=4096)
    """Rows of features in radians, one qubit a feature."""
    others: list[list[float]] | None = Field(default=None, max_length=4096)
    """Points to compare with; the points themselves when left out."""
    feature_map: Literal["iqp", "angle"] = "iqp"
    """Which circuit encodes a point."""
    repeats: Annotated[int, Field(ge=1, le=16)] = 1
    """How often the circuit is repeated."""
    engine: Literal["builtin", "pennylane"] = "builtin"
    """Who simulates the circuits; the result is the same."""

    def run(self) -> GramMatrix:
        """Compute; raises InputError naming the field."""
        return gram_matrix(
            self.points,
            self.others,
            feature_map=self.feature_map,
            repeats=self.repeats,
            engine=self.engine,
        )


REQUESTS.register(KernelRequest.kind, KernelRequest)
