"""Between bits and values: exact to double precision, rounded to nearest on the way back.

Only integer arithmetic and IEEE double operations, so that every machine gets the same bits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcluster.codec.dtypes import DType

__all__ = ["to_float_bits", "to_values"]

F64 = NDArray[np.float64]
Bits = NDArray[Any]

_NATIVE = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<f4", "C128": "<f8"}


def to_values(bits: Bits, dtype: DType) -> F64:
    """The values (n,) of floating-point bits, exactly."""
    if dtype.name in _NATIVE:
        with np.errstate(invalid="ignore"):
            return bits.view(_NATIVE[dtype.name]).astype(np.float64)
    if dtype.name == "BF16":
        with np.errstate(invalid="ignore"):
            return (bits.astype("<u4") << 16).view("<f4").astype(np.float64)
    return _table(dtype)[bits]


def to_float_bits(values: F64, dtype: DType) -> Bits:
    """Bits of the nearest representable values, ties to even; beyond the largest: infinity where
    the type has one, else the largest.
    """
    if dtype.name in _NATIVE:
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(_NATIVE[dtype.name]).view(dtype.bits)
    if dtype.name == "BF16":
        return _to_bfloat(values)
    table = _table(dtype)
    order = _order(dtype)
    middle = (table[order][1:] + table[order][:-1]) / 2
    return order[np.searchsorted(middle, values)].astype(dtype.bits)


def _to_bfloat(values: F64) -> Bits:
    # Straight from double: by way of single precision, ties would be rounded twice.
    raw = values.view(np.int64) if values.flags.c_contiguous else values.copy().view(np.int64)
    exponent = ((raw >> 52) & 2047) - 1023
    # Below 2^-126 steps stop shrinking.
    drop = 45 + np.clip(-126 - exponent, 0, 9)
    step = np.exp2(np.maximum(exponent, -126).astype(np.float64) - 7)
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.where(drop > 0, np.rint(values / step) * step, values)
        return (near.astype("<f4").view("<u4") >> 16).astype("<u2")


@lru_cache(maxsize=8)
def _table(dtype: DType) -> F64:
    """The 256 values of an 8-bit type."""
    codes = np.arange(256)
    unsigned = dtype.name.endswith("FNUZ")
    exponent, fraction = (
        (codes >> dtype.mantissa) & ((1 << dtype.exponent) - 1),
        codes & ((1 << dtype.mantissa) - 1),
    )
    bias = (1 << (dtype.exponent - 1)) - (0 if unsigned else 1)
    part = fraction / (1 << dtype.mantissa)
    values = np.where(
        exponent == 0, part * 2.0 ** (1 - bias), (1 + part) * np.exp2(exponent - float(bias))
    )
    values = np.where(codes >= 128, -values, values)
    if unsigned:
        values[128] = np.nan
    elif dtype.name == "F8_E4M3":
        values[[127, 255]] = np.nan
    else:
        top = exponent == (1 << dtype.exponent) - 1
        values[top & (fraction == 0) & (codes < 128)] = np.inf
        values[top & (fraction == 0) & (codes >= 128)] = -np.inf
        values[top & (fraction > 0)] = np.nan
    return values


@lru_cache(maxsize=8)
def _order(dtype: DType) -> NDArray[np.int64]:
    """The codes of finite values in ascending order, plus zero once."""
    table = _table(dtype)
    finite = np.flatnonzero(np.isfinite(table))
    finite = finite[~((table[finite] == 0) & (finite >= 128))]
    return np.asarray(finite[np.argsort(table[finite], kind="stable")])
