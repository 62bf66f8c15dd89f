"""Paths that make errors under modes that forbid them: the promise stands, the shorter is taken."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qcluster.codec.container import DIGEST, build, parse
from qcluster.codec.errors import QctCorruptError, QctFormatError, QctUnsupportedError
from qcluster.codec.residual import Residual
from qcluster.q_compressor import compress
from qcluster.q_compressor.compress import code_tensor
from qcluster.q_decompressor import decompress, decompress_rows, inspect

LIMIT = 1 << 22
DCT = {"transform": "dct"}


def tones(rows: int = 32, columns: int = 256) -> np.ndarray:
    """Sums of sines and a little noise: differences tell little, a cosine transform much."""
    t = np.arange(rows * columns)
    x = sum(np.sin(2 * np.pi * t * f / 97.3 + f) for f in (1, 2.7, 11, 17.3))
    noise = np.random.default_rng(0).normal(size=t.size)
    return (x + 1e-3 * noise).reshape(rows, columns).astype(np.float32)  # type: ignore[no-any-return]


def chain(blob: bytes) -> list[str]:
    return inspect(blob).tensors[0].chain


@pytest.mark.parametrize(
    ("mode", "value"), [("max_abs", 0.01), ("point_rel", 0.01), ("lossless", None)]
)
def test_a_coarse_version_and_its_residual_keep_the_promise(mode: str, value: float | None) -> None:
    x = tones()
    x[0, 0], x[1, 5], x[2, 3], x[4, 4] = np.nan, np.inf, -0.0, 1e-42
    plain = compress(x, mode=mode, value=value)
    blob = compress(x, mode=mode, value=value, config=DCT)
    assert chain(blob) == ["trellis", "rotate", "residual"]
    assert len(blob) < 0.95 * len(plain)
    y = decompress(blob, max_output_bytes=LIMIT)
    bits = (a.view(np.uint32) for a in (x, y))
    finite = np.isfinite(x)
    if value is None:
        assert np.array_equal(*bits)
        return
    assert np.array_equal(*(b[~finite] for b in bits))
    wide, found = x.astype(np.float64)[finite], y.astype(np.float64)[finite]
    limit = value * np.abs(wide) if mode == "point_rel" else value
    assert (np.abs(wide - found) <= limit).all()


def test_nothing_is_taken_that_is_longer_and_the_report_says_what_it_took() -> None:
    x = np.random.default_rng(2).normal(size=(64, 64)).astype(np.float32)
    for how in ({"mode": "max_abs", "value": 0.1}, {"mode": "lossless"}):
        blob = compress(x, config={"denoiser": True}, **how)
        said = inspect(blob).tensors[0].report["residual"]
        assert "residual" not in chain(blob)
        assert said["taken"] is False
        assert said["with residual"] > said["bytes"]
        assert len(blob) < len(compress(x, **how)) + 300


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64, np.complex64])
def test_other_types_and_chunks_have_residuals_too(kind: Any) -> None:
    x = tones().astype(kind)
    blob = compress(x, mode="max_abs", value=0.02, config=DCT)
    y = decompress(blob, max_output_bytes=LIMIT)
    assert y.dtype == x.dtype
    difference = np.asarray(y, np.complex128) - np.asarray(x, np.complex128)
    assert max(np.abs(difference.real).max(), np.abs(difference.imag).max()) <= 0.02


def test_rows_are_read_from_the_chunks_that_hold_them() -> None:
    x = tones(4200, 128)
    blob = compress(x, mode="max_abs", value=0.01, config={**DCT, "effort": "fast"})
    assert chain(blob)[-1] == "residual"
    rows = decompress_rows(blob, 4150, 4160, max_output_bytes=LIMIT)
    assert np.array_equal(rows, decompress(blob, max_output_bytes=LIMIT)[4150:4160])


def test_small_constant_and_whole_tensors_have_none() -> None:
    for x in (np.zeros((8, 16)), np.arange(200), np.ones(3), np.full((9, 9), np.nan)):
        blob = compress(x, mode="max_abs", value=0.5, config=DCT)
        assert "residual" not in chain(blob)
        assert np.allclose(decompress(blob, max_output_bytes=LIMIT), x, atol=0.5, equal_nan=True)


def blob_with(ops: Any, chunks: Any = None) -> bytes:
    """A tensor with a residual, with another chain or other chunks."""
    from dataclasses import replace

    piece = code_tensor("", tones(), mode="max_abs", value=0.01, config=DCT)
    entry = replace(piece.entry, ops=ops(piece.entry.ops))
    return build([(entry, piece.whole, chunks(piece.chunks) if chunks else piece.chunks)])


def test_chains_that_make_no_sense_are_refused() -> None:
    same = tuple
    assert decompress(blob_with(same), max_output_bytes=LIMIT).shape == (32, 256)
    cases: list[tuple[Any, Any, type[Exception]]] = [
        (lambda o: (*o[:-1], ("residual", {"as": "trellis"})), None, QctFormatError),
        (lambda o: (*o[:-1], ("residual", {})), None, QctFormatError),
        (lambda o: (("lossless", {}), o[-1]), None, QctUnsupportedError),
        (lambda o: (o[-1],), None, QctUnsupportedError),
        (lambda o: (*o, o[-1]), None, QctUnsupportedError),
        (lambda o: (o[0], o[-1]), None, QctFormatError),
        (same, lambda c: [b"\0\0"], QctFormatError),
        (same, lambda c: [b"\xff" + c[0][1:]], QctFormatError),
        (same, lambda c: [c[0][:-4]], QctFormatError),
    ]
    for ops, chunks, error in cases:
        with pytest.raises((error, QctCorruptError)):
            decompress(blob_with(ops, chunks), max_output_bytes=LIMIT)


def test_damaged_residuals_are_noticed() -> None:
    blob = compress(tones(), mode="max_abs", value=0.01, config=DCT)
    entries, payload = parse(blob)
    start = len(blob) - len(payload) + entries[0].start + DIGEST
    for at in range(start, len(blob), 97):
        bad = bytearray(blob)
        bad[at] ^= 16
        with pytest.raises(QctFormatError):
            decompress(bytes(bad), max_output_bytes=LIMIT)
    with pytest.raises(QctFormatError):
        Residual.read({"as": 3})


@pytest.mark.parametrize("mode", ["rel_l2", "max_abs"])
def test_values_on_a_grid_may_be_coded_without_any_error(mode: str) -> None:
    for kind in (np.float16, ml_dtypes.float8_e5m2, np.float32):
        x = np.random.default_rng(0).integers(-3, 4, (16, 256)).astype(kind)
        for value in (1e-6, 1e-3, 0.05):
            y = decompress(compress(x, mode=mode, value=value, config=DCT), max_output_bytes=LIMIT)
            assert np.abs(y.astype(np.float64) - x.astype(np.float64)).max() <= 70 * value


@pytest.mark.parametrize("scale", [1e300, 1e-300, 5e-324])
def test_scales_whose_squares_leave_double_precision_have_none(scale: float) -> None:
    x = tones().astype(np.float64) * scale
    for how in ({"mode": "max_abs", "value": 0.01 * scale}, {"mode": "lossless"}):
        blob = compress(x, config=DCT, **how)
        assert "residual" not in chain(blob)
        assert np.abs(decompress(blob, max_output_bytes=LIMIT) / 4 - x / 4).max() <= 0.01 * scale


@pytest.mark.parametrize("mode", ["rel_l2", "point_rel"])
def test_powers_whose_product_overflows_are_compared(mode: str) -> None:
    x = np.zeros((6, 16))
    x[0, 0] = 3.6e77
    y = decompress(compress(x, mode=mode, value=0.2, config=DCT), max_output_bytes=LIMIT)
    assert abs(y[0, 0] / x[0, 0] - 1) <= 0.2
    assert (y[1:] == 0).all() or mode == "rel_l2"
