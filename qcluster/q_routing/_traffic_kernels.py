"""Numba kernels of traffic: which copy serves each pick of a token, and co-activation placement."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "anneal_groups",
    "cover_layer",
    "exchange",
    "extra_gain",
    "hops",
    "pair_counts",
    "pull_back",
    "visited",
]

F = NDArray[np.float64]
I = NDArray[np.int64]  # noqa: E741
B = NDArray[np.bool_]

TOLL = 0.8
"""Picks that going to the farthest GPU must bring together to be worth it in a cover."""


@njit(cache=True)
def _nearest(on: B, far: F) -> F:
    """(experts, gpus) distance to the nearest copy; nothing where ``far`` is of size 0."""
    out = np.full((on.shape[0] if far.size else 0, far.shape[0]), np.inf)
    for e in range(out.shape[0]):
        for h in range(far.shape[0]):
            if on[e, h]:
                for g in range(far.shape[0]):
                    out[e, g] = min(out[e, g], far[g, h])
    return out


@njit(cache=True)
def cover_layer(
    picks: I, on: B, speed: F, far: F, weight: float, slack: float, load: F, out: I
) -> float:
    """GPU of each pick (tokens, k): a token's picks go to few GPUs, those with load to spare.

    Greedy cover: the GPU that holds most of what is left, each pick counted 1 - weight x (lead -
    slack) where the GPU's time leads the mean by more than ``slack`` of what the mean will be in
    the end. A pick of -1 is none and gets -1. ``load`` (gpus,) is added to. ``far`` (gpus, gpus)
    are distances, 1 to the nearest other GPU; of size 0 where all are alike. Returns what the
    visits cost, summed over tokens: 1 for the first GPU, for each further one its distance to the
    nearest before it.
    """
    tokens, k = picks.shape
    gpus = speed.size
    cost, total, rate = 0.0, load.sum(), speed.sum()
    final = (total + (picks >= 0).sum()) / rate
    toll = 0.0 if far.size == 0 else TOLL / max(far.max() - 1.0, 1.0)
    reach = np.ones(gpus)
    near = _nearest(on, far)
    out[:] = -1
    for i in range(tokens):
        here = int((picks[i] >= 0).sum())
        left = here
        mean = total / rate
        first = True
        if toll > 0.0:
            # The first GPU is chosen for the way that is left from there.
            for g in range(gpus):
                reach[g] = 1.0
                for j in range(k):
                    if picks[i, j] >= 0 and not on[picks[i, j], g]:
                        reach[g] += near[picks[i, j], g] - 1.0
        while left > 0:
            best, at = -np.inf, -1
            for g in range(gpus):
                held = 0
                for j in range(k):
                    if out[i, j] < 0 and picks[i, j] >= 0 and on[picks[i, j], g]:
                        held += 1
                if held == 0:
                    continue
                lead = (load[g] / speed[g] - mean) / final
                # Of equals, the emptier one.
                value = held * (1.0 - weight * max(0.0, lead - slack)) - 1e-3 * lead
                value -= toll * (reach[g] - 1.0)
                if value > best:
                    best, at = value, g
            cost += 1.0 if first else reach[at]
            if toll > 0.0:
                for g in range(gpus):
                    reach[g] = far[at, g] if first else min(reach[g], far[at, g])
                first = False
            for j in range(k):
                if out[i, j] < 0 and picks[i, j] >= 0 and on[picks[i, j], at]:
                    out[i, j] = at
                    left -= 1
                    load[at] += 1.0
        total += here
    return cost


@njit(cache=True)
def pair_counts(picks: I, experts: int) -> F:
    """(experts, experts) in how many tokens two experts were picked together, diagonal 0."""
    out = np.zeros((experts, experts))
    for i in range(picks.shape[0]):
        for a in range(picks.shape[1]):
            for b in range(a):
                if picks[i, a] < 0 or picks[i, b] < 0:
                    continue
                out[picks[i, a], picks[i, b]] += 1.0
                out[picks[i, b], picks[i, a]] += 1.0
    return out


@njit(cache=True)
def anneal_groups(
    pairs: F, pull: F, distance: F, w: F, home: I, speed: F, cap: float, steps: int, seed: int
) -> None:
    """Swap experts between GPUs so that those picked together stand near each other, in place.

    ``home`` (experts,) GPU of each expert. What falls is the sum of pairs x distance (gpus, gpus)
    between their GPUs and of ``pull`` (experts, gpus); a GPU's load beyond ``cap`` x mean costs as
    much as the pairs that its overload could hold.
    """
    np.random.seed(seed)  # noqa: NPY002
    experts, gpus = home.size, speed.size
    far = np.zeros((gpus, experts))
    load = np.zeros(gpus)
    for e in range(experts):
        load[home[e]] += w[e]
        for g in range(gpus):
            for f in range(experts):
                far[g, f] += pairs[e, f] * distance[g, home[e]]
    limit = cap * w.sum() * speed / speed.sum()
    wide = max(distance.max(), 1.0)
    hot = wide * pairs.sum() / experts / gpus + 1e-9
    fine = 4.0 * wide
    for step in range(steps):
        heat = hot * ((1e-3 / wide) ** (step / steps))
        e, f = np.random.randint(experts), np.random.randint(experts)  # noqa: NPY002
        g, h = home[e], home[f]
        if g == h:
            continue
        gain = far[g, e] + far[h, f] - far[h, e] - far[g, f] - 2.0 * pairs[e, f] * distance[g, h]
        gain += pull[e, g] + pull[f, h] - pull[e, h] - pull[f, g]
        moved = w[e] - w[f]
        before = max(0.0, load[g] - limit[g]) + max(0.0, load[h] - limit[h])
        after = max(0.0, load[g] - moved - limit[g]) + max(0.0, load[h] + moved - limit[h])
        gain -= fine * (after - before)
        if gain < 0.0 and np.random.random() >= np.exp(gain / heat):  # noqa: NPY002
            continue
        home[e], home[f] = h, g
        load[g] -= moved
        load[h] += moved
        for q in range(gpus):
            change = distance[q, h] - distance[q, g]
            if change != 0.0:
                for x in range(experts):
                    far[q, x] += (pairs[x, e] - pairs[x, f]) * change


@njit(cache=True)
def extra_gain(picks: I, served: I, on: B, far: F, gain: F) -> None:
    """What visits one more copy would save, (experts, gpus) into ``gain``.

    A visit is saved where a token goes to a GPU for one expert alone and another GPU that it
    visits anyway would hold that expert; it is worth their distance, as in ``cover_layer``.
    """
    gain[:] = 0.0
    tokens, k = picks.shape
    for i in range(tokens):
        for j in range(k):
            if picks[i, j] < 0:
                continue
            alone = True
            for m in range(k):
                if m != j and served[i, m] == served[i, j]:
                    alone = False
                    break
            if not alone:
                continue
            e = picks[i, j]
            for m in range(k):
                g = served[i, m]
                if m == j or g < 0 or on[e, g]:
                    continue
                first = True
                for n in range(m):
                    if n != j and served[i, n] == g:
                        first = False
                        break
                if first:
                    gain[e, g] += 1.0 if far.size == 0 else far[served[i, j], g]


@njit(cache=True)
def visited(picks: I, on: B, speed: F, far: F) -> B:
    """(tokens, gpus) which GPUs serve a token's picks (tokens, k) under a cover with load term."""
    tokens, k = picks.shape
    served, load = np.empty((tokens, k), np.int64), np.zeros(speed.size)
    cover_layer(picks, on, speed, far, 20.0, 0.03, load, served)
    out = np.zeros((tokens, speed.size), np.bool_)
    for i in range(tokens):
        for j in range(k):
            if served[i, j] >= 0:
                out[i, served[i, j]] = True
    return out


@njit(cache=True)
def pull_back(picks: I, before: B, distance: F, experts: int) -> F:
    """(experts, gpus) distance from the nearest GPU that served a token in the layer before, summed
    over the tokens that pick the expert.
    """
    tokens, k = picks.shape
    gpus = distance.shape[0]
    out, near = np.zeros((experts, gpus)), np.empty(gpus)
    for i in range(tokens):
        near[:] = np.inf
        for p in range(gpus):
            if before[i, p]:
                for g in range(gpus):
                    near[g] = min(near[g], distance[p, g])
        if near[0] == np.inf:
            continue
        for j in range(k):
            if picks[i, j] >= 0:
                for g in range(gpus):
                    out[picks[i, j], g] += near[g]
    return out


@njit(cache=True)
def hops(before: B, after: B) -> F:
    """(gpus, gpus) tokens that visit the row's GPU in one layer and the column's in the next, from
    two (tokens, gpus).
    """
    tokens, gpus = before.shape
    out = np.zeros((gpus, gpus))
    for i in range(tokens):
        for a in range(gpus):
            if before[i, a]:
                for b in range(gpus):
                    if after[i, b]:
                        out[a, b] += 1.0
    return out


@njit(cache=True)
def exchange(flow: F, distance: F, linear: F, kind: I, name: I) -> float:
    """Exchange names of one kind while that lowers the sum of flow[i, j] distance[name i, name j]
    and of linear[i, name i].

    All (gpus, gpus), the first two symmetric. Returns by how much the sum fell.
    """
    gpus, fell = name.size, 0.0
    least = 1e-9 * (np.abs(flow).sum() * distance.max() + np.abs(linear).sum() + 1e-300)
    better = True
    while better:
        better = False
        for i in range(gpus):
            for j in range(i):
                a, b = name[i], name[j]
                if kind[a] != kind[b]:
                    continue
                delta = 0.0
                for m in range(gpus):
                    if m not in (i, j):
                        delta += (flow[i, m] - flow[j, m]) * (
                            distance[b, name[m]] - distance[a, name[m]]
                        )
                delta = 2.0 * delta + linear[i, b] + linear[j, a] - linear[i, a] - linear[j, b]
                if delta < -least:
                    name[i], name[j] = b, a
                    fell -= delta
                    better = True
    return fell
