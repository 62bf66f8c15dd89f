"""The encoder's toggles: every combination keeps the promise, none is taken that loses."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from qcluster.codec.circuit import CircuitBasis
from qcluster.codec.denoise import WEIGHTS, Denoiser
from qcluster.codec.errors import QctFormatError
from qcluster.codec.transforms import ONE, SIZES, fixed_basis, read_transform
from qcluster.errors import InputError
from qcluster.q_compressor import compress, recommend
from qcluster.q_compressor.autoencoder import (
    fit_autoencoder,
    gradient_backprop,
    gradient_shift,
    kept_energy,
)
from qcluster.q_compressor.denoiser import fit_denoiser
from qcluster.q_compressor.dropout import measure_channels
from qcluster.q_decompressor import decompress, inspect

TOGGLES = ("vqc", "denoiser", "dropout")
QUICK = {"layers": 4, "steps": 20, "trials": 16}


def smooth() -> np.ndarray:
    return np.cumsum(np.random.default_rng(0).normal(size=(48, 64)), axis=1).astype(np.float32)


@pytest.mark.parametrize("on", [c for n in range(4) for c in itertools.combinations(TOGGLES, n)])
@pytest.mark.parametrize(
    "how",
    [
        {"mode": "rel_l2", "value": 0.1},
        {"mode": "max_abs", "value": 0.5},
        {},
        {"mode": "bits", "value": 5.0},
    ],
)
def test_every_combination_of_toggles_round_trips(on: tuple[str, ...], how: Any) -> None:
    x = smooth()
    blob = compress(x, config={**dict.fromkeys(on, True), **QUICK}, **how)
    y = decompress(blob, max_output_bytes=1 << 20).astype(np.float64)
    if not how:
        assert np.array_equal(x, y)
    elif how["mode"] == "rel_l2":
        assert np.linalg.norm(x - y) <= 0.1 * np.linalg.norm(x.astype(np.float64))
    elif how["mode"] == "max_abs":
        assert np.abs(x - y).max() <= 0.5
    else:
        assert 8 * len(blob) <= 5.0 * x.size + 8 * 700  # the report comes on top


def test_the_report_lists_every_path_and_the_shortest_is_taken() -> None:
    blob = compress(smooth(), mode="rel_l2", value=0.05,
                    config={**dict.fromkeys(TOGGLES, True), **QUICK})  # fmt: skip
    report = inspect(blob).tensors[0].report
    assert {"none", "vqc", "denoiser"} <= set(report["bytes"])
    assert report["taken"] == min(report["bytes"], key=report["bytes"].get)
    assert report["vqc"]["energy"] <= report["vqc"]["principal components"] + 1e-9
    assert set(report["vqc"]["retained"]) <= {"0", "1"}
    assert report["dropout"]["columns"] == 64


@pytest.mark.parametrize("kind", ["dct", "hadamard", "fourier", "klt"])
def test_each_transform_can_be_asked_for(kind: str) -> None:
    x = smooth()
    blob = compress(x, mode="rel_l2", value=0.05, config={"transform": kind})
    y = decompress(blob, max_output_bytes=1 << 20)
    assert inspect(blob).tensors[0].chain == ["trellis", "rotate"]
    assert np.linalg.norm(x - y) <= 0.05 * np.linalg.norm(x)


def test_transforms_pay_on_smooth_rows_and_are_left_alone_on_noise() -> None:
    sizes = {t: len(compress(smooth(), mode="rel_l2", value=0.02, config={"transform": t}))
             for t in ("auto", "none")}  # fmt: skip
    assert sizes["auto"] < 0.9 * sizes["none"]
    white = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    blob = compress(white, mode="rel_l2", value=0.02)
    assert inspect(blob).tensors[0].chain == ["trellis"]


@pytest.mark.parametrize("kind", ["dct", "hadamard", "fourier"])
def test_bases_are_orthonormal(kind: str) -> None:
    for size in SIZES:
        basis = fixed_basis(kind, size) / ONE
        assert np.abs(basis @ basis.T - np.eye(size)).max() < 2e-3


def test_both_gradients_agree() -> None:
    rng = np.random.default_rng(2)
    blocks = rng.normal(size=(50, 16)) * rng.random(16)
    covariance = blocks.T @ blocks
    angles = rng.normal(size=(3, 4))
    one, two = (g(angles, covariance, 4) for g in (gradient_shift, gradient_backprop))
    assert one[0] == pytest.approx(two[0])
    assert np.abs(one[1] - two[1]).max() < 1e-6


@pytest.mark.parametrize("qubits", [1, 2, 3, 4])
def test_the_circuit_keeps_nearly_what_principal_components_keep(qubits: int) -> None:
    rng = np.random.default_rng(qubits)
    size = 2**qubits
    blocks = rng.normal(size=(400, size)) @ np.diag(0.8 ** np.arange(size)) @ np.linalg.qr(
        rng.normal(size=(size, size))
    )[0]  # fmt: skip
    keep = max(1, size // 4)
    model = fit_autoencoder(blocks, keep=keep)
    ours, best = kept_energy(model, blocks, keep)
    assert 0.97 * best <= ours <= best + 1e-9
    matrix = model.basis().matrix()
    assert np.abs(matrix @ matrix.T - np.eye(size)).max() < 1e-9


def test_parameter_shift_trains_too() -> None:
    blocks = np.random.default_rng(3).normal(size=(60, 4)) * [3, 1, 1, 0.1]
    model = fit_autoencoder(blocks, keep=1, layers=3, steps=30, starts=2,
                            gradient="parameter_shift")  # fmt: skip
    ours, best = kept_energy(model, blocks, 1)
    assert ours > 0.97 * best


@pytest.mark.parametrize("blocks", [np.zeros((3, 5)), np.zeros((0, 4)), np.full((2, 4), np.nan)])
def test_blocks_that_no_circuit_takes(blocks: np.ndarray) -> None:
    with pytest.raises(InputError):
        fit_autoencoder(blocks, keep=1)


@pytest.mark.parametrize("turns", [None, [], [[]], [[1, 2], [3]], [[70_000]], [[1.5]], [[True]]])
def test_circuits_from_headers_are_checked(turns: Any) -> None:
    with pytest.raises(QctFormatError):
        CircuitBasis.read(turns)
    with pytest.raises(QctFormatError):
        read_transform("rotate", {"kind": "circuit", "size": 16, "turns": [[1]]})


def test_dropout_ranks_channels_as_leaving_each_out_does() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, 40)) * rng.permutation(np.linspace(0.1, 3, 40))

    def loss(thinned: np.ndarray, whole: np.ndarray) -> float:
        return float(np.mean((thinned.sum(axis=1) - whole.sum(axis=1)) ** 2))

    exact = np.square(x).mean(axis=0)
    by_energy = measure_channels(x).sensitivity
    assert _spearman(by_energy, exact) > 0.9
    sampled = measure_channels(x, trials=2000, loss=loss).sensitivity
    assert _spearman(sampled, exact) > 0.9
    with pytest.raises(InputError):
        measure_channels(x, rate=1.0)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def test_dispensable_columns_are_dropped_within_the_promise() -> None:
    x = np.random.default_rng(5).normal(size=(64, 64)).astype(np.float32)
    x[:, ::4] *= 1e-4
    blob = compress(x, mode="rel_l2", value=0.1, config={"dropout": True, "transform": "none"})
    report = inspect(blob).tensors[0].report
    assert report["dropout"]["dropped"] == 16
    y = decompress(blob, max_output_bytes=1 << 20)
    assert np.linalg.norm(x - y) <= 0.1 * np.linalg.norm(x)


def test_the_denoiser_lowers_the_error_of_smooth_values_and_is_exact_integers() -> None:
    x = smooth().reshape(-1).astype(np.float64)
    y = np.rint(x)
    fitted = fit_denoiser(y, x)
    better = fitted.correct(256 * y)
    assert np.array_equal(better, np.rint(better))
    assert np.mean((better / 256 - x) ** 2) < np.mean((y - x) ** 2)
    assert np.abs(better / 256 - y).max() <= 0.5
    with pytest.raises(InputError):
        fit_denoiser(y, x[:4])
    with pytest.raises(QctFormatError):
        Denoiser.read({"weights": [0] * (WEIGHTS - 1)})


@pytest.mark.parametrize(
    ("scenario", "on"),
    [
        ("Weight checkpoint archiving", {"vqc", "denoiser"}),
        ("real-time gradient sync", {"dropout"}),
        ("Mixed precision inference", {"vqc", "dropout"}),
        ("CPU-only environment", {"denoiser"}),
    ],
)
def test_the_table_is_the_designs(scenario: str, on: set[str]) -> None:
    found = recommend(scenario=scenario)
    assert {t for t in TOGGLES if getattr(found.config, t)} == on
    assert set(found.row) == {"Scenario", "Toggle Set", "Outcome"}


def test_outside_the_table_the_choices_are_listed() -> None:
    with pytest.raises(ValueError, match="CPU-only environment"):
        recommend(scenario="sunny day")


def test_latents_below_the_variance_threshold_are_left_out_within_the_promise() -> None:
    rng = np.random.default_rng(3)
    # Blocks of 16 with nearly all energy in two directions.
    basis = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    weight = np.array([8.0, 4.0, *[0.01] * 14])
    x = ((rng.normal(size=(256, 4, 16)) * weight) @ basis).reshape(256, 64).astype(np.float32)
    how: dict[str, Any] = {"mode": "rel_l2", "value": 0.2}
    config = {"vqc": True, "transform": "none", "steps": 60, "variance_threshold": 0.01}
    blob = compress(x, **how, config=config)
    report = inspect(blob).tensors[0].report
    assert 2 <= report["vqc"]["retained"].count("1") < 16
    y = decompress(blob, max_output_bytes=1 << 20)
    assert np.linalg.norm(x - y) <= 0.2 * np.linalg.norm(x)
    assert report["bytes"]["vqc"] < report["bytes"]["none"]
    assert report["taken"] == "vqc"
    # Beside it what the optimum of the same blocks takes, whose basis has to be sent.
    assert report["bytes"]["klt16"] < report["bytes"]["none"]
    # A threshold that leaves out more than the promise allows is a path that is not found.
    config["variance_threshold"] = 1.0
    report = inspect(compress(x, **how, config=config)).tensors[0].report
    assert "vqc" not in report["bytes"]
    assert set(report["vqc"]["retained"]) == {"0"}
