"""The weighted split on tensors: the same water-filling as ``split``, all layers at once.

For loads that are counted on an accelerator already: nothing leaves the device. In each step one
expert a layer pours its load anew over the GPUs that hold it, so the layers run side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qcluster.errors import InputError
from qcluster.q_routing.problem import Placement

if TYPE_CHECKING:
    import torch

__all__ = ["TorchSplit"]


class TorchSplit:
    """Splits loads over the copies of one placement, on one device.

    placement: as from ``place_experts``; device: where loads will be. The tables are built once.
    Every sweep pours each expert with several copies once.
    """

    def __init__(self, placement: Placement, device: str | torch.device = "cpu") -> None:
        import torch

        expert, copies = _copies(placement)
        self.device = torch.device(device)
        self.experts, self.gpus = placement.num_experts, placement.num_gpus
        rate = np.where(placement.speed > 0, placement.speed, 1.0)
        self._speed = torch.as_tensor(rate, device=self.device)
        self._slots = torch.as_tensor(placement.slots, device=self.device)
        self._owner = torch.as_tensor(placement.gpu_of_slot, device=self.device)
        counts = placement.counts
        self._count = torch.as_tensor(np.maximum(counts, 1), device=self.device)
        self._expert = torch.as_tensor(expert, device=self.device)
        self._copies = torch.as_tensor(copies, device=self.device)

    def __call__(
        self, load: torch.Tensor, *, tolerance: float = 5e-4, sweeps: int = 100
    ) -> torch.Tensor:
        """(layers, slots) float64 load carried by each slot for ``load`` (layers, experts).

        Stops when a sweep lowers no layer's largest GPU time by more than ``tolerance`` / 10 of
        it. Raises InputError for another shape, or a load that is not finite and at least 0.
        """
        import torch

        layers, slots = self._slots.shape
        if tuple(load.shape) != (layers, self.experts):
            wanted = (layers, self.experts)
            raise InputError(f"wants shape {wanted}, got {tuple(load.shape)}", field="load")
        w = load.to(device=self.device, dtype=torch.float64)
        if not bool((torch.isfinite(w) & (w >= 0)).all()):
            raise InputError("wants finite loads of at least 0", field="load")
        held = self._slots.clamp(min=0)
        out = w.gather(1, held) / self._count.gather(1, held)
        # One more slot, which carries nothing, stands for copies that are not there.
        out = torch.cat([torch.where(self._slots >= 0, out, 0.0), out.new_zeros(layers, 1)], 1)
        owner = self._owner.expand(layers, slots)
        total = out.new_zeros(layers, self.gpus).scatter_add_(1, owner, out[:, :-1])
        top = (total / self._speed).amax(dim=1)
        for _ in range(sweeps):
            self._sweep(w, out, total)
            now = (total / self._speed).amax(dim=1)
            if bool((top - now <= 0.1 * tolerance * top).all()):
                break
            top = now
        return out[:, :-1]

    def _sweep(self, w: torch.Tensor, out: torch.Tensor, total: torch.Tensor) -> None:
        import torch

        last = out.shape[1] - 1
        for step in range(self._expert.shape[1]):
            slot = self._copies[:, step]
            there = slot < last
            gpu = self._owner[slot.clamp(max=last - 1)]
            speed = torch.where(there, self._speed[gpu], 0.0)
            mine = out.gather(1, slot)
            rest = (total.gather(1, gpu) - mine).clamp(min=0.0)
            time = torch.where(there, rest / self._speed[gpu], torch.inf)
            amount = w.gather(1, self._expert[:, step : step + 1])
            part = _fill(amount, time, speed) * there
            total.scatter_add_(1, gpu, part - mine)
            out.scatter_(1, slot, part)
            out[:, last] = 0.0


def _fill(amount: torch.Tensor, time: torch.Tensor, speed: torch.Tensor) -> torch.Tensor:
    """Pour ``amount`` (layers, 1) over bins (layers, copies) so that the level is even; a bin with
    no speed and infinite time is none.
    """
    import torch

    order = time.argsort(dim=1)
    sorted_time = time.gather(1, order)
    rate = speed.gather(1, order)
    reach = torch.where(torch.isfinite(sorted_time), sorted_time, 0.0)
    rates, used = rate.cumsum(1), (reach * rate).cumsum(1)
    levels = (amount + used) / rates.clamp(min=1e-300)
    # The level over the first n bins is the answer for the n at which it is least.
    level = torch.where(torch.isfinite(sorted_time), levels, torch.inf).amin(dim=1, keepdim=True)
    level = torch.where(torch.isfinite(level), level, 0.0)
    return ((level - torch.where(torch.isfinite(time), time, 0.0)) * speed).clamp(min=0.0)


def _copies(placement: Placement) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Experts with several copies, (layers, steps), and their slots, (layers, steps, copies).

    Missing ones are expert 0 without copies: slot ``num_slots``, which is none.
    """
    counts, slots = placement.counts, placement.slots
    steps = max(1, int((counts > 1).sum(axis=1).max(initial=1)))
    width = max(1, int(counts.max(initial=1)))
    expert = np.zeros((len(slots), steps), dtype=np.int64)
    copies = np.full((len(slots), steps, width), slots.shape[1], dtype=np.int64)
    for x, row in enumerate(slots):
        for step, e in enumerate(np.flatnonzero(counts[x] > 1)):
            at = np.flatnonzero(row == e)
            expert[x, step] = e
            copies[x, step, : len(at)] = at
    return expert, copies
