"""NVLink as the driver sees it: which lanes of which GPU are up, and what is at their other end.

GPUs behind an NVSwitch each have one link, all lanes together, to ``DOMAIN/nvswitch``; GPUs that
are wired to one another have a link for each pair. The domain is the cluster that the fabric
manager has joined (NVL72: one rack), otherwise the machine itself.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from qcluster.telemetry.topology import Link

__all__ = ["node_links"]

# GB/s of one lane and direction by NVLink generation, rounded as NVIDIA's data sheets do.
_LANE_GB_S = {1: 20.0, 2: 25.0, 3: 25.0, 4: 25.0, 5: 50.0}
_SWITCH = 2


def node_links(nv: Any, handles: list[Any], node: str) -> tuple[tuple[Link, ...], str]:
    """Links of the lanes that are up now, and the NVLink domain of this machine."""
    domain = _domain(nv, handles[0]) or node
    by_bus = {_bus(nv, handle): index for index, handle in enumerate(handles)}
    lanes: Counter[tuple[str, str]] = Counter()
    speed: dict[tuple[str, str], float] = {}
    for index, handle in enumerate(handles):
        for lane in range(getattr(nv, "NVML_NVLINK_MAX_LINKS", 18)):
            other = _other_end(nv, handle, lane, by_bus)
            if other is None or other == index:
                continue
            if other >= 0 and other < index:
                continue  # counted from the other side
            end = f"{domain}/nvswitch" if other < 0 else f"{node}/{other}"
            key = (f"{node}/{index}", end)
            lanes[key] += 1
            speed[key] = _lane_gb_s(nv, handle, lane)
    links = tuple(
        Link(source=source, target=target, bandwidth_gb_s=speed[source, target] * n, links=n)
        for (source, target), n in lanes.items()
    )
    return links, domain


def _other_end(nv: Any, handle: Any, lane: int, by_bus: dict[str, int]) -> int | None:
    """Index of the GPU at the other end, -1 for a switch, None where the lane is down."""
    try:
        if not nv.nvmlDeviceGetNvLinkState(handle, lane):
            return None
    except nv.NVMLError:
        return None
    try:
        if nv.nvmlDeviceGetNvLinkRemoteDeviceType(handle, lane) == _SWITCH:
            return -1
        return by_bus.get(_key(nv.nvmlDeviceGetNvLinkRemotePciInfo(handle, lane)), -1)
    except nv.NVMLError:
        return -1


def _lane_gb_s(nv: Any, handle: Any, lane: int) -> float:
    try:
        return _LANE_GB_S.get(nv.nvmlDeviceGetNvLinkVersion(handle, lane), 25.0)
    except nv.NVMLError:
        return 25.0


def _bus(nv: Any, handle: Any) -> str:
    try:
        return _key(nv.nvmlDeviceGetPciInfo(handle))
    except nv.NVMLError:
        return ""


def _key(pci: Any) -> str:
    bus = pci.busId
    text = bus.decode() if isinstance(bus, bytes) else str(bus)
    # One call gives an 8-digit domain, the other a 4-digit one.
    domain, _, rest = text.lower().partition(":")
    return f"{int(domain or '0', 16):x}:{rest}"


def _domain(nv: Any, handle: Any) -> str:
    """The fabric's cluster id and clique, '' where the GPU belongs to none."""
    try:
        info = nv.c_nvmlGpuFabricInfo_t()
        nv.nvmlDeviceGetGpuFabricInfo(handle, info)
    except (nv.NVMLError, AttributeError):
        return ""
    cluster = bytes(info.clusterUuid).hex()
    return f"nvl-{cluster[:8]}-{info.cliqueId}" if cluster.strip("0") else ""
