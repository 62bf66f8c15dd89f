"""The arithmetic coder and its kernels: exact inverses, near entropy, the same without numba."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcluster.codec import _coder_kernels as coder
from qcluster.codec import _delta_kernels, _plane_kernels, plane_coder, plane_head
from qcluster.codec import plane as planes
from qcluster.codec.errors import QctFormatError
from qcluster.codec.plane_head import COLUMNS, DENSE, FLOAT, INTEGER, ROWS, TRELLIS, Layout


def encoded(words: np.ndarray, layout: Layout) -> bytes:
    size = np.maximum(np.abs(words), 0.5).astype(np.float64)
    if layout.kind == TRELLIS:
        size = size / 2
    return planes.encode_plane(words, layout, size, 16.0)


def on_trellis(rng: np.random.Generator, size: int, states: int, spread: float) -> np.ndarray:
    """Integers whose parities follow the trellis."""
    following = plane_head.trellis(states)[0]
    state, out = 0, np.empty(size, np.int64)
    for i in range(size):
        k = 2 * int(np.rint(rng.normal(0, spread))) + (state & 1)
        out[i] = k
        state = following[state, (k >> 1) & 1]
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=300),
    st.sampled_from([0, DENSE]),
)
def test_any_integers_come_back(values: list[int], dense: int) -> None:
    words = np.array(values, dtype=np.int64)
    data = encoded(words, Layout(flags=dense, columns=words.size))
    assert np.array_equal(planes.decode_plane(memoryview(data), words.size)[0], words)


@pytest.mark.parametrize("flags", [0, ROWS, COLUMNS, ROWS | COLUMNS, DENSE, 7])
@pytest.mark.parametrize("spread", [0.05, 1.0, 40.0, 1e6])
def test_planes_come_back_and_are_near_entropy(flags: int, spread: float) -> None:
    rng = np.random.default_rng(3)
    words = np.rint(rng.normal(0, spread, 64 * 256)).astype(np.int64)
    data = encoded(words, Layout(flags=flags, columns=256))
    assert np.array_equal(planes.decode_plane(memoryview(data), words.size)[0], words)
    if spread == 1.0:
        _, count = np.unique(words, return_counts=True)
        entropy = -(count / words.size * np.log2(count / words.size)).sum()
        assert 8 * len(data) / words.size < entropy + (0.08 if flags & 6 else 0.05)


@pytest.mark.parametrize("states", sorted(plane_head.POLYNOMIALS))
def test_trellis_parities_are_not_sent(states: int) -> None:
    rng = np.random.default_rng(states)
    words = on_trellis(rng, 4096, states, 3.0)
    free = np.rint(rng.normal(0, 6.0, 4096)).astype(np.int64)
    data = encoded(words, Layout(kind=TRELLIS, states=states, columns=64))
    assert np.array_equal(planes.decode_plane(memoryview(data), words.size)[0], words)
    assert len(data) < len(encoded(free, Layout(columns=64))) - 0.9 * 4096 / 8


def test_trellis_has_two_ways_in_and_out_of_every_state() -> None:
    for states in plane_head.POLYNOMIALS:
        following, before, coset = plane_head.trellis(states)
        assert np.array_equal(np.sort(following.reshape(-1)), np.repeat(np.arange(states), 2))
        for state in range(states):
            for came, k in zip(before[state], coset[state], strict=True):
                assert k & 1 == came & 1
                assert following[came, k >> 1] == state


def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels as the interpreter runs them."""
    for module in (coder, _plane_kernels, _delta_kernels):
        for name, item in list(vars(module).items()):
            if hasattr(item, "py_func"):
                monkeypatch.setattr(module, name, item.py_func)
    monkeypatch.setattr(plane_coder, "code_plane", _plane_kernels.code_plane)


@pytest.mark.parametrize("kind", [INTEGER, TRELLIS, FLOAT])
@pytest.mark.parametrize("dense", [0, DENSE])
def test_the_interpreter_gives_the_same_bits(
    kind: int, dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    if kind == FLOAT:
        words = rng.normal(size=600).astype(np.float32).view(np.uint32).astype(np.int64)
        layout = Layout(FLOAT, dense | ROWS, 23, 8, 0, 1, 16, 127 - 60, 30)
    else:
        words = on_trellis(rng, 600, 8, 20.0)
        layout = Layout(
            kind, dense | ROWS | COLUMNS, states=8 if kind == TRELLIS else 1, columns=30
        )
    compiled = encoded(words, layout)
    without_numba(monkeypatch)
    assert not hasattr(plane_coder.code_plane, "py_func")
    assert encoded(words, layout) == compiled
    assert np.array_equal(planes.decode_plane(memoryview(compiled), 600)[0], words)


def test_tables_are_those_of_the_logistic_function() -> None:
    squash, stretch = coder.logistic()
    exact = 65536 / (1 + np.exp(-np.arange(-2047, 2048) / 256))
    assert np.abs(squash - np.clip(exact, 16, 65520)).max() <= 1
    middle = (16 * np.arange(4096) + 8) / 65536
    back = np.clip(256 * np.log(middle / (1 - middle)), -2047, 2047)
    assert np.abs(stretch - back).max() <= 40
    assert np.abs(stretch - back)[500:-500].max() <= 1


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=0, max_size=200), st.integers(1, 500))
def test_any_bytes_decode_to_something_or_are_refused(data: bytes, count: int) -> None:
    try:
        words, _ = planes.decode_plane(memoryview(data), count)
    except QctFormatError:
        return
    assert words.size == count


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_good_head_with_any_body_decodes(data: st.DataObject) -> None:
    words = np.arange(-30, 30)
    good = encoded(words, Layout(flags=data.draw(st.integers(0, 7)), columns=10))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(QctFormatError):
        planes.decode_plane(memoryview(bytes(bad)), words.size)


def test_too_little_room_is_noticed_and_nothing_beyond_it_is_touched() -> None:
    words = np.random.default_rng(0).integers(-(2**40), 2**40, 50)
    room = np.full(500, 7, dtype=np.uint16)
    none = np.zeros(50, dtype=np.int64)
    layout = Layout(columns=50)
    used = plane_coder._walk(1, words.copy(), layout, room[:20], none[:1] + 16, none)
    assert used > 20
    assert (room[20:] == 7).all()
    enough = np.zeros(used, dtype=np.uint16)
    assert plane_coder._walk(1, words.copy(), layout, enough, none[:1] + 16, none) <= used


@pytest.mark.parametrize("count", [1, 3, 64])
def test_words_that_the_contexts_expect_least_have_room(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(30):
        words = np.where(rng.random(count) < 0.5, 0, rng.integers(-(2**42), 2**42, count))
        data = encoded(words, Layout(flags=int(rng.integers(2)), columns=count))
        assert np.array_equal(planes.decode_plane(memoryview(data), count)[0], words)
