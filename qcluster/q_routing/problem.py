"""What is asked of a placement, validated, and what comes back.

Terms: an expert is *logical*; a slot is room for one copy of an expert on one GPU, the same number
of slots in every layer. Load is any additive count, mostly tokens. Balancedness is the sum over
layers (and windows) of mean GPU time over the sum of the largest GPU time, 1 at best; the time of
a GPU is its load over its speed. It knows nothing of how a placement is found.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcluster.errors import InputError
from qcluster.record import Record

__all__ = ["EMPTY", "Mode", "Placement", "PlacementProblem", "gpu_loads", "read_load"]

Mode = Literal["global", "hierarchical"]

EMPTY = -1
"""What an unused slot holds: a slot of a dead GPU, or one more than there are experts."""


@dataclass(frozen=True, eq=False)
class PlacementProblem:
    """Place ``load`` (windows, layers, experts) onto GPUs.

    ``slot_start`` (gpus + 1,) delimits each GPU's slots; ``speed`` (gpus,) is relative and 0 for a
    dead GPU; GPUs are spread evenly over ``num_nodes`` in order, experts over ``num_groups``.
    """

    load: NDArray[np.float64]
    slot_start: NDArray[np.int64]
    speed: NDArray[np.float64]
    num_nodes: int
    num_groups: int
    mode: Mode

    @classmethod
    def of(
        cls,
        load: ArrayLike,
        *,
        num_slots: int,
        num_gpus: int,
        num_nodes: int = 1,
        num_groups: int = 1,
        mode: str = "global",
        slots_per_gpu: ArrayLike | None = None,
        speed: ArrayLike | None = None,
        alive: ArrayLike | None = None,
    ) -> PlacementProblem:
        """Check everything once. Raises InputError naming the argument that is wrong."""
        loads = read_load(load)
        loads = loads[None] if loads.ndim == 2 else loads
        gpus, slots = count(num_gpus, "num_gpus"), count(num_slots, "num_slots")
        nodes, groups = count(num_nodes, "num_nodes"), count(num_groups, "num_groups")
        room = _slots_per_gpu(slots_per_gpu, slots, gpus)
        rate = _speed(speed, alive, gpus)
        experts = loads.shape[2]
        usable = int(np.minimum(room, experts)[rate > 0].sum())
        if usable < experts:
            raise InputError(
                f"{usable} slots on GPUs that are alive cannot hold {experts} experts",
                field="num_slots",
            )
        if mode not in ("global", "hierarchical"):
            raise InputError(f"wants 'global' or 'hierarchical', got {mode!r}", field="mode")
        if mode == "hierarchical":
            _divides(nodes, groups, "num_groups")
            _divides(nodes, gpus, "num_gpus")
            _divides(groups, experts, "num_groups")
        start = np.concatenate([[0], np.cumsum(room)]).astype(np.int64)
        return cls(loads, start, rate, nodes, groups, "global" if mode == "global" else mode)  # type: ignore[arg-type]

    @property
    def num_gpus(self) -> int:
        return len(self.speed)

    @property
    def num_slots(self) -> int:
        return int(self.slot_start[-1])

    @property
    def gpu_of_slot(self) -> NDArray[np.int64]:
        """(num_slots,) the GPU of each slot."""
        return np.repeat(np.arange(self.num_gpus), np.diff(self.slot_start))


@dataclass(frozen=True, kw_only=True, eq=False)
class Placement(Record):
    """Which expert each slot holds.

    ``slots`` (layers, num_slots) expert or -1 for an unused slot; ``gpu_of_slot`` (num_slots,);
    ``speed`` (num_gpus,) relative, 0 for a dead GPU. ``balancedness`` is on the load that was
    planned for, replicas sharing equally, and at most ``upper_bound``, which no placement of these
    experts into these slots can exceed. ``moves`` (m, 4) are rows of layer, slot, new expert and a
    slot that held that expert before (-1: none did); empty without a previous placement.
    """

    slots: NDArray[np.int64]
    gpu_of_slot: NDArray[np.int64]
    num_experts: int
    num_gpus: int
    balancedness: float
    upper_bound: float
    speed: NDArray[np.float64]
    mode: str = "global"
    moves: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 4), dtype=np.int64))

    def __post_init__(self) -> None:
        # JSON has no shape for an empty array.
        object.__setattr__(self, "moves", np.asarray(self.moves, np.int64).reshape(-1, 4))

    @property
    def moved_share(self) -> float:
        """Share of all slots whose expert changed."""
        return len(self.moves) / self.slots.size if self.slots.size else 0.0

    @property
    def counts(self) -> NDArray[np.int64]:
        """(layers, experts) number of copies."""
        layers = len(self.slots)
        row, column = np.nonzero(self.slots >= 0)
        keys = row * self.num_experts + self.slots[row, column]
        size = layers * self.num_experts
        return np.bincount(keys, minlength=size).reshape(layers, self.num_experts)

    def gpu_loads(self, load: ArrayLike) -> NDArray[np.float64]:
        """(..., layers, gpus) load of each GPU under ``load`` (..., layers, experts)."""
        return gpu_loads(self.slots, self.gpu_of_slot, read_load(load), self.num_gpus)

    def balancedness_on(self, load: ArrayLike) -> float:
        """Balancedness of this placement on another load, replicas sharing equally."""
        return balancedness(self.gpu_loads(load), self.speed)


def gpu_loads(
    slots: NDArray[np.int64], gpu_of_slot: NDArray[np.int64], load: NDArray[np.float64], gpus: int
) -> NDArray[np.float64]:
    """Load of each GPU when replicas share equally.

    slots (layers, num_slots), load (layers, experts) or (windows, layers, experts) -> (layers,
    gpus) or (windows, layers, gpus). Load of an expert that has no slot is lost.
    """
    windows = load.reshape(-1, *load.shape[-2:])
    layers, experts = windows.shape[1:]
    row, column = np.nonzero(slots >= 0)
    expert = slots[row, column]
    copies = np.bincount(row * experts + expert, minlength=layers * experts)
    share = windows[:, row, expert] / copies[row * experts + expert]
    target = row * gpus + gpu_of_slot[column]
    out = np.stack([np.bincount(target, weights=s, minlength=layers * gpus) for s in share])
    return np.asarray(out.reshape(*load.shape[:-1], gpus), dtype=np.float64)


def balancedness(loads: NDArray[np.float64], speed: NDArray[np.float64]) -> float:
    """Sum of mean over sum of largest GPU time for loads (..., gpus); 1.0 when there is no load."""
    alive = speed > 0
    mean = loads.sum(axis=-1) / speed.sum()
    largest = (loads[..., alive] / speed[alive]).max(axis=-1)
    total = float(largest.sum())
    return min(1.0, float(mean.sum()) / total) if total > 0 else 1.0


def read_load(load: ArrayLike) -> NDArray[np.float64]:
    """Loads as float64, (layers, experts) or (windows, layers, experts).

    Raises InputError for anything that is not a finite number of at least 0, naming its place.
    """
    array = np.asarray(load)
    if array.dtype.kind not in "iuf":
        raise InputError(f"wants numbers, got {array.dtype}", field="load")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(
            f"wants (layers, experts) or (windows, layers, experts), got shape {array.shape}",
            field="load",
        )
    array = np.ascontiguousarray(array, dtype=np.float64)
    bad = np.argwhere(~(np.isfinite(array) & (array >= 0)))
    if len(bad):
        where = ", ".join(map(str, bad[0]))
        value = array[tuple(bad[0])]
        raise InputError(f"{value} at [{where}] is not a finite load of at least 0", field="load")
    return array


def count(value: Any, name: str) -> int:
    """A whole number of at least 1, or InputError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or int(value) < 1:
        raise InputError(f"wants a whole number of at least 1, got {value!r}", field=name)
    return int(value)


def _slots_per_gpu(given: ArrayLike | None, slots: int, gpus: int) -> NDArray[np.int64]:
    if given is None:
        # What does not divide goes to the first GPUs, one slot each.
        extra = np.arange(gpus) < slots % gpus
        return np.asarray(slots // gpus + extra, dtype=np.int64)
    room = np.asarray(given)
    if room.dtype.kind not in "iu" or room.shape != (gpus,) or (room < 0).any():
        raise InputError(f"wants {gpus} counts of at least 0", field="slots_per_gpu")
    if int(room.sum()) != slots:
        message = f"adds up to {int(room.sum())}, but num_slots is {slots}"
        raise InputError(message, field="slots_per_gpu")
    return room.astype(np.int64)


def _speed(speed: ArrayLike | None, alive: ArrayLike | None, gpus: int) -> NDArray[np.float64]:
    rate = np.ones(gpus) if speed is None else np.asarray(speed)
    if rate.dtype.kind not in "iuf" or rate.shape != (gpus,):
        raise InputError(f"wants {gpus} numbers", field="speed")
    if not np.isfinite(rate).all() or (rate <= 0).any():
        raise InputError("wants finite speeds above 0; mark dead GPUs in alive", field="speed")
    if alive is None:
        return rate.astype(np.float64)
    mask = np.asarray(alive)
    if mask.dtype.kind not in "biu" or mask.shape != (gpus,):
        raise InputError(f"wants {gpus} truth values", field="alive")
    if not mask.any():
        raise InputError("no GPU is alive", field="alive")
    return np.where(mask.astype(bool), rate, 0.0).astype(np.float64)


def _divides(divisor: int, whole: int, name: str) -> None:
    if whole % divisor:
        raise InputError(f"hierarchical mode: {whole} is not a multiple of {divisor}", field=name)
