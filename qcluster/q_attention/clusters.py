"""Keys grouped by nearness, each group with its mean key and mean value.

k-means (Lloyd, 1957) within blocks of keys, so that the work grows with n and not n^2, and a block
that is full never changes when keys are added. Made when keys are written, read by every query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcluster.q_attention.lowbit import shrink

if TYPE_CHECKING:
    import torch

__all__ = ["Clusters", "cluster_keys", "contiguous", "summarise"]

BLOCK = 2048
"""Keys that are clustered together."""
ROUNDS = 6
STATS_BYTES = 6
"""Of a cluster: its size and two mean squared radii, 16 bits each."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """``of_key`` (groups, n) cluster of each key; ``size`` (groups, m); ``keys`` (groups, m, d)
    and ``values`` (groups, m, dv) means as read back; ``spread_k`` and ``spread_v`` (groups, m)
    mean squared distances to them; ``bytes_read`` what a query reads of all this.
    """

    of_key: torch.Tensor
    size: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    spread_k: torch.Tensor
    spread_v: torch.Tensor
    bytes_read: float

    @property
    def count(self) -> int:
        """Clusters of a group, empty ones too."""
        return int(self.size.shape[1])


def cluster_keys(k: torch.Tensor, per_cluster: int) -> torch.Tensor:
    """(groups, n) cluster of each key, about ``per_cluster`` keys in each."""
    import torch

    parts, first = [], 0
    with torch.no_grad():
        for at in range(0, k.shape[1], BLOCK):
            block = k[:, at : at + BLOCK].detach()
            count = max(1, block.shape[1] // per_cluster)
            parts.append(_lloyd(block, count) + first)
            first += count
    return torch.cat(parts, 1)


def contiguous(n: int, groups: int, per_cluster: int, device: Any) -> torch.Tensor:
    """(groups, n) runs of ``per_cluster`` keys."""
    import torch

    runs: torch.Tensor = torch.arange(n, device=device) // per_cluster
    return runs.expand(groups, n)


def summarise(
    k: torch.Tensor, v: torch.Tensor, of_key: torch.Tensor, bits: int, *, seed: int = 0
) -> Clusters:
    """Means and spreads of clusters, means held in ``bits`` a number."""
    import torch

    with torch.no_grad():
        k, v = k.detach(), v.detach()
        m = int(of_key.max()) + 1
        size = torch.zeros(k.shape[0], m, dtype=k.dtype, device=k.device)
        size = size.scatter_add(1, of_key, torch.ones_like(k[..., 0]))
        low = [
            shrink(_mean(x, of_key, size), bits * x.shape[-1], seed=seed, dither=False)
            for x in (k, v)
        ]
        spread = [
            _mean(rest(x, copy.values, of_key).square().sum(-1, keepdim=True), of_key, size)
            for x, copy in zip((k, v), low, strict=True)
        ]
    read = m * (sum(copy.row_bytes for copy in low) + STATS_BYTES)
    read += sum(copy.scale_bytes for copy in low)
    keys, values = (copy.values for copy in low)
    return Clusters(of_key, size, keys, values, spread[0][..., 0], spread[1][..., 0], read)


def rest(x: torch.Tensor, means: torch.Tensor, of_key: torch.Tensor) -> torch.Tensor:
    """``x`` (groups, n, channels) less the mean of each row's cluster."""
    return x - means.gather(1, of_key.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _mean(x: torch.Tensor, of_key: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    wide = of_key.unsqueeze(-1).expand(-1, -1, x.shape[-1])
    sums = x.new_zeros(x.shape[0], size.shape[1], x.shape[-1]).scatter_add(1, wide, x)
    return sums / size.clamp(min=1).unsqueeze(-1)


def _lloyd(x: torch.Tensor, count: int) -> torch.Tensor:
    """(groups, n) cluster in [0, count); starts from every (n / count)-th key."""
    import torch

    groups, n = x.shape[:2]
    start = torch.arange(count, device=x.device) * n // count
    centre = x[:, start]
    nearest = torch.zeros(groups, n, dtype=torch.long, device=x.device)
    for _ in range(ROUNDS):
        distance = centre.square().sum(-1).unsqueeze(1) - 2 * x @ centre.transpose(1, 2)
        nearest = distance.argmin(-1)
        size = x.new_zeros(groups, count).scatter_add(1, nearest, torch.ones_like(x[..., 0]))
        moved = _mean(x, nearest, size)
        centre = torch.where(size.unsqueeze(-1) > 0, moved, centre)
    return nearest
