"""The routing problem: tokens, experts, and what it costs to put one on the other.

Minimise, over experts e_i of tokens i with at most ``capacity`` tokens an expert,

    balance  * (sum_e L_e^2 / s_e / W^2 - 1)      L_e complexity on e, s_e its share of capacity
  + bytes    * sum_i b_i d(source_i, e_i) / B     d distance over the model graph, 0 to 1
  + together * sum_{i~j} v_ij d(e_i, e_j) / V     tokens that interact, or share a group

Each term is 0 at best and about 1 when bad, and quadratic in the choice, so that the same
objective goes into the price path and into the Ising Hamiltonian. A group of m tokens weighs as
much as m - 1 pairs.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible, InputError
from qcluster.q_routing._route_kernels import objective
from qcluster.q_routing.config import RoutingConfig

__all__ = ["RoutingProblem", "build_problem"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class RoutingProblem:
    """Tokens and experts as arrays.

    ``linear`` (tokens, experts) bytes term of each choice, weight and scale included; ``near``
    (experts, experts) distances; ``group`` (tokens,) index or -1; ``start`` and ``other`` and
    ``value`` the interacting pairs of each token, both ways; ``weights`` of balance and together,
    scales included.
    """

    token_ids: tuple[str, ...]
    expert_ids: tuple[str, ...]
    capacity: Ints
    complexity: Floats
    linear: Floats
    near: Floats
    group: Ints
    group_size: Ints
    start: Ints
    other: Ints
    value: Floats
    balance: float
    together: float
    warnings: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and experts."""
        return len(self.token_ids), len(self.expert_ids)

    @functools.cached_property
    def share(self) -> Floats:
        """(experts,) share of all capacity."""
        return np.asarray(self.capacity / self.capacity.sum(), dtype=np.float64)

    @functools.cached_property
    def arrays(self) -> tuple[Any, ...]:
        """What the kernels take, in their order."""
        safe = np.maximum(self.share, 1e-12)
        return (
            self.complexity, self.linear, self.near, self.group, self.group_size, self.start,
            self.other, self.value, safe, self.balance, self.together,
        )  # fmt: skip

    def cost(self, choice: Ints) -> float:
        """The objective of an assignment (tokens,)."""
        return float(objective(choice, *self.arrays))


def build_problem(
    tokens: Sequence[Mapping[str, Any]], graph: Mapping[str, Any], config: RoutingConfig
) -> RoutingProblem:
    """The problem in token records and a node-link model graph.

    Raises InputError (Infeasible when the capacity is too little and ``overflow`` is "raise").
    """
    if not tokens:
        raise InputError("holds no token", field="tokens")
    ids = [_name(row, row_number) for row_number, row in enumerate(tokens, 1)]
    index = {name: i for i, name in enumerate(ids)}
    if len(index) != len(ids):
        twice = next(i for i, name in enumerate(ids) if name in ids[:i])
        raise InputError(f"'{ids[twice]}' stands twice", field="id", row=twice + 1)
    experts, warnings = _experts(graph), []
    names = [str(node["id"]) for node in experts]
    capacity, spilled = _capacity(experts, len(ids), config.overflow)
    near, source_of, connected = _distances(graph, experts)
    if spilled:
        warnings.append(f"capacities were raised: {spilled} more tokens than capacity")
    if not connected:
        warnings.append("model_graph is disconnected: unreachable experts count as farthest")
    weight = _numbers(tokens, "complexity")
    linear = _linear(tokens, near, source_of, config.bytes_weight)
    group, size = _groups(tokens)
    start, other, value = _pairs(tokens, index)
    pairs = float(value.sum() / 2 + np.maximum(size - 1, 0).sum())
    return RoutingProblem(
        token_ids=tuple(ids),
        expert_ids=tuple(names),
        capacity=capacity,
        complexity=weight,
        linear=linear,
        near=(near + near.T) / 2,
        group=group,
        group_size=size,
        start=start,
        other=other,
        value=value,
        balance=config.balance_weight / max(float(weight.sum()) ** 2, 1e-300),
        together=config.together_weight / pairs if pairs else 0.0,
        warnings=tuple(warnings),
    )


def _name(row: Mapping[str, Any], number: int) -> str:
    value = row.get("id")
    if isinstance(value, bool) or not isinstance(value, (str, numbers.Integral)) or value == "":
        raise InputError(f"wants a name or a number, got {value!r}", field="id", row=number)
    return str(value)


def _experts(graph: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Nodes that are experts: all, but for those whose ``kind`` says otherwise."""
    found = [node for node in graph["nodes"] if node.get("kind", "expert") == "expert"]
    seen: set[str] = set()
    for position, node in enumerate(graph["nodes"]):
        name = _name(node, position + 1)
        if name in seen:
            raise InputError(f"node '{name}' stands twice", field=f"nodes[{position}].id")
        seen.add(name)
    if not found:
        raise InputError("has no expert", field="model_graph")
    return found


def _capacity(experts: Sequence[Mapping[str, Any]], tokens: int, overflow: str) -> tuple[Ints, int]:
    """Tokens that each expert takes, and by how many they had to be raised."""
    even = -(-tokens // len(experts))
    rows = []
    for node in experts:
        value = node.get("capacity", even)
        whole = isinstance(value, numbers.Integral) or (
            isinstance(value, float) and value.is_integer()
        )
        if isinstance(value, bool) or not whole or not 0 <= int(value) < 2**53:
            message = f"wants a whole number of at least 0, got {value!r}"
            raise InputError(message, field=f"expert '{node['id']}'.capacity")
        rows.append(int(value))
    capacity = np.array(rows, dtype=np.int64)
    short = tokens - int(capacity.sum())
    if short <= 0:
        return capacity, 0
    if overflow == "raise":
        raise Infeasible(f"{short} more tokens than the experts can take", field="capacity")
    base = capacity if capacity.sum() else np.ones_like(capacity)
    return np.asarray(-(-base * tokens // int(base.sum())), dtype=np.int64), short


def _distances(
    graph: Mapping[str, Any], experts: Sequence[Mapping[str, Any]]
) -> tuple[Floats, dict[str, int], bool]:
    """(experts, experts) path lengths in seconds a gigabyte, scaled to at most 1; the first expert
    on each GPU; whether all experts reach each other. Experts on one GPU are at distance 0.
    """
    place = {
        str(node["id"]): f"gpu {node['gpu']}" if node.get("gpu") is not None else str(node["id"])
        for node in graph["nodes"]
    }
    vertex = {name: i for i, name in enumerate(dict.fromkeys(place.values()))}
    ends = np.array([vertex[place[str(node["id"])]] for node in experts])
    on_gpu: dict[str, int] = {}
    for i, node in enumerate(experts):
        if node.get("gpu") is not None:
            on_gpu.setdefault(str(node["gpu"]), i)
    if not graph["edges"]:
        return (ends[:, None] != ends[None, :]).astype(np.float64), on_gpu, True
    matrix = _edge_lengths(graph, place, vertex)
    lengths = _shortest(matrix, bool(graph["directed"]), ends)
    finite = np.isfinite(lengths)
    top = float(lengths[finite].max()) or 1.0
    return (
        np.where(finite, lengths / top / (1 if finite.all() else 2), 1.0),
        on_gpu,
        bool(finite.all()),
    )


def _edge_lengths(
    graph: Mapping[str, Any], place: Mapping[str, str], vertex: Mapping[str, int]
) -> dict[tuple[int, int], float]:
    lengths: dict[tuple[int, int], float] = {}
    for position, edge in enumerate(graph["edges"]):
        where = f"edges[{position}]"
        ends = []
        for side in ("source", "target"):
            name = str(edge.get(side))
            if name not in place:
                raise InputError(f"'{name}' is no node", field=f"{where}.{side}")
            ends.append(vertex[place[name]])
        names = ("bandwidth_gb_s", "bandwidth_GBps", "bandwidth")
        value = next((edge[name] for name in names if name in edge), 1.0)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not (math.isfinite(value) and value > 0)
        ):
            message = f"wants a finite number above 0, got {value!r}"
            raise InputError(message, field=f"{where}.bandwidth")
        a, b = ends
        for pair in ((a, b),) if graph["directed"] else ((a, b), (b, a)):
            if a != b:
                lengths[pair] = min(lengths.get(pair, math.inf), 1.0 / value)
    lengths[(-1, -1)] = float(len(vertex))
    return lengths


def _shortest(lengths: dict[tuple[int, int], float], directed: bool, ends: Ints) -> Floats:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import dijkstra

    size = int(lengths.pop((-1, -1)))
    pairs = np.array(list(lengths), dtype=np.int64).reshape(-1, 2)
    values = np.array(list(lengths.values()))
    matrix = coo_matrix((values, (pairs[:, 0], pairs[:, 1])), shape=(size, size)).tocsr()
    unique, inverse = np.unique(ends, return_inverse=True)
    found = dijkstra(matrix, directed=directed, indices=unique)
    return np.asarray(found[inverse][:, ends], dtype=np.float64)


def _numbers(tokens: Sequence[Mapping[str, Any]], name: str) -> Floats:
    out = np.empty(len(tokens))
    for i, row in enumerate(tokens):
        value = row.get(name, 1.0)
        good = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or value < 0:
            message = f"wants a finite number of at least 0, got {value!r}"
            raise InputError(message, field=name, row=i + 1)
        out[i] = float(value)
    return out


def _linear(
    tokens: Sequence[Mapping[str, Any]],
    near: Floats,
    source_of: Mapping[str, int],
    weight: float,
) -> Floats:
    """(tokens, experts) cost of bringing each token's bytes to each expert."""
    size = _numbers(tokens, "bytes")
    out = np.zeros((len(tokens), len(near)))
    known = np.zeros(len(tokens), dtype=bool)
    for i, row in enumerate(tokens):
        source = row.get("source_gpu")
        if source is None:
            continue
        if str(source) not in source_of:
            message = f"no expert stands on GPU {source!r}"
            raise InputError(message, field="source_gpu", row=i + 1)
        out[i] = size[i] * near[source_of[str(source)]]
        known[i] = True
    total = float(size[known].sum())
    return out * (weight / total) if total > 0 else out


def _groups(tokens: Sequence[Mapping[str, Any]]) -> tuple[Ints, Ints]:
    names: dict[str, int] = {}
    group = np.full(len(tokens), -1, dtype=np.int64)
    for i, row in enumerate(tokens):
        value = row.get("group")
        if value is None:
            continue
        if not isinstance(value, (str, int)):
            raise InputError(f"wants a name, got {value!r}", field="group", row=i + 1)
        group[i] = names.setdefault(str(value), len(names))
    return group, np.bincount(group[group >= 0], minlength=len(names)).astype(np.int64)


def _pairs(
    tokens: Sequence[Mapping[str, Any]], index: Mapping[str, int]
) -> tuple[Ints, Ints, Floats]:
    """Interacting pairs in both directions, as compressed rows; each pair once, weight 1."""
    found: set[tuple[int, int]] = set()
    for i, row in enumerate(tokens):
        partners = row.get("interacts") or ()
        if isinstance(partners, (str, int)):
            partners = (partners,)
        for name in partners:
            if str(name) not in index:
                raise InputError(f"no token '{name}'", field="interacts", row=i + 1)
            j = index[str(name)]
            if i != j:
                found |= {(i, j), (j, i)}
    both = np.array(sorted(found), dtype=np.int64).reshape(-1, 2)
    start = np.searchsorted(both[:, 0], np.arange(len(tokens) + 1)).astype(np.int64)
    return start, both[:, 1].copy(), np.ones(len(both))
