"""Attention weights as matrix-product operators, with the error that truncation makes.

Row and column of the n x n weights are written in bits, bit k of both makes site k of a train of
log2 n sites (zero padded to a power of two). Sites, not tokens, count in the memory of O(sites x
4 D^2); weights with structure (local, repeated) need small bonds D, those of trained models mostly
do not, and the bound says so.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from qcluster.errors import InputError
from qcluster.q_attention.exact import safe_softmax, scores_of
from qcluster.q_attention.problem import state
from qcluster.quantum.mps import Operator, encode

__all__ = ["EncodedAttention", "MatrixProductStateSimulator"]


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedAttention:
    """Weights (..., nq, n) as one operator a head.

    ``shape`` is that of the weights. ``error_bound`` is at least the Frobenius norm of the error of
    every head, (heads,); ``bytes`` that of all cores.
    """

    operators: tuple[Operator, ...]
    shape: tuple[int, ...]

    @property
    def tensors(self) -> list[list[np.ndarray[Any, Any]]]:
        """The cores (D, 4, D') of each head."""
        return [list(operator.factors) for operator in self.operators]

    @property
    def error_bound(self) -> np.ndarray[Any, Any]:
        """Bound on the Frobenius norm of each head's error."""
        return np.array([operator.error_bound for operator in self.operators])

    @property
    def bytes(self) -> int:
        """Memory of all cores."""
        return sum(operator.bytes for operator in self.operators)

    def weights(self) -> np.ndarray[Any, Any]:
        """The weights that the cores stand for; for tests and small cases."""
        return np.stack([o.matrix() for o in self.operators]).reshape(self.shape)


class MatrixProductStateSimulator:
    """Attention through matrix-product operators.

    ``max_bond_dim`` caps every bond; ``tolerance`` is relative to each head's Frobenius norm, 0
    keeps what the cap allows. Raises InputError naming the argument.
    """

    def __init__(self, max_bond_dim: int = 32, *, tolerance: float = 0.0) -> None:
        if isinstance(max_bond_dim, bool) or max_bond_dim < 1:
            raise InputError(f"wants at least 1, got {max_bond_dim}", field="max_bond_dim")
        if not 0 <= tolerance < 1:
            raise InputError(f"wants a number in [0, 1), got {tolerance}", field="tolerance")
        self.max_bond_dim, self.tolerance = max_bond_dim, tolerance

    def encode_attention_mps(
        self,
        Q: Any,
        K: Any,
        V: Any = None,
        *,
        mask: Any = None,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> EncodedAttention:
        """The softmax weights of Q (..., nq, d) and K (..., n, d), truncated and encoded.

        ``V`` takes part in nothing but the shapes; it may be left out.
        """
        problem = state(Q, K, K if V is None else V, mask=mask, is_causal=is_causal, scale=scale)
        exact = safe_softmax(scores_of(problem.q, problem.k, problem.bias, problem.scale))
        shape = (*problem.shape[:-1], problem.n)
        heads = exact.detach().cpu().double().reshape(-1, *shape[-2:]).numpy()
        operators = tuple(
            encode(
                head,
                tolerance=max(self.tolerance, 1e-15),
                max_bond_dim=self.max_bond_dim,
                form="qtt",
            )
            for head in heads
        )
        return EncodedAttention(operators, shape)

    def mps_attention_forward(self, mps_tensors: EncodedAttention, V: Any) -> Any:
        """Weights times ``V`` (..., n, dv), of V's kind; the n x n weights are never formed."""
        torch_in = isinstance(V, torch.Tensor)
        values = V.detach().cpu().double().numpy() if torch_in else np.asarray(V, dtype=np.float64)
        *lead, nq, n = mps_tensors.shape
        if values.ndim < 2 or values.shape[-2] != n:
            raise InputError(f"wants (..., {n}, dv), got {values.shape}", field="V")
        try:
            wide = np.broadcast_to(values, (*lead, n, values.shape[-1]))
        except ValueError:
            raise InputError(f"{values.shape} is not for heads {tuple(lead)}", field="V") from None
        heads = wide.reshape(-1, n, values.shape[-1])
        out = np.stack(
            [o.apply(head) for o, head in zip(mps_tensors.operators, heads, strict=True)]
        ).reshape(*lead, nq, values.shape[-1])
        if torch_in:
            return torch.from_numpy(out).to(dtype=V.dtype, device=V.device)
        return out.astype(np.asarray(V).dtype, copy=False)
