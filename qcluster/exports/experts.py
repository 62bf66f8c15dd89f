"""Expert placements as the maps that serving engines read.

SGLang: the file of ``--init-expert-location``. vLLM: the three maps of its EPLB state
(``physical_to_logical_map`` and the two that follow from it). vLLM on Ascend: the file of
``eplb_config.expert_map_path``.

An engine's rank is the n-th GPU that holds experts, and every rank has as many slots as any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcluster.errors import FormatError, InputError
from qcluster.exports.parts import Export, Settings, part

__all__ = ["ExpertMap", "ascend", "expert_map", "sglang", "vllm"]

_EMPTY = -1


@dataclass(frozen=True)
class ExpertMap:
    """``physical``: logical expert of each physical slot, a row a layer. ``ranks``: their GPUs."""

    physical: list[list[int]]
    experts: int
    ranks: list[str]
    idle: list[str]

    @property
    def per_rank(self) -> int:
        """Slots of a rank in each layer."""
        return len(self.physical[0]) // len(self.ranks)

    def notes(self) -> list[str]:
        """What the launch of the engine has to agree with."""
        redundant = len(self.physical[0]) - self.experts
        ends = f"rank 0 is {self.ranks[0]}, the last one {self.ranks[-1]}"
        lines = [f"{len(self.ranks)} ranks of {self.per_rank} slots, {redundant} redundant; {ends}"]
        if self.idle:
            lines.append(f"{len(self.idle)} GPUs hold nothing and are no ranks: {self.idle[0]} ..")
        return lines


def expert_map(plan: Mapping[str, Any]) -> ExpertMap:
    """The placement of a routing plan in the form that engines share.

    Raises FormatError for a damaged plan; InputError where ranks would differ in slots, or a slot
    is empty in some layers, which no engine can hold.
    """
    placement = plan.get("placement")
    if not isinstance(placement, Mapping):
        raise FormatError("wants a placement", field="placement")
    slots, owner = _rows(placement)
    gpus, experts = placement.get("num_gpus"), placement.get("num_experts")
    if not isinstance(gpus, int) or not isinstance(experts, int) or max(owner) >= gpus:
        raise FormatError("wants counts of GPUs and experts", field="placement.num_gpus")
    names = plan.get("gpu_ids") or [f"gpu/{i}" for i in range(gpus)]
    if not isinstance(names, list) or len(names) != gpus:
        raise FormatError(f"wants {gpus} names", field="gpu_ids")
    held: dict[int, list[int]] = {}
    for slot, gpu in enumerate(owner):
        empty = sum(row[slot] == _EMPTY for row in slots)
        if 0 < empty < len(slots):
            message = f"slot {slot} on {names[gpu]} is empty in {empty} of {len(slots)} layers"
            raise InputError(f"{message}, which serving engines cannot hold")
        if not empty:
            held.setdefault(gpu, []).append(slot)
    ranks = sorted(held)
    sizes = {len(held[gpu]) for gpu in ranks}
    if len(sizes) > 1:
        few, many = (pick(ranks, key=lambda g: len(held[g])) for pick in (min, max))
        message = f"{names[few]} has {len(held[few])} slots, {names[many]} {len(held[many])}"
        raise InputError(f"{message}; serving engines want as many on every rank")
    order = [slot for gpu in ranks for slot in held[gpu]]
    physical = [[row[slot] for slot in order] for row in slots]
    _check(physical, experts)
    idle = [str(name) for gpu, name in enumerate(names) if gpu not in held]
    return ExpertMap(physical, experts, [str(names[gpu]) for gpu in ranks], idle)


def _rows(placement: Mapping[str, Any]) -> tuple[list[list[int]], list[int]]:
    slots, owner = placement.get("slots"), placement.get("gpu_of_slot")
    if not isinstance(slots, list) or not slots or not isinstance(owner, list) or not owner:
        raise FormatError("wants slots by layer and their GPUs", field="placement.slots")
    rows: list[Any] = [*slots, owner]
    for i, row in enumerate(rows):
        whole = isinstance(row, list) and all(type(value) is int for value in row)
        if not whole or len(row) != len(owner):
            name = f"slots[{i}]" if i < len(slots) else "gpu_of_slot"
            raise FormatError(f"wants {len(owner)} whole numbers", field=f"placement.{name}")
    if min(owner) < 0:
        raise FormatError("wants positions of GPUs", field="placement.gpu_of_slot")
    return slots, owner


def _check(physical: Sequence[Sequence[int]], experts: int) -> None:
    every = set(range(experts))
    for layer, row in enumerate(physical):
        if lost := every - set(row):
            message = f"expert {min(lost)} is nowhere"
            raise FormatError(message, field=f"placement.slots[{layer}]")
        if beyond := set(row) - every:
            message = f"expert {max(beyond)} of {experts}"
            raise FormatError(message, field=f"placement.slots[{layer}]")


def sglang(plan: Mapping[str, Any], settings: Settings) -> Export:
    """``--init-expert-location``: rows for all hidden layers, those without experts trivial."""
    found = expert_map(part(plan, "routing", "sglang"))
    width = len(found.physical[0])
    trivial = [[slot % found.experts for slot in range(width)]] * settings.dense_layers
    document = {"physical_to_logical_map": [*trivial, *found.physical]}
    text = json.dumps(document, separators=(",", ":"))
    notes = found.notes()
    if not settings.dense_layers:
        notes.append("SGLang counts every hidden layer: give the dense ones before the first row")
    notes.append(
        f"launch with --ep-size {len(found.ranks)}"
        f" --ep-num-redundant-experts {width - found.experts}"
    )
    return Export(files={"expert_location.json": text + "\n"}, notes=notes)


def vllm(plan: Mapping[str, Any], settings: Settings) -> Export:  # noqa: ARG001 - one shape of all
    """The maps of vLLM's EPLB state; unused entries of a row are -1, as vLLM pads them."""
    found = expert_map(part(plan, "routing", "vllm"))
    copies = [_copies(row, found.experts) for row in found.physical]
    width = max(len(where) for layer in copies for where in layer)
    document = {
        "num_redundant_experts": len(found.physical[0]) - found.experts,
        "physical_to_logical_map": found.physical,
        "logical_to_physical_map": [
            [[*where, *[_EMPTY] * (width - len(where))] for where in layer] for layer in copies
        ],
        "logical_replica_count": [[len(where) for where in layer] for layer in copies],
    }
    text = json.dumps(document, separators=(",", ":"))
    return Export(files={"expert_map.json": text + "\n"}, notes=found.notes())


def _copies(row: Sequence[int], experts: int) -> list[list[int]]:
    """The slots of each expert, in order."""
    where: list[list[int]] = [[] for _ in range(experts)]
    for slot, expert in enumerate(row):
        where[expert].append(slot)
    return where


def ascend(plan: Mapping[str, Any], settings: Settings) -> Export:  # noqa: ARG001 - one shape of all
    """The file of ``expert_map_path``: experts by layer and device."""
    found = expert_map(part(plan, "routing", "vllm-ascend"))
    size = found.per_rank
    layers = [
        {
            "layer_id": layer,
            "device_count": len(found.ranks),
            "device_list": [
                {"device_id": rank, "device_expert": row[rank * size : (rank + 1) * size]}
                for rank in range(len(found.ranks))
            ],
        }
        for layer, row in enumerate(found.physical)
    ]
    document = {"moe_layer_count": len(layers), "layer_list": layers}
    text = json.dumps(document, separators=(",", ":"))
    return Export(files={"expert_map.json": text + "\n"}, notes=found.notes())
