"""Rounds: transfers that can run at the same time without sharing a GPU's send or receive side.

Vertices of the conflict graph are transfers (job, source, target); two are neighbours when they
leave the same GPU or reach the same GPU. Colours are rounds, so the number of colours is the length
of the schedule. Beyond ``_MOST_TRANSFERS`` the rounds are left out: such volumes are all-to-all,
which has a schedule of its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from qcluster.deadline import Deadline
from qcluster.q_nvlink.coloring import color_groups
from qcluster.q_nvlink.fabric import NodeId
from qcluster.q_nvlink.problem import Placement, PlacementProblem
from qcluster.record import Record

__all__ = ["Rounds", "Transfer", "plan_rounds"]

_MOST_TRANSFERS = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Transfer(Record):
    """One message of a step."""

    job: str
    source: NodeId
    target: NodeId
    bytes: float


@dataclass(frozen=True)
class Rounds:
    """The rounds with a proven least number, and what the colouring says of itself."""

    rounds: tuple[tuple[Transfer, ...], ...]
    lower_bound: int
    solver: str
    quantum_gain: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def plan_rounds(
    problem: PlacementProblem,
    placement: Placement,
    *,
    qaoa: bool,
    deadline: Deadline,
    seed: int,
) -> Rounds:
    """Colour the transfers of one step. See the module's text."""
    import networkx as nx

    name = [node.id for node in problem.fabric.nodes]
    count = sum(int(np.count_nonzero(problem.demand[job.id] > 0)) for job in problem.jobs)
    if count > _MOST_TRANSFERS:
        text = f"{count} transfers: rounds are left out, ask for an all-to-all schedule"
        return Rounds((), 0, "none", warnings=[text])
    transfers = [
        (job.id, placement[job.id][a], placement[job.id][b], float(problem.demand[job.id][a, b]))
        for job in problem.jobs
        for a, b in np.argwhere(problem.demand[job.id] > 0).tolist()
    ]
    if not transfers:
        return Rounds((), 0, "none")
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(len(transfers)))
    users: dict[Hashable, list[int]] = {}
    for i, (_, a, b, _) in enumerate(transfers):
        for resource in (("out", a), ("in", b)):
            users.setdefault(resource, []).append(i)
    for members in users.values():
        graph.add_edges_from(combinations(members, 2))
    budget = max(0.005, deadline.remaining())
    coloring = color_groups(graph, deadline_s=budget, seed=seed, qaoa=qaoa)
    rounds: list[list[Transfer]] = [[] for _ in range(coloring.num_colors)]
    for i, (job, a, b, volume) in enumerate(transfers):
        rounds[coloring.color[i]].append(
            Transfer(job=job, source=name[a], target=name[b], bytes=volume)
        )
    return Rounds(
        rounds=tuple(tuple(members) for members in rounds),
        lower_bound=coloring.lower_bound,
        solver=coloring.solver.used,
        quantum_gain=coloring.quantum_gain,
        reasons={"quantum_gain": "counts rounds"} if coloring.quantum_gain is not None else {},
    )
