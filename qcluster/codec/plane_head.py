"""What stands at the front of a plane: how its words are read.

A plane's head: kind, flags, mantissa bits, exponent bits, shift, states (log2), base scale (7
unsigned bytes and one of padding), lowest exponent (int32), columns (uint32). Of a plane by tables
the kind is 3 more and the byte of padding says how its symbols are made.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qcluster.codec._plane_kernels import SCALES
from qcluster.codec.errors import QctFormatError

__all__ = ["COLUMNS", "DENSE", "FLOAT", "INTEGER", "JOINT", "MOST_CLASSES", "NO_TRELLIS", "ROWS",
           "SCALES", "SIGNS", "TRELLIS", "UNSIGNED", "Layout", "Split", "pack_head", "read_head",
           "read_split", "trellis"]  # fmt: skip

I64 = NDArray[np.int64]
Split = tuple[int, int]
"""Leading mantissa bits in a symbol, and how many of the highest classes have them."""

INTEGER, TRELLIS, FLOAT = 0, 1, 2
# Added to the kind of a plane that is coded by tables.
TABLED = 3
# In place of a kind: signs, and then a plane of absolute values.
SIGNS = 6
DENSE, ROWS, COLUMNS, UNSIGNED = 1, 2, 4, 8
# Of a plane by tables: symbols hold leading mantissa bits, and the head's last byte says which.
JOINT = 16
# Classes whose symbols may hold mantissa bits.
MOST_CLASSES = 16
_HEAD = struct.Struct("<8BiI")
# Parity-check polynomials of Ungerboeck's one-dimensional codes (1982), by states.
POLYNOMIALS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10),
               64: (0o103, 0o24)}  # fmt: skip
NO_TRELLIS = np.zeros((1, 2), dtype=np.int64)


@dataclass(frozen=True)
class Layout:
    """How a plane's words are read: see ``_plane_kernels``; ``base`` is the scale without rows."""

    kind: int = INTEGER
    flags: int = 0
    mantissa: int = 0
    exponent: int = 0
    shift: int = 0
    states: int = 1
    base: int = 16
    lowest: int = 0
    columns: int = 1


@lru_cache(maxsize=8)
def trellis(states: int) -> tuple[I64, I64, I64]:
    """``next_state`` (states, 2) by bit 1 of k, and for the encoder ``before`` and ``coset``
    (states, 2): where a state is entered from and by which k modulo 4.
    """
    h0, h1 = POLYNOMIALS[states]
    following = np.zeros((states, 2), dtype=np.int64)
    entered: list[list[tuple[int, int]]] = [[] for _ in range(states)]
    for state in range(states):
        parity = state & 1
        for bit in (0, 1):
            to = (state >> 1) ^ (parity * (h0 >> 1)) ^ (bit * (h1 >> 1))
            following[state, bit] = to
            entered[to].append((state, 2 * bit + parity))
    pairs = np.array(entered, dtype=np.int64)
    return following, pairs[:, :, 0].copy(), pairs[:, :, 1].copy()


def pack_head(layout: Layout, mix: int | None = None) -> bytes:
    """The head of a plane; with ``mix`` of one by tables."""
    kind = layout.kind + (0 if mix is None else TABLED)
    return _HEAD.pack(
        kind, layout.flags, layout.mantissa, layout.exponent, layout.shift,
        layout.states.bit_length() - 1, layout.base, mix or 0, layout.lowest, layout.columns,
    )  # fmt: skip


def _flags_fit(kind: int, flags: int, mix: int, tabled: bool) -> bool:
    if flags & JOINT:
        return tabled and kind == FLOAT and flags < 32 and not flags & DENSE and (
            read_split(mix) is not None
        )  # fmt: skip
    return flags < (16 if tabled or kind == FLOAT else 8) and mix <= (8 if tabled else 0)


def read_head(data: memoryview, count: int) -> tuple[Layout, int | None, int]:
    """The layout, the neighbours' weight of a plane by tables, and where the scales start."""
    if len(data) < _HEAD.size:
        raise QctFormatError("is shorter than its head", field="plane")
    kind, flags, mantissa, exponent, shift, states, base, mix, lowest, columns = _HEAD.unpack_from(
        data
    )
    tabled = kind >= TABLED
    kind -= TABLED if tabled else 0
    fits = (
        kind <= FLOAT
        and _flags_fit(kind, flags, mix, tabled)
        and mantissa <= (23 if tabled else 52)
        and exponent <= (8 if tabled else 11)
        and mantissa + exponent + shift < (32 if tabled else 64)
        and base < SCALES
        and -64 <= lowest < 2048
        and columns >= 1
        and count % columns == 0
        and ((kind == TRELLIS) == (states > 0))
        and (states == 0 or 1 << states in POLYNOMIALS)
    )
    if not fits:
        raise QctFormatError("has a head that contradicts itself", field="plane")
    layout = Layout(kind, flags, mantissa, exponent, shift, 1 << states, base, lowest, columns)
    return layout, mix if tabled else None, _HEAD.size


def read_split(byte: int) -> Split | None:
    """The split of a head's last byte, None for one that none has."""
    leading, classes = byte & 3, byte >> 2
    return (leading, classes) if 1 <= classes <= MOST_CLASSES else None
