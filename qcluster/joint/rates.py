"""How fast each GPU does its share of a step, under its power cap and with the links it has left.

A step's tokens are computed and moved. With ``c`` the share of time that moving takes on a GPU at
full speed with all its links, a GPU at speed ``s`` whose links are up to a share ``l`` takes

    (1 - c) / s + c / l      times as long for a token; its rate is the reciprocal of that.

The rate is concave in ``s``, so for a given sum of speeds it is highest in the mean when all speeds
are equal (Jensen): that is the bound of ``stretch``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.telemetry import Snapshot

__all__ = ["DETOUR", "SLOWEST", "bound", "job_stretch", "link_shares", "rates", "stretch"]

Floats = NDArray[np.float64]

_FAST = ("nvlink", "xgmi")
DETOUR = 0.05
"""Bandwidth of the way round dead links, as a share of theirs: PCIe 5.0 x16 beside NVLink 4."""
SLOWEST = 1e-3
"""A GPU that answers is never taken to be slower than this share of full speed."""


def link_shares(snapshot: Snapshot) -> Floats:
    """(gpus,) share of each GPU's NVLink (or xGMI) bandwidth that is up; 1 where none is known.

    Lanes whose state is not reported count as up. A GPU without such links is judged by the links
    that it has. With all of them down tokens go another way (PCIe, the host), so the share never
    falls below ``DETOUR``.
    """
    topology = snapshot.topology
    index = {name: i for i, name in enumerate(topology.gpu_ids)}
    state = snapshot.link.get("link_up")
    if state is None or not topology.links:
        return np.ones(len(index))
    has = np.zeros((2, len(index)))
    whole = np.zeros((2, len(index)))
    for link, up in zip(topology.links, np.nan_to_num(state, nan=1.0), strict=True):
        kind = 0 if link.kind in _FAST else 1
        for end in (link.source, link.target):
            if (at := index.get(end)) is not None:
                whole[kind, at] += link.bandwidth_gb_s
                has[kind, at] += link.bandwidth_gb_s * up
    fast = whole[0] > 0
    total = np.where(fast, whole[0], whole[1])
    left = np.where(fast, has[0], has[1])
    share = np.where(total > 0, left / np.maximum(total, 1e-300), 1.0)
    return np.clip(share, DETOUR, 1.0)


def rates(speed: Floats, links: Floats, communication_share: float) -> Floats:
    """(gpus,) rate of each GPU, 0 to 1; 0 exactly where ``speed`` is 0: it does not answer."""
    works = speed > 0
    time = (1.0 - communication_share) / np.maximum(speed, SLOWEST) + communication_share / links
    out: Floats = np.where(works, 1.0 / time, 0.0)
    return out


def stretch(loads: Floats, rate: Floats, alive: NDArray[np.bool_]) -> float:
    """How much longer the layers take than with the load spread evenly over GPUs at full speed.

    Parameters
    ----------
    loads: (layers, gpus) tokens; a layer is done when its slowest GPU is.
    rate: (gpus,) as ``rates`` gives them; infinite when a GPU with rate 0 has load.
    alive: (gpus,) GPUs that answer.
    """
    ideal = float(loads.sum()) / max(int(alive.sum()), 1)
    if ideal <= 0:
        return 1.0
    if (loads[:, rate <= 0] > 0).any():
        return float("inf")
    works = rate > 0
    return float((loads[:, works] / rate[works]).max(axis=1).sum()) / ideal


def job_stretch(groups: list[list[int]], speed: Floats) -> float:
    """Mean over the groups' GPUs of how much longer a step takes; a group waits for its slowest."""
    total = sum(len(group) for group in groups)
    slow = sum(len(group) / max(float(speed[group].min()), SLOWEST) for group in groups)
    return slow / total if total else 1.0


def bound(sum_of_speeds: float | None, gpus: int, communication_share: float) -> float:
    """The least stretch of any placement and any caps whose speeds sum to no more than this."""
    if sum_of_speeds is None or gpus < 1:
        return 1.0
    mean = min(1.0, sum_of_speeds / gpus)
    if mean <= 0:
        return 1.0
    return (1.0 - communication_share) / mean + communication_share
