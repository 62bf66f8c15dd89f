"""Filling racks with gangs by patterns: which gangs, by size, a rack of a kind can hold together.

Racks with the same room and gangs with the same shape are interchangeable, so what is asked is how
often each pattern is used: a small integer program where items times racks would be a large one
(Gilmore and Gomory 1961). For pods whose sizes divide each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from qcluster.deadline import Deadline

__all__ = ["fill_by_patterns"]

_PATTERNS = 30_000

Room = tuple[int, ...]
"""GPUs that pods of each size can use, sizes ascending."""


class Shape(Protocol):
    """What of a gang matters here."""

    @property
    def pods(self) -> int:
        """How many."""
        ...

    @property
    def gpus(self) -> int:
        """GPUs a pod."""
        ...


def fill_by_patterns(
    racks: Sequence[Sequence[int]], gangs: Sequence[Shape], deadline: Deadline
) -> list[int] | None:
    """The rack of each gang so that all fit whole; None when there is no way, or none was found.

    ``racks``: free GPUs of each rack's nodes. Gives up where racks have too many patterns.
    """
    sizes = sorted({gang.gpus for gang in gangs})
    rooms = [tuple(size * sum(f // size for f in rack) for size in sizes) for rack in racks]
    shapes = [(gang.gpus, gang.pods) for gang in gangs]
    if all(len(set(room)) == 1 for room in rooms):
        # Every node takes every size whole, so that only a gang's GPUs count.
        rooms, sizes = [room[:1] for room in rooms], [1]
        shapes = [(1, gpus * pods) for gpus, pods in shapes]
    kinds = sorted(set(shapes), key=lambda k: -k[0] * k[1])
    want = [shapes.count(kind) for kind in kinds]
    columns: list[tuple[Room, tuple[int, ...]]] = []
    for room in sorted(set(rooms)):
        for pattern in _fillings(room, kinds, want, sizes):
            columns.append((room, pattern))
            if len(columns) > _PATTERNS or deadline.expired:
                return None
    times = _solve(columns, rooms, want, deadline)
    return None if times is None else _hand_out(columns, times, rooms, kinds, shapes)


def _fillings(
    room: Room, kinds: Sequence[tuple[int, int]], want: Sequence[int], sizes: Sequence[int]
) -> Iterator[tuple[int, ...]]:
    """The ways to fill a rack to which nothing can be added: counts by kind."""

    def fits(left: Room, kind: int) -> Room | None:
        gpus, pods = kinds[kind]
        # A pod takes from the room of its own size and of every smaller one.
        rest = tuple(
            free - gpus * pods * (size <= gpus) for free, size in zip(left, sizes, strict=True)
        )
        return rest if min(rest) >= 0 else None

    def go(kind: int, left: Room, counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if kind == len(kinds):
            more = (k for k in range(len(kinds)) if counts[k] < want[k])
            if not any(fits(left, k) for k in more):
                yield counts
            return
        ways: list[tuple[int, Room]] = [(0, left)]
        while ways[-1][0] < want[kind] and (rest := fits(ways[-1][1], kind)) is not None:
            ways.append((ways[-1][0] + 1, rest))
        for count, rest in reversed(ways):
            yield from go(kind + 1, rest, (*counts, count))

    return go(0, room, ())


def _solve(
    columns: Sequence[tuple[Room, tuple[int, ...]]],
    rooms: Sequence[Room],
    want: Sequence[int],
    deadline: Deadline,
) -> list[int] | None:
    """How often each pattern is used: every rack once at most, every gang covered."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not columns:
        return None
    held = np.array([pattern for _, pattern in columns], dtype=float).T
    names = sorted(set(rooms))
    of = np.array([[room == name for room, _ in columns] for name in names], dtype=float)
    have = np.array([rooms.count(name) for name in names], dtype=float)
    found = milp(
        np.zeros(len(columns)),
        constraints=[
            LinearConstraint(held, lb=np.array(want, dtype=float)),
            LinearConstraint(of, ub=have),
        ],
        bounds=Bounds(0, np.inf),
        integrality=np.ones(len(columns)),
        options={"time_limit": max(deadline.remaining(), 0.05)},
    )
    return None if found.x is None else np.rint(found.x).astype(int).tolist()


def _hand_out(
    columns: Sequence[tuple[Room, tuple[int, ...]]],
    times: Sequence[int],
    rooms: Sequence[Room],
    kinds: Sequence[tuple[int, int]],
    shapes: Sequence[tuple[int, int]],
) -> list[int]:
    """Racks and gangs to the patterns in order."""
    racks: dict[Room, list[int]] = {}
    for rack, room in enumerate(rooms):
        racks.setdefault(room, []).append(rack)
    waiting: dict[tuple[int, int], list[int]] = {kind: [] for kind in kinds}
    for i, shape in enumerate(shapes):
        waiting[shape].append(i)
    chosen = [-1] * len(shapes)
    for (room, pattern), count in zip(columns, times, strict=True):
        for _ in range(count):
            rack = racks[room].pop()
            for kind, number in zip(kinds, pattern, strict=True):
                for _ in range(min(number, len(waiting[kind]))):
                    chosen[waiting[kind].pop()] = rack
    return chosen
