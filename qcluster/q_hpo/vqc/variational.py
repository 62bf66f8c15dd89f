"""The circuit trained as written: angles from parameters, a Hamiltonian fitted to losses, descent.

A hyperparameter eta in [a, b] turns its qubit by theta = pi (eta - a) / (b - a); the loss is the
expectation value of H = c0 + sum c_i Z_i + sum c_ij Z_i Z_j behind a data re-uploading circuit
whose rotations are trained. H's coefficients are fitted in closed form (ridge, the strength by
leave-one-out), the rotations by Adam on parameter-shift gradients (Mitarai et al., 2018; Schuld et
al., 2019): with H always the fitted one, that is the gradient of the projected problem (Golub &
Pereyra, 1973). With ``shots`` every expectation value is a mean of that many measurements. An
ensemble of circuits that start from different rotations says what it does not know.

The twin trains cos(W x + b) in the circuits' place, by the same steps.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qcluster.quantum import circuits

__all__ = ["Ensemble", "FourierTwin", "Hamiltonian", "TrainedCircuit", "fit_hamiltonian", "train"]

F = NDArray[np.float64]
MAX_QUBITS = 5
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
_RATE, _BETAS, _BATCH = 0.1, (0.9, 0.99), 20


class Trainable(Protocol):
    """Features with weights, and gradients of them."""

    @property
    def count(self) -> int:
        """Number of weights."""
        ...

    def start(self, seed: int) -> F:
        """(count,) weights before training."""
        ...

    def features(self, x: F, weights: F) -> F:
        """(m, k) features of points (m, columns) in [0, 1]."""
        ...

    def weight_slope(self, x: F, weights: F, cotangents: F) -> F:
        """(count,) gradient of sum(cotangents * features) by the weights."""
        ...

    def point_slope(self, x: F, weights: F, cotangents: F) -> F:
        """(m, columns) gradient of the same by the points."""
        ...


class TrainedCircuit:
    """Re-uploading circuits on at most five qubits each that together see every column."""

    def __init__(
        self, columns: int, *, layers: int = 2, shots: int | None = None,
        gradient: Literal["parameter-shift", "adjoint"] = "parameter-shift", seed: int = 0,
    ) -> None:  # fmt: skip
        blocks = math.ceil(columns / MAX_QUBITS)
        self.qubits = math.ceil(columns / blocks)
        self.columns, self.layers = columns, layers
        self.shots, self.gradient = shots, gradient
        self.parts = [np.arange(b * self.qubits, (b + 1) * self.qubits) % columns
                      for b in range(blocks)]  # fmt: skip
        self.circuit = circuits.data_reuploading(self.qubits, layers, axis="x")
        strings: list[tuple[int, ...]] = [(q,) for q in range(self.qubits)]
        strings += list(itertools.combinations(range(self.qubits), 2))
        self.observables = circuits.z_diagonals(self.qubits, strings)
        self._seed, self._calls = seed, 0
        slots = np.arange(self.circuit.slots).reshape(layers, 4 * self.qubits)
        self._encoding, self._trained = slots[:, : self.qubits], slots[:, self.qubits :].ravel()

    @property
    def count(self) -> int:
        """Three rotations a qubit, layer and block."""
        return len(self.parts) * len(self._trained)

    def start(self, seed: int) -> F:
        """Uniform angles."""
        rng = np.random.default_rng([seed, self.columns, 2])
        return rng.uniform(-math.pi, math.pi, self.count)

    def features(self, x: F, weights: F) -> F:
        """Expectation values of all Z_i and Z_i Z_j."""
        return np.hstack([self._measure(angles) for angles in self._angles(x, weights)])

    def weight_slope(self, x: F, weights: F, cotangents: F) -> F:
        """By parameter-shift (two runs a rotation) or by the adjoint method."""
        each = self._slopes(x, weights, cotangents, self._trained)
        return np.concatenate([slope.sum(axis=0) for slope in each])

    def point_slope(self, x: F, weights: F, cotangents: F) -> F:
        """The same through the encoding angles."""
        out = np.zeros_like(x)
        each = self._slopes(x, weights, cotangents, self._encoding.ravel())
        for part, slope in zip(self.parts, each, strict=True):
            turned = slope.reshape(len(x), self.layers, self.qubits).sum(axis=1)
            np.add.at(out.T, part, math.pi * turned.T)
        return out

    def _angles(self, x: F, weights: F) -> list[F]:
        scales = np.full((self.layers, self.qubits), math.pi)
        own = weights.reshape(len(self.parts), self.layers, self.qubits, 3)
        return [
            circuits.reuploading_angles(x[:, part], scales, one)
            for part, one in zip(self.parts, own, strict=True)
        ]

    def _measure(self, angles: F) -> F:
        self._calls += 1
        seed = int(np.random.default_rng([self._seed, self._calls]).integers(2**31))
        return self.circuit.expectations(angles, self.observables, shots=self.shots, seed=seed)

    def _slopes(self, x: F, weights: F, cotangents: F, slots: NDArray[np.int64]) -> list[F]:
        """(m, len(slots)) for each block: gradient by these angles."""
        shares = np.split(cotangents, len(self.parts), axis=1)
        pairs = zip(self._angles(x, weights), shares, strict=True)
        if self.gradient == "adjoint" and self.shots is None:
            return [self.circuit.pull_back(a, c, self.observables)[:, slots] for a, c in pairs]
        return [self._shifted(angles, share, slots) for angles, share in pairs]

    def _shifted(self, angles: F, cotangents: F, slots: NDArray[np.int64]) -> F:
        """Every rotation by +- pi / 2, all in one batch of 2 * len(slots) * m runs."""
        m, width = angles.shape
        one = np.eye(width)[slots] * (math.pi / 2)
        batch = (angles[None] + np.concatenate([one, -one])[:, None]).reshape(-1, width)
        values = self._measure(batch).reshape(2, len(slots), m, -1)
        return np.asarray(0.5 * np.einsum("smk,mk->ms", values[0] - values[1], cotangents))


class FourierTwin:
    """cos(W x + b) with trained W and b: as many features as the circuits have."""

    def __init__(self, columns: int, *, size: int) -> None:
        self.columns, self.size = columns, size

    @property
    def count(self) -> int:
        """A frequency for each column and a phase, for each feature."""
        return (self.columns + 1) * self.size

    def start(self, seed: int) -> F:
        """Frequencies as large as the circuits' (up to about pi), uniform phases."""
        rng = np.random.default_rng([seed, self.columns, 3])
        phases = rng.uniform(0, 2 * math.pi, (1, self.size))
        return np.vstack([rng.normal(size=(self.columns, self.size)) * math.pi, phases]).ravel()

    def features(self, x: F, weights: F) -> F:
        return np.cos(self._inside(x, weights))

    def weight_slope(self, x: F, weights: F, cotangents: F) -> F:
        down = -np.sin(self._inside(x, weights)) * cotangents
        return np.vstack([x.T @ down, down.sum(axis=0)]).ravel()

    def point_slope(self, x: F, weights: F, cotangents: F) -> F:
        down = -np.sin(self._inside(x, weights)) * cotangents
        return np.asarray(down @ weights.reshape(-1, self.size)[:-1].T)

    def _inside(self, x: F, weights: F) -> F:
        own = weights.reshape(-1, self.size)
        return np.asarray(x @ own[:-1] + own[-1])


@dataclass(frozen=True)
class Hamiltonian:
    """c0 and the coefficients (k,) of the observables, the ridge they were fitted with, and the
    mean squared leave-one-out error.
    """

    constant: float
    coefficients: F
    ridge: float
    error: float


def fit_hamiltonian(features: F, y: F) -> Hamiltonian:
    """Ridge regression of ``y`` (n,) on ``features`` (n, k) with the ridge of the least squared
    leave-one-out error (Allen, 1974).
    """
    mean, centre = features.mean(axis=0), float(y.mean())
    phi, residual = features - mean, y - centre
    gram = phi @ phi.T / phi.shape[1]
    found = []
    for ridge in _RIDGES:
        inverse = np.linalg.inv(gram + ridge * np.eye(len(y)))
        solved = inverse @ residual
        error = float(np.sum((solved / np.diag(inverse)) ** 2))
        found.append((error, ridge, solved))
    error, ridge, solved = min(found, key=lambda one: one[0])
    coefficients = phi.T @ solved / phi.shape[1]
    return Hamiltonian(centre - float(mean @ coefficients), coefficients, ridge, error / len(y))


def train(
    model: Trainable, x: F, y: F, weights: F, steps: int, rng: np.random.Generator
) -> tuple[F, Hamiltonian]:
    """``steps`` of Adam (Kingma & Ba, 2015) on the squared error of the fitted Hamiltonian.

    Of more than 20 observations each step takes the best eight and twelve others by chance.
    """
    m, v = np.zeros_like(weights), np.zeros_like(weights)
    order = np.argsort(y, kind="stable")
    for step in range(1, steps + 1):
        features = model.features(x, weights)
        h = fit_hamiltonian(features, y)
        error = h.constant + features @ h.coefficients - y
        rows = order
        if len(y) > _BATCH:
            rows = np.concatenate([order[:8], rng.permutation(order[8:])[: _BATCH - 8]])
        cotangents = 2 / len(rows) * np.outer(error[rows], h.coefficients)
        slope = model.weight_slope(x[rows], weights, cotangents)
        m = _BETAS[0] * m + (1 - _BETAS[0]) * slope
        v = _BETAS[1] * v + (1 - _BETAS[1]) * slope**2
        rate = _RATE * math.sqrt(1 - _BETAS[1] ** step) / (1 - _BETAS[0] ** step)
        weights = weights - rate * m / (np.sqrt(v) + 1e-8)
    return weights, fit_hamiltonian(model.features(x, weights), y)


@dataclass(frozen=True)
class Ensemble:
    """Trained members and their Hamiltonians; lower is better."""

    model: Trainable
    weights: tuple[F, ...]
    hamiltonians: tuple[Hamiltonian, ...]
    caution: float = 1.0

    def predict(self, x: F) -> tuple[F, F]:
        """Mean and spread (m,) of the members' losses at points (m, columns)."""
        each = np.array([
            h.constant + self.model.features(x, w) @ h.coefficients
            for w, h in zip(self.weights, self.hamiltonians, strict=True)
        ])  # fmt: skip
        return each.mean(axis=0), each.std(axis=0)

    def score(self, x: F) -> F:
        """(m,) the spread less the mean: what is maximised."""
        mean, spread = self.predict(x)
        return np.asarray(self.caution * spread - mean)

    def descend(self, x: F, steps: int, rate: float = 0.05) -> F:
        """Points (m, columns) after ``steps`` along the gradient of the mean loss by the encoding
        angles, kept in [0, 1]; each step is ``rate`` long in its largest coordinate, then shorter.
        """
        for step in range(steps):
            slope = np.mean([
                self.model.point_slope(x, w, np.tile(h.coefficients, (len(x), 1)))
                for w, h in zip(self.weights, self.hamiltonians, strict=True)
            ], axis=0)  # fmt: skip
            largest = np.maximum(np.abs(slope).max(axis=1, keepdims=True), 1e-12)
            x = np.clip(x - rate * 0.8**step * slope / largest, 0.0, 1.0)
        return x
