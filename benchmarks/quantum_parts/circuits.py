"""Gradients of variational circuits against PennyLane's, and how far their three ways agree."""

from __future__ import annotations

import time
from typing import Any

import harness


def gradient(quick: bool, fresh: bool) -> Any:  # noqa: ARG001 - timings are never stored
    """One backward pass of 8 qubits, 3 strongly entangling layers, batch 32, double precision."""
    import pennylane as qml
    import torch

    from qcluster.quantum import vqc

    torch.set_num_threads(1)
    layer = vqc.StronglyEntangling(
        8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    x = torch.rand(32, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = layer.weight.detach().reshape(3, 8, 3).clone().requires_grad_()

    @qml.qnode(qml.device("default.qubit", wires=8), interface="torch", diff_method="backprop")
    def circuit(inputs: Any, w: Any) -> Any:
        qml.AngleEmbedding(inputs, wires=range(8), rotation="Y")
        qml.StronglyEntanglingLayers(w, wires=range(8))
        return [qml.expval(qml.PauliZ(q)) for q in range(8)]

    def theirs() -> Any:
        weights.grad = None
        torch.stack(circuit(x, weights)).sum().backward()
        return weights.grad.ravel()

    def ours(mode: Any) -> Any:
        layer.gradient, layer.weight.grad = mode, None
        layer(x).sum().backward()
        return layer.weight.grad

    wanted = theirs()
    rows = []
    for mode in vqc.GRADIENTS:
        apart = float((ours(mode) - wanted).abs().max())
        repeats = 3 if mode == "parameter-shift" else 9
        times = harness.paired(
            lambda m=mode: ours(m), theirs, repeats=repeats, clock=time.process_time
        )
        rows.append((mode, 1e3 * times[0], 1e3 * times[1], times[1] / times[0], apart))
    harness.table(
        "variational circuit, 8 qubits, 3 layers, batch 32: a gradient (processor time)",
        ("gradient", "ours ms", "PennyLane backprop ms", "ratio", "largest difference"),
        rows,
    )
    return rows
