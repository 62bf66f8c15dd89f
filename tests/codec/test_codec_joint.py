"""Symbols that hold leading mantissa bits: exact inverses, near entropy, hostile bytes, the same
without numba, and what earlier versions wrote.
"""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.codec import (
    _joint_kernels,
    _table_decoder,
    joint,
    tables,
    workspace,
)
from qcluster.codec.errors import QctCorruptError, QctFormatError
from qcluster.codec.plane import decode_plane
from qcluster.codec.plane_head import DENSE, FLOAT, JOINT, UNSIGNED, Layout, read_split
from qcluster.codec.tabled import encode_tabled

FORMATS = {np.uint8: (3, 4), np.uint16: (7, 8), np.uint32: (23, 8)}


def layout_of(bits: np.ndarray, columns: int, flags: int = 0, shift: int = 0) -> Layout:
    mantissa, exponent = FORMATS[bits.dtype.type]
    top = int(((bits >> mantissa) & ((1 << exponent) - 1)).max())
    return Layout(FLOAT, flags, mantissa - shift, exponent, shift, 1, 16, top - 62, columns)


def back(data: bytes, words: np.ndarray) -> np.ndarray:
    found, _ = decode_plane(memoryview(data), words.size, out=np.full_like(words, 77))
    return found


def white(size: int) -> np.ndarray:
    values = np.random.default_rng(size).normal(size=size)
    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([np.uint8, np.uint16, np.uint32]), st.integers(1, 70), st.integers(1, 9),
    st.booleans(), st.booleans(), st.sampled_from([0, 1, 3]), st.integers(0, 2**32),
)  # fmt: skip
def test_any_bits_come_back(
    kind: type, rows: int, columns: int, dense: bool, unsigned: bool, shift: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, np.iinfo(kind).max, rows * columns, dtype=kind, endpoint=True)
    if rng.random() < 0.5:
        # Ordinary values, of which a few are far away.
        mantissa, exponent = FORMATS[kind]
        sign = bits >> (mantissa + exponent) << (mantissa + exponent)
        near = (bits & ((1 << mantissa) - 1)) | (kind(5) << mantissa)
        bits = np.where(rng.random(bits.size) < 0.9, sign | near, bits).astype(kind)
    shift = min(shift, FORMATS[kind][0])
    bits = bits >> shift << shift
    if unsigned:
        bits &= np.iinfo(kind).max >> 1
    layout = layout_of(bits, columns, UNSIGNED if unsigned else 0, shift)
    data = encode_tabled(bits, layout, dense=dense)
    assert np.array_equal(back(data, bits), bits)


def test_white_values_take_little_more_than_their_entropy() -> None:
    bits = white(1 << 17)
    count = np.unique(bits, return_counts=True)[1] / bits.size
    entropy = -(count * np.log2(count)).sum()
    lengths = [8 * len(encode_tabled(bits, layout_of(bits, 256), dense=d)) / bits.size
               for d in (False, True)]  # fmt: skip
    # Counting 131,072 elements leaves out .02 bit, and the lowest mantissa bits are not coded.
    assert max(lengths) < entropy + 0.04
    classes = np.unique((bits >> 7) & 255, return_counts=True)[1] / bits.size
    alone = 8 - (classes * np.log2(classes)).sum()
    assert max(lengths) < alone - 0.05


def test_the_head_says_how_symbols_are_made() -> None:
    bits = white(40_000)
    quick = encode_tabled(bits, layout_of(bits, 200), dense=False)
    assert (quick[0], quick[1] & (JOINT | DENSE)) == (FLOAT + 3, JOINT)
    assert read_split(quick[7]) == joint.QUICK
    dense = encode_tabled(bits, layout_of(bits, 200), dense=True)
    assert read_split(dense[7]) in joint.SPLITS
    assert len(dense) <= len(quick)
    with_head = encode_tabled(bits, layout_of(bits, 200), dense=False, before=b"\4abc")
    assert with_head == b"\4abc" + quick


def test_small_numbers_zeros_and_specials_among_ordinary_ones_come_back() -> None:
    values = np.random.default_rng(3).normal(size=6000).astype(np.float32)
    values[::7] *= np.float32(1e-12)
    values[::11] = 0
    values[::13] = [np.nan, np.inf, -np.inf][1]
    values[5::101] = np.float32(1e-42)
    for kind in (ml_dtypes.bfloat16, np.float32):
        bits = values.astype(kind).view(np.uint16 if kind is not np.float32 else np.uint32)
        for dense in (False, True):
            data = encode_tabled(bits, layout_of(bits, 60), dense=dense)
            assert np.array_equal(back(data, bits), bits)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_the_interpreter_gives_the_same_bytes(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = np.random.default_rng(6).normal(size=700).astype(np.float32).view(np.uint32)
    raw[::50] = np.random.default_rng(7).integers(0, 1 << 32, 14, dtype=np.uint32)
    bits = (raw >> (32 - 8 * np.dtype(kind).itemsize)).astype(kind)
    layout = layout_of(bits, 35)
    compiled = encode_tabled(bits, layout, dense=True)
    for module in (_joint_kernels, joint, tables):
        for name, item in list(vars(module).items()):
            if hasattr(item, "py_func"):
                monkeypatch.setattr(module, name, item.py_func)
    assert not hasattr(joint.encode_lanes, "py_func")
    assert encode_tabled(bits, layout, dense=True) == compiled
    assert np.array_equal(back(compiled, bits), bits)


@pytest.mark.parametrize(
    ("place", "value"),
    [(7, 0), (7, 2), (7, 4 * 17 + 1), (1, JOINT | DENSE), (1, 64), (0, 3)],
)
def test_heads_that_contradict_themselves_are_refused(place: int, value: int) -> None:
    bits = white(400)
    data = bytearray(encode_tabled(bits, layout_of(bits, 20), dense=False))
    data[place] = value
    with pytest.raises(QctFormatError):
        back(bytes(data), bits)


def test_symbols_of_more_bits_than_a_mantissa_has_are_refused() -> None:
    bits = np.random.default_rng(1).integers(0, 256, 400).astype(np.uint8)
    layout = Layout(FLOAT, 0, 2, 5, 0, 1, 16, -31, 20)
    data = bytearray(encode_tabled(bits, layout, dense=False))
    assert np.array_equal(back(bytes(data), bits), bits)
    data[7] = 3 | 4 << 2
    with pytest.raises(QctFormatError, match="more bits"):
        back(bytes(data), bits)


def test_every_cut_and_every_addition_is_refused() -> None:
    bits = white(300)
    bits[::9] = 0
    data = encode_tabled(bits, layout_of(bits, 20), dense=False)
    for end in range(len(data)):
        with pytest.raises((QctFormatError, QctCorruptError)):
            back(data[:end], bits)
    for more in (b"\0", b"\0" * 4):
        with pytest.raises(QctFormatError):
            back(data + more, bits)


# Written by version 1.2, whose classes and mantissas were symbols of their own.
EARLIER = (
    (
        "BQAHCAAAPgA/AAAADAAAAAQBAT9AFgAAAAAAAAAAABQAAAAAAD8AAAAfBvb+XowPAAAAAgAyFwEAityXaBClAgCSJcDdjV7H"
        "muZ/jv7IvmhUADHigBOAxHWmV4GIgTnqG8yAfYGuX5BBgfKAI9SFNoDngRjJequBXICNPu8ggNGBArNklYFGgPcoWYqAO4Hs"
        "Hc5/gLCAYZJD9IElgdYHuGmAmoBL/K1egY+BQPEi04AEgLVml0iB+YAq2wy9gG6Bn1CBsoFjgJRF9ieA2IEJumucgU2A/i8A"
        "AA=="
    ),
    (
        "BQEHCAAAPgM/AAAADAAAAAQBBD8uLzRAJAAAAAAAAAAAABQAAAAAAD8AAAAn+HBUmJWWjZhy5MkpJcjtbnJwrAQBAQggFgAA"
        "AAAAAAAAABQAAAAAAAgAAAAzB4PNAIAgAAAAAwA5qgAAwYASAKZcAAAuhz3IvE0K8q0nd6jBXwqXd030q+VgU5cpu7zMCnNT"
        "urxg7VouBJi6eFfl4FMWAN4ABCBIwAFIiz2BODDpxQFboH8wBErAQasBvIEoqx3IALv7ADAGiklqoAG8KGnAFcibf4AQMMhB"
        "A0ugPTgBasDFuwv8gSCKCUgAq7koMAOqzTqgC/wgysABSIs9gDgw6cUDG6B/AAA="
    ),
)


@pytest.mark.parametrize("text", EARLIER)
def test_planes_of_earlier_versions_decode(text: str) -> None:
    i = np.arange(96)
    low = (i * 2_654_435_761 % 65_536) & 0x80FF
    bits = (low | (0x3E00 + (i * i % 5) * 128)).astype(np.uint16)
    assert np.array_equal(back(base64.b64decode(text), bits), bits)


@pytest.mark.parametrize("sign", [15, 63])
def test_bytes_beside_the_classes_of_earlier_planes_are_joined(sign: int) -> None:
    bits = white(500) if sign == 15 else white(500) & 0x7FFF
    low = (bits & 0x7F | (bits.astype(np.uint64) >> sign << 7)).astype(np.uint8)
    found = np.empty_like(bits)
    symbol = ((bits >> 7) & 255).astype(np.uint8) - np.uint8(70)
    _table_decoder.join_bytes(symbol, low, 7, sign, 70, 8, found)
    assert np.array_equal(found, bits)


def test_rooms_are_used_again_and_large_ones_are_not_kept() -> None:
    first = workspace.workspace("a test", 100, np.uint16)
    again = workspace.workspace("a test", 60, np.uint32)
    assert (first.size, again.size) == (100, 60)
    assert workspace.workspace("a test", 100, np.uint16).ctypes.data == again.ctypes.data
    large = workspace.MOST_BYTES + 1
    one, two = (workspace.workspace("a test", large, np.uint8) for _ in range(2))
    assert one.ctypes.data != two.ctypes.data


def test_threads_do_not_work_in_each_others_rooms() -> None:
    tensors = [white(6000 + 300 * n) for n in range(8)] * 4

    def there_and_back(bits: np.ndarray) -> bool:
        data = encode_tabled(bits, layout_of(bits, 100), dense=bool(bits.size % 600))
        return bool(np.array_equal(back(data, bits), bits))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(there_and_back, tensors))
