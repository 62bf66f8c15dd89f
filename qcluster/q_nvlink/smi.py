"""The text of ``nvidia-smi topo -m`` and ``nvidia-smi nvlink -s`` as fabrics.

The matrix gives relations between pairs, not links: NV# counts the NVLinks that lead towards a
peer, and the PCIe words (PIX, PXB, PHB, NODE, SYS) say how far apart two devices sit. Two readings
follow from that:

* NVLink: when a GPU's counts add up to more links than any GPU has (18), they lead to a switch,
  and the fabric is a star around it; otherwise they are direct links.
* PCIe: the words form a hierarchy, so they become a tree of switches, host bridges and sockets
  whose ports are shared, not one private link for each pair.

Nominal bandwidths, GB/s per direction, where the text does not tell: NVLink 25 a link (NVLink 2 to
4), 50 beside Grace CPUs (72 cores a socket: NVLink 5); PCIe by the word: see ``PCIE_GB_S``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from qcluster.errors import FormatError
from qcluster.q_nvlink.fabric import Fabric, FabricLink, FabricNode

__all__ = ["PCIE_GB_S", "looks_like_links", "looks_like_matrix", "read_links", "read_matrix"]

PCIE_GB_S = {"PIX": 32.0, "PXB": 32.0, "PHB": 28.0, "NODE": 24.0, "SYS": 20.0}
"""Nominal GB/s per direction of the path that a word names: a Gen 4 x16 port, less further out."""

_LEVELS = ("PIX", "PXB", "PHB", "NODE", "SYS")
_LEVEL_KIND = {"PIX": "pcie", "PXB": "pcie", "PHB": "cpu", "NODE": "cpu", "SYS": "cpu"}
_MOST_LINKS = 18  # of any GPU so far: H100, B200, GB200
_NVLINK_GB_S = 25.0
_NVLINK5_GB_S = 50.0

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NVLINK = re.compile(r"NV(0*[1-9]\d*)")
_GPU = re.compile(r"GPU\d+")
_DEVICE = re.compile(r"(GPU|NIC)\d+|(mlx|bnxt|rocep|roceo|ib|hfi|efa|irdma)\S*", re.IGNORECASE)
_GRACE = re.compile(r"(?<!\d)(\d+)-(\d+)(?!\d)")
_GPU_LINE = re.compile(r"GPU (\d+):\s*(.*?)\s*(?:\(UUID:.*\))?")
_LINK_LINE = re.compile(r"Link (\d+):\s*(.+)")
_RATE = re.compile(r"(\d+(?:\.\d+)?) GB/s")


def _lines(text: str) -> list[str]:
    return _ANSI.sub("", text).splitlines()


def looks_like_matrix(text: str) -> bool:
    """Whether a line is the header of a topology matrix."""
    return any(_header(line) for line in _lines(text))


def looks_like_links(text: str) -> bool:
    """Whether a line is the head of a GPU's NVLink status."""
    return any(_GPU_LINE.fullmatch(line.strip()) for line in _lines(text))


def _header(line: str) -> list[str]:
    """The device columns when the line is a header, else nothing."""
    names: list[str] = []
    for token in line.split():
        if token in ("CPU", "NUMA"):
            break
        if not _DEVICE.fullmatch(token):
            return []
        names.append(token)
    return names if names and _GPU.fullmatch(names[0]) else []


@dataclass(frozen=True)
class _Matrix:
    """Relations between devices: ``word[a][b]``; ``row`` is each device's line number."""

    devices: list[str]
    gpus: list[str]
    word: dict[str, dict[str, str]]
    row: dict[str, int]
    grace: bool


def read_matrix(text: str) -> Fabric:
    """The fabric in the output of ``nvidia-smi topo -m``.

    GPUs keep their names (``GPU0``). NICs become nodes of kind nic. Raises FormatError with row
    and field for unknown words, missing or repeated rows and relations that differ by direction.
    """
    matrix = _parse_matrix(text)
    nodes = [FabricNode(id=name, kind="gpu", host="host") for name in matrix.gpus]
    nodes += [
        FabricNode(id=name, kind="nic", host="host")
        for name in matrix.devices
        if name not in matrix.gpus
    ]
    links: list[FabricLink] = []
    for position, group in enumerate(_groups(matrix.gpus, matrix.word, _NVLINK.fullmatch)):
        _add_nvlink(matrix, group, position, nodes, links)
    _add_pcie(matrix, nodes, links)
    return Fabric.build(nodes, links, name="nvidia-smi topo -m")


def _parse_matrix(text: str) -> _Matrix:
    lines = _lines(text)
    start = next(i for i, line in enumerate(lines) if _header(line))
    columns = _header(lines[start])
    if len(set(columns)) < len(columns):
        raise FormatError("names a device twice", row=start + 1)
    word: dict[str, dict[str, str]] = {}
    row: dict[str, int] = {}
    grace = False
    for number, line in enumerate(lines[start + 1 :], start + 2):
        tokens = line.split()
        if tokens and tokens[0].startswith(("Legend", "NIC")) and tokens[0] not in columns:
            break
        if not tokens or tokens[0] not in columns:
            if tokens and _GPU.fullmatch(tokens[0]):
                raise FormatError(f"{tokens[0]} is not in the header", row=number)
            continue
        name, cells = tokens[0], tokens[1 : len(columns) + 1]
        if name in word:
            raise FormatError(f"{name} stands twice", row=number)
        _check_cells(name, cells, columns, number)
        word[name] = dict(zip(columns, cells, strict=True))
        row[name] = number
        grace = grace or any(
            int(m[2]) - int(m[1]) == 71 for m in _GRACE.finditer(" ".join(tokens[len(columns) :]))
        )
    gpus = [name for name in columns if _GPU.fullmatch(name)]
    for name in gpus:
        if name not in word:
            raise FormatError(f"has no row for {name}: the text is cut", row=len(lines))
    _check_symmetry(word, row)
    return _Matrix(devices=columns, gpus=gpus, word=word, row=row, grace=grace)


def _check_cells(name: str, cells: list[str], columns: list[str], number: int) -> None:
    for column, cell in zip(columns, cells, strict=False):
        known = cell in ("SOC", *_LEVELS) or _NVLINK.fullmatch(cell)
        if (cell == "X") != (name == column) or not (known or cell == "X"):
            wanted = "X" if name == column else "NV#, PIX, PXB, PHB, NODE or SYS"
            raise FormatError(f"wants {wanted}, got '{cell}'", row=number, field=column)
    if len(cells) < len(columns):
        missing = columns[len(cells)]
        raise FormatError(f"{name} ends before this column", row=number, field=missing)


def _check_symmetry(word: dict[str, dict[str, str]], row: dict[str, int]) -> None:
    for a, cells in word.items():
        for b, cell in cells.items():
            if b in word and word[b][a] != cell:
                message = f"says {cell}, but {b} says {word[b][a]} of {a}"
                raise FormatError(message, row=row[a], field=b)


def _groups(names: list[str], word: dict[str, dict[str, str]], related: object) -> list[list[str]]:
    """Connected components of the relation, in the order of ``names``."""
    left, found = list(names), []
    while left:
        group, queue = [left[0]], [left.pop(0)]
        while queue:
            here = queue.pop()
            near = [n for n in left if related(_word(word, here, n))]  # type: ignore[operator]
            left = [n for n in left if n not in near]
            group += near
            queue += near
        found.append(sorted(group, key=names.index))
    return found


def _word(word: dict[str, dict[str, str]], a: str, b: str) -> str:
    """The relation of two devices from either's row; NICs' rows may be absent: as far as can be."""
    cell = word[a].get(b) if a in word else word[b].get(a) if b in word else None
    return "SYS" if cell in (None, "SOC") else str(cell)


def _count(word: dict[str, dict[str, str]], a: str, b: str) -> int:
    match = _NVLINK.fullmatch(_word(word, a, b))
    return int(match[1]) if match else 0


def _add_nvlink(
    matrix: _Matrix,
    group: list[str],
    position: int,
    nodes: list[FabricNode],
    links: list[FabricLink],
) -> None:
    counts = {a: [_count(matrix.word, a, b) for b in group if b != a] for a in group}
    switched = any(sum(row) > _MOST_LINKS for row in counts.values())
    lane = _NVLINK5_GB_S if matrix.grace and switched else _NVLINK_GB_S
    if switched:
        hub = f"nvswitch{position}"
        nodes.append(FabricNode(id=hub, kind="nvswitch", host="host"))
        for gpu in group:
            links += _both(gpu, hub, max(counts[gpu]), lane * max(counts[gpu]), "nvlink")
        return
    for i, a in enumerate(group):
        for b in group[i + 1 :]:
            if lanes := _count(matrix.word, a, b):
                links += _both(a, b, lanes, lane * lanes, "nvlink")


def _add_pcie(matrix: _Matrix, nodes: list[FabricNode], links: list[FabricLink]) -> None:
    """A tree whose inner nodes are the sets of devices that a word joins.

    NVLink hides how two GPUs sit on PCIe, so such pairs join where their other relations put
    them, at the latest at the top.
    """
    top: dict[str, str] = {name: name for name in matrix.devices}  # device -> its subtree's root
    for level in _LEVELS:
        words = _LEVELS[: _LEVELS.index(level) + 1]
        sets = (
            [matrix.devices]
            if level == "SYS"
            else _groups(matrix.devices, matrix.word, lambda cell, words=words: cell in words)
        )
        made = 0
        for members in sets:
            roots = list(dict.fromkeys(top[name] for name in members))
            if len(roots) < 2:
                continue
            hub = f"{level.lower()}{made}"
            made += 1
            nodes.append(FabricNode(id=hub, kind=_LEVEL_KIND[level], host="host"))
            for root in roots:
                links += _both(root, hub, 1, PCIE_GB_S[level], "pcie")
            top.update(dict.fromkeys(members, hub))


def _both(a: str, b: str, lanes: int, bandwidth: float, kind: str) -> Iterable[FabricLink]:
    return [
        FabricLink(
            source=x, target=y, bandwidth_gb_s=bandwidth, effective_gb_s=0.0, links=lanes, kind=kind
        )
        for x, y in ((a, b), (b, a))
    ]


def read_links(text: str) -> Fabric:
    """The fabric in the output of ``nvidia-smi nvlink -s``: each GPU's active links.

    The text does not say where links lead, so they end at one node ``nvlink``, a switch. The rates
    printed are raw; nominal is what is left after line coding: 25 for 25.781 and 26.562, 50 for
    53.125. Inactive links are left out and noted.
    """
    found: dict[str, list[float]] = {}
    down: dict[str, list[int]] = {}
    seen: set[tuple[str, str]] = set()
    gpu = ""
    for number, line in enumerate(_lines(text), 1):
        stripped = line.strip()
        if head := _GPU_LINE.fullmatch(stripped):
            gpu = f"GPU{head[1]}"
            if gpu in found:
                raise FormatError(f"{gpu} stands twice", row=number)
            found[gpu], down[gpu] = [], []
        elif link := _LINK_LINE.fullmatch(stripped):
            if not gpu:
                raise FormatError("a link before any GPU", row=number)
            if (gpu, link[1]) in seen:
                raise FormatError(f"stands twice below {gpu}", row=number, field=f"Link {link[1]}")
            seen.add((gpu, link[1]))
            _add_rate(link, found[gpu], down[gpu], number)
        elif stripped:
            raise FormatError(f"wants 'Link N: rate GB/s', got '{stripped[:40]}'", row=number)
    nodes = [FabricNode(id=name, kind="gpu", host="host") for name in found]
    nodes.append(FabricNode(id="nvlink", kind="nvswitch"))
    links: list[FabricLink] = []
    for name, rates in found.items():
        if rates:
            links += _both(name, "nvlink", len(rates), sum(rates), "nvlink")
    notes = [
        f"{name}: {len(dead)} of {len(dead) + len(found[name])} NVLinks are inactive: "
        + ", ".join(map(str, dead))
        for name, dead in down.items()
        if dead
    ]
    return Fabric.build(nodes, links, name="nvidia-smi nvlink -s", notes=notes)


def _add_rate(link: re.Match[str], rates: list[float], down: list[int], number: int) -> None:
    value = link[2].strip()
    if value == "<inactive>":
        down.append(int(link[1]))
        return
    rate = _RATE.fullmatch(value)
    if rate is None or float(rate[1]) <= 0:
        field = f"Link {link[1]}"
        raise FormatError(
            f"wants a rate in GB/s or <inactive>, got '{value[:40]}'", row=number, field=field
        )
    raw = float(rate[1])
    # 8b/10b or 64b/66b style overheads are 2 to 7 %: the nominal rate is the multiple of 5 below.
    nominal = raw // 5 * 5
    rates.append(nominal if nominal and raw / nominal < 1.07 else raw)
