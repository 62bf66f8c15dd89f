"""Control variates: a cheap stand-in h_j for every value row, summed exactly, so that sampling has
only v_j - h_j to estimate.

none       nothing
constant   the mean of all values. Because weights sum to one it takes nothing away: the naive
           estimate's error is the same, draw for draw, as long as the multipliers sum to one
block      the mean over blocks of 16 keys
lowbit     a copy in 4 bits a number, and the length of what it leaves out (16 bits a row)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcluster.errors import InputError
from qcluster.q_attention.lowbit import shrink

if TYPE_CHECKING:
    import torch

__all__ = ["BLOCK", "VARIATES", "Variate", "make_variate"]

BLOCK = 16
BITS = 4
VARIATES = ("none", "constant", "block", "lowbit")


@dataclass(frozen=True, eq=False)
class Variate:
    """A stand-in ``values`` (groups, n, dv) without gradient, or None; bytes a query reads of it.

    ``left`` (groups, 1, n): length of v_j - h_j where it is stored, else None.
    """

    name: str
    values: torch.Tensor | None
    left: torch.Tensor | None
    bytes_read: float


def make_variate(v: torch.Tensor, name: str, *, seed: int = 0) -> Variate:
    """The control variate of this name for values (groups, n, dv). Raises InputError."""
    n, dv = int(v.shape[1]), int(v.shape[2])
    if name not in VARIATES:
        raise InputError(f"'{name}' is none of auto, {', '.join(VARIATES)}",
                         field="control_variate")  # fmt: skip
    fixed = v.detach()
    if name == "none":
        return Variate(name, None, None, 0.0)
    if name == "constant":
        return Variate(name, fixed.mean(1, keepdim=True).expand_as(fixed), None, 2.0 * dv)
    if name == "block":
        means = _block_means(fixed)
        blocks = -(-n // BLOCK)
        return Variate(name, means, None, 2.0 * dv * blocks)
    copy = shrink(fixed, BITS * dv, seed=seed, dither=False)
    left = (fixed - copy.values).norm(dim=-1).unsqueeze(1)
    return Variate(name, copy.values, left, n * (copy.row_bytes + 2) + copy.scale_bytes)


def _block_means(v: torch.Tensor) -> torch.Tensor:
    import torch

    n = v.shape[1]
    block = torch.arange(n, device=v.device) // BLOCK
    sums = torch.zeros(v.shape[0], int(block[-1]) + 1, v.shape[2], dtype=v.dtype, device=v.device)
    sums.index_add_(1, block, v)
    counts = block.bincount().to(v.dtype)
    return (sums / counts[:, None])[:, block]
