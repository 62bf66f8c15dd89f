"""Decoding over a cache: against torch's kernel, and the compiled kernel against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decode_twin import held, inputs, plain, relative
from torch.nn import functional as F

from qcluster.errors import InputError
from qcluster.q_attention._kernels import decode_head
from qcluster.q_attention.decode import DecodeCache


@pytest.mark.parametrize("with_queries", [False, True])
def test_long_caches_are_read_in_part_and_close(with_queries) -> None:
    q, k, v, earlier = inputs()
    cache = DecodeCache(k, v, queries=earlier if with_queries else None)
    expected = F.scaled_dot_product_attention(q, k, v)
    assert relative(cache.attend(q), expected) < 0.04
    assert 0 < cache.rows_read < 0.6
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.1)
    assert relative(cache.attend(q, scale=0.1), expected) < 0.04


@pytest.mark.parametrize("n", [1, 100, 2000])
def test_short_caches_are_exact(n) -> None:
    q, k, v, _ = inputs(n=n)
    cache = DecodeCache(k, v)
    torch.testing.assert_close(cache.attend(q), F.scaled_dot_product_attention(q, k, v))
    assert cache.rows_read is None


def test_a_growing_cache_sees_every_key() -> None:
    q, k, v, _ = inputs(n=9000)
    cache = DecodeCache(k[:, :, :5000], v[:, :, :5000])
    for first in range(5000, 9000, 500):
        cache.append(k[:, :, first : first + 500], v[:, :, first : first + 500])
    assert len(cache) == 9000
    expected = F.scaled_dot_product_attention(q, k, v)
    assert relative(cache.attend(q), expected) < 0.04
    cache.append(200 * q.transpose(1, 1), v[:, :, :1] + 5)
    grown = F.scaled_dot_product_attention(
        q, torch.cat([k, 200 * q], 2), torch.cat([v, v[:, :, :1] + 5], 2)
    )
    assert relative(cache.attend(q), grown) < 1e-3


def test_grouped_queries_and_threads(monkeypatch) -> None:
    q, k, v, _ = inputs()
    wide = torch.cat([q, 0.5 * q], 1)[:, [0, 2, 1, 3]]
    expected = F.scaled_dot_product_attention(wide, k, v, enable_gqa=True)
    cache = DecodeCache(k, v)
    alone = cache.attend(wide)
    assert relative(alone, expected) < 0.04
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    torch.testing.assert_close(cache.attend(wide), alone)


def test_a_smaller_tolerance_reads_more() -> None:
    q, k, v, _ = inputs()
    read = []
    for tolerance in (0.1, 0.02, 0.002):
        cache = DecodeCache(k, v, tolerance=tolerance)
        cache.attend(q)
        read.append(cache.rows_read)
    assert read[0] < read[1] < read[2]


@pytest.mark.parametrize("tolerance", [0.5, 0.05, 0.005])
@pytest.mark.parametrize("tail", [0, 7])
def test_kernel_is_its_numpy_twin(tolerance, tail) -> None:
    q, k, v, _ = inputs(n=600, heads=1)
    h = held(k[0, 0], v[0, 0])
    tail_k, tail_v = (np.ascontiguousarray(x[0, 0, :tail].numpy()) for x in (k, v))
    ask = q[0, 0, 0].numpy()
    out = np.empty(16, np.float32)
    read = decode_head(
        ask, np.float32(0.25), np.float32(tolerance),
        h.mean_k.codes, h.mean_k.step, h.mean_k.middle,
        h.mean_v.codes, h.mean_v.step, h.mean_v.middle,
        h.log_size, h.spread, h.spread_v, h.within, h.along, h.start,
        h.row_k.codes, h.row_k.step, h.row_k.middle,
        h.row_v.codes, h.row_v.step, h.row_v.middle, tail_k, tail_v, tail, out,
    )  # fmt: skip
    expected, rows = plain(ask, 0.25, tolerance, h, tail_k, tail_v)
    assert abs(read - rows) <= 0.05 * rows + 40
    np.testing.assert_allclose(out, expected, atol=0.02 * tolerance * np.abs(expected).max() + 1e-4)


def test_clusters_hold_every_row_once() -> None:
    _, k, v, _ = inputs(n=500, heads=1)
    h = held(k[0, 0], v[0, 0])
    assert h.start[0] == 0
    assert h.start[-1] == 500
    assert (np.diff(h.start) > 0).all()
    assert np.exp(h.log_size).sum() == pytest.approx(500, rel=1e-5)


def test_a_head_grown_in_blocks_reads_like_one_made_at_once() -> None:
    """Also when later keys leave the range of the first ones' 8 bits."""
    _, k, v, _ = inputs(n=3000, heads=1)
    k[:, :, 2000:] *= 3
    v[:, :, 2500:] += 9
    h = held(k[0, 0], v[0, 0], block=500)
    assert h.start[-1] == 3000
    assert len(h.log_size) == len(h.spread) == len(h.mean_k.codes) == len(h.start) - 1
    found = h.row_k.codes * h.row_k.step + h.row_k.middle
    # Every key is there once, to within the steps that it went through.
    torch.testing.assert_close(
        torch.from_numpy(np.sort(found, 0)), k[0, 0].sort(0).values,
        atol=3 * float(h.row_k.step.max()), rtol=0,
    )  # fmt: skip
    ask = np.ones(16, np.float32)
    none = np.zeros((0, 16), np.float32)
    expected = F.scaled_dot_product_attention(torch.ones(1, 1, 1, 16), k, v)[0, 0, 0].numpy()
    got, _ = plain(ask, 0.25, 1e-3, h, none, none)
    assert np.linalg.norm(got - expected) < 0.03 * np.linalg.norm(expected)


def test_blocks_are_clustered_when_a_query_needs_them_and_once() -> None:
    q, k, v, earlier = inputs(n=9000)
    cache = DecodeCache(k[:, :, :5000], v[:, :, :5000])
    cache.observe(earlier)
    cache.append(k[:, :, 5000:], v[:, :, 5000:])
    cache.attend(q)
    first = [grown.head for grown in cache._heads]
    assert first[0].start[-1] == 8192
    cache.observe(-earlier)  # too late, and harmless
    cache.append(k[:, :, :100], v[:, :, :100])
    cache.attend(q)
    assert [grown.head for grown in cache._heads] == first
    whole = [torch.cat([x, x[:, :, :100]], 2) for x in (k, v)]
    torch.testing.assert_close(cache.keys, whole[0])
    torch.testing.assert_close(cache.values, whole[1])
    assert relative(cache.attend(q), F.scaled_dot_product_attention(q, *whole)) < 0.04


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"k": torch.zeros(2, 3, 4)}, "k"),
        ({"k": torch.zeros(1, 2, 8, 4, dtype=torch.float64)}, "k"),
        ({"v": torch.full((1, 2, 8, 4), torch.inf)}, "v"),
        ({"v": torch.zeros(1, 2, 7, 4)}, "v"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"queries": torch.zeros(1, 3, 5, 4)}, "queries"),
    ],
)
def test_wrong_arguments_are_named(change, field) -> None:
    good = {"k": torch.zeros(1, 2, 8, 4), "v": torch.zeros(1, 2, 8, 4)}
    with pytest.raises(InputError, match=field):
        DecodeCache(**{**good, **change})


def test_queries_that_do_not_fit_are_refused() -> None:
    q, k, v, _ = inputs()
    cache = DecodeCache(k, v)
    with pytest.raises(InputError, match="'q'"):
        cache.attend(q.expand(1, 2, 3, 16))
    with pytest.raises(InputError, match="'k'"):
        cache.append(k[:, :1], v[:, :1])
