"""Colouring: colours used on the public graphs, against networkx.

Seconds are this process's own CPU time. Every graph is kept under a hash of its data, its budget
and the search's source: a run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from harness import DATA, cached, table

import qcluster.q_nvlink.coloring
from nvlink_parts.mapping import own_seconds, source_of
from qcluster.q_nvlink import color_groups

BEST_COLORS = {
    "myciel3": 4, "myciel4": 5, "myciel5": 6, "queen5_5": 5, "queen6_6": 7, "queen7_7": 7,
    "queen8_8": 9, "queen8_12": 12, "queen10_10": 11, "DSJC125.1": 5, "DSJC125.5": 17,
    "DSJC125.9": 44, "DSJC250.5": 28, "flat300_20_0": 20, "le450_5a": 5, "le450_15b": 15,
    "le450_25a": 25, "school1_nsh": 14, "miles500": 20, "miles1000": 42, "r125.5": 36,
    "r250.1": 8, "DSJR500.1": 12, "1-FullIns_4": 5, "2-Insertions_4": 5, "mug88_1": 4,
    "zeroin.i.2": 30, "games120": 9, "anna": 11, "GEOM60": 6, "R75_1g": 4, "wap05a": 50,
}  # fmt: skip


def read_dimacs(path: Path) -> Any:
    import networkx as nx

    graph: nx.Graph[int] = nx.Graph()
    for line in path.read_text().splitlines():
        parts = line.split()
        if parts[:1] == ["p"]:
            graph.add_nodes_from(range(1, int(parts[2]) + 1))
        elif parts[:1] == ["e"] and parts[1] != parts[2]:
            graph.add_edge(int(parts[1]), int(parts[2]))
    return graph


def bench_colouring(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    import networkx as nx

    color_groups(nx.cycle_graph(5), deadline_s=0.1)  # compile
    source, rows = source_of(qcluster.q_nvlink.coloring), []
    for name, best in BEST_COLORS.items():
        path = DATA / "nvlink" / "colouring" / f"{name}.col"
        graph = read_dimacs(path)

        def theirs(graph: Any = graph) -> int:
            return max(nx.greedy_color(graph, strategy="DSATUR").values()) + 1

        opponent = cached("nvlink", ["dsatur", path.read_text()], theirs, fresh=fresh)
        budget = 10.0 if quick else 60.0

        def measure(graph: Any = graph, budget: float = budget) -> dict[str, Any]:
            with own_seconds():
                started = time.process_time()
                result = color_groups(graph, deadline_s=budget)
                return {
                    "k": result.num_colors,
                    "bound": result.lower_bound,
                    "proven": result.proven,
                    "clique": len(result.clique),
                    "seconds": time.process_time() - started,
                }

        key = ["colouring", path.read_text(), budget, source]
        found = cached("nvlink", key, measure, fresh=fresh)
        rows.append({"graph": name, "best": best, "networkx": opponent, **found})
    table(
        "Colouring: colours used (best: best known), CPU seconds",
        ["graph", "best", "ours", "bound", "proven", "networkx", "seconds"],
        [
            [r["graph"], r["best"], r["k"], r["bound"], r["proven"], r["networkx"], r["seconds"]]
            for r in rows
        ],
    )
    hit = sum(r["k"] == r["best"] for r in rows)
    print(f"best known k on {hit} of {len(rows)}; networkx on "
          f"{sum(r['networkx'] == r['best'] for r in rows)}")  # fmt: skip
    return rows
