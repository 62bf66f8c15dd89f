"""The codec pool: bytes in, bytes out, in processes that may die."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from safetensors.numpy import load, save

from actors.codec_pool import CodecPool, pack, unpack
from qcluster.codec.errors import QctFormatError, QctLimitError
from qcluster.errors import FormatError, InputError, NotReady

LIMIT = {"max_output_bytes": 1 << 20}


@pytest.fixture(scope="module")
def pool() -> Iterator[CodecPool]:
    made = CodecPool()
    yield made
    made.close()


def npy(x: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, x)
    return out.getvalue()


def test_a_file_comes_back_through_the_pool(pool: CodecPool) -> None:
    x = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    blob = pool.compress(npy(x), {"mode": "max_abs", "value": 0.01})
    data, kind = pool.decompress(blob, LIMIT)
    assert kind == "npy"
    assert np.abs(np.load(io.BytesIO(data)) - x).max() <= 0.01
    assert pool.status()["done"] >= 2


def test_errors_come_through_and_the_pool_goes_on(pool: CodecPool) -> None:
    with pytest.raises(FormatError, match="safetensors"):
        pool.compress(b"neither this nor that")
    with pytest.raises(QctFormatError):
        pool.decompress(b"no blob at all", LIMIT)
    assert pool.decompress(pool.compress(npy(np.arange(3))), LIMIT)[1] == "npy"


def test_formats_are_told_apart() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    many = io.BytesIO()
    np.savez(many, a=x, b=x + 1)
    for data in (npy(x), many.getvalue(), save({"a": x, "b": x + 1})):
        out, kind = unpack(pack(data, {}), LIMIT)
        if kind == "npy":
            assert np.array_equal(np.load(io.BytesIO(out)), x)
        else:
            assert np.array_equal(load(out)["b"], x + 1)
    blob = pack(x.tobytes(), {"dtype": "F32", "shape": [3, 4]})
    assert np.array_equal(np.load(io.BytesIO(unpack(blob, LIMIT)[0])), x)
    small = pack(bytes(8), {"dtype": "BF16", "shape": [2, 2]})
    assert unpack(small, LIMIT)[1] == "safetensors"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dtype": "F32", "shape": [5]}, InputError),
        ({"dtype": "F99"}, FormatError),
        ({"dtype": "F32", "mode": "best"}, InputError),
        ({"dtype": "F32", "config": {"x": 1}}, InputError),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        pack(bytes(48), options)


def test_wrong_wishes_for_the_output() -> None:
    blob = pack(npy(np.arange(100.0)), {})
    with pytest.raises(QctLimitError):
        unpack(blob, {"max_output_bytes": 10})
    with pytest.raises(InputError, match="format"):
        unpack(blob, {**LIMIT, "format": "csv"})
    small = pack(bytes(8), {"dtype": "BF16"})
    with pytest.raises(FormatError, match="BF16"):
        unpack(small, {**LIMIT, "format": "npy"})


def test_a_full_queue_is_refused() -> None:
    full = CodecPool(queue_limit=0)
    full._waiting = 1
    with pytest.raises(NotReady, match="wait"):
        full.compress(b"")
    with pytest.raises(InputError):
        CodecPool(processes=0)
