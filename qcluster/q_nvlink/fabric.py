"""The fabric: GPUs, switches and the links between them, as one immutable directed graph.

Nominal bandwidth (the line rate on the data sheet) and effective bandwidth (what a collective gets
out of it) are kept apart on every link. A switched fabric is a star around each switch, never a
clique: a GPU that shows NV18 to seven peers has 18 links, not 126. Knows no file format.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError, InputError
from qcluster.record import Record

if TYPE_CHECKING:
    import networkx as nx

    from qcluster.telemetry import Link, Snapshot, Topology

__all__ = ["Fabric", "FabricLink", "FabricNode", "NodeId", "effective_factor"]

NodeId = str | int

FAST_KINDS = frozenset({"nvlink", "xgmi"})
"""Link kinds that GPUs drive themselves; a group joined by these does not use slower ones."""

# Share of the line rate that collectives reach. NVLink: NCCL's per-link constants 20.0, 20.6 and
# 40.1 GB/s against 25, 25 and 50 nominal (NVIDIA/nccl, src/graph/topo.h). InfiniBand NDR: 48.5 of
# 50 GB/s measured. PCIe: about 24 of 32 GB/s for Gen 4 x16.
_EFFECTIVE = {"nvlink": 0.80, "xgmi": 0.75, "ib": 0.97, "infiniband": 0.97, "pcie": 0.75}
_EFFECTIVE_NVLINK4 = 0.824
_NVLINK4_LINKS = 18


def effective_factor(kind: str, *, nvlink4: bool = False) -> float:
    """Effective over nominal bandwidth of a kind of link; unknown kinds count as PCIe."""
    if kind == "nvlink" and nvlink4:
        return _EFFECTIVE_NVLINK4
    return _EFFECTIVE.get(kind, _EFFECTIVE["pcie"])


@dataclass(frozen=True, kw_only=True, eq=False)
class FabricNode(Record):
    """A GPU or a switch. ``kind``: gpu, nvswitch, ibswitch, pcie, cpu, nic or switch.

    ``host`` is the machine it sits in, ``domain`` its NVLink domain; empty when unknown.
    """

    id: NodeId
    kind: str = "gpu"
    host: str = ""
    domain: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class FabricLink(Record):
    """One direction of a connection, all its lanes together.

    ``bandwidth_gb_s`` nominal and ``effective_gb_s`` are gigabytes per second in this direction;
    ``links`` is how many physical links it bundles, 0 when that has no meaning.
    """

    source: NodeId
    target: NodeId
    bandwidth_gb_s: float
    effective_gb_s: float
    links: int = 1
    kind: str = "nvlink"
    latency_us: float = 0.0

    @property
    def id(self) -> str:
        """``source->target``."""
        return f"{self.source}->{self.target}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Fabric(Record):
    """Nodes and directed links, at most one link from any node to any other.

    ``notes`` are remarks of the reader, such as links that are down.
    """

    nodes: tuple[FabricNode, ...]
    links: tuple[FabricLink, ...]
    name: str = ""
    notes: tuple[str, ...] = field(default_factory=tuple)

    @classmethod
    def build(
        cls,
        nodes: Iterable[FabricNode],
        links: Iterable[FabricLink],
        *,
        name: str = "",
        notes: Iterable[str] = (),
    ) -> Fabric:
        """A fabric in which parallel links are added up and every name is checked.

        ``effective_gb_s`` of 0 is filled in from the link's kind. NVLink 4 (18 links of 25 GB/s a
        GPU) is recognised, as it reaches a little more than the other generations.

        Raises InputError for duplicate nodes, unknown ends, self-loops and bandwidths that are
        not finite and above 0, and when there is no GPU.
        """
        nodes = tuple(nodes)
        seen: set[NodeId] = set()
        for node in nodes:
            if node.id in seen:
                raise InputError(f"'{node.id}' stands twice", field="nodes")
            seen.add(node.id)
        if not any(node.kind == "gpu" for node in nodes):
            raise InputError("there is no GPU", field="nodes")
        merged = _merge(links, seen)
        return cls(nodes=nodes, links=_fill_effective(nodes, merged), name=name, notes=tuple(notes))

    @functools.cached_property
    def gpus(self) -> tuple[NodeId, ...]:
        """Ids of the GPUs, in the order of the file."""
        return tuple(node.id for node in self.nodes if node.kind == "gpu")

    @functools.cached_property
    def index(self) -> dict[NodeId, int]:
        """Node id to position in ``nodes``."""
        return {node.id: i for i, node in enumerate(self.nodes)}

    @functools.cached_property
    def graph(self) -> nx.DiGraph[Any]:
        """The fabric as a ``networkx.DiGraph``.

        Nodes carry kind, host and domain. Edges carry ``bandwidth_gb_s`` (also as ``bandwidth``,
        the name in node-link files), ``effective_gb_s``, ``links``, ``kind`` and ``latency_us``.
        """
        import networkx as nx

        graph: nx.DiGraph[Any] = nx.DiGraph(name=self.name)
        for node in self.nodes:
            graph.add_node(node.id, kind=node.kind, host=node.host, domain=node.domain)
        for link in self.links:
            graph.add_edge(
                link.source,
                link.target,
                bandwidth_gb_s=link.bandwidth_gb_s,
                bandwidth=link.bandwidth_gb_s,
                effective_gb_s=link.effective_gb_s,
                links=link.links,
                kind=link.kind,
                latency_us=link.latency_us,
            )
        return graph

    @functools.cached_property
    def nominal(self) -> NDArray[np.float64]:
        """(nodes, nodes) nominal GB/s from row to column, 0 where there is no link."""
        return self._matrix(lambda link: link.bandwidth_gb_s)

    @functools.cached_property
    def effective(self) -> NDArray[np.float64]:
        """(nodes, nodes) effective GB/s from row to column, 0 where there is no link."""
        return self._matrix(lambda link: link.effective_gb_s)

    @functools.cached_property
    def fast(self) -> NDArray[np.bool_]:
        """(nodes, nodes) where the link is NVLink or xGMI."""
        return self._matrix(lambda link: float(link.kind in FAST_KINDS)) > 0

    @functools.cached_property
    def gpu_index(self) -> NDArray[np.int64]:
        """(gpus,) positions of the GPUs in ``nodes``."""
        return np.array([i for i, n in enumerate(self.nodes) if n.kind == "gpu"], dtype=np.int64)

    @functools.cached_property
    def transit_index(self) -> NDArray[np.int64]:
        """Positions of the nodes that pass traffic on for anyone: all but GPUs and NICs."""
        kinds = ("gpu", "nic")
        return np.array(
            [i for i, n in enumerate(self.nodes) if n.kind not in kinds], dtype=np.int64
        )

    @functools.cached_property
    def scratch(self) -> dict[str, Any]:
        """What solvers remember about this fabric; not part of its value."""
        return {}

    @functools.cached_property
    def components(self) -> list[list[int]]:
        """Positions of the GPUs that links join both ways, each group in order, largest first."""
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import connected_components

        _, label = connected_components(csr_matrix(self.nominal > 0), connection="strong")
        groups: dict[int, list[int]] = {}
        for i in self.gpu_index.tolist():
            groups.setdefault(int(label[i]), []).append(i)
        return sorted(groups.values(), key=lambda group: -len(group))

    def degraded(
        self,
        *,
        factor: Mapping[str, float] | None = None,
        dead: Iterable[NodeId] = (),
    ) -> Fabric:
        """The fabric with links scaled (by link id, 0 removes) and nodes taken out."""
        gone = set(dead)
        factor = factor or {}
        links = []
        for link in self.links:
            share = factor.get(link.id, 1.0)
            if share > 0 and link.source not in gone and link.target not in gone:
                links.append(_scaled(link, share))
        nodes = tuple(node for node in self.nodes if node.id not in gone)
        return replace(self, nodes=nodes, links=tuple(links))

    @classmethod
    def from_topology(cls, topology: Topology, *, name: str = "") -> Fabric:
        """From telemetry's topology. Ends that are no GPU become switches.

        Raises InputError when the topology has no GPU.
        """
        host = {gpu: node for node in topology.nodes for gpu in node.gpu_ids}
        nodes = [
            FabricNode(id=gpu, kind="gpu", host=node.id, domain=node.domain)
            for gpu, node in host.items()
        ]
        known: set[NodeId] = set(host)
        lanes: dict[str, int] = {}
        for row in topology.links:
            if row.kind == "nvlink":
                lanes[row.source] = lanes.get(row.source, 0) + row.links
                lanes[row.target] = lanes.get(row.target, 0) + row.links
        links = []
        for row in topology.links:
            for end in (row.source, row.target):
                if end not in known:
                    known.add(end)
                    nodes.append(FabricNode(id=end, kind=_switch_kind(row.kind)))
            ends = [(row.source, row.target)]
            ends += [] if row.directed else [(row.target, row.source)]
            links += [
                FabricLink(
                    source=a,
                    target=b,
                    bandwidth_gb_s=row.bandwidth_gb_s,
                    effective_gb_s=row.bandwidth_gb_s * _factor(row, lanes),
                    links=row.links,
                    kind=row.kind,
                )
                for a, b in ends
            ]
        return cls.build(nodes, links, name=name)

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot, *, whole: Fabric | None = None) -> Fabric:
        """From live telemetry: GPUs that do not answer are gone, links count as far as they are up.

        A link whose state is unknown counts as up. ``whole`` is the fabric of the snapshot's
        topology, where it is known already.
        """
        whole = whole or cls.from_topology(snapshot.topology)
        state = snapshot.link.get("link_up")
        factor: dict[str, float] = {}
        if state is not None:
            for row, up in zip(snapshot.topology.links, state, strict=True):
                if not math.isnan(up) and up < 1.0:
                    factor[row.id] = float(up)
                    if not row.directed:
                        factor[f"{row.target}->{row.source}"] = float(up)
        alive = set(snapshot.alive_gpus)
        dead = [gpu for gpu in snapshot.topology.gpu_ids if gpu not in alive]
        return whole.degraded(factor=factor, dead=dead)

    @functools.cached_property
    def _ends(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        index = self.index
        source = np.array([index[link.source] for link in self.links], dtype=np.int64)
        target = np.array([index[link.target] for link in self.links], dtype=np.int64)
        return source, target

    def _matrix(self, value: Any) -> NDArray[np.float64]:
        out = np.zeros((len(self.nodes), len(self.nodes)))
        out[self._ends] = [value(link) for link in self.links]
        return out

    def by_link(self, matrix: NDArray[np.float64]) -> dict[str, float]:
        """Values of a (nodes, nodes) matrix by link id."""
        values = matrix[self._ends].tolist()
        return {link.id: value for link, value in zip(self.links, values, strict=True)}


def _factor(row: Link, lanes: Mapping[str, int]) -> float:
    """Effective over nominal bandwidth; NVLink 4 is told by 18 links of 25 GB/s at a GPU."""
    lane = row.bandwidth_gb_s / max(row.links, 1)
    full = lanes.get(row.source) == _NVLINK4_LINKS or lanes.get(row.target) == _NVLINK4_LINKS
    return effective_factor(row.kind, nvlink4=full and 24 <= lane <= 27)


def _switch_kind(link_kind: str) -> str:
    return {"nvlink": "nvswitch", "xgmi": "nvswitch", "ib": "ibswitch", "pcie": "pcie"}.get(
        "ib" if link_kind == "infiniband" else link_kind, "switch"
    )


def _scaled(link: FabricLink, share: float) -> FabricLink:
    if share == 1.0:
        return link
    return replace(
        link,
        bandwidth_gb_s=link.bandwidth_gb_s * share,
        effective_gb_s=link.effective_gb_s * share,
        links=round(link.links * share),
    )


def _problem(link: FabricLink, known: set[NodeId]) -> str:
    """What is wrong with a link; empty when nothing is."""
    for end in (link.source, link.target):
        if end not in known:
            return f"there is no node '{end}'"
    if link.source == link.target:
        return "joins a node to itself"
    if not (math.isfinite(link.bandwidth_gb_s) and link.bandwidth_gb_s > 0):
        return f"wants a bandwidth above 0, got {link.bandwidth_gb_s}"
    return ""


def _merge(links: Iterable[FabricLink], known: set[NodeId]) -> list[FabricLink]:
    merged: dict[tuple[NodeId, NodeId], FabricLink] = {}
    for link in links:
        problem = _problem(link, known)
        if problem:
            raise FormatError(problem, field=f"links[{link.id}]")
        key = (link.source, link.target)
        other = merged.get(key)
        if other is not None:
            merged[key] = replace(
                link,
                bandwidth_gb_s=other.bandwidth_gb_s + link.bandwidth_gb_s,
                effective_gb_s=other.effective_gb_s + link.effective_gb_s,
                links=other.links + link.links,
                kind=other.kind if other.kind in FAST_KINDS else link.kind,
                latency_us=min(other.latency_us, link.latency_us),
            )
        else:
            merged[key] = link
    return list(merged.values())


def _fill_effective(
    nodes: tuple[FabricNode, ...], links: list[FabricLink]
) -> tuple[FabricLink, ...]:
    lanes: dict[NodeId, int] = {}
    for link in links:
        if link.kind == "nvlink":
            lanes[link.source] = lanes.get(link.source, 0) + link.links
    fourth = {
        node.id for node in nodes if node.kind == "gpu" and lanes.get(node.id) == _NVLINK4_LINKS
    }

    def filled(link: FabricLink) -> FabricLink:
        if link.effective_gb_s > 0:
            return link
        lane = link.bandwidth_gb_s / max(link.links, 1)
        nvlink4 = (link.source in fourth or link.target in fourth) and 24 <= lane <= 27
        share = effective_factor(link.kind, nvlink4=nvlink4)
        return replace(link, effective_gb_s=link.bandwidth_gb_s * share)

    return tuple(filled(link) for link in links)
