"""A cluster as schedulers see it: a tree of network switches with blocks of nodes at its leaves.

Read from topograph's model files (YAML or JSON: ``switches``, ``blocks``) and Slurm's own
(``qcluster.q_nvlink.slurm``), written for Slurm and Kubernetes by
``qcluster.q_nvlink.directives``. A block is the nodes behind one leaf switch; its domain is the
NVLink domain that joins them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qcluster.errors import FormatError, InputError
from qcluster.q_nvlink.fabric import Fabric, FabricLink, FabricNode
from qcluster.record import Record

__all__ = [
    "Block",
    "ClusterTree",
    "check_tree",
    "expand_hosts",
    "fold_hosts",
    "looks_like_tree",
    "read_tree",
]

_NVLINK_GB_S, _NIC_GB_S = 900.0, 50.0
_MOST_HOSTS = 131_072
_RANGE = re.compile(r"([^\[\],]*)\[([^\[\]]*)\]([^\[\],]*)")


@dataclass(frozen=True, kw_only=True, eq=False)
class Block(Record):
    """Nodes behind a leaf switch; ``domain`` is their NVLink domain, empty when they have none."""

    switch: str
    nodes: tuple[str, ...]
    domain: str = ""
    sub_domain: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClusterTree(Record):
    """Switch to the switches below it, and the blocks. ``labels`` are those of switches.

    ``block_sizes`` are Slurm's, where a file of its gave them.
    """

    switches: dict[str, tuple[str, ...]] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    block_sizes: tuple[int, ...] = ()

    def above(self, switch: str) -> list[str]:
        """The switches from this one's parent up to the root."""
        parent = {child: name for name, below in self.switches.items() for child in below}
        path: list[str] = []
        while switch in parent:
            switch = parent[switch]
            path.append(switch)
        return path

    def fabric(self) -> Fabric:
        """A fabric in which every node counts as one GPU, as these files know no GPUs.

        900 GB/s to a domain's switch and 50 GB/s to the leaf are assumed, and full bisection above.
        """
        nodes: dict[str, FabricNode] = {}
        links: list[FabricLink] = []

        def join(a: str, b: str, rate: float, kind: str) -> None:
            for source, target in ((a, b), (b, a)):
                links.append(
                    FabricLink(
                        source=source, target=target, bandwidth_gb_s=rate, effective_gb_s=0.0,
                        kind=kind,
                    )
                )  # fmt: skip

        below: dict[str, int] = {}
        for block in self.blocks:
            nodes.setdefault(block.switch, FabricNode(id=block.switch, kind="ibswitch"))
            plane = f"{block.domain}/nvswitch"
            if block.domain:
                nodes.setdefault(plane, FabricNode(id=plane, kind="nvswitch", domain=block.domain))
            for name in block.nodes:
                nodes[name] = FabricNode(id=name, host=name, domain=block.domain)
                join(name, block.switch, _NIC_GB_S, "ib")
                if block.domain:
                    join(name, plane, _NVLINK_GB_S, "nvlink")
            for switch in (block.switch, *self.above(block.switch)):
                below[switch] = below.get(switch, 0) + len(block.nodes)
        for name, children in self.switches.items():
            for child in children:
                if below.get(child):
                    for end in (name, child):
                        nodes.setdefault(end, FabricNode(id=end, kind="ibswitch"))
                    join(name, child, _NIC_GB_S * below[child], "ib")
        note = "no GPUs and rates in this format: one GPU a node, 900 GB/s NVLink, 50 GB/s cards"
        return Fabric.build(nodes.values(), links, notes=[note])


def looks_like_tree(text: str) -> bool:
    """Whether a text has the sections of a topograph model."""
    return bool(re.search(r"^blocks:", text, re.MULTILINE))


def read_tree(data: Any) -> ClusterTree:
    """The tree in a topograph model's content.

    Raises FormatError naming the field: unknown or repeated switches and nodes, loops.
    """
    if not isinstance(data, Mapping):
        raise FormatError("wants a mapping with 'switches' and 'blocks'")
    rows = data.get("blocks")
    if not isinstance(rows, list) or not rows:
        raise FormatError("wants a list of blocks", field="blocks")
    blocks = tuple(_block(row, f"blocks[{i}]") for i, row in enumerate(rows))
    seen: set[str] = set()
    for i, block in enumerate(blocks):
        for node in block.nodes:
            if node in seen:
                raise FormatError(f"'{node}' stands twice", field=f"blocks[{i}].nodes")
            seen.add(node)
    section = data.get("switches") or {}
    if not isinstance(section, Mapping):
        raise FormatError("wants a mapping of switches", field="switches")
    below: dict[str, tuple[str, ...]] = {}
    labels: dict[str, dict[str, str]] = {}
    for name, content in section.items():
        place = f"switches.{name}"
        row = {} if content is None else content
        if not isinstance(row, Mapping):
            raise FormatError("wants a mapping", field=place)
        below[str(name)] = _hosts(row.get("switches") or [], f"{place}.switches")
        found = row.get("labels") or {}
        if not isinstance(found, Mapping):
            raise FormatError("wants a mapping", field=f"{place}.labels")
        if found:
            labels[str(name)] = {str(k): str(v) for k, v in found.items()}
    check_tree(below, blocks, seen)
    return ClusterTree(switches=below, blocks=blocks, labels=labels)


def check_tree(
    below: Mapping[str, tuple[str, ...]], blocks: Iterable[Block], nodes: set[str]
) -> None:
    """Raise FormatError for switches below two others or themselves, and names used twice."""
    parent: dict[str, str] = {}
    for name, children in below.items():
        for child in children:
            if child in parent:
                message = f"'{child}' is below '{parent[child]}' as well"
                raise FormatError(message, field=f"switches.{name}.switches")
            parent[child] = name
    for start in parent:
        here, steps = start, 0
        while here in parent:
            here, steps = parent[here], steps + 1
            if steps > len(parent):
                raise FormatError(f"'{start}' is below itself", field="switches")
    names = {*below, *parent, *(block.switch for block in blocks)}
    if clash := names & nodes:
        raise FormatError(f"'{min(clash)}' is a switch and a node", field="blocks")


def _block(row: Any, place: str) -> Block:
    if not isinstance(row, Mapping):
        raise FormatError("wants a mapping", field=place)
    switch = row.get("switch")
    if isinstance(switch, bool) or not isinstance(switch, (str, int)) or switch == "":
        raise FormatError(f"wants a switch's name, got {switch!r}", field=f"{place}.switch")
    nodes = _hosts(row.get("nodes"), f"{place}.nodes")
    if not nodes:
        raise FormatError("has no nodes", field=f"{place}.nodes")
    notes = row.get("annotations") or {}
    if not isinstance(notes, Mapping):
        raise FormatError("wants a mapping", field=f"{place}.annotations")
    ends = {str(key).rsplit("/", 1)[-1]: str(value) for key, value in notes.items()}
    return Block(
        switch=str(switch),
        nodes=nodes,
        domain=ends.get("domain", ""),
        sub_domain=ends.get("sub-domain", ""),
    )


def _hosts(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise FormatError(f"wants a list of names, got {value!r:.40}", field=place)
    found: list[str] = []
    for row in value:
        if isinstance(row, bool) or not isinstance(row, (str, int)) or row == "":
            raise FormatError(f"wants a name, got {row!r:.40}", field=place)
        try:
            found += expand_hosts(str(row))
        except InputError as error:
            raise FormatError(error.message, field=place) from None
    return tuple(found)


def expand_hosts(text: str) -> list[str]:
    """``n[01-03,7]`` as its names, in order; leading zeros are kept.

    Raises InputError for brackets that do not close and ranges that make no sense.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        if "[" in text or "]" in text or not text.strip():
            raise InputError(f"'{text:.60}' is no list of hosts")
        return [text]
    head, body, tail = match.groups()
    names: list[str] = []
    for part in body.split(","):
        low, dash, high = part.partition("-")
        high = high if dash else low
        if not (low.isascii() and low.isdigit() and high.isascii() and high.isdigit()):
            raise InputError(f"'{part:.60}' is no range of numbers")
        if len(high) > 9 or not 0 <= int(high) - int(low) < _MOST_HOSTS:
            raise InputError(f"'{part:.60}' is no range from low to high")
        names += [f"{head}{n:0{len(low)}d}{tail}" for n in range(int(low), int(high) + 1)]
        if len(names) > _MOST_HOSTS:
            raise InputError(f"names more than {_MOST_HOSTS:,} hosts")
    return names


def fold_hosts(names: Iterable[str]) -> str:
    """Names as one list with ranges; the inverse of ``expand_hosts`` up to commas and order."""
    groups: dict[tuple[str, int], list[int]] = {}
    plain: list[str] = []
    for name in dict.fromkeys(names):
        match = re.fullmatch(r"(.*?)([0-9]{1,9})", name)
        if match is None:
            plain.append(name)
        else:
            groups.setdefault((match[1], len(match[2])), []).append(int(match[2]))
    folded = []
    for (head, width), numbers in groups.items():
        runs: list[list[int]] = []
        for n in sorted(numbers):
            if runs and n == runs[-1][1] + 1:
                runs[-1][1] = n
            else:
                runs.append([n, n])
        parts = [f"{a:0{width}d}" + (f"-{b:0{width}d}" if b > a else "") for a, b in runs]
        body = ",".join(parts)
        folded.append(f"{head}{body}" if len(numbers) == 1 else f"{head}[{body}]")
    return ",".join([*folded, *plain])
