"""What exports read: plans as the plain JSON of the store, alone or as parts of a joint plan.

Every reader here names the field that is missing or wrong, so that a plan of another planner or a
damaged file gives one line and not a traceback.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qcluster.errors import FormatError, InputError
from qcluster.record import Record
from qcluster.telemetry.topology import Topology

__all__ = ["Export", "Settings", "assignment", "caps", "nodes_of", "part", "parts", "place_of"]

PARTS = ("routing", "nvlink", "energy")


@dataclass(frozen=True, kw_only=True, eq=False)
class Export(Record):
    """What a format made of a plan: text by relative path, and notes for the reader."""

    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an export takes besides the plan.

    ``topology``: the cluster, for what a plan does not say (NVLink domains, switches). ``job``:
    only this job. ``dense_layers``: layers before the first one with experts, which SGLang counts
    too. ``queue``: Kueue's LocalQueue. ``image``: the container image of pods.
    """

    topology: Topology | None = None
    job: str | None = None
    dense_layers: int = 0
    queue: str = ""
    image: str = ""

    def __post_init__(self) -> None:
        layers = self.dense_layers
        if isinstance(layers, bool) or not isinstance(layers, int) or not 0 <= layers <= 10_000:
            message = f"wants a count of layers, got {layers!r}"
            raise InputError(message, field="dense_layers")


def parts(plan: Any) -> dict[str, Mapping[str, Any]]:
    """Planner to plan: the plan itself, or the parts of a joint plan that are there.

    Raises FormatError when it is no plan.
    """
    if not isinstance(plan, Mapping) or not isinstance(plan.get("planner"), str):
        raise FormatError("is no plan: it names no planner", field="planner")
    if plan["planner"] != "joint":
        return {plan["planner"]: plan}
    inside = plan.get("parts")
    held = inside if isinstance(inside, Mapping) else plan
    return {name: held[name] for name in PARTS if isinstance(held.get(name), Mapping)}


def part(plan: Any, planner: str, form: str) -> Mapping[str, Any]:
    """The part of a plan that a format needs.

    Raises InputError naming what the plan is of.
    """
    found = parts(plan)
    if planner not in found:
        has = " and ".join(found) or "nothing"
        raise InputError(f"{form} is made of a plan of {planner}; this one is of {has}")
    return found[planner]


def assignment(plan: Mapping[str, Any], job: str | None = None) -> dict[str, list[str]]:
    """Job to GPU ids in order of ranks, of a fabric plan; ``job`` picks one."""
    rows = plan.get("assignment")
    if not isinstance(rows, Mapping):
        raise FormatError("wants GPUs by job", field="assignment")
    found: dict[str, list[str]] = {}
    for name, gpus in rows.items():
        if not isinstance(gpus, Sequence) or isinstance(gpus, str):
            raise FormatError("wants a list of GPUs", field=f"assignment.{name}")
        found[str(name)] = [str(gpu) for gpu in gpus]
        if len(set(found[str(name)])) < len(gpus):
            raise FormatError("names a GPU twice", field=f"assignment.{name}")
    if job is None:
        return found
    if job not in found:
        have = ", ".join(found) or "none"
        raise InputError(f"the plan has no such job; it has {have}", field=job)
    return {job: found[job]}


def caps(plan: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Node to GPU index to power limit in watts, of an energy plan."""
    gpus, watts = plan.get("gpus"), plan.get("caps_w")
    if not isinstance(gpus, list) or not isinstance(watts, list) or len(gpus) != len(watts):
        raise FormatError("wants one cap a GPU", field="caps_w")
    found: dict[str, dict[int, float]] = {}
    for gpu, value in zip(gpus, watts, strict=True):
        real = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or value <= 0:
            raise FormatError(f"wants watts above 0, got {value!r}", field=f"caps_w[{gpu}]")
        node, index = place_of(gpu)
        found.setdefault(node, {})[index] = float(value)
    return found


def place_of(gpu: Any) -> tuple[str, int]:
    """Node and index of ``node/3``. Raises FormatError."""
    node, slash, index = str(gpu).rpartition("/")
    if not slash or not node or not (index.isascii() and index.isdigit()):
        raise FormatError(f"'{gpu}' is not a node's name and a GPU's index: node/0")
    return node, int(index)


def nodes_of(gpus: Sequence[str]) -> dict[str, list[int]]:
    """Node to the indices of its GPUs, both in order of ranks."""
    found: dict[str, list[int]] = {}
    for gpu in gpus:
        node, index = place_of(gpu)
        found.setdefault(node, []).append(index)
    return found
