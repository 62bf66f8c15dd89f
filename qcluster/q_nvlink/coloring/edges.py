"""Edge colouring: rounds of transfers in which no port does two things at once.

Bipartite graphs get exactly as many colours as the busiest vertex has edges (König, 1916), by
alternating paths; other simple graphs at most one more (Vizing, 1964), by the fans of Misra and
Gries (1992).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from qcluster.errors import InputError
from qcluster.record import Record

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["EdgeColoring", "color_edges", "color_transfers"]

Node = Hashable


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeColoring(Record):
    """``rounds[c]`` are the edges of colour c. No vertex is in two edges of one round.

    ``lower_bound`` is the largest degree; ``proven`` is true when ``num_colors`` equals it.
    """

    rounds: list[list[tuple[Any, Any]]]
    num_colors: int
    lower_bound: int
    bipartite: bool
    proven: bool

    @property
    def color(self) -> dict[tuple[Any, Any], int]:
        """Colour of every edge, as the graph lists it."""
        return {edge: c for c, edges in enumerate(self.rounds) for edge in edges}


def color_edges(graph: nx.Graph[Any]) -> EdgeColoring:
    """Colour the edges of a simple graph; a directed graph's edges run from senders to receivers.

    For a directed graph a vertex may send and receive in one round: it is the bipartite graph of
    its send and receive sides, and gets max(out-degree, in-degree) colours.

    Raises
    ------
    InputError: the argument is no simple graph, or has an edge from a node to itself.
    """
    import networkx as nx

    if not isinstance(graph, nx.Graph) or graph.is_multigraph():
        raise InputError("wants a networkx Graph or DiGraph without parallel edges", field="graph")
    for a, b in graph.edges:
        if a == b:
            raise InputError(f"node '{a}' has an edge to itself", field="graph")
    edges: list[tuple[Any, Any]] = list(graph.edges)
    if graph.is_directed():
        ends: list[tuple[Node, Node]] = [(("out", a), ("in", b)) for a, b in edges]
        bipartite = True
    else:
        ends = list(edges)
        bipartite = nx.is_bipartite(graph)
    table = _Table(ends)
    color = table.konig() if bipartite else table.misra_gries()
    return _result(edges, color, table.degree, bipartite)


def color_transfers(pairs: Sequence[tuple[Node, Node]]) -> tuple[list[int], int]:
    """Colours of (sender, receiver) pairs, all different, and how many: the busiest side's count.

    Two of one colour share neither their sender nor their receiver.
    """
    table = _Table([(("out", a), ("in", b)) for a, b in pairs])
    return table.konig(), table.degree


def _result(
    edges: list[tuple[Any, Any]], color: list[int], degree: int, bipartite: bool
) -> EdgeColoring:
    used = sorted(set(color))
    place = {c: i for i, c in enumerate(used)}
    rounds: list[list[tuple[Any, Any]]] = [[] for _ in used]
    for edge, c in zip(edges, color, strict=True):
        rounds[place[c]].append(edge)
    return EdgeColoring(
        rounds=rounds,
        num_colors=len(used),
        lower_bound=degree,
        bipartite=bipartite,
        proven=len(used) == degree,
    )


class _Table:
    """For each vertex, which neighbour each colour leads to."""

    def __init__(self, ends: list[tuple[Node, Node]]) -> None:
        self.ends = ends
        counts: dict[Node, int] = {}
        for pair in ends:
            for v in pair:
                counts[v] = counts.get(v, 0) + 1
        self.degree = max(counts.values(), default=0)
        self.at: dict[Node, dict[int, Node]] = {v: {} for v in counts}

    def _free(self, v: Node) -> int:
        """The first colour that no edge at ``v`` has."""
        color = 0
        while color in self.at[v]:
            color += 1
        return color

    def _set(self, u: Node, v: Node, color: int) -> None:
        self.at[u][color] = v
        self.at[v][color] = u

    def _of(self, u: Node, v: Node) -> int:
        return next(c for c, w in self.at[u].items() if w == v)

    def _colors(self) -> list[int]:
        index = {(u, v): c for u, row in self.at.items() for c, v in row.items()}
        return [index[u, v] for u, v in self.ends]

    def _flip(self, start: Node, one: int, two: int) -> None:
        """Swap two colours along the path from ``start`` that begins with ``one``."""
        path, here, color = [start], start, one
        while color in self.at[here]:
            here = self.at[here][color]
            path.append(here)
            color = two if color == one else one
        steps = list(pairwise(path))
        for k, (u, v) in enumerate(steps):
            old = one if k % 2 == 0 else two
            del self.at[u][old], self.at[v][old]
        for k, (u, v) in enumerate(steps):
            self._set(u, v, two if k % 2 == 0 else one)

    def konig(self) -> list[int]:
        """Colours of all edges of a bipartite graph, ``degree`` of them."""
        for u, v in self.ends:
            one, two = self._free(u), self._free(v)
            if one != two:
                # Free at u is one, at v two: after the flip from v, one is free at both. In a
                # bipartite graph the path cannot end in u.
                self._flip(v, one, two)
            self._set(u, v, one)
        return self._colors()

    def misra_gries(self) -> list[int]:
        """Colours of all edges of a simple graph, at most ``degree`` + 1."""
        done: dict[Node, list[Node]] = {v: [] for v in self.at}
        for u, v in self.ends:
            self._add(u, v, done)
            done[u].append(v)
            done[v].append(u)
        return self._colors()

    def _add(self, u: Node, v: Node, done: dict[Node, list[Node]]) -> None:
        fan, left = [v], list(done[u])
        grown = True
        while grown:
            grown = False
            for w in left:
                if self._of(u, w) not in self.at[fan[-1]]:
                    fan.append(w)
                    left.remove(w)
                    grown = True
                    break
        one, two = self._free(u), self._free(fan[-1])
        if two in self.at[u]:
            self._flip(u, two, one)
        # The flip may have broken the fan: take the part up to the first vertex where two is free.
        end = 0
        while two in self.at[fan[end]] or not self._is_fan(u, fan[: end + 1]):
            end += 1
        for k in range(end):
            color = self._of(u, fan[k + 1])
            del self.at[u][color], self.at[fan[k + 1]][color]
            self._set(u, fan[k], color)
        self._set(u, fan[end], two)

    def _is_fan(self, u: Node, fan: list[Node]) -> bool:
        return all(self._of(u, fan[k + 1]) not in self.at[fan[k]] for k in range(len(fan) - 1))
