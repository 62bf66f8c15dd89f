"""The decoder's toggles: what each does, that it says so, and that exact blobs stay exact."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcluster.codec.container import parse
from qcluster.errors import FormatError, InputError
from qcluster.q_compressor import compress
from qcluster.q_decompressor import DecompressorConfig, decompress, recommend
from qcluster.q_decompressor.enhancer import Enhancer
from qcluster.q_decompressor.shrink import shrink, shrinker

LIMIT = 1 << 24
TOGGLES = ("hhl", "qsvt", "qft", "lstm")


def low_rank(rank: int = 3, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(96, rank)) @ rng.normal(size=(rank, 64))
    return (x + noise * rng.normal(size=x.shape)).astype(np.float32)


def sample() -> np.ndarray:
    return np.cumsum(np.random.default_rng(1).normal(size=(64, 64)), axis=1).astype(np.float32)


@pytest.mark.parametrize("on", [c for n in range(5) for c in itertools.combinations(TOGGLES, n)])
@pytest.mark.parametrize("how", [{}, {"mode": "rel_l2", "value": 0.05}, {"mode": "int8"}])
def test_every_combination_of_toggles_decodes(on: tuple[str, ...], how: dict[str, Any]) -> None:
    x = sample()
    config = dict.fromkeys(on, True)
    y, report = decompress(compress(x, **how), max_output_bytes=LIMIT, config=config,
                           return_report=True)  # fmt: skip
    assert set(report.steps) == set(on)
    assert all(report.steps.values())
    if not how:
        assert np.array_equal(x, y)
        assert report.guarantee_holds
        assert all(step.startswith("nothing: ") for step in report.steps.values())
    else:
        assert np.linalg.norm(x - y) < 0.06 * np.linalg.norm(x)


def test_without_toggles_the_plain_decode_is_returned() -> None:
    blob = compress(sample(), mode="rel_l2", value=0.1)
    plain = decompress(blob, max_output_bytes=LIMIT)
    _, report = decompress(blob, max_output_bytes=LIMIT, return_report=True)
    again = decompress(blob, max_output_bytes=LIMIT, config=DecompressorConfig())
    assert np.array_equal(plain, again)
    assert report.guarantee_holds
    assert report.steps == {}


def test_changed_output_is_said_to_be_unproven() -> None:
    blob = compress(sample(), mode="max_abs", value=0.5)
    y, report = decompress(blob, max_output_bytes=LIMIT, config={"lstm": True}, return_report=True)
    assert not np.array_equal(y, decompress(blob, max_output_bytes=LIMIT))
    assert not report.guarantee_holds
    assert report.guarantee == {"max_abs": 0.5}


def test_qsvt_comes_near_the_exact_shrinker_on_low_rank_with_noise() -> None:
    clean, noise = low_rank().astype(np.float64), 0.3
    noisy = clean + noise * np.random.default_rng(5).normal(size=clean.shape)
    left, sizes, right = np.linalg.svd(noisy, full_matrices=False)
    exact = (left * shrinker(sizes, noise, *clean.shape)) @ right
    blob = compress(noisy.astype(np.float32), mode="rel_l2", value=0.1)
    [entry], _ = parse(blob)
    entry.ops[0][1]["step"] = 2 * noise
    object.__setattr__(entry, "guarantee", {})
    ours, said = shrink(noisy.reshape(-1), entry, 101)
    error = np.mean((ours.reshape(clean.shape) - clean) ** 2)
    assert error < np.mean((noisy - clean) ** 2) / 5
    assert error <= 1.01 * np.mean((exact - clean) ** 2)
    assert "rank 3" in said


def test_qsvt_agrees_with_the_circuit_polynomial() -> None:
    from qcluster.q_decompressor.shrink import odd_polynomial
    from qcluster.quantum import qsvt_apply

    noisy = low_rank(noise=0.3).astype(np.float64)
    left, sizes, right = np.linalg.svd(noisy, full_matrices=False)
    series = odd_polynomial(sizes, shrinker(sizes, 0.3, *noisy.shape), 61)
    b = np.random.default_rng(2).normal(size=64)
    from numpy.polynomial import chebyshev

    ours = (left * chebyshev.chebval(sizes / sizes[0], series)) @ (right @ b)
    circuit = qsvt_apply(noisy.T, b, coefficients=series)
    assert np.abs(circuit.value * circuit.scale - ours).max() < 1e-8


def test_qsvt_leaves_white_matrices_alone() -> None:
    x = np.random.default_rng(3).normal(size=(64, 64)).astype(np.float32)
    blob = compress(x, mode="rel_l2", value=0.05)
    plain = decompress(blob, max_output_bytes=LIMIT)
    y, report = decompress(blob, max_output_bytes=LIMIT, config={"qsvt": True}, return_report=True)
    assert np.array_equal(plain, y)
    assert report.guarantee_holds


def test_hhl_solves_small_blocks_and_says_how_far_off_it_is() -> None:
    blob = compress(sample(), mode="rel_l2", value=0.05, config={"transform": "hadamard"})
    plain = decompress(blob, max_output_bytes=LIMIT)
    y, report = decompress(blob, max_output_bytes=LIMIT, config={"hhl": True}, return_report=True)
    if report.steps["hhl"].startswith("nothing"):
        assert np.array_equal(plain, y)
    else:
        assert np.linalg.norm(plain - y) < 0.01 * np.linalg.norm(plain)


def test_the_enhancer_lowers_the_error_of_smooth_rows() -> None:
    x = sample()
    blob = compress(x, mode="max_abs", value=1.0)
    plain = decompress(blob, max_output_bytes=LIMIT)
    better = decompress(blob, max_output_bytes=LIMIT, config={"lstm": True})
    assert np.mean((better - x) ** 2) < 0.9 * np.mean((plain - x) ** 2)


def test_the_enhancer_fits_saves_and_loads(tmp_path: Path) -> None:
    rows = sample().astype(np.float64)
    fitted = Enhancer.fit([(np.rint(rows), rows)], hidden=4, epochs=5)
    fitted.save(tmp_path / "e.safetensors")
    again = Enhancer.load(tmp_path / "e.safetensors")
    assert np.array_equal(fitted.correction(rows), again.correction(rows))
    with pytest.raises(InputError):
        Enhancer.fit([])
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(FormatError, match="bad"):
        Enhancer.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("input_type", "on"),
    [
        ("Sparse activations", {"hhl", "qsvt"}),
        ("dense weight matrices", {"lstm"}),
        ("quantized embeddings", set()),
        ("High-noise data", {"qsvt", "lstm"}),
    ],
)
def test_the_table_is_the_designs(input_type: str, on: set[str]) -> None:
    found = recommend(input_type=input_type)
    assert {t for t in TOGGLES if getattr(found.config, t)} == on
    assert set(found.row) == {"Input Type", "Recommended Toggles", "Notes"}


def test_outside_the_table_the_choices_are_listed() -> None:
    with pytest.raises(ValueError, match="High-noise data"):
        recommend(input_type="music")


def test_wrong_limits_are_refused() -> None:
    blob = compress(sample())
    with pytest.raises(InputError, match="max_output_bytes"):
        decompress(blob, max_output_bytes=True)
    with pytest.raises(InputError):
        decompress(blob, max_output_bytes=LIMIT, config={"lsmt": True})
