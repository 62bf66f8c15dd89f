"""Simulated history: random jobs on random GPUs of a fabric, and how long their step took.

Stands in for a cluster's own log, from which the classifier can be refitted. A layout is
*contended* when its step takes more than ``THRESHOLD`` times the bound of its jobs on its fabric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible, InputError
from qcluster.q_nvlink.contention.features import FEATURES, layout_features
from qcluster.q_nvlink.fabric import Fabric, FabricLink, FabricNode
from qcluster.q_nvlink.problem import Placement, PlacementProblem, admit
from qcluster.telemetry import Job

__all__ = ["THRESHOLD", "History", "random_layout", "simulate_history", "usual_fabrics"]

THRESHOLD = 4.0
"""Seconds of a step over their lower bound, above which a layout counts as contended: some link
takes four times as long as the busiest port would if all its links shared the load."""

# NVLinks between the GPUs of a DGX-1 with V100.
_CUBE = (
    *((0, 1, 2), (0, 2, 2), (0, 3, 1), (0, 4, 1), (1, 2, 1), (1, 3, 2), (1, 5, 1), (2, 3, 1)),
    *((2, 6, 2), (3, 7, 2), (4, 5, 2), (4, 6, 2), (4, 7, 1), (5, 6, 1), (5, 7, 2), (6, 7, 1)),
)
_KINDS = ("allreduce", "all_to_all", "ring", "pipeline")


@dataclass(frozen=True)
class History:
    """Layouts as features (rows, 8) and whether each was contended (rows,)."""

    features: NDArray[np.float64]
    contended: NDArray[np.bool_]

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]]) -> History:
        """From stored rows of ``features`` (8 numbers, by name or in order) and ``contended``.

        Plans keep such rows under ``params.layout``. Raises InputError naming row and field.
        """
        features, contended = [], []
        for index, row in enumerate(rows):
            values, label = row.get("features"), row.get("contended")
            if isinstance(values, Mapping):
                values = [values.get(name) for name in FEATURES]
            if not isinstance(values, Sequence) or len(values) != len(FEATURES):
                raise InputError(f"wants {len(FEATURES)} numbers", row=index, field="features")
            for name, value in zip(FEATURES, values, strict=True):
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if not number or not math.isfinite(value):
                    raise InputError(f"wants a number, got {value!a}", row=index, field=name)
            if not isinstance(label, bool):
                raise InputError(
                    f"wants true or false, got {label!a}", row=index, field="contended"
                )
            features.append([float(value) for value in values])
            contended.append(label)
        return cls(
            np.array(features).reshape(-1, len(FEATURES)), np.array(contended, dtype=np.bool_)
        )


def usual_fabrics() -> list[Fabric]:
    """Hosts whose layouts can contend: a hybrid cube mesh of eight GPUs whole, with a pair of
    links lost and with one halved, four GPUs in bridged pairs, and eight behind PCIe alone.
    """
    cube = _host(8, _CUBE)
    return [
        cube,
        cube.degraded(factor={"gpu0->gpu1": 0.0, "gpu1->gpu0": 0.0}),
        cube.degraded(factor={"gpu2->gpu3": 0.5, "gpu3->gpu2": 0.5}),
        cube.degraded(dead=["gpu5"]),
        _host(8, [(0, 1, 4), (2, 3, 4), (4, 5, 4), (6, 7, 4)]),
    ]


def _host(gpus: int, bridges: Sequence[tuple[int, int, int]]) -> Fabric:
    """GPUs with NVLinks of 25 GB/s, and PCIe: a switch for two GPUs, two switches to a socket."""
    nodes = [FabricNode(id=f"gpu{i}", kind="gpu", host="host") for i in range(gpus)]
    nodes += [FabricNode(id=f"plx{i}", kind="pcie") for i in range(gpus // 2)]
    nodes += [FabricNode(id=f"cpu{i}", kind="cpu") for i in range(2)]
    rows = [(f"gpu{a}", f"gpu{b}", n, 25.0 * n, "nvlink") for a, b, n in bridges]
    if not _joined(gpus, bridges):  # NVLink leaves some GPUs apart: PCIe joins them
        rows += [(f"gpu{i}", f"plx{i // 2}", 1, 12.0, "pcie") for i in range(gpus)]
        rows += [(f"plx{i}", f"cpu{i // (gpus // 4)}", 1, 12.0, "pcie") for i in range(gpus // 2)]
        rows += [("cpu0", "cpu1", 1, 20.0, "pcie")]
    links = [
        FabricLink(source=s, target=t, bandwidth_gb_s=width, effective_gb_s=0.0, links=n, kind=kind)
        for a, b, n, width, kind in rows
        for s, t in ((a, b), (b, a))
    ]
    used = {link.source for link in links}
    return Fabric.build([node for node in nodes if node.id in used], links)


def _joined(gpus: int, bridges: Sequence[tuple[int, int, int]]) -> bool:
    reached, grown = {0}, True
    while grown:
        more = {v for a, b, _ in bridges for u, v in ((a, b), (b, a)) if u in reached} - reached
        reached, grown = reached | more, bool(more)
    return len(reached) == gpus


def random_layout(
    fabric: Fabric, rng: np.random.Generator
) -> tuple[PlacementProblem, Placement] | None:
    """Up to four jobs on random GPUs; None when the jobs do not fit their groups of GPUs."""
    free = len(fabric.components[0])
    jobs: list[Job] = []
    while free >= 2 and len(jobs) < 4:
        gpus = int(rng.integers(2, min(free, 8) + 1))
        volume = float(np.exp(rng.uniform(np.log(1e8), np.log(4e9))))
        kind = _KINDS[int(rng.integers(len(_KINDS)))]
        jobs.append(Job(id=f"j{len(jobs)}", gpus=gpus, kind=kind, bytes=volume))
        free -= gpus
        if rng.random() < 0.3:
            break
    admission = admit(fabric, jobs, strict=False)
    if not admission.jobs:
        return None
    problem = PlacementProblem(fabric, admission.jobs, admission.home, {})
    pool = {c: rng.permutation(group).tolist() for c, group in enumerate(fabric.components)}
    placement: Placement = {}
    for job in admission.jobs:
        home = pool[admission.home[job.id]]
        placement[job.id], pool[admission.home[job.id]] = home[: job.gpus], home[job.gpus :]
    return problem, placement


def simulate_history(fabrics: Sequence[Fabric], rows: int, *, seed: int = 0) -> History:
    """``rows`` random layouts on fabrics in turn, each routed to see whether it is contended.

    Raises Infeasible when the fabrics hold no two GPUs that links join.
    """
    rng = np.random.default_rng(seed)
    features: list[NDArray[np.float64]] = []
    contended: list[bool] = []
    tries = 0
    while len(features) < rows:
        tries += 1
        if tries > 20 * rows + 100:
            raise Infeasible("no fabric has two GPUs that links join", field="fabrics")
        layout = random_layout(fabrics[tries % len(fabrics)], rng)
        if layout is None:
            continue
        features.append(layout_features(*layout))
        contended.append(layout[0].cost(layout[1]) > THRESHOLD * layout[0].ideal_seconds)
    return History(np.array(features).reshape(-1, 8), np.array(contended, dtype=bool))
