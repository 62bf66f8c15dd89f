"""What of the traffic inside domains goes over NICs, because NVLink alone would take longest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcluster.q_nvlink.alltoall.domains import Domains

__all__ = ["least_over_nics", "split_inside"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def split_inside(traffic: Ints, domains: Domains, seconds: float) -> tuple[Ints, Ints]:
    """(over NVLink, over NICs), both (n, n) bytes: as little over NICs as ``seconds`` allow.

    Only what a GPU's NVLink port cannot carry in time goes over its NIC, to the GPUs it is for.
    Where NICs have no room for it either, it stays on NVLink and takes longer.
    """
    of = domains.of
    inside = np.where(of[:, None] == of[None, :], traffic, 0)
    most = domains.port * seconds
    if (inside.sum(axis=1) <= most).all() and (inside.sum(axis=0) <= most).all():
        return inside, np.zeros_like(inside)
    moved = np.zeros_like(inside)
    across = traffic - inside
    for s in range(domains.count):
        here = np.flatnonzero(of == s)
        block = np.ix_(here, here)
        room = _room(across, inside, domains, here, seconds)
        moved[block] = least_over_nics(inside[block], most[here], room[0], room[1])
    return inside - moved, moved


def _room(across: Ints, inside: Ints, domains: Domains, here: Ints, seconds: float) -> Floats:
    """(2, gpus) bytes that the NICs of a domain can take besides, out and in.

    A NIC's own bytes may come to it by NVLink from others instead, where its port has time.
    """
    nic, port = domains.nic[here] * seconds, domains.port[here] * seconds
    found = np.empty((2, len(here)))
    for way, axis in enumerate((1, 0)):
        own, near = across.sum(axis=axis)[here], inside.sum(axis=axis)[here]
        stays = np.maximum(own - np.maximum(port - near, 0.0), 0.0)
        found[way] = np.maximum(nic - stays, 0.0)
    return found


def least_over_nics(inside: Ints, most: Floats, out: Floats, into: Floats) -> Ints:
    """Bytes (g, g) to take off NVLink, so that rows and columns of the rest are below ``most``.

    ``out`` and ``into`` (g,) bound what each NIC takes. Pairs whose both ends are too busy first;
    then every end that still is gives to the others in proportion to their room.
    """
    moved = np.zeros_like(inside)
    out, into = np.floor(out), np.floor(into)

    def excess() -> tuple[Floats, Floats]:
        rest = inside - moved
        return (
            np.maximum(np.ceil(rest.sum(axis=1) - most), 0.0),
            np.maximum(np.ceil(rest.sum(axis=0) - most), 0.0),
        )

    rows, columns = excess()
    for i in np.flatnonzero(rows):
        for j in np.flatnonzero(columns):
            part = min(rows[i], columns[j], float(inside[i, j]), out[i], into[j])
            moved[i, j] += int(part)
            out[i], into[j] = out[i] - part, into[j] - part
            rows[i], columns[j] = rows[i] - part, columns[j] - part
    rows, columns = excess()
    for i in np.flatnonzero(rows):
        part = _spread(min(rows[i], out[i]), np.minimum(inside[i] - moved[i], into))
        moved[i] += part
        into -= part
        out[i] = max(0.0, out[i] - float(part.sum()))
    rows, columns = excess()
    for j in np.flatnonzero(columns):
        part = _spread(min(columns[j], into[j]), np.minimum(inside[:, j] - moved[:, j], out))
        moved[:, j] += part
        out -= part
    return moved


def _spread(volume: float, room: Floats) -> Ints:
    """Whole bytes in proportion to ``room`` (g,), at least ``volume`` of them as far as it goes."""
    total = float(room.sum())
    if total <= 0 or volume <= 0:
        return np.zeros(len(room), dtype=np.int64)
    return np.minimum(np.ceil(room * min(1.0, volume / total)), room).astype(np.int64)
