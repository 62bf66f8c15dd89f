"""Reading fabrics: the format is told by the content, never by the file's name.

``load_fabric`` takes NetworkX node-link JSON, NCCL and RCCL topology XML, topograph models (YAML or
JSON), and the text of ``nvidia-smi topo -m`` and ``nvidia-smi nvlink -s``. Every complaint is one
line with file, row and field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qcluster.errors import FormatError, InputError
from qcluster.q_nvlink.cluster_tree import ClusterTree, looks_like_tree, read_tree
from qcluster.q_nvlink.fabric import Fabric, FabricLink, FabricNode, NodeId
from qcluster.q_nvlink.slurm import looks_like_slurm, read_slurm, read_slurm_yaml
from qcluster.q_nvlink.smi import looks_like_links, looks_like_matrix, read_links, read_matrix
from qcluster.q_nvlink.topo_xml import looks_like_xml, read_topology_xml
from qcluster.telemetry.documents import read_document
from qcluster.text_file import read_text

__all__ = ["load_fabric", "load_tree", "parse_fabric", "parse_node_link"]

_BANDWIDTH = ("bandwidth_GBps", "bandwidth_gb_s", "bandwidth")
_SWITCH_WORDS = ("nvsw", "switch", "leaf", "spine", "nic", "cpu", "pcie", "hca", "mlx")
_PCIE_WORDS = {"pix", "pxb", "phb", "node", "sys", "soc"}
_LINK_KINDS = _PCIE_WORDS | {
    *("nvlink", "xgmi", "pcie", "c2c", "ib", "infiniband", "roce", "ethernet", "efa", "fabric"),
    *("internal", "cpu", "qpi", "upi", "nic", "network"),
}
_NODE_KINDS = {"nvswitch", "ibswitch", "pcie", "cpu", "nic", "switch", "gpu"}


def load_fabric(path: str | Path) -> Fabric:
    """The fabric in a file.

    Node-link JSON: undirected files give both directions, parallel links add up, ``edges`` and
    ``links`` are both read, bandwidth is GB/s per direction. ``nvidia-smi`` text: see
    ``qcluster.q_nvlink.smi``.

    Raises FormatError naming file, row and field.
    """
    path = Path(path)
    return parse_fabric(read_text(path), file=path)


def parse_fabric(text: str, *, file: Any = None) -> Fabric:
    """The fabric in a text of any known format; ``file`` is named in errors."""
    if not text.strip():
        raise FormatError("is empty", file=file)
    try:
        if text.lstrip()[0] in "{[":
            data = _json(text)
            if isinstance(data, Mapping) and "blocks" in data and "nodes" not in data:
                return read_tree(data).fabric()
            return parse_node_link(data)
        if looks_like_xml(text):
            return read_topology_xml(text)
        if looks_like_matrix(text):
            return read_matrix(text)
        if looks_like_links(text):
            return read_links(text)
        if looks_like_slurm(text):
            return read_slurm(text).fabric()
        if looks_like_tree(text):
            return read_tree(_yaml(text)).fabric()
    except InputError as error:
        raise error.at(file=file) from None
    raise FormatError(
        "is neither node-link JSON, NCCL topology XML, a topograph model, a topology.conf nor "
        "text of nvidia-smi topo -m or nvlink -s",
        file=file,
    )


def _json(text: str) -> Any:
    def constant(name: str) -> None:
        raise FormatError(f"{name} is not a number that JSON has")

    try:
        return json.loads(text, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise FormatError(f"is not JSON: {error.msg}", row=error.lineno) from None
    except RecursionError:
        raise FormatError("is nested too deeply") from None


def load_tree(path: str | Path) -> ClusterTree:
    """The tree of switches and blocks in a file.

    A topograph model (YAML or JSON), or Slurm's topology.conf or topology.yaml.

    Raises FormatError naming file, row and field.
    """
    path = Path(path)
    try:
        if path.suffix not in (".yaml", ".yml", ".json"):
            text = read_text(path)
            if looks_like_slurm(text):
                return read_slurm(text)
        data = read_document(path)
        return read_slurm_yaml(data) if isinstance(data, list) else read_tree(data)
    except InputError as error:
        raise error.at(file=path) from None


def _yaml(text: str) -> Any:
    import yaml

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise FormatError("uses YAML aliases, which are not taken")
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise FormatError(f"is not YAML: {' '.join(str(error).split())}") from None


def parse_node_link(data: Any) -> Fabric:
    """The fabric in node-link data (NetworkX, ``node_link_data``).

    A node's ``kind`` (or ``type``) says what it is; nodes without one are GPUs unless their name
    reads like a switch, NIC or CPU.
    """
    if not isinstance(data, Mapping):
        raise FormatError(f"wants an object with 'nodes' and 'edges', got {type(data).__name__}")
    rows = data.get("nodes")
    if not isinstance(rows, list) or not rows:
        raise FormatError("wants a list of nodes", field="nodes")
    key = "edges" if "edges" in data else "links"
    edges = data.get(key)
    if not isinstance(edges, list):
        raise FormatError("wants a list under 'edges' or 'links'", field=key)
    for flag in ("directed", "multigraph"):
        if not isinstance(data.get(flag, False), bool):
            raise FormatError(f"wants true or false, got {data[flag]!r}", field=flag)
    nodes = [_node(row, f"nodes[{i}]") for i, row in enumerate(rows)]
    _distinct(nodes)
    known = {node.id for node in nodes}
    links: list[FabricLink] = []
    seen: set[tuple[NodeId, NodeId]] = set()
    notes: list[str] = []
    for i, row in enumerate(edges):
        link = _edge(row, f"{key}[{i}]", known)
        ends = (link.source, link.target)
        if ends in seen and not data.get("multigraph", False):
            notes.append(f"{key}[{i}]: '{ends[0]}' and '{ends[1]}' are joined twice, rates add up")
        seen |= {ends} if data.get("directed", False) else {ends, ends[::-1]}
        links.append(link)
        if not data.get("directed", False):
            links.append(_reverse(link))
    meta = data.get("graph")
    name = str(meta.get("system", meta.get("name", ""))) if isinstance(meta, Mapping) else ""
    return Fabric.build(nodes, links, name=name, notes=notes)


def _distinct(nodes: list[FabricNode]) -> None:
    seen: set[NodeId] = set()
    for i, node in enumerate(nodes):
        if node.id in seen:
            raise FormatError(f"'{node.id}' stands twice", field=f"nodes[{i}].id")
        seen.add(node.id)


def _node(row: Any, place: str) -> FabricNode:
    if not isinstance(row, Mapping):
        raise FormatError("wants an object", field=place)
    node_id = _name(row, "id", place)
    kind = str(row.get("kind") or row.get("type") or "").lower()
    if kind not in _NODE_KINDS:
        words = kind or str(node_id).lower()
        kind = "switch" if any(word in words for word in _SWITCH_WORDS) else "gpu"
    host = row.get("host", "")
    return FabricNode(id=node_id, kind=kind, host=str(host), domain=str(row.get("domain", "")))


def _edge(row: Any, place: str, known: set[NodeId]) -> FabricLink:
    if not isinstance(row, Mapping):
        raise FormatError("wants an object", field=place)
    source, target = _name(row, "source", place), _name(row, "target", place)
    for name, end in (("source", source), ("target", target)):
        if end not in known:
            raise FormatError(f"there is no node '{end}'", field=f"{place}.{name}")
    if source == target:
        raise FormatError("joins a node to itself", field=place)
    rate = next((key for key in _BANDWIDTH if key in row), None)
    if rate is None:
        raise FormatError("wants bandwidth_GBps or bandwidth", field=place)
    key = "type" if row.get("type") else "kind"
    kind = str(row.get(key) or "nvlink").lower()
    if kind not in _LINK_KINDS:
        known_kinds = ", ".join(sorted(_LINK_KINDS))
        raise FormatError(f"wants one of {known_kinds}, got '{kind:.40}'", field=f"{place}.{key}")
    kind = "pcie" if kind in _PCIE_WORDS else kind
    return FabricLink(
        source=source,
        target=target,
        bandwidth_gb_s=_number(row[rate], f"{place}.{rate}", positive=True),
        effective_gb_s=_number(row.get("effective_gb_s", 0.0), f"{place}.effective_gb_s"),
        links=_count(row.get("links", 1), f"{place}.links"),
        kind=kind,
        latency_us=_number(row.get("latency_us", 0.0), f"{place}.latency_us"),
    )


def _reverse(link: FabricLink) -> FabricLink:
    return FabricLink(
        source=link.target,
        target=link.source,
        bandwidth_gb_s=link.bandwidth_gb_s,
        effective_gb_s=link.effective_gb_s,
        links=link.links,
        kind=link.kind,
        latency_us=link.latency_us,
    )


def _name(row: Mapping[str, Any], name: str, place: str) -> NodeId:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise FormatError(f"wants a name or an integer, got {value!r}", field=f"{place}.{name}")
    return value


def _count(value: Any, place: str) -> int:
    number = _number(value, place)  # 0 for what is no bundle of links
    if number != int(number):
        raise FormatError(f"wants a count of links, got {value!r}", field=place)
    return int(number)


def _number(value: Any, place: str, *, positive: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FormatError(f"wants a number, got {value!r}", field=place)
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result) or result < 0 or (positive and result == 0):
        wanted = "above 0" if positive else "of at least 0"
        raise FormatError(f"wants a finite number {wanted}, got {result}", field=place)
    return result
