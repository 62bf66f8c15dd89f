"""Tables of a plane that are counted first and sent: which contexts share one, and their bytes.

A table's frequencies are sent as logarithms (4 or 8 steps to an octave), which decode to powers of
two by decimal arithmetic and are then brought to the sum 4096 with integers; so both sides have the
same. Contexts that lie beside each other share a table where that saves more than it costs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._table_kernels import SLOTS
from qcluster.codec.errors import QctFormatError
from qcluster.codec.jit import njit
from qcluster.codec.plane_coder import decode_steps, encode_steps
from qcluster.codec.plane_head import INTEGER

__all__ = ["MOST_TABLES", "Tables", "fit_tables", "ideal_bits", "read_tables"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

# Tables of one parity; a table of slots is 16 KiB, and all of them should stay near the core.
MOST_TABLES = 64
# Bits that a symbol of a table costs when sent, nearly.
SYMBOL_BITS = 4.5
_HEAD = struct.Struct("<BBBB")


@lru_cache(maxsize=4)
def _powers(steps: int) -> I64:
    """0, then 256 * 2^(i / steps) for i from 0 to twelve octaves, rounded down."""
    with localcontext() as context:
        context.prec = 30
        return np.array([0] + [int(256 * Decimal(2) ** (Decimal(i) / steps))
                               for i in range(12 * steps + 1)], dtype=np.int64)  # fmt: skip


@dataclass(frozen=True)
class Tables:
    """``bounds`` (groups,): the context after each group's last; ``logs`` (groups * sets, width):
    0 where a symbol does not occur, else 1 + the logarithm of its frequency.
    """

    bounds: I64
    logs: I64
    steps: int
    sets: int

    @property
    def frequencies(self) -> I64:
        """(groups * sets, width) of sum 4096 each."""
        weights = _powers(self.steps)[self.logs]
        normalise(weights)
        return weights

    def group(self, contexts: int) -> I64:
        """(contexts * sets,) the row of ``frequencies`` of each context."""
        row = np.searchsorted(self.bounds, np.arange(contexts), side="right")
        row = np.minimum(row, self.bounds.size - 1) * self.sets
        return np.asarray((row[:, None] + np.arange(self.sets)).reshape(-1))

    def encoder(self, contexts: int) -> tuple[U64, U64]:
        """Entries (contexts * sets * width,) of frequency << 12 | start, and 2^43 / frequency."""
        frequencies = self.frequencies
        start = np.cumsum(frequencies, axis=1) - frequencies
        entries = (frequencies << 12) | np.minimum(start, SLOTS - 1)
        least = np.maximum(frequencies, 1)
        reciprocal = -(-(1 << 43) // least)
        group = self.group(contexts)
        whole = entries.astype(np.uint64)[group], reciprocal.astype(np.uint64)[group]
        return whole[0].reshape(-1), whole[1].reshape(-1)

    def decoder(self, contexts: int) -> tuple[I64, U32]:
        """The first slot of each context (contexts * sets,), and the slots."""
        frequencies = self.frequencies
        slots = np.empty(len(frequencies) * SLOTS, dtype=np.uint32)
        fill_slots(frequencies, slots)
        return self.group(contexts) * SLOTS, slots

    def pack(self) -> bytes:
        """As the plane has them: steps, sets, groups, width, bounds, then a plane of the logs."""
        groups, width = self.bounds.size, self.logs.shape[1]
        before = np.zeros_like(self.logs)
        before[self.sets :] = self.logs[: -self.sets]
        if self.sets == 2:
            before[1] = self.logs[0]
        body = encode_steps((self.logs - before).reshape(-1), width)
        head = _HEAD.pack(self.steps, self.sets, groups, width)
        return head + self.bounds.astype(np.uint8).tobytes() + struct.pack("<I", len(body)) + body


def read_tables(data: memoryview, contexts: int, sets: int, width: int) -> tuple[Tables, int]:
    """The tables at the front of ``data``, of at most ``width`` symbols, and their bytes.

    Raises QctFormatError for what contradicts itself.
    """
    if len(data) < _HEAD.size:
        raise QctFormatError("ends within its tables", field="plane")
    steps, found, groups, columns = _HEAD.unpack_from(data)
    at = _HEAD.size + groups
    if steps not in (4, 8) or found != sets or not 1 <= groups <= MOST_TABLES or (
        not 1 <= columns <= width or at + 4 > len(data)
    ):  # fmt: skip
        raise QctFormatError("has tables that contradict themselves", field="plane")
    bounds = np.frombuffer(data, np.uint8, groups, _HEAD.size).astype(np.int64)
    (length,) = struct.unpack_from("<I", data, at)
    at += 4 + length
    if at > len(data) or (np.diff(bounds) <= 0).any() or bounds[-1] > contexts:
        raise QctFormatError("has tables that contradict themselves", field="plane")
    body, layout = decode_steps(data[at - length : at], groups * sets * columns)
    if layout.kind != INTEGER:
        raise QctFormatError("has tables of another kind", field="plane")
    logs = body.reshape(-1, columns)
    if sets == 2:
        logs[1] += logs[0]
    for row in range(sets, len(logs)):
        logs[row] += logs[row - sets]
    usual = (logs >= 0).all() and (logs <= 12 * steps + 1).all() and (logs > 0).any(axis=1).all()
    if not usual:
        raise QctFormatError("has frequencies out of range", field="plane")
    return Tables(bounds, logs, steps, sets), at


@njit
def normalise(weights: I64) -> None:
    """Bring rows (n, width) to the sum 4096, none that was positive to zero; by integers alone."""
    for r in range(weights.shape[0]):
        total, top = 0, 0
        for s in range(weights.shape[1]):
            total += weights[r, s]
        left = SLOTS
        for s in range(weights.shape[1]):
            if weights[r, s] > 0:
                weights[r, s] = max(weights[r, s] * SLOTS // max(total, 1), 1)
            left -= weights[r, s]
            if weights[r, s] > weights[r, top]:
                top = s
        weights[r, top] += max(left, 0)
        while left < 0:
            for s in range(weights.shape[1]):
                if weights[r, s] > weights[r, top] or (
                    weights[r, s] == weights[r, top] and s < top
                ):
                    top = s
            less = max(min(-left, weights[r, top] // 2), 1)
            weights[r, top] -= less
            left += less


@njit
def fill_slots(frequencies: I64, slots: U32) -> None:
    """Slots (rows * 4096,) of the decoders: symbol, (frequency - 1) << 8, (slot - start) << 20."""
    at = 0
    for r in range(frequencies.shape[0]):
        for s in range(frequencies.shape[1]):
            f = frequencies[r, s]
            for i in range(f):
                slots[at + i] = s | ((f - 1) << 8) | (i << 20)
            at += f


def fit_tables(counts: I64, sets: int, *, fine: bool) -> Tables:
    """Tables of ``counts`` (contexts * sets, width), contexts merged where that is shorter."""
    contexts = len(counts) // sets
    used = np.flatnonzero(counts.any(axis=0))
    width = int(used[-1]) + 1 if used.size else 1
    shape = (contexts, sets, width)
    room: F64 = counts[:, :width].astype(np.float64, order="C").reshape(shape)
    bounds = np.zeros(contexts, dtype=np.int64)
    groups = merge_contexts(room, bounds, np.zeros(contexts), np.zeros(contexts), SYMBOL_BITS)
    merged = room[:groups].reshape(groups * sets, width)
    # A table that no element uses must still be one.
    merged[~merged.any(axis=1), 0] = 1
    steps = 8 if fine else 4
    share = merged * (SLOTS / merged.sum(axis=1, keepdims=True))
    with np.errstate(divide="ignore"):
        logs = np.rint(steps * np.log2(np.maximum(share, 1)))
    logs = np.where(merged > 0, 1 + logs, 0).astype(np.int64)
    return Tables(bounds[:groups], logs, steps, sets)


def ideal_bits(tables: Tables, counts: I64, contexts: int) -> float:
    """What the counted symbols take under the tables."""
    frequencies = np.maximum(tables.frequencies, 1)[tables.group(contexts)]
    return float((counts[:, : frequencies.shape[1]] * (12 - np.log2(frequencies))).sum())


@njit
def _length(counts: F64, a: int, b: int) -> float:
    """Bits of the symbols of context ``a``, or of ``a`` and ``b`` as one, and of their tables."""
    bits = 0.0
    for z in range(counts.shape[1]):
        total = 0.0
        for s in range(counts.shape[2]):
            n = counts[a, z, s]
            if b >= 0:
                n += counts[b, z, s]
            if n > 0:
                total += n
                bits -= n * np.log2(n)
        if total > 0:
            bits += total * np.log2(total)
    return bits


@njit
def _symbols(counts: F64, a: int, b: int) -> int:
    """Symbols that occur in context ``a``, or in ``a`` or ``b``."""
    found = 0
    for z in range(counts.shape[1]):
        for s in range(counts.shape[2]):
            if counts[a, z, s] > 0 or (b >= 0 and counts[b, z, s] > 0):
                found += 1
    return found


@njit
def _move(counts: F64, to: int, source: int, keep: int) -> None:
    """Context ``to`` becomes, or with ``keep`` 1 gains, context ``source``."""
    for z in range(counts.shape[1]):
        for s in range(counts.shape[2]):
            counts[to, z, s] = keep * counts[to, z, s] + counts[source, z, s]


@njit
def _used(counts: F64, c: int) -> bool:
    """Whether any symbol was counted in context ``c``."""
    for z in range(counts.shape[1]):
        for s in range(counts.shape[2]):
            if counts[c, z, s] > 0:
                return True
    return False


@njit
def _gained(counts: F64, g: int, alone: F64, symbol_bits: float) -> float:
    """Bits that context ``g`` and the one after it save as one."""
    together = _length(counts, g, g + 1) + symbol_bits * _symbols(counts, g, g + 1)
    return alone[g] + alone[g + 1] - together  # type: ignore[no-any-return]


@njit
def merge_contexts(counts: F64, bounds: I64, alone: F64, gain: F64, symbol_bits: float) -> int:
    """Merge neighbours of ``counts`` (contexts, sets, width) while that is shorter, best first.

    Returns how many are left; they stand in front, ``bounds`` (contexts,) says where each ends.
    ``alone`` and ``gain`` (contexts,) are room.
    """
    left = 0
    for c in range(counts.shape[0]):
        # Contexts that nothing is in belong to the one before, or the first.
        if _used(counts, c):
            if left != c:
                _move(counts, left, c, 0)
            left += 1
        bounds[max(left - 1, 0)] = c + 1
    left = max(left, 1)
    for g in range(left):
        alone[g] = _length(counts, g, -1) + symbol_bits * _symbols(counts, g, -1)
    for g in range(left - 1):
        gain[g] = _gained(counts, g, alone, symbol_bits)
    while left > 1:
        best = 0
        for g in range(1, left - 1):
            if gain[g] > gain[best]:
                best = g
        if gain[best] <= 0:
            break
        _move(counts, best, best + 1, 1)
        alone[best] += alone[best + 1] - gain[best]
        bounds[best] = bounds[best + 1]
        left -= 1
        for g in range(best + 1, left):
            _move(counts, g, g + 1, 0)
            alone[g], gain[g], bounds[g] = alone[g + 1], gain[g + 1], bounds[g + 1]
        for g in range(max(best - 1, 0), min(best + 1, left - 1)):
            gain[g] = _gained(counts, g, alone, symbol_bits)
    return left
