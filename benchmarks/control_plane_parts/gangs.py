"""40 NVL72 racks with failed nodes: gangs in one rack each where that can be had, evenly else.

Traces are planted: every rack's living nodes are cut into gangs, so that a placement without any
crossing exists and is known, and the gangs come in random order. In `over` a few more gangs come
than fit whole, and in `wide` a fifth of the racks is taken by gangs of more than one rack. Greedy
PACK fills racks in order and goes on in the next one where a gang does not fit, as a packing
strategy without knowledge of domains does.

Cut bandwidth is the all-gather bandwidth over the least cut: NVLink at 900 GB/s in a rack, cards of
50 GB/s a GPU between racks; ``least_cut`` is held against the exact cut of small fabrics first.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from harness import table

from qcluster.q_nvlink import Gang, cut_bandwidth, parse_node_link, place_gangs
from qcluster.q_nvlink.packing import crossing_pods, pack_gangs

RACKS, NODES, GPUS = 40, 18, 4
NVLINK, CARD = 900.0, 50.0
MIXES = {
    "small to whole racks": (1, 1, 2, 2, 3, 4, 4, 6, 8, 8, 9, 12, 16, 18),
    "halves and thirds": (5, 6, 7, 8, 9, 10, 11),
    "nearly whole": (2, 3, 15, 16),
}


def racks_with_failures(rng: random.Random, failed: float) -> dict[str, dict[str, int]]:
    """Racks of nodes of four GPUs, of which some nodes are lost."""
    return {
        f"r{i}": {f"r{i}n{j}": 0 if rng.random() < failed else GPUS for j in range(NODES)}
        for i in range(RACKS)
    }


def planted(seed: int, mix: Sequence[int], fill: float, wide: float) -> tuple[Any, list[Gang]]:
    """Racks, and gangs that are known to fit them without crossing."""
    rng = random.Random(seed)
    racks = racks_with_failures(rng, 0.04)
    living = [sum(count > 0 for count in nodes.values()) for nodes in racks.values()]
    gangs: list[Gang] = []

    def add(nodes: int) -> None:
        gpus = rng.choice((GPUS, GPUS, GPUS, 2, 1)) if nodes <= NODES else GPUS
        gangs.append(Gang(id=f"g{len(gangs)}", pods=nodes * GPUS // gpus, gpus=gpus))

    rest = list(living)
    while wide and sum(living) - sum(rest) < wide * sum(living):
        pair = [rest.pop(), rest.pop()]
        add(sum(pair) - rng.randint(0, 3))
    for room in rest:
        left = round(room * fill)
        while left > 0:
            nodes = min(left, rng.choice(mix))
            left -= nodes
            add(nodes)
    rng.shuffle(gangs)
    return racks, gangs


def greedy_pack(racks: Mapping[str, Mapping[str, int]], gangs: Sequence[Gang]) -> dict[str, Any]:
    """Racks in order; a gang takes what there is in one and goes on in the next. Pods by rack."""
    free = {name: dict(nodes) for name, nodes in racks.items()}
    placed: dict[str, dict[str, int]] = {}
    for gang in gangs:
        takes: dict[str, list[str]] = {}
        left = gang.pods
        for name, nodes in free.items():
            for node, count in nodes.items():
                here = min(left, count // gang.gpus)
                takes.setdefault(name, []).extend([node] * here)
                left -= here
        if left:
            continue
        for name, nodes in takes.items():
            for node in nodes:
                free[name][node] -= gang.gpus
        placed[gang.id] = {name: len(nodes) for name, nodes in takes.items() if nodes}
    return placed


def least_cut(slices: Sequence[int]) -> float:
    """All-gather bandwidth over racks, GB/s: a GPU's ports, or the smallest slice's cards."""
    k = sum(slices)
    if k < 2:
        return 0.0
    port = (NVLINK + CARD) * k / (k - 1)
    return min([port, *(k * c * CARD / (k - c) for c in slices if c < k)])


def exact_cut(slices: Sequence[int]) -> float:
    """The same by the flow solver on a fabric of these GPUs."""
    nodes: list[dict[str, Any]] = [{"id": "spine"}]
    edges: list[dict[str, Any]] = []
    for i, count in enumerate(slices):
        nodes.append({"id": f"nvswitch{i}"})
        for j in range(count):
            nodes.append({"id": f"h{i}/{j}"})
            edges.append({"source": f"h{i}/{j}", "target": f"nvswitch{i}", "bandwidth": NVLINK})
            edges.append(
                {"source": f"h{i}/{j}", "target": "spine", "bandwidth": CARD, "kind": "infiniband"}
            )
    fabric = parse_node_link({"nodes": nodes, "edges": edges})
    return cut_bandwidth(fabric, fabric.gpus)


def cuts(placed: Mapping[str, Mapping[str, int]], gangs: Sequence[Gang]) -> dict[str, float]:
    """Cut bandwidth by gang, of those that started and have two GPUs."""
    return {
        gang.id: least_cut([pods * gang.gpus for pods in placed[gang.id].values()])
        for gang in gangs
        if gang.id in placed and gang.pods * gang.gpus > 1
    }


def measure(
    seeds: range, mix: Sequence[int], fill: float, wide: float, extra: int
) -> dict[str, Any]:
    total = dict.fromkeys(
        ("gangs", "crossing", "crossing_in_turn", "crossing_greedy", "waiting", "waiting_greedy",
         "below_greedy", "uneven"), 0,
    )  # fmt: skip
    seconds, ratios, unproven = [], [], 0
    for seed in seeds:
        racks, gangs = planted(seed, mix, fill, wide)
        rng = random.Random(seed)
        gangs += [Gang(id=f"x{i}", pods=rng.randint(4, 10), gpus=GPUS) for i in range(extra)]
        start = time.process_time()
        plan = pack_gangs(racks, gangs)
        seconds.append(time.process_time() - start)
        greedy = greedy_pack(racks, gangs)
        fits = {gang.id for gang in gangs if gang.pods * gang.gpus <= NODES * GPUS}
        pods = {gang.id: gang.pods for gang in gangs}
        ours, theirs = cuts(plan.racks, gangs), cuts(greedy, gangs)
        both = ours.keys() & theirs.keys()
        total["gangs"] += len(gangs)
        total["crossing"] += plan.crossing
        total["crossing_in_turn"] += crossing_pods(racks, gangs, place_gangs(racks, gangs))
        total["crossing_greedy"] += sum(
            pods[gang] for gang, used in greedy.items() if gang in fits and len(used) > 1
        )
        total["waiting"] += len(plan.unplaced)
        total["waiting_greedy"] += len(gangs) - len(greedy)
        total["below_greedy"] += sum(ours[gang] < theirs[gang] * (1 - 1e-9) for gang in both)
        total["uneven"] += sum(
            max(used.values()) - min(used.values()) > 1
            for gang, used in plan.racks.items()
            if len(used) > 1 and all(count <= min(used.values()) + 1 for count in used.values())
        )
        unproven += not plan.proven
        ratios.append(sum(ours[g] for g in both) / sum(theirs[g] for g in both))
    worst = min(ratios)
    return {**total, "unproven": unproven, "cpu_s": max(seconds), "cut_over_greedy": worst}


def bench_gangs(quick: bool) -> Any:
    """See the module's text."""
    for slices in ((3, 3), (4, 2), (2, 2, 2), (5, 3, 1)):
        assert abs(least_cut(slices) - exact_cut(slices)) < 0.02, slices
    seeds = range(4 if quick else 25)
    found = {}
    for name, mix in MIXES.items():
        for label, fill, wide, extra in (
            ("full", 1.0, 0.0, 0), ("full, wide", 1.0, 0.2, 0), ("0.95", 0.95, 0.0, 0),
            ("0.95, wide", 0.95, 0.2, 0), ("0.95, over", 0.95, 0.0, 3),
        ):  # fmt: skip
            found[f"{name}; {label}"] = measure(seeds, mix, fill, wide, extra)
    table(
        f"Gangs on {RACKS * NODES * GPUS} GPUs, 4 % of nodes lost, {len(seeds)} traces a row:"
        " pods of gangs that cross though they fit a rack",
        ("gangs; racks", "ours", "in turn", "greedy PACK", "gangs waiting", "greedy's",
         "cut / greedy", "gangs below", "unproven", "CPU s at most"),
        [
            (name, row["crossing"], row["crossing_in_turn"], row["crossing_greedy"],
             row["waiting"], row["waiting_greedy"], row["cut_over_greedy"], row["below_greedy"],
             row["unproven"], row["cpu_s"])
            for name, row in found.items()
        ],
    )  # fmt: skip
    return found
