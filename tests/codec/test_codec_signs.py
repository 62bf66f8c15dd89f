"""Signs by context: exact inverses, shorter where they lean, left alone elsewhere."""

from __future__ import annotations

import contextlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.codec import _coder_kernels, _sign_kernels, signs
from qcluster.codec.dtypes import to_bits
from qcluster.codec.errors import QctCorruptError, QctFormatError
from qcluster.codec.lossless import (
    PLANE,
    SIGNED,
    best_plane,
    decode_lossless,
    encode_lossless,
)
from qcluster.codec.plane import decode_plane
from qcluster.codec.plane_head import SIGNS, Layout
from qcluster.codec.signs import read_signs, split_signs, write_signs

TYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def leaning(rows: int = 60, columns: int = 50, seed: int = 0) -> np.ndarray:
    """Columns whose means are not zero."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)) + 1.5 * rng.normal(size=columns)


def following(rows: int = 200, columns: int = 100) -> np.ndarray:
    """Rows that are like the one above or like its opposite, no row or column leaning."""
    rng = np.random.default_rng(3)
    both = rng.choice([-1, 1], rows)[:, None] * rng.choice([-1, 1], columns)
    return 2 * both + rng.normal(size=(rows, columns))


def apart(bits: np.ndarray, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Signs, and the magnitudes' octaves."""
    place = dtype.mantissa + dtype.exponent
    magnitude = bits & bits.dtype.type((1 << place) - 1)
    return (bits >> place).astype(np.uint8), magnitude >> dtype.mantissa


def written(bits: np.ndarray, dtype: Any, columns: int) -> bytes | None:
    return write_signs(*apart(bits, dtype), columns, zeros=True)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("effort", ["dense", "max"])
def test_signs_that_lean_are_shorter_and_come_back(kind: type, effort: str) -> None:
    x = leaning().astype(kind)
    x[3, 4], x[5, 6], x[7, 8] = -0.0, np.nan, -np.inf
    dtype, _, bits, _ = to_bits(x)
    data = encode_lossless(bits, dtype, 50, effort=effort)
    assert data[0] == SIGNED
    out = np.empty_like(bits)
    decode_lossless(memoryview(data), dtype, out)
    assert np.array_equal(out, bits)
    fast = encode_lossless(bits, dtype, 50, effort="fast")
    assert fast[0] != SIGNED
    assert len(data) < len(fast) - 0.2 * bits.size / 8


def test_rows_that_follow_each_other_are_noticed() -> None:
    dtype, _, bits, _ = to_bits(following().astype(np.float32))
    data = written(bits, dtype, 100)
    assert data is not None
    assert len(data) < 0.5 * bits.size / 8


def test_white_signs_are_left_where_they_are() -> None:
    white = np.random.default_rng(1).normal(size=(300, 400)).astype(np.float32)
    dtype, _, bits, _ = to_bits(white)
    assert written(bits, dtype, 400) is None
    assert encode_lossless(bits, dtype, 400)[0] == PLANE
    dtype, _, bits, _ = to_bits(np.abs(leaning()).astype(np.float32))
    assert written(bits, dtype, 50) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 30), st.integers(8, 30), st.integers(0, 9), st.sampled_from(TYPES))
def test_any_signs_come_back(rows: int, columns: int, seed: int, kind: type) -> None:
    rng = np.random.default_rng(seed)
    dtype, _, bits, _ = to_bits(leaning(rows, columns, seed).astype(kind))
    bits[:: 1 + seed] = rng.integers(0, 256, bits[:: 1 + seed].size, dtype=bits.dtype)
    data = written(bits, dtype, columns)
    if data is not None:
        front, rest = split_signs(memoryview(data + b"more"))
        assert bytes(rest) == b"more"
        below, levels = apart(bits, dtype)
        assert np.array_equal(read_signs(front, levels, zeros=True), below)


def test_the_interpreter_gives_the_same_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    dtype, _, bits, _ = to_bits(leaning(20, 30).astype(np.float16))
    compiled = written(bits, dtype, 30)
    assert compiled is not None
    for module in (_coder_kernels, _sign_kernels, signs):
        for name, item in list(vars(module).items()):
            if hasattr(item, "py_func"):
                monkeypatch.setattr(module, name, item.py_func)
    assert written(bits, dtype, 30) == compiled
    below, levels = apart(bits, dtype)
    assert np.array_equal(read_signs(memoryview(compiled), levels, zeros=True), below)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_bytes_decode_to_something_or_are_refused(data: st.DataObject) -> None:
    dtype, _, bits, _ = to_bits(leaning(20, 30).astype(np.float16))
    bad = bytearray(encode_lossless(bits, dtype, 30))
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, 40))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(bad))))
    with contextlib.suppress(QctFormatError, QctCorruptError):
        decode_lossless(memoryview(bytes(bad[:cut])), dtype, np.empty_like(bits))


@pytest.mark.parametrize("effort", ["dense", "max"])
@pytest.mark.parametrize("rows", [20, 300])
def test_signs_of_integers_lean_too(effort: str, rows: int) -> None:
    words = np.rint(3 * leaning(rows, 50)).astype(np.int64).reshape(-1)
    layout = Layout(columns=50)
    data = best_plane(words, layout, effort)
    assert data[0] == SIGNS
    assert np.array_equal(decode_plane(memoryview(data), words.size)[0], words)
    assert len(data) < len(best_plane(words, layout, "fast")) - 0.1 * words.size / 8
    size = np.abs(words) + 1
    end = 13 + 2 * int.from_bytes(data[9:13], "little")
    negative = best_plane(-size, layout, "fast")
    for wrong in (data[:9], data[:end], data[:end] + data, data[:end] + negative,
                  data[:5] + b"\0" + data[6:]):  # fmt: skip
        with pytest.raises(QctFormatError):
            decode_plane(memoryview(wrong), words.size)


def test_signs_that_contradict_themselves_are_refused() -> None:
    dtype, _, bits, _ = to_bits(leaning(20, 30).astype(np.float16))
    data = encode_lossless(bits, dtype, 30)
    plain = encode_lossless(bits, dtype, 1)
    assert plain[0] == PLANE
    for wrong in (
        data[:9],
        data[:1] + data[1:5] + (7).to_bytes(4, "little") + data[9:],
        data[:1] + data[1:5] + (0).to_bytes(4, "little") + data[9:],
        data[:1] + (1 << 20).to_bytes(4, "little") + data[5:],
        data[:9] + (1 << 31).to_bytes(4, "little") + data[13:],
        # Magnitudes that have signs already.
        data[: 13 + 2 * int.from_bytes(data[9:13], "little")] + plain[1:],
    ):
        with pytest.raises(QctFormatError):
            decode_lossless(memoryview(wrong), dtype, np.empty_like(bits))
