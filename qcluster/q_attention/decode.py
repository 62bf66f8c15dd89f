"""Decoding: one query at a time over a growing cache of keys and values.

Short caches go to torch's kernel. Long ones are read at two levels: 8-bit means of clusters of
keys, and 8-bit rows of the clusters that matter for this query; keys too new to be clustered are
read as they are. Which way is faster is predicted from the bytes that each reads. Clusters are made
when a query first needs them, later keys block by block.

On a CPU a compiled kernel reads the two levels, on a GPU Triton's (``device_decode``), where it is
installed. When two levels pay was measured on CPUs; on GPUs it is reckoned from the bytes.

The mean error is near the tolerance on inputs like those of trained models; it is an estimate, not
a bound: for bounds use ``attention(..., certificate=True)``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from qcluster.errors import InputError
from qcluster.q_attention.clusters import BLOCK
from qcluster.q_attention.device_decode import DeviceHeads, available, decode_heads
from qcluster.q_attention.held_head import PER_CLUSTER, GrowingHead

__all__ = ["DecodeCache"]

RIDGE = 0.05
"""Weight of every direction against those that queries take."""
MARGIN = 0.8
"""Of the tolerance is allowed for what stays closed; the rest is for 8 bits and for bad luck."""
SHORT = 4096
"""Below so many keys torch's kernel is faster whatever is read (measured)."""
LEARN = 256
"""Earlier queries that are looked at."""
SLOWER = 3.0
"""A byte read at two levels takes so many times what it takes torch's kernel (measured)."""
SHORT_DEVICE, SLOWER_DEVICE = 32768, 1.5
"""The same on a GPU: not measured. A step is some thirty launches, as long as reading so many keys;
a byte is assumed to take somewhat longer as only some rows are read.
"""

_TYPES = {"cpu": (torch.float32,), "cuda": (torch.float32, torch.float16, torch.bfloat16)}


class DecodeCache:
    """Keys and values of (batch, heads, n, dim) that queries attend to: float32 on the CPU, or
    float32, float16 or bfloat16 on a CUDA device.

    Parameters
    ----------
    k, v: (batch, heads, n, d) and (batch, heads, n, dv).
    tolerance: wanted relative error of the output, about.
    queries: (batch, query heads, any, d) earlier queries, those of the prompt say: keys are then
        grouped by what such queries tell apart, which reads less and misses less.

    ``rows_read`` is the share of rows that the last call read at level 1, None where torch's kernel
    ran; on a GPU, asking for it waits for the device. Raises InputError for other shapes, types,
    devices, or numbers that are not finite.
    """

    def __init__(
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        tolerance: float = 0.02,
        queries: torch.Tensor | None = None,
    ) -> None:
        if not 0 < tolerance < 1:
            raise InputError(f"wants a number in (0, 1), got {tolerance}", field="tolerance")
        _check(k, v)
        self.tolerance = tolerance
        self._read: float | torch.Tensor | None = None
        self._k, self._v = k.contiguous(), v.contiguous()
        self._n = int(k.shape[2])
        self._metric = None if queries is None else _metric(queries, k)
        self._heads: list[GrowingHead] = []
        self._on_device: DeviceHeads | None = None
        self._clustered = 0
        self._opened = 0.1
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return self._n

    @property
    def rows_read(self) -> float | None:
        """Share of rows that the last call read at level 1; None where torch's kernel ran."""
        return None if self._read is None else float(self._read)

    @property
    def keys(self) -> torch.Tensor:
        """(batch, heads, n, d), a view of what is held."""
        return self._k[:, :, : self._n]

    @property
    def values(self) -> torch.Tensor:
        """(batch, heads, n, dv), a view of what is held."""
        return self._v[:, :, : self._n]

    def observe(self, queries: torch.Tensor) -> None:
        """Take earlier ``queries`` (batch, query heads, any, d) into account, the last of them,
        unless keys are grouped already. Raises InputError for shapes that do not fit.
        """
        if not self._clustered and self._n >= SHORT:
            self._metric = _metric(queries[:, :, -LEARN:], self._k)

    def append(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Add keys and values (batch, heads, new, dim) at the end."""
        _check(k, v)
        if k.shape[:2] != self._k.shape[:2] or k.shape[3] != self._k.shape[3]:
            raise InputError(f"{tuple(k.shape)} does not go on {tuple(self._k.shape)}", field="k")
        end = self._n + k.shape[2]
        if end > self._k.shape[2]:
            # Room for half as much again, so that adding one key does not copy all.
            room = end + self._n // 2
            self._k, self._v = (_widened(x, self._n, room) for x in (self._k, self._v))
        self._k[:, :, self._n : end] = k
        self._v[:, :, self._n : end] = v
        self._n = end

    def attend(self, q: torch.Tensor, *, scale: float | None = None) -> torch.Tensor:
        """(batch, query heads, 1, dv) for one query (batch, query heads, 1, d) of each head."""
        if not self._two_level_pays():
            self._read = None
            k, v = self.keys, self.values
            out: torch.Tensor = functional.scaled_dot_product_attention(
                q, k, v, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
            )
            return out
        return self._two_levels(q, scale)

    def _two_level_pays(self) -> bool:
        """A cost model: bytes of each way, weighed by how fast it reads them."""
        on_cpu = self._k.device.type == "cpu"
        if self._n < (SHORT if on_cpu else SHORT_DEVICE) or not (on_cpu or available()):
            return False
        self._grow()
        tail = self._n - self._clustered
        width = self._k.element_size()
        ours = self._clustered * (1 / PER_CLUSTER + self._opened) + width * tail
        return (SLOWER if on_cpu else SLOWER_DEVICE) * ours < width * self._n

    def _two_levels(self, q: torch.Tensor, scale: float | None) -> torch.Tensor:
        batch, heads, length, d = q.shape
        kv = int(self._k.shape[1])
        if length != 1 or batch != self._k.shape[0] or heads % kv or d != self._k.shape[3]:
            raise InputError(f"{tuple(q.shape)} for keys {tuple(self._k.shape)}", field="q")
        size = d**-0.5 if scale is None else scale
        if self._k.device.type == "cpu":
            return self._on_cpu(q, size)
        if self._on_device is None:
            grown = [each.head for each in self._heads if each.head is not None]
            self._on_device = DeviceHeads.of(grown, self._k.device)
        tail_k, tail_v = (
            x[:, :, self._clustered : self._n].flatten(0, 1) for x in (self._k, self._v)
        )
        # Triton launches on the current device, which need not be the tensors' own.
        with torch.cuda.device(self._k.device):
            out, read = decode_heads(
                q.detach().reshape(batch * heads, d), size, MARGIN * self.tolerance,
                self._on_device, tail_k, tail_v,
            )  # fmt: skip
        self._read = read.mean() / max(1, self._clustered)
        return out.reshape(batch, heads, 1, -1).to(self._v.dtype)

    def _on_cpu(self, q: torch.Tensor, scale: float) -> torch.Tensor:
        from qcluster.q_attention._kernels import decode_head

        batch, heads, _, d = q.shape
        kv = int(self._k.shape[1])
        queries = np.ascontiguousarray(q.detach().numpy().reshape(batch * heads, d))
        out = np.empty((batch * heads, self._v.shape[3]), np.float32)
        first, tail = self._clustered, self._n - self._clustered
        size = np.float32(scale)
        heads_read = [grown.head for grown in self._heads if grown.head is not None]
        tail_k = self._k.numpy()
        tail_v = self._v.numpy()

        def one(at: int) -> int:
            row, group = divmod(at, heads)
            own = group // (heads // kv)
            h = heads_read[row * kv + own]
            read: int = decode_head(
                queries[at], size, np.float32(MARGIN * self.tolerance),
                h.mean_k.codes, h.mean_k.step, h.mean_k.middle,
                h.mean_v.codes, h.mean_v.step, h.mean_v.middle,
                h.log_size, h.spread, h.spread_v, h.within, h.along, h.start,
                h.row_k.codes, h.row_k.step, h.row_k.middle,
                h.row_v.codes, h.row_v.step, h.row_v.middle,
                tail_k[row, own, first : self._n], tail_v[row, own, first : self._n], tail, out[at],
            )  # fmt: skip
            return read

        workers = min(torch.get_num_threads(), batch * heads)
        if workers > 1:
            self._pool = self._pool or ThreadPoolExecutor(workers, "qcluster-decode")
            read = sum(self._pool.map(one, range(batch * heads)))
        else:
            read = sum(map(one, range(batch * heads)))
        self._read = self._opened = read / (batch * heads * max(1, self._clustered))
        return torch.from_numpy(out).reshape(batch, heads, 1, -1)

    def _grow(self) -> None:
        """Cluster whole blocks of keys that have come since the last time."""
        ready = self._n // BLOCK * BLOCK
        if ready == self._clustered:
            return
        if self._read is not None:  # On a GPU this waits for it: once a block, not once a step.
            self._opened = float(self._read)
        keys, values = (
            x[:, :, self._clustered : ready].flatten(0, 1).float().cpu() for x in (self._k, self._v)
        )
        self._on_device = None
        if not self._heads:
            metric = self._metric
            self._heads = [
                GrowingHead(None if metric is None else metric[h]) for h in range(len(keys))
            ]
        for head, k, v in zip(self._heads, keys, values, strict=True):
            head.add(k, v)
        self._clustered = ready


def _metric(queries: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(batch * heads, d, d): lengths after it are deviations of scores over the queries."""
    batch, kv, _, d = k.shape
    if queries.dim() != 4 or queries.shape[0] != batch or queries.shape[1] % kv:
        raise InputError(f"{tuple(queries.shape)} for keys {tuple(k.shape)}", field="queries")
    own = queries.detach().float().cpu().reshape(batch * kv, -1, d)
    square = own.transpose(1, 2) @ own / own.shape[1]
    # Directions that these queries never take may matter to the next one.
    level = square.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    values, vectors = torch.linalg.eigh(square + RIDGE * level * torch.eye(d))
    found: torch.Tensor = vectors * values.clamp(min=0).sqrt().unsqueeze(1)
    return found


def _widened(x: torch.Tensor, n: int, room: int) -> torch.Tensor:
    wide = x.new_zeros(*x.shape[:2], room, x.shape[3])
    wide[:, :, :n] = x[:, :, :n]
    return wide


def _check(k: Any, v: Any) -> None:
    for name, x in (("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor) or x.dtype not in _TYPES.get(x.device.type, ()):
            raise InputError(
                "wants a float32 tensor on the CPU, or float32, float16 or bfloat16 on CUDA",
                field=name,
            )
        if x.dim() != 4 or x.numel() == 0:
            raise InputError(f"wants (batch, heads, n, dim), got {tuple(x.shape)}", field=name)
        if not bool(torch.isfinite(x).all()):
            raise InputError("holds a number that is not finite", field=name)
    if k.device != v.device or k.dtype != v.dtype:
        raise InputError(f"is {v.dtype} on {v.device}, k {k.dtype} on {k.device}", field="v")
    if k.shape[:3] != v.shape[:3]:
        raise InputError(f"k is {tuple(k.shape)}, v {tuple(v.shape)}", field="v")
