"""Feature maps: random data re-uploading circuits, and the classical twin that they are held to.

A circuit encodes scale * pi * x on every qubit ``layers`` times between random fixed rotations
(Perez-Salinas et al., 2020), so each expectation value is a trigonometric polynomial of degree
``layers`` in each coordinate (Schuld, Sweke & Meyer, 2021). The features are <Z_i> and <Z_i Z_j>.
With one layer and scale 1 the angle is theta = pi (eta - a) / (b - a).

Only the encoding depends on the point. Between Hadamards it is diagonal, so that what lies between
two encodings is one fixed matrix and a batch of points costs a matrix product per layer.

The twin has as many random Fourier features (Rahimi & Recht, 2007) of about the same frequencies.
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qcluster.quantum import circuits

__all__ = ["SCALES", "CircuitFeatures", "FeatureMap", "FourierFeatures"]

F = NDArray[np.float64]
C = NDArray[np.complex128]
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
        self, columns: int, seed: int, *, count: int = 8, layers: int = 3, shots: int | None = None
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
        phases = self._phases(x, scale)
        psi: Any = phases / math.sqrt(phases.shape[2])
        for layer in range(self.layers):
            psi = psi @ self.fixed[layer]
            if layer < self.layers - 1:
                psi = psi * phases
        probabilities = psi.real**2 + psi.imag**2
        if self.shots is None:
            values = probabilities @ self.observables.T
        else:
            # The draws of one circuit after another, each from the same seed.
            share = probabilities / probabilities.sum(axis=2, keepdims=True)
            draws = [
                np.random.default_rng(self.seed).multinomial(self.shots, rows) for rows in share
            ]
            values = np.array(draws) / self.shots @ self.observables.T
        return np.hstack(list(values)) / math.sqrt(self.size)

    @cached_property
    def fixed(self) -> C:
        """(layers, circuits, 2^q, 2^q), transposed: what follows an encoding, between Hadamards."""
        size = 2**self.qubits
        hadamard: F = np.ones((1, 1))
        for _ in range(self.qubits):
            hadamard = np.kron(hadamard, np.array([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2))
        blocks = []
        for layer in range(self.layers):
            block = circuits.strongly_entangling(
                self.qubits, 1, ranges=[layer % max(self.qubits - 1, 1) + 1]
            )
            after: F = np.eye(size) if layer == self.layers - 1 else hadamard
            rows = [
                hadamard
                @ block.states(np.tile(own[layer].ravel(), (size, 1)), np.eye(size))
                @ after
                for own in self.weights
            ]
            blocks.append(rows)
        return np.array(blocks)

    def _phases(self, x: F, scale: float) -> C:
        """(circuits, m, 2^q) what the encoding multiplies amplitudes by, between Hadamards."""
        out: Any = np.ones((len(self.parts), len(x), 1), complex)
        turns = np.exp(-0.5j * math.pi * scale * x)[:, np.array(self.parts)].transpose(1, 0, 2)
        for q in range(self.qubits):
            one = turns[:, :, q, None]
            out = np.concatenate([out * one, out * one.conj()], axis=2)
        return np.asarray(out)


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
