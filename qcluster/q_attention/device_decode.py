"""Two-level decode where keys and values are on a GPU: Triton reads them, torch chooses.

The rule is that of ``_kernels.decode_head``, for all heads at once and without waiting for the
device in between, so that a step can be captured in a CUDA graph.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from qcluster.q_attention.held_head import Eight, Head

__all__ = ["DeviceHeads", "available", "decode_heads"]

_BINS, _SHIFT = 2048, 20
_MOST = 4.0
"""Score variances beyond this say no more than that the estimate is worthless."""
_BLOCK, _ROUNDS = 64, 8


def available() -> bool:
    """Whether Triton is installed: torch's own wheels for CUDA bring it."""
    return importlib.util.find_spec("triton") is not None


@dataclass(frozen=True, eq=False)
class DeviceHeads:
    """``Head`` of every head of keys, stacked on a device: H heads, m clusters, n rows.

    Heads with fewer clusters are filled up with clusters of no mass and no rows. Codes are int8,
    ``of_row`` (H, n) int32, the rest float32.
    """

    mean_k: torch.Tensor
    mean_k_step: torch.Tensor
    mean_k_middle: torch.Tensor
    mean_v: torch.Tensor
    mean_v_step: torch.Tensor
    mean_v_middle: torch.Tensor
    row_k: torch.Tensor
    row_k_step: torch.Tensor
    row_k_middle: torch.Tensor
    row_v: torch.Tensor
    row_v_step: torch.Tensor
    row_v_middle: torch.Tensor
    log_size: torch.Tensor
    spread: torch.Tensor
    spread_v: torch.Tensor
    within: torch.Tensor
    along: torch.Tensor
    of_row: torch.Tensor

    @classmethod
    def of(cls, heads: Sequence[Head], device: torch.device) -> DeviceHeads:
        """The same as ``heads``, which have the same number of rows."""
        m = max(len(head.log_size) for head in heads)
        eights = ("mean_k", "mean_v", "row_k", "row_v")
        found: dict[str, list[np.ndarray]] = {field.name: [] for field in fields(cls)}
        for head in heads:
            more = m - len(head.log_size)
            for name in eights:
                eight: Eight = getattr(head, name)
                rows = more if name.startswith("mean") else 0
                found[name].append(np.pad(eight.codes, ((0, rows), (0, 0))))
                found[f"{name}_step"].append(eight.step)
                found[f"{name}_middle"].append(eight.middle)
            found["log_size"].append(np.pad(head.log_size, (0, more), constant_values=-np.inf))
            for name in ("spread", "spread_v"):
                found[name].append(np.pad(getattr(head, name), (0, more)))
            found["within"].append(head.within)
            found["along"].append(head.along)
            sizes = np.diff(head.start)
            found["of_row"].append(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
        return cls(**{
            name: torch.from_numpy(np.ascontiguousarray(np.stack(each))).to(device)
            for name, each in found.items()
        })  # fmt: skip


def decode_heads(
    q: torch.Tensor,
    scale: float,
    tolerance: float,
    heads: DeviceHeads,
    tail_k: torch.Tensor,
    tail_v: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (Q, dv) of queries (Q, d) and how many rows each read in 8 bits, (Q,).

    Q is a multiple of H, query heads that share keys side by side; ``tail_k`` (H, t, d) and
    ``tail_v`` (H, t, dv) are rows at the end that are read as they are. Everything in float32 but
    the codes. See ``_kernels.decode_head`` for the rule and the estimate behind it.
    """
    group = len(q) // len(heads.log_size)
    ask = q.float() * scale
    apart = _split(ask, group)
    length = torch.einsum("hge,hef,hgf->hg", apart, heads.within, apart).flatten()[:, None]
    varied = (length * _each(heads.spread, group)).clamp(max=_MOST)
    score = _scores(ask, heads, group, varied)
    near = torch.einsum("hge,hte->hgt", apart, tail_k.float()).flatten(0, 1)
    top = torch.cat([score, near], 1).amax(1, keepdim=True)
    weight, plain_weight = (score - top).exp(), (near - top).exp()
    plain = torch.einsum("hgt,htv->hgv", _split(plain_weight, group), tail_v.float())
    plain = plain.flatten(0, 1)
    plain_mass = plain_weight.sum(1, keepdim=True)
    shift = torch.einsum("hve,hge->hgv", heads.along, apart).flatten(0, 1)
    whole = weight.sum(1, keepdim=True) + plain_mass
    guess = (_closed(weight, heads, group, shift) + plain) / whole
    square = guess.square().sum(1, keepdim=True)
    gain = (weight / whole).square() * varied * (_each(heads.spread_v, group) + square)
    opened = _opened(gain, tolerance**2 * square)
    fine, fine_mass = _rows(ask, top, opened, heads, group)
    weight = weight.masked_fill(opened, 0.0)
    whole = weight.sum(1, keepdim=True) + plain_mass + fine_mass
    out = (_closed(weight, heads, group, shift) + fine + plain) / whole
    sizes = _each(heads.log_size, group).exp().round()
    return out, (sizes * opened).sum(1)


def _split(x: torch.Tensor, group: int) -> torch.Tensor:
    return x.reshape(len(x) // group, group, x.shape[1])


def _each(x: torch.Tensor, group: int) -> torch.Tensor:
    """Of the head of keys that each query head reads."""
    return x.repeat_interleave(group, 0)


def _power(n: int) -> int:
    """The least power of two that is not below n: Triton's blocks are such."""
    return 1 << (n - 1).bit_length()


def _blocks(n: int, block: int) -> int:
    return -(-n // block)


def _scores(
    ask: torch.Tensor, heads: DeviceHeads, group: int, varied: torch.Tensor
) -> torch.Tensor:
    """(Q, m) logarithms of clusters' masses, to second order in what scores vary inside."""
    from qcluster.q_attention._triton_kernels import score_means

    small = (ask * _each(heads.mean_k_step, group)).contiguous()
    base = (ask * _each(heads.mean_k_middle, group)).sum(1, keepdim=True)
    plus = (base + _each(heads.log_size, group) + varied / 2).contiguous()
    m, d = heads.mean_k.shape[1:]
    out = torch.empty_like(plus)
    score_means[len(ask), _blocks(m, _BLOCK)](
        small, heads.mean_k, plus, out, group, m, d,
        BLOCK_M=_BLOCK, BLOCK_D=_power(d),
    )  # fmt: skip
    return out


def _closed(
    weight: torch.Tensor, heads: DeviceHeads, group: int, shift: torch.Tensor
) -> torch.Tensor:
    """(Q, dv) what clusters read as means bring."""
    from qcluster.q_attention._triton_kernels import sum_means

    weight = weight.contiguous()
    m, dv = heads.mean_v.shape[1:]
    parts = weight.new_empty(len(weight), _blocks(m, _BLOCK), dv)
    sum_means[len(weight), parts.shape[1]](
        weight, heads.mean_v, parts, group, m, dv,
        BLOCK_M=_BLOCK, BLOCK_V=_power(dv),
    )  # fmt: skip
    codes = parts.sum(1) * _each(heads.mean_v_step, group)
    moved = (weight * _each(heads.spread, group)).sum(1, keepdim=True)
    return codes + weight.sum(1, keepdim=True) * _each(heads.mean_v_middle, group) + moved * shift


def _opened(gain: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """(Q, m) clusters to open, so that gains of the others add up to ``allowed`` (Q, 1) at most.

    By bins of an eighth of an octave: the exponent and three bits of a float32.
    """
    places = (gain.contiguous().view(torch.int32) >> _SHIFT).long()
    sums = torch.zeros(len(gain), _BINS, dtype=torch.float64, device=gain.device)
    sums.scatter_add_(1, places, gain.double())
    limit = (sums.cumsum(1) <= allowed).sum(1, keepdim=True)
    return places >= limit


def _rows(
    ask: torch.Tensor, top: torch.Tensor, opened: torch.Tensor, heads: DeviceHeads, group: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(Q, dv) and (Q, 1): what rows of opened clusters bring, and their mass."""
    from qcluster.q_attention._triton_kernels import sum_rows

    small = (ask * _each(heads.row_k_step, group)).contiguous()
    plus = (ask * _each(heads.row_k_middle, group)).sum(1) - top[:, 0]
    (n, d), dv, m = heads.row_k.shape[1:], heads.row_v.shape[2], opened.shape[1]
    blocks = _blocks(n, _BLOCK * _ROUNDS)
    mass = small.new_empty(len(ask), blocks)
    parts = small.new_empty(len(ask), blocks, dv)
    sum_rows[len(ask), blocks](
        small, plus.contiguous(), heads.row_k, heads.row_v, heads.of_row,
        opened.to(torch.int8), mass, parts, group, n, m, d, dv,
        ROUNDS=_ROUNDS, BLOCK_N=_BLOCK,
        BLOCK_D=_power(d), BLOCK_V=_power(dv),
    )  # fmt: skip
    fine_mass = mass.sum(1, keepdim=True)
    fine = parts.sum(1) * _each(heads.row_v_step, group)
    return fine + fine_mass * _each(heads.row_v_middle, group), fine_mass
