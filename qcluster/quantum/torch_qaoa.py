"""QAOA in torch: batches of angles and of problems at once, on whatever device torch has.

The same circuits and conventions as ``QAOASimulator`` (one angle a layer), equal to rounding in
complex128. On CPUs numba is many times as fast; this engine is for GPUs and for angles that come
out of a network. Only CPUs have been measured.

A mixer is applied to groups of axes of up to 32 levels together, as one small matrix product:
exp(-i beta B) = V exp(-i beta w) V^T for the group's real symmetric B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from qcluster.errors import InputError
from qcluster.quantum.engine.mixing import MIXERS, Mixing, leans_of, ring_adjacency
from qcluster.quantum.problem import IsingProblem
from qcluster.quantum.simulator import MAX_BYTES, count
from qcluster.quantum.space import Space

__all__ = ["TorchQAOA"]

GROUP = 32


@dataclass(frozen=True, eq=False)
class _Block:
    """Neighbouring axes of ``size`` levels together, ``inner`` their stride; B's eigenvalues
    (I, size) and vectors (I, size, size), one for each problem or one for all.
    """

    size: int
    inner: int
    values: Tensor
    vectors: Tensor

    def apply(self, psi: Tensor, factors: Tensor) -> Tensor:
        """V factors V^T psi; ``factors`` (B, size)."""
        rows = psi.reshape(len(psi), -1, self.size, self.inner)
        vectors = self.vectors.to(psi.dtype)
        matrix = (vectors * factors[:, None, :]) @ vectors.transpose(1, 2)
        if self.inner == 1:
            return (rows[..., 0] @ matrix.transpose(1, 2)).reshape(len(psi), -1)
        return (matrix[:, None] @ rows).reshape(len(psi), -1)


class TorchQAOA:
    """QAOA circuits for one problem, or for several whose feasible spaces have one shape.

    Parameters
    ----------
    problems: one, or I of them; angles are then one set for all, or one each.
    mixer, warm_start: as ``QAOASimulator``'s; with several problems warm_start is (I, n).
    device, dtype: of the states; complex128 for exact results, complex64 for half the memory.
    max_bytes: memory that one call may take.

    Raises InputError for spaces of different shape, angles of wrong shape, and too much memory
    (with the byte count).
    """

    def __init__(
        self,
        problems: IsingProblem | Sequence[IsingProblem],
        mixer: str = "x",
        *,
        warm_start: ArrayLike | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.complex128,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if mixer not in MIXERS:
            raise InputError(f"'{mixer}' is none of {', '.join(MIXERS)}", field="mixer")
        self.problems = [problems] if isinstance(problems, IsingProblem) else list(problems)
        spaces = [Space.of(problem, full=mixer == "x") for problem in self.problems]
        if len({space.shape for space in spaces}) != 1:
            raise InputError("wants problems whose spaces have one shape", field="problems")
        self.spaces, self.mixer, self.max_bytes = spaces, mixer, max_bytes
        self.size = spaces[0].size
        self._dtype, self._device = dtype, torch.device(device)
        self._real = torch.empty(0, dtype=dtype).real.dtype
        self._guard(len(self.problems))
        energies = [
            space.energies(problem.h, problem.edges, problem.weights)
            for space, problem in zip(spaces, self.problems, strict=True)
        ]
        self.diagonals = self._tensor(np.stack(energies))
        self.offsets = self._tensor(np.array([problem.offset for problem in self.problems]))
        mixings = _mixings(spaces, mixer, warm_start)
        starts = [m.start for m in mixings]
        self._start = None if starts[0] is None else self._tensor(np.stack(starts))  # type: ignore[arg-type]
        self._blocks = [] if mixer == "grover" else self._make_blocks(mixings)

    def expectation(self, gammas: Any, betas: Any) -> Tensor:
        """<E>, differentiable in the angles: () for one set (p,) on one problem, else (B,) for
        angles (B, p), or one value a problem.
        """
        g, b, single = self._angles(gammas, betas)
        values = _Expectation.apply(g, b, self)  # type: ignore[no-untyped-call]
        return values[0] if single else values  # type: ignore[no-any-return]

    def value_and_grad(self, gammas: Any, betas: Any) -> tuple[Tensor, Tensor, Tensor]:
        """<E> and its derivatives, in the shapes of the angles (of a set each, for several
        problems).
        """
        g, b, single = self._angles(gammas, betas)
        psi = self._evolve(g.detach(), b.detach())
        value = self._mean(psi)
        by_gamma, by_beta = self._pull_back(psi, g.detach(), b.detach())
        if single:
            return value[0], by_gamma[0], by_beta[0]
        return value, by_gamma, by_beta

    def state(self, gammas: Any, betas: Any) -> Tensor:
        """Amplitudes (size,) or (B, size), in ``spaces[0]``'s order."""
        g, b, single = self._angles(gammas, betas)
        psi = self._evolve(g.detach(), b.detach())
        return psi[0] if single else psi

    def _evolve(self, gammas: Tensor, betas: Tensor) -> Tensor:
        psi = torch.full(
            (len(gammas), self.size), self.size**-0.5, dtype=self._dtype, device=self._device
        )
        if self._start is not None:
            psi = self._start.to(self._dtype).expand(len(gammas), -1)
        for layer in range(gammas.shape[1]):
            psi = psi * torch.exp(-1j * (gammas[:, layer, None] * self.diagonals))
            psi = self._mix(psi, betas[:, layer])
        return psi

    def _mix(self, psi: Tensor, betas: Tensor) -> Tensor:
        for block in self._blocks:
            psi = block.apply(psi, torch.exp(-1j * (betas[:, None] * block.values)))
        if self.mixer == "grover":
            psi = psi + (torch.exp(-1j * betas) - 1)[:, None] * self._projected(psi)
        return psi

    def _projected(self, psi: Tensor) -> Tensor:
        """|F><F|psi> with F the state that the circuit starts from."""
        if self._start is None:
            return psi.mean(dim=1, keepdim=True).expand_as(psi)
        start = self._start.to(psi.dtype)
        return start * (start * psi).sum(dim=1, keepdim=True)

    def _image(self, psi: Tensor) -> Tensor:
        """B psi."""
        if self.mixer == "grover":
            return self._projected(psi)
        total = torch.zeros_like(psi)
        for block in self._blocks:
            total = total + block.apply(psi, block.values.to(psi.dtype).expand(len(psi), -1))
        return total

    def _mean(self, psi: Tensor) -> Tensor:
        weight = psi.real.square() + psi.imag.square()
        return (weight * self.diagonals).sum(dim=1) + self.offsets

    def _pull_back(self, psi: Tensor, gammas: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Adjoint derivatives, each (B, p), from the final states."""
        back = self.diagonals * psi
        by_gamma, by_beta = torch.empty_like(gammas), torch.empty_like(betas)
        for layer in reversed(range(gammas.shape[1])):
            by_beta[:, layer] = 2 * (back.conj() * self._image(psi)).sum(dim=1).imag
            psi, back = self._mix(psi, -betas[:, layer]), self._mix(back, -betas[:, layer])
            by_gamma[:, layer] = 2 * (back.conj() * psi * self.diagonals).sum(dim=1).imag
            turn = torch.exp(1j * (gammas[:, layer, None] * self.diagonals))
            psi, back = psi * turn, back * turn
        return by_gamma, by_beta

    def _angles(self, gammas: Any, betas: Any) -> tuple[Tensor, Tensor, bool]:
        g, b = (torch.as_tensor(a, dtype=self._real, device=self._device) for a in (gammas, betas))
        several = len(self.problems)
        if g.ndim not in (1, 2) or g.shape != b.shape:
            shapes = f"{tuple(g.shape)} and {tuple(b.shape)}"
            raise InputError(f"wants (p,) or (B, p) twice, got {shapes}", field="gammas")
        if not (torch.isfinite(g).all() and torch.isfinite(b).all()):
            raise InputError("holds an angle that is not finite", field="gammas")
        if g.ndim == 1:
            g, b = g.expand(several, -1), b.expand(several, -1)
            single = several == 1
        elif several not in (1, len(g)):
            raise InputError(f"{len(g)} sets of angles for {several} problems", field="gammas")
        else:
            single = False
        self._guard(len(g))
        return g, b, single

    def _guard(self, states: int) -> None:
        width = torch.empty(0, dtype=self._dtype).element_size()
        # Diagonal, psi, lambda, and what a product of each needs.
        needed = self.size * (states * 5 * width + len(self.problems) * width // 2)
        if needed > self.max_bytes:
            raise InputError(
                f"{states} states of {count(self.size)} amplitudes need {count(needed)} bytes, "
                f"at most {self.max_bytes} are allowed",
                field="problems",
            )

    def _make_blocks(self, mixings: Sequence[Mixing]) -> list[_Block]:
        shape = mixings[0].space.shape
        blocks: list[_Block] = []
        first = 0
        while first < len(shape):
            last = first + 1
            while last < len(shape) and math.prod(shape[first : last + 1]) <= GROUP:
                last += 1
            pairs = [_spectrum(m, range(first, last)) for m in mixings]
            if mixings[0].leans is None:
                pairs = pairs[:1]
            values, vectors = (self._tensor(np.stack(a)) for a in zip(*pairs, strict=True))
            size = math.prod(shape[first:last])
            if size > 1:
                blocks.append(_Block(size, math.prod(shape[:first]), values, vectors))
            first = last
        return blocks

    def _tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(array, dtype=self._real, device=self._device)


class _Expectation(torch.autograd.Function):
    """<E> with the adjoint method as its derivative."""

    @staticmethod
    def forward(ctx: Any, gammas: Tensor, betas: Tensor, simulator: TorchQAOA) -> Tensor:
        psi = simulator._evolve(gammas, betas)  # noqa: SLF001
        ctx.simulator = simulator
        ctx.save_for_backward(gammas, betas, psi)
        return simulator._mean(psi)  # noqa: SLF001

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        gammas, betas, psi = ctx.saved_tensors
        by_gamma, by_beta = ctx.simulator._pull_back(psi, gammas, betas)  # noqa: SLF001
        return outputs[0][:, None] * by_gamma, outputs[0][:, None] * by_beta, None


def _mixings(spaces: Sequence[Space], mixer: str, warm_start: ArrayLike | None) -> list[Mixing]:
    if warm_start is None:
        return [Mixing(space, mixer) for space in spaces]
    if mixer == "xy_ring":
        raise InputError("a ring has no mixer that leaves it alone", field="warm_start")
    warm = np.atleast_2d(np.asarray(warm_start, dtype=np.float64))
    wanted = (len(spaces), spaces[0].n)
    if warm.shape != wanted or not (np.abs(warm) <= 1).all():
        raise InputError(f"wants {wanted} numbers in [-1, 1]", field="warm_start")
    return [
        Mixing(space, mixer, leans_of(space, spins))
        for space, spins in zip(spaces, warm, strict=True)
    ]


def _spectrum(mixing: Mixing, axes: range) -> tuple[Any, Any]:
    """Eigenvalues and vectors of the terms on ``axes`` together; axis ``axes[0]`` is fastest."""
    values, vectors = np.zeros(1), np.ones((1, 1))
    for number in axes:
        k = mixing.space.shape[number]
        lean = np.full(k, k**-0.5) if mixing.leans is None else mixing.leans[number]
        term = k * np.outer(lean, lean) - np.eye(k)
        if mixing.mixer == "xy_ring":
            term = ring_adjacency(k)
        own_values, own_vectors = np.linalg.eigh(term)
        values = np.add.outer(own_values, values).ravel()
        vectors = np.kron(own_vectors, vectors)
    return values, vectors
