"""Ray's own metrics of its nodes: ``ray[:URL[,URL...]][,period=S]``.

Every Ray node's agent serves Prometheus text on its metrics export port. This module knows the
names, not Ray: whoever runs beside Ray hands it ``ray.nodes``, and the source follows nodes that
join and leave. Nodes are named by their address, as Ray's ``ip`` label has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from qcluster.errors import NotReady
from qcluster.telemetry.sources.endpoint import Target, gpu_id, labels_of
from qcluster.telemetry.sources.exposition import Series
from qcluster.telemetry.sources.scraper import Scraper

__all__ = ["ray", "ray_rules", "ray_urls"]

_NODE = {
    "ray_node_cpu_utilization": ("node_cpu", 0.01),
    "ray_node_mem_used": ("node_memory_bytes", 1.0),
}
_GPU = {
    "ray_node_gpus_utilization": ("utilization", 0.01),
    # Ray's help text says bytes; the value comes in MiB.
    "ray_node_gram_used": ("memory_used_bytes", 2.0**20),
    "ray_node_gpu_power_milliwatts": ("power_w", 1e-3),
    "ray_node_gpu_temperature_celsius": ("temperature_c", 1.0),
}


def ray_rules(series: Series, host: str) -> Target | None:
    """Where a series of Ray's node agent goes."""
    labels = series.labels
    node = labels_of(labels, "ip", "NodeAddress") or host
    if series.name in _NODE:
        metric, scale = _NODE[series.name]
        return Target("node", node, metric, scale)
    if series.name in _GPU:
        metric, scale = _GPU[series.name]
        subject = gpu_id(node, labels.get("GpuIndex", ""))
        if subject is not None:
            model, device = labels.get("GpuDeviceName", ""), labels.get("GpuUuid", "")
            return Target("gpu", subject, metric, scale, model=model, device=device)
    return None


def ray_urls(nodes: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Where the living nodes serve their metrics, from what ``ray.nodes()`` returns.

    Raises NotReady while no living node has a metrics port.
    """
    urls = []
    for node in nodes:
        address, port = node.get("NodeManagerAddress"), node.get("MetricsExportPort")
        if node.get("Alive", node.get("alive")) and address and port:
            host = f"[{address}]" if ":" in address else address
            urls.append(f"http://{host}:{port}/metrics")
    if not urls:
        raise NotReady("no living Ray node has a metrics port")
    return tuple(sorted(urls))


def ray(argument: str, nodes: Callable[[], Iterable[Mapping[str, Any]]] | None = None) -> Scraper:
    """The source ``ray``. ``nodes`` is ``ray.nodes`` where Ray is; it may block.

    Without URLs and without ``nodes`` it raises NotReady when it is read.
    """

    def discover() -> tuple[str, ...]:
        if nodes is None:
            raise NotReady("the source 'ray' needs a Ray cluster around it, or URLs")
        return ray_urls(nodes())

    return Scraper("ray", argument, ray_rules, discover)
