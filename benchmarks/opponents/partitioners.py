"""METIS and KaHIP on one graph: a JSON problem on stdin, a JSON answer on stdout.

Runs in the opponents' environment and imports nothing of qcluster. Each tries one seed after
another for as long as it is given (CPU seconds), every result is repaired to the hard capacities
(from domains too full, who loses least moves), and the best counts.
"""

import json
import sys
import time
import warnings
from typing import Any

import kahip
import numpy as np
import pymetis

warnings.filterwarnings("ignore")


def repaired(weight: Any, part: Any, capacity: Any) -> Any:
    part, k = part.copy(), len(capacity)
    ties = weight @ np.eye(k)[part]
    held = np.bincount(part, minlength=k)
    while (held > capacity).any():
        over = np.isin(part, np.flatnonzero(held > capacity))
        loss = ties[np.arange(len(part)), part][:, None] - ties
        loss[~over] = np.inf
        loss[:, held >= capacity] = np.inf
        i, d = np.unravel_index(int(np.argmin(loss)), loss.shape)
        held[part[i]] -= 1
        held[d] += 1
        ties[:, part[i]] -= weight[:, i]
        ties[:, d] += weight[:, i]
        part[i] = d
    return part


def crossing(weight: Any, part: Any) -> float:
    return float(weight[part[:, None] != part[None, :]].sum() / 2)


def metis(graph: dict, k: int, seed: int) -> Any:
    options = pymetis.Options(ufactor=1, seed=seed, contig=0)
    adjacency = pymetis.CSRAdjacency(graph["first"], graph["columns"])
    return pymetis.part_graph(
        k, adjacency=adjacency, eweights=graph["weights"], options=options, recursive=bool(seed % 2)
    )[1]


def kaffpa(graph: dict, k: int, seed: int) -> Any:
    # Modes: 0 fast, 1 eco, 2 strong; by turns, strong first.
    mode = (2, 1, 0)[seed % 3]
    ones = [1] * (len(graph["first"]) - 1)
    return kahip.kaffpa(
        ones, graph["first"], graph["weights"], graph["columns"], k, 0.0, True, seed, mode
    )[1]


def main() -> None:
    problem = json.load(sys.stdin)
    weight = np.array(problem["weight"])
    capacity = np.array(problem["capacity"])
    whole = np.rint(weight * (10_000 / weight.max())).astype(int)
    rows, columns = np.nonzero(whole)
    graph = {
        "first": np.searchsorted(rows, np.arange(len(weight) + 1)).tolist(),
        "columns": columns.tolist(),
        "weights": whole[rows, columns].tolist(),
    }
    answer = {}
    for name, ask in (("metis", metis), ("kahip", kaffpa)):
        began, seed, best = time.process_time(), 0, float("inf")
        while seed == 0 or time.process_time() - began < problem["seconds"]:
            part = np.array(ask(graph, len(capacity), seed), dtype=np.int64)
            best = min(best, crossing(weight, repaired(weight, part, capacity)))
            seed += 1
        answer[name] = {"bytes": best, "runs": seed, "cpu_s": time.process_time() - began}
    print(json.dumps(answer))


main()
