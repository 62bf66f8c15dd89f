"""Slurm's topology.conf and topology.yaml, read; ``qcluster.q_nvlink.directives`` writes them.

Both plugins: topology/tree (``SwitchName=`` with ``Switches=`` or ``Nodes=``) and topology/block
(``BlockName=``, ``Nodes=``, ``BlockSizes=``), as slurm.schedmd.com describes them. A block is taken
for an NVLink domain. A remark ``# block=domain`` before a block's line, as topograph writes it,
makes the block a part of that domain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from qcluster.errors import FormatError, InputError
from qcluster.q_nvlink.cluster_tree import Block, ClusterTree, check_tree, expand_hosts

__all__ = ["looks_like_slurm", "read_slurm", "read_slurm_yaml"]

_LINE = re.compile(r"^\s*(SwitchName|BlockName|BlockSizes)\s*=", re.IGNORECASE | re.MULTILINE)
_REMARK = re.compile(r"#\s*(\S+?)=(\S+)\s*$")
_KEYS = ("switchname", "switches", "nodes", "linkspeed", "blockname", "blocksizes")
_COMMA = re.compile(r",(?![^\[]*\])")  # outside brackets


def looks_like_slurm(text: str) -> bool:
    """Whether a text has lines of a topology.conf."""
    return bool(_LINE.search(text))


def read_slurm(text: str) -> ClusterTree:
    """The tree in a topology.conf.

    Raises FormatError naming row and field: unknown or missing keys, nodes or switches that stand
    twice, switches below none that exists, block sizes that are no counts.
    """
    found = _Found()
    remark: tuple[str, str] = ("", "")
    for row, line in _lines(text):
        if line.startswith("#"):
            note = _REMARK.match(line)
            remark = (note[1], note[2]) if note else remark
            continue
        try:
            _take(found, _pairs(line), remark)
        except InputError as error:
            raise FormatError(error.message, row=row, field=error.field) from None
    return found.tree()


def read_slurm_yaml(data: Any) -> ClusterTree:
    """The tree in the content of a topology.yaml: its tree and its block topology together.

    Raises FormatError naming the field.
    """
    if not isinstance(data, list) or not data:
        raise FormatError("wants a list of topologies")
    found = _Found()
    for i, entry in enumerate(data):
        if not isinstance(entry, Mapping):
            raise FormatError("wants a mapping", field=f"[{i}]")
        for kind, section, name, add in (
            ("tree", "switches", "switch", found.add_switch),
            ("block", "blocks", "block", found.add_block),
        ):
            if kind in entry:
                _take_section(entry[kind], f"[{i}].{kind}", section, name, add)
        if "block" in entry:
            sizes = entry["block"].get("block_sizes") or []
            if not isinstance(sizes, list):
                raise FormatError("wants a list", field=f"[{i}].block.block_sizes")
            found.sizes = _sizes(sizes, f"[{i}].block.block_sizes")
    return found.tree()


def _take_section(
    content: Any, place: str, section: str, name: str, add: Callable[[dict[str, str]], None]
) -> None:
    rows = content.get(section) if isinstance(content, Mapping) else None
    if not isinstance(rows, list):
        raise FormatError("wants a list", field=f"{place}.{section}")
    for j, row in enumerate(rows):
        where = f"{place}.{section}[{j}]"
        if not isinstance(row, Mapping):
            raise FormatError("wants a mapping", field=where)
        pairs = {
            "switches" if key == "children" else f"{name}name" if key == name else str(key): value
            for key, value in row.items()
        }
        for key, value in pairs.items():
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                raise FormatError(f"wants text, got {value!r:.40}", field=f"{where}.{key}")
        try:
            add({key: str(value) for key, value in pairs.items()})
        except InputError as error:
            raise FormatError(error.message, field=f"{where}.{error.field}") from None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Rows with their numbers; a backslash at the end joins the next one."""
    begun, held = 0, ""
    for row, line in enumerate(text.splitlines(), start=1):
        begun = begun or row
        held += line.strip()
        if held.endswith("\\"):
            held = held[:-1].rstrip() + " "
            continue
        if held.strip():
            yield begun, held.strip()
        begun, held = 0, ""
    if held.strip():
        yield begun, held.strip()


def _pairs(line: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in line.split("#", 1)[0].split():
        key, equals, value = word.partition("=")
        name = key.lower()
        if name not in _KEYS or not equals:
            raise InputError(f"'{word:.40}' is not known in a topology", field=key[:40])
        if not value:
            raise InputError("has no value", field=key)
        if name in pairs:
            raise InputError("stands twice", field=key)
        pairs[name] = value
    return pairs


def _take(found: _Found, pairs: dict[str, str], remark: tuple[str, str]) -> None:
    if "switchname" in pairs:
        found.add_switch(pairs)
    elif "blockname" in pairs:
        found.add_block(pairs, remark[1] if remark[0] == pairs["blockname"] else "")
    elif "blocksizes" in pairs:
        found.sizes = _sizes(pairs["blocksizes"].split(","), "BlockSizes")
    else:
        raise InputError("wants SwitchName, BlockName or BlockSizes", field=next(iter(pairs)))


def _sizes(values: Iterable[Any], place: str) -> tuple[int, ...]:
    sizes = []
    for value in values:
        text = str(value)
        if isinstance(value, bool) or not text.isascii() or not text.isdigit() or int(text) < 1:
            raise FormatError(f"wants counts of nodes, got '{text:.40}'", field=place)
        sizes.append(int(text))
    return tuple(sizes)


def _names(text: str, field: str) -> list[str]:
    names: list[str] = []
    for part in _COMMA.split(text):
        try:
            names += expand_hosts(part)
        except InputError as error:
            raise InputError(error.message, field=field) from None
    return names


class _Found:
    """What was read so far: switches, leaves, blocks."""

    def __init__(self) -> None:
        self.below: dict[str, tuple[str, ...]] = {}
        self.leaf: dict[str, str] = {}  # node to its leaf switch
        self.block: dict[str, tuple[str, str]] = {}  # node to block and domain
        self.names: set[str] = set()
        self.sizes: tuple[int, ...] = ()

    def add_switch(self, pairs: dict[str, str]) -> None:
        """A line of topology/tree."""
        name = pairs.get("switchname", "")
        self._name(name, "SwitchName")
        if ("switches" in pairs) == ("nodes" in pairs):
            raise InputError(f"'{name}' wants either Switches or Nodes", field="Switches")
        if "switches" in pairs:
            self.below[name] = tuple(_names(pairs["switches"], "Switches"))
            return
        for node in _names(pairs["nodes"], "Nodes"):
            if node in self.leaf:
                message = f"'{node}' is behind '{self.leaf[node]}' already"
                raise InputError(message, field="Nodes")
            self.leaf[node] = name

    def add_block(self, pairs: dict[str, str], domain: str = "") -> None:
        """A line of topology/block."""
        name = pairs.get("blockname", "")
        self._name(name, "BlockName")
        if "nodes" not in pairs:
            raise InputError(f"'{name}' has no nodes", field="Nodes")
        for node in _names(pairs["nodes"], "Nodes"):
            if node in self.block:
                message = f"'{node}' is in '{self.block[node][0]}' already"
                raise InputError(message, field="Nodes")
            self.block[node] = (name, domain)

    def _name(self, name: str, field: str) -> None:
        if not name:
            raise InputError("has no name", field=field)
        if f"{field} {name}" in self.names:
            raise InputError(f"'{name}' stands twice", field=field)
        self.names.add(f"{field} {name}")

    def tree(self) -> ClusterTree:
        """All of it as one tree; nodes of one block behind one leaf are a block of it."""
        groups: dict[tuple[str, str, str], list[str]] = {}
        for node in dict.fromkeys([*self.block, *self.leaf]):
            block, domain = self.block.get(node, ("", ""))
            groups.setdefault((self.leaf.get(node, block), block, domain), []).append(node)
        if not groups:
            raise FormatError("names no nodes", field="Nodes")
        leaves = set(self.leaf.values())
        for name, children in self.below.items():
            for child in children:
                if child not in self.below and child not in leaves:
                    message = f"'{child}' below '{name}' is no switch of the file"
                    raise FormatError(message, field="Switches")
        blocks = tuple(
            Block(
                switch=switch,
                nodes=tuple(nodes),
                domain=domain or block,
                sub_domain=block if domain else "",
            )
            for (switch, block, domain), nodes in groups.items()
        )
        check_tree(self.below, blocks, set(self.leaf) | set(self.block))
        return ClusterTree(switches=self.below, blocks=blocks, block_sizes=self.sizes)
