"""Decode in Triton, against the rule in plain NumPy: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from decode_twin import held, inputs, plain, relative
from torch.nn import functional as F

from qcluster.errors import InputError
from qcluster.q_attention.decode import SHORT_DEVICE, DecodeCache
from qcluster.q_attention.device_decode import DeviceHeads, decode_heads

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    """Its interpreter where there is no GPU: see ``conftest``."""
    found: ModuleType = pytest.importorskip("triton", reason="Triton is not installed")
    if DEVICE == "cpu" and not found.knobs.runtime.interpret:
        pytest.skip("there is a GPU that torch does not see")
    return found


def on_device(x):
    return torch.from_numpy(np.ascontiguousarray(x)).to(DEVICE)


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("tolerance", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("tail", [0, 7])
def test_all_heads_at_once_are_the_numpy_rule(tolerance, tail) -> None:
    """Two heads of keys with other numbers of clusters, two query heads on each; d is no power."""
    q, k, v, _ = inputs(n=1201, heads=4, d=24)
    k[0, 1, :600] = k[0, 1, 0]  # Equal keys: empty clusters, which are left out.
    heads = [held(k[0, h], v[0, h], block=1000) for h in (0, 1)]
    assert len(heads[0].log_size) != len(heads[1].log_size)
    tails = [x[0, :2, :tail] for x in (k, v)]
    ask = q[0, :, 0]
    out, read = decode_heads(
        ask.to(DEVICE), 0.25, tolerance, DeviceHeads.of(heads, torch.device(DEVICE)),
        *(x.to(DEVICE) for x in tails),
    )  # fmt: skip
    for i in range(4):
        near = [x[i // 2].numpy() for x in tails]
        expected, rows = plain(ask[i].numpy(), 0.25, tolerance, heads[i // 2], *near)
        room = 0.02 * tolerance * np.abs(expected).max() + 1e-4
        np.testing.assert_allclose(out[i].cpu().numpy(), expected, atol=room)
        assert abs(int(read[i]) - rows) <= 0.05 * rows + 40
    assert tolerance > 0.01 or read.max() > 100


@pytest.mark.usefixtures("triton")
def test_all_open_is_plain_attention() -> None:
    q, k, v, _ = inputs(n=700, heads=1)
    heads = DeviceHeads.of([held(k[0, 0], v[0, 0])], torch.device(DEVICE))
    out, read = decode_heads(
        q[0, :, 0].to(DEVICE), 0.25, 1e-9, heads, *(x[0, :, :0].to(DEVICE) for x in (k, v))
    )
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.25)[0, :, 0]
    assert relative(out.cpu(), expected) < 0.02
    # Keys alone in their cluster have no spread: their mean is the key.
    assert int(read[0]) > 600


@pytest.mark.usefixtures("triton")
def test_half_precision_tails_and_large_scores() -> None:
    q, k, v, _ = inputs(n=300, heads=1)
    heads = DeviceHeads.of([held(k[0, 0], v[0, 0])], torch.device(DEVICE))
    tail_k, tail_v = (40 * x[0, :, :5].half().to(DEVICE) for x in (q.expand(-1, -1, 5, -1), v))
    out, _ = decode_heads(q[0, :, 0].to(DEVICE), 5.0, 0.02, heads, tail_k, tail_v)
    # Five equal keys take everything.
    torch.testing.assert_close(out, tail_v.float().mean(1), rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("triton")
@pytest.mark.skipif(DEVICE == "cpu", reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_cache_on_a_gpu(dtype) -> None:
    q, k, v, earlier = (x.to("cuda", dtype) for x in inputs(n=SHORT_DEVICE + 100))
    cache = DecodeCache(k, v, queries=earlier)
    assert relative(cache.attend(q).float(), F.scaled_dot_product_attention(q, k, v).float()) < 0.05
    assert cache.rows_read is not None
    cache.append(k[:, :, :1], v[:, :, :1])
    assert len(cache) == SHORT_DEVICE + 101


def test_other_devices_and_types_are_refused_by_name() -> None:
    _, k, v, _ = inputs(n=10)
    with pytest.raises(InputError, match="'k': wants a float32 tensor on the CPU, or"):
        DecodeCache(k.half(), v.half())
    with pytest.raises(InputError, match="'k': wants"):
        DecodeCache(k.to("meta"), v.to("meta"))
