"""The Ising question as a request: HTTP body, batch item, job."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from qcluster.quantum.formats import problem_from_json
from qcluster.quantum.solve import solve
from qcluster.quantum.solver import Solution
from qcluster.record import Record
from qcluster.request import REQUESTS, Request

__all__ = ["SolveRequest"]


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

    h: list[float]
    """Field of each variable, dimensionless."""
    J: list[list[int | float]] = Field(default_factory=list)
    """Couplings [i, j, value], 0-based; repeated pairs add up."""
    offset: float = 0.0
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
