"""NCCL and RCCL topology files (``<system>`` XML) as fabrics.

CPUs, PCIe switches and devices form the tree that the file nests; ``<nvlink>`` and ``<xgmi>`` add
links between GPUs, or to NVSwitches (class 0x068000). Files of some clouds name GPUs only by PCI
class. Nominal GB/s per direction: PCIe by speed and width (2 a lane at 16 GT/s; Gen 4 x16 where
the file is silent), NVLink by the GPU's compute capability, xGMI by its gfx number, 20 between
CPUs. Knows no NCCL search results: a ``<graphs>`` file is refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any
from xml.parsers import expat

from qcluster.errors import FormatError
from qcluster.q_nvlink.fabric import Fabric, FabricLink, FabricNode

__all__ = ["looks_like_xml", "read_topology_xml"]

_LANE_GB_S = {2.5: 0.25, 5.0: 0.5, 8.0: 1.0, 16.0: 2.0, 32.0: 4.0, 64.0: 8.0}
_DEFAULT_PCIE_GB_S = 32.0
_CPU_GB_S = 20.0
_NVLINK5_SM = 100
_PASCAL_SM = 70
_GPU_CLASSES = ("0x0300", "0x0302", "0x0380", "0x1200")
_NVSWITCH_CLASS = "0x0680"
_DEEPEST = 64


@dataclass
class _Element:
    """One element of the file with the line it starts in."""

    tag: str
    at: dict[str, str]
    row: int
    children: list[_Element] = field(default_factory=list)


def looks_like_xml(text: str) -> bool:
    """Whether the text begins like XML."""
    return text.lstrip().startswith("<")


def read_topology_xml(text: str) -> Fabric:
    """The fabric in a topology file.

    GPUs are named ``GPU`` and their ``dev``, or their place in the file where it gives none.
    Raises FormatError with row and field.
    """
    root = _parse(text)
    if root.tag != "system":
        raise FormatError(f"wants a <system> topology, got <{root.tag}>", row=root.row)
    return _Builder().build(root)


def _parse(text: str) -> _Element:
    parser = expat.ParserCreate()
    top = _Element("", {}, 0)
    stack = [top]

    def start(tag: str, at: dict[str, str]) -> None:
        if len(stack) > _DEEPEST:
            raise FormatError("is nested too deeply", row=parser.CurrentLineNumber)
        element = _Element(tag, at, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)

    def doctype(*_: Any) -> None:
        raise FormatError("has a document type; entities are not read", row=1)

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: stack.pop()
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text, True)
    except UnicodeEncodeError:
        raise FormatError("is not XML: holds half of a surrogate pair") from None
    except expat.ExpatError as error:
        message = expat.ErrorString(error.code)
        raise FormatError(f"is not XML: {message}", row=error.lineno) from None
    return top.children[0]


class _Builder:
    """Collects nodes and links while walking the file."""

    def __init__(self) -> None:
        self.nodes: dict[str, FabricNode] = {}
        self.links: list[FabricLink] = []
        self.notes: list[str] = []
        self.gpu_at: dict[str, str] = {}  # bus id -> GPU
        self.fast: list[tuple[str, _Element, _Element]] = []
        self.count = 0

    def build(self, root: _Element) -> Fabric:
        cpus = [child for child in root.children if child.tag == "cpu"]
        names = []
        for index, cpu in enumerate(cpus):
            name = f"cpu{cpu.at.get('numaid', index)}"
            if name in self.nodes:
                raise FormatError(f"'{name}' stands twice", row=cpu.row, field="numaid")
            names.append(name)
            self.nodes[name] = FabricNode(id=name, kind="cpu", host="host")
            self._walk(cpu, name)
        for a, b in combinations(names, 2):
            self._both(a, b, _CPU_GB_S, 1, "pcie")
        for gpu, element, link in self.fast:
            self._fast_link(gpu, element, link)
        if not self.gpu_at:
            raise FormatError("names no GPU", field="system")
        self._check_pairs()
        nodes = sorted(self.nodes.values(), key=lambda node: node.kind != "gpu")
        return Fabric.build(nodes, self.links, name="NCCL topology", notes=self.notes)

    def _walk(self, parent: _Element, above: str) -> None:
        for child in parent.children:
            if child.tag == "pci":
                self._device(child, above)

    def _device(self, pci: _Element, above: str) -> None:
        bus = pci.at.get("busid", "")
        if not bus:
            raise FormatError("a <pci> without busid", row=pci.row, field="busid")
        kind = pci.at.get("class", "")
        gpu = next((c for c in pci.children if c.tag == "gpu"), None)
        if gpu is not None or kind.startswith(_GPU_CLASSES):
            name = self._gpu(pci, gpu, bus)
        elif kind.startswith("0x0604") or any(c.tag == "pci" for c in pci.children):
            name = self._add(bus, "pcie", pci)
        elif kind.startswith("0x02") or any(c.tag == "nic" for c in pci.children):
            name = self._add(bus, "nic", pci)
        else:
            return  # storage and the like
        self._both(above, name, _pcie_gb_s(pci), 1, "pcie")
        self._walk(pci, name)

    def _add(self, name: str, kind: str, element: _Element) -> str:
        if name in self.nodes:
            raise FormatError(f"'{name}' stands twice", row=element.row, field="busid")
        self.nodes[name] = FabricNode(id=name, kind=kind, host="host")
        return name

    def _gpu(self, pci: _Element, gpu: _Element | None, bus: str) -> str:
        number = str(self.count) if gpu is None else gpu.at.get("dev", str(self.count))
        if not number.isdigit():
            raise FormatError(f"wants a number, got '{number}'", row=pci.row, field="dev")
        self.count += 1
        name = self._add(f"GPU{number}", "gpu", pci)
        if bus in self.gpu_at:
            raise FormatError(f"'{bus}' stands twice", row=pci.row, field="busid")
        self.gpu_at[bus] = name
        for link in gpu.children if gpu is not None else ():
            if gpu is not None and link.tag in ("nvlink", "xgmi"):
                self.fast.append((name, gpu, link))
        return name

    def _fast_link(self, gpu: str, element: _Element, link: _Element) -> None:
        count = link.at.get("count", "1")
        if not count.isdigit() or not 1 <= int(count) <= 64:
            raise FormatError(f"wants 1 to 64 links, got '{count}'", row=link.row, field="count")
        target = link.at.get("target", "")
        if link.at.get("tclass", "").startswith(_NVSWITCH_CLASS):
            if target not in self.nodes:
                self.nodes[target] = FabricNode(id=target, kind="nvswitch", host="host")
            self._both(gpu, target, _lane(element, link) * int(count), int(count), "nvlink")
            return
        peer = self.gpu_at.get(target)
        if peer is None:
            raise FormatError(f"there is no device '{target}'", row=link.row, field="target")
        if peer == gpu:
            self.notes.append(f"{gpu}: its {link.tag} names itself as target and is left out")
            return
        kind = "nvlink" if link.tag == "nvlink" else "xgmi"
        self._one(gpu, peer, _lane(element, link) * int(count), int(count), kind)

    def _check_pairs(self) -> None:
        """Direct links are listed at both ends; one that is not, or differs, is a mistake."""
        lanes: dict[tuple[Any, Any], int] = {}
        for link in self.links:
            if link.kind in ("nvlink", "xgmi"):
                pair = (link.source, link.target)
                lanes[pair] = lanes.get(pair, 0) + link.links
        for (a, b), count in lanes.items():
            if lanes.get((b, a), 0) != count:
                message = f"{a} has {count} links to {b}, {b} has {lanes.get((b, a), 0)} back"
                raise FormatError(message, field="count")

    def _one(self, a: str, b: str, bandwidth: float, count: int, kind: str) -> None:
        self.links.append(
            FabricLink(
                source=a, target=b, bandwidth_gb_s=bandwidth, effective_gb_s=0.0, links=count,
                kind=kind,
            )
        )  # fmt: skip

    def _both(self, a: str, b: str, bandwidth: float, count: int, kind: str) -> None:
        self._one(a, b, bandwidth, count, kind)
        self._one(b, a, bandwidth, count, kind)


def _pcie_gb_s(pci: _Element) -> float:
    """Nominal GB/s of a device's port; the default where speed or width is not given."""
    speed = re.match(r"\s*([\d.]+)", pci.at.get("link_speed", ""))
    width = pci.at.get("link_width", "")
    if speed is None or not width.isdigit() or int(width) == 0:
        return _DEFAULT_PCIE_GB_S
    lane = _LANE_GB_S.get(float(speed[1]))
    if lane is None or int(width) > 32:
        raise FormatError(
            f"wants a PCIe speed and width, got '{speed[1]}' x {width}",
            row=pci.row,
            field="link_speed",
        )
    return lane * int(width)


def _lane(gpu: _Element, link: _Element) -> float:
    """Nominal GB/s of one NVLink or xGMI link of this GPU."""
    if link.tag == "xgmi":
        model = gpu.at.get("gcn", "")
        return 64.0 if model.startswith(("94", "gfx94")) else 50.0 if "90a" in model else 46.0
    sm = gpu.at.get("sm", "")
    number = int(sm) if sm.isdigit() else _PASCAL_SM
    return 50.0 if number >= _NVLINK5_SM else 25.0 if number >= _PASCAL_SM else 20.0
