"""The encoder of ``rel_l2`` and ``bits``: trellis-coded quantisation under a price of bits.

Fischer and Wang (1992) with rates of the contexts that will code it: a first search without prices
shows what integers occur at each scale; the second pays for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._trellis_kernels import LEVELS, search, search_eight, squared_error, sum_inward
from qcluster.codec.denoise import Denoiser
from qcluster.codec.dtypes import DType
from qcluster.codec.floats import to_float_bits, to_values
from qcluster.codec.lossless import best_plane
from qcluster.codec.plane import fit_scales
from qcluster.codec.plane_head import COLUMNS, ROWS, TRELLIS, Layout, trellis
from qcluster.codec.quantised import Trellis, join_chunk
from qcluster.codec.transforms import LARGEST_K, ONE, Transform, pack_basis
from qcluster.q_compressor.lattices import Coded

__all__ = ["Target", "encode_trellis"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bits = NDArray[Any]

# Mean square error of a search without prices, in squared steps: a quarter, nearly.
NOISE = 0.26
# The price of a bit: the slope of the Gaussian's distortion, times what did best on real tensors.
SLOPE = 2 * np.log(2) * 0.85
# Root mean square in steps below which an integer is often cheaper than one that is nearer.
COARSE = 3.0
# Integers whose mean-square-optimal values are sent.
SHIFTS = 8
# Elements that the step, where there are many more, and prices are found on.
SAMPLE = 1 << 14
PRICED = 1 << 14
TRIES = 6
# So much of the allowed error is enough: the rest is some thousandths of a bit.
CLOSE = 0.997


@dataclass(frozen=True)
class Target:
    """``rel_l2``: |x - decoded| <= value |x|. ``bits``: at most so many a element, all told."""

    mode: str
    value: float
    overhead: int = 0


@dataclass(frozen=True)
class _Source:
    """What is coded: values with the not finite ones as zero, and where these are."""

    bits: Bits
    values: F64
    true: F64
    special: NDArray[np.bool_]
    dtype: DType
    columns: int
    chunk: int
    # Of a transform's coefficients: 1 for those that are coded, 0 for those that are left out.
    keep: F64 | None = None

    @cached_property
    def some_special(self) -> bool:
        """Whether anything is not finite."""
        return bool(self.special.any())

    @cached_property
    def size(self) -> float:
        """The norm of what the error is measured against."""
        return float(np.linalg.norm(self.true))

    @cached_property
    def farthest(self) -> float:
        """The largest absolute value."""
        return float(np.abs(self.values).max(initial=0.0))


def encode_trellis(
    bits: Bits, dtype: DType, columns: int, chunk: int, target: Target, *, states: int,
    effort: str, transform: Transform | Denoiser | None = None, basis: F64 | None = None,
    original: Bits | None = None, keep: F64 | None = None,
) -> Coded | None:  # fmt: skip
    """The coarsest step that meets the target; None when none does.

    ``keep`` (size of the transform,) is 0 where coefficients are left out.

    ``original`` is what the error is measured against, where ``bits`` are not it.
    """
    values = to_values(bits, dtype)
    special = ~np.isfinite(values)
    values = np.where(special, 0.0, values)
    with np.errstate(over="ignore"):
        power = float(np.mean(np.square(values))) if values.size else 0.0
    if power == 0 or not np.isfinite(power):
        return None
    true = values if original is None else to_values(original, dtype)
    source = _Source(
        bits, values, np.where(special, 0.0, true), special, dtype, columns, chunk, keep
    )
    rms = float(np.sqrt(power))
    if target.mode == "rel_l2":
        step = rms * target.value / np.sqrt(NOISE)
    else:
        step = rms * 2.2 * 2.0**-target.value
    step = _start(source, float(step), target, states, effort, transform, basis)
    if target.mode == "bits":
        return _within_bits(source, step, target, states, effort, transform, basis)
    best: _Quantised | None = None
    memory: _Memory = {}
    low, high, reached = 0.0, np.inf, -1.0
    for _ in range(TRIES):
        if not np.isfinite(step) or step < 1e-290 or step < rms * 2.0**-17:
            break
        found = _quantised(source, step, states, transform, basis, memory)
        ratio = _error(found.decoded, source, target)
        if ratio <= 1:
            low = step
            best, reached = (found, ratio) if ratio > reached else (best, reached)
            if ratio > CLOSE:
                break
        else:
            high = step
        step = _next(step, ratio, low, high, target)
    return None if best is None else _coded(source, best, effort, transform, basis)


def _within_bits(
    source: _Source, step: float, target: Target, states: int, effort: str,
    transform: Transform | Denoiser | None, basis: F64 | None,
) -> Coded | None:  # fmt: skip
    best: Coded | None = None
    if 8 * target.overhead >= target.value * source.bits.size:
        return best
    low, high, reached = 0.0, np.inf, 0.0
    for _ in range(TRIES):
        if not np.isfinite(step) or step < 1e-290:
            break
        coded = _encode(source, step, states, effort, transform, basis)
        ratio = _spent(coded, source, target)
        if ratio <= 1:
            high = step
            best, reached = (coded, ratio) if ratio > reached else (best, reached)
            if ratio > 0.9995:
                break
        else:
            low = step
        step = _next(step, ratio, low, high, target)
    return best


def _start(
    source: _Source, step: float, target: Target, states: int, effort: str,
    transform: Transform | Denoiser | None, basis: F64 | None,
) -> float:  # fmt: skip
    """The step that meets the target on a part, where the whole is much longer."""
    rows = SAMPLE // source.columns
    if source.bits.size < 3 * SAMPLE or rows < 1:
        return step
    stride = max(1, source.bits.size // source.columns // rows)
    pick = slice(None, None, stride)

    def some(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(array.reshape(-1, source.columns)[pick][:rows]).reshape(-1)

    part = _Source(some(source.bits), some(source.values), some(source.true),
                   some(source.special), source.dtype, source.columns, source.chunk,
                   source.keep)  # fmt: skip
    for _ in range(2):
        if target.mode == "bits":
            ratio = _spent(_encode(part, step, states, effort, transform, basis), part, target)
        else:
            found = _quantised(part, step, states, transform, basis)
            ratio = _error(found.decoded, part, target)
        if not np.isfinite(ratio) or ratio <= 0:
            break
        step = _next(step, ratio, 0.0, np.inf, target)
    return step


def _spent(coded: Coded, source: _Source, target: Target) -> float:
    """Bits spent of those allowed."""
    return 8 * (coded.size + target.overhead) / (target.value * source.bits.size)


def _error(decoded: Bits, source: _Source, target: Target) -> float:
    """Error made of that allowed."""
    ours = to_values(decoded, source.dtype)
    if source.some_special:
        ours = np.where(source.special, 0.0, ours)
    with np.errstate(over="ignore", invalid="ignore"):
        # Sums of squares in double precision: the promise holds with a margin for their rounding.
        ratio = np.sqrt(squared_error(ours, source.true)) / (source.size * target.value)
    return float(ratio) * (1 + 1e-9) if np.isfinite(ratio) else np.inf


def _next(step: float, ratio: float, low: float, high: float, target: Target) -> float:
    if target.mode == "rel_l2":
        # Where values lie on a grid that the step divides, no error is made at all.
        wanted = step * 0.9988 / max(ratio, 1 / 16)
    else:
        # A bit less an element for double the step.
        wanted = step * 2.0 ** min((ratio - 0.9998) * target.value, 60.0)
    if not low < wanted < high:
        wanted = (low + high) / 2 if np.isfinite(high) else 1.5 * max(low, step)
    return float(wanted)


# By a chunk's first element: the step that its scales and prices were found at, and these.
_Memory = dict[int, tuple[float, NDArray[np.uint8], F64, bool]]


@dataclass(frozen=True)
class _Quantised:
    """The integers of each chunk, what they stand for, and the bits that they decode to."""

    words: list[I64]
    lattice: Trellis
    decoded: Bits


def _encode(
    source: _Source, step: float, states: int, effort: str, transform: Transform | Denoiser | None,
    basis: F64 | None,
) -> Coded:  # fmt: skip
    quantised = _quantised(source, step, states, transform, basis)
    return _coded(source, quantised, effort, transform, basis)


def _quantised(
    source: _Source, step: float, states: int, transform: Transform | Denoiser | None,
    basis: F64 | None, memory: _Memory | None = None,
) -> _Quantised:  # fmt: skip
    forward = None
    if transform is not None:
        forward = basis if basis is not None else transform.fixed()
    words: list[I64] = []
    shift: tuple[int, ...] = (0,)
    for first in range(0, source.bits.size, source.chunk):
        y = source.values[first : first + source.chunk] / step
        if forward is None and source.farthest > (LARGEST_K - 4) * step:
            y = np.clip(y, -LARGEST_K + 4, LARGEST_K - 4)
        elif forward is not None:
            y = y.reshape(-1, len(forward)) @ forward.T / ONE
            y = (y if source.keep is None else y * source.keep).reshape(-1)
            y = np.clip(y, -LARGEST_K + 4, LARGEST_K - 4)
        k = _quantise(y, source.columns, states, step, memory, first)
        if first == 0:
            shift = _shifts(k, y)
        words.append(k)
    lattice = Trellis(step, states, shift)
    decoded = np.empty_like(source.bits)
    for number, k in enumerate(words):
        part = slice(number * source.chunk, number * source.chunk + k.size)
        if isinstance(transform, Denoiser):
            back = transform.inverse(k, lattice)
        elif transform is None or forward is None:
            back = lattice.values(k)
        else:
            back = transform.inverse(k, lattice, forward)
        out = to_float_bits(back, source.dtype)
        special = source.special[part]
        if source.some_special:
            out[special] = source.bits[part][special]
        decoded[part] = out
    return _Quantised(words, lattice, decoded)


def _coded(
    source: _Source, quantised: _Quantised, effort: str, transform: Transform | Denoiser | None,
    basis: F64 | None,
) -> Coded:  # fmt: skip
    lattice = quantised.lattice
    chunks = []
    layout = Layout(kind=TRELLIS, states=lattice.states, columns=source.columns)
    for number, k in enumerate(quantised.words):
        part = slice(number * source.chunk, number * source.chunk + k.size)
        plane = best_plane(k, layout, effort)
        data = join_chunk(plane, np.flatnonzero(source.special[part]), source.bits[part])
        chunks.append(data if basis is None else pack_basis(basis) + data)
    ops: list[tuple[str, dict[str, Any]]] = [("trellis", lattice.parameters())]
    if transform is not None:
        kind = "denoise" if isinstance(transform, Denoiser) else "rotate"
        ops.append((kind, transform.parameters()))
    return Coded(tuple(ops), chunks, quantised.decoded)


def _quantise(
    y: F64, columns: int, states: int, step: float, memory: _Memory | None, first: int
) -> I64:
    """The integers of a chunk; prices are found again when the step has moved by a thirtieth."""
    known = None if memory is None else memory.get(first)
    if known is None or abs(np.log(known[0] / step)) > 0.03:
        known = (step, *_priced(y, columns, states))
        # Counted prices of few elements hold for the very step that they were counted at.
        if memory is not None and y.size > PRICED:
            memory[first] = known
    return _search(y, known[1], known[2], states, known[3])


def _priced(y: F64, columns: int, states: int) -> tuple[NDArray[np.uint8], F64, bool]:
    """Each element's scale, the prices of integers at each, and whether steps are coarse."""
    spread = float(np.sqrt(np.dot(y, y) / y.size))
    flags = ROWS | COLUMNS if y.size > columns else 0
    base, row, column = fit_scales(np.abs(y).reshape(-1, columns) / 2, 16.0, flags)
    scale = np.clip(base + row[:, None] + column[None, :], 0, 63).astype(np.uint8).reshape(-1)
    prices = np.zeros((64, 2, LEVELS))
    if spread < LEVELS / 2:
        rows = np.arange(0, y.size // columns, max(1, y.size // max(PRICED, columns)))
        some = y.reshape(-1, columns)[rows].reshape(-1)
        paid = scale.reshape(-1, columns)[rows].reshape(-1)
        k = _search(some, paid, prices, min(states, 8), spread < COARSE)
        prices = _prices(k, paid) * (SLOPE * float(np.mean(np.square(some - k))))
    return scale, prices, spread < COARSE


def _search(
    y: F64, scale: NDArray[np.uint8], prices: NDArray[np.float64], states: int, coarse: bool
) -> I64:
    words = np.zeros(y.size, dtype=np.int64)
    if states == 8 and not coarse:
        search_eight(y, scale, prices.reshape(-1).astype(np.float32),
                     np.zeros(y.size, np.uint8), words)  # fmt: skip
        return words
    following, before, coset = trellis(states)
    search(
        y, scale, prices, before, coset, following, np.zeros((y.size, 4), np.int32),
        np.zeros(y.size, np.uint64), words, np.zeros((2, states)),
    )  # fmt: skip
    return words


def _prices(k: I64, scale: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Bits (64, 2, LEVELS) of |k| // 2 and its sign, by scale and parity, as counted."""
    index = (scale.astype(np.int64) * 2 + (k & 1)) * LEVELS + np.minimum(np.abs(k) >> 1, LEVELS - 1)
    count = np.bincount(index, minlength=64 * 2 * LEVELS).reshape(64, 2, LEVELS) + 0.02
    bits = -np.log2(count / count.sum(axis=2, keepdims=True)) + 1
    bits[:, 0, 0] -= 1
    return np.asarray(bits)


def _shifts(k: I64, y: F64) -> tuple[int, ...]:
    """How far the mean of what became k lies inside of it, in 1/256 steps."""
    sums, count = np.zeros(SHIFTS), np.zeros(SHIFTS)
    sum_inward(k, y, sums, count)
    mean = np.where(count >= 32, sums / np.maximum(count, 1), 0.0)
    found = [0, *np.clip(np.rint(256 * mean[1:]), -255, 255).astype(int).tolist(), 0]
    return tuple(found) if any(found) else (0,)
