"""Taking switches out of a fabric without losing bandwidth between GPUs.

Every cut that keeps some GPU out must go on letting through what the GPUs inside it have to say.
A link into a switch and a link out of it are replaced by a direct link as far as that stays true
(edge splitting: Bang-Jensen, Frank and Jackson, 1995; for collectives: Zhao et al., ForestColl,
2024). Each direct link remembers the paths through switches that it stands for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import Infeasible, SolverFailed
from qcluster.q_nvlink._kernels import max_flow
from qcluster.q_nvlink.symmetry import orbits

__all__ = ["Logical", "balanced", "best_rate", "without_switches"]

Ints = NDArray[np.int64]
Paths = list[tuple[tuple[int, ...], int]]


@dataclass
class Logical:
    """Direct links between GPUs: ``cap`` (n, n) in units, and for each pair its paths and shares.

    ``share`` is how many units of every root's data there are; a unit takes one unit of capacity.
    """

    cap: Ints
    share: int
    paths: dict[tuple[int, int], Paths] = field(default_factory=dict)


def best_rate(cap: Ints, gpus: int) -> tuple[int, int]:
    """The largest rate at which all GPUs can broadcast at once, as a fraction (num, den).

    cap (m, m) whole capacities, the first ``gpus`` nodes are GPUs. By Newton's method on the
    sparsest cut (Dinkelbach, 1967): the least of B(S) / |S & GPUs|, exact.

    Raises Infeasible when some GPU cannot be reached by all.
    """
    m = len(cap)
    num, den = max(1, int(cap.sum())), 1
    # GPUs that look alike have equal cuts: one of each class is enough.
    for target in (members[0] for members in orbits(cap, gpus)):
        while True:
            graph = np.zeros((m + 1, m + 1), dtype=np.int64)
            graph[:m, :m] = cap * den
            graph[m, :gpus] = num
            flow, side = max_flow(graph, m, target)
            if flow >= gpus * num:
                break
            inside, outside = side[:m], ~side[:m]
            num = int(cap[np.ix_(inside, outside)].sum())
            den = int(inside[:gpus].sum())
            if num == 0:
                raise Infeasible("a GPU cannot be reached by the others", field="gpus")
    common = math.gcd(num, den)
    return num // common, den // common


def balanced(cap: Ints, gpus: int) -> Ints:
    """Capacities (m, m) at most ``cap`` of which every switch passes on just what it gets.

    Switches copy nothing, so what goes out of one beyond what comes in, or the other way round, is
    of no use; and splitting needs the two alike. The wider side is cut evenly, in proportion, again
    and again, as cutting one switch concerns the next; where that does not end, every link is cut
    to what it and its reverse both carry.
    """
    work = cap.copy()
    switches = range(gpus, len(cap))
    for _ in range(4 * len(switches) + 4):
        even = True
        for w in switches:
            into, out = int(work[:, w].sum()), int(work[w].sum())
            if out > into:
                work[w] = _cut(work[w], into)
            elif into > out:
                work[:, w] = _cut(work[:, w], out)
            even = even and into == out
        if even:
            return work
    return np.minimum(cap, cap.T)


def _cut(widths: Ints, total: int) -> Ints:
    """Widths in proportion to ``widths``, whole and ``total`` together, which is no more."""
    had = int(widths.sum())
    kept = np.array([int(w) * total // had for w in widths], dtype=np.int64)
    lost = np.argsort(kept - widths * (total / had), kind="stable")
    kept[lost[: total - int(kept.sum())]] += 1
    return kept


def without_switches(cap: Ints, gpus: int, num: int, den: int) -> Logical:
    """The fabric ``cap`` (m, m) reduced to its first ``gpus`` nodes at rate num / den."""
    star = _uniform_star(cap, gpus)
    if star is not None:
        return star
    work = cap * den
    common = math.gcd(num, *[int(c) for c in np.unique(work)])
    work, share = work // common, num // common
    paths: dict[tuple[int, int], Paths] = {
        (int(u), int(v)): [((int(u), int(v)), int(work[u, v]))] for u, v in np.argwhere(work)
    }
    for w in range(len(cap) - 1, gpus - 1, -1):
        _split_off(work, gpus, share, w, paths)
        work[w, :] = 0
        work[:, w] = 0
    logical = Logical(work[:gpus, :gpus].copy(), share, paths)
    for u in range(gpus):
        if _slack(work, gpus, share, (u,), ()) < 0:
            raise SolverFailed("taking out a switch lost bandwidth")
    return logical


def _uniform_star(cap: Ints, gpus: int) -> Logical | None:
    """The direct links behind switches that every GPU reaches alike, or None for other fabrics.

    A root's data go straight to everyone, a plane carrying what its width is of all planes.
    """
    planes = cap[gpus:, :gpus]
    width = planes[:, 0] if len(planes) else np.empty(0, dtype=np.int64)
    alike = (planes == width[:, None]).all() and (width[:, None] == cap[:gpus, gpus:].T).all()
    if gpus < 2 or not alike or cap[:gpus, :gpus].any() or cap[gpus:, gpus:].any():
        return None
    width = width // max(1, int(np.gcd.reduce(width)))
    share = int(width.sum())
    if share == 0:
        return None
    direct = np.full((gpus, gpus), share, dtype=np.int64)
    np.fill_diagonal(direct, 0)
    paths: dict[tuple[int, int], Paths] = {
        (u, t): [((u, gpus + w, t), int(c)) for w, c in enumerate(width) if c]
        for u in range(gpus)
        for t in range(gpus)
        if u != t
    }
    return Logical(direct, share, paths)


def _split_off(
    work: Ints, gpus: int, share: int, w: int, paths: dict[tuple[int, int], Paths]
) -> None:
    """Replace links through ``w`` by direct ones, the widest pairs first."""
    sources = np.flatnonzero(work[:, w]).tolist()
    targets = np.flatnonzero(work[w]).tolist()
    for t in targets:
        for offset in range(len(sources)):
            u = sources[(offset + t) % len(sources)]
            if u == t:
                continue
            amount = min(int(work[u, w]), int(work[w, t]))
            if amount == 0:
                continue
            amount = min(amount, _removable(work, gpus, share, u, w, t))
            if amount > 0:
                work[u, w] -= amount
                work[w, t] -= amount
                work[u, t] += amount
                _join(paths, u, w, t, amount)


def _removable(work: Ints, gpus: int, share: int, u: int, w: int, t: int) -> int:
    """How much of u -> w -> t can become u -> t: the slack of the cuts that lose by it."""
    least = min(
        _slack(work, gpus, share, (w,), (u, t)),
        _slack(work, gpus, share, (), (w,), away=(u, t)),
    )
    return max(0, least)


def _slack(
    work: Ints,
    gpus: int,
    share: int,
    outside: Sequence[int],
    inside: Sequence[int],
    *,
    away: Sequence[int] = (),
) -> int:
    """Least of B(S) - share |S & GPUs| over S with ``inside`` in it and the others out of it.

    Some GPU must be out of S; each is tried in turn unless one is out anyway.
    """
    m = len(work)
    far = int(work.sum()) + gpus * share + 1
    graph = np.zeros((m + 2, m + 2), dtype=np.int64)
    graph[:m, :m] = work
    graph[m, :gpus] = share
    for v in inside:
        graph[m, v] = far
    out = [*outside, *away]
    for v in out:
        graph[v, m + 1] = far
    forced = sum(far - share if v < gpus else far for v in inside)
    tries = [v for v in out if v < gpus][:1] or [v for v in range(gpus) if v not in inside]
    least = far
    for v in tries:
        kept = int(graph[v, m + 1])
        graph[v, m + 1] = far
        flow = int(max_flow(graph, m, m + 1)[0])
        graph[v, m + 1] = kept
        least = min(least, flow - gpus * share)
    return least if forced >= 0 else 0


def _join(paths: dict[tuple[int, int], Paths], u: int, w: int, t: int, amount: int) -> None:
    """Move ``amount`` of the paths u - w and w - t to u - t."""
    first, second = paths[u, w], paths[w, t]
    joined = paths.setdefault((u, t), [])
    while amount > 0:
        (a, x), (b, y) = first[-1], second[-1]
        part = min(amount, x, y)
        joined.append((a + b[1:], part))
        for side, path, have in ((first, a, x), (second, b, y)):
            side.pop()
            if have > part:
                side.append((path, have - part))
        amount -= part
