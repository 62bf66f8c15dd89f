"""Ray's own metrics of its nodes: ``ray:URL[,URL...][,period=S]``.

Every Ray node's agent serves Prometheus text on its metrics export port. This module knows the
names, not Ray: whoever runs beside Ray asks it for its nodes and passes the URLs. Nodes are named
by their address, as Ray's ``ip`` label has it.
"""

from __future__ import annotations

from qcluster.telemetry.sources.exposition import Series
from qcluster.telemetry.sources.prometheus import Scraper, Target, gpu_id, labels_of

__all__ = ["ray", "ray_rules"]

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
            return Target("gpu", subject, metric, scale, model=labels.get("GpuDeviceName", ""))
    return None


def ray(argument: str) -> Scraper:
    """The source ``ray``."""
    return Scraper("ray", argument, ray_rules)
