"""Attention read from a noisy quantum state: row i is sum_j sqrt(p_ij) |j>, p = softmax of scores.

A channel acts once on the state, then it is measured in the computational basis, and the counts
are the weights. Only populations reach the output, so the simulation keeps populations alone;
tests hold it against density matrices.

depolarizing       on the whole row: p -> (1 - level) p + level / n
amplitude_damping  on every qubit: mass moves to indices with fewer ones, key 0 in the end
phase_damping      on every qubit: changes nothing that is measured here, and that is the truth
thermal            on every qubit: relaxation with level = 1 - exp(-t / T1), T2 = T1, towards the
                   excited population of a temperature
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from qcluster.errors import InputError
from qcluster.q_attention.exact import safe_softmax, scores_of
from qcluster.q_attention.problem import state
from qcluster.quantum.noise import CHANNELS, Channel, channel, thermal

__all__ = ["QuantumAttentionSimulator", "measure", "noisy_weights", "richardson"]

SCALES = (1.0, 2.0, 3.0)
"""Multiples of the noise level that are extrapolated to zero."""


class QuantumAttentionSimulator:
    """Simulated quantum attention.

    Parameters
    ----------
    noise_model: depolarizing, amplitude_damping, phase_damping or thermal.
    error_mitigation: measure at one, two and three times the level and extrapolate to none
        (Richardson; Temme, Bravyi and Gambetta, 2017): less bias, more variance, and weights that
        need not be positive.
    temperature: of thermal noise's bath, in kelvin; ``frequency_hz`` of its qubits.

    ``warnings`` says after a call what was asked for and did nothing. Raises InputError naming the
    argument.
    """

    def __init__(
        self,
        noise_model: str = "depolarizing",
        *,
        error_mitigation: bool = False,
        temperature: float = 0.0,
        frequency_hz: float = 5e9,
    ) -> None:
        if noise_model not in CHANNELS:
            known = ", ".join(sorted(CHANNELS))
            raise InputError(f"'{noise_model}' is none of {known}", field="noise_model")
        if not (math.isfinite(temperature) and temperature >= 0):
            raise InputError(f"wants kelvin of at least 0, got {temperature}", field="temperature")
        self.noise_model, self.error_mitigation = noise_model, error_mitigation
        self.temperature, self.frequency_hz = float(temperature), float(frequency_hz)
        self.warnings: tuple[str, ...] = ()

    def simulate_attention(
        self,
        Q: Any,
        K: Any,
        V: Any,
        num_samples: int | None = 32,
        noise_level: float = 0.0,
        *,
        mask: Any = None,
        is_causal: bool = False,
        scale: float | None = None,
        generator: torch.Generator | int | None = None,
    ) -> tuple[Any, Any]:
        """Output (..., nq, dv) and weights (..., nq, n), of the inputs' kind.

        ``num_samples`` measurements a row; None is infinitely many. ``noise_level`` in [0, 1]. The
        other arguments are those of ``qcluster.q_attention.attention``.
        """
        if num_samples is not None and (isinstance(num_samples, bool) or num_samples < 1):
            raise InputError(f"wants at least 1, got {num_samples}", field="num_samples")
        problem = state(Q, K, V, mask=mask, is_causal=is_causal, scale=scale)
        if not isinstance(generator, torch.Generator):
            generator = torch.Generator(device=problem.q.device).manual_seed(generator or 0)
        exact = safe_softmax(scores_of(problem.q, problem.k, problem.bias, problem.scale))
        self.warnings = ()
        weights = self.weigh(exact, noise_level, num_samples, generator)
        shape = (*problem.shape[:-1], problem.n)
        shown = weights.reshape(shape).to(problem.dtype)
        out = problem.give(weights @ problem.v)
        return out, shown.detach().cpu().numpy() if problem.numpy else shown

    def weigh(
        self,
        exact: torch.Tensor,
        noise_level: float,
        num_samples: int | None,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Measured weights for exact ones (..., n); a draw is a constant of the gradient."""
        if not 0 <= noise_level <= 1:
            raise InputError(f"wants a number in [0, 1], got {noise_level}", field="noise_level")
        mitigate = self.error_mitigation
        if mitigate and (noise_level == 0 or self.noise_model == "phase_damping"):
            self.warnings = ("error_mitigation does nothing: no noise reaches what is measured",)
            mitigate = False
        if mitigate and noise_level * SCALES[-1] > 1:
            self.warnings = (f"error_mitigation needs a level of at most {1 / SCALES[-1]:.3g}",)
            mitigate = False
        scales = SCALES if mitigate else (1.0,)
        found = torch.zeros_like(exact)
        for factor, coefficient in zip(scales, richardson(scales), strict=True):
            noisy = self.populations(exact, noise_level * factor)
            if num_samples is not None:
                noisy = measure(noisy, num_samples, generator)
            found = found + coefficient * noisy
        return found

    def populations(self, exact: torch.Tensor, noise_level: float) -> torch.Tensor:
        """Populations (..., n) after the channel, from those before; rows of zeros stay zeros."""
        if self.noise_model == "depolarizing":
            return noisy_weights(exact, None, noise_level)
        if self.noise_model == "thermal" and self.temperature > 0:
            time = -math.log1p(-noise_level) if noise_level < 1 else 800.0
            one = thermal(
                time, t1_s=1.0, t2_s=1.0,
                temperature_k=self.temperature, frequency_hz=self.frequency_hz,
            )  # fmt: skip
            return noisy_weights(exact, one, noise_level)
        return noisy_weights(exact, channel(self.noise_model, noise_level), noise_level)


def richardson(scales: tuple[float, ...]) -> list[float]:
    """Coefficients with which results at ``scales`` add up to the polynomial's value at zero."""
    powers = np.vander(np.array(scales), len(scales), increasing=True).T
    first = np.eye(len(scales))[0]
    return [float(c) for c in np.linalg.solve(powers, first)]


def noisy_weights(exact: torch.Tensor, one: Channel | None, level: float) -> torch.Tensor:
    """Populations after ``one`` on every qubit, renormalised over keys that there are; or, without
    a channel, after depolarizing the whole row at ``level``.

    Keys of zero weight that a mask forbids cannot be told from others, and get noise as well.
    """
    n = exact.shape[-1]
    alive = exact.sum(-1, keepdim=True) > 0
    if one is None:
        mixed = (1 - level) * exact + level / n
        return torch.where(alive, mixed, 0.0)
    moves = torch.as_tensor((np.abs(one.kraus) ** 2).sum(0), dtype=exact.dtype, device=exact.device)
    qubits = max(1, (n - 1).bit_length())
    padded = torch.nn.functional.pad(exact, (0, 2**qubits - n))
    for qubit in range(qubits):
        split = padded.reshape(*exact.shape[:-1], -1, 2, 2**qubit)
        padded = torch.einsum("ij,...jk->...ik", moves, split).reshape(padded.shape)
    kept = padded[..., :n]
    total = kept.sum(-1, keepdim=True)
    return torch.where(total > 0, kept / total.clamp(min=1e-300), 0.0)


def measure(populations: torch.Tensor, shots: int, generator: torch.Generator) -> torch.Tensor:
    """Relative frequencies of ``shots`` measurements of each row (..., n).

    Backward goes through the populations with the counts fixed.
    """
    with torch.no_grad():
        flat = populations.detach().double().reshape(-1, populations.shape[-1])
        alive = flat.sum(-1) > 0
        safe = torch.where(alive[:, None], flat, 1.0)
        drawn = torch.multinomial(safe, shots, replacement=True, generator=generator)
        counts = torch.zeros_like(flat).scatter_add(1, drawn, torch.ones_like(drawn).double())
        multipliers = torch.where(alive[:, None], counts / shots / safe.clamp(min=1e-300), 0.0)
        multipliers = multipliers * safe.sum(-1, keepdim=True)
        fixed = multipliers.reshape(populations.shape).to(populations.dtype)
    return populations * fixed
