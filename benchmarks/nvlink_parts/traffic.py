"""Traffic between ranks: training jobs, stencils, experts, graphs of many shapes. Bytes (n, n)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

__all__ = [
    "blocks",
    "experts",
    "grid",
    "halo",
    "mixed",
    "power_law",
    "rings",
    "scattered",
    "unseen",
]


def mixed(n: int, seed: int) -> Any:
    """Bytes of jobs with tensor, pipeline and data or expert parallel groups, ranks shuffled."""
    rng = np.random.default_rng(seed)
    bytes_, at = np.zeros((n, n)), 0

    def ring(group: Any, volume: float) -> None:
        if len(group) > 1:
            bytes_[group, np.roll(group, -1)] += volume

    def everyone(group: Any, volume: float) -> None:
        bytes_[np.ix_(group, group)] += volume / len(group)

    while at < n:
        left = n - at
        sizes = [s for s in (4, 8, 16, 24, 32, 48, 64, 96, 128) if s <= left] or [left]
        size = int(rng.choice(sizes))
        tensor = int(rng.choice([t for t in (1, 2, 4, 8) if size % t == 0]))
        stages = int(rng.choice([p for p in (1, 2, 3, 4) if size // tensor % p == 0]))
        rank = at + np.arange(size).reshape(-1, stages, tensor)
        for replica in rank:
            for stage in replica:
                ring(stage, rng.uniform(5e4, 1e5))
            for before, after in itertools.pairwise(replica):
                bytes_[before, after] += rng.uniform(1e3, 5e3)
        experts = rng.integers(2)
        for p in range(stages):
            for t in range(tensor):
                volume = rng.uniform(5e3, 3e4)
                (everyone if experts else ring)(rank[:, p, t], volume)
        at += size
    return _shuffled(bytes_, rng)


def scattered(n: int, seed: int, degree: int = 6) -> Any:
    """Everyone with a few partners anywhere, volumes with a heavy tail."""
    rng = np.random.default_rng(seed)
    bytes_ = np.zeros((n, n))
    for i in range(n):
        bytes_[i, rng.choice(n, degree, replace=False)] += 100 * rng.pareto(1.5, degree)
    np.fill_diagonal(bytes_, 0)
    return bytes_


def halo(n: int, seed: int) -> Any:
    """Neighbours on a square grid, ranks shuffled: stencil codes."""
    rng = np.random.default_rng(seed)
    side = int(np.sqrt(n))
    bytes_ = np.zeros((n, n))
    at = np.arange(side * side).reshape(side, side)
    for a, b in ((at[:, :-1], at[:, 1:]), (at[:-1], at[1:])):
        bytes_[a.ravel(), b.ravel()] = rng.uniform(50, 100, a.size)
    return _shuffled(bytes_, rng)


def blocks(n: int, seed: int) -> Any:
    """Communities of unlike sizes: everyone talks within, a tenth as many pairs across."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(n // 24 + 2, n // 6))
    group = rng.choice(count, n, p=rng.dirichlet(np.full(count, 2.0)))
    chance = np.where(group[:, None] == group[None, :], 0.6, 6.0 / n)
    bytes_ = np.where(rng.random((n, n)) < chance, rng.lognormal(8, 1, (n, n)), 0.0)
    return _shuffled(bytes_, rng)


def rings(n: int, seed: int) -> Any:
    """Rings of unlike lengths over ranks, several on top of each other with other strides."""
    rng = np.random.default_rng(seed)
    bytes_ = np.zeros((n, n))
    for _ in range(3):
        order, at = rng.permutation(n) if rng.random() < 0.4 else np.arange(n), 0
        order = np.roll(order, int(rng.integers(n)))
        while at < n:
            ring = order[at : at + int(rng.integers(5, 90))]
            if len(ring) > 1:
                bytes_[ring, np.roll(ring, -1)] += rng.uniform(1e3, 2e4)
            at += len(ring)
    return _shuffled(bytes_, rng)


def power_law(n: int, seed: int) -> Any:
    """Who joins talks to whom many talk to already (Barabasi and Albert, 1999), volumes alike."""
    rng = np.random.default_rng(seed)
    bytes_, ends = np.zeros((n, n)), [0]
    for i in range(1, n):
        for j in {ends[int(rng.integers(len(ends)))] for _ in range(4)} - {i}:
            bytes_[i, j] += rng.uniform(1e3, 1e4)
            ends += [i, j]
    return _shuffled(bytes_, rng)


def experts(n: int, seed: int) -> Any:
    """Mixture of experts: some experts are hot, tokens of a rank prefer some; data rings on top."""
    rng = np.random.default_rng(seed)
    bytes_ = np.zeros((n, n))
    size = int(rng.choice([s for s in (16, 24, 32, 48, 64) if s <= n]))
    for at in range(0, n, size):
        group = np.arange(at, min(n, at + size))
        heat = 1.0 / np.arange(1, len(group) + 1) ** 0.8
        taste = rng.dirichlet(4.0 * rng.permutation(heat), len(group))
        bytes_[np.ix_(group, group)] += 1e6 * taste
    for lane in range(size):
        ring = np.arange(lane, n, size)
        if len(ring) > 1:
            bytes_[ring, np.roll(ring, -1)] += rng.uniform(1e3, 1e5)
    return _shuffled(bytes_, rng)


def grid(n: int, seed: int) -> Any:
    """One job as a grid of data x pipeline x tensor ranks, not all of n used."""
    rng = np.random.default_rng(seed)
    tensor = int(rng.choice([2, 4, 6, 8, 12]))
    stages = int(rng.choice([2, 3, 4, 6, 8]))
    replicas = n // (tensor * stages)
    rank = np.arange(replicas * stages * tensor).reshape(replicas, stages, tensor)
    bytes_ = np.zeros((n, n))
    for axis, volume in ((2, 1e6), (0, 10 ** rng.uniform(4, 6))):
        if rank.shape[axis] > 1:
            bytes_[rank, np.roll(rank, -1, axis)] += volume
    bytes_[rank[:, :-1], rank[:, 1:]] += 10 ** rng.uniform(3.5, 5.5)
    return _shuffled(bytes_, rng)


def unseen(base: int) -> dict[str, tuple[Any, list[int]]]:
    """Five of each kind, sizes 64 to 576 in domains of 4 to 72, from seeds ``base`` on."""
    shapes = ((64, 8), (128, 16), (216, 72), (288, 36), (576, 72), (576, 8), (320, 32), (432, 4))
    found = {}
    kinds = (blocks, rings, power_law, experts, grid, mixed, scattered, halo)
    for which, make in enumerate(kinds):
        for turn in range(5):
            n, room = shapes[(3 * which + turn) % len(shapes)]
            ranks = n - (room // 3 if turn == 4 else 0)
            label = f"{make.__name__} {ranks} in {n // room} x {room}"
            found[label] = make(ranks, base + 10 * which + turn), [room] * (n // room)
    return found


def _shuffled(bytes_: Any, rng: np.random.Generator) -> Any:
    np.fill_diagonal(bytes_, 0)
    order = rng.permutation(len(bytes_))
    return bytes_[np.ix_(order, order)]
