"""Attention rows as circuits for a quantum backend, with the built-in simulator as the way back.

Every row becomes a circuit that prepares sum_j sqrt(p_j) |j> and measures it. The softmax has been
computed on the host to know p: this samples attention on a device, it does not speed it up.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from qcluster.deadline import Deadline
from qcluster.errors import InputError
from qcluster.quantum.backends import Circuit, Gateway, GatewayResult, LazyBackend

__all__ = ["measured_rows", "state_preparation"]

Gate = tuple[str, tuple[int, ...], float]

MAX_ROWS, MAX_KEYS = 1024, 256
"""Circuits of a forward, keys of a circuit: beyond this no device answers in a useful time."""


def state_preparation(probabilities: ArrayLike) -> Circuit:
    """A circuit whose measurement gives index j with ``probabilities``[j], (n,) of sum 1.

    Multiplexed RY rotations from the most significant qubit down, each a Gray-code sequence of RY
    and CNOT (Moettonen et al., 2004): 2^m - 1 rotations for m = log2 n qubits. Raises InputError
    for what is no distribution.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 1 or not len(p) or not np.isfinite(p).all() or (p < 0).any() or p.sum() <= 0:
        raise InputError(f"wants a distribution (n,), got {p!r}", field="probabilities")
    qubits = max(1, (len(p) - 1).bit_length())
    level = np.zeros(2**qubits)
    level[: len(p)] = p / p.sum()
    gates: list[Gate] = []
    for target in range(qubits - 1, -1, -1):
        controls = list(range(qubits - 1, target, -1))
        mass = level.reshape(2 ** len(controls), 2, -1).sum(-1)
        angles = 2 * np.arctan2(np.sqrt(mass[:, 1]), np.sqrt(mass[:, 0]))
        gates += _multiplexed(angles, controls, target)
    return Circuit(qubits, tuple(gates))


def _multiplexed(angles: NDArray[np.float64], controls: list[int], target: int) -> list[Gate]:
    """RY(angles[c]) on ``target`` where the controls, most significant first, read c."""
    if not controls:
        return [("ry", (target,), float(angles[0]))]
    count = len(angles)
    index = np.arange(count)
    gray = index ^ (index >> 1)
    parity = np.bitwise_count(index[:, None] & gray[None, :]) & 1
    turned = (1 - 2.0 * parity).T @ angles / count
    gates: list[Gate] = []
    for step in range(count):
        gates.append(("ry", (target,), float(turned[step])))
        # Between neighbouring Gray codes one bit changes: that control flips the target.
        flip = int(gray[step] ^ gray[(step + 1) % count])
        gates.append(("cx", (controls[len(controls) - flip.bit_length()], target), 0.0))
    return gates


@functools.lru_cache(maxsize=8)
def _gateway(backends: tuple[str, ...]) -> Gateway:
    return Gateway([LazyBackend(name) for name in backends])


def measured_rows(
    weights: torch.Tensor,
    shots: int,
    *,
    backends: Sequence[str] = (),
    seed: int = 0,
    deadline_s: float = 5.0,
) -> tuple[torch.Tensor, GatewayResult]:
    """Frequencies in place of ``weights`` (..., n), measured at the first backend that can.

    Backward goes through the weights with the counts fixed. Raises InputError for more rows or keys
    than a device takes, DeadlineExceeded when even the built-in simulator ran out of time.
    """
    n = weights.shape[-1]
    flat = weights.detach().double().cpu().reshape(-1, n).numpy()
    alive = np.flatnonzero(flat.sum(-1) > 0)
    if n > MAX_KEYS or len(alive) > MAX_ROWS:
        raise InputError(
            f"{len(alive)} rows of {n} keys, a quantum backend takes at most {MAX_ROWS} of "
            f"{MAX_KEYS}",
            field="backend",
        )
    circuits = [state_preparation(flat[row]) for row in alive]
    result = _gateway(tuple(backends)).run(
        circuits,
        shots=shots,
        seeds=[seed * MAX_ROWS + int(row) for row in alive],
        deadline=Deadline.after(deadline_s),
    )
    seen = np.zeros_like(flat)
    for row, counts in zip(alive, result.counts, strict=True):
        # Noise of a device may give indices that stand for no key; they count for nothing.
        for index, count in counts.items():
            if index < n:
                seen[row, index] = count
    seen /= np.maximum(seen.sum(-1, keepdims=True), 1)
    ratio = np.divide(seen, flat, out=np.zeros_like(flat), where=flat > 0)
    fixed = torch.from_numpy(ratio).reshape(weights.shape).to(weights)
    return weights * fixed, result
