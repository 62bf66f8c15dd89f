"""NVIDIA's DCGM exporter: ``dcgm:URL[,URL...][,period=S]``.

Which field becomes which metric, and in which unit, stands in the schema. A GPU cut into slices
(MIG) reports power, clocks and temperature of the whole device once a slice: those are marked
SHARED and count once; memory of the slices adds up, and their activity counts by size.
"""

from __future__ import annotations

from qcluster.telemetry.schema import METRICS
from qcluster.telemetry.sources.endpoint import Target, gpu_id, labels_of
from qcluster.telemetry.sources.exposition import Series
from qcluster.telemetry.sources.scraper import Scraper

__all__ = ["dcgm", "dcgm_rules"]

_FIELDS = {metric.dcgm: metric for metric in METRICS.values() if metric.dcgm}
# Some exporters are set to send the draw of the moment and not that of the last second.
_FIELDS["DCGM_FI_DEV_POWER_USAGE_INSTANT"] = METRICS["power_w"]
# Under MIG an A100 or later has seven compute slices; a profile is named 1g.10gb, 3g.40gb ...
_SLICES = 7


def dcgm_rules(series: Series, host: str) -> Target | None:
    """Where a series of DCGM's exporter goes."""
    metric = _FIELDS.get(series.name)
    if metric is None:
        return None
    labels = series.labels
    node = labels_of(labels, "Hostname", "hostname", "node", "instance") or host
    subject = gpu_id(node, labels.get("gpu", ""))
    if subject is None:
        return None
    part = _part(labels.get("GPU_I_PROFILE", "")) if labels.get("GPU_I_ID") else 1.0
    model, device = labels.get("modelName", ""), labels.get("UUID", "")
    return Target("gpu", subject, metric.name, metric.scale, part, model, device)


def _part(profile: str) -> float:
    """Share of the device that a slice is; one of unknown size counts as the smallest."""
    size = profile.partition("g")[0]
    return min(max(int(size), 1), _SLICES) / _SLICES if size.isdigit() else 1 / _SLICES


def dcgm(argument: str) -> Scraper:
    """The source ``dcgm``."""
    return Scraper("dcgm", argument, dcgm_rules)
