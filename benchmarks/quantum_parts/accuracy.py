"""Values, gradients and probabilities against PennyLane's default.qubit, over all mixers."""

from __future__ import annotations

from typing import Any

import harness
import numpy as np

from qcluster.quantum import IsingProblem, QAOASimulator
from qcluster.quantum.engine.reference import MIXERS

PAULI_X = np.array([[0, 1], [1, 0]], dtype=complex)
PAULI_Y = np.array([[0, -1j], [1j, 0]])


def run(quick: bool, _fresh: bool) -> Any:
    """500 random instances (60 in the quick form); errors over max(1, sum |J| + sum |h|)."""
    worst: dict[str, list[float]] = {mixer: [0.0, 0.0, 0.0, 0.0] for mixer in MIXERS}
    generator = np.random.default_rng(0)
    for number in range(60 if quick else 500):
        mixer = MIXERS[number % 4]
        most = 8 if mixer != "x" else (10 if quick else 14)
        n = int(generator.integers(2, most + 1))
        layers = int(generator.integers(1, 9))
        groups = None if mixer == "x" else _random_groups(n, generator)
        density = generator.random((n, n)) < generator.uniform(0.2, 1.0)
        problem = IsingProblem(
            generator.normal(size=n) * (generator.random() < 0.7),
            np.triu(generator.normal(size=(n, n)) * density, 1), groups=groups,
        )  # fmt: skip
        errors = _compare(problem, mixer, *generator.normal(size=(2, layers)))
        worst[mixer][0] += 1
        worst[mixer][1:] = np.maximum(worst[mixer][1:], errors).tolist()
    rows = [(mixer, int(v[0]), *v[1:]) for mixer, v in worst.items()]
    harness.table(
        "largest error over scale against default.qubit (wanted: 1e-12)",
        ("mixer", "instances", "value", "gradient", "probabilities"), rows,
    )  # fmt: skip
    return rows


def _random_groups(n: int, generator: np.random.Generator) -> list[list[int]]:
    order = generator.permutation(n).tolist()
    groups = []
    while len(order) > 1 and (not groups or generator.random() < 0.6):
        size = int(generator.integers(2, min(5, len(order)) + 1))
        groups.append([order.pop() for _ in range(size)])
    return groups


def _compare(problem: IsingProblem, mixer: str, gammas: Any, betas: Any) -> list[float]:
    import pennylane as qml
    from pennylane import numpy as pnp

    n = problem.n
    wire = [n - 1 - i for i in range(n)]
    start, generator = _start_and_mixer(problem, mixer)
    values, basis = np.linalg.eigh(generator) if generator is not None else (None, None)
    terms = [qml.Z(wire[i]) @ qml.Z(wire[j]) for i, j in problem.edges]
    cost = qml.Hamiltonian(
        [*problem.weights, *problem.h], [*terms, *(qml.Z(wire[i]) for i in range(n))]
    )

    def gates(g: Any, b: Any) -> None:
        qml.StatePrep(start, wires=range(n))
        for layer in range(len(gammas)):
            for (i, j), weight in zip(problem.edges, problem.weights, strict=True):
                qml.IsingZZ(2 * g[layer] * weight, wires=[wire[i], wire[j]])
            for i in range(n):
                qml.RZ(2 * g[layer] * problem.h[i], wires=wire[i])
                if values is None:
                    qml.RX(2 * b[layer], wires=wire[i])
            if values is not None:
                turn = pnp.exp(-1j * b[layer] * values)
                matrix = pnp.dot(basis * turn, basis.conj().T)
                qml.QubitUnitary(matrix, wires=range(n), unitary_check=False)

    device = qml.device("default.qubit", wires=n)

    @qml.qnode(device, diff_method="backprop")
    def value(g: Any, b: Any) -> Any:
        gates(g, b)
        return qml.expval(cost)

    @qml.qnode(device)
    def probabilities(g: Any, b: Any) -> Any:
        gates(g, b)
        return qml.probs(wires=range(n))

    g, b = (pnp.array(a, requires_grad=True) for a in (gammas, betas))
    simulator = QAOASimulator(problem, mixer)
    ours, by_gamma, by_beta = simulator.value_and_grad(gammas, betas)
    their_gamma, their_beta = qml.grad(value)(g, b)
    whole = np.zeros(2**n)
    bits = simulator.space.spins(np.arange(simulator.space.size)) < 0
    whole[(bits << np.arange(n)).sum(axis=1)] = simulator.probabilities(gammas, betas)
    scale = max(1.0, problem.scale)
    slope = max(np.abs(by_gamma - their_gamma).max(), np.abs(by_beta - their_beta).max())
    return [
        abs(ours - float(value(g, b))) / scale,
        # dE/dgamma is a product of two energies, hence the square.
        float(slope) / scale**2,
        float(np.abs(whole - probabilities(g, b)).max()),
    ]


def _start_and_mixer(problem: IsingProblem, mixer: str) -> tuple[Any, Any]:
    """The initial state and the mixer's Hamiltonian on all 2^n states, from Pauli matrices."""
    n = problem.n
    if mixer == "x":
        return np.full(2**n, 2 ** (-n / 2), dtype=complex), None
    z = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    feasible = np.array([problem.feasible(row) for row in z])
    start = feasible / np.sqrt(feasible.sum())
    if mixer == "grover":
        return start.astype(complex), np.outer(start, start)
    total = np.zeros((2**n, 2**n), dtype=complex)
    grouped = {i for group in problem.groups for i in group}
    for i in set(range(n)) - grouped:
        total += _on_qubits(n, {i: PAULI_X})
    for group in problem.groups:
        k = len(group)
        ring = {tuple(sorted((a, (a + 1) % k))) for a in range(k)}
        pairs = ring if mixer == "xy_ring" else {(a, c) for a in range(k) for c in range(a + 1, k)}
        for a, c in pairs:
            for pauli in (PAULI_X, PAULI_Y):
                total += _on_qubits(n, {group[a]: pauli, group[c]: pauli}) / 2
    return start.astype(complex), total


def _on_qubits(n: int, operators: dict[int, Any]) -> Any:
    result = np.eye(1)
    for qubit in reversed(range(n)):
        result = np.kron(result, operators.get(qubit, np.eye(2)))
    return result
