"""Fabrics that several tests use."""

from __future__ import annotations

# DGX-1 with V100: pairs of GPUs and how many links of 25 GB/s join them (hybrid cube mesh).
DGX1 = [
    *((0, 1, 2), (0, 2, 2), (0, 3, 1), (0, 4, 1), (1, 2, 1), (1, 3, 2), (1, 5, 1), (2, 3, 1)),
    *((2, 6, 2), (3, 7, 2), (4, 5, 2), (4, 6, 2), (4, 7, 1), (5, 6, 1), (5, 7, 2), (6, 7, 1)),
]


def dgx1_data() -> dict:
    return {
        "directed": False,
        "multigraph": False,
        "nodes": [{"id": f"gpu{i}", "kind": "gpu"} for i in range(8)],
        "edges": [
            {"source": f"gpu{a}", "target": f"gpu{b}", "links": n, "bandwidth_GBps": 25.0 * n}
            for a, b, n in DGX1
        ],
    }


def star_data(gpus: int, switches: int = 2, per_link: float = 50.0) -> dict:
    return {
        "nodes": [{"id": f"g{i}", "kind": "gpu", "host": f"h{i // 4}"} for i in range(gpus)]
        + [{"id": f"s{j}", "kind": "nvswitch"} for j in range(switches)],
        "links": [
            {"source": f"g{i}", "target": f"s{j}", "bandwidth": per_link}
            for i in range(gpus)
            for j in range(switches)
        ],
    }
