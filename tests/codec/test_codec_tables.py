"""Planes coded by tables: exact inverses, near entropy, hostile bytes, the same without numba."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.codec import _table_decoder, _table_kernels, _trellis_kernels, tabled, tables
from qcluster.codec.errors import QctFormatError
from qcluster.codec.lossless import FARTHEST_TABLED, best_plane
from qcluster.codec.plane import decode_plane
from qcluster.codec.plane_head import (
    COLUMNS,
    DENSE,
    FLOAT,
    INTEGER,
    ROWS,
    TRELLIS,
    UNSIGNED,
    Layout,
    trellis,
)
from qcluster.codec.tabled import encode_tabled
from qcluster.codec.tables import Tables, fit_tables, ideal_bits, read_tables

FORMATS = {np.uint8: (3, 4), np.uint16: (7, 8), np.uint32: (23, 8)}


def on_trellis(size: int, spread: float) -> np.ndarray:
    """Integers whose parities follow the eight states."""
    rng = np.random.default_rng(int(spread * 10))
    following = trellis(8)[0]
    state, out = 0, np.empty(size, np.int64)
    for i in range(size):
        out[i] = 2 * int(np.rint(rng.normal(0, spread))) + (state & 1)
        state = following[state, (out[i] >> 1) & 1]
    return out


def floats(bits: np.ndarray, columns: int, flags: int = 0) -> Layout:
    mantissa, exponent = FORMATS[bits.dtype.type]
    top = int(((bits >> mantissa) & ((1 << exponent) - 1)).max())
    return Layout(FLOAT, flags, mantissa, exponent, 0, 1, 16, top - 62, columns)


def back(data: bytes, words: np.ndarray) -> np.ndarray:
    found, _ = decode_plane(memoryview(data), words.size, out=np.empty_like(words))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1 - FARTHEST_TABLED, FARTHEST_TABLED - 1), min_size=1, max_size=200),
    st.booleans(),
)
def test_any_integers_come_back(values: list[int], dense: bool) -> None:
    words = np.array(values, dtype=np.int64)
    layout = Layout(columns=words.size)
    assert np.array_equal(back(encode_tabled(words, layout, dense=dense), words), words)


@pytest.mark.parametrize("spread", [0.02, 0.5, 4.0, 300.0, 1e9])
@pytest.mark.parametrize("lean", [0.0, 5.0])
def test_integers_with_any_spread_and_leaning_signs(spread: float, lean: float) -> None:
    rng = np.random.default_rng(2)
    words = np.rint(rng.normal(lean * spread, spread, 90 * 100)).astype(np.int64)
    words[::90] *= 7
    for dense in (False, True):
        data = encode_tabled(words, Layout(columns=100), dense=dense)
        assert np.array_equal(back(data, words), words)
    both = 8 * len(encode_tabled(np.abs(words), Layout(columns=100), dense=False)) / words.size
    assert both < 8 * len(data) / words.size + 0.02


def test_integers_are_near_entropy_and_signs_of_one_kind_are_free() -> None:
    words = np.rint(np.random.default_rng(3).normal(0, 3, 1 << 17)).astype(np.int64)
    data = encode_tabled(words, Layout(columns=512), dense=False)
    count = np.unique(words, return_counts=True)[1] / words.size
    assert 8 * len(data) / words.size < -(count * np.log2(count)).sum() + 0.01
    signless = encode_tabled(np.abs(words), Layout(columns=512), dense=False)
    assert len(signless) < len(data) - 0.8 * words.size / 8


def test_trellis_parities_are_not_sent() -> None:
    words = on_trellis(1 << 14, 5.0)
    data = encode_tabled(words, Layout(kind=TRELLIS, states=8, columns=128), dense=False)
    assert np.array_equal(back(data, words), words)
    free = np.rint(np.random.default_rng(0).normal(0, 10, words.size)).astype(np.int64)
    other = encode_tabled(free, Layout(columns=128), dense=False)
    assert len(data) < len(other) - 0.9 * words.size / 8


@pytest.mark.parametrize("kind", list(FORMATS))
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("columns", [1, 37, 3700])
def test_any_floating_point_bits_come_back(kind: type, dense: bool, columns: int) -> None:
    rng = np.random.default_rng(columns)
    bits = rng.integers(0, np.iinfo(kind).max, 3700, dtype=kind, endpoint=True)
    assert np.array_equal(back(encode_tabled(bits, floats(bits, columns), dense=dense), bits), bits)


@pytest.mark.parametrize("dense", [False, True])
def test_values_without_signs_take_none(dense: bool) -> None:
    values = np.abs(np.random.default_rng(1).normal(size=(64, 100))).astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16).reshape(-1)
    with_signs = encode_tabled(bits, floats(bits, 100), dense=dense)
    without = encode_tabled(bits, floats(bits, 100, UNSIGNED), dense=dense)
    assert np.array_equal(back(without, bits), bits)
    assert len(without) < len(with_signs) - 0.95 * bits.size / 8


def test_rows_and_columns_of_other_scales_are_noticed() -> None:
    rng = np.random.default_rng(4)
    words = rng.normal(0, 4, (128, 128))
    for flag, scale in ((ROWS, np.exp2(np.arange(128) % 4)[:, None]),
                        (COLUMNS, np.exp2(np.arange(128) % 4)[None])):  # fmt: skip
        data = encode_tabled(np.rint(words * scale).astype(np.int64).reshape(-1),
                             Layout(columns=128), dense=False)  # fmt: skip
        assert data[1] == flag
    plain = np.rint(words).astype(np.int64).reshape(-1)
    assert encode_tabled(plain, Layout(columns=128), dense=True)[1] == 0


def test_neighbours_are_looked_at_where_they_tell_more() -> None:
    rng = np.random.default_rng(5)
    # Scales that wander along each row, so that neither row nor column promises them.
    scale = np.exp2(3 * np.sin(np.cumsum(rng.normal(0, 0.15, (256, 256)), axis=1)))
    words = np.rint(16 * scale * rng.normal(size=scale.shape)).astype(np.int64).reshape(-1)
    plain = encode_tabled(words, Layout(columns=256), dense=False)
    dense = encode_tabled(words, Layout(columns=256), dense=True)
    assert dense[7] > 0
    assert len(dense) < 0.99 * len(plain)
    assert np.array_equal(back(dense, words), words)
    bits = (words.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    data = encode_tabled(bits, floats(bits, 256), dense=True)
    assert data[7] > 0
    assert np.array_equal(back(data, bits), bits)


def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels as the interpreter runs them."""
    for module in (_table_kernels, _table_decoder, _trellis_kernels, tables, tabled):
        for name, item in list(vars(module).items()):
            if hasattr(item, "py_func"):
                monkeypatch.setattr(module, name, item.py_func)


@pytest.mark.parametrize("case", ["integers", "leaning", "trellis", "uint8", "uint16", "uint32"])
@pytest.mark.parametrize("dense", [False, True])
def test_the_interpreter_gives_the_same_bytes(
    case: str, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    monkeypatch.setattr(tabled, "MIXES", (4,) if dense else (0,))
    monkeypatch.setattr(tabled, "_mix", lambda *_: 4)
    if case.startswith("uint"):
        words = rng.normal(size=600).astype(np.float32).view(np.uint32)
        words[::50] = rng.integers(0, 1 << 32, 12, dtype=np.uint32)
        width = np.dtype(case).itemsize
        words = (words >> (32 - 8 * width)).astype(case)
        layout = floats(words, 30)
    else:
        words = on_trellis(600, 40.0)
        words = np.abs(words) + 2 if case == "leaning" else words
        words[7] = 0 if case != "trellis" else words[7]
        layout = Layout(TRELLIS if case == "trellis" else INTEGER, columns=30,
                        states=8 if case == "trellis" else 1)  # fmt: skip
    compiled = encode_tabled(words, layout, dense=dense)
    without_numba(monkeypatch)
    assert not hasattr(tabled.encode_symbols, "py_func")
    assert encode_tabled(words, layout, dense=dense) == compiled
    assert np.array_equal(back(compiled, words), words)


def test_the_written_out_search_is_the_search() -> None:
    rng = np.random.default_rng(7)
    y = rng.normal(size=3000) * 9
    following, before, coset = trellis(8)
    scale = rng.integers(0, 3, y.size).astype(np.uint8)
    prices = np.zeros((64, 2, 64))
    prices[:3] = np.square(np.arange(64) / 8) * np.arange(1, 4)[:, None, None]
    slow, quick = np.zeros(y.size, np.int64), np.zeros(y.size, np.int64)
    cost = _trellis_kernels.search(
        y, scale, prices, before, coset, following, np.zeros((y.size, 4), np.int32),
        np.zeros(y.size, np.uint64), slow, np.zeros((2, 8)),
    )  # fmt: skip
    found = _trellis_kernels.search_eight(
        y, scale, prices.reshape(-1).astype(np.float32), np.zeros(y.size, np.uint8), quick
    )
    assert found == pytest.approx(cost, rel=1e-4)
    assert np.mean(slow != quick) < 0.01


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_frequencies_are_whole_and_survive_packing(data: st.DataObject) -> None:
    contexts, sets = 8, data.draw(st.sampled_from([1, 2]))
    width = data.draw(st.integers(1, 40))
    some = st.lists(st.sampled_from([0, 0, 1, 3, 50, 10_000]), min_size=contexts * sets * width,
                    max_size=contexts * sets * width)  # fmt: skip
    counts = np.array(data.draw(some), dtype=np.int64).reshape(contexts * sets, width)
    made = fit_tables(counts, sets, fine=data.draw(st.booleans()))
    frequencies = made.frequencies
    assert (frequencies.sum(axis=1) == 4096).all()
    assert (frequencies >= 0).all()
    rows = made.group(contexts)
    used = counts[:, : frequencies.shape[1]] > 0
    assert (frequencies[rows][used] > 0).all()
    packed = made.pack()
    read, at = read_tables(memoryview(packed), contexts, sets, 64)
    assert at == len(packed)
    assert np.array_equal(read.frequencies, frequencies)
    assert np.array_equal(read.group(contexts), rows)


def test_merging_pays_for_itself() -> None:
    rng = np.random.default_rng(8)
    same = rng.poisson(np.exp(-np.arange(30) / 6) * 50, (64, 30))
    assert fit_tables(same, 1, fine=False).bounds.size == 1
    unlike = np.zeros((64, 30), np.int64)
    unlike[:32, :5], unlike[32:, 20:25] = 1000, 1000
    found = fit_tables(unlike, 1, fine=False)
    assert found.bounds.tolist() == [32, 64]
    assert ideal_bits(found, unlike, 64) == pytest.approx(unlike.sum() * np.log2(5), rel=0.01)


@pytest.mark.parametrize(
    "head",
    [
        b"\5\1\1\1\x40",
        b"\4\2\1\1\x40",
        b"\4\1\0\1",
        b"\4\1\1\xff\x40",
        b"\4\1\2\1\x40\x40",
        b"\4\1\0",
    ],
)
def test_tables_that_contradict_themselves_are_refused(head: bytes) -> None:
    good = Tables(np.array([64]), np.ones((1, 1), np.int64), 4, 1).pack()
    assert read_tables(memoryview(good), 64, 1, 64)[1] == len(good)
    with pytest.raises(QctFormatError):
        read_tables(memoryview(head + good[len(head) :]), 64, 1, 64)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["integers", "trellis", "bytes", "dense"]), st.data())
def test_changed_bytes_decode_to_something_or_are_refused(case: str, data: st.DataObject) -> None:
    if case in ("bytes", "dense"):
        words = np.random.default_rng(9).normal(size=300).astype(np.float16).view(np.uint16)
        layout = Layout(FLOAT, 0, 7, 8, 0, 1, 16, 100, 20)
        good = encode_tabled(words, layout, dense=case == "dense")
    else:
        words = on_trellis(300, 30.0)
        layout = Layout(TRELLIS if case == "trellis" else INTEGER, columns=20,
                        states=8 if case == "trellis" else 1)  # fmt: skip
        good = encode_tabled(words, layout, dense=False)
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(good))))
    with contextlib.suppress(QctFormatError):
        found, _ = decode_plane(memoryview(bytes(bad[:cut])), words.size, out=np.empty_like(words))
        assert found.size == words.size


def test_integers_too_large_for_tables_are_learned() -> None:
    words = np.random.default_rng(1).integers(-(1 << 45), 1 << 45, 5000)
    for effort in ("fast", "dense", "max"):
        data = best_plane(words, Layout(columns=50), effort)
        assert data[0] == INTEGER
        assert np.array_equal(decode_plane(memoryview(data), words.size)[0], words)


def test_flags_of_tables_are_not_taken_for_learned_planes() -> None:
    words = np.arange(5000) % 50
    data = bytearray(encode_tabled(words, Layout(columns=50), dense=False))
    data[0] -= 3
    data[1] |= DENSE | UNSIGNED
    with pytest.raises(QctFormatError):
        decode_plane(memoryview(bytes(data)), words.size)
