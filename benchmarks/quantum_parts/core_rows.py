"""Rows of the quantum core beside its plain solvers: variants of QAOA, noise, linear algebra,
kernels and variational circuits, each with what one would do without qubits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from quantum_parts.row import Row, ising, seconds, solver

__all__ = ["ROWS"]


def answer(objective: float, wall_s: float, **baselines: float) -> Any:
    """What a row's ``run`` returns; everything is minimised."""
    gain = min(baselines.values()) - objective
    return SimpleNamespace(
        objective=objective, baselines=baselines, quantum_gain=gain, wall_s=wall_s
    )


def noisy(channel: str) -> Row:
    """Best of 256 measurements of a circuit with 2 % noise, against annealing in equal time."""

    def run(seed: int) -> Any:
        from qcluster.deadline import Deadline
        from qcluster.quantum import SOLVERS, noise
        from qcluster.quantum.angles import fixed_angles

        problem = ising("dense", 8, seed)
        begun = time.perf_counter()
        circuit = noise.NoisyQAOA(problem, noise.channel(channel, 0.02))
        probability = circuit.probabilities(*fixed_angles(problem, 2))
        draws = np.random.default_rng(seed).choice(256, size=256, p=probability / probability.sum())
        z = 1 - 2 * ((draws[:, None] >> np.arange(8)) & 1)
        wall_s = time.perf_counter() - begun
        twin = SOLVERS.get("annealing").solve(problem, deadline=Deadline.after(wall_s), seed=seed)
        return answer(float(problem.energy(z).min()), wall_s, annealing=twin.energy)

    return Row(f"noisy qaoa {channel}", "qcluster.quantum.noise", "dense Ising, n = 8", run)


def extrapolated() -> Row:
    """Error of <E> after extrapolation to zero noise; the exact simulation has none."""

    def run(seed: int) -> Any:
        from qcluster.quantum import QAOASimulator, noise
        from qcluster.quantum.angles import fixed_angles

        problem = ising("dense", 8, seed)
        angles = fixed_angles(problem, 2)
        begun = time.perf_counter()
        scales = np.array([1.0, 1.5, 2.0])
        values = [
            noise.NoisyQAOA(problem, noise.depolarizing(0.02 * s)).expectation(*angles)
            for s in scales
        ]
        error = noise.extrapolate_to_zero(scales, values)
        wall_s = time.perf_counter() - begun
        exact = QAOASimulator(problem).expectation(*angles)
        return answer(abs(error - exact), wall_s, exact_simulation=0.0)

    return Row("zero-noise extrapolation", "qcluster.quantum.noise", "error of <E>, n = 8", run)


def readout() -> Row:
    """Distance of corrected frequencies from the truth; the exact simulation has none."""

    def run(seed: int) -> Any:
        from qcluster.quantum import noise

        generator = np.random.default_rng(seed)
        truth = generator.dirichlet(np.full(64, 0.1))
        errors = noise.ReadoutError(0.02, 0.05)
        begun = time.perf_counter()
        read = generator.multinomial(20_000, errors.apply(truth)) / 20_000
        distance = float(np.abs(errors.correct(read) - truth).sum() / 2)
        return answer(distance, time.perf_counter() - begun, exact_simulation=0.0)

    return Row("readout correction", "qcluster.quantum.noise", "distance, 6 qubits", run)


def linear(name: str, n: int) -> Row:
    """Seconds of a simulated linear solver at condition number 10, against LAPACK's."""

    def run(seed: int) -> Any:
        from qcluster.quantum import hhl_solve, qsvt_apply

        generator = np.random.default_rng(seed)
        basis = np.linalg.qr(generator.normal(size=(n, n)))[0]
        matrix = (basis * np.linspace(1.0, 10.0, n)) @ basis.T
        matrix, right = (matrix + matrix.T) / 2, generator.normal(size=n)
        call = {"hhl": hhl_solve, "qsvt": qsvt_apply}[name]
        ours = seconds(lambda: call(matrix, right))
        return answer(ours, ours, lapack=seconds(lambda: np.linalg.solve(matrix, right)))

    return Row(name, f"qcluster.quantum.{name}", f"{n} x {n}, seconds", run)


def fourier(qubits: int) -> Row:
    """Seconds of the transform gate by gate, against the FFT."""

    def run(seed: int) -> Any:
        from qcluster.quantum import qft_decode

        values = np.random.default_rng(seed).normal(size=2**qubits)
        ours = seconds(lambda: qft_decode(values, circuit=True))
        return answer(ours, ours, fft=seconds(lambda: np.fft.fft(values, norm="ortho")))

    return Row("qft", "qcluster.quantum.qft", f"{qubits} qubits, seconds", run)


def target(x: np.ndarray, kind: str) -> np.ndarray:
    """Something to learn from (N, d) features in [-1, 1]: ``waves`` or a ``step``."""
    if kind == "waves":
        return np.sin(3 * x[:, 0]) * np.cos(2 * x[:, 1]) + 0.3 * x[:, -1]
    return np.sign(x[:, 0] + x[:, 1] - x[:, -1] ** 2)


def ridge(train: np.ndarray, test: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Predictions of kernel ridge regression, its penalty chosen by leave-one-out error."""
    values, vectors = np.linalg.eigh(train)
    best, chosen = np.inf, np.zeros(len(test))
    for penalty in 10.0 ** np.arange(-8, 2):
        inverse = (vectors / (np.maximum(values, 0) + penalty)) @ vectors.T
        weights = inverse @ y
        error = float(np.mean((weights / np.diag(inverse)) ** 2))
        if error < best:
            best, chosen = error, test @ weights
    return chosen


def kernel(feature_map: str, kind: str) -> Row:
    """Mean squared error on held-out points of kernel ridge regression, both kernels' widths tuned
    on the training points.
    """

    def run(seed: int) -> Any:
        from qcluster.quantum.kernels import gram_matrix

        generator = np.random.default_rng(seed)
        x, points = generator.uniform(-1, 1, (120, 4)), generator.uniform(-1, 1, (400, 4))
        y, truth = target(x, kind), target(points, kind)
        half = slice(0, 60), slice(60, 120)

        def tuned(gram: Callable[[np.ndarray, np.ndarray, float], np.ndarray]) -> float:
            errors = {}
            for width in (0.1, 0.2, 0.5, 1.0, 2.0):
                a, b = x[half[0]], x[half[1]]
                found = ridge(gram(a, a, width), gram(b, a, width), y[half[0]])
                errors[width] = float(np.mean((found - y[half[1]]) ** 2))
            width = min(errors, key=errors.__getitem__)
            found = ridge(gram(x, x, width), gram(points, x, width), y)
            return float(np.mean((found - truth) ** 2))

        def fidelity(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
            return gram_matrix(width * a, width * b, feature_map=feature_map).matrix

        def gauss(a: np.ndarray, b: np.ndarray, width: float) -> np.ndarray:
            square = ((a[:, None] - b) ** 2).sum(axis=2)
            return np.exp(-square * width**2)

        begun = time.perf_counter()
        ours = tuned(fidelity)
        return answer(ours, time.perf_counter() - begun, gaussian=tuned(gauss))

    instance = f"held-out error, {kind}, 4 features"
    return Row(f"kernel {feature_map}", "qcluster.quantum.kernels", instance, run)


def circuit_model(features: int) -> Row:
    """Held-out error of a re-uploading circuit trained by Adam, against ridge regression on Fourier
    terms, which such a circuit consists of (Schuld, Sweke and Meyer, 2021), in far less time.
    """

    def run(seed: int) -> Any:
        import torch

        from qcluster.quantum import vqc

        generator = np.random.default_rng(seed)
        x, points = (generator.uniform(-1, 1, (k, features)) for k in (80, 300))
        y, truth = (np.sin(3 * a[:, 0]) * np.cos(2 * a[:, -1]) for a in (x, points))
        begun = time.perf_counter()
        model = torch.nn.Sequential(
            vqc.DataReuploading(3, 3, features, dtype=torch.float64,
                                generator=torch.Generator().manual_seed(seed)),
            torch.nn.Linear(3, 1, dtype=torch.float64),
        )  # fmt: skip
        optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
        inputs, wanted = torch.as_tensor(x), torch.as_tensor(y)
        for _ in range(150):
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(model(inputs)[:, 0], wanted).backward()
            optimiser.step()
        with torch.no_grad():
            found = model(torch.as_tensor(points))[:, 0].numpy()
        wall_s = time.perf_counter() - begun

        def terms(a: np.ndarray) -> np.ndarray:
            waves = np.arange(-6, 7)
            grid = np.stack(np.meshgrid(*[waves] * features), -1).reshape(-1, features)
            phase = a @ grid.T
            return np.concatenate([np.cos(phase), np.sin(phase)], axis=1)

        twin = ridge(terms(x) @ terms(x).T, terms(points) @ terms(x).T, y)
        errors = [float(np.mean((f - truth) ** 2)) for f in (found, twin)]
        return answer(errors[0], wall_s, fourier_ridge=errors[1])

    instance = f"held-out error, {features} features"
    return Row("vqc re-uploading", "qcluster.quantum.vqc", instance, run)


ROWS: tuple[Row, ...] = (
    *(solver("qaoa_cvar", kind, 12) for kind in ("dense", "sparse")),
    solver("qaoa_cvar", "sparse", 20, 5),
    *(solver("qaoa_fixed", kind, 14) for kind in ("dense", "sparse", "cubic")),
    *(solver("qaoa_warm", kind, 14) for kind in ("dense", "sparse")),
    solver("qaoa_warm", "dense", 20, 5),
    *(solver("qaoa_multi", kind, 10) for kind in ("dense", "sparse")),
    solver("qaoa_multi", "sparse", 12, 3),
    solver("recursive_qaoa", "cubic", 16),
    *(noisy(name) for name in ("depolarizing", "amplitude_damping", "phase_damping", "thermal")),
    extrapolated(),
    readout(),
    *(linear(name, n) for name in ("hhl", "qsvt") for n in (8, 128)),
    fourier(12),
    *(kernel(name, kind) for name in ("iqp", "angle") for kind in ("waves", "step")),
    *(circuit_model(features) for features in (1, 2)),
)
