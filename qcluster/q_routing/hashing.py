"""Deterministic hashing of tokens onto experts: the same token meets the same expert everywhere.

Keys come from BLAKE2b over the token's id, never from Python's ``hash``, which is salted in each
process. Rendezvous hashing (Thaler & Ravishankar 1998) with weights, its bounded-load form
(Mirrokni, Thorup & Zadimoghaddam 2018) and jump hashing (Lamping & Veach 2014) for plain indices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible

__all__ = ["bounded_rendezvous", "jump_hash", "keys", "preference", "splitmix64"]

_CHUNK = 1 << 22


def keys(names: Sequence[str]) -> NDArray[np.uint64]:
    """(n,) 64-bit keys of names, equal in every process and on every machine."""
    digest = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014), element by element."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def preference(
    tokens: NDArray[np.uint64], experts: NDArray[np.uint64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(tokens, experts) rendezvous scores -weight / ln u: the largest wins, with probability in
    proportion to its weight; experts of weight 0 never win.
    """
    mixed = splitmix64(tokens[:, None] ^ splitmix64(experts)[None, :])
    u = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.where(weight > 0, -weight / np.log(u), -1.0)


def bounded_rendezvous(
    tokens: NDArray[np.uint64], experts: NDArray[np.uint64], capacity: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(tokens,) expert of each token, at most ``capacity`` tokens each, weighted by capacity.

    Tokens are served in order of their keys, so the result does not depend on the order in which
    they came. Raises Infeasible when there is too little capacity.
    """
    if int(capacity.sum()) < len(tokens):
        short = len(tokens) - int(capacity.sum())
        raise Infeasible(f"{short} more tokens than the experts can take", field="capacity")
    chosen = np.empty(len(tokens), dtype=np.int64)
    left = capacity.copy()
    order = np.argsort(tokens, kind="stable")
    rows = max(1, _CHUNK // len(experts))
    for begin in range(0, len(order), rows):
        part = order[begin : begin + rows]
        score = preference(tokens[part], experts, capacity.astype(np.float64))
        want = score.argmax(axis=1)
        # Position of each token among those of its chunk that want the same expert.
        rank = _rank(want, len(experts))
        served = rank < left[want]
        chosen[part[served]] = want[served]
        left -= np.bincount(want[served], minlength=len(experts))
        for row in np.flatnonzero(~served):
            best = int(np.where(left > 0, score[row], -np.inf).argmax())
            chosen[part[row]] = best
            left[best] -= 1
    return chosen


def jump_hash(tokens: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    """(tokens,) bucket of each key in 0..buckets-1; one more bucket moves 1/(buckets+1) of them."""
    key = tokens.copy()
    bucket, jump = np.full(len(key), -1, dtype=np.int64), np.zeros(len(key), dtype=np.int64)
    active = np.ones(len(key), dtype=bool)
    with np.errstate(over="ignore"):
        while active.any():
            bucket[active] = jump[active]
            key[active] = key[active] * np.uint64(2862933555777941757) + np.uint64(1)
            step = ((key[active] >> np.uint64(33)) + np.uint64(1)).astype(np.float64)
            jump[active] = ((bucket[active] + 1) * (2.0**31 / step)).astype(np.int64)
            active = jump < buckets
    return bucket


def _rank(want: NDArray[np.int64], experts: int) -> NDArray[np.int64]:
    order = np.argsort(want, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(want, minlength=experts))[:-1]])
    rank = np.empty(len(want), dtype=np.int64)
    rank[order] = np.arange(len(want)) - first[want[order]]
    return rank
