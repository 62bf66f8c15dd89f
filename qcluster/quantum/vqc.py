"""Variational circuits as torch modules, on the batched simulator of ``qcluster.quantum.circuits``.

    from qcluster.quantum import vqc
    layer = vqc.StronglyEntangling(qubits=8, layers=3)     # (B, 8) angles -> (B, 8) values <Z_q>
    model = torch.nn.Sequential(torch.nn.Linear(20, 8), layer, torch.nn.Linear(8, 1))

Gradients (``gradient=``): ``adjoint`` (default: three simulations, memory of three states),
``backprop`` (plain autograd through every gate; also second derivatives, and gradients of ``start``
amplitudes), ``parameter-shift`` (two simulations a rotation, as on a device). All agree to
rounding. Runs where its tensors are; only CPUs have been measured. float32 weights make complex64
states.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from qcluster.errors import InputError
from qcluster.quantum.circuit_steps import pull_back
from qcluster.quantum.circuits import (
    ParametrisedCircuit,
    angle_encoding,
    data_reuploading,
    reuploading_angles,
    strongly_entangling,
    z_diagonals,
)

__all__ = ["GRADIENTS", "VQC", "DataReuploading", "StronglyEntangling", "expectations", "states"]

GRADIENTS = ("adjoint", "backprop", "parameter-shift")
Gradient = Literal["adjoint", "backprop", "parameter-shift"]


def states(circuit: ParametrisedCircuit, angles: Tensor, start: Tensor | None = None) -> Tensor:
    """Amplitudes (B, 2^qubits) for ``angles`` (B, slots), differentiable by autograd; ``start``
    (B, 2^qubits) complex in place of |0...0>.

    Raises InputError for angles of wrong shape.
    """
    if angles.ndim != 2 or angles.shape[1] != circuit.slots:
        raise InputError(
            f"wants shape (B, {circuit.slots}), got {tuple(angles.shape)}", field="angles"
        )
    cos, sin = torch.cos(angles / 2), torch.sin(angles / 2)
    psi = _start(circuit, angles) if start is None else start
    for step in circuit.steps:
        psi = step.apply(psi, cos, sin, torch)
    return psi


def expectations(
    circuit: ParametrisedCircuit,
    angles: Tensor,
    observables: Tensor,
    *,
    gradient: Gradient = "adjoint",
    start: Tensor | None = None,
) -> Tensor:
    """<O_k> (B, K) of the diagonals ``observables`` (K, 2^qubits), with the gradient asked for.

    ``start`` receives gradients under ``backprop`` alone.
    """
    if gradient == "backprop":
        return _born(states(circuit, angles, start)) @ observables.T
    if gradient == "adjoint":
        return _Adjoint.apply(angles, circuit, observables, start)  # type: ignore[no-untyped-call,no-any-return]
    if gradient == "parameter-shift":
        return _Shift.apply(angles, circuit, observables, start)  # type: ignore[no-untyped-call,no-any-return]
    raise InputError(f"'{gradient}' is none of {', '.join(GRADIENTS)}", field="gradient")


class _Layer(nn.Module):
    """What all layers share: a circuit, what is measured, and how gradients are made."""

    def __init__(
        self,
        circuit: ParametrisedCircuit,
        shape: tuple[int, ...],
        *,
        observables: ArrayLike | None = None,
        gradient: Gradient = "adjoint",
        spread: float = math.pi,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if gradient not in GRADIENTS:
            raise InputError(f"'{gradient}' is none of {', '.join(GRADIENTS)}", field="gradient")
        self.circuit, self.gradient = circuit, gradient
        weight = (2 * torch.rand(shape, generator=generator, dtype=dtype) - 1) * spread
        self.weight = nn.Parameter(weight)
        self.observables: Tensor
        self.register_buffer("observables", _table(circuit, observables, weight.dtype))

    def _measure(self, angles: Tensor) -> Tensor:
        return expectations(self.circuit, angles, self.observables, gradient=self.gradient)


class VQC(_Layer):
    """Any circuit as a layer: its first ``inputs`` slots are the layer's input (B, inputs), the
    others its parameter ``weight``. Output (B, K): <O_k>, by default <Z> of every qubit.

    Keywords
    --------
    observables: diagonals (K, 2^qubits), see ``circuits.z_diagonals``.
    gradient: one of ``GRADIENTS``.
    spread: weights start uniformly in [-spread, spread], drawn from ``generator``.
    dtype: of the weights, and so of the states.

    Raises InputError for more inputs than slots or an unknown gradient.
    """

    def __init__(self, circuit: ParametrisedCircuit, inputs: int, **options: Any) -> None:
        if not 0 <= inputs <= circuit.slots:
            raise InputError(f"wants 0 to {circuit.slots}, got {inputs}", field="inputs")
        super().__init__(circuit, (circuit.slots - inputs,), **options)
        self.inputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) angles to (B, K) expectation values."""
        _check_inputs(x, self.inputs)
        weight = self.weight.expand(len(x), -1)
        return self._measure(torch.cat([x.to(self.weight.dtype), weight], dim=1))


class StronglyEntangling(VQC):
    """Angle encoding of ``qubits`` inputs, then strongly entangling layers (Schuld et al., 2020)
    with ``weight`` (layers * qubits * 3,). Keywords as ``VQC``'s.
    """

    def __init__(
        self, qubits: int, layers: int, *, axis: Literal["x", "y", "z"] = "y", **options: Any
    ) -> None:
        circuit = angle_encoding(qubits, axis).then(strongly_entangling(qubits, layers))
        super().__init__(circuit, qubits, **options)


class DataReuploading(_Layer):
    """Features encoded anew before each entangling layer, each time with trained scales
    (Perez-Salinas et al., 2020): qubit q of layer l turns by scale[l, q] * x[q mod features].

    Input (B, features), output (B, K). ``scale`` (layers, qubits) starts at 1, ``weight`` (layers,
    qubits, 3) as ``VQC``'s; keywords as there.
    """

    def __init__(
        self,
        qubits: int,
        layers: int,
        features: int,
        *,
        axis: Literal["x", "y", "z"] = "y",
        **options: Any,
    ) -> None:
        if not 1 <= features <= qubits:
            raise InputError(f"wants 1 to {qubits}, one a qubit, got {features}", field="features")
        super().__init__(data_reuploading(qubits, layers, axis), (layers, qubits, 3), **options)
        self.features = features
        self.scale = nn.Parameter(torch.ones(layers, qubits, dtype=self.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(B, features) to (B, K) expectation values."""
        _check_inputs(x, self.features)
        return self._measure(
            reuploading_angles(x.to(self.weight.dtype), self.scale, self.weight, stack=torch.cat)
        )


class _Adjoint(torch.autograd.Function):
    """<O_k> whose derivative is the adjoint method's."""

    @staticmethod
    def forward(
        ctx: Any, angles: Tensor, circuit: ParametrisedCircuit, observables: Tensor,
        start: Tensor | None,
    ) -> Tensor:  # fmt: skip
        first = _start(circuit, angles) if start is None else start
        cos, sin, psi, module = _arrays(torch.cos(angles / 2), torch.sin(angles / 2), first)
        for step in circuit.steps:
            psi = step.apply(psi, cos, sin, module)
        behind = torch.as_tensor(psi)
        ctx.circuit = circuit
        ctx.save_for_backward(angles, observables, behind)
        return _born(behind) @ observables.T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        angles, observables, behind = ctx.saved_tensors
        cos, sin, psi, module = _arrays(torch.cos(angles / 2), torch.sin(angles / 2), behind)
        back = _arrays(behind * (outputs[0] @ observables))[0]
        slopes = pull_back(ctx.circuit.steps, psi, [back], cos, sin, module)[0]
        return torch.as_tensor(slopes), None, None, None


class _Shift(torch.autograd.Function):
    """<O_k> whose derivative is parameter-shift's, one rotation at a time."""

    @staticmethod
    def forward(
        ctx: Any, angles: Tensor, circuit: ParametrisedCircuit, observables: Tensor,
        start: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.circuit, ctx.start = circuit, start
        ctx.save_for_backward(angles, observables)
        return _born(states(circuit, angles, start)) @ observables.T

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        angles, observables = ctx.saved_tensors
        circuit = ctx.circuit.spread()
        slots = [slot for _, _, slot in ctx.circuit.rotations]
        wide, weights = angles[:, slots], outputs[0] @ observables
        slopes = torch.zeros_like(angles)
        for column, slot in enumerate(slots):
            step = torch.zeros(len(slots), dtype=wide.dtype, device=wide.device)
            step[column] = math.pi / 2
            plus = _born(states(circuit, wide + step, ctx.start))
            minus = _born(states(circuit, wide - step, ctx.start))
            slopes[:, slot] += ((plus - minus) * weights).sum(1) / 2
        return slopes, None, None, None


def _arrays(*tensors: Tensor) -> tuple[Any, ...]:
    """On a CPU NumPy's views of the tensors, whose small operations cost less than half of torch's;
    elsewhere the tensors; and the module that they belong to.
    """
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return *(tensor.detach().numpy() for tensor in tensors), np
    return *(tensor.detach() for tensor in tensors), torch


def _born(psi: Tensor) -> Tensor:
    return psi.real.square() + psi.imag.square()


def _start(circuit: ParametrisedCircuit, angles: Tensor) -> Tensor:
    psi = torch.zeros(
        (len(angles), 2**circuit.qubits), dtype=(1j * angles[:0]).dtype, device=angles.device
    )
    psi[:, 0] = 1.0
    return psi


def _table(
    circuit: ParametrisedCircuit, observables: ArrayLike | None, dtype: torch.dtype
) -> Tensor:
    if observables is None:
        observables = z_diagonals(circuit.qubits, [(q,) for q in range(circuit.qubits)])
    table = np.atleast_2d(np.asarray(observables, dtype=np.float64))
    if table.ndim != 2 or table.shape[1] != 2**circuit.qubits:
        raise InputError(
            f"wants diagonals (K, {2**circuit.qubits}), got {table.shape}", field="observables"
        )
    return torch.as_tensor(table, dtype=dtype)


def _check_inputs(x: Tensor, features: int) -> None:
    if x.ndim != 2 or x.shape[1] != features:
        raise InputError(f"wants shape (B, {features}), got {tuple(x.shape)}", field="x")
