"""Compiled decode: one query of one head over clusters and 8-bit rows."""

from __future__ import annotations

import numpy as np
from numba import njit

_BINS, _SHIFT = 2048, 20


@njit(cache=True, nogil=True, fastmath=True)
def _dot8(q, codes, row):
    total = np.float32(0)
    for c in range(q.shape[0]):
        total += q[c] * np.float32(codes[row, c])
    return total


@njit(cache=True, nogil=True, fastmath=True)
def _scores8(q, codes, first, last, out):
    for row in range(first, last):
        total = np.float32(0)
        for c in range(q.shape[0]):
            total += q[c] * np.float32(codes[row, c])
        out[row] = total


@njit(cache=True, nogil=True, fastmath=True)
def _add8(weight, codes, first, last, total):
    for row in range(first, last):
        w = weight[row]
        for c in range(total.shape[0]):
            total[c] += w * np.float32(codes[row, c])


@njit(cache=True, nogil=True)
def _cut(gain, places, allowed):
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
def decode_head(
    q, scale, tolerance,
    mean_k, mean_k_step, mean_k_mid, mean_v, mean_v_step, mean_v_mid, log_size, spread,
    spread_v, within, along, start,
    row_k, row_k_step, row_k_mid, row_v, row_v_step, row_v_mid,
    tail_k, tail_v, tail, out,
):  # fmt: skip
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
    d, dv, m = q.shape[0], out.shape[0], log_size.shape[0]
    small = np.empty(d, np.float32)
    base = np.float32(0)
    length = np.float32(0)
    for c in range(d):
        small[c] = q[c] * scale * mean_k_step[c]
        base += q[c] * scale * mean_k_mid[c]
        part = np.float32(0)
        for e in range(d):
            part += within[c, e] * q[e]
        length += part * q[c] * scale * scale
    shift = np.zeros(dv, np.float32)
    for c in range(dv):
        for e in range(d):
            shift[c] += along[c, e] * q[e] * scale
    score = np.empty(m, np.float32)
    _scores8(small, mean_k, 0, m, score)
    top = np.float32(-3e38)
    for c in range(m):
        score[c] += base + log_size[c] + np.float32(0.5) * min(length * spread[c], np.float32(4))
        top = max(top, score[c])
    near = np.empty(tail, np.float32)
    for j in range(tail):
        total = np.float32(0)
        for c in range(d):
            total += q[c] * tail_k[j, c]
        near[j] = total * scale
        top = max(top, near[j])
    mass = np.float32(0)
    moved = np.float32(0)
    for c in range(m):
        score[c] = np.exp(score[c] - top)
        mass += score[c]
        moved += score[c] * spread[c]
    codes = np.zeros(dv, np.float32)
    _add8(score, mean_v, 0, m, codes)
    plain = np.zeros(dv, np.float32)
    plain_mass = np.float32(0)
    for j in range(tail):
        w = np.exp(near[j] - top)
        plain_mass += w
        for c in range(dv):
            plain[c] += w * tail_v[j, c]
    whole = mass + plain_mass
    square = np.float32(0)
    for c in range(dv):
        guess = codes[c] * mean_v_step[c] + mass * mean_v_mid[c] + plain[c] + moved * shift[c]
        guess /= whole
        square += guess * guess
    gain = np.empty(m, np.float32)
    for c in range(m):
        share = score[c] / whole
        gain[c] = share * share * min(length * spread[c], np.float32(4)) * (spread_v[c] + square)
    places = gain.view(np.int32)
    limit = _cut(gain, places, tolerance * tolerance * square)
    for c in range(d):
        small[c] = q[c] * scale * row_k_step[c]
    base = np.float32(0)
    for c in range(d):
        base += q[c] * scale * row_k_mid[c]
    fine = np.zeros(dv, np.float32)
    fine_mass = np.float32(0)
    read = 0
    for c in range(m):
        if places[c] >> _SHIFT < limit:
            continue
        closed = score[c]
        mass -= closed
        moved -= closed * spread[c]
        for e in range(dv):
            codes[e] -= closed * np.float32(mean_v[c, e])
        for row in range(start[c], start[c + 1]):
            w = np.exp(min(_dot8(small, row_k, row) + base - top, np.float32(80)))
            fine_mass += w
            for e in range(dv):
                fine[e] += w * np.float32(row_v[row, e])
        read += start[c + 1] - start[c]
    whole = mass + plain_mass + fine_mass
    for c in range(dv):
        closed = codes[c] * mean_v_step[c] + mass * mean_v_mid[c] + moved * shift[c]
        opened = fine[c] * row_v_step[c] + fine_mass * row_v_mid[c]
        out[c] = (closed + opened + plain[c]) / whole
    return read
