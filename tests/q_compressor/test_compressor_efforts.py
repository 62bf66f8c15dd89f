"""What the three efforts have in common: every bit, every bound; and what they differ in."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qcluster.codec import _table_decoder, _table_kernels, tabled, tables
from qcluster.errors import InputError
from qcluster.q_compressor import compress
from qcluster.q_decompressor import decompress

LIMIT = 1 << 26
EFFORTS = ("fast", "dense", "max")
FLOATS = [np.dtype(t) for t in (
    np.float16, np.float32, np.float64, np.complex64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2)]  # fmt: skip


def there_and_back(x: Any, **how: Any) -> Any:
    return decompress(compress(x, **how), max_output_bytes=LIMIT)


def weights(kind: Any = np.float32, shape: tuple[int, ...] = (192, 256)) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) * np.exp2(rng.normal(size=(shape[0], 1)))).astype(kind)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_every_bit_of_long_tensors_comes_back(effort: str, kind: np.dtype) -> None:
    x = weights(kind, (50, 128)).copy()
    raw = np.random.default_rng(1).integers(0, 256, 40 * kind.itemsize, dtype=np.uint8)
    # Among ordinary values any pattern: payloads of NaN, subnormals, both zeros.
    x.reshape(-1)[::160] = raw.view(kind)
    y = there_and_back(x, config={"effort": effort})
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert y.tobytes() == x.tobytes()


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize(
    "make",
    [
        np.abs, lambda x: -np.abs(x), lambda x: np.where(x > 0, x, 0),
        lambda x: np.round(x * 4) / 4, lambda x: np.full_like(x, np.nan), lambda x: x * 0,
        lambda x: x * np.float32(1e-42), lambda x: np.sign(x) * np.inf,
        lambda x: x.astype(ml_dtypes.bfloat16).astype(np.float32),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value")
def test_values_of_one_kind_come_back(effort: str, make: Any) -> None:
    x = make(weights(shape=(40, 128))).astype(np.float32)
    assert there_and_back(x, config={"effort": effort}).tobytes() == x.tobytes()


def test_more_effort_is_shorter() -> None:
    x = weights(ml_dtypes.bfloat16)
    size = {effort: len(compress(x, config={"effort": effort})) for effort in EFFORTS}
    assert size["max"] <= size["dense"] <= size["fast"] < 1.03 * size["dense"]
    # Columns that lean to one side: only the slower ones look at signs.
    x = (x.astype(np.float32) + np.linspace(-3, 3, x.shape[1])).astype(x.dtype)
    size = {effort: len(compress(x, config={"effort": effort})) for effort in EFFORTS}
    assert size["max"] <= size["dense"] < 0.97 * size["fast"]


def test_signs_and_trailing_zeros_that_say_nothing_cost_nothing() -> None:
    x = weights()
    for effort in EFFORTS:
        config = {"effort": effort}
        whole = len(compress(x, config=config))
        assert len(compress(np.abs(x), config=config)) < whole - 0.9 * x.size / 8
        half = x.astype(ml_dtypes.bfloat16)
        widened = len(compress(half.astype(np.float32), config=config))
        assert widened < 1.02 * len(compress(half, config=config))


def test_rows_that_come_back_are_found() -> None:
    x = weights(ml_dtypes.bfloat16, (128, 256))
    twice = np.concatenate([x, -x])
    assert len(compress(twice)) < 0.75 * 2 * len(compress(x))


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("value", [0.9, 0.4, 0.1, 0.01, 1e-4])
def test_relative_error_holds_and_is_used(effort: str, value: float) -> None:
    x = weights()
    how: dict[str, Any] = {"mode": "rel_l2", "value": value,
                           "config": {"effort": effort, "transform": "none"}}  # fmt: skip
    error = np.linalg.norm(there_and_back(x, **how).astype(np.float64) - x) / np.linalg.norm(x)
    assert 0.98 * value < error <= value


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("bits", [0.5, 2.0, 6.0])
def test_bits_are_kept_by_every_effort(effort: str, bits: float) -> None:
    x = weights()
    config = {"effort": effort, "transform": "none"}
    blob = compress(x, mode="bits", value=bits, config=config)
    assert 0.94 * bits < 8 * len(blob) / x.size <= bits


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("mode", ["max_abs", "point_rel"])
def test_bounds_hold_among_the_smallest_numbers(effort: str, mode: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(-99, 99, 5000) * 5e-324
    value = 17 * 5e-324 if mode == "max_abs" else 0.0223
    y = there_and_back(x, mode=mode, value=value, config={"effort": effort})
    # The bits of a subnormal number count the smallest ones that it is.
    a, b = (np.sign(v) * (v.view(np.int64) & (2**63 - 1)) for v in (x, y))
    limit = 17 if mode == "max_abs" else 0.0223 * np.abs(a)
    assert (np.abs(a - b) <= limit).all()


def test_leaning_signs_are_coded() -> None:
    x = np.abs(weights()) + 0.01
    how: dict[str, Any] = {"mode": "rel_l2", "value": 0.05,
                           "config": {"effort": "fast", "transform": "none"}}  # fmt: skip
    signs = np.where(np.random.default_rng(3).random(x.shape) < 0.5, -1, 1).astype(x.dtype)
    assert len(compress(x, **how)) < len(compress(x * signs, **how)) - 0.9 * x.size / 8


@pytest.mark.parametrize("effort", ["fast", "dense"])
@pytest.mark.parametrize("how", [{}, {"mode": "rel_l2", "value": 0.1},
                                 {"mode": "max_abs", "value": 0.2}], ids=str)  # fmt: skip
def test_blobs_decode_without_numba(
    effort: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = weights(ml_dtypes.bfloat16, (40, 128))
    blob = compress(x, **how, config={"effort": effort, "transform": "none"})
    expected = decompress(blob, max_output_bytes=LIMIT).tobytes()
    for module in (_table_kernels, _table_decoder, tables, tabled):
        for name, item in list(vars(module).items()):
            if hasattr(item, "py_func"):
                monkeypatch.setattr(module, name, item.py_func)
    assert not hasattr(tabled.decode_floats, "py_func")
    assert decompress(blob, max_output_bytes=LIMIT).tobytes() == expected


def test_efforts_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="effort"):
        compress(np.zeros(3), config={"effort": "best"})


def test_sparse_matrices_of_other_libraries_are_refused_by_name() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(InputError, match="sparse"):
        compress(sparse.eye_array(3))


def test_packed_float4_and_scales_of_eight_bits() -> None:
    torch = pytest.importorskip("torch")
    if hasattr(torch, "float4_e2m1fn_x2"):
        raw = torch.arange(64, dtype=torch.uint8).reshape(8, 8)
        y = there_and_back(raw.view(torch.float4_e2m1fn_x2))
        assert y.dtype == torch.float4_e2m1fn_x2
        assert torch.equal(y.view(torch.uint8), raw)
    scales = torch.arange(60, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    y = there_and_back(scales, mode="max_abs", value=0.5)
    assert torch.equal(y.view(torch.uint8), scales.view(torch.uint8))


def test_tensors_on_a_gpu_come_back_on_the_host_or_where_asked() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    x = torch.randn(70, 70, device="cuda")
    blob = compress(x)
    assert torch.equal(decompress(blob, max_output_bytes=LIMIT), x.cpu())
    assert decompress(blob, max_output_bytes=LIMIT, device="cuda").device.type == "cuda"
