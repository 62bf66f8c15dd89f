"""The state-vector engine against lightning.qubit and against what memory allows.

All times are of the process, on one thread, so that a busy machine does not decide.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import harness
import numpy as np

from qcluster.quantum import IsingProblem, QAOASimulator
from qcluster.quantum.kernels import gram_matrix

BARS = {("dense", 14): 150, ("dense", 18): 150, ("dense", 20): 150, ("3-regular", 18): 30,
        ("3-regular", 20): 20}  # fmt: skip


def instance(kind: str, n: int, seed: int = 0) -> IsingProblem:
    """Sherrington-Kirkpatrick (``dense``) or MaxCut on a random 3-regular graph."""
    import networkx as nx

    generator = np.random.default_rng(seed)
    if kind == "dense":
        return IsingProblem(np.zeros(n), np.triu(generator.normal(size=(n, n)), 1) / np.sqrt(n))
    graph = nx.random_regular_graph(3, n, seed=seed)
    return IsingProblem(np.zeros(n), edges=list(graph.edges), weights=[0.5] * graph.size())


def gradient(quick: bool, _fresh: bool) -> Any:
    """p = 2 gradients, and our own gradient against our own expectation for p in 1..10."""
    rows, results = [], []
    for (kind, n), bar in BARS.items():
        if quick and (kind, n) == ("dense", 20):
            continue
        simulator = QAOASimulator(instance(kind, n))
        angles = np.random.default_rng(1).normal(size=(2, 2)) * 0.3
        theirs, difference = lightning_gradient(simulator, *angles)
        repeats = 5 if n < 20 and not quick else 3
        calls = max(1, 2 ** (20 - n))  # a single call is too short for the clock
        ours_s, theirs_s = harness.paired(
            lambda s=simulator, a=angles, k=calls: [s.value_and_grad(*a) for _ in range(k)],
            theirs,
            repeats,
            time.process_time,
        )
        ours_s /= calls
        rows.append((kind, n, ours_s * 1e3, theirs_s * 1e3, theirs_s / ours_s, bar, difference))
        results.append(dict(zip(("kind", "n", "ours_ms", "lightning_ms", "ratio", "bar",
                                 "difference"), rows[-1], strict=True)))  # fmt: skip
    harness.table(
        "gradient of p = 2, median of alternated repeats",
        ("instance", "n", "ours ms", "lightning ms", "ratio", "wanted", "max difference"), rows,
    )  # fmt: skip
    return {"gradient": results, "ratio_to_expectation": _gradient_over_expectation(quick)}


def _gradient_over_expectation(quick: bool) -> list[Any]:
    rows = []
    for n in (14, 18) if quick else (14, 18, 20):
        simulator = QAOASimulator(instance("dense", n))
        for layers in (1, 2, 5, 10) if quick else range(1, 11):
            angles = np.random.default_rng(layers).normal(size=(2, layers)) * 0.3
            value_s, gradient_s = harness.paired(
                lambda s=simulator, a=angles: s.expectation(*a),
                lambda s=simulator, a=angles: s.value_and_grad(*a),
                7,
                time.process_time,
            )
            rows.append((n, layers, value_s * 1e3, gradient_s * 1e3, gradient_s / value_s))
    harness.table(
        "gradient over expectation (wanted: at most 4.5)",
        ("n", "p", "expectation ms", "gradient ms", "ratio"), rows,
    )  # fmt: skip
    return rows


def lightning_gradient(simulator: QAOASimulator, gammas: Any, betas: Any) -> tuple[Any, float]:
    """A call that computes the same gradient with lightning.qubit's adjoint method, and the
    largest difference of the two.
    """
    import pennylane as qml
    from pennylane import numpy as pnp

    problem = simulator.problem
    cost = qml.Hamiltonian(
        problem.weights.tolist(), [qml.Z(int(i)) @ qml.Z(int(j)) for i, j in problem.edges]
    )

    @qml.qnode(qml.device("lightning.qubit", wires=problem.n), diff_method="adjoint")
    def circuit(g: Any, b: Any) -> Any:
        for i in range(problem.n):
            qml.Hadamard(i)
        for layer in range(len(gammas)):
            for (i, j), weight in zip(problem.edges, problem.weights, strict=True):
                qml.IsingZZ(2 * g[layer] * weight, wires=[int(i), int(j)])
            for i in range(problem.n):
                qml.RX(2 * b[layer], wires=i)
        return qml.expval(cost)

    slope = qml.grad(circuit)
    g, b = (pnp.array(a, requires_grad=True) for a in (gammas, betas))
    by_gamma, by_beta = slope(g, b)
    _, ours_gamma, ours_beta = simulator.value_and_grad(gammas, betas)
    difference = max(np.abs(by_gamma - ours_gamma).max(), np.abs(by_beta - ours_beta).max())
    return lambda: slope(g, b), float(difference)


def floor(_quick: bool, _fresh: bool) -> Any:
    """Expectation at n = 20 against 2p + 1/2 copies of a complex128 state."""
    rows = []
    source = np.ones(2**20, dtype=np.complex128)
    target = np.empty_like(source)
    for name, field in (("h = 0", 0.0), ("h != 0", 1.0)):
        dense = instance("dense", 20)
        simulator = QAOASimulator(
            IsingProblem(dense.h + field, edges=dense.edges, weights=dense.weights)
        )
        for layers in (1, 2, 4):
            angles = np.random.default_rng(layers).normal(size=(2, layers)) * 0.3
            value_s, copy_s = harness.paired(
                lambda s=simulator, a=angles: s.expectation(*a),
                lambda: np.copyto(target, source),
                9,
                time.process_time,
            )
            copies = (2 * layers + 0.5) * copy_s
            rows.append((name, layers, value_s * 1e3, copies * 1e3, value_s / copies))
    harness.table(
        "expectation at n = 20 against the memory floor (wanted: at most 4)",
        ("problem", "p", "ours ms", "floor ms", "ratio"), rows,
    )  # fmt: skip
    return rows


def one_hot(_quick: bool, _fresh: bool) -> Any:
    """48 qubits as 8 groups of 6 inside the feasible space."""
    generator = np.random.default_rng(0)
    groups = [[6 * g + k for k in range(6)] for g in range(8)]
    problem = IsingProblem(
        generator.normal(size=48), np.triu(generator.normal(size=(48, 48)), 1), groups=groups
    )
    rows = []
    for mixer in ("xy_complete", "xy_ring", "grover"):
        simulator = QAOASimulator(problem, mixer)
        angles = generator.normal(size=(2, 4)) * 0.1
        simulator.expectation(*angles)
        seconds = []
        for _ in range(5):
            begun = time.process_time()
            simulator.expectation(*angles)
            seconds.append((time.process_time() - begun) / 4)
        samples = simulator.sample(*angles, shots=1000, seed=0)
        infeasible = sum(not problem.feasible(z) for z in samples)
        rows.append((mixer, statistics.median(seconds) * 1e3, min(seconds) * 1e3, infeasible))
    harness.table(
        "one-hot QAOA, 8 x 6 (wanted: at most 100 ms a layer)",
        ("mixer", "median ms a layer", "best", "infeasible of 1000"), rows,
    )  # fmt: skip
    return rows


def kernel(quick: bool, _fresh: bool) -> Any:
    """Gram matrix of 1,000 points on 8 qubits."""
    points = np.random.default_rng(0).normal(size=(1000, 8))
    gram = gram_matrix(points, repeats=2)
    seconds = []
    for _ in range(5):
        begun = time.process_time()
        gram = gram_matrix(points, repeats=2)
        seconds.append(time.process_time() - begun)
    corner = 5 if quick else 20
    theirs = gram_matrix(points[:corner], repeats=2, engine="pennylane").matrix
    difference = float(np.abs(gram.matrix[:corner, :corner] - theirs).max())
    rows = [(statistics.median(seconds), difference)]
    harness.table("Gram 1,000 x 1,000, 8 qubits (wanted: 1 s)", ("s", "off PennyLane by"), rows)
    return rows
