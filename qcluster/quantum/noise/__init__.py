"""Noise on simulated qubits: channels, density matrices, trajectories, mitigation.

channels     what the four kinds of noise are, as Kraus operators
density      exact evolution of density matrices, up to about 10 qubits
trajectories random pure states whose mean is the density matrix, for more qubits
mitigation   zero-noise extrapolation and readout correction
circuits     QAOA with a channel on every qubit after every layer
"""

from __future__ import annotations

from qcluster.quantum.noise.channels import (
    CHANNELS,
    Channel,
    amplitude_damping,
    channel,
    depolarizing,
    phase_damping,
    thermal,
)
from qcluster.quantum.noise.circuits import NoisyQAOA
from qcluster.quantum.noise.density import apply_channel, apply_unitary, check_density
from qcluster.quantum.noise.mitigation import ReadoutError, extrapolate_to_zero
from qcluster.quantum.noise.trajectories import apply_jump

__all__ = [
    "CHANNELS",
    "Channel",
    "NoisyQAOA",
    "ReadoutError",
    "amplitude_damping",
    "apply_channel",
    "apply_jump",
    "apply_unitary",
    "channel",
    "check_density",
    "depolarizing",
    "extrapolate_to_zero",
    "phase_damping",
    "thermal",
]
