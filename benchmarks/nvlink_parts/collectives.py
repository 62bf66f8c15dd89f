"""Collectives: simulated time over the min-cut bound."""

from __future__ import annotations

import time
from typing import Any

from harness import DATA, table

from qcluster.q_nvlink import (
    Fabric,
    collective_bound,
    load_fabric,
    parse_node_link,
    plan_collective,
    simulate,
)


def four_racks(count: int = 4, each: int = 72, planes: int = 18, nic: float = 50.0) -> Fabric:
    """NVL72 racks with a 400G NIC a GPU, a leaf a rack and a spine that blocks nothing."""
    names = [(r, i) for r in range(count) for i in range(each)]
    nodes = [{"id": f"r{r}g{i}", "kind": "gpu"} for r, i in names] + [{"id": "spine"}]
    nodes += [{"id": f"r{r}nvswitch{j}"} for r in range(count) for j in range(planes)]
    nodes += [{"id": f"leaf{r}"} for r in range(count)]
    edges: list[dict[str, Any]] = [
        {"source": f"r{r}g{i}", "target": f"r{r}nvswitch{j}", "bandwidth": 50.0}
        for r, i in names
        for j in range(planes)
    ]
    for r, i in names:
        edges.append({"source": f"r{r}g{i}", "target": f"leaf{r}", "bandwidth": nic, "type": "ib"})
    for r in range(count):
        wide = {"bandwidth": nic * each, "type": "ib"}
        edges.append({"source": f"leaf{r}", "target": "spine", **wide})
    return parse_node_link({"nodes": nodes, "edges": edges})


def bench_collectives(quick: bool, fresh: bool) -> list[dict[str, Any]]:  # noqa: ARG001
    folder = DATA / "nvlink" / "fabrics"
    names = ["dgx1_v100", "dgx_a100", "hgx_h100", "pcie_8gpu", "gb200_nvl72"]
    fabrics = {name: load_fabric(folder / f"{name}.json") for name in names}
    whole = fabrics["dgx1_v100"]
    fabrics["dgx1_v100, one pair of links dead"] = whole.degraded(
        factor={"gpu0->gpu1": 0.0, "gpu1->gpu0": 0.0}
    )
    fabrics["dgx1_v100, one link halved"] = whole.degraded(factor={"gpu0->gpu1": 0.5})
    for name in ("rccl-topo_4p3l", "rccl-topo_8p6l", "rccl-topo_8p_90a"):
        fabrics[f"xGMI {name}"] = load_fabric(DATA / "nvlink" / "topo_xml" / f"{name}.xml")
    fabrics["xGMI mesh of 8 (MI300X)"] = parse_node_link(
        {
            "nodes": [{"id": f"g{i}", "kind": "gpu"} for i in range(8)],
            "edges": [
                {"source": f"g{i}", "target": f"g{j}", "bandwidth": 64.0, "type": "xgmi"}
                for i in range(8)
                for j in range(i)
            ],
        }
    )
    host = fabrics["hgx_h100"]
    fabrics["hgx_h100, one link halved one way"] = host.degraded(factor={host.links[0].id: 0.5})
    fabrics["hgx_h100_x4"] = load_fabric(folder / "hgx_h100_x4.json")
    fabrics["four NVL72"] = four_racks()
    rows = []
    for name, fabric in fabrics.items():
        for kind in ("allgather", "reduce_scatter", "allreduce"):
            started = time.thread_time()
            found = plan_collective(fabric, kind)
            spent = time.thread_time() - started
            proof = simulate(found, chunks=1000)
            rows.append(
                {
                    "fabric": name,
                    "gpus": len(fabric.gpus),
                    "kind": kind,
                    "gb_s": found.bandwidth_gb_s,
                    "ratio": proof.seconds_per_gb / collective_bound(fabric, kind),
                    "pipelined": proof.pipelined_s_per_gb / collective_bound(fabric, kind),
                    "delivered": proof.delivered,
                    "seconds": spent,
                }
            )
    table(
        "Collectives: time / min-cut bound, simulated (pipelined: 1000 chunks passed on whole)",
        ["fabric", "GPUs", "kind", "GB/s", "ratio", "pipelined", "delivered", "s to plan (CPU)"],
        [list(r.values()) for r in rows],
    )
    return rows
