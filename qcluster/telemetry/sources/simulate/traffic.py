"""Bytes between GPUs: what the jobs want to send, and what the links carry of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.telemetry.sources.simulate.racks import Training
from qcluster.telemetry.topology import Topology

__all__ = ["Fabric", "demand"]

# One routed token of width 7168: sent as 8-bit numbers, combined as 16-bit, forward and backward.
BYTES_PER_PICK = 7168 * (1 + 2) * 2


def demand(
    training: Training, load_s: NDArray[np.float64] | None, rate: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Work of each rank against the busiest, (n,), and bytes a second from rank to rank, (n, n).

    ``load_s`` (layers, experts) is routed tokens a second of a mixture of experts, whose experts
    lie on its ranks in order; other jobs send their profile's traffic once an iteration.
    """
    n = len(training.ranks)
    if load_s is None:
        return np.ones(n), training.job.traffic() * (rate / training.iteration_s)
    home = np.arange(load_s.shape[1]) * n // load_s.shape[1]
    by_rank = np.array([np.bincount(home, weights=row, minlength=n) for row in load_s])
    # Layer after layer waits for its busiest rank.
    work = by_rank.sum(axis=0) / max(float(by_rank.max(axis=1).sum()), 1e-12)
    dispatch = np.broadcast_to(by_rank.sum(axis=0) / n * BYTES_PER_PICK / 2, (n, n))
    flow = dispatch + dispatch.T
    np.fill_diagonal(flow, 0.0)
    return 0.35 + 0.65 * work, flow


class Fabric:
    """The links of a topology: who hangs where, what was sent, how many errors there were.

    Traffic inside an NVLink domain goes over NVLink, the rest over the GPU's network card; a GPU
    spreads what it sends over its links of that kind by their bandwidth.
    """

    def __init__(self, topology: Topology) -> None:
        links, gpus = topology.links, topology.gpu_ids
        index = {gpu: i for i, gpu in enumerate(gpus)}
        domain = [topology.nodes[i].domain for i in topology.owner]
        code = np.unique(domain, return_inverse=True)[1]
        self._near = code[:, None] == code[None, :]
        self._nvlink = np.array([link.kind == "nvlink" for link in links], dtype=bool)
        self._band = np.array([link.bandwidth_gb_s * 1e9 for link in links])
        self._source = np.array([index.get(link.source, -1) for link in links])
        self._target = np.array([index.get(link.target, -1) for link in links])
        self._feeds = _feeds(topology, index)
        self._n = len(gpus)
        self.sent, self.errors = np.zeros(len(links)), np.zeros(len(links))

    def gpu_share(self, lanes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of each GPU's NVLink bandwidth that is up, (gpus,)."""
        whole = self._capacity(self._nvlink, np.ones_like(lanes))
        left = self._capacity(self._nvlink, lanes)
        return np.divide(left, whole, out=np.ones(self._n), where=whole > 0)

    def fit(self, flow: NDArray[np.float64], lanes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share of ``flow`` (gpus, gpus) that each GPU's links carry, at most 1, (gpus,)."""
        near, away = np.where(self._near, flow, 0.0), np.where(self._near, 0.0, flow)
        over_nvlink = _ratio(self._capacity(self._nvlink, lanes), near)
        return np.minimum(over_nvlink, _ratio(self._capacity(~self._nvlink, lanes), away))

    def carry(
        self, flow: NDArray[np.float64], lanes: NDArray[np.float64], dt: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Send ``flow`` (gpus, gpus) bytes a second for ``dt`` seconds.

        Returns NVLink bytes sent and received by each GPU; no GPU exceeds what its links can do.
        """
        near = np.where(self._near, flow, 0.0)
        room = self._capacity(self._nvlink, lanes)
        fits = _ratio(room, near)
        near = near * np.minimum(fits[:, None], fits[None, :])
        tx, rx = near.sum(axis=1) * dt, near.sum(axis=0) * dt
        away = np.where(self._near, 0.0, flow).sum(axis=1) * dt
        self._count(tx, away, lanes, room, dt)
        return tx, rx

    def _capacity(self, kind: NDArray[np.bool_], lanes: NDArray[np.float64]) -> NDArray[np.float64]:
        width = np.where(kind, self._band * lanes, 0.0)
        out = np.zeros(self._n)
        for ends in (self._source, self._target):
            known = ends >= 0
            out += np.bincount(ends[known], weights=width[known], minlength=self._n)
        return out

    def _count(
        self,
        tx: NDArray[np.float64],
        away: NDArray[np.float64],
        lanes: NDArray[np.float64],
        room: NDArray[np.float64],
        dt: float,
    ) -> None:
        known = self._source >= 0
        sent = np.zeros(len(self.sent))
        part = np.divide(
            self._band * lanes, room[self._source], out=np.zeros_like(sent),
            where=known & (room[self._source] > 0),
        )  # fmt: skip
        sent[known] = np.where(self._nvlink, tx[self._source] * part, away[self._source])[known]
        for link, fed_by in self._feeds:
            sent[link] = sent[fed_by].sum()
        limit = self._band * lanes * dt
        self.sent += np.minimum(sent, limit)
        # A link that has lost lanes retrains and replays.
        self.errors += np.where((lanes > 0) & (lanes < 1), 40.0 * dt, 0.0)


def _ratio(room: NDArray[np.float64], flow: NDArray[np.float64]) -> NDArray[np.float64]:
    peak = np.maximum(flow.sum(axis=1), flow.sum(axis=0))
    share: NDArray[np.float64] = np.divide(room, peak, out=np.ones_like(room), where=peak > 0)
    return np.minimum(1.0, share)


def _feeds(topology: Topology, index: dict[str, int]) -> list[tuple[int, list[int]]]:
    """Links between switches, each with the links that lead into its source."""
    into: dict[str, list[int]] = {}
    for i, link in enumerate(topology.links):
        into.setdefault(link.target, []).append(i)
    return [
        (i, into.get(link.source, []))
        for i, link in enumerate(topology.links)
        if link.source not in index
    ]
