"""The weighted split against HiGHS on the same linear programme."""

from __future__ import annotations

from typing import Any

import harness
import numpy as np
from scipy.optimize import linprog

from qcluster.q_routing import place_experts
from qcluster.q_routing.split import split
from routing_parts import loads, timing


def run(quick: bool, fresh: bool) -> list[dict[str, Any]]:
    """Plan on one window, split the next; and a large Zipf case."""
    del fresh
    rows, results = [], []
    for name, planned, real, slots, gpus in _cases():
        placement = place_experts(planned, num_slots=slots, num_gpus=gpus)
        layers = range(4 if quick else len(real))
        found = split(placement, real)
        best = np.array([_programme(placement, real[x], x) for x in layers])

        def ours(placement: Any = placement, real: Any = real) -> Any:
            return split(placement, real)

        def theirs(placement: Any = placement, real: Any = real, layers: Any = layers) -> Any:
            return [_programme(placement, real[x], x) for x in layers]

        mine, other = timing.paired(ours, theirs, 3 if quick else 7)
        result = {
            "name": name,
            "worst_over_optimum": float((found.time[list(layers)] / best).max()) - 1,
            "worst_over_bound": float((found.time / found.lower_bound).max()) - 1,
            "us_a_layer": 1e6 * mine / len(real),
            "time_ratio": (other / len(layers)) / (mine / len(real)),
            "balancedness_equal": placement.balancedness_on(real),
            "balancedness_weighted": found.balancedness,
        }
        results.append(result)
        rows.append(tuple(result.values()))
    harness.table(
        "Weighted split (CPU time; ratio: HiGHS over ours)",
        ("case", "worst over LP", "over bound", "us/layer", "time ratio", "equal", "weighted"),
        rows,
    )
    return results


def _cases() -> list[tuple[str, np.ndarray, np.ndarray, int, int]]:
    windows = loads.alternating()
    return [
        ("real, same task, 80 on 8", windows[0], windows[1], 80, 8),
        ("real, other task, 80 on 8", windows[2], windows[3], 80, 8),
        ("real, same task, 96 on 16", windows[0], windows[1], 96, 16),
        ("real, other task, 96 on 16", windows[2], windows[3], 96, 16),
        ("Zipf .8, noisy, 288 on 32", *_noisy(0.8), 288, 32),
        ("Zipf 1.1, noisy, 288 on 72", *_noisy(1.1), 288, 72),
    ]


def _noisy(s: float) -> tuple[np.ndarray, np.ndarray]:
    load = loads.zipf(s)
    return load, load * np.random.default_rng(1).lognormal(0, 0.2, load.shape)


def _programme(placement: Any, w: np.ndarray, layer: int) -> float:
    from scipy.sparse import csr_matrix

    slots = placement.slots[layer]
    size, gpus = len(slots), placement.num_gpus
    rows, columns = np.append(placement.gpu_of_slot, np.arange(gpus)), np.arange(size)
    above = csr_matrix(
        (np.append(np.ones(size), -np.ones(gpus)), (rows, np.append(columns, np.full(gpus, size)))),
        shape=(gpus, size + 1),
    )
    equal = csr_matrix((np.ones(size), (slots, columns)), shape=(len(w), size + 1))
    cost = np.append(np.zeros(size), 1.0)
    return linprog(cost, above, np.zeros(gpus), equal, w, method="highs").fun
