"""What is written of keys and values for queries to read: low-bit copies, clusters, their noise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcluster.q_attention.clusters import Clusters, rest
from qcluster.q_attention.lowbit import LowBit, shrink

if TYPE_CHECKING:
    import torch

__all__ = ["Store", "score_noise", "write"]


@dataclass(frozen=True, eq=False)
class Store:
    """What was written for queries to read: low-bit keys and values, clusters or None."""

    keys: LowBit
    values: LowBit
    clusters: Clusters | None

    @property
    def row_bytes(self) -> float:
        """Of one key and value at level 1."""
        return self.keys.row_bytes + self.values.row_bytes

    @property
    def fixed_bytes(self) -> float:
        """What every query reads whatever it needs."""
        scales = self.keys.scale_bytes + self.values.scale_bytes
        return scales + (self.clusters.bytes_read if self.clusters is not None else 0)


def write(
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    bits: tuple[int, int],
    clusters: Clusters | None,
    dither: bool,
    seed: int = 0,
) -> Store:
    """Low-bit copies in ``bits`` a row of keys and of values; of what clusters leave, if any."""
    k, v = k.detach(), v.detach()
    if clusters is None:
        return Store(
            shrink(k, bits[0], seed=2 * seed, dither=dither),
            shrink(v, bits[1], seed=2 * seed + 1, dither=dither),
            None,
        )
    parts = []
    for x, means, total, own in (
        (k, clusters.keys, bits[0], 2 * seed),
        (v, clusters.values, bits[1], 2 * seed + 1),
    ):
        left = rest(x, means, clusters.of_key)
        copy = shrink(left, total, seed=own, dither=dither)
        parts.append(dataclasses.replace(copy, values=copy.values + (x - left)))
    return Store(parts[0], parts[1], clusters)


def score_noise(q: torch.Tensor, keys: LowBit, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance of exp(score error) over its squared mean, and the log of that mean.

    Both (groups, rows, 1), exact for errors uniform in every channel: the mean of exp(x u) over u
    in [-1, 1] is sinh(x) / x.
    """
    reach = scale * q.abs().double() * keys.step / 2
    once = _log_sinhc(reach).sum(-1, keepdim=True)
    twice = _log_sinhc(2 * reach).sum(-1, keepdim=True)
    return (twice - 2 * once).clamp(max=50).expm1().to(q.dtype), once.to(q.dtype)


def _log_sinhc(x: torch.Tensor) -> torch.Tensor:
    import torch

    small = x < 1e-3
    safe = x.masked_fill(small, 1.0)
    # sinh(x) / x without overflow: e^x (1 - e^-2x) / 2x.
    large = safe + torch.log(-torch.expm1(-2 * safe)) - torch.log(2 * safe)
    return torch.where(small, x.square() / 6, large)
