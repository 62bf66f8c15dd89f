"""What the cluster is made of, as written in a cluster topology file (YAML or JSON).

    nodes: [{id, gpus, model, min_w, max_w, clocks_mhz, domain}]
    accelerators: [{id, kind: quantum, idle_w, active_w, queue}]
    links: [{source, target, bandwidth_gb_s, links, kind}]

A link joins two ends: a GPU (``node/index``) or a switch (any other name). It is one direction
each way unless ``directed``; an NVSwitch is the centre of a star, never a clique of GPUs.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import FormatError
from qcluster.record import Record, encode
from qcluster.telemetry.documents import read_document

__all__ = ["Accelerator", "Link", "Node", "Topology"]

# A line of text may name any number of GPUs; each one that is believed in costs memory.
MAX_GPUS = 131_072
_MODELS = {  # watts: lowest and highest power limit, nvidia-smi -q -d POWER
    "GB200": (200.0, 1200.0),
    "B200": (200.0, 1000.0),
    "H200": (200.0, 700.0),
    "H100": (200.0, 700.0),
    "A100": (100.0, 400.0),
    "V100": (150.0, 300.0),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Node(Record):
    """A host. ``min_w`` and ``max_w`` bound the power limit of one of its GPUs, in watts."""

    id: str
    gpus: int
    model: str = ""
    min_w: float = 0.0
    max_w: float = 0.0
    clocks_mhz: tuple[int, ...] = ()
    domain: str = ""

    @property
    def gpu_ids(self) -> tuple[str, ...]:
        """``id/0`` to ``id/(gpus-1)``."""
        return tuple(f"{self.id}/{index}" for index in range(self.gpus))


@dataclass(frozen=True, kw_only=True, eq=False)
class Accelerator(Record):
    """Another kind of processor that jobs can be sent to; watts idle and active, jobs queued."""

    id: str
    kind: str = "quantum"
    idle_w: float = 0.0
    active_w: float = 0.0
    queue: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Link(Record):
    """A connection; ``bandwidth_gb_s`` is gigabytes per second and direction, of all lanes."""

    source: str
    target: str
    bandwidth_gb_s: float
    links: int = 1
    kind: str = "nvlink"
    directed: bool = False

    @property
    def id(self) -> str:
        """``source->target``."""
        return f"{self.source}->{self.target}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Topology(Record):
    """The whole cluster. Empty tuples mean: not known."""

    nodes: tuple[Node, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    links: tuple[Link, ...] = ()

    @functools.cached_property
    def text(self) -> str:
        """The content as JSON with sorted keys, made once: snapshots are hashed at every tick."""
        return json.dumps(encode(self), sort_keys=True, separators=(",", ":"))

    @functools.cached_property
    def gpu_ids(self) -> tuple[str, ...]:
        """All GPUs, in order of nodes."""
        return tuple(gpu for node in self.nodes for gpu in node.gpu_ids)

    @functools.cached_property
    def owner(self) -> NDArray[np.int64]:
        """(gpus,) index of each GPU's node, read only."""
        count = np.array([node.gpus for node in self.nodes], dtype=np.int64)
        owner = np.repeat(np.arange(len(count)), count)
        owner.setflags(write=False)
        return owner

    def __getstate__(self) -> dict[str, Any]:
        # What can be computed again in milliseconds is not sent along with every snapshot.
        return {k: v for k, v in self.__dict__.items() if k not in ("gpu_ids", "owner")}

    @classmethod
    def parse(cls, data: Any, *, file: Any = None) -> Topology:
        """A topology from the file's content.

        Raises FormatError naming list, position and field.
        """
        if not isinstance(data, Mapping):
            raise FormatError("wants a mapping with 'nodes'", file=file)
        unknown = set(data) - {"nodes", "accelerators", "links"}
        if unknown:
            raise FormatError(
                "a topology has no such field", file=file, field=min(map(str, unknown))
            )
        nodes = tuple(_node(row, place, file) for place, row in _rows(data, "nodes", file))
        _unique([n.id for n in nodes], "nodes", file)
        if sum(max(node.gpus, 1) for node in nodes) > MAX_GPUS:
            raise FormatError(f"has more than {MAX_GPUS:,} GPUs", file=file, field="nodes")
        return cls(
            nodes=nodes,
            accelerators=tuple(
                _accelerator(row, place, file) for place, row in _rows(data, "accelerators", file)
            ),
            links=tuple(_link(row, place, file) for place, row in _rows(data, "links", file)),
        )

    @classmethod
    def read(cls, path: str | Path) -> Topology:
        """A topology file, YAML or JSON by its ending."""
        return cls.parse(read_document(path), file=path)


def _rows(data: Mapping[str, Any], name: str, file: Any) -> list[tuple[str, Mapping[str, Any]]]:
    rows = data.get(name) or []
    if not isinstance(rows, list):
        raise FormatError("wants a list", file=file, field=name)
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise FormatError("wants a mapping", file=file, field=f"{name}[{index}]")
    return [(f"{name}[{index}]", row) for index, row in enumerate(rows)]


def _node(row: Mapping[str, Any], place: str, file: Any) -> Node:
    _known(row, Node, place, file)
    model = str(row.get("model", ""))
    low, high = next((w for name, w in _MODELS.items() if name in model), (0.0, 0.0))
    low = number(row, "min_w", place, file, default=low)
    high = number(row, "max_w", place, file, default=high)
    if high < low:
        raise FormatError(f"is below min_w = {low}", file=file, field=f"{place}.max_w")
    gpus = row.get("gpus", 0)
    if isinstance(gpus, bool) or not isinstance(gpus, int) or not 0 <= gpus <= 4096:
        raise FormatError(
            f"wants a count of GPUs, got {_short(gpus)}", file=file, field=f"{place}.gpus"
        )
    return Node(
        id=name_of(row, "id", place, file),
        gpus=gpus,
        model=model,
        min_w=low,
        max_w=high,
        clocks_mhz=_clocks(row.get("clocks_mhz"), place, file),
        domain=str(row.get("domain", "")),
    )


def _clocks(data: Any, place: str, file: Any) -> tuple[int, ...]:
    if data is None:
        return ()
    field = f"{place}.clocks_mhz"
    if not isinstance(data, list):
        raise FormatError("wants a list of clocks in MHz", file=file, field=field)
    for mhz in data:
        if isinstance(mhz, bool) or not isinstance(mhz, int) or not 0 < mhz < 100_000:
            raise FormatError(f"wants a clock in MHz, got {_short(mhz)}", file=file, field=field)
    return tuple(data)


def _accelerator(row: Mapping[str, Any], place: str, file: Any) -> Accelerator:
    _known(row, Accelerator, place, file)
    idle = number(row, "idle_w", place, file, default=0.0)
    active = number(row, "active_w", place, file, default=0.0)
    if "active_w" in row and active < idle:
        field = f"{place}.active_w"
        raise FormatError(f"is below idle_w = {idle:g}, got {active:g}", file=file, field=field)
    return Accelerator(
        id=name_of(row, "id", place, file),
        kind=str(row.get("kind", "quantum")),
        idle_w=idle,
        active_w=active,
        queue=int(number(row, "queue", place, file, default=0.0)),
    )


def _link(row: Mapping[str, Any], place: str, file: Any) -> Link:
    _known(row, Link, place, file)
    bandwidth = number(row, "bandwidth_gb_s", place, file)
    if bandwidth <= 0:
        field = f"{place}.bandwidth_gb_s"
        raise FormatError(f"must be above 0, got {bandwidth}", file=file, field=field)
    return Link(
        source=name_of(row, "source", place, file),
        target=name_of(row, "target", place, file),
        bandwidth_gb_s=bandwidth,
        links=_lanes(row.get("links", 1), place, file),
        kind=str(row.get("kind", "nvlink")),
        directed=_flag(row.get("directed", False), place, file),
    )


def _lanes(value: Any, place: str, file: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 100_000:
        message = f"wants a count of lanes, got {_short(value)}"
        raise FormatError(message, file=file, field=f"{place}.links")
    return value


def _flag(value: Any, place: str, file: Any) -> bool:
    if not isinstance(value, bool):
        message = f"wants true or false, got {_short(value)}"
        raise FormatError(message, file=file, field=f"{place}.directed")
    return value


def number(
    row: Mapping[str, Any], name: str, place: str, file: Any = None, default: float | None = None
) -> float:
    """A finite number of at least 0 from a row, or FormatError with its place."""
    value = row.get(name, default)
    field = f"{place}.{name}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FormatError(f"wants a number, got {_short(value)}", file=file, field=field)
    # Compared, not converted: an integer may be too large for a float.
    if not 0 <= value <= sys.float_info.max:
        message = f"wants a finite number of at least 0, got {_short(value)}"
        raise FormatError(message, file=file, field=field)
    return float(value)


def name_of(row: Mapping[str, Any], name: str, place: str, file: Any = None) -> str:
    """A non-empty name (a string or an integer) from a row, as a string."""
    value = row.get(name)
    text = "" if isinstance(value, bool) or not isinstance(value, (int, str)) else str(value)
    if not text.isprintable() or not 0 < len(text) <= 256:
        message = f"wants a name of 1 to 256 printable characters, got {_short(value)}"
        raise FormatError(message, file=file, field=f"{place}.{name}")
    return text


def _short(value: Any) -> str:
    try:
        return f"{value!a:.40}"
    except (ValueError, RecursionError):  # an integer of thousands of digits, a deep list
        return f"a {type(value).__name__}"


def _known(row: Mapping[str, Any], kind: type, place: str, file: Any) -> None:
    unknown = set(row) - set(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    if unknown:
        raise FormatError("no such field", file=file, field=f"{place}.{min(map(str, unknown))}")


def _unique(names: list[str], place: str, file: Any) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise FormatError(f"'{name}' stands twice", file=file, field=place)
        seen.add(name)
