"""Gangs over racks, all of them together: each within one rack whenever that can be had.

``place_gangs`` serves gangs in the order given, and the last one may find no rack with room though
another order had left it one. Here gangs that fit a rack are packed by a search over racks (best
fit first, pods of most GPUs first; racks in the same state count once, states that failed are not
tried again), and gangs wider than a rack take what is left, evenly over the fewest racks (bin
completion: Martello and Toth 1990).

Where pods' sizes divide each other, it does not matter which node of a rack a pod takes as long as
larger pods come first, so a search that ends without an answer proves that there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from qcluster.deadline import Deadline
from qcluster.q_nvlink.gangs import Gang, GangPlan, Racks, place_gangs
from qcluster.q_nvlink.patterns import fill_by_patterns

__all__ = ["Packing", "crossing_pods", "pack_gangs"]

_STATES = 5_000
"""States that a search looks at before it settles for what it has."""

_Rack = tuple[int, ...]
"""Free GPUs of a rack's nodes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Packing(GangPlan):
    """A ``GangPlan`` of all gangs together.

    ``crossing``: pods of gangs that fit a rack of their own but are spread over several.
    ``proven``: all start, and either none crosses or the search has shown that some must.
    """

    crossing: int = 0
    proven: bool = True


def pack_gangs(racks: Racks, gangs: Sequence[Gang], *, deadline: Deadline | None = None) -> Packing:
    """Place all gangs, those that fit a rack each in one.

    Of all ways found, the one that starts most GPUs, then has the fewest crossing pods, then
    spreads wide gangs over the fewest racks. Only where room is so tight that an integer program
    has to look for it does it take as long as ``deadline``, by default five seconds.

    Raises InputError as ``place_gangs`` does.
    """
    in_turn = place_gangs(racks, gangs)
    wide = [gang for gang in gangs if _rooms(racks, gang) < gang.pods]
    narrow = sorted(
        (gang for gang in gangs if gang not in wide), key=lambda g: (-g.gpus, -g.pods * g.gpus)
    )
    deadline = deadline or Deadline.after(5.0)
    search = _Search(racks, narrow, wide, deadline)
    ways = [in_turn]
    if wide:
        # Wide gangs first leaves whole racks; when the narrow ones then lack room, they go first.
        ways.insert(0, _wide_first(racks, narrow, wide, deadline.share(0.5)))
    if not wide or crossing_pods(racks, gangs, ways[0]) or ways[0].unplaced:
        ways.insert(0, search.run())
    best = min(ways, key=lambda plan: _score(racks, gangs, plan))
    crossing = crossing_pods(racks, gangs, best)
    proven = not best.unplaced and (crossing == 0 or search.exhausted)
    return Packing(
        nodes={gang.id: best.nodes[gang.id] for gang in gangs if gang.id in best.nodes},
        racks=best.racks,
        fewest_racks=best.fewest_racks,
        unplaced=best.unplaced,
        whole_racks=[
            name for name in racks if not any(name in used for used in best.racks.values())
        ],
        crossing=crossing,
        proven=proven,
    )


def crossing_pods(racks: Racks, gangs: Sequence[Gang], plan: GangPlan) -> int:
    """Pods of gangs that fit one of the racks but are over several."""
    fit = [gang for gang in gangs if _rooms(racks, gang) >= gang.pods]
    return sum(gang.pods for gang in fit if len(plan.racks.get(gang.id, ())) > 1)


def _rooms(racks: Racks, gang: Gang) -> int:
    """Pods that the roomiest rack takes, in whole segments."""
    rooms = (sum(c // gang.gpus for c in nodes.values()) for nodes in racks.values())
    return max(rooms, default=0) // gang.segment * gang.segment


def _score(racks: Racks, gangs: Sequence[Gang], plan: GangPlan) -> tuple[int, int, int, int]:
    """Smaller is better: GPUs that wait, crossing pods, racks over the fewest, unevenness."""
    waiting = sum(gang.pods * gang.gpus for gang in gangs if gang.id in plan.unplaced)
    used = [list(found.values()) for found in plan.racks.values()]
    over = sum(len(plan.racks[gang]) - plan.fewest_racks[gang] for gang in plan.racks)
    uneven = sum(max(counts) - min(counts) for counts in used)
    return waiting, crossing_pods(racks, gangs, plan), over + sum(map(len, used)), uneven


def _left(racks: Racks, plan: GangPlan, gangs: Sequence[Gang]) -> dict[str, dict[str, int]]:
    """Free GPUs after a plan."""
    free = {name: dict(nodes) for name, nodes in racks.items()}
    home = {node: name for name, nodes in racks.items() for node in nodes}
    size = {gang.id: gang.gpus for gang in gangs}
    for gang, nodes in plan.nodes.items():
        for node in nodes:
            free[home[node]][node] -= size[gang]
    return free


def _merge(*plans: GangPlan) -> GangPlan:
    merged = GangPlan()
    for plan in plans:
        merged.nodes.update(plan.nodes)
        merged.racks.update(plan.racks)
        merged.fewest_racks.update(plan.fewest_racks)
        merged.unplaced.update(plan.unplaced)
    return merged


def _wide_first(
    racks: Racks, narrow: Sequence[Gang], wide: Sequence[Gang], deadline: Deadline
) -> GangPlan:
    first = place_gangs(racks, wide)
    rest = _left(racks, first, wide)
    packed = _Search(rest, narrow, (), deadline).run()
    return _merge(first, packed)


@dataclass
class _Search:
    """Depth first over narrow gangs; at the end the wide ones must have room as well."""

    racks: Racks
    narrow: Sequence[Gang]
    wide: Sequence[Gang]
    deadline: Deadline
    exhausted: bool = False
    _seen: set[tuple[int, tuple[_Rack, ...]]] = field(default_factory=set)
    _stopped: bool = False

    def run(self) -> GangPlan:
        """The placement found; gangs that found no rack are spread over what is left."""
        self._names = list(self.racks)
        start = [tuple(nodes.values()) for nodes in self.racks.values()]
        self._deepest: list[int] = []
        self._until = self.deadline.share(0.25)
        chosen = self._go(0, start, [])
        if chosen is None:
            sizes = sorted({g.gpus for g in (*self.narrow, *self.wide)})
            divide = all(b % a == 0 for a, b in pairwise(sizes))
            whole = all(g.segment == 1 for g in (*self.narrow, *self.wide))
            self.exhausted = not self._stopped and divide and whole
            if self._stopped and divide:
                chosen = fill_by_patterns(start, self.narrow, self.deadline)
        return self._plan(chosen if chosen is not None else self._deepest)

    def _go(self, depth: int, state: list[_Rack], chosen: list[int]) -> list[int] | None:
        if len(chosen) > len(self._deepest):
            self._deepest = list(chosen)
        if depth == len(self.narrow):
            return list(chosen) if self._wide_fits(state) else None
        key = (depth, tuple(sorted(state)))
        if key in self._seen or self._hopeless(depth, state):
            return None
        self._seen.add(key)
        if len(self._seen) > _STATES or self._until.expired:
            self._stopped = True
            return None
        gang = self.narrow[depth]
        for rack in self._choices(gang, state):
            before = state[rack]
            state[rack] = _filled(before, gang)
            found = self._go(depth + 1, state, [*chosen, rack])
            state[rack] = before
            if found is not None or self._stopped:
                return found
        return None

    def _choices(self, gang: Gang, state: Sequence[_Rack]) -> list[int]:
        """Racks with room, tightest first, one of each state."""
        first: dict[_Rack, int] = {}
        for i, rack in enumerate(state):
            if sum(free // gang.gpus for free in rack) >= gang.pods:
                first.setdefault(tuple(sorted(rack)), i)
        return sorted(first.values(), key=lambda i: sum(state[i]))

    def _hopeless(self, depth: int, state: Sequence[_Rack]) -> bool:
        """Whether the GPUs in racks that any of the rest fits do not hold the rest."""
        rest = self.narrow[depth:]
        least = min(gang.pods * gang.gpus for gang in rest)
        room = sum(free for free in map(sum, state) if free >= least)
        return room < sum(gang.pods * gang.gpus for gang in rest)

    def _wide_fits(self, state: Sequence[_Rack]) -> bool:
        if not self.wide:
            return True
        free = {
            name: dict(zip(self.racks[name], rack, strict=True))
            for name, rack in zip(self._names, state, strict=True)
        }
        return not place_gangs(free, self.wide).unplaced

    def _plan(self, chosen: Sequence[int]) -> GangPlan:
        """The gangs on nodes: those with a rack, then the wide ones, then those without."""
        free = {name: dict(nodes) for name, nodes in self.racks.items()}
        plan = GangPlan()
        for gang, rack in zip(self.narrow, chosen, strict=False):
            name = self._names[rack]
            one = place_gangs({name: free[name]}, [gang])
            plan = _merge(plan, one)
            free = _left(free, one, [gang])
        for group in (self.wide, self.narrow[len(chosen) :]):
            more = place_gangs(free, group)
            plan = _merge(plan, more)
            free = _left(free, more, group)
        return plan


def _filled(rack: _Rack, gang: Gang) -> _Rack:
    """The rack after the gang took its pods, the tightest nodes first."""
    free, pods = list(rack), gang.pods
    for i in sorted(range(len(free)), key=lambda i: free[i]):
        here = min(pods, free[i] // gang.gpus)
        free[i] -= here * gang.gpus
        pods -= here
    return tuple(free)
