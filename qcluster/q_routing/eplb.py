"""The call and the tensors of DeepSeek's Expert Parallelism Load Balancer (EPLB, 2025).

Drops into serving engines that import ``rebalance_experts``: same arguments, same three results,
tensors out if tensors went in. Behind it stands ``place_experts``.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_routing._kernels import list_copies
from qcluster.q_routing.placement import place_experts
from qcluster.q_routing.problem import EMPTY, Placement

__all__ = ["expert_location", "expert_maps", "rebalance_experts"]


def rebalance_experts(
    weight: Any, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int
) -> tuple[Any, Any, Any]:
    """Place experts as EPLB is asked to.

    Parameters
    ----------
    weight: (layers, experts) load, torch tensor or array, on any device.
    num_replicas: slots a layer, a multiple of ``num_gpus``. Groups are kept on nodes when
        ``num_groups`` is a multiple of ``num_nodes``; else the placement is global.

    Returns ``phy2log`` (layers, num_replicas), ``log2phy`` (layers, experts, largest count) padded
    with -1, and ``logcnt`` (layers, experts); int64, on the CPU. Raises InputError.
    """
    torch = sys.modules.get("torch")
    is_tensor = torch is not None and isinstance(weight, torch.Tensor)
    if is_tensor:
        weight = weight.detach().cpu().double().numpy()
    if isinstance(num_gpus, int) and num_gpus > 0 and num_replicas % num_gpus:
        raise InputError(
            f"wants a multiple of {num_gpus}, got {num_replicas}", field="num_replicas"
        )
    hierarchical = num_nodes > 1 and num_groups % num_nodes == 0
    placement = place_experts(
        weight,
        num_slots=num_replicas,
        num_gpus=num_gpus,
        num_nodes=num_nodes,
        num_groups=num_groups,
        mode="hierarchical" if hierarchical else "global",
    )
    if (placement.slots == EMPTY).any():
        raise InputError(
            f"{num_replicas} slots on {num_gpus} GPUs cannot be filled without two copies of an "
            "expert on one GPU",
            field="num_replicas",
        )
    maps = expert_maps(placement)
    if is_tensor and torch is not None:
        return tuple(torch.from_numpy(m) for m in maps)
    return maps


def expert_maps(
    placement: Placement,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """``phy2log``, ``log2phy`` and ``logcnt`` of a placement; unused slots appear in none."""
    slots, counts = placement.slots, placement.counts
    layers, experts = counts.shape
    width = int(counts.max(initial=1))
    out = np.full((layers, experts, width), -1, dtype=np.int64)
    list_copies(slots, out)
    return slots.copy(), out, counts


def expert_location(placement: Placement) -> dict[str, list[object]]:
    """The placement as serving engines read it, ready for JSON.

    ``physical_to_logical_map`` (layers, slots) is what SGLang's ``--init-expert-location`` takes
    from a JSON file; ``logical_to_physical_map`` (layers, experts, copies, padded with -1) and
    ``logical_replica_count`` (layers, experts) carry vLLM's names. Raises InputError when slots
    are unused or differ in number between GPUs: the engines have no form for either.
    """
    if (placement.slots == EMPTY).any():
        raise InputError("has unused slots, for which engines have no form", field="placement")
    if np.ptp(np.bincount(placement.gpu_of_slot, minlength=placement.num_gpus)):
        raise InputError("GPUs differ in their number of slots", field="placement")
    physical, logical, count = expert_maps(placement)
    return {
        "physical_to_logical_map": physical.tolist(),
        "logical_to_physical_map": logical.tolist(),
        "logical_replica_count": count.tolist(),
    }
