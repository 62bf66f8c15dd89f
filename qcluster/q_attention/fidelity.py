"""Kernel attention: weights from fidelities of angle-encoded queries and keys.

A query's d <= 8 numbers turn d qubits by RX; |<phi(q)|phi(k)>|^2 = prod_c cos^2((q_c - k_c) / 2),
which is what the circuit gives and what is computed here. For small angles it is the Gaussian
kernel exp(-|q - k|^2 / 4), its classical twin, which needs no qubits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qcluster.errors import InputError

if TYPE_CHECKING:
    import torch

    from qcluster.q_attention.problem import AttentionProblem

__all__ = ["MAX_QUBITS", "circuit_fidelities", "fidelities", "kernel_attention", "rbf"]

MAX_QUBITS = 8


def fidelities(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(groups, rows, n) in [0, 1] for angles q (groups, rows, c) and k (groups, n, c)."""
    _few(q.shape[-1])
    found = q.new_ones(q.shape[0], q.shape[1], k.shape[1])
    for c in range(q.shape[-1]):
        found = found * ((q[..., c, None] - k[:, None, :, c]) / 2).cos().square()
    return found


def circuit_fidelities(q: Any, k: Any) -> Any:
    """The same from simulated circuits: q (rows, c), k (n, c) to (rows, n)."""
    from qcluster.quantum.kernels import gram_matrix

    _few(q.shape[-1])
    return gram_matrix(q, k, feature_map="angle").matrix


def rbf(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The Gaussian twin, (groups, rows, n)."""
    import torch

    return (-torch.cdist(q, k).square() / 4).exp()


def kernel_attention(
    problem: AttentionProblem, *, qubits: int = MAX_QUBITS, twin: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (groups, rows, dv) and weights (groups, rows, n), which sum to one.

    Queries and keys are centred on the keys' mean, turned to the keys' ``qubits`` main axes, and
    scaled so that the keys' deviation is half a turn's quarter: beyond a turn angles repeat. A bias
    of -inf forbids, others multiply by their exponential. ``twin`` takes the Gaussian kernel.
    """
    import math

    import torch

    _few(qubits)
    k = problem.k.detach()
    mean = k.mean(1, keepdim=True)
    count = min(qubits, int(k.shape[-1]))
    axes = torch.linalg.svd(k - mean, full_matrices=True).Vh[:, :count].transpose(1, 2)
    turned = (problem.k - mean) @ axes
    size = turned.detach().square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-30)
    angle = math.pi / 4 / size
    asks = (problem.q - mean) @ axes * angle
    found = (rbf if twin else fidelities)(asks, turned * angle)
    if problem.bias is not None:
        found = found * problem.bias.exp()
    weights = found / found.sum(-1, keepdim=True).clamp(min=1e-30)
    return weights @ problem.v, weights


def _few(qubits: int) -> None:
    if isinstance(qubits, bool) or not 1 <= qubits <= MAX_QUBITS:
        raise InputError(f"wants 1 to {MAX_QUBITS}, got {qubits}", field="qubits")
