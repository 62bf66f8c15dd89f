"""METIS and KaHIP on one graph: a JSON problem on stdin, a JSON answer on stdout.

Runs in the opponents' environment and imports nothing of qcluster. Each tries one seed after
another for as long as it is given (CPU seconds), every result is repaired to the hard capacities
(from domains too full, who loses least moves), and the best counts. A run that has begun may take
as long again.
"""

import json
import math
import os
import resource
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
    # Modes: 0 fast, 1 eco, 2 strong, by turns; without slack even the fast one takes seconds.
    slack = 0.03 if seed % 6 < 3 else 0.0
    ones = [1] * (len(graph["first"]) - 1)
    return kahip.kaffpa(
        ones, graph["first"], graph["weights"], graph["columns"], k, slack, True, seed, seed % 3
    )[1]


def restarted(ask: Any, graph: dict, weight: Any, capacity: Any, seconds: float, out: Any) -> None:
    """Write the best so far and the runs' number and seconds, seed after seed."""
    began, seed, best = time.process_time(), 0, float("inf")
    while seed == 0 or time.process_time() - began < seconds:
        part = np.array(ask(graph, len(capacity), seed), dtype=np.int64)
        best = min(best, crossing(weight, repaired(weight, part, capacity)))
        seed += 1
        row = {"bytes": best, "runs": seed, "cpu_s": time.process_time() - began}
        out.write(json.dumps(row) + "\n")
        out.flush()


def limited(*given: Any) -> dict:
    """``restarted`` in a child that ends after twice its seconds: a run may overrun by as much."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        most = math.ceil(time.process_time() + 2 * given[-1])
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))
        with os.fdopen(writer, "w") as out:
            restarted(*given, out)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as lines:
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
    os.waitpid(child, 0)
    return dict(rows[-1]) if rows else {"bytes": None, "runs": 0, "cpu_s": 2 * given[-1]}


def main() -> None:
    problem = json.load(sys.stdin)
    weight = np.array(problem["weight"])
    capacity = np.array(problem["capacity"])
    # Their weights are whole numbers of 32 bits, and so must be the sum.
    whole = np.rint(weight * (1e9 / weight.sum())).astype(int)
    rows, columns = np.nonzero(whole)
    graph = {
        "first": np.searchsorted(rows, np.arange(len(weight) + 1)).tolist(),
        "columns": columns.tolist(),
        "weights": whole[rows, columns].tolist(),
    }
    answer = {
        name: limited(ask, graph, weight, capacity, problem["seconds"])
        for name, ask in (("metis", metis), ("kahip", kaffpa))
    }
    print(json.dumps(answer))


main()
