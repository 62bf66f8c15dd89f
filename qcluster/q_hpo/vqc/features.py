"""Feature maps: random data re-uploading circuits, and the classical twin that they are held to.

A circuit encodes scale * pi * x on every qubit ``layers`` times between random fixed rotations
(Perez-Salinas et al., 2020), so each expectation value is a trigonometric polynomial of degree
``layers`` in each coordinate (Schuld, Sweke & Meyer, 2021). The features are <Z_i> and <Z_i Z_j>.
With one layer and scale 1 the angle is theta = pi (eta - a) / (b - a).

The twin has as many random Fourier features (Rahimi & Recht, 2007) of about the same frequencies.
"""

from __future__ import annotations

import itertools
import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qcluster.quantum import circuits

__all__ = ["SCALES", "CircuitFeatures", "FeatureMap", "FourierFeatures"]

F = NDArray[np.float64]
SCALES = (0.35, 0.6, 1.0, 1.6)
MAX_QUBITS = 5


class FeatureMap(Protocol):
    """Points to feature vectors."""

    def __call__(self, x: F, scale: float) -> F:
        """(m, features) of points (m, columns) in [0, 1]."""
        ...


class CircuitFeatures:
    """``count`` circuits on at most five qubits; with more columns each sees a part of them."""

    def __init__(
        self, columns: int, seed: int, *, count: int = 3, layers: int = 2, shots: int | None = None
    ) -> None:
        rng = np.random.default_rng([seed, columns])
        self.qubits = min(columns, MAX_QUBITS)
        self.shots, self.layers, self.seed = shots, layers, seed
        count = max(count, math.ceil(2 * columns / self.qubits)) if columns > MAX_QUBITS else count
        order = np.concatenate([rng.permutation(columns) for _ in range(count)])
        self.parts = [order[i * self.qubits : (i + 1) * self.qubits] for i in range(count)]
        self.weights = rng.uniform(-math.pi, math.pi, (count, layers, self.qubits, 3))
        self.circuit = circuits.data_reuploading(self.qubits, layers, axis="x")
        strings: list[tuple[int, ...]] = [(q,) for q in range(self.qubits)]
        strings += list(itertools.combinations(range(self.qubits), 2))
        self.observables = circuits.z_diagonals(self.qubits, strings)

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.parts) * len(self.observables)

    def __call__(self, x: F, scale: float) -> F:
        scales = np.full((self.layers, self.qubits), math.pi * scale)
        blocks = []
        for part, weights in zip(self.parts, self.weights, strict=True):
            angles = circuits.reuploading_angles(x[:, part], scales, weights)
            blocks.append(
                self.circuit.expectations(
                    angles, self.observables, shots=self.shots, seed=self.seed
                )
            )
        return np.hstack(blocks) / math.sqrt(self.size)


class FourierFeatures:
    """cos(scale w.x + b) with normal w and uniform b: the classical twin."""

    def __init__(self, columns: int, seed: int, *, size: int) -> None:
        rng = np.random.default_rng([seed, columns, 1])
        self.frequencies = rng.normal(size=(columns, size)) * math.pi
        self.phases = rng.uniform(0, 2 * math.pi, size)

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.phases)

    def __call__(self, x: F, scale: float) -> F:
        out: F = math.sqrt(2 / self.size) * np.cos(scale * x @ self.frequencies + self.phases)
        return out
