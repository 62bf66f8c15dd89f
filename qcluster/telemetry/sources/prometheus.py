"""Any exporter that speaks Prometheus text: ``prometheus:URL[,URL...][,period=S]``.

Series are recognised by name: DCGM's and Ray's, and ours as they stand in the schema.
"""

from __future__ import annotations

from qcluster.telemetry.schema import METRICS
from qcluster.telemetry.sources.dcgm import dcgm_rules
from qcluster.telemetry.sources.endpoint import Target, gpu_id
from qcluster.telemetry.sources.exposition import Series
from qcluster.telemetry.sources.ray_metrics import ray_rules
from qcluster.telemetry.sources.scraper import Scraper

__all__ = ["general", "prometheus"]


def general(series: Series, host: str) -> Target | None:
    """The rules of all exporters that are known, and our own names with node and gpu labels."""
    found = dcgm_rules(series, host) or ray_rules(series, host)
    metric = METRICS.get(series.name.removeprefix("qcluster_"))
    if found or metric is None:
        return found
    labels = series.labels
    node = labels.get("node") or host
    subject = {"node": node, "link": labels.get("link"), "gpu": None}[metric.entity]
    if metric.entity == "gpu" and "gpu" in labels:
        subject = gpu_id(node, labels["gpu"])
    return Target(metric.entity, subject, metric.name) if subject else None


def prometheus(argument: str) -> Scraper:
    """The source ``prometheus``."""
    return Scraper("prometheus", argument, general)
