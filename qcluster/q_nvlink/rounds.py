"""Rounds: transfers that can run at the same time without sharing a GPU's send or receive side.

Vertices of the conflict graph are transfers (job, source, target); two are neighbours when they
leave the same GPU or reach the same GPU, and, where agents chose the routes, when they meet on one
of the busiest links. Colours are rounds, so the number of colours is the length of the schedule.
Ports alone are edge colouring of a bipartite graph, which is exact (König, 1916); vertex colouring
is for the crowded links, and for QAOA. Beyond ``_MOST_TRANSFERS`` the rounds are left out: such
volumes are all-to-all, which has a schedule of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from qcluster.deadline import Deadline
from qcluster.plan import SolverRef
from qcluster.q_nvlink.coloring import Coloring, color_groups
from qcluster.q_nvlink.coloring.edges import color_transfers
from qcluster.q_nvlink.fabric import NodeId
from qcluster.q_nvlink.problem import Placement, PlacementProblem
from qcluster.record import Record

__all__ = ["Rounds", "Transfer", "plan_rounds"]

_MOST_TRANSFERS = 1024
_CROWDED = 0.9  # of the busiest link's time: links whose users are kept apart
_NOTABLE = 0.05  # of a link's time, below which a transfer does not crowd it


@dataclass(frozen=True, kw_only=True, eq=False)
class Transfer(Record):
    """One message of a step."""

    job: str
    source: NodeId
    target: NodeId
    bytes: float


@dataclass(frozen=True)
class Rounds:
    """The rounds with a proven least number, and what the colouring says of itself.

    ``seconds`` is how long they take one after the other, each as long as its busiest link.
    ``reweighted``: links that the routes crowd were kept apart as well, and that took less time.
    """

    rounds: tuple[tuple[Transfer, ...], ...]
    lower_bound: int
    solver: str
    seconds: float = 0.0
    reweighted: bool = False
    quantum_gain: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


Shares = Mapping[tuple[str, int, int], Sequence[tuple[list[int], float]]]


def plan_rounds(
    problem: PlacementProblem,
    placement: Placement,
    *,
    qaoa: bool,
    deadline: Deadline,
    seed: int,
    shares: Shares | None = None,
) -> Rounds:
    """Colour the transfers of one step. See the module's text.

    ``shares``: paths that pairs take instead of their shortest ones. Then transfers that meet on
    one of the busiest links conflict as well; of both colourings the faster one is taken.
    """
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
    users: dict[Hashable, list[int]] = {}
    for i, (_, a, b, _) in enumerate(transfers):
        for resource in (("out", a), ("in", b)):
            users.setdefault(resource, []).append(i)
    use = _link_seconds(problem, transfers, shares) if shares else None
    if qaoa:
        ports = _colored(len(transfers), users.values(), deadline.share(0.5), seed, qaoa)
    else:
        ports = _by_konig(transfers)
    best, seconds, reweighted = ports, _length(ports, use), False
    if use is not None and (crowds := _crowds(use)):
        apart = _colored(len(transfers), [*users.values(), *crowds], deadline, seed, qaoa)
        if _length(apart, use) < seconds * (1 - 1e-9):
            best, seconds, reweighted = apart, _length(apart, use), True
    name = [node.id for node in problem.fabric.nodes]
    rounds: list[list[Transfer]] = [[] for _ in range(best.num_colors)]
    for i, (job, a, b, volume) in enumerate(transfers):
        rounds[best.color[i]].append(
            Transfer(job=job, source=name[a], target=name[b], bytes=volume)
        )
    return Rounds(
        rounds=tuple(tuple(members) for members in rounds),
        lower_bound=ports.lower_bound,
        solver=best.solver.used,
        seconds=seconds,
        reweighted=reweighted,
        quantum_gain=best.quantum_gain,
        reasons={"quantum_gain": "counts rounds"} if best.quantum_gain is not None else {},
    )


def _by_konig(transfers: Sequence[tuple[str, int, int, float]]) -> Coloring:
    """Ports alone make a bipartite graph, whose edges take as few rounds as can be at once."""
    color, count = color_transfers([(a, b) for _, a, b, _ in transfers])
    return Coloring(
        color=dict(enumerate(color)),
        num_colors=count,
        lower_bound=count,
        proven=True,
        clique=[],
        proof="busiest port",
        solver=SolverRef(requested="konig", used="konig"),
    )


def _colored(
    count: int, cliques: Iterable[Sequence[int]], deadline: Deadline, seed: int, qaoa: bool
) -> Coloring:
    import networkx as nx

    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(count))
    for members in cliques:
        graph.add_edges_from(combinations(members, 2))
    budget = max(0.005, deadline.remaining())
    return color_groups(graph, deadline_s=budget, seed=seed, qaoa=qaoa)


def _link_seconds(
    problem: PlacementProblem, transfers: Sequence[tuple[str, int, int, float]], shares: Shares
) -> NDArray[np.float64]:
    """(transfers, links) seconds that each keeps every link busy; links nobody uses left out."""
    cap = problem.fabric.effective
    number: dict[tuple[int, int], int] = {}
    rows: list[dict[int, float]] = []
    for job, a, b, volume in transfers:
        row: dict[int, float] = {}
        for way, part in shares.get((job, a, b), ()):
            for hop in pairwise(way):
                at = number.setdefault(hop, len(number))
                row[at] = row.get(at, 0.0) + volume * part / (float(cap[hop]) * 1e9)
        rows.append(row)
    found = np.zeros((len(rows), len(number)))
    for i, row in enumerate(rows):
        found[i, list(row)] = list(row.values())
    return found


def _crowds(use: NDArray[np.float64]) -> list[list[int]]:
    """Transfers that meet on each of the busiest links, by what they keep it busy."""
    total = use.sum(axis=0)
    found = []
    for e in np.flatnonzero(total >= _CROWDED * total.max(initial=0.0)):
        members = np.flatnonzero(use[:, e] > _NOTABLE * total[e]).tolist()
        if len(members) > 1:
            found.append(members)
    return found


def _length(coloring: Coloring, use: NDArray[np.float64] | None) -> float:
    """Seconds of all rounds, each as long as its busiest link; 0 when routes are not known."""
    if use is None:
        return 0.0
    rounds = np.zeros((coloring.num_colors, use.shape[1]))
    np.add.at(rounds, [coloring.color[i] for i in range(len(use))], use)
    return float(rounds.max(axis=1, initial=0.0).sum())
