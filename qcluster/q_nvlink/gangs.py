"""Gangs of pods over racks: all or nothing, evenly split, racks kept whole.

A rack (NVLink domain, clique, Slurm block) is a list of nodes with free GPUs. A pod needs all its
GPUs on one node: six free here and two there are not eight. A gang takes the fewest racks that
hold it, as evenly as they allow and in the tightest that do; a ``segment`` stays in one rack whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qcluster.errors import InputError
from qcluster.q_nvlink.fabric import Fabric, FabricNode, NodeId
from qcluster.q_nvlink.islands import even_split, fewest_groups
from qcluster.record import Record

__all__ = ["Gang", "GangPlan", "list_racks", "parse_gangs", "place_gangs"]

Racks = Mapping[str, Mapping[str, int]]
"""Rack to node to free GPUs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Gang(Record):
    """Pods that start together or not at all.

    ``gpus`` is GPUs a pod. ``segment``: pods in runs of that many, each run within one rack.
    ``clique``: all within one rack (NVLink clique, IMEX domain).
    """

    id: str
    pods: int
    gpus: int = 1
    segment: int = 1
    clique: bool = False

    def __post_init__(self) -> None:
        for name in ("pods", "gpus", "segment"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                message = f"wants a count of at least 1, got {value!r}"
                raise InputError(message, field=f"gangs[{self.id}].{name}")
        if self.pods % self.segment:
            message = f"wants a divisor of {self.pods} pods, got {self.segment}"
            raise InputError(message, field=f"gangs[{self.id}].segment")


@dataclass(frozen=True, kw_only=True, eq=False)
class GangPlan(Record):
    """Where pods go.

    ``nodes``: gang to the node of each pod, runs of a segment together. ``racks``: gang to pods by
    rack. ``fewest_racks``: gang to how many racks it needs at least, given what came before it.
    ``unplaced``: gang to why it does not start. ``whole_racks``: racks without any pod of these.
    """

    nodes: dict[str, list[str]] = field(default_factory=dict)
    racks: dict[str, dict[str, int]] = field(default_factory=dict)
    fewest_racks: dict[str, int] = field(default_factory=dict)
    unplaced: dict[str, str] = field(default_factory=dict)
    whole_racks: list[str] = field(default_factory=list)


def host_of(node: FabricNode) -> str:
    """A GPU's host: as said, else what is before the slash of its id, else this machine."""
    return node.host or str(node.id).rpartition("/")[0] or "localhost"


def list_racks(fabric: Fabric, *, busy: Iterable[NodeId] = ()) -> dict[str, dict[str, int]]:
    """Free GPUs by NVLink domain and host of a fabric; hosts without a domain are one each.

    Raises InputError for a busy GPU that does not exist.
    """
    taken = set(busy)
    if unknown := taken - set(fabric.gpus):
        raise InputError(f"there is no GPU '{min(map(str, unknown))}'", field="busy")
    racks: dict[str, dict[str, int]] = {}
    for node in fabric.nodes:
        if node.kind == "gpu":
            host = host_of(node)
            hosts = racks.setdefault(node.domain or host, {})
            hosts[host] = hosts.get(host, 0) + (node.id not in taken)
    return racks


def parse_gangs(rows: Any) -> list[Gang]:
    """Gangs from mappings with ``id``, ``pods`` and, where they differ from 1, the other fields.

    Raises InputError naming row and field.
    """
    if not isinstance(rows, list):
        raise InputError("wants a list of gangs", field="gangs")
    found = []
    for i, row in enumerate(rows):
        place = f"gangs[{i}]"
        if not isinstance(row, Mapping):
            raise InputError("wants a mapping", field=place)
        if unknown := set(map(str, row)) - {"id", "pods", "gpus", "segment", "clique"}:
            raise InputError("a gang has no such field", field=f"{place}.{min(unknown)}")
        name = row.get("id")
        if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
            raise InputError(f"wants a name, got {name!r:.40}", field=f"{place}.id")
        if not isinstance(row.get("clique", False), bool):
            raise InputError("wants true or false", field=f"{place}.clique")
        if "pods" not in row:
            raise InputError("wants a count of at least 1", field=f"{place}.pods")
        found.append(Gang(**{**row, "id": str(name)}))
    return found


def place_gangs(racks: Racks, gangs: Sequence[Gang]) -> GangPlan:
    """Place gangs in the order given; each gets all its pods or none, with the reason.

    Raises InputError for a node in two racks, a free count below 0, and a repeated gang.
    """
    free = _checked(racks)
    plan = GangPlan()
    for gang in gangs:
        if gang.id in plan.racks or gang.id in plan.unplaced:
            raise InputError(f"'{gang.id}' stands twice", field="gangs")
        names = list(free)
        rooms = [sum(count // gang.gpus for count in free[name].values()) for name in names]
        runs, total = [room // gang.segment for room in rooms], gang.pods // gang.segment
        if reason := _reason(gang, free, rooms, runs, total):
            plan.unplaced[gang.id] = reason
            continue
        need = fewest_groups(runs, total)
        counts = even_split(runs, total, need)
        taken = {n: c * gang.segment for n, c in zip(names, counts, strict=True) if c}
        plan.racks[gang.id], plan.fewest_racks[gang.id] = taken, need
        plan.nodes[gang.id] = [
            node for name, pods in taken.items() for node in _fill(free[name], pods, gang.gpus)
        ]
    touched = {name for used in plan.racks.values() for name in used}
    plan.whole_racks.extend(name for name in free if name not in touched)
    return plan


def _checked(racks: Racks) -> dict[str, dict[str, int]]:
    seen: set[str] = set()
    for name, nodes in racks.items():
        for node, count in nodes.items():
            if node in seen:
                raise InputError(f"'{node}' is in two racks", field=f"racks[{name}]")
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                message = f"wants a count of free GPUs, got {count!r}"
                raise InputError(message, field=f"racks[{name}].{node}")
            seen.add(node)
    return {name: dict(nodes) for name, nodes in racks.items()}


def _reason(gang: Gang, free: Racks, rooms: Sequence[int], runs: Sequence[int], total: int) -> str:
    """Why a gang cannot start; empty when it can."""
    gpus = sum(count for nodes in free.values() for count in nodes.values())
    if gpus < gang.pods * gang.gpus:
        return f"needs {gang.pods * gang.gpus} GPUs, {gpus} are free"
    if sum(rooms) < gang.pods:
        return f"needs {gang.pods} times {gang.gpus} GPUs on one node, there are {sum(rooms)}"
    if sum(runs) < total:
        return f"needs {total} runs of {gang.segment} pods in one rack, there are {sum(runs)}"
    if gang.clique and max(runs, default=0) < total:
        return f"needs {gang.pods} pods in one rack, the roomiest holds {max(rooms)}"
    return ""


def _fill(nodes: dict[str, int], pods: int, gpus: int) -> list[str]:
    """Nodes of ``pods`` pods, the tightest that hold them all, else the roomiest; takes them."""
    chosen: list[str] = []
    while len(chosen) < pods:
        rest = pods - len(chosen)
        fits = [node for node, count in nodes.items() if count // gpus >= rest]
        if fits:
            node = min(fits, key=lambda node: nodes[node])
        else:
            node = max(nodes, key=lambda node: nodes[node] // gpus)
        here = min(rest, nodes[node] // gpus)
        nodes[node] -= here * gpus
        chosen += [node] * here
    return chosen
