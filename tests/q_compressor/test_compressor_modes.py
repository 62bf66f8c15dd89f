"""What each mode promises, checked with arithmetic that shares nothing with the encoder."""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcluster.errors import InputError
from qcluster.q_compressor import compress, compress_state_dict
from qcluster.q_decompressor import decompress, inspect

LIMIT = 1 << 28
SMALL = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
         ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz]  # fmt: skip
FLOATS = [np.dtype(t) for t in (np.float16, np.float32, np.float64, *SMALL)]
OTHERS = [np.dtype(t) for t in ("bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "c8",
                                "c16", ml_dtypes.float8_e8m0fnu)]  # fmt: skip


def there_and_back(x: Any, **how: Any) -> Any:
    return decompress(compress(x, **how), max_output_bytes=LIMIT)


def any_bits(dtype: np.dtype, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Every pattern: subnormals, infinities, payloads of NaN."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, int(np.prod(shape)) * dtype.itemsize, dtype=np.uint8)
    if dtype.kind == "b":
        raw &= 1
    return raw.view(dtype).reshape(shape)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", FLOATS + OTHERS, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7,), (33, 65), (4, 5, 6)])
def test_lossless_gives_back_every_bit(dtype: np.dtype, shape: tuple[int, ...]) -> None:
    x = any_bits(dtype, shape, seed=len(shape))
    assert same_bits(there_and_back(x), x)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_lossless_of_ordinary_values(dtype: np.dtype) -> None:
    x = np.random.default_rng(1).normal(size=(64, 100)).astype(dtype)
    blob = compress(x)
    assert same_bits(decompress(blob, max_output_bytes=LIMIT), x)
    assert len(blob) < x.nbytes


def exact_violation(x: np.ndarray, y: np.ndarray, bound: Any) -> bool:
    """Whether an element breaks |x - y| <= bound(x), in rational numbers."""
    for a, b in zip(x.reshape(-1), y.reshape(-1), strict=True):
        if not np.isfinite(np.float64(a)):
            if np.asarray(a).tobytes() != np.asarray(b).tobytes():
                return True
        elif abs(Fraction(float(a)) - Fraction(float(b))) > bound(Fraction(float(a))):
            return True
    return False


def arrays() -> st.SearchStrategy[np.ndarray]:
    shapes = hnp.array_shapes(max_dims=3, max_side=6, min_side=0) | st.just((6, 16))
    native = st.sampled_from([np.float16, np.float32, np.float64]).flatmap(
        lambda t: hnp.arrays(
            t, shapes,
            elements=hnp.from_dtype(np.dtype(t), allow_nan=True, allow_infinity=True),
        )
    )  # fmt: skip
    small = st.tuples(st.sampled_from(SMALL), st.integers(0, 40), st.integers(0, 2**31)).map(
        lambda a: any_bits(np.dtype(a[0]), (a[1],), a[2])
    )
    return native | small


# Arrays a property is tried on: `QCLUSTER_EXAMPLES=10000` for a long run.
EXAMPLES = int(os.environ.get("QCLUSTER_EXAMPLES", "150"))
# A transform that is named makes a coarse version, of which the residual is coded.
WAYS = st.sampled_from([{}, {"effort": "fast"}, {"transform": "dct"}, {"transform": "klt"}])
EPS = st.floats(1e-6, 1e3) | st.sampled_from([5e-324, 1e-40, 1e-8, 0.5, 1e30, 1e300])


@settings(max_examples=EXAMPLES, deadline=None)
@given(arrays(), EPS, WAYS)
def test_max_abs_holds_in_exact_arithmetic(x: np.ndarray, eps: float, how: Any) -> None:
    y = there_and_back(x, mode="max_abs", value=eps, config=how)
    assert y.dtype == x.dtype
    assert not exact_violation(x, y, lambda _: Fraction(eps))


@settings(max_examples=EXAMPLES, deadline=None)
@given(arrays(), st.floats(1e-6, 0.99), WAYS)
def test_point_rel_holds_in_exact_arithmetic(x: np.ndarray, eps: float, how: Any) -> None:
    y = there_and_back(x, mode="point_rel", value=eps, config=how)
    assert not exact_violation(x, y, lambda a: Fraction(eps) * abs(a))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("value", [0.3, 0.05])
def test_rel_l2_holds(dtype: np.dtype, value: float) -> None:
    x = (np.random.default_rng(2).normal(size=(48, 96)) * 3).astype(dtype)
    y = there_and_back(x, mode="rel_l2", value=value).astype(np.float64)
    z = x.astype(np.float64)
    assert np.linalg.norm(z - y) <= value * np.linalg.norm(z)


@pytest.mark.parametrize("bits", [1.0, 2.5, 4.0, 7.0])
@pytest.mark.parametrize("states", [8, 64])
def test_bits_are_not_exceeded_and_well_used(bits: float, states: int) -> None:
    x = np.random.default_rng(3).normal(size=(256, 256)).astype(np.float32)
    blob = compress(x, mode="bits", value=bits, config={"states": states})
    assert 0.97 * bits < 8 * len(blob) / x.size <= bits
    noise = np.mean((x - decompress(blob, max_output_bytes=LIMIT)) ** 2)
    gap = bits - 0.5 * np.log2(np.mean(x**2) / noise)
    assert gap < 0.17


def test_more_trellis_states_are_shorter_for_the_same_error() -> None:
    x = np.random.default_rng(4).normal(size=(256, 256)).astype(np.float32)
    size = {s: len(compress(x, mode="rel_l2", value=0.1, config={"states": s})) for s in (8, 64)}
    assert size[64] < size[8] - 0.015 * x.size / 8


def test_int8_is_the_affine_quantiser() -> None:
    x = np.random.default_rng(5).normal(size=(40, 70)).astype(np.float32)
    step = float(np.abs(x).max()) / 127
    expected = (np.rint(x.astype(np.float64) / step) * step).astype(np.float32)
    assert np.array_equal(there_and_back(x, mode="int8"), expected)


@pytest.mark.parametrize("mode", ["max_abs", "point_rel", "rel_l2", "int8"])
def test_what_is_not_finite_comes_back_bit_for_bit(mode: str) -> None:
    x = np.random.default_rng(6).normal(size=(40, 50)).astype(np.float32)
    special = np.array([0x7FC00001, 0xFF800000, 0x7F800000, 0xFFFFFFFF], dtype=np.uint32)
    x.reshape(-1)[[0, 77, 1500, 1999]] = special.view(np.float32)
    y = there_and_back(x, mode=mode, value=None if mode == "int8" else 0.1)
    assert np.array_equal(y.reshape(-1)[[0, 77, 1500, 1999]].view(np.uint32), special)
    assert np.isfinite(y).sum() == x.size - 4


@pytest.mark.parametrize("mode", ["max_abs", "point_rel", "rel_l2", "bits", "int8"])
def test_integers_and_booleans_are_never_lossy(mode: str) -> None:
    x = np.arange(-50, 50, dtype=np.int16).reshape(10, 10)
    y = there_and_back(x, mode=mode, value=None if mode == "int8" else 3.0)
    assert same_bits(x, y)


@pytest.mark.parametrize("mode", ["max_abs", "rel_l2"])
def test_zero_error_means_lossless(mode: str) -> None:
    x = np.random.default_rng(7).normal(size=20).astype(np.float32)
    assert same_bits(there_and_back(x, mode=mode, value=0), x)


@pytest.mark.parametrize("mode", ["max_abs", "point_rel", "rel_l2", "int8"])
@pytest.mark.parametrize("fill", [0.0, -0.0, 1.5, np.inf, np.nan, 5e-324])
def test_constant_tensors(mode: str, fill: float) -> None:
    x = np.full((9, 11), fill)
    y = there_and_back(x, mode=mode, value=None if mode == "int8" else 1e-3)
    assert np.allclose(x, y, rtol=1e-3, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T, lambda x: x[::-1], lambda x: x[:, ::2], np.asfortranarray,
        lambda x: x.astype(">f4"), lambda x: np.broadcast_to(x[0], (5, 8)), lambda x: x[2, 3],
    ],
)  # fmt: skip
def test_any_memory_layout(view: Any) -> None:
    x = view(np.arange(48, dtype=np.float32).reshape(6, 8))
    y = there_and_back(x)
    assert np.array_equal(x, y)
    assert y.shape == np.shape(x)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.array([object()]), "object"), (np.array(["a"]), "<U1"), ([1.0], "array"),
        (np.array(["2020"], "M8[D]"), "datetime64"), (np.zeros(2, "i4,f4"), "holds"),
        (np.longdouble(1), "longdouble|float128"), (None, "NoneType"), (3, "array"),
        (np.ma.masked_array([1.0], [True]), "masked"),
    ],
)  # fmt: skip
def test_what_is_no_tensor_is_refused_by_name(tensor: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compress(tensor)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "best"}, {"mode": "max_abs"}, {"mode": "max_abs", "value": -1},
        {"mode": "max_abs", "value": float("nan")}, {"mode": "rel_l2", "value": "a"},
        {"mode": "bits", "value": 0}, {"mode": "lossless", "value": 1},
        {"mode": "int8", "value": 8},
        {"mode": "max_abs", "value": True}, {"config": {"vqcc": True}},
        {"mode": "max_abs", "value": 1, "parent": np.zeros(3)}, {"optimizer_state": {}},
    ],
)  # fmt: skip
def test_bad_arguments_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        compress(np.zeros(3), **arguments)


def test_bits_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be met"):
        compress(np.random.default_rng(0).normal(size=10), mode="bits", value=1.0)


@pytest.mark.parametrize("size", [0, 1, 3])
@pytest.mark.parametrize("value", [4.0, 100.0, 1e6])
def test_bits_of_very_few_elements_are_met_or_refused(size: int, value: float) -> None:
    x = np.arange(size, dtype=np.float32)
    if size and 8 * len(compress(x)) > value * size:
        with pytest.raises(InputError, match="cannot be met"):
            compress(x, mode="bits", value=value)
        return
    blob = compress(x, mode="bits", value=value)
    assert not size or 8 * len(blob) <= value * size
    assert np.isfinite(decompress(blob, max_output_bytes=LIMIT)).all()


def test_buffers_are_bytes() -> None:
    assert there_and_back(b"hello hello hello").tobytes() == b"hello hello hello"
    assert there_and_back(memoryview(b"")).size == 0


def test_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[compress.__module__], "CHUNK", 1000)
    x = np.random.default_rng(8).normal(size=(70, 64)).astype(np.float32)
    for how in ({}, {"mode": "max_abs", "value": 0.1}, {"mode": "rel_l2", "value": 0.1},
                {"mode": "point_rel", "value": 0.1}, {"mode": "int8"}):  # fmt: skip
        blob = compress(x, **how)
        y = decompress(blob, max_output_bytes=x.nbytes)
        assert np.abs(x - y).max() < 0.6
        assert len(inspect(blob).tensors) == 1
        if not how:
            assert same_bits(x, y)


def test_state_dicts_share_and_are_read_one_by_one() -> None:
    rng = np.random.default_rng(9)
    embedding = rng.normal(size=(64, 64)).astype(np.float32)
    state = {"wte": embedding, "head": embedding.copy(), "bias": np.zeros(64, np.float16)}
    blob = compress_state_dict(state)
    back = decompress(blob, max_output_bytes=LIMIT)
    assert list(back) == list(state)
    assert all(same_bits(back[name], state[name]) for name in state)
    assert len(blob) < 1.1 * len(compress(embedding)) + 400
    only = decompress(blob, max_output_bytes=embedding.nbytes, names=["head"])
    assert same_bits(only["head"], embedding)


def test_state_dict_names_what_is_wrong() -> None:
    with pytest.raises(InputError, match="layer"):
        compress_state_dict({"layer": "text"})


def test_report_says_what_the_blob_promises() -> None:
    x = np.random.default_rng(10).normal(size=(32, 32)).astype(np.float32)
    blob = compress(x, mode="max_abs", value=0.25)
    y, report = decompress(blob, max_output_bytes=LIMIT, return_report=True)
    assert report.guarantee == {"max_abs": 0.25}
    assert report.guarantee_holds
    assert np.abs(x - y).max() <= 0.25
    info = inspect(blob)
    assert info.output_bytes == x.nbytes
    assert info.tensors[0].chain == ["uniform"]
    assert type(info).from_dict(info.to_dict()) == info
