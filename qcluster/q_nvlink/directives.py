"""Directives for those who start jobs: Slurm, Kubernetes, CUDA, MPI and NCCL.

Slurm: topology.conf (topology/tree, topology/block) and topology.yaml as slurm.schedmd.com
describes them. Kubernetes: node labels under the keys that topograph sets, and pod affinity on
them. NCCL: the file that ``NCCL_GRAPH_FILE`` names, with rings inside one host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from qcluster.errors import InputError
from qcluster.q_nvlink.cluster_tree import ClusterTree, fold_hosts

__all__ = [
    "block_sizes",
    "kubernetes_affinity",
    "kubernetes_labels",
    "nccl_graph",
    "rank_file",
    "slurm_block",
    "slurm_tree",
    "slurm_yaml",
    "visible_devices",
]

_LABEL = "network.topology.nvidia.com"
_LAYERS = ("leaf", "spine", "core")
_RING = 4  # NCCL_TOPO_PATTERN_RING


def slurm_tree(tree: ClusterTree) -> str:
    """topology.conf for TopologyPlugin=topology/tree: every switch once, from the top down."""
    lines = [
        f"SwitchName={name} Switches={fold_hosts(tree.switches[name])}"
        for name in _top_down(tree)
        if tree.switches.get(name)
    ]
    leaves: dict[str, list[str]] = {}
    for block in tree.blocks:
        leaves.setdefault(block.switch, []).extend(block.nodes)
    if both := [name for name in leaves if tree.switches.get(name)]:
        # Slurm takes either on a line, not both.
        raise InputError(f"'{both[0]}' has switches and nodes below it", field="switches")
    lines += [f"SwitchName={name} Nodes={fold_hosts(nodes)}" for name, nodes in leaves.items()]
    return "\n".join(lines) + "\n"


def _top_down(tree: ClusterTree) -> list[str]:
    children = {child for below in tree.switches.values() for child in below}
    queue = deque(name for name in tree.switches if name not in children)
    order: list[str] = []
    while queue:
        order.append(queue.popleft())
        queue.extend(tree.switches.get(order[-1], ()))
    return order


def _blocks(tree: ClusterTree) -> list[tuple[str, str, tuple[str, ...]]]:
    """(name, remark, nodes) of each block: by sub-domain, by domain, else by switch."""
    groups: dict[tuple[str, str], list[str]] = {}
    for block in tree.blocks:
        if block.sub_domain:
            key = (block.sub_domain, block.domain)
        else:
            key = (block.domain or block.switch, "")
        groups.setdefault(key, []).extend(block.nodes)
    names = [name for name, _ in groups]
    return [
        (name if names.count(name) == 1 else f"{domain}.{name}", domain, tuple(nodes))
        for (name, domain), nodes in groups.items()
    ]


def block_sizes(tree: ClusterTree, sizes: Sequence[int] | None = None) -> list[int]:
    """Block sizes for Slurm: the smallest block times powers of two, as long as there are as many.

    Those that the tree's own file gave go before.

    Raises InputError for given ``sizes`` that Slurm refuses: not increasing, not the first times a
    power of two, or a first one that some block does not have.
    """
    blocks = _blocks(tree)
    least = min(len(nodes) for _, _, nodes in blocks)
    if sizes is None and tree.block_sizes:
        sizes = tree.block_sizes
    if sizes is None:
        count = len(blocks)
        return [least << i for i in range(count.bit_length())]
    found = list(sizes)
    for i, size in enumerate(found):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"wants a count of nodes, got {size!r}", field=f"block_sizes[{i}]")
        factor, rest = divmod(size, found[0])
        if rest or factor & (factor - 1) or (i and size <= found[i - 1]):
            message = f"wants {found[0]} times a growing power of two, got {size}"
            raise InputError(message, field=f"block_sizes[{i}]")
    if not found or found[0] > least:
        raise InputError(f"wants at most {least}, the smallest block", field="block_sizes[0]")
    return found


def slurm_block(tree: ClusterTree, *, sizes: Sequence[int] | None = None) -> str:
    """topology.conf for TopologyPlugin=topology/block."""
    lines = []
    for name, remark, nodes in _blocks(tree):
        lines += [f"# {name}={remark}"] if remark else []
        lines.append(f"BlockName={name} Nodes={fold_hosts(nodes)}")
    lines.append("BlockSizes=" + ",".join(map(str, block_sizes(tree, sizes))))
    return "\n".join(lines) + "\n"


def slurm_yaml(tree: ClusterTree, *, sizes: Sequence[int] | None = None) -> str:
    """topology.yaml with both views: ``block`` is the cluster's default, ``tree`` beside it."""
    import yaml

    switches: list[dict[str, str]] = []
    for line in slurm_tree(tree).splitlines():
        name, below = line.split()
        key, value = below.split("=", 1)
        field = "children" if key == "Switches" else "nodes"
        switches.append({"switch": name.split("=", 1)[1], field: value})
    blocks = [{"block": name, "nodes": fold_hosts(nodes)} for name, _, nodes in _blocks(tree)]
    document = [
        {
            "topology": "block",
            "cluster_default": True,
            "block": {"block_sizes": block_sizes(tree, sizes), "blocks": blocks},
        },
        {"topology": "tree", "cluster_default": False, "tree": {"switches": switches}},
    ]
    text: str = yaml.safe_dump(document, sort_keys=False)
    return text


def kubernetes_labels(tree: ClusterTree) -> dict[str, dict[str, str]]:
    """Labels by node: its NVLink domain (accelerator) and its leaf, spine and core switch."""
    labels: dict[str, dict[str, str]] = {}
    for block in tree.blocks:
        path = [block.switch, *tree.above(block.switch)]
        mine = {f"{_LABEL}/accelerator": block.domain} if block.domain else {}
        mine |= {f"{_LABEL}/{key}": name for key, name in zip(_LAYERS, path, strict=False)}
        for node in block.nodes:
            labels[node] = dict(mine)
    for node, found in labels.items():
        for key, value in found.items():
            plain = value.replace("-", "").replace("_", "").replace(".", "")
            ends = value[:1].isalnum() and value[-1:].isalnum()
            if len(value) > 63 or not (plain.isascii() and plain.isalnum() and ends):
                raise InputError(f"'{value:.70}' cannot be a label's value", field=f"{node}.{key}")
    return labels


def kubernetes_affinity(job: str, *, required: bool = True, layer: str = "accelerator") -> Any:
    """The ``affinity`` of a pod that wants to be where the pods of its job are.

    ``required``: in one NVLink domain or pending; else it is only preferred. ``layer``:
    accelerator, leaf, spine or core.
    """
    if layer not in ("accelerator", *_LAYERS):
        raise InputError(f"wants accelerator, leaf, spine or core, got '{layer}'", field="layer")
    term = {
        "labelSelector": {"matchLabels": {"job-name": job}},
        "topologyKey": f"{_LABEL}/{layer}",
    }
    if required:
        return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _place(gpu: str | int) -> tuple[str, int]:
    """Host and index of ``host/3``, ``GPU3`` or 3."""
    text = str(gpu)
    host, _, index = text.rpartition("/")
    digits = index[len(index.rstrip("0123456789")) :]
    if not digits or not digits.isascii():
        raise InputError(f"'{text}' does not end in the GPU's index")
    return host or "localhost", int(digits)


def visible_devices(gpus: Sequence[str | int]) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES by host for GPUs in order of ranks: local rank i uses the i-th."""
    hosts: dict[str, list[str]] = {}
    for gpu in gpus:
        host, index = _place(gpu)
        if str(index) in hosts.setdefault(host, []):
            raise InputError(f"'{gpu}' stands twice")
        hosts[host].append(str(index))
    return {host: ",".join(found) for host, found in hosts.items()}


def rank_file(gpus: Sequence[str | int]) -> str:
    """Open MPI's rank file: the n-th rank on a host gets slot n, where CUDA shows its GPU."""
    visible_devices(gpus)
    slots: dict[str, int] = {}
    lines = []
    for rank, gpu in enumerate(gpus):
        host, _ = _place(gpu)
        slot = slots.get(host, 0)
        slots[host] = slot + 1
        lines.append(f"rank {rank}={host} slot={slot}")
    return "\n".join(lines) + "\n"


def nccl_graph(rings: Sequence[Sequence[int]], *, speed: float, kind: str = "NVL") -> str:
    """NCCL's graph file: one channel a ring of device indices of one host.

    ``speed`` is GB/s of a channel, ``kind`` the slowest path in it (NVL, PIX, PXB, PHB, SYS).

    Raises InputError for a ring that does not hold the same devices as the first, each once.
    """
    if not rings or not rings[0] or not speed > 0:
        raise InputError("wants at least one ring and a speed above 0", field="rings")
    devices = sorted(rings[0])
    attributes: Mapping[str, Any] = {
        "id": 0, "pattern": _RING, "crossnic": 0, "nchannels": len(rings),
        "speedintra": f"{speed:g}", "speedinter": f"{speed:g}", "latencyinter": 0,
        "typeintra": kind, "typeinter": "PIX", "samechannels": 0,
    }  # fmt: skip
    head = " ".join(f"{key}={quoteattr(str(value))}" for key, value in attributes.items())
    lines = ['<graphs version="1">', f"  <graph {head}>"]
    for i, ring in enumerate(rings):
        if sorted(ring) != devices or len(set(ring)) < len(ring):
            raise InputError("wants the devices of the first ring, each once", field=f"rings[{i}]")
        lines.append("    <channel>")
        lines += [f'      <gpu dev="{device}"/>' for device in ring]
        lines.append("    </channel>")
    return "\n".join([*lines, "  </graph>", "</graphs>"]) + "\n"
