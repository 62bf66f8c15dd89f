"""Compiled decode: one query of one head over clusters and 8-bit rows."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]

_BINS, _SHIFT = 2048, 20


@njit(cache=True, nogil=True, fastmath=True)
def _dot8(q: Floats, codes: Codes, row: int) -> np.float32:
    total = np.float32(0)
    for c in range(q.shape[0]):
        total += q[c] * np.float32(codes[row, c])
    return total


@njit(cache=True, nogil=True, fastmath=True)
def _scores8(q: Floats, codes: Codes, first: int, last: int, out: Floats) -> None:
    for row in range(first, last):
        total = np.float32(0)
        for c in range(q.shape[0]):
            total += q[c] * np.float32(codes[row, c])
        out[row] = total


@njit(cache=True, nogil=True, fastmath=True)
def _add8(weight: Floats, codes: Codes, first: int, last: int, total: Floats) -> None:
    for row in range(first, last):
        w = weight[row]
        for c in range(total.shape[0]):
            total[c] += w * np.float32(codes[row, c])


@njit(cache=True, nogil=True)
def _cut(gain: Floats, places: NDArray[np.int32], allowed: float) -> int:
    """The bin from which clusters are opened, so that gains below add up to ``allowed`` at most.

    A bin is an eighth of an octave: the exponent and three bits of a float32, which order as the
    numbers do.
    """
    sums = np.zeros(_BINS, np.float64)
    for c in range(gain.shape[0]):
        sums[places[c] >> _SHIFT] += gain[c]
    left = 0.0
    for b in range(_BINS):
        left += sums[b]
        if left > allowed:
            return b
    return _BINS


@njit(cache=True, nogil=True, fastmath=True)
def _stepped(q: Floats, scale: np.float32, step: Floats, mid: Floats, small: Floats) -> np.float32:
    """The query in steps of the keys' channels into ``small``; what their middles add."""
    base = np.float32(0)
    for c in range(q.shape[0]):
        small[c] = q[c] * scale * step[c]
        base += q[c] * scale * mid[c]
    return base


@njit(cache=True, nogil=True, fastmath=True)
def _width(q: Floats, within: Floats) -> np.float32:
    """The variance of unscaled scores inside a cluster as wide as the mean of all."""
    length = np.float32(0)
    for c in range(q.shape[0]):
        part = np.float32(0)
        for e in range(q.shape[0]):
            part += within[c, e] * q[e]
        length += part * q[c]
    return length


@njit(cache=True, nogil=True, fastmath=True)
def _drift(q: Floats, scale: np.float32, along: Floats) -> Floats:
    """(dv,) how far the mean value moves inside a cluster as wide as the mean of all."""
    drift = np.zeros(along.shape[0], np.float32)
    for c in range(along.shape[0]):
        for e in range(q.shape[0]):
            drift[c] += along[c, e] * q[e] * scale
    return drift


@njit(cache=True, nogil=True, fastmath=True)
def _weights(
    base: np.float32, length: np.float32, log_size: Floats, spread: Floats, top: np.float32,
    score: Floats,
) -> tuple[np.float32, np.float32, np.float32]:  # fmt: skip
    """The clusters' weights in place of their ``score`` (m,); the largest score of all, the
    weights' sum, and their sum by spread.
    """
    for c in range(score.shape[0]):
        score[c] += base + log_size[c] + np.float32(0.5) * min(length * spread[c], np.float32(4))
        top = max(top, score[c])
    mass, moved = np.float32(0), np.float32(0)
    for c in range(score.shape[0]):
        score[c] = np.exp(score[c] - top)
        mass += score[c]
        moved += score[c] * spread[c]
    return top, mass, moved


@njit(cache=True, nogil=True, fastmath=True)
def _scores_near(
    q: Floats, scale: np.float32, tail_k: Floats, tail: int
) -> tuple[Floats, np.float32]:
    """Scores of the rows in float32, and the largest or as good as none."""
    near, top = np.empty(tail, np.float32), np.float32(-3e38)
    for j in range(tail):
        total = np.float32(0)
        for c in range(q.shape[0]):
            total += q[c] * tail_k[j, c]
        near[j] = total * scale
        top = max(top, near[j])
    return near, top


@njit(cache=True, nogil=True, fastmath=True)
def _add_near(near: Floats, top: np.float32, tail_v: Floats, plain: Floats) -> np.float32:
    """Add the rows in float32 by their weights to ``plain``; the weights' sum."""
    mass = np.float32(0)
    for j in range(near.shape[0]):
        w = np.exp(near[j] - top)
        mass += w
        for c in range(plain.shape[0]):
            plain[c] += w * tail_v[j, c]
    return mass


@njit(cache=True, nogil=True, fastmath=True)
def _open(
    small: Floats, base: np.float32, row_k: Codes, row_v: Codes, first: int, last: int, fine: Floats
) -> np.float32:
    """Add the rows of an opened cluster by their weights to ``fine``; the weights' sum."""
    mass = np.float32(0)
    for row in range(first, last):
        w = np.exp(min(_dot8(small, row_k, row) + base, np.float32(80)))
        mass += w
        for e in range(fine.shape[0]):
            fine[e] += w * np.float32(row_v[row, e])
    return mass


@njit(cache=True, nogil=True, fastmath=True)
def decode_head(
    q: Floats, scale: np.float32, tolerance: np.float32, mean_k: Codes, mean_k_step: Floats,
    mean_k_mid: Floats, mean_v: Codes, mean_v_step: Floats, mean_v_mid: Floats, log_size: Floats,
    spread: Floats, spread_v: Floats, within: Floats, along: Floats, start: NDArray[np.int64],
    row_k: Codes, row_k_step: Floats, row_k_mid: Floats, row_v: Codes, row_v_step: Floats,
    row_v_mid: Floats, tail_k: Floats, tail_v: Floats, tail: int, out: Floats,
) -> int:  # fmt: skip
    """Writes one head's output (dv,) into ``out``; returns the rows that were read in 8 bits.

    ``mean_*`` are clusters' means (m, d) in int8 with step and middle of every channel; ``within``
    (d, d) and ``along`` (dv, d) the mean covariance of keys, and of values with keys, inside
    clusters; ``spread`` (m,) how much wider than the mean each cluster is; ``spread_v`` the mean
    squared distance of its values plus the squared length of their mean; ``start`` (m + 1,) where
    its rows begin. ``tail`` rows at the end are in float32.

    To second order in the scores' deviation inside a cluster, its mass is exp(var / 2) of what the
    mean key says, and its mean value moves by cov(v, k) q: both are added to closed clusters.
    Clusters are opened until those left closed are estimated to put the output off by at most
    ``tolerance`` of its length.
    """
    dv, m = out.shape[0], log_size.shape[0]
    small = np.empty(q.shape[0], np.float32)
    base = _stepped(q, scale, mean_k_step, mean_k_mid, small)
    length = _width(q, within) * scale * scale
    drift = _drift(q, scale, along)
    score = np.empty(m, np.float32)
    _scores8(small, mean_k, 0, m, score)
    near, top = _scores_near(q, scale, tail_k, tail)
    top, mass, moved = _weights(base, length, log_size, spread, top, score)
    codes, plain = np.zeros(dv, np.float32), np.zeros(dv, np.float32)
    _add8(score, mean_v, 0, m, codes)
    plain_mass = _add_near(near, top, tail_v, plain)
    whole, square = mass + plain_mass, np.float32(0)
    for c in range(dv):
        guess = codes[c] * mean_v_step[c] + mass * mean_v_mid[c] + plain[c] + moved * drift[c]
        square += guess * guess / (whole * whole)
    gain = np.empty(m, np.float32)
    for c in range(m):
        share = score[c] / whole
        gain[c] = share * share * min(length * spread[c], np.float32(4)) * (spread_v[c] + square)
    places = gain.view(np.int32)
    limit = _cut(gain, places, tolerance * tolerance * square)
    base = _stepped(q, scale, row_k_step, row_k_mid, small)
    fine = np.zeros(dv, np.float32)
    fine_mass, read = np.float32(0), 0
    for c in range(m):
        if places[c] >> _SHIFT < limit:
            continue
        mass -= score[c]
        moved -= score[c] * spread[c]
        for e in range(dv):
            codes[e] -= score[c] * np.float32(mean_v[c, e])
        fine_mass += _open(small, base - top, row_k, row_v, start[c], start[c + 1], fine)
        read += start[c + 1] - start[c]
    whole = mass + plain_mass + fine_mass
    for c in range(dv):
        closed = codes[c] * mean_v_step[c] + mass * mean_v_mid[c] + moved * drift[c]
        opened = fine[c] * row_v_step[c] + fine_mass * row_v_mid[c]
        out[c] = (closed + opened + plain[c]) / whole
    return read
